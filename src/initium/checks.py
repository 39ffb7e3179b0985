"""Checks of arguments; each error names the argument, the value and the expected values."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = [
    "MOST_AXES",
    "check_choice",
    "check_count",
    "check_finite",
    "check_integer",
    "check_name",
    "check_number",
    "check_positive",
    "check_seed",
    "check_shape",
    "check_std",
]

_SEED_LIMIT = 1 << 64
_SIZE_LIMIT = 1 << 63
#: The limit of NumPy 1; NumPy 2 allows 64 axes, and weights have few.
MOST_AXES = 32


def check_choice(argument: str, value: Any, choices: Sequence[str]) -> None:
    """Raise unless `value` is one of `choices`, which the message lists."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{argument}={value!r} is unknown; expected one of {', '.join(choices)}")


def check_number(argument: str, value: Any) -> float:
    """Return `value` as a float that is not NaN (infinities pass)."""
    if isinstance(value, (str, bytes, bool)):
        raise TypeError(f"{argument}={value!r} is not a number")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{argument}={value!r} is not a number") from None
    if math.isnan(number):
        raise ValueError(f"{argument} is NaN; expected a number")
    return number


def check_finite(argument: str, value: Any) -> float:
    """Return `value` as a finite float."""
    number = check_number(argument, value)
    if math.isinf(number):
        raise ValueError(f"{argument}={number} is not finite; expected a finite number")
    return number


def check_positive(argument: str, value: Any) -> float:
    """Return `value` as a finite float that is above zero."""
    number = check_finite(argument, value)
    if number <= 0:
        raise ValueError(f"{argument}={number} is not positive; expected a number > 0")
    return number


def check_std(argument: str, value: Any) -> float:
    """Return `value` as a finite float that is not negative."""
    number = check_finite(argument, value)
    if number < 0:
        raise ValueError(f"{argument}={number} is negative; expected a number >= 0")
    return number


def check_integer(argument: str, value: Any) -> int:
    """Return `value`, an integer of Python or NumPy but not a bool, as an int."""
    if isinstance(value, bool):
        raise TypeError(f"{argument}={value!r} is a bool; expected an integer")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{argument}={value!r} is not an integer") from None


def check_count(argument: str, value: Any, *, minimum: int = 0) -> int:
    """Return `value` as an int that is at least `minimum`."""
    number = check_integer(argument, value)
    if number < minimum:
        raise ValueError(f"{argument}={number} is too small; expected an integer >= {minimum}")
    return number


def check_seed(seed: Any) -> int:
    """Return `seed` as an int in [0, 2**64)."""
    number = check_integer("seed", seed)
    if not 0 <= number < _SEED_LIMIT:
        raise ValueError(f"seed={number} is out of range; expected an integer in [0, 2**64)")
    return number


def check_name(name: Any) -> bytes:
    """Return the UTF-8 bytes of a tensor's name."""
    try:
        return str.encode(name)
    except TypeError:
        raise TypeError(f"name={name!r} is not a string; expected the tensor's name") from None
    except UnicodeEncodeError:
        raise ValueError(f"name={name!r} has no UTF-8 form; expected text without lone surrogates") from None


def check_shape(shape: Any, argument: str = "shape") -> tuple[int, ...]:
    """Return `shape` (an int or a sequence of ints) as a tuple; the product must fit in 63 bits."""
    if isinstance(shape, tuple) and all(type(n) is int for n in shape):  # the common case, fast
        dims = shape
    else:
        dims = tuple(check_integer(argument, n) for n in _as_iterable(argument, shape))
    if len(dims) > MOST_AXES:
        raise ValueError(f"{argument} has {len(dims)} axes; expected at most {MOST_AXES}")
    for n in dims:
        if n < 0:
            raise ValueError(f"{argument}={dims} has the negative dimension {n}; expected integers >= 0")
    if math.prod(dims) >= _SIZE_LIMIT:
        raise ValueError(f"{argument}={dims} has {math.prod(dims)} elements; expected fewer than 2**63")
    return dims


def _as_iterable(argument: str, shape: Any) -> Iterable[Any]:
    if isinstance(shape, (str, bytes)):
        raise TypeError(f"{argument}={shape!r} is not a shape; expected an integer or a sequence of integers")
    if isinstance(shape, Iterable):
        return shape
    return (shape,)
