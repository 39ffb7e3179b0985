"""The switch from an old output of several files to a new one, such that readers never see a mixture.

A *key* is the file by which readers find an output: the index of shards, or a single file without an index.
The steps rename files within one folder:

1. The journal is written, after all new files are on the disk.
2. The old keys are renamed, then the other old files. Now readers find no output.
3. The new files are renamed, the new key last. Now the new output is complete.
4. The journal is renamed, which states this, and the old files are removed.

The names of the files show the last step of a run. Another run can continue from any step, forward or back.
"""

from __future__ import annotations

import errno
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal, NoReturn

from initium.io.places import Places, Stamp, is_plain_name, stamp_of, sync_folder
from initium.io.staged_file import StagedFile

__all__ = ["Switch", "is_pending", "new_output_is_whole", "recover"]

_JOURNAL = "switch.json"
_DONE = "done.json"
_UNFINISHED = "switch.json.tmp"
_VERSION = 1


@dataclass(frozen=True)
class Switch:
    """The switch of one output: the content of the journal.

    Attributes
    ----------
    places
        The folder of the output.
    new
        Stamps of the new files by name; the key is the last one.
    old
        Stamps of the old files by name; new files may have the same names.
    keys
        Names of files by which readers find an output.
    """

    places: Places
    new: Mapping[str, Stamp]
    old: Mapping[str, Stamp]
    keys: Sequence[str]

    # --- deciding -------------------------------------------------------------------------------------------

    def can_go_forward(self) -> bool:
        """Return whether all new files exist."""
        waiting = self.places.new
        return all(stamp_of(waiting(name)) == self.new[name] or self._is_new(name) for name in self.new)

    def can_go_back(self) -> bool:
        """Return whether all old files exist."""
        kept = self.places.old
        return all(stamp_of(kept(name)) == self.old[name] or self._is_old(name) for name in self.old)

    def strangers(self) -> list[str]:
        """Return the names with a file that is neither the old nor the new one."""
        return [name for name in {**self.new, **self.old} if self._standing(name) == "other"]

    def _standing(self, name: str) -> Literal["new", "old", "other"] | None:
        """Return which file has a final name, if any."""
        final = stamp_of(self.places.final(name))
        if final is None:
            return None
        if final == self.new.get(name) and stamp_of(self.places.new(name)) is None:
            return "new"
        if final == self.old.get(name) and stamp_of(self.places.old(name)) is None:
            return "old"
        return "other"

    def _is_new(self, name: str) -> bool:
        return self._standing(name) == "new"

    def _is_old(self, name: str) -> bool:
        return self._standing(name) == "old"

    # --- moving ---------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Go forward, or go back if a step fails before the new output is complete."""
        try:
            self._write_journal()
            self._go_forward()
        except BaseException as error:
            self._give_up(error)
            raise
        try:
            self._close(_DONE)
        except OSError as error:
            text = f"{self.places.kept}: {error.strerror}; the next run of this output removes it"
            warnings.warn(text, RuntimeWarning, stacklevel=2)

    def back(self) -> None:
        """Rename every file to its name before the switch."""
        for name in reversed([*self.new]):
            if self._is_new(name):
                self.places.final(name).replace(self.places.new(name))
        sync_folder(self.places.folder)
        keys, others = self._old_keys_and_others()
        for names in (others, reversed(keys)):
            for name in names:
                if stamp_of(self.places.old(name)) is not None:
                    self.places.old(name).replace(self.places.final(name))
            sync_folder(self.places.folder)
        self._close(None)

    def _go_forward(self) -> None:
        *others, key = self.new
        for names in self._old_keys_and_others():
            for name in names:
                if self._is_old(name):
                    self.places.final(name).replace(self.places.old(name))
            sync_folder(self.places.folder)
        for names in (others, [key]):
            for name in names:
                if not self._is_new(name):
                    self.places.new(name).replace(self.places.final(name))
            sync_folder(self.places.folder)

    def _old_keys_and_others(self) -> tuple[list[str], list[str]]:
        keys = [name for name in self.keys if name in self.old]
        return keys, [name for name in self.old if name not in keys]

    def _give_up(self, error: BaseException) -> None:
        """Go back, unless the new output is complete, which is kept."""
        try:
            if not self._is_new(list(self.new)[-1]):
                self.back()
                return
        except OSError as second:
            text = f"{second.strerror}; the next run of this output completes or undoes this one"
            raise OSError(second.errno, text, second.filename) from error
        with new_output_is_whole():
            raise error

    # --- the journal ----------------------------------------------------------------------------------------

    def _write_journal(self) -> None:
        at = self.places
        at.kept.mkdir(exist_ok=True)
        said = {"version": _VERSION, "new": self.new, "old": self.old, "keys": self.keys}
        journal = StagedFile(at.kept / _UNFINISHED, at.kept / _JOURNAL)
        try:
            journal.write(json.dumps(said, indent=1).encode())
            journal.finish()
        finally:
            journal.close()
        journal.path.replace(journal.final)
        for folder in (at.kept, at.partial, at.folder):
            sync_folder(folder)

    def _close(self, last_name: str | None) -> None:
        """Mark the journal as done, or remove it if the switch was undone; then remove the old files."""
        journal = self.places.kept / _JOURNAL
        if last_name is None:
            journal.unlink(missing_ok=True)
        else:
            journal.replace(self.places.kept / last_name)
        sync_folder(self.places.kept)
        _clear(self.places)


