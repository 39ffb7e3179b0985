"""The paths of the files of one output before, during and after a switch."""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "KEPT_PREFIX",
    "PARTIAL_PREFIX",
    "Places",
    "Stamp",
    "check_replaceable",
    "is_plain_name",
    "stamp_of",
    "stamp_of_file",
    "sync_folder",
]

#: Folder of new files that are incomplete or not renamed yet. It may be deleted: an older output does not
#: need it.
PARTIAL_PREFIX = "initium-partial-"
#: Folder of an older output during the switch to a new one, and of the journal. It must not be deleted.
KEPT_PREFIX = "initium-old-"

# No loader takes files with these suffixes for weights.
_PARTIAL_SUFFIX = ".tmp"
_KEPT_SUFFIX = ".bak"

_NOT_FOR_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)


@dataclass(frozen=True)
class Places:
    """The paths of the files of one output; all are in one folder, so that files need not be copied.

    Attributes
    ----------
    folder
        The folder of the output.
    stem
        A name that distinguishes the outputs in one folder.
    """

    folder: Path
    stem: str

    @property
    def partial(self) -> Path:
        """Folder of new files."""
        return self.folder / f"{PARTIAL_PREFIX}{self.stem}"

    @property
    def kept(self) -> Path:
        """Folder of old files."""
        return self.folder / f"{KEPT_PREFIX}{self.stem}"

    def final(self, name: str) -> Path:
        """Return the path at which readers look for a file."""
        return self.folder / name

    def new(self, name: str) -> Path:
        """Return the path of a new file before the switch."""
        return self.partial / f"{name}{_PARTIAL_SUFFIX}"

    def old(self, name: str) -> Path:
        """Return the path of an old file during the switch."""
        return self.kept / f"{name}{_KEPT_SUFFIX}"

    def is_new(self, entry: Path) -> bool:
        """Return whether an entry of `partial` is a new file."""
        return entry.name.endswith(_PARTIAL_SUFFIX)

    def is_old(self, entry: Path) -> bool:
        """Return whether an entry of `kept` is an old file."""
        return entry.name.endswith(_KEPT_SUFFIX)


def is_plain_name(name: Any) -> bool:
    """Return whether a name is a plain file name; a path could refer to any file."""
    return isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\\", "\0"} & set(name)


class Stamp(NamedTuple):
    """Properties that identify a file, also after a rename."""

    nbytes: int
    mtime_ns: int


def stamp_of(path: Path) -> Stamp | None:
    """Return the stamp of the entry at a path, also of a broken link; None if there is no entry.

    Unlike `Path.exists`, it raises for all other errors.
    """
    try:
        return stamp_of_file(path)
    except FileNotFoundError:
        return None


def stamp_of_file(path: Path) -> Stamp:
    """Return the stamp of the entry at a path; raise if there is no entry."""
    status = path.lstat()
    return Stamp(status.st_size, status.st_mtime_ns)


def check_replaceable(path: Path) -> None:
    """Raise if the path is a folder, pipe or device. A link is allowed: it is replaced, not its target."""
    with suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
            raise FileExistsError(errno.EEXIST, "Is not a regular file", str(path))


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, if the system and the permissions allow it."""
    if sys.platform == "win32":  # folders cannot be opened
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NOT_FOR_FOLDERS:
            raise OSError(error.errno, error.strerror, str(folder)) from error
