"""A pause of Python's cyclic garbage collector while plans are made."""

from __future__ import annotations

import gc
import os
import threading

__all__ = ["no_collections"]


class _CollectorPause:
    """Disables Python's cyclic garbage collector while this context is active in any thread.

    A plan makes many objects and no cycles. Each time enough objects were made, the collector searches for
    cycles, sometimes among the objects of all libraries.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._within = 0
        self._was_enabled = False

    def __enter__(self) -> None:
        with self._lock:
            if not self._within:
                self._was_enabled = gc.isenabled()
                gc.disable()
            self._within += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._within -= 1
            if not self._within and self._was_enabled:
                gc.enable()

    def reset_after_fork(self) -> None:
        """Enable the collector again in a child process, which lacks the threads that disabled it."""
        if self._within and self._was_enabled:
            gc.enable()
        self.__init__()  # type: ignore[misc]


#: The pause, as a context.
no_collections = _CollectorPause()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=no_collections.reset_after_fork)
