"""Signals that wait during steps that must not be interrupted."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["deferred"]

# SIGINT is last, since its handler raises; all other handlers must be restored before.
_NAMES = ("SIGTERM", "SIGHUP", "SIGBREAK", "SIGINT")
_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


@contextmanager
def deferred() -> Iterator[None]:
    """Delay the signals that end a run until the end of the block.

    Python runs handlers in the main thread only, so other threads need no delay.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: set[int] = set()
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    # Handlers that were not set from Python cannot be restored; ignored signals stay ignored.
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
