"""The destination dtypes: their names, widths and largest values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np

__all__ = ["DTYPES", "DType", "lookup", "stored"]


@dataclass(frozen=True)
class DType:
    """One destination dtype.

    Attributes
    ----------
    name
        The name in initium, NumPy, ml_dtypes and torch.
    numpy
        The NumPy dtype (from ml_dtypes where NumPy has none).
    word_bits
        Random bits per value: 64 for float64, 0 for dtypes that are only stored, 32 for all others.
    max
        Largest finite value.
    safetensors
        The name in a safetensors header.
    code
        A small integer that identifies the dtype in lookup keys.
    """

    name: str
    numpy: np.dtype[Any]
    word_bits: int
    max: float
    safetensors: str
    code: int

    @property
    def itemsize(self) -> int:
        """Bytes per value."""
        return self.numpy.itemsize

    def __str__(self) -> str:
        return self.name

    def round_to_nearest(self, value: float) -> float:
        """Return the value of this dtype nearest to `value`, ties to even; infinity beyond the range.

        As in the kernels, the value is first rounded to float32, except for float64.
        """
        with np.errstate(over="ignore"):
            source = np.float64(value) if self.word_bits == 64 else np.float32(value)
            if abs(float(source)) > self.max:
                # float8_e4m3fn has no infinity; `at_most` handles values that round down to `max`.
                return math.copysign(math.inf, value)
            return float(np.asarray(source).astype(self.numpy))

    def at_least(self, value: float | Fraction) -> float:
        """Return the smallest value of this dtype that is >= `value` (infinity if there is none)."""
        rounded = self.round_to_nearest(_to_float(value))
        return rounded if rounded >= value else self.above(rounded)

    def at_most(self, value: float | Fraction) -> float:
        """Return the largest value of this dtype that is <= `value` (minus infinity if there is none)."""
        return -self.at_least(-value)

    def above(self, value: float) -> float:
        """Return the smallest value of this dtype that is > `value`, which must be a value of this dtype."""
        if value == -math.inf:
            return -self.max
        if value >= self.max:
            return math.inf
        here, top = (np.asarray(v).astype(self.numpy) for v in (value, self.max))
        return float(np.nextafter(here, top))

    def below(self, value: float | Fraction) -> float:
        """Return the largest value of this dtype that is < `value`."""
        highest = self.at_most(value)
        return highest if highest < value else -self.above(-highest)


def _to_float(value: float | Fraction) -> float:
    """Return the nearest float; infinity if a fraction is too large."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _max(scalar: Any) -> float:
    finfo: Any = ml_dtypes.finfo
    return float(finfo(scalar).max)


def _table() -> dict[str, DType]:
    rows = (
        ("float32", np.float32, 32, "F32"),
        ("float64", np.float64, 64, "F64"),
        ("bfloat16", ml_dtypes.bfloat16, 32, "BF16"),
        ("float16", np.float16, 32, "F16"),
        ("float8_e4m3fn", ml_dtypes.float8_e4m3fn, 32, "F8_E4M3"),
        ("float8_e5m2", ml_dtypes.float8_e5m2, 32, "F8_E5M2"),
    )
    return {
        name: DType(name, np.dtype(scalar), bits, _max(scalar), code, index)
        for index, (name, scalar, bits, code) in enumerate(rows)
    }


def _stored_table() -> dict[str, DType]:
    names = ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8")
    made = {"bool": DType("bool", np.dtype(np.bool_), 0, 1.0, "BOOL", -1)}
    for name in names:
        code = ("U" if name[0] == "u" else "I") + name.partition("int")[2]
        made[name] = DType(name, np.dtype(name), 0, float(np.iinfo(name).max), code, -1)
    return made


#: The dtypes that initium draws.
DTYPES: Mapping[str, DType] = MappingProxyType(_table())
#: Integers and booleans: initium does not draw them, but a file can hold those that a model's code sets.
_STORED: Mapping[str, DType] = MappingProxyType(_stored_table())
_BY_NUMPY = {dtype.numpy: dtype for dtype in DTYPES.values()}
_PLAIN = re.compile(r"[<>=|]?\w+")
_BY_SAFETENSORS = {dtype.safetensors: dtype for dtype in DTYPES.values()}


def lookup(dtype: Any) -> DType:
    """Return the `DType` that `dtype` names.

    Parameters
    ----------
    dtype
        A `DType`, a name (``"bfloat16"``), a NumPy or ml_dtypes dtype or scalar type, a torch dtype
        (``torch.bfloat16``) or a safetensors name (``"BF16"``).

    Raises
    ------
    ValueError
        If it is not a dtype that initium writes.
    """
    if isinstance(dtype, DType):
        return dtype
    try:
        return _lookup(dtype)
    except TypeError:  # an unhashable object is not a dtype
        raise _unknown(dtype) from None


@lru_cache(maxsize=256)
def _lookup(dtype: Any) -> DType:
    name = str(dtype).removeprefix("torch.")
    if name in DTYPES:
        return DTYPES[name]
    if name in _BY_SAFETENSORS:
        return _BY_SAFETENSORS[name]
    # NumPy parses other texts as Python, as it does "(2,)f4".
    if dtype is None or (isinstance(dtype, str) and not _PLAIN.fullmatch(dtype)):
        raise _unknown(dtype)
    try:
        return _BY_NUMPY[np.dtype(dtype)]
    except (TypeError, ValueError, KeyError):
        raise _unknown(dtype) from None


def _unknown(dtype: Any) -> ValueError:
    return ValueError(
        f"dtype={dtype!r} is not a dtype that initium writes; expected one of {', '.join(DTYPES)}"
    )


def stored(dtype: Any) -> DType:
    """Return the `DType` that `dtype` names, also of integers and booleans, which initium never draws.

    Raises
    ------
    ValueError
        If no file of initium holds this dtype.
    """
    name = str(dtype).removeprefix("torch.")
    return _STORED[name] if name in _STORED else lookup(dtype)
