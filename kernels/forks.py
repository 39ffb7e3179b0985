"""Locks that a fork waits for, so that no child inherits one which a thread of its parent holds.

Such a lock stays locked for ever: the thread that would release it is not there in the child.
"""

from __future__ import annotations

import contextlib
import logging  # noqa: F401  (its own hook must come before the one below)
import os
import threading
from typing import Any

__all__ = ["hold_over_forks", "importing"]

# A fork waits no longer than that for each: its child may hang then, but the parent must not.
_PATIENCE_SECONDS = 60.0
# In the order in which threads take them: imports come first, then what is imported.
_locks: list[Any] = []


class _Held(threading.local):
    """What the thread that is forking holds."""

    def __init__(self) -> None:
        self.locks: list[Any] = []


_held = _Held()


def hold_over_forks(*locks: Any) -> None:
    """Let forks wait for these locks too, which threads take after those that were named before."""
    _locks.extend(locks)


def _take() -> None:
    for lock in _locks:
        if lock.acquire(timeout=_PATIENCE_SECONDS):
            _held.locks.append(lock)


def _release() -> None:
    while _held.locks:
        with contextlib.suppress(RuntimeError):
            _held.locks.pop().release()


# The last hook is called first. A thread that imports or compiles may want the lock of `logging`: a fork must
# not have taken that one when it waits for the thread.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_take, after_in_parent=_release, after_in_child=_release)

#: Held while initium imports parts of itself: a child cannot end an import that its parent began.
importing = threading.RLock()
hold_over_forks(importing)
