"""Folders and files that no other user can change, for code that is loaded and run.

A user who owns or can write a file, its folder, or a folder above it controls the content of the file.
Trusted users are the user of this process and root. Windows uses access control lists instead, which are not
checked.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

__all__ = ["UntrustedError", "make_folder", "read_file", "real_folder"]

_CHECKED = hasattr(os, "geteuid")
_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_MOST_LINKS = 40


class UntrustedError(OSError):
    """A folder or file that another user could have changed."""


def _check(path: Path, found: os.stat_result, *, entries_only: bool = False) -> None:
    """Raise if other than trusted users can change the file or folder `path`.

    With `entries_only`, the requirement for a folder is lower: others cannot rename the entries of trusted
    users.
    """
    if found.st_uid not in (0, os.geteuid()):
        raise UntrustedError(f"{path} belongs to user {found.st_uid}; expected this user, or root")
    mode = stat.S_IMODE(found.st_mode)
    allowed = stat.S_ISLNK(found.st_mode) or (entries_only and mode & stat.S_ISVTX)
    if mode & _OTHERS and not allowed:
        raise UntrustedError(f"other users can write {path} (mode {mode:o}); expected no other (chmod go-w)")


def real_folder(folder: Path) -> Path:
    """Return the path of a folder without symbolic links, after checks of all folders on the way.

    Raises
    ------
    UntrustedError
        If another user could have created or could change the folder.
    FileNotFoundError
        If the folder does not exist.
    """
    return _walk(folder, make=False)


def make_folder(folder: Path) -> Path:
    """Return the path as `real_folder` does, and create missing folders that only this user can access."""
    return _walk(folder, make=True)


def _walk(folder: Path, make: bool) -> Path:
    if not _CHECKED:
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        return folder.resolve(strict=True)
    here, links = Path(folder.anchor), 0
    left = list(reversed(folder.parts[1:]))
    while left:
        _check(here, here.stat(), entries_only=True)
        part = left.pop()
        entry = here.parent if part == ".." else here / part
        found = _found(entry, make)
        if not stat.S_ISLNK(found.st_mode):
            here = entry
            continue
        _check(entry, found)
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(folder))
        target = entry.readlink()
        if target.anchor:
            here = Path(target.anchor)
        left += reversed(target.parts[1:] if target.anchor else target.parts)
    _check(here, here.stat())
    return here


def _found(entry: Path, make: bool) -> os.stat_result:
    try:
        return entry.lstat()
    except FileNotFoundError:
        if not make:
            raise
    with contextlib.suppress(FileExistsError):  # another process has created it
        entry.mkdir(0o700)
        entry.chmod(0o700)  # independent of the umask
    return entry.lstat()


def read_file(path: Path) -> bytes:
    """Return the content of a file.

    Raises
    ------
    UntrustedError
        If another user could have written the file.
    OSError
        If it is not a regular file, or cannot be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
    # Do not follow a symbolic link, and do not wait for the other end of a pipe.
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        found = os.fstat(file.fileno())
        if _CHECKED:
            _check(path, found)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read()
