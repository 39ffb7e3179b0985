"""Progress of a call: a bar in the terminal, or a function of the user."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeAlias

__all__ = ["Report", "Reported", "reporter"]

#: A function that is called with (units done, units in all).
Report: TypeAlias = Callable[[int, int], None]
#: The argument `progress`: True for a bar, False for none, or a function.
Reported: TypeAlias = bool | Report


@contextmanager
def reporter(progress: Reported, label: str, *, in_bytes: bool = False) -> Iterator[Report | None]:
    """Return the progress function for the argument `progress`, or None.

    Parameters
    ----------
    progress
        See `Reported`. A bar needs the extra ``cli``, and is written to standard error.
    label
        The label of the bar.
    in_bytes
        Whether units are bytes.
    """
    if callable(progress):
        yield progress
        return
    if not progress:
        yield None
        return
    from rich import progress as rich
    from rich.console import Console

    counts = (rich.DownloadColumn(), rich.TransferSpeedColumn()) if in_bytes else (rich.TaskProgressColumn(),)
    columns = (rich.TextColumn("{task.description}", markup=False), rich.BarColumn(), *counts)
    console = Console(stderr=True)
    bar = rich.Progress(*columns, rich.TimeRemainingColumn(), console=console, transient=in_bytes)
    task = bar.add_task(label, total=None)
    bar.start()
    try:
        yield lambda done, total: bar.update(task, completed=done, total=total)
    finally:
        with suppress(OSError):  # a closed terminal is not an error of the work
            bar.stop()
