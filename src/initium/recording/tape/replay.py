"""Replays a part of a tape with memory: deterministic values, and programs over random draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from initium.recording.tape.tape import CONSTANT, UNDEFINED, Region, Step, Tape, bound

__all__ = ["Draw", "RandomValueError", "replay"]


class RandomValueError(ValueError):
    """Values were asked for that depend on a random draw."""


#: Returns what a random step writes: called with the step's position, the step and its arguments by name.
Draw = Callable[[int, Step, dict[str, Any]], Sequence[Tensor]]


def _refuse(position: int, step: Step, arguments: dict[str, Any]) -> Sequence[Tensor]:
    raise RandomValueError(f"random ({step.name})")


def replay(tape: Tape, region: Region, draw: Draw = _refuse, fill: int = 0xFF) -> Tensor:
    """Return the values of a region: a new tensor on the CPU.

    Parameters
    ----------
    tape
        The tape.
    region
        The region.
    draw
        Returns the values of a random step's outputs.
    fill
        The byte in memory that no step has written. 0xFF is NaN, in all dtypes of floats.

    Raises
    ------
    RandomValueError
        If the values depend on a random draw, and `draw` is not given.
    """
    with torch.no_grad(), _disable_current_modes(), torch._C.DisableTorchFunction():
        memory = _Memory(tape, fill)
        for position in tape.slice(region):
            _run(tape.steps[position], position, memory, draw)
        return memory.tensor(region).clone(memory_format=torch.contiguous_format)


class _Memory:
    """Memory for the storages of a tape."""

    def __init__(self, tape: Tape, fill: int) -> None:
        self._tape = tape
        self._fill = fill
        self._storages: dict[int, Tensor] = {}

    def tensor(self, region: Region) -> Tensor:
        """Return the tensor of a region; its storage is allocated at its first use."""
        held = self._storages.get(region.storage)
        if held is None:
            held = torch.full((self._tape.nbytes(region.storage),), self._fill, dtype=torch.uint8)
            self._storages[region.storage] = held
        view = torch.empty(0, dtype=region.dtype)
        return view.set_(held.untyped_storage(), region.offset, region.shape, region.strides)

    def put(self, region: Region, value: Tensor) -> None:
        """Write a value to a region."""
        self.tensor(region).copy_(value)


def _run(step: Step, position: int, memory: _Memory, draw: Draw) -> None:
    if step.operation == CONSTANT:
        memory.put(step.writes[0], step.arguments[0])
        return
    if step.name in UNDEFINED:
        return
    args, kwargs = _with_tensors(memory, (step.arguments, step.keywords))
    if step.is_random:
        arguments = {} if isinstance(step.operation, str) else bound(step.operation, args, kwargs)
        for region, value in zip(step.writes, draw(position, step, arguments), strict=True):
            memory.put(region, value)
        return
    if "device" in kwargs:
        kwargs["device"] = torch.device("cpu")
    result = step.operation(*args, **kwargs)
    results = list(result) if isinstance(result, (tuple, list)) else [result]
    for output, value in zip(step.outputs, results, strict=False):
        # On the meta device `native_batch_norm` makes outputs that the CPU leaves empty.
        if output is not None and output.shape == value.shape:
            memory.put(output, value)


def _with_tensors(memory: _Memory, values: Any) -> Any:
    """Return nested arguments with tensors in place of regions."""
    if isinstance(values, Region):
        return memory.tensor(values)
    if isinstance(values, dict):
        return {key: _with_tensors(memory, value) for key, value in values.items()}
    if isinstance(values, (tuple, list)):
        return type(values)(_with_tensors(memory, value) for value in values)
    return values
