"""The job table: kinds of fill, outputs, the row of a job, and the indices of its parameters.

All backends read the same table; a CUDA struct has the same layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

# --- kinds of fill ------------------------------------------------------------------------------------------

#: The words of the stream.
WORDS: Final = "words"
#: The same bit pattern for every value.
CONSTANT: Final = "constant"
#: Uniform on an interval.
UNIFORM: Final = "uniform"
#: Normal, without bounds or with symmetric bounds.
NORMAL: Final = "normal"
#: Normal with symmetric bounds of at most CENTRAL_SIGMAS.
CENTRAL_NORMAL: Final = "central_normal"
#: Normal between any two bounds, in float64 arithmetic; also every normal distribution in float64.
BOUNDED_NORMAL: Final = "bounded_normal"
KINDS: Final = (WORDS, CONSTANT, UNIFORM, NORMAL, CENTRAL_NORMAL, BOUNDED_NORMAL)
CENTRAL_SIGMAS: Final = 2.0

# --- outputs: the type of the values that a kernel writes ---------------------------------------------------

#: Bytes of one value, by dtype; words and constants are bits of a width.
REALS: Final[Mapping[str, int]] = MappingProxyType(
    {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}
)
BITS: Final[Mapping[str, int]] = MappingProxyType({"bits8": 1, "bits16": 2, "bits32": 4, "bits64": 8})
#: Bytes of one value of every output.
OUTPUTS: Final[Mapping[str, int]] = MappingProxyType({**REALS, **BITS})
#: Kinds that write bits, for any dtype.
KINDS_OF_BITS: Final = (WORDS, CONSTANT)
_BITS_OF_SIZE = {size: name for name, size in BITS.items()}


def output_of(kind: str, dtype: str, itemsize: int) -> str:
    """Return the output of a kind for memory of a dtype: the dtype, or bits of this width."""
    return _BITS_OF_SIZE[itemsize] if kind in KINDS_OF_BITS else dtype


# --- the row of a job ---------------------------------------------------------------------------------------

#: Axes of a job's box after merging; a box with more axes becomes several rows.
JOB_AXES: Final = 4
JOB_PARAMETERS: Final = 16
#: Elements of a tile: the unit of work that a CPU thread claims. CUDA kernels have their own tiles.
TILE: Final = 1 << 15

JOB: Final = np.dtype(
    [
        ("address", "<u8"),  # destination of the box's first element
        ("stream", "<u8"),  # upper two words of the counter
        ("start", "<u8"),  # global index of the box's first element
        ("integer", "<u8"),  # bounded_normal: last positive word; constant: bit pattern; words: first block
        ("count", "<i8"),  # elements of the box
        ("tile", "<i8"),  # number of this job's first tile in the whole table
        ("extent", "<i8", (JOB_AXES,)),  # box, innermost axis last
        ("index_step", "<i8", (JOB_AXES,)),  # global indices per step along the axis
        ("byte_step", "<i8", (JOB_AXES,)),  # destination bytes per step along the axis
        ("parameters", "<f8", (JOB_PARAMETERS,)),  # by kind, at the indices below
    ]
)

# --- indices of a job's parameters --------------------------------------------------------------------------

# All kinds except words and constant: value = fma(raw, SCALE, OFFSET), then clamped to [LOW, HIGH]. For
# uniform, normal and central_normal in float32 there is no clamp: SCALE and OFFSET keep the values inside.
SCALE: Final = 0
OFFSET: Final = 1
LOW: Final = 2
HIGH: Final = 3

# normal, central_normal: x from the signed word w, h from the distance t between w and the end of its side.
X_STEP: Final = 4  # x = fma(w, X_STEP, X_START)
X_START: Final = 5
H_STEP: Final = 6  # h = fma(t, H_STEP, H_START)
H_START: Final = 7

# bounded_normal: the same for the words of each side, first positive, then negative. h = ratio * H_REFERENCE,
# so that far tails keep their precision.
POSITIVE: Final = 4
NEGATIVE: Final = 10
END: Final = 16
SIDE_X_STEP: Final = 0  # x = fma(m, X_STEP, X_START)
SIDE_X_START: Final = 1
SIDE_RATIO_STEP: Final = 2  # ratio = fma(t, RATIO_STEP, RATIO_START)
SIDE_RATIO_START: Final = 3
SIDE_H_REFERENCE: Final = 4  # h = ratio * H_REFERENCE
SIDE_W_REFERENCE: Final = 5  # -log(2 h) = W_REFERENCE - log(ratio)
