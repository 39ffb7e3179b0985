"""The recorder: runs a model's own code on the meta device and puts each operation on a tape."""

from __future__ import annotations

import random
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from initium.recording.tape.interception import intercepted
from initium.recording.tape.replay import RandomValueError, replay
from initium.recording.tape.tape import Step, Tape, map_tensors, tensors_in

__all__ = ["RecordingError", "recording", "tape_of"]


class RecordingError(RuntimeError):
    """Code did something that cannot be recorded."""


_META = torch.device("meta")
_CPU = torch.device("cpu")
_ATEN = torch.ops.aten
#: The tape that each thread is writing.
_active = threading.local()
#: The tape of each module that was built while recording.
_tapes: weakref.WeakKeyDictionary[nn.Module, Tape] = weakref.WeakKeyDictionary()


def tape_of(module: nn.Module) -> Tape | None:
    """Return the tape on which a module, or one of its parts, was built; None if there is none."""
    return next((tape for part in module.modules() if (tape := _tapes.get(part)) is not None), None)


@contextmanager
def recording() -> Iterator[Tape]:
    """Build a model without memory, and record how its own code initialises it.

    Within this context all tensors that torch makes are on the meta device, whatever device is asked for, but
    say that they are on the CPU, so that code which skips the initialisation of meta tensors runs as usual.
    No random number is drawn: the state of torch's generators does not change.

    Yields
    ------
    Tape
        The record. `initium.init_model` finds it by the model.

    Raises
    ------
    RecordingError
        If the code draws with the generators of Python or NumPy, whose values would be recorded as constants,
        or if it changes a tensor that existed before.

    Examples
    --------
    >>> import initium as ini
    >>> import torch
    >>> with ini.torch.recording():
    ...     model = torch.nn.Sequential(torch.nn.Embedding(5, 2, padding_idx=0), torch.nn.LayerNorm(2))
    >>> model[0].weight.device
    device(type='meta')
    >>> report = ini.init_model(model, "own", seed=7)
    >>> model[0].weight.detach()[:2]
    tensor([[0.0000, 0.0000],
            [0.3104, 0.5246]])
    """
    if getattr(_active, "tape", None) is not None:
        raise RecordingError("this thread is recording already")
    tape = Tape()
    with ExitStack() as stack:
        _active.tape = tape
        stack.callback(setattr, _active, "tape", None)
        stack.enter_context(_unused_generators())
        stack.enter_context(_registered(tape))
        stack.enter_context(intercepted(tape.draw))
        stack.enter_context(_Operations(tape))
        stack.enter_context(_Functions(tape))
        yield tape


# --- modes of torch -----------------------------------------------------------------------------------------


class _Operations(TorchDispatchMode):  # type: ignore[misc]
    """Runs every operation on meta tensors and records it."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self._tape = tape

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunction():
            return self._run(func, args, kwargs or {})

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tape = self._tape
        if func is _ATEN.lift_fresh.default or func is _ATEN.lift.default:
            if args[0].is_meta:
                raise RecordingError("a tensor was made from data on the meta device, which drops the data")
            return tape.constant(args[0])
        changed = _changed(func, args, kwargs)
        for tensor in changed:
            if not tensor.is_meta:
                raise RecordingError(
                    f"{func} changes a tensor that existed before recording began; build the whole model "
                    "within the recording"
                )
        args, kwargs = map_tensors(self._on_meta, (args, kwargs))
        if any(argument.name == "device" for argument in func._schema.arguments):
            kwargs = {**kwargs, "device": _META}
        if _needs_values(func):
            return self._evaluated(func, args, kwargs)
        known = [tape.region(tensor) for tensor in tensors_in((args, kwargs))]
        result = func(*args, **kwargs)
        if (
            not known
            and isinstance(result, Tensor)
            and any(a.name == "dtype" for a in func._schema.arguments)
        ):
            kwargs = {**kwargs, "dtype": result.dtype}  # not torch's usual dtype at the time of the replay
        self._record(func, args, kwargs, known, changed, result)
        return result

    def _on_meta(self, tensor: Tensor) -> Tensor:
        if tensor.is_conj() or tensor.is_neg():
            raise RecordingError("a lazy conjugate or negative view cannot be recorded; call resolve_conj()")
        return tensor if tensor.is_meta else self._tape.constant(tensor)

    def _record(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inputs: list[Any],
        changed: list[Tensor],
        result: Any,
    ) -> None:
        tape = self._tape
        results = list(result) if isinstance(result, (tuple, list)) else [result]
        outputs = tuple(
            tape.region(r) if isinstance(r, Tensor) and not tape.knows(r) else None for r in results
        )
        new = tuple(region for region in outputs if region is not None)
        written = tuple(tape.region(tensor) for tensor in changed)
        if not new and not written:
            return  # a view, or a question
        arguments, keywords = map_tensors(tape.region, (args, kwargs))
        step = Step(func, arguments, keywords, (), written + new, outputs if new else ())
        # What an operation overwrites, it does not read.
        reads = tuple(r for r in inputs if not (step.overwrites and r in written))
        tape.append(Step(func, arguments, keywords, reads, step.writes, step.outputs))

    def _evaluated(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation whose result depends on values, which must not be random."""
        args, kwargs = map_tensors(lambda tensor: _replayed(self._tape, func, tensor), (args, kwargs))
        if "device" in kwargs:
            kwargs = {**kwargs, "device": _CPU}
        return map_tensors(self._tape.constant, func(*args, **kwargs))


