"""Hands calls of some functions of `torch.nn.init` to a receiver, under whatever names libraries hold them.

timm imports the functions, and transformers keeps a table of them, so replacing the attributes of
`torch.nn.init` does not reach all calls. What is replaced is the code of the functions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from initium.recording.tape.init_functions import Call, DrawFunction, functions, receivers

__all__ = ["calls_intercepted", "intercepted"]

_lock = threading.Lock()
_depth = 0

# The code that takes the place of each function's own. It uses none of the globals of `torch.nn.init`.


def _trunc_normal_(*args: Any, **kwargs: Any) -> Tensor:
    from initium.recording.tape.init_functions import receive

    return receive("trunc_normal_", *args, **kwargs)


def _orthogonal_(*args: Any, **kwargs: Any) -> Tensor:
    from initium.recording.tape.init_functions import receive

    return receive("orthogonal_", *args, **kwargs)


def _sparse_(*args: Any, **kwargs: Any) -> Tensor:
    from initium.recording.tape.init_functions import receive

    return receive("sparse_", *args, **kwargs)


def _dirac_(*args: Any, **kwargs: Any) -> Tensor:
    from initium.recording.tape.init_functions import receive

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
        if call.generator not in (None, torch.default_generator):
            return call.proceed()  # its operations name the generator
        receiver(call.tensor, call.initializer())
        return call.tensor

    with calls_intercepted(draw):
        yield


@contextmanager
def calls_intercepted(receiver: Callable[[Call], Tensor]) -> Iterator[None]:
    """As `intercepted`, for a receiver that returns the result of the call and may let it proceed."""
    global _depth
    before = getattr(receivers, "active", None)

    def innermost(call: Call) -> Tensor:
        return receiver(call if before is None else call._replace(proceed=partial(before, call)))

    with _lock:
        _depth += 1
        if _depth == 1:
            for name, entry in functions().items():
                entry.function.__code__ = _CODES[name]
    receivers.active = innermost
    try:
        yield
    finally:
        receivers.active = before
        with _lock:
            _depth -= 1
            if not _depth:
                for entry in functions().values():
                    entry.function.__code__ = entry.original.__code__
