"""Functions of `torch.nn.init` whose work no operation on a meta tensor shows, called at the level of the function.

`trunc_normal_`, `orthogonal_`, `sparse_` and `dirac_` return early for meta tensors, and on others they run
loops and factorisations in which the distribution is hard to see. Libraries hold these functions under names
of their own (timm imports them, transformers keeps a table of them), so replacing the attributes of
`torch.nn.init` does not reach all calls. What is replaced is their code.
"""

from __future__ import annotations

import inspect
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from initium.initializers.basic import Constant, Initializer, TruncatedNormal
from initium.initializers.identities import Dirac
from initium.initializers.orthogonal import Orthogonal
from initium.initializers.sparse import Sparse
from initium.layouts import OUT_IN

__all__ = ["Call", "DrawFunction", "calls_intercepted", "intercepted"]

#: What receives a call: the tensor, and the initializer that the call asks for.
DrawFunction = Callable[[Tensor, Initializer], None]


def _truncated(
    tensor: Tensor, mean: float, std: float, a: float, b: float, generator: Any = None
) -> Initializer:
    if std == 0 or a >= b:
        raise ValueError(f"trunc_normal_(mean={mean}, std={std}, a={a}, b={b}) has no distribution")
    return TruncatedNormal(float(mean), float(std), float(a), float(b), absolute=True)


def _orthogonal(tensor: Tensor, gain: float, generator: Any = None) -> Initializer:
    if tensor.ndim < 2:
        raise ValueError("Only tensors with 2 or more dimensions are supported")
    return Orthogonal(float(gain), layout=OUT_IN) if tensor.numel() else Constant(0.0)


def _sparse(tensor: Tensor, sparsity: float, std: float, generator: Any = None) -> Initializer:
    if tensor.ndim != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    return Sparse(float(sparsity), float(std))


def _dirac(tensor: Tensor, groups: int) -> Initializer:
    if not 3 <= tensor.ndim <= 5:
        raise ValueError("Only tensors with 3, 4, or 5 dimensions are supported")
    if tensor.shape[0] % groups:
        raise ValueError("dim 0 must be divisible by groups")
    return Dirac(groups, layout=OUT_IN)


#: The initializer of a call, by the name of the function.
_FUNCTIONS: dict[str, Callable[..., Initializer]] = {
    "trunc_normal_": _truncated,
    "orthogonal_": _orthogonal,
    "sparse_": _sparse,
    "dirac_": _dirac,
}


class _Function(NamedTuple):
    """A function of `torch.nn.init`: itself, a copy with its own code, and how its arguments are read."""

    function: types.FunctionType
    original: types.FunctionType
    signature: inspect.Signature
    initializer: Callable[..., Initializer]


class Call(NamedTuple):
    """A call of an intercepted function.

    Attributes
    ----------
    name
        The name of the function.
    tensor
        The tensor that it fills.
    initializer
        Returns the initializer that the call asks for; raises if there is none.
    generator
        The generator that the call names.
    proceed
        Does what the call does without this receiver, and returns its result.
    """

    name: str
    tensor: Tensor
    initializer: Callable[[], Initializer]
    generator: torch.Generator | None
    proceed: Callable[[], Tensor]


_receivers = threading.local()
_lock = threading.Lock()
_depth = 0


#: The functions at the time of the import: later, another library may have put its own in their place.
_FOUND = {name: getattr(torch.nn.init, name) for name in _FUNCTIONS}


@cache
def _functions() -> dict[str, _Function]:
    found = {}
    for name, initializer in _FUNCTIONS.items():
        function = _FOUND[name]
        if getattr(getattr(function, "__code__", None), "co_filename", None) != torch.nn.init.__file__:
            continue  # not torch's function; what it calls is received
        original = types.FunctionType(
            function.__code__, function.__globals__, name, function.__defaults__, function.__closure__
        )
        original.__kwdefaults__ = function.__kwdefaults__
        found[name] = _Function(function, original, inspect.signature(function), initializer)
    return found


def receive(name: str, *args: Any, **kwargs: Any) -> Tensor:
    """Hand a call of a function of `torch.nn.init` to this thread's receiver; without one, run its own code."""
    entry = _functions()[name]
    receiver: Callable[[Call], Tensor] | None = getattr(_receivers, "active", None)
    if receiver is None:
        return entry.original(*args, **kwargs)  # type: ignore[no-any-return]
    try:
        bound = entry.signature.bind(*args, **kwargs)
    except TypeError:
        return entry.original(*args, **kwargs)  # raises torch's own message
    bound.apply_defaults()
    given = bound.arguments
    initializer = partial(entry.initializer, **given)
    proceed = partial(entry.original, *args, **kwargs)
    return receiver(Call(name, given["tensor"], initializer, given.get("generator"), proceed))


# The code that takes the place of each function's own. It uses none of the globals of `torch.nn.init`.


def _trunc_normal_(*args: Any, **kwargs: Any) -> Tensor:
    from initium.recording.interception import receive

    return receive("trunc_normal_", *args, **kwargs)


def _orthogonal_(*args: Any, **kwargs: Any) -> Tensor:
    from initium.recording.interception import receive

    return receive("orthogonal_", *args, **kwargs)


def _sparse_(*args: Any, **kwargs: Any) -> Tensor:
    from initium.recording.interception import receive

    return receive("sparse_", *args, **kwargs)


def _dirac_(*args: Any, **kwargs: Any) -> Tensor:
    from initium.recording.interception import receive

    return receive("dirac_", *args, **kwargs)


_CODES = {
    "trunc_normal_": _trunc_normal_.__code__,
    "orthogonal_": _orthogonal_.__code__,
    "sparse_": _sparse_.__code__,
    "dirac_": _dirac_.__code__,
}


@contextmanager
def intercepted(receiver: DrawFunction) -> Iterator[None]:
    """Hand this thread's calls of the functions to `receiver` while the context is active."""

    def draw(call: Call) -> Tensor:
        receiver(call.tensor, call.initializer())
        return call.tensor

    with calls_intercepted(draw):
        yield


@contextmanager
def calls_intercepted(receiver: Callable[[Call], Tensor]) -> Iterator[None]:
    """As `intercepted`, for a receiver that returns the result of the call and may let it proceed."""
    global _depth
    before = getattr(_receivers, "active", None)

    def innermost(call: Call) -> Tensor:
        return receiver(call if before is None else call._replace(proceed=partial(before, call)))

    with _lock:
        _depth += 1
        if _depth == 1:
            for name, entry in _functions().items():
                entry.function.__code__ = _CODES[name]
    _receivers.active = innermost
    try:
        yield
    finally:
        _receivers.active = before
        with _lock:
            _depth -= 1
            if not _depth:
                for entry in _functions().values():
                    entry.function.__code__ = entry.original.__code__
