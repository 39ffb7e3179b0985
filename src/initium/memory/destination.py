"""Destinations: the writable memory that a backend fills, independent of the library that owns it."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from initium.dtypes import DType, lookup

__all__ = ["Destination", "check_layout", "host_view", "joined", "packed_steps", "reach", "write_host"]


# Largest number of elements whose addresses are compared.
_MOST_PLACES = 1 << 22


class Destination(NamedTuple):
    """Memory of one array.

    Attributes
    ----------
    address
        Address of the first element.
    shape, byte_steps
        Extents, and bytes per step along each axis (any sign).
    dtype
        The dtype of the elements.
    device
        ``"cpu"``, or a device that a backend knows.
    owner
        The array itself, which the destination keeps alive.
    """

    address: int
    shape: tuple[int, ...]
    byte_steps: tuple[int, ...]
    dtype: DType
    device: str
    owner: Any

    @property
    def span(self) -> tuple[int, int]:
        """Address range of the array: the first byte, and the byte after the last one."""
        low, high = reach(self.shape, self.byte_steps)
        return self.address + low, self.address + high + self.dtype.itemsize

    @property
    def identity(self) -> tuple[Any, ...]:
        """A key that is equal for two destinations if and only if they have the same elements in order."""
        return (self.address, self.shape, self.byte_steps, self.dtype.name, self.device)


@lru_cache(maxsize=4096)
def check_layout(dtype: Any, shape: tuple[int, ...], byte_steps: tuple[int, ...]) -> DType:
    """Return initium's dtype; raise if there is none, or if elements share memory."""
    known = lookup(dtype)
    if _overlaps_itself(shape, byte_steps, known.itemsize):
        raise ValueError(
            f"elements share memory in an array of shape {shape} and strides {byte_steps} in bytes; "
            "expected one address per element"
        )
    return known


def _overlaps_itself(shape: tuple[int, ...], byte_steps: tuple[int, ...], itemsize: int) -> bool:
    """Return whether elements share memory; they do not if each step covers all axes of smaller steps."""
    if 0 in shape:
        return False
    clear = itemsize
    for step, n in sorted((abs(step), n) for n, step in zip(shape, byte_steps, strict=True) if n > 1):
        if step < clear:
            return _places_overlap(shape, byte_steps, itemsize)
        clear += step * (n - 1)
    return False


def _places_overlap(shape: tuple[int, ...], byte_steps: tuple[int, ...], itemsize: int) -> bool:
    """Return whether elements share memory, by comparing all addresses; large arrays count as overlapping."""
    if math.prod(shape) > _MOST_PLACES:
        return True
    places = np.zeros(1, np.int64)
    for n, step in zip(shape, byte_steps, strict=True):
        places = (places[:, None] + np.arange(n) * step).ravel()
    places.sort()
    return bool((np.diff(places) < itemsize).any())


def host_view(destination: Destination) -> np.ndarray[Any, Any]:
    """Return the memory of a destination on the CPU as a NumPy array; it must have elements."""
    low, end = destination.span
    memory: Any = (ctypes.c_char * (end - low)).from_address(low)
    offset = destination.address - low
    return np.ndarray(destination.shape, destination.dtype.numpy, memory, offset, destination.byte_steps)


def write_host(array: np.ndarray[Any, Any], destination: Destination) -> None:
    """Write an array, rounded to the dtype, to CPU memory of the same shape."""
    host_view(destination)[...] = array


def joined(destination: Destination, *cuts: int) -> Destination | None:
    """Return a destination with fewer axes over the same memory, or None if the strides do not allow it.

    `cuts` divides the axes into groups of consecutive axes; each group becomes one axis.
    """
    shape, steps = [], []
    for first, stop in zip((0, *cuts), (*cuts, len(destination.shape)), strict=True):
        extent, step = 1, destination.dtype.itemsize
        axes = zip(destination.shape[first:stop], destination.byte_steps[first:stop], strict=True)
        for n, along in reversed([axis for axis in axes if axis[0] != 1]):
            if extent > 1 and along != extent * step:
                return None
            extent, step = extent * n, step if extent > 1 else along
        shape.append(extent)
        steps.append(step)
    return destination._replace(shape=tuple(shape), byte_steps=tuple(steps))


@lru_cache(maxsize=4096)
def reach(shape: tuple[int, ...], byte_steps: tuple[int, ...]) -> tuple[int, int]:
    """Return the lowest and the highest byte offset of an element's first byte."""
    reach = [(n - 1) * step for n, step in zip(shape, byte_steps, strict=True)]
    return sum(r for r in reach if r < 0), sum(r for r in reach if r > 0)


def packed_steps(shape: Sequence[int], unit: int = 1) -> tuple[int, ...]:
    """Return the row-major strides of a shape, for elements of size `unit`."""
    steps, step = [], unit
    for n in reversed(shape):
        steps.append(step)
        step *= n
    return tuple(reversed(steps))
