"""The recorder: runs a model's own code on the meta device and puts each operation on a tape."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from initium.recording.tape.errors import RecordingError
from initium.recording.tape.generators import unused_generators
from initium.recording.tape.interception import intercepted
from initium.recording.tape.replay import RandomValueError, replay
from initium.recording.tape.tape import Region, Step, Tape, bound, map_tensors, tensors_in

__all__ = ["recording", "tape_of"]


_META = torch.device("meta")
_CPU = torch.device("cpu")
_ATEN = torch.ops.aten
#: The tape that each thread is writing.
_active = threading.local()
#: The tape of each module that was built while recording.
_tapes: weakref.WeakKeyDictionary[nn.Module, Tape] = weakref.WeakKeyDictionary()
#: Modules that other threads than the recording one built meanwhile.
_elsewhere: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def tape_of(module: nn.Module) -> Tape | None:
    """Return the tape on which a module, or one of its parts, was built; None if there is none."""
    tape = next((tape for part in module.modules() if (tape := _tapes.get(part)) is not None), None)
    strange = next((part for part in module.modules() if part in _elsewhere), None)
    if tape is not None and strange is not None:
        raise RecordingError(
            f"a {type(strange).__qualname__} was built by another thread than the one that recorded the model"
        )
    return tape


def _registered_on(tape: Tape) -> Iterator[Tensor]:
    """Yield the parameters and buffers of the modules that were built on a tape."""
    for module, of_module in list(_tapes.items()):
        if of_module is tape:
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None and not is_lazy(tensor):
                    yield tensor


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
        stack.enter_context(unused_generators())
        stack.enter_context(_registered(tape))
        stack.enter_context(intercepted(tape.draw))
        stack.enter_context(_Operations(tape))
        stack.enter_context(_Functions(tape))
        yield tape
        tape.update()
        tape.shared.clear()
        tape.versions.update((id(t), (weakref.ref(t), t._version)) for t in _registered_on(tape))
        if tape.failure is not None:
            raise RecordingError(f"the code went on after this error: {tape.failure}") from tape.failure


# --- modes of torch -----------------------------------------------------------------------------------------


class _Operations(TorchDispatchMode):  # type: ignore[misc]
    """Runs every operation on meta tensors and records it."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self._tape = tape

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunction(), _noted(self._tape):
            return self._run(func, args, kwargs or {})

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tape = self._tape
        if func is _ATEN.lift_fresh.default or func is _ATEN.lift.default:
            if args[0].is_meta:
                raise RecordingError("a tensor was made from data on the meta device, which drops the data")
            made = tape.constant(args[0])
            tape.share(tape.region(made), args[0])  # perhaps with an array
            return made
        changed = _changed(func, args, kwargs)
        for tensor in changed:
            if not tensor.is_meta:
                raise RecordingError(
                    f"{func} changes a tensor that existed before recording began; build the whole model "
                    "within the recording"
                )
        args, kwargs = map_tensors(self._on_meta, (args, kwargs))
        generator = kwargs.get("generator")
        if generator is not None and generator is not torch.default_generator:
            return self._drawn_by(generator, func, args, kwargs, changed)
        if func._schema.name == "aten::set_":  # no values change
            loads = len(args) > 1 and isinstance(args[1], torch.UntypedStorage)
            return func(*(self._on_one_device(*args) if loads else args), **kwargs)
        if any(argument.name == "device" for argument in func._schema.arguments):
            kwargs = {**kwargs, "device": _META}
        if _needs_values(func):
            return self._evaluated(func, args, kwargs)
        known = [tape.region(tensor) for tensor in tensors_in((args, kwargs))]
        tape.update({region.storage for region in known})
        result = _without_kernel(func, args, kwargs) if changed else _shaped(func, args, kwargs)
        if (
            not known
            and isinstance(result, Tensor)
            and any(a.name == "dtype" for a in func._schema.arguments)
        ):
            kwargs = {**kwargs, "dtype": result.dtype}  # not torch's usual dtype at the time of the replay
        self._record(func, args, kwargs, known, changed, result)
        return result

    def _on_meta(self, tensor: Tensor) -> Tensor:
        if tensor.is_sparse or tensor.layout != torch.strided:
            raise RecordingError(f"a tensor of layout {tensor.layout} cannot be recorded")
        if tensor.is_conj():
            return self._run(_ATEN._conj_physical.default, (tensor.conj(),), {})
        if tensor.is_neg():
            return self._run(_ATEN.neg.default, (torch._neg_view(tensor),), {})
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
        _check_dense(func, results)
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
        reads = tuple(r for r in inputs if not (step.overwrites and r in written and inputs.count(r) == 1))
        tape.append(Step(func, arguments, keywords, reads, step.writes, step.outputs))

    def _drawn_by(
        self, generator: Any, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], changed: list[Tensor]
    ) -> Any:
        """Run a random operation with a generator of the code itself, whose seed says the values."""
        written = [self._tape.region(tensor) for tensor in changed]

        def value(tensor: Tensor) -> Tensor:
            if self._tape.region(tensor) in written:
                return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
            return _replayed(self._tape, func, tensor)

        values, keywords = map_tensors(value, (args, kwargs))
        if any(argument.name == "device" for argument in func._schema.arguments):
            keywords["device"] = _CPU
        result = func(*values, **keywords)
        if not changed:
            return map_tensors(self._tape.constant, result)
        for tensor in changed:
            self._run(_ATEN.copy_.default, (tensor, self._tape.constant(result)), {})
        return changed[0]

    def _on_one_device(self, tensor: Tensor, storage: Any, *layout: Any) -> tuple[Any, ...]:
        """Return the arguments of an operation that shows a storage, with a storage on the meta device."""
        if storage.device == _META:
            return (tensor, storage, *layout)
        held = self._tape.loaded.get(storage._cdata)
        if held is None:
            data = torch.empty(0, dtype=torch.uint8).set_(storage)
            held = self._tape.loaded[storage._cdata] = (storage, self._tape.constant(data).untyped_storage())
        return (tensor, held[1], *layout)

    def _evaluated(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation whose result depends on values, which must not be random."""
        args, kwargs = map_tensors(lambda tensor: _replayed(self._tape, func, tensor), (args, kwargs))
        if "device" in kwargs:
            kwargs = {**kwargs, "device": _CPU}
        return map_tensors(self._tape.constant, func(*args, **kwargs))


def _shaped(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation on meta tensors; one that torch has not for them, on the CPU for its shapes only."""
    try:
        return func(*args, **kwargs)
    except NotImplementedError:
        pass
    ones = map_tensors(lambda t: torch.ones(t.shape, dtype=t.dtype), (args, kwargs))
    if "device" in kwargs:
        ones[1]["device"] = _CPU
    made = _without_kernel(func, *ones)
    _check_dense(func, made)
    return map_tensors(lambda t: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=_META), made)


