"""A model's own initialisation: what code to record for a module, and how its tensors are drawn."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from initium.backends.run import run
from initium.planning.jobs import Job
from initium.planning.plan import plan
from initium.recording.laws.start import Start
from initium.recording.laws.starts import starts_of
from initium.recording.module_tensors import replace_tensors, tensors_of
from initium.recording.tape.recorder import RecordingError, recording, tape_of
from initium.recording.tape.tape import Tape

__all__ = ["Own", "own_starts"]


#: How each tensor of a model starts, for models whose tensors have memory by now.
_known: weakref.WeakKeyDictionary[nn.Module, dict[str, Start]] = weakref.WeakKeyDictionary()
#: Tensors of recorded models that have memory by now.
_drawn = WeakIdKeyDictionary()


def own_starts(module: nn.Module) -> dict[str, Start]:
    """Return how each parameter and buffer of a module starts by the module's own code.

    Parameters
    ----------
    module
        A module that was built within `initium.torch.recording`; a model of transformers; a module of torch,
        or a `Sequential` or list of them; or a module with a method ``init_weights()`` or
        ``reset_parameters()`` that sets all its tensors.

    Returns
    -------
    dict
        A `Start` by name; ``str(start)`` is its law. Tensors that are attributes of a recorded module, but
        neither parameters nor buffers, are included.

    Raises
    ------
    RecordingError
        If it is none of these, or if it cannot be recorded how a tensor starts.

    Examples
    --------
    >>> import initium as ini
    >>> import torch
    >>> for name, start in ini.torch.own_starts(torch.nn.Conv1d(4, 8, 3)).items():
    ...     print(name, start)
    weight uniform(-0.288675, 0.288675)
    bias uniform(-0.288675, 0.288675)
    """
    tape = tape_of(module)
    if tape is None:
        tape, copied = _recorded_again(module)
        return starts_of(tape, tensors_of(copied))
    tensors = tensors_of(module)
    known = _known.get(module)
    if known is not None and not any(tensor.is_meta for tensor in tensors.values()):
        _check_same(tensors, known)
        return known
    for name, tensor in tensors.items():
        if tensor in _drawn:
            raise RecordingError(
                f"{name} was drawn already, as a part of another module than this one; expected the module "
                "that was drawn"
            )
        if tensor.is_meta and tape.is_changed(tensor):
            raise RecordingError(
                f"{name} was changed after the recording, which has no effect without memory; expected all "
                "initialisation within the recording, or after the model is drawn"
            )
        if not tensor.is_meta and not tape.knows(tensor):
            tensors[name] = tape.constant(tensor)  # made without an operation of torch, or outside: it stays
        elif not tape.knows(tensor):
            raise RecordingError(
                f"{name} was added or replaced after the model was recorded; "
                "expected a model as it was recorded"
            )
    _known[module] = starts = starts_of(tape, tensors)
    return starts


def _check_same(tensors: Mapping[str, Tensor], starts: Mapping[str, Start]) -> None:
    now = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    then = {name: (start.shape, start.dtype) for name, start in starts.items()}
    for name in now.keys() | then.keys():
        if now.get(name) != then.get(name):
            raise RecordingError(
                f"{name} is {now.get(name)} now, and was {then.get(name)} when the model was recorded; "
                "expected a model as it was recorded"
            )


# --- which code ---------------------------------------------------------------------------------------------

#: Methods by which a module's class says how it starts, in order.
_METHODS = ("init_weights", "reset_parameters", "_reset_parameters")


def _recorded_again(module: nn.Module) -> tuple[Tape, nn.Module]:
    """Run the initialisation of a module that exists already, on a copy without memory."""
    if _is_of_transformers(module):
        return _built_again(module)
    foreign = [part for part in module.modules() if not type(part).__module__.startswith("torch.nn.")]
    method = next((name for name in _METHODS if callable(getattr(module, name, None))), None)
    if foreign and (foreign[0] is not module or method is None):
        raise RecordingError(
            f"how a {type(foreign[0]).__qualname__} starts is written in its constructor, which has run "
            "already; build the model within initium.torch.recording()"
        )
    with recording() as tape:
        copied = _without_values(module)
        if foreign:
            getattr(copied, str(method))()
        else:
            _reset(copied)
    return tape, copied


def _reset(module: nn.Module) -> None:
    """Call the resetting method of each part of a module of torch, inner parts first."""
    for child in module.children():
        _reset(child)
    for name in ("reset_parameters", "_reset_parameters"):
        if callable(getattr(module, name, None)):
            getattr(module, name)()
            return


def _without_values(module: nn.Module) -> nn.Module:
    """Return a copy of a module whose tensors have no memory and no values yet."""
    memo: dict[int, Any] = {}
    for tensor in {id(t): t for t in tensors_of(module).values()}.values():
        empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
    return copy.deepcopy(module, memo)


def _is_of_transformers(module: nn.Module) -> bool:
    return any(base.__module__ == "transformers.modeling_utils" for base in type(module).__mro__)


def _built_again(model: Any) -> tuple[Tape, nn.Module]:
    """Build a model of transformers again from its configuration."""
    with _default_dtype(model.dtype), recording() as tape:
        copied = type(model)(copy.deepcopy(model.config))
    before, after = ({n: tuple(t.shape) for n, t in tensors_of(m).items()} for m in (model, copied))
    for name in before.keys() | after.keys():
        if before.get(name) != after.get(name):
            raise RecordingError(
                f"{name} has shape {before.get(name)} in the model and {after.get(name)} in a model of its "
                "configuration; build the model within initium.torch.recording()"
            )
    return tape, copied


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


# --- drawing ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Own:
    """The starts of a module's tensors, with memory for them.

    Attributes
    ----------
    module
        The module.
    starts
        How each tensor starts.
    tensors
        The memory to write, by name: the tensors of the module, or new ones for those on the meta device.
    values
        The values of programs, by name.
    """

    module: nn.Module
    starts: Mapping[str, Start]
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Tensor]

    @classmethod
    def of(cls, module: nn.Module, seed: int, device: str | None, threads: int | None) -> Own:
        """Prepare to draw a module; nothing of it is written.

        Raises
        ------
        RecordingError
            See `own_starts`.
        ValueError
            If a tensor that has memory is not on `device`.
        """
        starts = own_starts(module)
        given = tensors_of(module)
        for name, tensor in given.items():
            if device is not None and not tensor.is_meta and not _is_on(tensor, device):
                raise ValueError(f"params[{name!r}] is on device {tensor.device}; expected device={device}")

        def draw(jobs: list[Job]) -> None:
            run(plan(jobs, seed), threads=threads)

        values = {name: start.computed(draw) for name, start in starts.items() if start.program is not None}
        memory = _Memory(device or "cpu")
        tensors = {
            name: memory.tensor(tensor) if tensor.is_meta else tensor for name, tensor in given.items()
        }
        return cls(module, starts, tensors, values)

    def jobs(self) -> Iterator[Job]:
        """Yield the jobs that draw what needs no program."""
        for name, start in self.starts.items():
            yield from start.jobs(self.tensors[name].detach())

    def finish(self) -> None:
        """Write the values of programs, and give the module its new tensors."""
        with torch.no_grad():
            for name, values in self.values.items():
                target = self.tensors[name]
                # An expanded tensor has one place for several elements, and torch does not write to it.
                distinct = tuple(slice(0, 1) if step == 0 else slice(None) for step in target.stride())
                target[distinct].copy_(values[distinct])
        given = tensors_of(self.module)
        replace_tensors(self.module, self.tensors)
        for name, tensor in tensors_of(self.module).items():
            if given[name].is_meta:
                _drawn[tensor] = True


class _Memory:
    """New memory for the storages of meta tensors, so that what shares memory goes on sharing it."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._storages: dict[int, Tensor] = {}

    def tensor(self, meta: Tensor) -> Tensor:
        """Return a tensor with memory in place of a meta tensor."""
        storage = meta.untyped_storage()
        held = self._storages.get(storage._cdata)
        if held is None:
            held = torch.empty(storage.nbytes(), dtype=torch.uint8, device=self._device)
            self._storages[storage._cdata] = held
        view = torch.empty(0, dtype=meta.dtype, device=self._device)
        return view.set_(held.untyped_storage(), meta.storage_offset(), meta.shape, meta.stride())


def _is_on(tensor: Tensor, device: str) -> bool:
    wanted = torch.device(device)
    return tensor.device.type == wanted.type and wanted.index in (None, tensor.device.index)
