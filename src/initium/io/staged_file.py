"""A file that is written before it gets its name: past the page cache where that can be."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

__all__ = ["BLOCK", "StagedFile"]

#: Direct writes begin and end, in memory and in the file, at multiples of this.
BLOCK = 4096

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


class StagedFile:
    """A file under a temporary name.

    Parameters
    ----------
    path
        Where it is written; what a killed run left there is removed.
    final
        The name it gets in the end, by which errors call it.
    direct
        Go past the page cache, where the file system can. Each write, but for the last, must then be of
        memory that begins at a multiple of `BLOCK` and is a multiple of it long.

    Notes
    -----
    Why direct: on a machine of two cores with a virtual disk, 16 GB took 16 s so, as `dd` does with
    ``oflag=direct``, and 40 to 56 s through the page cache, whose copies take a core from the samplers and
    which throttles its writers.
    """

    def __init__(self, path: Path, final: Path, *, direct: bool = False):
        self.path, self.final = path, final
        # One thread may close the file, after an interrupt, while another one writes.
        self._lock, self._is_closing = threading.Lock(), False
        try:
            path.unlink(missing_ok=True)
            self._descriptor = _above_standard_streams(os.open(path, _FLAGS, 0o666))
        except OSError as error:
            raise self._named(error) from error
        self._direct = direct and _set_direct(self._descriptor, True)

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`."""
        rest = memoryview(data)
        try:
            while rest:
                with self._lock:
                    if self._is_closing:
                        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
                    written = self._write_some(rest)
                rest = rest[written:]
        except OSError as error:
            raise self._named(error) from error

    def _write_some(self, data: memoryview) -> int:
        blocks = len(data) - len(data) % BLOCK
        if self._direct and not blocks:
            self._direct = _set_direct(self._descriptor, False)
        if not self._direct:
            return os.write(self._descriptor, data)
        try:
            return os.write(self._descriptor, data[:blocks])
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._direct = _set_direct(self._descriptor, False)  # after a short write, or larger blocks
            return 0

    def finish(self) -> None:
        """Wait until the data is on the disk, and close."""
        try:
            with self._lock:
                os.fsync(self._descriptor)
        except OSError as error:  # where writes are cached, a full or broken disk shows only here
            raise self._named(error) from error
        self.close()

    def close(self) -> None:
        """Close; harmless when closed."""
        self._is_closing = True
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _named(self, error: OSError) -> OSError:
        return OSError(error.errno, error.strerror, str(self.final))


def _above_standard_streams(descriptor: int) -> int:
    """Return a duplicate that is none of 0, 1, 2: what is printed would land in the file."""
    if descriptor > 2:
        return descriptor
    try:
        return _above_standard_streams(os.dup(descriptor))
    finally:
        os.close(descriptor)


def _set_direct(descriptor: int, on: bool) -> bool:
    """Switch direct writing on or off; return whether it is on."""
    if not hasattr(os, "O_DIRECT"):
        return False
    import fcntl

    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT if on else flags & ~os.O_DIRECT)
    except OSError as error:
        if on and error.errno == errno.EINVAL:  # the file system knows no direct writes
            return False
        raise
    return on
