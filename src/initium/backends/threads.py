"""Threads of our own: the pool that draws, the limits of BLAS, and crews that share a list of tasks.

Numba's own threading layers either abort when two Python threads enter them at once or do not survive fork;
plain threads do both. BLAS runs on one thread while a crew's own threads call it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeAlias

from threadpoolctl import ThreadpoolController

from initium.backends.base import Progress
from initium.checks import check_count

__all__ = ["Crew", "available_cores", "blas_threads", "count_of", "start"]

#: Starts a function in so many threads.
Spawn: TypeAlias = Callable[[Callable[[], None], int], list[Future[None]]]

# --- the pool -----------------------------------------------------------------------------------------------


def available_cores() -> int:
    """Return the number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def count_of(threads: int | None) -> int:
    """Return a number of threads: all available cores if None."""
    return available_cores() if threads is None else check_count("threads", threads, minimum=1)


class _Pool:
    """The worker threads of this process: as many as were ever asked for, started once, anew after fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._size = 0

    def start(self, work: Callable[[], None], workers: int) -> list[Future[None]]:
        """Start `work` in so many threads."""
        with self._lock:
            if self._executor is None or self._size < workers:
                if self._executor is not None:
                    self._executor.shutdown(wait=False)  # what runs there goes on to its end
                self._executor = ThreadPoolExecutor(workers, "initium")
                self._size = workers
            return [self._executor.submit(work) for _ in range(workers)]


_pool = _Pool()


def start(work: Callable[[], None], workers: int) -> list[Future[None]]:
    """Start `work` in so many threads of this process's pool."""
    return _pool.start(work, workers)


def _reset_pool_after_fork() -> None:
    global _pool  # a child has none of its parent's threads
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_pool_after_fork)

# --- BLAS ---------------------------------------------------------------------------------------------------

_blas_lock = threading.Lock()
_blas_limits: list[int] = []
_blas_before: list[tuple[Any, int]] = []


@cache
def _blas_libraries() -> list[Any]:
    # NumPy has loaded its BLAS by now. One that threadpoolctl does not know keeps its threads.
    return list(ThreadpoolController().select(user_api="blas").lib_controllers)


@contextmanager
def blas_threads(count: int) -> Iterator[None]:
    """Limit BLAS to `count` threads, or to fewer where another call in this process says so."""
    with _blas_lock:
        if not _blas_limits:
            _blas_before[:] = [(library, library.get_num_threads()) for library in _blas_libraries()]
        limits = _blas_limits  # a child that is forked in here has a list of its own
        limits.append(count)
        _apply_blas_limits()
    try:
        yield
    finally:
        with _blas_lock:
            limits.remove(count)
            _apply_blas_limits()
            if not _blas_limits:
                _blas_before.clear()


def _apply_blas_limits() -> None:
    for library, before in _blas_before:
        library.set_num_threads(min((before, *_blas_limits)))


def _reset_blas_after_fork() -> None:
    """Lift the limits in a child: the threads that set them, or hold the lock, are not there to do it."""
    global _blas_lock, _blas_limits
    _blas_lock, _blas_limits = threading.Lock(), []
    _apply_blas_limits()  # of an idle parent there is nothing to restore
    _blas_before.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_blas_after_fork)


class Crew:
    """Runs lists of tasks over threads, and counts units of work."""

    def __init__(self, threads: int, progress: Progress | None, spawn: Spawn = start) -> None:
        self._threads, self._progress, self._spawn = threads, progress, spawn
        self._lock = threading.Lock()
        self._done = 0.0

    def together(self, tasks: Sequence[tuple[Callable[[], None], float]]) -> None:
        """Run tasks, started in order, and return when all are done.

        After an error or an interrupt no further task starts, and none runs on once the call is over.
        """
        waiting = iter(tasks)
        caller = threading.get_ident()

        def start_no_more() -> None:
            nonlocal waiting
            with self._lock:
                waiting = iter(())

        def work() -> None:
            while True:
                with self._lock:
                    task, units = next(waiting, (None, 0.0))
                if task is None:
                    return
                try:
                    task()
                except BaseException:
                    start_no_more()
                    raise
                self._count(units, report=threading.get_ident() == caller)

        workers = min(self._threads, len(tasks))
        others: list[Future[None]] = []
        try:
            others = self._spawn(work, workers - 1) if workers > 1 else []
            work()
        finally:
            start_no_more()
            # `wait` would wait for a cancelled one until a thread takes it off its queue.
            others = [other for other in others if not other.cancel()]
            wait(others)
        for other in others:
            other.result()
        self._count(0.0)

    def _count(self, units: float, report: bool = True) -> None:
        with self._lock:
            self._done += units
        if report and self._progress is not None:
            self._progress(round(self._done))
