"""Destinations: writable memory that a backend fills, whatever library owns it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from initium.dtypes import DType, lookup

__all__ = ["Destination", "allocate", "destination_of", "is_array"]


@dataclass(frozen=True, eq=False)
class Destination:
    """Memory for one array.

    Attributes
    ----------
    address
        Of the first element.
    shape, byte_steps
        Extents, and bytes per step along each axis (any sign).
    dtype
        What the memory holds.
    device
        ``"cpu"``, or a device that a backend knows.
    owner
        The array itself, kept alive as long as the destination.
    """

    address: int
    shape: tuple[int, ...]
    byte_steps: tuple[int, ...]
    dtype: DType
    device: str
    owner: Any

    @property
    def span(self) -> tuple[int, int]:
        """First address and the address behind the last byte that the array can touch."""
        low, high = _reach(self.shape, self.byte_steps)
        return self.address + low, self.address + high + self.dtype.itemsize

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal for two destinations exactly if they are the same elements in the same order."""
        return (self.address, self.shape, self.byte_steps, self.dtype.name, self.device)


def is_array(value: Any) -> bool:
    """Tell whether `value` is an array that can be filled in place, rather than a description of one."""
    return isinstance(value, np.ndarray) or hasattr(value, "data_ptr")


def destination_of(array: Any, argument: str = "out") -> Destination:
    """Return the destination behind a NumPy array or a torch tensor in CPU memory.

    Parameters
    ----------
    array
        A writable array of one of initium's dtypes, of any strides, whose elements do not overlap.
    argument
        How errors call it.

    Raises
    ------
    TypeError
        If it is no array.
    ValueError
        If its dtype is not supported, it cannot be written, or its elements share memory.
    """
    if isinstance(array, np.ndarray):
        destination = _of_numpy(array, argument)
    elif hasattr(array, "data_ptr"):
        destination = _of_torch(array, argument)
    else:
        raise TypeError(f"{argument} is a {type(array).__name__}; expected a NumPy array or a torch tensor")
    if _overlaps_itself(destination.shape, destination.byte_steps, destination.dtype.itemsize):
        raise ValueError(
            f"{argument} of shape {destination.shape} and strides {destination.byte_steps} has elements that "
            "share memory; expected one place per element"
        )
    return destination


def _of_numpy(array: np.ndarray[Any, Any], argument: str) -> Destination:
    if not array.flags.writeable:
        raise ValueError(f"{argument} is read-only; expected a writable array")
    dtype = _dtype_of(array.dtype, argument)
    return Destination(array.ctypes.data, array.shape, array.strides, dtype, "cpu", array)


def _of_torch(tensor: Any, argument: str) -> Destination:
    if tensor.device.type != "cpu":
        raise ValueError(f"{argument} is on device {tensor.device}; expected a tensor in CPU memory")
    dtype = _dtype_of(tensor.dtype, argument)
    steps = tuple(s * dtype.itemsize for s in tensor.stride())
    return Destination(tensor.data_ptr(), tuple(tensor.shape), steps, dtype, "cpu", tensor)


def _dtype_of(dtype: Any, argument: str) -> DType:
    try:
        return lookup(dtype)
    except ValueError as error:
        raise ValueError(f"{argument}: {error}") from None


@lru_cache(maxsize=4096)
def _overlaps_itself(shape: tuple[int, ...], byte_steps: tuple[int, ...], itemsize: int) -> bool:
    """Tell whether axes interleave; each axis, from the smallest step up, must clear all before it."""
    if 0 in shape:
        return False
    clear = itemsize
    for step, n in sorted((abs(step), n) for n, step in zip(shape, byte_steps, strict=True) if n > 1):
        if step < clear:
            return True
        clear += step * (n - 1)
    return False


@lru_cache(maxsize=4096)
def _reach(shape: tuple[int, ...], byte_steps: tuple[int, ...]) -> tuple[int, int]:
    """Return the lowest and the highest byte offset of an element's first byte."""
    reach = [(n - 1) * step for n, step in zip(shape, byte_steps, strict=True)]
    return sum(r for r in reach if r < 0), sum(r for r in reach if r > 0)


def allocate(shape: Sequence[int], dtype: DType) -> Any:
    """Return uninitialised NumPy memory; its pages are first touched by the threads that fill it."""
    return np.empty(tuple(shape), dtype.numpy)
