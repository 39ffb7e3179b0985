"""Compiled kernels on disk: a file for each function and types of arguments, named after all it depends on.

A file holds a digest and a pickle of what Numba made. The digest is against damage; `trusted` is against
other users, since whoever writes a pickle runs code in the process that reads it. Nothing that fails here
stops a call: its kernel is compiled again, and a warning says so once.
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
# A kernel takes 0.1 to 0.2 MB, all of one version 5 MB.
_MOST_BYTES = 1 << 28
_DAY = 86_400.0


class KernelCacheWarning(UserWarning):
    """Compiled kernels could not be loaded or kept; values are right, but the first call takes longer."""


class DamagedError(Exception):
    """What a file holds is not what was written."""


# --- where --------------------------------------------------------------------------------------------------


def _chosen_folder() -> Path | None:
    """Return ``INITIUM_CACHE_DIR``; a relative path would mean another folder in each working directory."""
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
    """Return the path that a variable holds; a relative one is ignored, as the XDG specification says."""
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
    # With the name: a file under the name of another kernel is damage, too.
    return hashlib.blake2b(name.encode() + b"\0" + content, digest_size=_DIGEST_BYTES).digest()


def load(name: str) -> bytes | None:
    """Return what was saved under a name; None if nothing was.

    Raises
    ------
    OSError
        If it cannot be read, or another user could have changed it.
    DamagedError
        If it is not what was written.
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
    """Keep bytes under a name, in place of what was there."""
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
        os.fchmod(descriptor, 0o600)  # whatever the umask
    return descriptor


def _mark_as_used(path: Path) -> None:
    """Set a file's time, once a day at most: `_prune` removes what was not used for longest."""
    with contextlib.suppress(OSError):
        if path.stat().st_mtime < time.time() - _DAY:
            os.utime(path)


def _prune(folder: Path) -> None:
    """Remove what killed processes left unfinished, and the oldest kernels beyond `_MOST_BYTES`."""
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


# --- what Numba asks ----------------------------------------------------------------------------------------


class KernelCache:
    """What a function of Numba asks for compiled code, and gives it to keep.

    In place of Numba's own cache, which neither checks its files nor replaces damaged ones, and whose index
    several processes write.

    Parameters
    ----------
    function
        The Python function.
    stamp
        Returns what changes with all that compiled code depends on, save for its function and types.
    """

    cache_path = None

    def __init__(self, function: Callable[..., Any], stamp: Callable[[], str]) -> None:
        self._function, self._stamp = function, stamp

    def load_overload(self, signature: Any, target: Any) -> Any:
        """Return the compiled function for types of arguments; None if it must be compiled."""
        _chosen_folder()  # a setting that makes no sense is an error
        try:
            target.refresh()
            content = load(self._name(signature, target.codegen()))
            return None if content is None else _rebuilt(target, content)
        except Exception as error:  # noqa: BLE001 (a cache never stops a call)
            _report("could not load a compiled kernel, and compiles it again", error)
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep a compiled function."""
        try:
            save(self._name(signature, compiled.codegen), _reduced(compiled))
        except Exception as error:  # noqa: BLE001 (a cache never stops a call)
            _report("could not keep a compiled kernel, which the next process compiles again", error)

    def flush(self) -> None:
        """Forget nothing: each file is named after all that it depends on."""

    def _name(self, signature: Any, codegen: Any) -> str:
        function = self._function
        depends = self._stamp(), function.__module__, function.__qualname__, function.__code__.co_code
        key = repr((*depends, signature, codegen.magic_tuple()))
        return f"{function.__name__.strip('_')}-{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}"


# Numba's internals are imported where their lack is reported, and not an error.


def _rebuilt(target: Any, content: bytes) -> Any:
    from numba.core.compiler import CompileResult

    return CompileResult._rebuild(target, *pickle.loads(content))


def _reduced(compiled: Any) -> bytes:
    from numba.core.serialize import dumps

    if compiled.lifted or compiled.library.has_dynamic_globals:
        raise NotImplementedError("as Numba is set, its code holds addresses of one process")
    content: bytes = dumps(compiled._reduce())
    return content


_reported: set[str] = set()


def _report(what: str, error: Exception) -> None:
    """Warn of each trouble once in a process, and once of what causes several."""
    cause = f"{type(error).__name__}: {error}"
    known = what in _reported or cause in _reported
    _reported.update((what, cause))
    if not known:
        warnings.warn(f"initium {what}: {cause}", KernelCacheWarning, stacklevel=2)
