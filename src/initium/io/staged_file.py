"""A file under a temporary name, written without the page cache if possible."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

__all__ = ["BLOCK", "StagedFile"]

#: Alignment of direct writes, in memory and in the file.
BLOCK = 4096

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


class StagedFile:
    """A file under a temporary name.

    Parameters
    ----------
    path
        The temporary path; a file of a killed run is removed.
    final
        The final path, which is used in error messages.
    direct
        Bypass the page cache (O_DIRECT) if the file system supports it. Then each write except the last must
        have an address and a length that are multiples of `BLOCK`.

    Notes
    -----
    The page cache copies all data, which takes time from the samplers, and it throttles its writers. The
    section "Checkpoints" of benchmarks/README.md gives figures.
    """

    def __init__(self, path: Path, final: Path, *, direct: bool = False):
        self.path, self.final = path, final
        # One thread can close the file after an interrupt, while another one writes. The first can hold the
        # lock already, if the interrupt came just before the release.
        self._lock, self._is_closing = threading.RLock(), False
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
        except OSError as error:  # with cached writes, the error of a full disk occurs only here
            raise self._named(error) from error
        self.close()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._is_closing = True
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _named(self, error: OSError) -> OSError:
        return OSError(error.errno, error.strerror, str(self.final))


def _above_standard_streams(descriptor: int) -> int:
    """Return a duplicate descriptor above 2, since printed text goes to the descriptors 0 to 2."""
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
        if on and error.errno == errno.EINVAL:  # the file system does not support direct writes
            return False
        raise
    return on
