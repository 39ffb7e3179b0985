"""Running code with the samplers of initium in place of those of torch.

The code of the model runs at once, on real tensors; only the draws change. Two parts of torch are replaced:

- The samplers (`normal_`, `randn`, ...), by a mode of torch's dispatcher, which sees all calls.
- The functions of `torch.nn.init` that are more than one sampler (`trunc_normal_`, `orthogonal_`, `sparse_`),
  by a call of initium, however they were imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import _GeneratorContextManager, contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

from initium.backends.run import run
from initium.checks import check_seed
from initium.dtypes import DTYPES
from initium.initializers.basic import Constant, Initializer, Normal, Uniform
from initium.kernels.float_mode import in_default_mode
from initium.memory.arrays import destination_of
from initium.memory.destination import Destination
from initium.planning.jobs import job_of
from initium.planning.plan import plan
from initium.recording.tape.init_functions import Call
from initium.recording.tape.interception import calls_intercepted
from initium.regions.boxes import whole
from initium.torch.seeds import fresh_seed

__all__ = ["patched"]


def patched(*, seed: int | None = None) -> _GeneratorContextManager[None]:
    """Let code that draws with torch draw with initium, within a context or in a decorated function.

    It is for code that builds and initialises models. The result is the same model as without the context,
    with other random values of the same distributions. Ties, buffers, dtypes, devices, strides and
    ``requires_grad`` are those of torch, since torch's code makes the tensors.

    initium draws these operations on the CPU and on NVIDIA GPUs, in the dtypes of initium:

    - `torch.rand`, `rand_like`, `randn`, `randn_like` and `normal`, also with ``out=``;
    - `Tensor.uniform_` and `Tensor.normal_`, and all that is made of them: most functions of `torch.nn.init`,
      the defaults of torch's layers, and the initialisation of other libraries;
    - `trunc_normal_`, `orthogonal_` and `sparse_` of `torch.nn.init`, under any name, each as one draw.

    All others are drawn by torch, with torch's generators: other operations (`bernoulli_`, `exponential_`,
    `randint`, `randperm`, dropout), integer and complex dtypes, sparse and quantised tensors, other devices,
    meta and fake tensors, tensors whose elements share memory, tensor subclasses with operations of their own
    (DTensor), and code that is traced or compiled by `torch.compile`. NumPy and Python's `random` draw as
    usual.

    Parameters
    ----------
    seed
        None: each draw gets a seed of 64 bits from torch's default CPU generator, and the empty name. So
        `torch.manual_seed` makes a program reproducible, and values are those of `initium.torch.init`.

        A number: the draws of the context are numbered from 0, in the order of the calls, and draw n is
        ``initium.initialize(..., seed=seed, name=str(n))``. The number of threads changes no value. What
        torch draws is not counted and does not depend on `seed`: if a model needs such draws, call
        `torch.manual_seed`, too. The draws of initium do not change torch's generators.

    Returns
    -------
    context manager
        To be used once in a ``with`` statement, or as a decorator. Each call of the decorated function is a
        context of its own, whose numbers begin at 0.

    Raises
    ------
    TypeError, ValueError
        If `seed` is not an integer in [0, 2**64).
    ImportError
        At a draw on a GPU, if CuPy is not installed.

    Notes
    -----
    A call with ``generator=`` gets its seed from this generator, and the empty name, also in a context with a
    seed; it is not counted. Two generators in equal states give equal values, as in torch.

    A context acts on the thread that entered it. Of nested contexts, the inner one draws, with numbers of its
    own. `torch.normal` with a tensor as mean or std draws N(0, 1), multiplies and adds, as torch does.

    The order of the calls decides the numbers. A model whose code draws in another order, or draws more, has
    other values; `init_model` names draws after the tensors instead. Values do not depend on strides.

    Large tensors are drawn by all cores. A draw of a few values costs more than with torch, and all
    operations in a context pass through Python. So leave the context before training.

    Where torch raises an error, the error is that of torch. Some calls work that torch refuses: `normal_` in
    float8, and `orthogonal_` in bfloat16 and float16.

    Examples
    --------
    >>> import initium as ini
    >>> import torch
    >>> with ini.torch.patched(seed=7):
    ...     layer = torch.nn.Linear(3, 2)
    >>> layer.bias
    Parameter containing:
    tensor([-0.3914, -0.5111], requires_grad=True)

    The weight is draw 0, and the bias is draw 1:

    >>> bound = 3**-0.5
    >>> ini.uniform(2, -bound, bound, seed=7, name="1")
    array([-0.39144844, -0.51106966], dtype=float32)
    """
    return _active(None if seed is None else check_seed(seed))


@contextmanager
def _active(seed: int | None) -> Iterator[None]:
    mode = _Samplers(_Draws(seed))
    with calls_intercepted(mode.receive), mode:
        yield


# --- which operations are drawn -----------------------------------------------------------------------------

#: Returns the initializer of a call from the numbers among its arguments.
_Law = Callable[..., Initializer]


class _Operation(NamedTuple):
    """A sampler of torch.

    Attributes
    ----------
    law
        Its distribution.
    position
        The position of the argument that gives the shape: a size, or a tensor. The others are given to `law`.
    in_place
        Whether it fills this argument.
    """

    law: _Law
    position: int = 0
    in_place: bool = False


def _uniform(low: float = 0.0, high: float = 1.0) -> Initializer:
    return Constant(float(low)) if low == high else Uniform(float(low), float(high))


def _normal(mean: float = 0.0, std: float = 1.0) -> Initializer:
    return Normal(float(mean), float(std))


_ATEN = torch.ops.aten


def _overloads(name: str, *excluded: str) -> list[Any]:
    packet = getattr(_ATEN, name)
    return [getattr(packet, overload) for overload in packet.overloads() if overload not in excluded]


#: Overloads of `normal` whose mean or std is a tensor.
_BY_TENSORS = frozenset(
    overload for overload in _overloads("normal") if "Tensor" in overload._overloadname.removesuffix("_out")
)
#: Overloads with names of axes are left to torch.
_NAMED = ("names", "generator_with_names", "names_out", "generator_with_names_out")
_OPERATIONS: dict[Any, _Operation] = {
    _ATEN.uniform_.default: _Operation(_uniform, in_place=True),
    _ATEN.normal_.default: _Operation(_normal, in_place=True),
    **dict.fromkeys(_overloads("uniform"), _Operation(_uniform)),
    **dict.fromkeys(_overloads("normal_functional"), _Operation(_normal)),
    **dict.fromkeys([*_overloads("rand", *_NAMED), *_overloads("rand_like")], _Operation(_uniform)),
    **dict.fromkeys([*_overloads("randn", *_NAMED), *_overloads("randn_like")], _Operation(_normal)),
    _ATEN.normal.out: _Operation(_normal),
    _ATEN.normal.float_float: _Operation(_normal, position=2),
    _ATEN.normal.float_float_out: _Operation(_normal, position=2),
}


class _Samplers(TorchDispatchMode):  # type: ignore[misc]
    """Draws the operations above, and leaves all others to torch."""

    # Operators of higher order (`torch.cond`) are left to torch, too.
    supports_higher_order_operators = True

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let `torch.compile` compile within the context; compiled code draws as torch compiled it."""
        return True

    def __init__(self, draws: _Draws) -> None:
        super().__init__()
        self._draws = draws

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        operation = _OPERATIONS.get(func)
        if (operation is not None or func in _BY_TENSORS) and not types and not _is_traced():
            with torch._C.DisableTorchFunction():
                made = (
                    _drawn_by_tensors(self._draws, func, args, kwargs)
                    if operation is None
                    else _drawn(self._draws, operation, args, kwargs)
                )
            if made is not None:
                return made
        return func(*args, **kwargs)

    def receive(self, call: Call) -> Tensor:
        """Draw a call of a function of `torch.nn.init`, or let it proceed."""
        tensor = call.tensor
        kind: Any = type(tensor)
        with torch._C.DisableTorchFunction():
            is_drawn = (
                call.name != "dirac_"  # draws nothing
                and _get_current_dispatch_mode() is self  # an inner mode sees the operations
                and not _is_traced()
                and _is_plain(kind)
                and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
                and not torch._is_functional_tensor(tensor)
                and (torch.is_inference_mode_enabled() or not tensor.is_inference())
                and self._draws.fill(tensor, call.initializer, (), call.generator)
            )
            if is_drawn and not tensor.is_inference():
                torch.autograd.graph.increment_version(tensor)
        return tensor if is_drawn else call.proceed()


