"""Signals that wait while a few steps must not be cut in two."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["deferred"]

# SIGINT is last: its handler raises, and must not keep others from being restored.
_NAMES = ("SIGTERM", "SIGHUP", "SIGBREAK", "SIGINT")
_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


@contextmanager
def deferred() -> Iterator[None]:
    """Hold back the signals that end a run until the block is left; they arrive then.

    Python runs handlers in the main thread: in others there is nothing to hold back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: set[int] = set()
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    # Handlers that were not set from Python cannot be restored; what is ignored stays so.
    held = {n: handler for n, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}
    try:
        for number in held:
            signal.signal(number, lambda number, _: arrived.add(number))
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
        for number in held:
            if number in arrived:
                signal.raise_signal(number)
