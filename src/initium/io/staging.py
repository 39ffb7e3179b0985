"""Files that appear together: written under temporary names, renamed when all of them are whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["BLOCK", "PREFIX", "TEMPORARY_SUFFIX", "StagedFile", "Staging", "temporary"]

#: What the name of every temporary file begins with.
PREFIX = "initium-partial-"
#: What it ends in, so that no loader takes it for weights.
TEMPORARY_SUFFIX = ".tmp"

#: Direct writes begin and end, in memory and in the file, at multiples of this.
BLOCK = 4096

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


def temporary(final: Path) -> Path:
    """Return the temporary name of `final`, in the same folder."""
    return final.with_name(f"{PREFIX}{final.name}{TEMPORARY_SUFFIX}")


class StagedFile:
    """A file under its temporary name.

    Parameters
    ----------
    final
        The name it gets in the end.
    direct
        Go past the page cache, where the file system can. Each write, but for the last, must then be of
        memory that begins at a multiple of `BLOCK` and is a multiple of it long.

    Notes
    -----
    Why direct: on a machine of two cores with a virtual disk, 16 GB took 16 s so, as `dd` does with
    ``oflag=direct``, and 40 to 56 s through the page cache, whose copies take a core from the samplers and
    which throttles its writers.
    """

    def __init__(self, final: Path, *, direct: bool = False):
        self.final = final
        self.temporary = temporary(final)
        self.temporary.unlink(missing_ok=True)  # of a run that was killed
        self._descriptor = os.open(self.temporary, _FLAGS, 0o666)
        self._direct = direct and _set_direct(self._descriptor, True)
        self._identity: tuple[int, ...] = ()  # known once closed

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._write_some(rest) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.final)) from error

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
            os.fsync(self._descriptor)
        except OSError as error:  # where writes are cached, a full or broken disk shows only here
            raise OSError(error.errno, error.strerror, str(self.final)) from error
        self.close()

    def close(self) -> None:
        """Close; harmless when closed."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._identity = _identity(os.fstat(descriptor))
            os.close(descriptor)

    def rename(self) -> None:
        """Give the file its final name."""
        if not self._is_at(self.temporary):
            raise FileExistsError(errno.EEXIST, "Another run is writing the same output", str(self.final))
        self.temporary.replace(self.final)

    def discard(self) -> None:
        """Remove the file, under whichever name it has; files of other runs are left alone."""
        self.close()
        for path in (self.temporary, self.final):
            if self._is_at(path):
                path.unlink()

    def _is_at(self, path: Path) -> bool:
        try:
            return _identity(path.lstat()) == self._identity
        except FileNotFoundError:
            return False


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


def _identity(status: os.stat_result) -> tuple[int, ...]:
    # Inode numbers are used again at once; size and time tell another run's file from this one's.
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class Staging:
    """The files of one output.

    A context manager: unless `commit` came to its end, leaving it removes all files it made. A killed
    process leaves temporary files only, or, when killed within `commit`, the last file as a temporary.
    """

    def __init__(self) -> None:
        self._files: list[StagedFile] = []
        self._committed = False

    def create(self, final: Path, *, direct: bool = False) -> StagedFile:
        """Open the temporary file that will become `final`; see `StagedFile`."""
        self._files.append(StagedFile(final, direct=direct))
        return self._files[-1]

    def commit(self, obsolete: Iterable[Path] = ()) -> None:
        """Remove the `obsolete` files, then rename all files in the order of their creation.

        So at no time do old and new files stand side by side with a last file that names them.
        """
        for path in obsolete:
            path.unlink(missing_ok=True)
        for file in self._files:
            file.rename()
        self._committed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._committed:
            for file in self._files:
                file.discard()
