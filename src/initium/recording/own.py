"""A model's own initialisation: what code to record for a module, and how its tensors are drawn."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from initium.backends.run import run
from initium.initializers.basic import Initializer
from initium.memory.arrays import destination_of
from initium.planning.jobs import Job, job_of
from initium.planning.plan import plan
from initium.recording.recorder import RecordingError, recording, tape_of
from initium.recording.starts import Piece, Start, starts_of
from initium.recording.tape import Tape
from initium.regions.boxes import box_of, whole

__all__ = ["Own", "own_starts", "tensors_of"]


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a module by name; tied ones under each name."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    return parameters | dict(module.named_buffers(remove_duplicate=False))


def own_starts(module: nn.Module) -> dict[str, Start]:
    """Return how each parameter and buffer of a module starts by the module's own code.

    Parameters
    ----------
    module
        A module that was built within `initium.torch.recording`; a model of transformers; a module of torch,
        or a `Sequential` or list of them; or a module with a method ``init_weights()`` or
        ``reset_parameters()`` that sets all its tensors.

    Raises
    ------
    RecordingError
        If it is none of these, or if it cannot be recorded how a tensor starts.
    """
    tape = tape_of(module)
    if tape is None:
        tape, twin = _recorded_again(module)
    else:
        twin = module
    tensors = tensors_of(twin)
    strangers = [name for name, tensor in tensors.items() if not tape.knows(tensor)]
    if strangers:
        raise RecordingError(
            f"the tensors {', '.join(strangers[:5])} were added or replaced after the recording of the model; "
            "expected a model as it was recorded"
        )
    return starts_of(tape, tensors)


# --- which code ---------------------------------------------------------------------------------------------

#: Methods by which a module's class says how it starts, in order.
_METHODS = ("init_weights", "reset_parameters", "_reset_parameters")


def _recorded_again(module: nn.Module) -> tuple[Tape, nn.Module]:
    """Run the initialisation of a module that exists already, on a twin without memory."""
    if _is_of_transformers(module):
        return _built_again(module)
    foreign = [part for part in module.modules() if not type(part).__module__.startswith("torch.nn.")]
    method = next((name for name in _METHODS if callable(getattr(module, name, None))), None)
    if foreign and (foreign[0] is not module or method is None):
        raise RecordingError(
            f"how a {type(foreign[0]).__qualname__} starts is written in its constructor, which has run already; "
            "build the model within initium.torch.recording()"
        )
    with recording() as tape:
        twin = _twin(module)
        if foreign:
            getattr(twin, str(method))()
        else:
            _reset(twin)
    return tape, twin


def _reset(module: nn.Module) -> None:
    """Call the resetting method of each part of a module of torch, inner parts first."""
    for child in module.children():
        _reset(child)
    for name in ("reset_parameters", "_reset_parameters"):
        if callable(getattr(module, name, None)):
            getattr(module, name)()
            return


def _twin(module: nn.Module) -> nn.Module:
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
        twin = type(model)(copy.deepcopy(model.config))
    before, after = ({n: tuple(t.shape) for n, t in tensors_of(m).items()} for m in (model, twin))
    for name in before.keys() | after.keys():
        if before.get(name) != after.get(name):
            raise RecordingError(
                f"{name} has shape {before.get(name)} in the model and {after.get(name)} in a model of its "
                "configuration; build the model within initium.torch.recording()"
            )
    return tape, twin


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
        """Prepare to draw a module; nothing of it is written."""
        starts = own_starts(module)
        draw = _drawer(seed, threads)
        values = {name: _computed(start, draw) for name, start in starts.items() if start.program is not None}
        given = tensors_of(module)
        made: dict[int, Tensor] = {}
        tensors: dict[str, Tensor] = {}
        for name, start in starts.items():
            tensor = given[name]
            if tensor.is_meta and id(tensor) not in made:
                made[id(tensor)] = torch.empty_like(tensor, device=device or "cpu", requires_grad=False)
            tensors[name] = made.get(id(tensor), tensor)
            if device is not None and not _is_on(tensors[name], device):
                raise ValueError(f"params[{name!r}] is on device {tensor.device}; expected device={device}")
        return cls(module, starts, tensors, values)

    def jobs(self, name: str) -> list[Job]:
        """Return the jobs that draw a tensor."""
        return jobs_of(self.starts[name], self.tensors[name].detach())

    def finish(self) -> None:
        """Write the values of programs, and give the module its new tensors."""
        with torch.no_grad():
            for name, values in self.values.items():
                self.tensors[name].copy_(values)
        _replace(self.module, self.tensors)


def jobs_of(start: Start, tensor: Tensor) -> list[Job]:
    """Return the jobs that draw a tensor's pieces."""
    return [_job(start, piece, tensor) for piece in start.pieces]


def _job(start: Start, piece: Piece, tensor: Tensor) -> Job:
    part = tensor[tuple(slice(first, end) for first, end in piece.box)] if piece.box else tensor
    if piece.is_own:
        part, shape, box = part.view(piece.shape), piece.shape, whole(piece.shape)
    else:
        shape, box = start.shape, box_of(start.shape, tuple(slice(*ends) for ends in piece.box))
    fill = piece.initializer.resolve(shape)
    destination = destination_of(part, "params", start.name)
    fill.check(destination.dtype)
    return job_of(piece.name, fill, box, destination)


def _drawer(seed: int, threads: int | None) -> Callable[[Initializer, tuple[int, ...], torch.dtype, str], Tensor]:
    def draw(initializer: Initializer, shape: tuple[int, ...], dtype: torch.dtype, name: str) -> Tensor:
        made = torch.empty(shape, dtype=dtype)
        job = job_of(name, initializer.resolve(shape), whole(shape), destination_of(made))
        run(plan([job], seed), threads=threads)
        return made

    return draw


def _computed(start: Start, draw: Callable[..., Tensor]) -> Tensor:
    """Return the values of a program; raise if it reads memory without values."""
    assert start.program is not None
    values = start.program.run(draw)
    if (values.dtype.is_floating_point or values.dtype.is_complex) and values.isnan().any():
        raise RecordingError(f"{start.name}: {start.program} reads memory that no operation has written")
    return values


def _is_on(tensor: Tensor, device: str) -> bool:
    wanted = torch.device(device)
    return tensor.device.type == wanted.type and wanted.index in (None, tensor.device.index)


def _replace(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put new tensors in the places of those on the meta device; ties and gradients' settings stay."""
    made: dict[int, nn.Parameter] = {}
    for prefix, part in module.named_modules(remove_duplicate=False):
        for registry in (part._parameters, part._buffers):
            for key, old in registry.items():
                if old is None or not old.is_meta:
                    continue
                new = tensors[f"{prefix}.{key}" if prefix else key]
                if isinstance(old, nn.Parameter):
                    if id(old) not in made:
                        made[id(old)] = nn.Parameter(new, old.requires_grad)
                        made[id(old)].__dict__.update(old.__dict__)
                    new = made[id(old)]
                registry[key] = new
