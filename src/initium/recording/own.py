"""A model's own initialisation: what code to record for a module, and how its tensors are drawn."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from initium.backends.run import run
from initium.models.torch_modules import parameters_of
from initium.planning.jobs import Job
from initium.planning.plan import plan
from initium.recipes.rules import Assignment, Rules, Skip, assign
from initium.recording.laws.start import Given, Piece, Start
from initium.recording.laws.starts import starts_of
from initium.recording.module_tensors import registered, replace_tensors, tensors_of
from initium.recording.tape.errors import RecordingError
from initium.recording.tape.recorder import recording, tape_of
from initium.recording.tape.tape import Tape

__all__ = ["Prepared", "own_starts"]


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
        return starts_of(tape, _on_tape(tape, tensors_of(copied)))
    tensors = tensors_of(module)
    known = _known.get(module)
    if known is not None and not any(tensor.is_meta for tensor in tensors.values()):
        return _still_known(module, tensors, known)
    _known[module] = starts = starts_of(tape, _on_tape(tape, tensors))
    return starts


def _on_tape(tape: Tape, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors that a tape knows; one that has values already keeps them."""
    found = {}
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
        if tape.knows(tensor):
            found[name] = tensor
        elif tensor.is_meta:
            raise RecordingError(
                f"{name} was added or replaced after the model was recorded; "
                "expected a model as it was recorded"
            )
        else:
            found[name] = tape.constant(tensor)
    return found


def _still_known(
    module: nn.Module, tensors: Mapping[str, Tensor], starts: Mapping[str, Start]
) -> dict[str, Start]:
    """Return the starts of a module that was drawn before; attributes that have changed are left out."""
    strict = registered(module)
    now = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    then = {name: (start.shape, start.dtype) for name, start in starts.items()}
    same = {name for name in now if now[name] == then.get(name)}
    for name in strict:
        if name not in same:
            raise RecordingError(
                f"{name} is {now[name]} now, and was {then.get(name)} when the model was recorded; "
                "expected a model as it was recorded"
            )
    return {name: start for name, start in starts.items() if name in same}


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
    for tensor in {id(t): t for t in registered(module).values()}.values():
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
    before, after = ({n: tuple(t.shape) for n, t in registered(m).items()} for m in (model, copied))
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
class Prepared:
    """The starts of a module's tensors, with memory for them.

    Attributes
    ----------
    module
        The module.
    assignments
        The rule of each tensor.
    starts
        How each tensor starts: by its own code, or by a rule. A tensor that is skipped has no pieces.
    tensors
        The memory to write, by name: the tensors of the module, or new ones for those on the meta device.
    values
        The values of programs, by name.
    """

    module: nn.Module
    assignments: Sequence[Assignment]
    starts: Mapping[str, Start]
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Tensor]

    @classmethod
    def of(
        cls, module: nn.Module, rules: Rules, seed: int, device: str | None, threads: int | None
    ) -> Prepared:
        """Prepare to draw a module; nothing of it is written.

        Raises
        ------
        RecordingError
            See `own_starts`; or if a tensor is computed from another one that a rule draws.
        ValueError
            If a tensor that has memory is not on `device`, or one that has none is skipped, or if the rules
            do not fit the module.
        """
        own, given = own_starts(module), tensors_of(module)
        for name in own:
            tensor = given[name]
            if device is not None and not tensor.is_meta and not _is_on(tensor, device):
                raise ValueError(f"params[{name!r}] is on device {tensor.device}; expected device={device}")
        assignments = _assigned(module, own, rules)
        starts = _changed(own, assignments)
        for a in assignments:
            if isinstance(a.initializer, Skip) and given[a.name].is_meta and starts[a.name].tied_to is None:
                raise ValueError(f"params[{a.name!r}] has no memory to be skipped; expected a rule")

        def draw(jobs: list[Job]) -> None:
            run(plan(jobs, seed), threads=threads)

        values = {name: start.computed(draw) for name, start in starts.items() if start.program is not None}
        memory = _Memory(device or "cpu")
        tensors = {
            name: memory.tensor(given[name]) if given[name].is_meta else given[name] for name in starts
        }
        return cls(module, assignments, starts, tensors, values)

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


def _assigned(module: nn.Module, starts: Mapping[str, Start], rules: Rules) -> list[Assignment]:
    """Return the rule of each tensor of a module."""
    known = parameters_of(module)
    layouts = {name: parameter.layout for name, parameter in known.items() if parameter.layout is not None}
    computed = {name: p.parametrized for name, p in known.items() if p.parametrized is not None}
    shapes = {name: start.shape for name, start in starts.items()}
    return assign(shapes, rules, layouts, computed, stacklevel=7)  # the caller of `init_model`


def _changed(starts: Mapping[str, Start], assignments: Sequence[Assignment]) -> dict[str, Start]:
    """Return how tensors start where rules replace the model's own code."""
    ruled = {
        a.name
        for a in assignments
        if starts[a.name].tied_to is None and (a.fill is not None or isinstance(a.initializer, Skip))
    }
    changed = {}
    for assignment in assignments:
        name, start = assignment.name, starts[assignment.name]
        if start.tied_to is not None:
            changed[name] = start
        elif assignment.fill is not None:
            box = tuple((0, extent) for extent in start.shape)
            piece = Piece(box, start.shape, Given(assignment.fill), name)
            changed[name] = replace(start, pieces=(piece,) if 0 not in start.shape else (), program=None)
        elif isinstance(assignment.initializer, Skip):
            changed[name] = replace(start, pieces=(), program=None)
        else:
            changed[name] = _apart(start, ruled)
    return changed


def _apart(start: Start, ruled: AbstractSet[str]) -> Start:
    """Return a start whose streams are not those of tensors that rules draw."""
    if start.program is not None:
        for other in {stream.partition("#")[0] for stream in start.program.names.values()} & ruled:
            raise RecordingError(
                f"{start.name} is computed from {other}, which has a rule; "
                f"expected a rule for {start.name} too"
            )
    pieces = (
        replace(piece, name=start.name) if piece.name in ruled and piece.name != start.name else piece
        for piece in start.pieces
    )
    return replace(start, pieces=tuple(pieces))


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