def _changed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the tensors that an operation changes in place."""
    changed = []
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = args[position] if position < len(args) else kwargs.get(argument.name)
        changed += tensors_in(value)
    return changed


def _needs_values(func: Any) -> bool:
    tags = func.tags
    return torch.Tag.data_dependent_output in tags or torch.Tag.dynamic_output_shape in tags


#: Methods that hand values to Python or NumPy, without an operation that a mode sees.
_READS = frozenset(getattr(Tensor, name) for name in ("numpy", "tolist", "__array__"))


class _Functions(TorchFunctionMode):  # type: ignore[misc]
    """Answers for meta tensors as the CPU would, where the modes of operations do not see the question."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self._tape = tape

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        answer = _ANSWERS.get(func)
        if answer is not None:
            return answer(self._tape, func, args, kwargs)
        # `_Operations` moves new tensors to the meta device; another device may not exist here.
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": _CPU}
        return func(*args, **kwargs)


_Answer = Callable[[Tape, Any, tuple[Any, ...], dict[str, Any]], Any]


def _values(tape: Tape, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a method that reads the values of a tensor, on the values."""
    tensor, *rest = args
    values = _replayed(tape, func, tensor)
    with _disable_current_modes():
        return func(values, *rest, **kwargs)


def _replayed(tape: Tape, func: Any, tensor: Tensor) -> Tensor:
    """Return the values of a tensor, which must not be random, for a function."""
    if not tensor.is_meta:
        return tensor
    try:
        return replay(tape, tape.region(tensor))
    except RandomValueError as error:
        name = getattr(func, "__name__", func)
        raise RecordingError(f"{name} needs the values of a tensor, and these are {error}") from None


def _to(tape: Tape, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Convert a tensor, to another dtype only."""
    tensor, *rest = args
    if rest and isinstance(rest[0], Tensor):
        order: tuple[str, ...] = ("other", "non_blocking", "copy")
    elif rest and isinstance(rest[0], torch.dtype):
        order = ("dtype", "non_blocking", "copy")
    else:
        order = ("device", "dtype", "non_blocking", "copy")
    given = dict(zip(order, rest, strict=False)) | kwargs
    dtype = given["other"].dtype if "other" in given else given.get("dtype")
    kept = {key: given[key] for key in ("copy", "memory_format") if given.get(key)}
    return tensor.to(dtype=dtype or tensor.dtype, **kept)


def _same(tape: Tape, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0]


def _copied(tape: Tape, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Copy a tensor deeply: its values, not the empty storage of a meta tensor."""
    tensor, memo = args
    if id(tensor) not in memo:
        memo[id(tensor)] = tensor.detach().clone().requires_grad_(tensor.requires_grad)
    return memo[id(tensor)]


def _from_data(tape: Tape, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make a tensor from data: on the CPU, since the meta device drops the data."""
    data, *rest = args or (kwargs.pop("data" if "data" in kwargs else "obj"),)
    if not isinstance(data, Tensor):
        # torch reads numbers out of tensors within lists, and no mode sees it.
        data = map_tensors(lambda tensor: _values(tape, Tensor.tolist, (tensor,), {}), data)
    return func(data, *rest, **{**kwargs, "device": _CPU})


def _new_tensor(tape: Tape, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make a tensor from data; on the meta device `new_tensor` drops them."""
    tensor, *data = args
    kwargs = {"dtype": tensor.dtype, **kwargs, "device": _CPU}
    return torch.tensor(*data, **kwargs)


_ANSWERS: dict[Any, _Answer] = {
    Tensor.device.__get__: lambda tape, func, args, kwargs: _CPU,
    Tensor.is_meta.__get__: lambda tape, func, args, kwargs: False,
    Tensor.is_cpu.__get__: lambda tape, func, args, kwargs: True,
    Tensor.to: _to,
    Tensor.cpu: _same,
    Tensor.cuda: _same,
    Tensor.__deepcopy__: _copied,
    Tensor.new_tensor: _new_tensor,
    **dict.fromkeys((torch.tensor, torch.as_tensor, torch.asarray), _from_data),
    **dict.fromkeys(_READS, _values),
}


# --- around the modes ---------------------------------------------------------------------------------------


@contextmanager
def _registered(tape: Tape) -> Iterator[None]:
    """Remember the tape for each module of this thread that gets a parameter, buffer or part."""
    thread = threading.get_ident()

    def remember(module: nn.Module, name: str, value: Any) -> None:
        if threading.get_ident() == thread:
            _tapes[module] = tape

    registry = torch.nn.modules.module
    hooks = [
        registry.register_module_parameter_registration_hook(remember),
        registry.register_module_buffer_registration_hook(remember),
        registry.register_module_module_registration_hook(remember),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _unused_generators() -> Iterator[None]:
    """Raise if code has drawn with a generator whose values a tape would show as constants."""
    numpy = sys.modules.get("numpy")
    before = _states(numpy)
    yield
    for name, state in _states(numpy).items():
        if state != before[name]:
            raise RecordingError(
                f"the code (or another thread) draws with {name}, whose values initium takes for "
                "constants; expected the generators of torch"
            )


def _states(numpy: Any) -> dict[str, Any]:
    states: dict[str, Any] = {"Python's module random": random.getstate()}
    if numpy is not None:
        kind, key, *rest = numpy.random.get_state(legacy=True)
        states["numpy.random"] = (kind, key.tobytes(), *rest)
    return states
