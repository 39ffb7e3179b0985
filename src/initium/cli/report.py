"""Printing after the work is done: an output that cannot be read is not a failure."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["work_is_done"]


@contextmanager
def work_is_done() -> Iterator[None]:
    """Print in such a block: a closed pipe or a full disk under standard output changes no exit status."""
    try:
        yield
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except (OSError, UnicodeError):
        # What could not be printed is still in a buffer, which Python empties at its end.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, OSError, ValueError):  # closed, or a test's
                os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
