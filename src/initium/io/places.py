"""Where the files of one output stand before, while and after they are switched."""

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

#: Folder of files that are not yet whole, or not yet in their places. It may be deleted: an older output
#: can be had back without it.
PARTIAL_PREFIX = "initium-partial-"
#: Folder of an older output while a new one takes its place, and of the journal. It must not be deleted.
KEPT_PREFIX = "initium-old-"

# Neither is taken for weights by a loader.
_PARTIAL_SUFFIX = ".tmp"
_KEPT_SUFFIX = ".bak"

_NOT_FOR_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)


@dataclass(frozen=True)
class Places:
    """The places of the files of one output; all are in one folder, so that files need not be copied.

    Attributes
    ----------
    folder
        The folder of the output.
    stem
        What distinguishes outputs in one folder.
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
        """Return where readers look for a file."""
        return self.folder / name

    def new(self, name: str) -> Path:
        """Return where a new file waits."""
        return self.partial / f"{name}{_PARTIAL_SUFFIX}"

    def old(self, name: str) -> Path:
        """Return where an old file is kept."""
        return self.kept / f"{name}{_KEPT_SUFFIX}"

    def is_new(self, entry: Path) -> bool:
        """Return whether an entry of `partial` is a new file."""
        return entry.name.endswith(_PARTIAL_SUFFIX)

    def is_old(self, entry: Path) -> bool:
        """Return whether an entry of `kept` is an old file."""
        return entry.name.endswith(_KEPT_SUFFIX)


def is_plain_name(name: Any) -> bool:
    """Return whether a name is that of a file in the same folder: another could reach any file."""
    return isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\\", "\0"} & set(name)


class Stamp(NamedTuple):
    """What identifies a file, also when it has been renamed."""

    nbytes: int
    mtime_ns: int


def stamp_of(path: Path) -> Stamp | None:
    """Return the stamp of what stands at a path, be it a link to nothing; None if nothing does.

    Unlike `Path.exists`, it takes no other error for that.
    """
    try:
        return stamp_of_file(path)
    except FileNotFoundError:
        return None


def stamp_of_file(path: Path) -> Stamp:
    """Return the stamp of what stands at a path; it is an error if nothing does."""
    status = path.lstat()
    return Stamp(status.st_size, status.st_mtime_ns)


def check_replaceable(path: Path) -> None:
    """Refuse a path where a folder, pipe or device stands; a link is replaced, not what it leads to."""
    with suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
            raise FileExistsError(errno.EEXIST, "Is not a regular file", str(path))


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where system, disk and rights let us."""
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
