"""The floating-point mode of a thread: rounding, subnormal numbers, traps.

A caller may have changed it (``torch.set_flush_denormal``, ``fesetround``, a library built with
``-ffast-math``), and threads inherit it. Values must not depend on it. So all code that computes values runs
in the default mode of C, which rounds to nearest even, keeps subnormal numbers and has no traps.
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
    """The functions of a platform that change the mode of the calling thread.

    Attributes
    ----------
    enter
        Sets the default mode and returns the old mode.
    leave
        Sets the mode that `enter` returned.
    """

    enter: Callable[[], Any]
    leave: Callable[[Any], Any]


def _of_c99() -> _Switch:
    """Use fenv.h of glibc, musl or macOS, with the whole environment."""
    # Not `CDLL`, which releases the GIL at each call.
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
    """Use the control word of the C runtime, which includes subnormal numbers, unlike fenv.h on Windows."""
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
    except (AttributeError, OSError, ValueError):  # without these functions the mode is unchanged
        return _Switch(lambda: None, lambda before: None)


_enter, _leave = _switch()


def in_default_mode(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Return a function that runs in the default mode and then restores the mode of its caller."""

    @wraps(function)
    def inner(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        before = _enter()
        try:
            return function(*args, **kwargs)
        finally:
            _leave(before)

    return inner