def _check_dense(func: Any, results: Any) -> None:
    if any(result.layout != torch.strided for result in tensors_in(results)):
        raise RecordingError(f"{func} makes a sparse tensor, which cannot be recorded")


def _without_kernel(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation; raise an error that code does not expect if torch has it not for these tensors."""
    try:
        return func(*args, **kwargs)
    except NotImplementedError as error:
        raise RecordingError(f"torch cannot run {func} without values: {error}") from None


@contextmanager
def _noted(tape: Tape) -> Iterator[None]:
    """Remember an error of the recording: code may catch it and go on in another way than with torch."""
    try:
        yield
    except RecordingError as error:
        tape.failure = error
        raise


def _undeclared(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, ...]:
    """Return the arguments that an operation changes without a word in its declaration."""
    if func._schema.name == "aten::native_batch_norm" and bound(func, args, kwargs)["training"]:
        return "running_mean", "running_var"
    return ()


def _changed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the tensors that an operation changes in place."""
    changed = []
    undeclared = _undeclared(func, args, kwargs)
    for position, argument in enumerate(func._schema.arguments):
        if argument.name not in undeclared and (
            argument.alias_info is None or not argument.alias_info.is_write
        ):
            continue
        value = args[position] if position < len(args) else kwargs.get(argument.name)
        changed += tensors_in(value)
    return changed


def _needs_values(func: Any) -> bool:
    tags = func.tags
    return torch.Tag.data_dependent_output in tags or torch.Tag.dynamic_output_shape in tags


#: Methods that share the memory of a tensor with NumPy.
_SHARES = frozenset(getattr(Tensor, name) for name in ("numpy", "__array__"))


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
            with _noted(self._tape):
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


def _shared(tape: Tape, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Show the values of a tensor as an array. What the code writes to the array is in the tensor too."""
    tensor, *rest = args
    values = _replayed(tape, func, tensor)
    if tensor.is_meta:
        tape.share(tape.region(tensor), values)
    with _disable_current_modes():
        return func(values, *rest, **kwargs)


def _replayed(tape: Tape, func: Any, tensor: Tensor) -> Tensor:
    """Return the values of a tensor, which must not be random, for a function."""
    if not tensor.is_meta:
        return tensor
    tape.update({tape.region(tensor).storage})
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
    if isinstance(data, torch.UntypedStorage):
        with _disable_current_modes():
            return tape.constant(func(data, *rest, **{**kwargs, "device": _CPU}))
    return func(data, *rest, **{**kwargs, "device": _CPU})


def _indexed(tape: Tape, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Index a tensor; the meta device drops the numbers of lists and arrays in an index."""
    tensor, index, *rest = args
    parts = index if isinstance(index, tuple) else (index,)
    made = tuple(_index(tape, part) for part in parts)
    return func(tensor, made if isinstance(index, tuple) else made[0], *rest, **kwargs)


def _index(tape: Tape, part: Any) -> Any:
    if isinstance(part, list) and not any(isinstance(n, slice) or n is None or n is ... for n in part):
        dtype = None if part else torch.long
        return _from_data(tape, torch.tensor, (part,), {"dtype": dtype})
    is_array = type(part).__module__ == "numpy" and getattr(part, "ndim", 0) > 0
    return torch.tensor(part, device=_CPU) if is_array else part


def _address(tape: Tape, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Return an address that differs between tensors of different memory; on the meta device all are 0."""
    region = tape.region(args[0])
    return _start(region) + region.offset * region.dtype.itemsize if region.size else 0


def _start(region: Region) -> int:
    return (region.storage + 1) << 40


def _storage(tape: Tape, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the storage of a tensor, which says an address too, and does not write data that it has not."""
    storage = func(*args, **kwargs)
    if storage.device == _META:
        start = _start(tape.region(args[0])) if storage.nbytes() else 0
        storage.data_ptr = lambda: start
        storage.cpu = storage._write_file = _unwritten
    return storage


def _unwritten(*args: Any) -> Any:
    """Take the place of methods that torch calls to save a tensor: they read memory that is not there."""
    error = RecordingError("a tensor is saved or pickled, which cannot be recorded; expected copy.deepcopy")
    tape: Tape | None = getattr(_active, "tape", None)
    if tape is not None:
        tape.failure = error
    raise error


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
    Tensor.__getitem__: _indexed,
    Tensor.__setitem__: _indexed,
    Tensor.data_ptr: _address,
    Tensor.untyped_storage: _storage,
    **dict.fromkeys((torch.tensor, torch.as_tensor, torch.asarray), _from_data),
    Tensor.tolist: _values,
    **dict.fromkeys(_SHARES, _shared),
}


# --- around the modes ---------------------------------------------------------------------------------------


@contextmanager
def _registered(tape: Tape) -> Iterator[None]:
    """Remember the tape for each module of this thread that gets a parameter, buffer or part."""
    thread = threading.get_ident()

    def remember(module: nn.Module, name: str, value: Any) -> None:
        if threading.get_ident() == thread:
            _tapes[module] = tape
        else:
            _elsewhere.add(module)

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
