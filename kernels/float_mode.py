"""The floating-point mode of a thread: rounding, subnormal numbers, traps.

A caller may have changed it (``torch.set_flush_denormal``, ``fesetround``, a library built with
``-ffast-math``), and threads inherit it. Values must not depend on it: all that makes them runs in the
default mode of C, which rounds to nearest even, keeps subnormal numbers and has no traps.
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


class _Switch(NamedTuple):
    """How a platform changes the mode of the calling thread.

    Attributes
    ----------
    enter
        Sets the default mode and returns what was set before.
    leave
        Sets what `enter` returned.
    """

    enter: Callable[[], Any]
    leave: Callable[[Any], Any]


def _of_c99() -> _Switch:
    """Use fenv.h: the whole environment, as glibc, musl and macOS keep it."""
    # Not `CDLL`, which would let other threads run at each call.
    library = ctypes.PyDLL(None)
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
    """Use the control word of the C runtime, which covers what fenv.h there leaves out: subnormal numbers."""
    control = ctypes.PyDLL("ucrtbase")._controlfp
    control.argtypes, control.restype = (ctypes.c_uint, ctypes.c_uint), ctypes.c_uint
    masked_traps = 0x0008001F
    fields = masked_traps | 0x00000300 | 0x03000000  # and rounding, and subnormal numbers

    def enter() -> Any:
        before = control(0, 0)
        control(masked_traps, fields)
        return before

    return _Switch(enter, lambda before: control(before, fields))


def _switch() -> _Switch:
    try:
        return _of_windows() if sys.platform == "win32" else _of_c99()
    except (AttributeError, OSError, ValueError):  # no such functions: the mode stays as it is
        return _Switch(lambda: None, lambda before: None)


_enter, _leave = _switch()


def in_default_mode(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Let a function run in the default mode, and give its caller's mode back afterwards."""

    @wraps(function)
    def inner(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        before = _enter()
        try:
            return function(*args, **kwargs)
        finally:
            _leave(before)

    return inner
