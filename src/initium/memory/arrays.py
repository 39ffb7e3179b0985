"""The front door to memory: arrays of any library that can be filled in place, and new ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from initium.dtypes import DType
from initium.memory import cuda, torch
from initium.memory.destination import Destination, check_layout

__all__ = ["allocate", "destination_of", "is_array"]

# What DLPack calls NVIDIA's memory: plain and managed.
_DLPACK_CUDA = (2, 13)


def is_array(value: Any) -> bool:
    """Tell whether `value` is an array that can be filled in place, rather than a description of one."""
    try:
        return isinstance(value, np.ndarray) or torch.is_tensor(value) or _is_on_gpu(value)
    except ValueError:
        return True  # `destination_of` says what is wrong with it


def destination_of(array: Any, argument: str = "out", key: str | None = None) -> Destination:
    """Return the destination behind a NumPy array, a torch tensor or an array in the memory of a GPU.

    Parameters
    ----------
    array
        A writable array of one of initium's dtypes, of any strides, whose elements do not overlap.
    argument, key
        What errors call it: the argument, or an entry of the argument.

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
        if torch.is_tensor(array) and array.device.type != "cuda":
            return _of_torch(array)
        if torch.is_tensor(array) or _is_on_gpu(array):
            return cuda.destination_of(array)
    except ValueError as error:
        raise ValueError(f"{_called(argument, key)}: {error}") from None
    called, kind = _called(argument, key), type(array).__name__
    raise TypeError(f"{called} is a {kind}; expected an array of NumPy, torch, CuPy or JAX")


def _called(argument: str, key: str | None) -> str:
    return argument if key is None else f"{argument}[{key!r}]"


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
    return torch.destination_of(tensor, "cpu")


def allocate(specs: Sequence[tuple[tuple[int, ...], DType]], device: str = "cpu") -> list[Destination]:
    """Return memory for new arrays of the given shapes and dtypes, all of them or none; not initialised.

    On the CPU their owners are NumPy arrays, whose pages are first touched by the threads that fill them. On
    a GPU they are CuPy's.

    Raises
    ------
    MemoryError
        If they do not fit.
    """
    if device != "cpu":
        return cuda.allocate(specs, device)
    try:
        arrays = [np.empty(shape, dtype.numpy) for shape, dtype in specs]
    except (MemoryError, ValueError) as error:  # NumPy's ValueError: more bytes than there are addresses
        nbytes = sum(math.prod(shape) * dtype.itemsize for shape, dtype in specs)
        raise MemoryError(f"{len(specs)} arrays of {nbytes:,} bytes do not fit in memory: {error}") from error
    return [
        Destination(array.ctypes.data, array.shape, array.strides, dtype, "cpu", array)
        for array, (_, dtype) in zip(arrays, specs, strict=True)
    ]
