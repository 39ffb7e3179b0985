"""Destinations of existing arrays of any library, and of new arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from initium.dtypes import DType
from initium.memory import cuda, torch
from initium.memory.destination import Destination, check_layout

__all__ = ["allocate", "destination_of", "is_array"]

# DLPack's device types for NVIDIA GPUs: plain and managed memory.
_DLPACK_CUDA = (2, 13)


def is_array(value: Any) -> bool:
    """Return whether `value` is an array to fill in place, not the description of an array."""
    try:
        return isinstance(value, np.ndarray) or torch.is_tensor(value) or _is_on_gpu(value)
    except ValueError:
        return True  # `destination_of` raises with the reason


def destination_of(array: Any, argument: str = "out", key: str | None = None) -> Destination:
    """Return the destination of a NumPy array, a torch tensor or an array in the memory of a GPU.

    Parameters
    ----------
    array
        A writable array of one of initium's dtypes, of any strides, whose elements do not overlap.
    argument, key
        The name of the array in error messages: an argument, or an entry of an argument.

    Raises
    ------
    TypeError
        If it is not an array.
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
    """Return whether `value` is an array in the memory of an NVIDIA GPU, judging by its class's protocols.

    Raises
    ------
    ValueError
        If the array does not state its device: a JAX array that was deleted, or is on several devices.
    """
    if hasattr(type(value), "__dlpack_device__"):
        try:
            return bool(value.__dlpack_device__()[0] in _DLPACK_CUDA)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"the {type(value).__name__} does not state its device: {error}") from error
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
    """Return uninitialised memory for new arrays of the given shapes and dtypes: all of them or none.

    The owners are NumPy arrays on the CPU, and CuPy arrays on a GPU. The pages of NumPy arrays are first
    touched by the threads that fill them.

    Raises
    ------
    MemoryError
        If the arrays do not fit.
    """
    if device != "cpu":
        return cuda.allocate(specs, device)
    try:
        arrays = [np.empty(shape, dtype.numpy) for shape, dtype in specs]
    except (MemoryError, ValueError) as error:  # NumPy's ValueError: the size exceeds the address space
        nbytes = sum(math.prod(shape) * dtype.itemsize for shape, dtype in specs)
        raise MemoryError(f"{len(specs)} arrays of {nbytes:,} bytes do not fit in memory: {error}") from error
    return [
        Destination(array.ctypes.data, array.shape, array.strides, dtype, "cpu", array)
        for array, (_, dtype) in zip(arrays, specs, strict=True)
    ]
