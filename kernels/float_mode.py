"""The floating-point mode of a thread: how it rounds, and whether it keeps subnormal numbers.

A caller may have changed it (``torch.set_flush_denormal``, ``fesetround``, a library built with
``-ffast-math``), and threads inherit it. Values must not depend on it. So all code that computes values runs
in the default mode of C, which rounds to nearest even and keeps subnormal numbers.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

__all__ = ["in_default_mode"]

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

# Variables, since Python computes products and sums of constants when it compiles this file.
_ONE, _SMALL, _HALF, _LARGE = 1.0, 2.0**-60, 0.5, 2.0**1000
_LEAST_NORMAL = 2.0**-1022


def _is_default() -> bool:
    """Return whether the mode is the default one, by results, since a call of the C library costs more.

    The first product is a subnormal number, and the second product shows whether it became zero. 1 + 2**-60
    and 1 - 2**-60 both round to 1 to nearest; no other mode rounds them to the same number.
    """
    return _LEAST_NORMAL * _HALF * _LARGE > 0.0 and _ONE + _SMALL == _ONE - _SMALL


class _Switch(NamedTuple):
    """The functions of a platform that change the mode of the calling thread.

    Attributes
    ----------
    enter
        Sets the default mode and returns the mode before.
    leave
        Sets the mode that `enter` returned.
    """

    enter: Callable[[], Any]
    leave: Callable[[Any], Any]


def _of_c99() -> _Switch:
    """Use fenv.h of glibc, musl or macOS, with the whole environment."""
    library = ctypes.CDLL(None)
    save, restore = library.fegetenv, library.fesetenv
    environment = ctypes.c_char * 64  # no platform needs more than 32 bytes
    default: Any
    if sys.platform == "darwin":
        default = ctypes.byref(environment.in_dll(library, "_FE_DFL_ENV"))
    else:
        default = ctypes.c_void_p(-1)

    def enter() -> Any:
        before = environment()
        save(before)
        restore(default)
        return before

    return _Switch(enter, restore)


def _of_windows() -> _Switch:
    """Use the control word of the C runtime, which includes subnormal numbers, unlike fenv.h on Windows."""
    control = ctypes.CDLL("ucrtbase")._controlfp
    control.argtypes, control.restype = (ctypes.c_uint, ctypes.c_uint), ctypes.c_uint
    fields = 0x00000300 | 0x03000000  # rounding, and subnormal numbers; zeros are the defaults

    def enter() -> Any:
        before = control(0, 0)
        control(0, fields)
        return before

    return _Switch(enter, lambda before: control(before, fields))


def _switch() -> _Switch:
    try:
        return _of_windows() if sys.platform == "win32" else _of_c99()
    except (AttributeError, OSError, ValueError):  # no such functions: the mode is left unchanged
        return _Switch(lambda: None, lambda before: None)


_enter, _leave = _switch()


def in_default_mode(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Let a function run in the default mode, and restore the mode of its caller afterwards."""

    @wraps(function)
    def inner(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        if _is_default():
            return function(*args, **kwargs)
        before = _enter()
        try:
            return function(*args, **kwargs)
        finally:
            _leave(before)

    return inner
