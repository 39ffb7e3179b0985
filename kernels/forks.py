"""Locks that a fork waits for, so that a child process inherits no lock that a thread of its parent holds.

Such a lock would stay locked for ever, since the thread that holds it does not exist in the child.
"""

from __future__ import annotations

import contextlib
import logging  # noqa: F401  (its own hook must come before the one below)
import os
import threading
from typing import Any

__all__ = ["hold_over_forks", "importing"]

# Longest time that a fork waits for each lock. After it the child may hang, but the parent must not.
_PATIENCE_SECONDS = 60.0
# The locks in the order in which threads take them: first the lock of imports, then those of imported
# modules.
_locks: list[Any] = []


class _Held(threading.local):
    """The locks that the forking thread holds."""

    def __init__(self) -> None:
        self.locks: list[Any] = []


_held = _Held()


def hold_over_forks(*locks: Any) -> None:
    """Let forks wait for these locks too; threads take them after the locks that were added before."""
    _locks.extend(locks)


def _take() -> None:
    for lock in _locks:
        if lock.acquire(timeout=_PATIENCE_SECONDS):
            _held.locks.append(lock)


def _release() -> None:
    while _held.locks:
        with contextlib.suppress(RuntimeError):
            _held.locks.pop().release()


# The last hook is called first. A thread that imports or compiles may need the lock of `logging`, so a fork
# must not hold this lock while it waits for the thread.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_take, after_in_parent=_release, after_in_child=_release)

#: Held while initium imports its modules, since a child process cannot finish an import of its parent.
importing = threading.RLock()
hold_over_forks(importing)
