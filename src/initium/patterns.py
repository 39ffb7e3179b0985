"""Patterns: fills whose values depend on their place, made by NumPy a few million at a time.

Any fill that is neither elementwise nor orthogonal derives from `PatternFill` and states one method, `array`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initium.boxes import Box, whole
from initium.destinations import Destination
from initium.dtypes import DTYPES, DType
from initium.fills import Encoding, Fill, WordsFill
from initium.kernels import constants
from initium.windows import Window

__all__ = ["LINES", "PATTERN", "Draw", "PatternFill", "PatternJob", "by_blocks", "write_pattern"]

#: The kind that a pattern's encoding names; no kernel draws it.
PATTERN = "pattern"
# Values that `array` is asked for at a time.
_VALUES = 1 << 22
#: Lines that are looked at together at most, where each takes a look at all of its values.
LINES = 1 << 16


@dataclass(frozen=True)
class Draw:
    """Values of independent fills under one tensor's name, for patterns that are made of some.

    Attributes
    ----------
    stream, seed
        Of the tensor.
    sample
        ``sample(stream, fill, box, dtype, seed)`` returns an array on the CPU.
    """

    stream: int
    seed: int
    # Whoever draws, the values are the same: what is remembered for one is right for the other.
    sample: Callable[[int, Fill, Box, DType, int], NDArray[Any]] = field(compare=False)

    def __call__(
        self, fill: Fill, shape: tuple[int, ...], index: tuple[range, ...], dtype: DType
    ) -> NDArray[Any]:
        """Return the values of `fill` on a global shape at ``np.ix_(*index)``, all ranges not empty."""
        strides = whole(shape).steps
        start = sum(along.start * stride for along, stride in zip(index, strides, strict=True))
        steps = tuple(along.step * stride for along, stride in zip(index, strides, strict=True))
        return self.sample(self.stream, fill, Box(tuple(map(len, index)), start, steps), dtype, self.seed)

    def words(
        self, shape: tuple[int, ...], index: tuple[range, ...], first_block: int = 0
    ) -> NDArray[np.uint32]:
        """Return one word for each element."""
        return self(WordsFill(first_block), shape, index, DTYPES["float32"]).view(np.uint32)


def by_blocks(lines: range, block: int, of_block: Callable[[int], NDArray[Any]]) -> NDArray[Any]:
    """Return a value for each line; ``of_block(first)`` gives those of `block` lines from `first` on."""
    wanted = np.array(lines)
    numbers, where = np.unique(wanted // block, return_inverse=True)
    found = [of_block(int(number) * block) for number in numbers]
    starts = np.cumsum([0, *(len(values) for values in found)])
    values: NDArray[Any] = np.concatenate(found)[starts[where] + wanted % block]
    return values


class PatternFill:
    """A fill that writes an array for each part of its shape.

    Attributes
    ----------
    shape
        The global shape.
    mean, std
        Over all values of the tensor.
    """

    shape: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Mean of all values."""
        raise NotImplementedError

    @property
    def std(self) -> float:
        """Standard deviation of all values."""
        raise NotImplementedError

    @property
    def reach(self) -> float:
        """Largest magnitude of a value, which the dtype must hold."""
        raise NotImplementedError

    def array(self, index: tuple[range, ...], dtype: DType, draw: Draw) -> NDArray[Any]:
        """Return the values at ``np.ix_(*index)``, in any real dtype that rounds to `dtype` once.

        They may depend on `index`, `dtype` and on what `draw` gives alone, so that slices equal the whole.
        """
        raise NotImplementedError

    def encode(self, dtype: DType) -> Encoding:
        """Return an encoding that says no more than the kind; raise `ValueError` if values overflow."""
        check_reach(self, self.reach, dtype)
        return Encoding(PATTERN, 0, ())


def check_reach(fill: object, reach: float, dtype: DType) -> None:
    """Raise `ValueError` if magnitudes up to `reach` do not fit the dtype."""
    if reach > dtype.max:
        raise ValueError(f"{fill} overflows dtype {dtype}; expected values of at most {dtype.max:.6g}")


@dataclass(frozen=True, eq=False)
class PatternJob:
    """A window of one tensor that takes a pattern."""

    stream: int
    fill: PatternFill
    window: Window

    @property
    def units(self) -> int:
        """Units of work, as progress counts them."""
        return -(-math.prod(self.window.destination.shape) // constants.TILE)


def write_pattern(job: PatternJob, draw: Draw, write: Callable[[NDArray[Any], Destination], None]) -> None:
    """Make the values of a job piece by piece; `write` puts an array into memory of its shape."""
    for window in _pieces(job.window):
        target = window.destination
        write(job.fill.array(window.index, target.dtype, draw), target)


def _pieces(window: Window) -> Iterator[Window]:
    shape = window.destination.shape
    size = math.prod(shape)
    axis = next((a for a, n in enumerate(shape) if n > 1), None)
    if size <= _VALUES or axis is None:
        yield window
        return
    step = max(1, _VALUES * shape[axis] // size)
    for first in range(0, shape[axis], step):
        yield from _pieces(window.part(axis, slice(first, min(first + step, shape[axis]))))
