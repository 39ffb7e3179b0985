"""Destinations of torch tensors, on the CPU and on GPUs; torch is imported only if a tensor needs it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from initium.memory.destination import Destination, check_layout, reach

__all__ = ["destination_of", "is_tensor", "mark_as_written"]


def is_tensor(value: Any) -> bool:
    """Return whether a value is a torch tensor, judging by its attributes."""
    return hasattr(value, "data_ptr")


def destination_of(tensor: Any, device: str) -> Destination:
    """Return the destination of a torch tensor, whose device is `device`.

    Raises
    ------
    ValueError
        If its strides do not give the addresses of its values: a sparse layout, a view that negates or
        conjugates, a wrapper without memory (DTensor, FakeTensor), or a storage that was freed.
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
        if reach(shape, steps)[1] + size > held:
            raise ValueError(f"the tensor's storage has been freed or cut to {held} bytes")
    address = 0 if wraps else tensor.data_ptr()
    if wraps or (address == 0 and 0 not in shape):
        raise ValueError(
            f"the {type(tensor).__name__} has no memory of its own; expected a plain tensor "
            "(for a DTensor: its to_local(), with box=)"
        )
    return Destination(address, shape, steps, dtype, device, tensor)


def mark_as_written(destinations: Iterable[Destination]) -> None:
    """Increment the version counters of torch tensors, as torch's in-place operations do.

    Autograd uses the counters to detect that a saved tensor was changed.
    """
    owners = (destination.owner for destination in destinations)
    tensors = [owner for owner in owners if is_tensor(owner)]
    counted = [tensor for tensor in tensors if not tensor.is_inference()]  # others have no counter
    if counted:
        import torch

        for tensor in counted:
            torch.autograd.graph.increment_version(tensor)