_TRACERS = tuple(torch._C._TorchDispatchModeKey.__members__.values())


def _is_traced() -> bool:
    """Return whether operations are recorded or run on fake tensors, instead of being computed."""
    return any(torch._C._get_dispatch_mode(key) is not None for key in _TRACERS)


@lru_cache(maxsize=256)
def _is_plain(kind: Any) -> bool:
    """Return whether a type is one of tensors, and operations on them are those of torch."""
    if not issubclass(kind, Tensor):
        return False
    own = getattr(kind.__torch_function__, "__func__", kind.__torch_function__)
    usual = Tensor.__torch_function__.__func__, torch._C._disabled_torch_function_impl
    return kind.__torch_dispatch__ is Tensor.__torch_dispatch__ and own in usual


# --- drawing ------------------------------------------------------------------------------------------------

_DTYPES = frozenset(getattr(torch, name) for name in DTYPES if hasattr(torch, name))
_DEVICES = ("cpu",) if torch.version.hip else ("cpu", "cuda")


class _Draws:
    """The draws of a context."""

    def __init__(self, seed: int | None) -> None:
        self._seed = seed
        self._count = 0

    @in_default_mode
    def fill(
        self, tensor: Tensor, law: _Law, parameters: tuple[Any, ...], generator: Generator | None
    ) -> bool:
        """Fill a tensor; return False, and write nothing, if torch has to do it or has to raise the error."""
        target = _destination(tensor)
        if target is None or (generator is not None and generator.device.type != tensor.device.type):
            return False
        try:
            fill = law(*parameters).resolve(target.shape)
            fill.check(target.dtype)
        except (TypeError, ValueError):
            return False
        seed, name = self._next(generator)
        run(plan([job_of(name, fill, whole(target.shape), target)], seed))
        return True

    def _next(self, generator: Generator | None) -> tuple[int, str]:
        if self._seed is None or generator is not None:
            return fresh_seed(generator), ""
        number = self._count
        self._count += 1
        return self._seed, str(number)


