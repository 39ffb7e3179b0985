"""The cache of compiled kernels on disk: one file for each function and types of arguments.

The name of a file is a hash of all that its code depends on. A file holds a digest and a pickle of the
compiled code. The digest detects damage. `trusted` protects against other users, since a pickle can run code
when it is loaded. An error here does not stop a call: the kernel is compiled again, and a warning is given
once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from initium.kernels.cpu import trusted

__all__ = ["DamagedError", "KernelCache", "KernelCacheWarning", "cache_folder", "load", "save"]

_MAGIC = b"initium kernel 1\n"
_DIGEST_BYTES = 32
_SUFFIX, _UNFINISHED = ".kernel", ".part"
# The limit of the folder. A kernel needs 0.1 to 0.2 MB, and all kernels of one version need 5 MB.
_MOST_BYTES = 1 << 28
_DAY = 86_400.0


class KernelCacheWarning(UserWarning):
    """Compiled kernels could not be loaded or saved; values are correct, but the first call takes longer."""


class DamagedError(Exception):
    """The content of a file differs from what was written."""


# --- the folder ---------------------------------------------------------------------------------------------


def _chosen_folder() -> Path | None:
    """Return ``INITIUM_CACHE_DIR``; it must be absolute: a relative path depends on the current folder."""
    chosen = os.environ.get("INITIUM_CACHE_DIR")
    if not chosen:
        return None
    if not Path(chosen).is_absolute():
        raise ValueError(f"INITIUM_CACHE_DIR={chosen!r} is a relative path; expected an absolute one")
    return Path(chosen)


def _user_folder() -> Path:
    if sys.platform == "win32":
        return (_absolute("LOCALAPPDATA") or _home() / "AppData" / "Local") / "initium" / "cache"
    if sys.platform == "darwin":
        return _home() / "Library" / "Caches" / "initium"
    return (_absolute("XDG_CACHE_HOME") or _home() / ".cache") / "initium"


def _absolute(variable: str) -> Path | None:
    """Return the path in a variable; a relative path is ignored, as in the XDG specification."""
    path = Path(os.environ.get(variable, ""))
    return path if path.is_absolute() else None


def _home() -> Path:
    try:
        home = Path.home()
    except RuntimeError:
        home = Path()
    if not home.is_absolute():
        raise OSError("there is no home folder; expected an absolute path in INITIUM_CACHE_DIR")
    return home


def cache_folder() -> Path:
    """Return the folder of compiled kernels, within ``INITIUM_CACHE_DIR`` or the user's cache folder."""
    return (_chosen_folder() or _user_folder()) / "kernels"


# --- files --------------------------------------------------------------------------------------------------


def _digest(name: str, content: bytes) -> bytes:
    # The digest includes the name, so a file with the name of another kernel counts as damaged.
    return hashlib.blake2b(name.encode() + b"\0" + content, digest_size=_DIGEST_BYTES).digest()


def load(name: str) -> bytes | None:
    """Return the bytes that were saved under a name; None if there are none.

    Raises
    ------
    OSError
        If the file cannot be read, or another user could have changed it.
    DamagedError
        If the content differs from what was written.
    """
    folder = cache_folder()
    try:
        path = trusted.real_folder(folder) / (name + _SUFFIX)
        stored = trusted.read_file(path)
    except FileNotFoundError:
        return None
    start = len(_MAGIC) + _DIGEST_BYTES
    content = stored[start:]
    if stored[:start] != _MAGIC + _digest(name, content):
        raise DamagedError(f"{path} is damaged")
    _mark_as_used(path)
    return content


def save(name: str, content: bytes) -> None:
    """Save bytes under a name, and replace an older file."""
    folder = trusted.make_folder(cache_folder())
    _prune(folder)
    path = folder / (name + _SUFFIX)
    unfinished = folder / f"{name}.{os.urandom(8).hex()}{_UNFINISHED}"
    try:
        with open(unfinished, "xb", opener=_private) as file:
            file.write(_MAGIC + _digest(name, content) + content)
        unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise


def _private(path: str, flags: int) -> int:
    descriptor = os.open(path, flags, 0o600)
    if hasattr(os, "fchmod"):
        os.fchmod(descriptor, 0o600)  # independent of the umask
    return descriptor


def _mark_as_used(path: Path) -> None:
    """Update the time of a file at most once per day; `_prune` removes the least recently used files."""
    with contextlib.suppress(OSError):
        if path.stat().st_mtime < time.time() - _DAY:
            os.utime(path)


def _prune(folder: Path) -> None:
    """Remove unfinished files of killed processes, and the oldest kernels beyond `_MOST_BYTES`."""
    kernels = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            found = path.lstat()
            if path.suffix == _SUFFIX:
                kernels.append((found.st_mtime, found.st_size, path))
            elif path.suffix == _UNFINISHED and found.st_mtime < time.time() - _DAY:
                path.unlink()
    total = sum(size for _, size, _ in kernels)
    for _, size, path in sorted(kernels):
        if total <= _MOST_BYTES:
            break
        with contextlib.suppress(OSError):
            path.unlink()
        total -= size


# --- the interface for Numba --------------------------------------------------------------------------------


class KernelCache:
    """The cache object of a Numba function, which loads and saves compiled code.

    It replaces Numba's cache, which neither checks its files nor replaces damaged ones, and which has an
    index that several processes write.

    Parameters
    ----------
    function
        The Python function.
    stamp
        Returns a text that depends on all that compiled code depends on, except its function and types.
    """

    cache_path = None

    def __init__(self, function: Callable[..., Any], stamp: Callable[[], str]) -> None:
        self._function, self._stamp = function, stamp

    def load_overload(self, signature: Any, target: Any) -> Any:
        """Return the compiled function for types of arguments; None if it must be compiled."""
        _chosen_folder()  # raises for a wrong setting
        try:
            target.refresh()
            content = load(self._name(signature, target.codegen()))
            return None if content is None else _rebuilt(target, content)
        except Exception as error:  # noqa: BLE001 (a cache never stops a call)
            _report("could not load a compiled kernel, and compiles it again", error)
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Save a compiled function."""
        try:
            save(self._name(signature, compiled.codegen), _reduced(compiled))
        except Exception as error:  # noqa: BLE001 (a cache never stops a call)
            _report("could not save a compiled kernel, which the next process compiles again", error)

    def flush(self) -> None:
        """Do nothing, since the name of a file depends on all that its code depends on."""

    def _name(self, signature: Any, codegen: Any) -> str:
        function = self._function
        depends = self._stamp(), function.__module__, function.__qualname__, function.__code__.co_code
        key = repr((*depends, signature, codegen.magic_tuple()))
        return f"{function.__name__.strip('_')}-{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}"


# Numba's internals are imported in these functions, so that a missing one is reported and is not an error.


def _rebuilt(target: Any, content: bytes) -> Any:
    from numba.core.compiler import CompileResult

    return CompileResult._rebuild(target, *pickle.loads(content))


def _reduced(compiled: Any) -> bytes:
    from numba.core.serialize import dumps

    if compiled.lifted or compiled.library.has_dynamic_globals:
        raise NotImplementedError(
            "the code contains addresses of this process; expected other Numba settings"
        )
    content: bytes = dumps(compiled._reduce())
    return content


_reported: set[str] = set()


def _report(what: str, error: Exception) -> None:
    """Warn once per process for each kind of failure and for each cause."""
    cause = f"{type(error).__name__}: {error}"
    known = what in _reported or cause in _reported
    _reported.update((what, cause))
    if not known:
        warnings.warn(f"initium {what}: {cause}", KernelCacheWarning, stacklevel=2)
