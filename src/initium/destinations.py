"""Destinations: writable memory that a backend fills, whatever library owns it."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from initium.dtypes import DType, lookup

__all__ = [
    "Destination",
    "allocate",
    "check_layout",
    "destination_of",
    "host_view",
    "is_array",
    "joined",
    "mark_as_written",
    "torch_destination",
    "write_host",
]

# What DLPack calls NVIDIA's memory: plain and managed.
_DLPACK_CUDA = (2, 13)


class Destination(NamedTuple):
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
    try:
        return isinstance(value, np.ndarray) or hasattr(value, "data_ptr") or _is_on_gpu(value)
    except ValueError:
        return True  # `destination_of` says what is wrong with it


def destination_of(array: Any, argument: str = "out") -> Destination:
    """Return the destination behind a NumPy array, a torch tensor or an array in the memory of a GPU.

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
        If its dtype is not supported, it cannot be written, its elements share memory, or a GPU cannot
        reach them.
    """
    try:
        if isinstance(array, np.ndarray):
            return _of_numpy(array)
        if hasattr(array, "data_ptr") and array.device.type != "cuda":
            return _of_torch(array)
        if hasattr(array, "data_ptr") or _is_on_gpu(array):
            from initium import cuda

            return cuda.destination_of(array)
    except ValueError as error:
        raise ValueError(f"{argument}: {error}") from None
    raise TypeError(f"{argument} is a {type(array).__name__}; expected an array of NumPy, torch, CuPy or JAX")


def _is_on_gpu(value: Any) -> bool:
    """Tell whether `value` is an array in the memory of an NVIDIA GPU, by what its class offers.

    Raises
    ------
    ValueError
        If it cannot tell: JAX's arrays that were deleted, or lie on several devices.
    """
    if hasattr(type(value), "__dlpack_device__"):
        try:
            return bool(value.__dlpack_device__()[0] in _DLPACK_CUDA)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"the {type(value).__name__} does not tell where it is: {error}") from error
    return hasattr(type(value), "__cuda_array_interface__")


def _of_numpy(array: np.ndarray[Any, Any]) -> Destination:
    if not array.flags.writeable:
        raise ValueError("the array is read-only; expected a writable one")
    shape, steps = array.shape, array.strides
    return Destination(array.ctypes.data, shape, steps, check_layout(array.dtype, shape, steps), "cpu", array)


def _of_torch(tensor: Any) -> Destination:
    if tensor.device.type != "cpu":
        raise ValueError(f"the tensor is on device {tensor.device}; expected one on the CPU or an NVIDIA GPU")
    return torch_destination(tensor, "cpu")


def torch_destination(tensor: Any, device: str) -> Destination:
    """Return the destination behind a torch tensor on a device that is known to be `device`.

    Raises
    ------
    ValueError
        If its values are not where its strides say, as they are: a sparse layout, a view that negates or
        conjugates, a wrapper without memory of its own (DTensor, FakeTensor), or a storage that was freed.
    """
    if str(tensor.layout) != "torch.strided":
        raise ValueError(f"the tensor's layout is {tensor.layout}; expected torch.strided")
    if tensor.is_neg() or tensor.is_conj():
        raise ValueError(
            "the tensor is a view that negates or conjugates; expected one that holds its values"
        )
    size = tensor.element_size()
    shape, steps = tuple(tensor.shape), tuple(step * size for step in tensor.stride())
    dtype = check_layout(tensor.dtype, shape, steps)
    wraps = hasattr(tensor, "fake_mode") or hasattr(tensor, "to_local")
    if not wraps and 0 not in shape:
        held = tensor.untyped_storage().nbytes() - tensor.storage_offset() * size
        if _reach(shape, steps)[1] + size > held:
            raise ValueError(f"the tensor's storage has been freed or cut to {held} bytes")
    address = 0 if wraps else tensor.data_ptr()
    if wraps or (address == 0 and 0 not in shape):
        raise ValueError(
            f"the {type(tensor).__name__} has no memory of its own; expected a plain tensor "
            "(of a DTensor give to_local(), with box= for its part)"
        )
    return Destination(address, shape, steps, dtype, device, tensor)


@lru_cache(maxsize=4096)
def check_layout(dtype: Any, shape: tuple[int, ...], byte_steps: tuple[int, ...]) -> DType:
    """Return initium's dtype; raise if there is none, or if the layout has elements that share memory."""
    known = lookup(dtype)
    if _overlaps_itself(shape, byte_steps, known.itemsize):
        raise ValueError(
            f"elements share memory in an array of shape {shape} and strides {byte_steps} in bytes; "
            "expected one place per element"
        )
    return known


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


def host_view(destination: Destination) -> np.ndarray[Any, Any]:
    """Return the memory of a destination on the CPU, which has elements, as a NumPy array."""
    low, end = destination.span
    memory: Any = (ctypes.c_char * (end - low)).from_address(low)
    offset = destination.address - low
    return np.ndarray(destination.shape, destination.dtype.numpy, memory, offset, destination.byte_steps)


def write_host(array: np.ndarray[Any, Any], destination: Destination) -> None:
    """Round an array into memory of the CPU of the same shape."""
    host_view(destination)[...] = array


def mark_as_written(destinations: Iterable[Destination]) -> None:
    """Move the version counters of torch tensors on, as torch's own in-place operations do.

    Autograd relies on them to notice that a tensor which it has saved is no longer the same.
    """
    owners = (destination.owner for destination in destinations)
    tensors = [owner for owner in owners if hasattr(owner, "data_ptr")]
    counted = [tensor for tensor in tensors if not tensor.is_inference()]  # the others have no counter
    if counted:
        import torch

        for tensor in counted:
            torch.autograd.graph.increment_version(tensor)


def joined(destination: Destination, *cuts: int) -> Destination | None:
    """Return a destination of fewer axes over the same memory, or None if strides do not allow it.

    Axes up to the first of `cuts`, from there to the second, ..., and from the last on become one each.
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
def _reach(shape: tuple[int, ...], byte_steps: tuple[int, ...]) -> tuple[int, int]:
    """Return the lowest and the highest byte offset of an element's first byte."""
    reach = [(n - 1) * step for n, step in zip(shape, byte_steps, strict=True)]
    return sum(r for r in reach if r < 0), sum(r for r in reach if r > 0)


def allocate(specs: Sequence[tuple[tuple[int, ...], DType]], device: str = "cpu") -> list[Any]:
    """Return uninitialised arrays of the given shapes and dtypes, all of them or none.

    In memory of the CPU they are NumPy's; their pages are first touched by the threads that fill them. In
    that of a GPU they are CuPy's.

    Raises
    ------
    MemoryError
        If they do not fit.
    """
    if device != "cpu":
        from initium import cuda

        return cuda.allocate(specs, device)
    try:
        return [np.empty(shape, dtype.numpy) for shape, dtype in specs]
    except (MemoryError, ValueError) as error:  # NumPy's ValueError: more bytes than there are addresses
        nbytes = sum(math.prod(shape) * dtype.itemsize for shape, dtype in specs)
        raise MemoryError(f"{len(specs)} arrays of {nbytes:,} bytes do not fit in memory: {error}") from error
