"""The CUDA source of all kernels as one text: constants generated from Python, then the files in order."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from initium.kernels import coefficients, stream
from initium.kernels import table as T

__all__ = [
    "ENTRIES",
    "FILES",
    "GROUPS",
    "ITEM_BYTES",
    "ROUND",
    "ROUNDED",
    "THREADS",
    "entry",
    "itemsize",
    "join",
    "number_tiles",
    "options",
    "prelude",
    "round_keys",
    "source",
]

FILES: Final = (
    "device.cuh",
    "philox.cuh",
    "uniform.cuh",
    "quantile.cuh",
    "normal.cuh",
    "convert.cuh",
    "fill.cuh",
    "fill.cu",
)
_OPTIONS: Final = ("-std=c++17", "-fmad=false")
#: In addition to the kinds, there are kernels that round float32 values that were computed before.
ROUND: Final = "round"
ROUNDED: Final = ("bfloat16", "float16", "float8_e4m3fn", "float8_e5m2")
#: Threads per group. A group is a CUDA block; the word block is used for Philox blocks only.
THREADS: Final = 256
#: Groups that are resident on a multiprocessor, by kind: the largest number that needs no register spills.
GROUPS: Final = {
    T.WORDS: 4,
    T.CONSTANT: 4,
    T.UNIFORM: 4,
    T.NORMAL: 3,
    T.CENTRAL_NORMAL: 4,
    T.BOUNDED_NORMAL: 2,
    ROUND: 4,
}

#: Bytes that one thread draws and stores at a time.
ITEM_BYTES: Final = 16

_BITS, _REAL = tuple(T.BITS), tuple(T.REALS)
_SINGLE = tuple(output for output in _REAL if output != "float64")
_OUTPUTS = {
    T.WORDS: ("bits32",),
    T.CONSTANT: _BITS,
    T.UNIFORM: _REAL,
    T.NORMAL: _SINGLE,
    T.CENTRAL_NORMAL: _SINGLE,
    T.BOUNDED_NORMAL: _REAL,
}
#: All pairs (kind, output) with a kernel.
ENTRIES: Final = tuple((kind, output) for kind in T.KINDS for output in _OUTPUTS[kind])

_WORDS = ("<u4", (stream.PHILOX_ROUNDS,))
_ROUND_KEYS = np.dtype([("low", *_WORDS), ("high", *_WORDS)])
_C_TYPES = {
    "u1": "unsigned char",
    "u2": "unsigned short",
    "u4": "unsigned int",
    "u8": "unsigned long long",
    "i8": "long long",
}


def _literal(value: float, real: str) -> str:
    return f"{value.hex()}{'f' if real == 'float' else ''}"


def _constant(name: str, value: Any) -> str:
    if isinstance(value, int):
        return f"#define {name} {value}{'u' if value > 0x7FFFFFFF else ''}"
    real = "float" if "32" in name else "double"
    if isinstance(value, float):
        return f"static constexpr {real} {name} = {_literal(value, real)};"
    numbers = ", ".join(_literal(v, real) for v in value)
    return f"static __device__ constexpr {real} {name}[] = {{{numbers}}};"


def _job() -> str:
    names = {"<u8": "uint64", "<i8": "int64", "<f8": "double"}
    lines, fields = [], T.JOB.fields
    assert fields is not None
    for name, (dtype, *_) in fields.items():
        length = f"[{dtype.shape[0]}]" if dtype.shape else ""
        lines.append(f"  {names[dtype.base.str]} {name}{length};")
    checks = [f"static_assert(sizeof(Job) == {T.JOB.itemsize});"]
    return "\n".join(("struct Job {", *lines, "};", *checks))


def _is_number(value: Any) -> bool:
    """Return whether a constant is a number, or a tuple of numbers."""
    parts = value if isinstance(value, tuple) else (value,)
    return all(isinstance(part, (int, float)) for part in parts)


@cache
def prelude() -> str:
    """Return the constants of `initium.kernels`, and the struct `Job`, as CUDA C++."""
    types = [f"typedef {_C_TYPES[code]} {'u' * (code[0] == 'u')}int{8 * int(code[1:])};" for code in _C_TYPES]
    wanted = [
        (name, value)
        for module in (stream, T, coefficients)
        for name, value in vars(module).items()
        if name.isupper() and _is_number(value) and name != "TILE"
    ]
    wanted += [("THREADS", THREADS), *((f"GROUPS_{kind}", groups) for kind, groups in GROUPS.items())]
    return "\n".join((*types, *(_constant(name, value) for name, value in wanted), _job(), ""))


@cache
def source() -> str:
    """Return the whole source."""
    folder = files("initium.kernels.cuda")
    parts = {"prelude": prelude(), **{name: (folder / name).read_text("utf-8") for name in FILES}}
    return join(parts)


def join(parts: Mapping[str, str]) -> str:
    """Join texts such that compiler messages give the name and line number of each text."""
    return "".join(f'#line 1 "{name}"\n{text}' for name, text in parts.items())


def entry(kind: str, output: str) -> str:
    """Return the name of the kernel for a kind and an output."""
    return f"fill_{kind}_{output}"


def itemsize(output: str) -> int:
    """Return the bytes of one value of an output."""
    return T.OUTPUTS[output]


def options(kind: str, output: str) -> tuple[str, ...]:
    """Return the options of NVRTC that compile this kernel only.

    CuPy appends ``-ftz=true``, which has no effect on the operations of the source.
    """
    point = f"ROUND({output})" if kind == ROUND else f"ENTRY({kind},{output})"
    return (*_OPTIONS, f"-DENTRY_POINT={point}")


def round_keys(seed: int) -> NDArray[np.void]:
    """Return the Philox keys of all rounds as one struct `RoundKeys`, which CuPy passes by value."""
    rounds = np.arange(stream.PHILOX_ROUNDS, dtype=np.uint64)
    low = np.uint64(seed & 0xFFFFFFFF) + rounds * np.uint64(stream.PHILOX_W0)
    high = np.uint64(seed >> 32) + rounds * np.uint64(stream.PHILOX_W1)
    return np.concatenate([low, high]).astype(np.uint32).view(_ROUND_KEYS)


def number_tiles(rows: NDArray[np.void], output: str) -> tuple[NDArray[np.void], int]:
    """Return a job table with the tiles of the GPU, and their number.

    Parameters
    ----------
    rows
        Rows of `T.JOB`, with one kind and output.
    output
        The output of the rows.

    Returns
    -------
    (ndarray of T.JOB, int)
        The rows, with ``tile`` in units of `THREADS` items of `ITEM_BYTES` bytes.
    """
    values = ITEM_BYTES // itemsize(output)
    table = rows.copy()
    extent, steps = table["extent"], table["index_step"][:, :-1]
    alike = (np.bitwise_or.reduce(steps, axis=1) % values) == 0
    phase = np.where(alike, (table["start"] % np.uint64(values)).astype(np.int64), values - 1)
    row_items = (phase + extent[:, -1] + values - 1) // values
    tiles = -(-(np.prod(extent[:, :-1], axis=1) * row_items) // THREADS)
    table["tile"] = np.cumsum(tiles) - tiles
    return table, int(tiles.sum())
