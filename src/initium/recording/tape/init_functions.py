"""Functions of `torch.nn.init` as initializers: what a call asks for, and who receives it.

`trunc_normal_`, `orthogonal_`, `sparse_` and `dirac_` return early for meta tensors, and on others they run
loops and factorisations in which the distribution is hard to see.
"""

from __future__ import annotations

import inspect
import threading
import types
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from initium.initializers.basic import Constant, Initializer, TruncatedNormal
from initium.initializers.identities import Dirac
from initium.initializers.orthogonal import Orthogonal
from initium.initializers.sparse import Sparse
from initium.layouts import OUT_IN

__all__ = ["DrawFunction", "functions", "receive", "receivers"]

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

    function: Any
    original: types.FunctionType
    signature: inspect.Signature
    initializer: Callable[..., Initializer]


#: The receiver of each thread, in `active`.
receivers = threading.local()


@cache
def functions() -> dict[str, _Function]:
    """Return the functions by name."""
    found = {}
    for name, initializer in _FUNCTIONS.items():
        function = getattr(torch.nn.init, name)
        original = types.FunctionType(
            function.__code__, function.__globals__, name, function.__defaults__, function.__closure__
        )
        original.__kwdefaults__ = function.__kwdefaults__
        found[name] = _Function(function, original, inspect.signature(function), initializer)
    return found


def receive(name: str, *args: Any, **kwargs: Any) -> Tensor:
    """Hand a call of a function of `torch.nn.init` to this thread's receiver, or to its own code if none."""
    entry = functions()[name]
    receiver: DrawFunction | None = getattr(receivers, "active", None)
    if receiver is None or kwargs.get("generator") is not None:
        return entry.original(*args, **kwargs)
    bound = entry.signature.bind(*args, **kwargs)
    bound.apply_defaults()
    tensor: Tensor = bound.arguments["tensor"]
    receiver(tensor, entry.initializer(**bound.arguments))
    return tensor