def _destination(tensor: Tensor) -> Destination | None:
    """Return the memory of a tensor; None if initium cannot fill it."""
    if (
        tensor.dtype not in _DTYPES
        or tensor.device.type not in _DEVICES
        or tensor.layout is not torch.strided
        or tensor.is_nested
        or type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__
    ):
        return None
    try:
        return destination_of(tensor)
    except ValueError:  # elements share memory, or there is none
        return None


def _drawn(
    draws: _Draws, operation: _Operation, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor | None:
    """Draw what a sampler of torch returns; None if torch has to."""
    position = operation.position
    model, parameters = args[position], args[:position] + args[position + 1 :]
    options = dict(kwargs)
    generator = options.pop("generator", None)
    target: Tensor
    if operation.in_place:
        target = model
    elif "out" in options:
        target = options["out"]
        shape = model.shape if isinstance(model, Tensor) else torch.Size(model)
        if target.shape != shape:
            target.resize_(shape)
    elif isinstance(model, Tensor):
        target = _ATEN.empty_like.default(model, **options)
    else:
        target = _ATEN.empty.memory_format(model, **options)
    return target if draws.fill(target, operation.law, parameters, generator) else None


def _drawn_by_tensors(
    draws: _Draws, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor | None:
    """Draw `torch.normal` with a mean or std that is a tensor; None if torch has to."""
    mean, std = args if len(args) == 2 else (args[0], 1.0)
    device = next(value.device for value in args if isinstance(value, Tensor))
    if device.type not in _DEVICES or (std.min() < 0 if isinstance(std, Tensor) and std.numel() else False):
        return None
    out: Tensor | None = kwargs.get("out")
    # The meta device knows the shape and the dtype.
    made = _ATEN.normal(*(value.to("meta") if isinstance(value, Tensor) else value for value in args))
    if out is not None and out.shape != made.shape and out.numel():
        return None  # an error, or a warning
    values = torch.empty(made.shape, dtype=made.dtype if out is None else out.dtype, device=device)
    if not draws.fill(values, _normal, (), kwargs.get("generator")):
        return None
    values.mul_(std).add_(mean)
    return values if out is None else out.resize_(values.shape).copy_(values)
