"""Printing after the work is done; an error of the printing is not a failure of the command."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["work_is_done"]


@contextmanager
def work_is_done() -> Iterator[None]:
    """Ignore errors of printing in this block, such as a closed pipe, so that the exit status stays 0."""
    try:
        yield
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except (OSError, UnicodeError):
        # The rest is still in a buffer, which Python flushes at its end.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, OSError, ValueError):  # a closed stream, or the stream of a test
                os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
