"""A lock on one output; the system releases it when the process ends in any way."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path

__all__ = ["Lock"]

_NAME = "lock"
_ATTEMPTS = 100
_NOT_SUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.ENOLCK)

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EDEADLK):
                return False
            raise
        return True

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        # Unlike `fcntl.lockf`, it also works between threads, and another descriptor of the file can be
        # closed without releasing it.
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class Lock:
    """A locked file in its own folder; both are removed when the lock is released.

    Parameters
    ----------
    folder
        The folder, which is created if it does not exist, with the folders above it.
    output
        The path in error messages.

    Raises
    ------
    FileExistsError
        If another run, in this process or another, holds the lock.

    Warns
    -----
    RuntimeWarning
        If the file system has no locks; the run continues without a lock.
    """

    def __init__(self, folder: Path, output: Path) -> None:
        self._folder, self._path = folder, folder / _NAME
        self._descriptor = -1
        for _ in range(_ATTEMPTS):
            if self._opened(output):
                if not self._locked(output):
                    self._close()
                    raise FileExistsError(errno.EEXIST, "Another run is writing this output", str(output))
                if self.is_current():
                    return
                self._close()  # the last holder has removed the file in the meantime
        raise FileNotFoundError(errno.ENOENT, "Is removed again and again", str(folder))

    def _opened(self, output: Path) -> bool:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            return False  # another run has just ended and removed its folder
        except FileExistsError as error:
            raise FileExistsError(errno.EEXIST, "In the way of a folder", str(self._folder)) from error
        except OSError as error:
            self._remove_folder()
            raise OSError(error.errno, error.strerror, str(output)) from error
        return True

    def _locked(self, output: Path) -> bool:
        try:
            return _try_lock(self._descriptor)
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                self._close()
                raise OSError(error.errno, error.strerror, str(output)) from error
        warnings.warn(
            f"{output}: the file system has no locks; start no second run of this output",
            RuntimeWarning,
            stacklevel=2,
        )
        return True

    def is_current(self) -> bool:
        """Return whether the folder still holds the locked file, not the file of another run."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), self._path.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Release the lock, and remove the file, and the folder if it is empty."""
        if self._descriptor < 0:
            return
        mine = False
        with suppress(OSError):
            mine = self.is_current()
        # Windows cannot remove an open file. On other systems the file is removed while it is locked.
        if sys.platform == "win32":
            self._close()
            self._remove_file(mine)
        else:
            self._remove_file(mine)
            self._close()
        self._remove_folder()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _remove_file(self, mine: bool) -> None:
        if mine:
            with suppress(OSError):
                self._path.unlink()

    def _remove_folder(self) -> None:
        with suppress(OSError):  # unless it is empty
            self._folder.rmdir()

    __del__ = _close
