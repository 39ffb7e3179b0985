"""The files of one output, which readers see when all of them are complete."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from initium.io.interrupts import deferred
from initium.io.lock import Lock
from initium.io.places import Places, check_replaceable, stamp_of, stamp_of_file, sync_folder
from initium.io.staged_file import StagedFile
from initium.io.switch import Switch, is_pending, new_output_is_whole, recover

__all__ = ["Staging", "replace_file"]


class Staging:
    """The files of one output, as a context manager.

    The entry locks the output, completes or undoes an interrupted run, and removes its temporary files. The
    exit removes all files that were not committed.

    At all times, readers find the complete older output, the complete new one, or no output. This is also
    true after an error, an interrupt, a kill or a loss of power. If the process can continue, one of the two
    outputs is complete at its end. Otherwise the next `Staging` of the same output makes it complete.

    Parameters
    ----------
    folder
        The folder of the output.
    stem
        A name that distinguishes the outputs in one folder.
    output
        The path in error messages.

    Raises
    ------
    FileExistsError
        At the entry, if another run has locked the output, or if an interrupted run can neither be completed
        nor undone.
    """

    def __init__(self, folder: Path, stem: str, output: Path) -> None:
        self.places, self._output = Places(folder, stem), output
        self._lock: Lock | None = None
        self._files: list[StagedFile] = []

    def __enter__(self) -> Self:
        try:
            with deferred():  # else an interrupt could leave a lock that is not released
                self._lock = Lock(self.places.partial, self._output)
                recover(self.places)
                self._remove_new_files()
        except BaseException:
            self._release()
            raise
        return self

    def create(self, name: str, *, direct: bool = False) -> StagedFile:
        """Open the file that will get `name`; see `StagedFile`."""
        self._files.append(StagedFile(self.places.new(name), self.places.final(name), direct=direct))
        return self._files[-1]

    def commit(self, names: Sequence[str], *, old: Collection[str] = (), keys: Collection[str] = ()) -> None:
        """Replace old files by new ones.

        One new file that replaces at most one old file of the same name needs one rename. For other cases see
        `switch`. Signals that end a run wait until the end. If an error occurs before the last rename, the
        old files stay. After the last rename the new files stay, but they may not survive a loss of power.

        Parameters
        ----------
        names
            Names of the new files; the last one makes the output complete for readers.
        old
            Names of the old files.
        keys
            Names of files that make an output complete for readers.
        """
        with deferred():
            if not self._is_mine():
                text = "Was removed or replaced while this run wrote into it"
                raise FileNotFoundError(errno.ENOENT, text, str(self.places.folder))
            if len(names) == 1 and set(old) <= set(names):
                self._replace(names[0])
            else:
                self._switch(names, old, keys)

    def _replace(self, name: str) -> None:
        self.places.new(name).replace(self.places.final(name))
        with new_output_is_whole():
            sync_folder(self.places.folder)

    def _switch(self, names: Sequence[str], old: Collection[str], keys: Collection[str]) -> None:
        at = self.places
        new = {name: stamp_of_file(at.new(name)) for name in names}
        replaced = {name: stamp for name in old if (stamp := stamp_of(at.final(name)))}
        switch = Switch(at, new, replaced, [*keys])
        if strange := switch.strangers():
            raise FileExistsError(errno.EEXIST, "Exists already", str(self.places.final(strange[0])))
        switch.run()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with deferred():
            try:
                self._discard()
            except OSError as second:
                text = f"{self.places.partial}: {second.strerror}; the next run of this output removes it"
                if error is None:
                    warnings.warn(text, RuntimeWarning, stacklevel=2)
            finally:
                self._release()

    def _is_mine(self) -> bool:
        return self._lock is not None and self._lock.is_current()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def _discard(self) -> None:
        for file in self._files:
            file.close()
        # The files are needed if the folder belongs to another run now, or if a switch is not finished.
        if self._is_mine() and not is_pending(self.places):
            self._remove_new_files()

    def _remove_new_files(self) -> None:
        for entry in self.places.partial.iterdir():
            if self.places.is_new(entry):
                entry.unlink()


def replace_file(path: Path, content: bytes) -> None:
    """Write a file that readers see when it is complete, and replace an older one.

    Raises
    ------
    FileExistsError
        If the path is neither a regular file nor a link, or another run is writing the file.
    OSError
        If the file cannot be written; an older file stays then.
    """
    check_replaceable(path)
    path.parent.stat()  # raises if the folder does not exist
    with Staging(path.parent, path.name, path) as staging:
        file = staging.create(path.name)
        file.write(content)
        file.finish()
        staging.commit([path.name])