@contextmanager
def new_output_is_whole() -> Iterator[None]:
    """Add to an error that the new output is complete, but may not survive a loss of power."""
    try:
        yield
    except OSError as error:
        text = f"{error.strerror}; the new output is whole, but the disk may not hold it for good"
        raise OSError(error.errno, text, error.filename) from error


def is_pending(places: Places) -> bool:
    """Return whether a switch has started and is neither completed nor undone."""
    return stamp_of(places.kept / _JOURNAL) is not None


def recover(places: Places) -> None:
    """Complete the switch of an interrupted run, or undo it if it cannot be completed.

    The caller delays signals; see `initium.io.interrupts.deferred`.

    Raises
    ------
    FileExistsError
        If neither is possible, since files were removed or added in the meantime; nothing is changed then.

    Warns
    -----
    RuntimeWarning
        If it completed or undid a switch.
    """
    if stamp_of(places.kept) is None:
        return
    if not is_pending(places):
        if stamp_of(places.kept / _DONE) is None and any(map(places.is_old, places.kept.iterdir())):
            _refuse(places, f"there is no {_JOURNAL} any more")
        _clear(places)
        return
    switch = _read_journal(places)
    if strange := switch.strangers():
        _refuse(places, f"{strange[0]} has come since, which is none of its files")
    if switch.can_go_forward():
        switch.run()
        done = "completed: its output has taken the place of the older one"
    elif switch.can_go_back():
        switch.back()
        done = "undone: its files had been removed, and the older ones are in their places again"
    else:
        _refuse(places, "files of both the older and the newer output have been removed since")
    text = f"{places.folder}: an interrupted run of {places.stem!r} has been {done}"
    warnings.warn(text, RuntimeWarning, stacklevel=2)


def _refuse(places: Places, why: str) -> NoReturn:
    text = f"An interrupted run left this, but {why}; move it away to go on"
    raise FileExistsError(errno.EEXIST, text, str(places.kept))


def _read_journal(places: Places) -> Switch:
    try:
        said = json.loads((places.kept / _JOURNAL).read_bytes())
        new, old = ({name: Stamp(*stamp) for name, stamp in said[key].items()} for key in ("new", "old"))
        switch, version = Switch(places, new, old, said["keys"]), said["version"]
    except (ValueError, TypeError, KeyError, AttributeError):
        version = None
    if version != _VERSION:
        _refuse(places, f"its {_JOURNAL} is not of this version of initium")
    if not all(map(is_plain_name, [*switch.new, *switch.old, *switch.keys])):
        _refuse(places, f"its {_JOURNAL} names files of other folders")
    return switch


def _clear(places: Places) -> None:
    """Remove old files, then the journal, then the folder; files of other programs stay."""
    entries = list(places.kept.iterdir())
    for entry in sorted(entries, key=places.is_old, reverse=True):
        if places.is_old(entry) or entry.name in (_UNFINISHED, _DONE):
            entry.unlink()
    with suppress(OSError):
        places.kept.rmdir()
