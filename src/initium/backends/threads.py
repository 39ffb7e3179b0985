"""Threads: the pool that draws, the thread limits of BLAS, and crews that share a list of tasks.

Numba's threading layers either abort if two Python threads enter them at the same time, or do not survive
fork. Plain threads have neither limit. BLAS runs on one thread while the threads of a crew call it.
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
from initium.kernels.float_mode import in_default_mode

__all__ = ["Crew", "available_cores", "count_of", "one_blas_thread", "settle", "start"]

#: A function that starts another function in up to a number of threads, and adds their futures to a list.
Spawn: TypeAlias = Callable[[Callable[[], None], int, list[Future[None]]], None]

# --- the pool -----------------------------------------------------------------------------------------------


def available_cores() -> int:
    """Return the number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def count_of(threads: int | None) -> int:
    """Return the number of threads; None means all available cores."""
    return available_cores() if threads is None else check_count("threads", threads, minimum=1)


class _Gate:
    """Delays work in threads until the caller knows how many threads were started."""

    def __init__(self) -> None:
        self._opened = threading.Event()
        self._accepted = 0

    def open(self, accepted: int) -> None:
        """Let the first `accepted` threads work; the others do nothing."""
        self._accepted = accepted
        self._opened.set()

    def run(self, number: int, work: Callable[[], None]) -> None:
        """Wait until the gate is open, and do the work if the number is accepted."""
        self._opened.wait()
        if number < self._accepted:
            work()


class _Pool:
    """The worker threads of this process, as many as the largest request; started again after fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._size = 0

    def start(self, work: Callable[[], None], workers: int, into: list[Future[None]]) -> None:
        """Start `work` in up to `workers` threads; see `start`."""
        gate, accepted = _Gate(), 0
        try:
            with self._lock:
                executor = self._executor_of(workers)
                for number in range(workers):
                    into.append(executor.submit(gate.run, number, work))  # noqa: PERF401 (kept if one fails)
            accepted = workers
        except RuntimeError:
            # The system has no more threads, or the interpreter is ending. Work that was queued before the
            # error has a future. Work whose submission failed may be queued without a future, and must not
            # run.
            accepted = len(into)
        finally:
            gate.open(accepted)

    def _executor_of(self, workers: int) -> ThreadPoolExecutor:
        if self._executor is None or self._size < workers:
            if self._executor is not None:
                self._executor.shutdown(wait=False)  # running work continues to its end
            self._executor = ThreadPoolExecutor(workers, "initium")
            self._size = workers
        return self._executor


_pool = _Pool()


def start(work: Callable[[], None], workers: int, into: list[Future[None]]) -> None:
    """Start `work` in up to `workers` threads of the pool of this process.

    Parameters
    ----------
    work
        The function that each thread calls. The caller must call it too, since there may be fewer threads:
        the system can be out of threads, and no thread starts after the end of the main thread.
    workers
        Largest number of threads.
    into
        An empty list; a future for each thread is added before any of them starts.
    """
    # Threads inherit a floating-point mode; the work is done in the default one.
    _pool.start(in_default_mode(work), workers, into)


def settle(others: list[Future[None]]) -> list[Future[None]]:
    """Wait until no thread of a call runs, also after an interrupt; cancel threads that have not started.

    Returns
    -------
    list of Future
        The futures of the threads that had started; `Future.result` raises the exception of a thread.
    """
    # `wait` would wait for a cancelled future until a thread takes it from the queue.
    begun = [other for other in others if not other.cancel()]
    interrupt: BaseException | None = None
    while True:
        try:
            wait(begun)
            break
        except BaseException as error:  # noqa: BLE001 (raised below)
            interrupt = error
    if interrupt is not None:
        raise interrupt
    return begun


def _reset_pool_after_fork() -> None:
    global _pool  # a child process has no threads of its parent
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_pool_after_fork)

# --- BLAS ---------------------------------------------------------------------------------------------------

_blas_lock = threading.Lock()
_blas_calls: list[None] = []  # one entry per active `one_blas_thread`
_blas_before: list[tuple[Any, int]] = []


@cache
def _blas_libraries() -> list[Any]:
    # NumPy has loaded its BLAS before. A BLAS that threadpoolctl does not know keeps its threads.
    return list(ThreadpoolController().select(user_api="blas").lib_controllers)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS to one thread while this context is active in any thread of the process.

    Then the order of additions in a product depends only on its shape.
    """
    with _products, _blas_lock:  # a fork waits: OpenBLAS holds a lock while its threads come and go
        if not _blas_calls:
            _blas_before[:] = [(library, library.get_num_threads()) for library in _blas_libraries()]
            for library, _ in _blas_before:
                library.set_num_threads(1)
        calls = _blas_calls  # a child process that is forked here has its own list
        calls.append(None)
    try:
        yield
    finally:
        with _products, _blas_lock:
            calls.pop()
            if calls is _blas_calls and not calls:
                _restore_blas()


def _restore_blas() -> None:
    for library, before in _blas_before:
        library.set_num_threads(before)
    _blas_before.clear()


def _reset_blas_after_fork() -> None:
    """Remove the limit in a child process, which lacks the threads that set it or hold the lock."""
    global _blas_lock, _blas_calls
    _blas_lock, _blas_calls = threading.Lock(), []
    _restore_blas()  # does nothing if the parent had no limit


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_blas_after_fork)


class _ForkGate:
    """Makes a fork wait until no thread computes a product.

    OpenBLAS frees its threads and buffers before a fork; a product that runs at this moment never returns.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: dict[int, int] = {}  # entries by thread
        self._forking: set[int] = set()  # threads

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._changed:
            while self._forking and me not in self._inside:
                self._changed.wait()
            self._inside[me] = self._inside.get(me, 0) + 1

    def __exit__(self, *error: object) -> None:
        me = threading.get_ident()
        with self._changed:
            self._inside[me] -= 1
            if not self._inside[me]:
                del self._inside[me]
                self._changed.notify_all()

    def before_fork(self) -> None:
        """Let no thread start a product, and wait for the running products."""
        with self._changed:
            self._forking.add(threading.get_ident())
            while self._inside.keys() - {threading.get_ident()}:
                self._changed.wait()

    def after_fork(self) -> None:
        """Allow products again, in the parent."""
        with self._changed:
            # A fork that began before this module was imported has not been counted.
            self._forking.discard(threading.get_ident())
            self._changed.notify_all()


_products = _ForkGate()


def _reset_products_after_fork() -> None:
    global _products  # a child process has no threads of its parent
    _products = _ForkGate()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _products.before_fork(),
        after_in_parent=lambda: _products.after_fork(),
        after_in_child=_reset_products_after_fork,
    )

# --- crews --------------------------------------------------------------------------------------------------


class Crew:
    """Runs lists of tasks in threads, and counts units of work."""

    def __init__(self, threads: int, progress: Progress | None, spawn: Spawn = start) -> None:
        self._threads, self._progress, self._spawn = threads, progress, spawn
        self._lock = threading.Lock()
        self._done = 0.0

    def together(self, tasks: Sequence[tuple[Callable[[], None], float]]) -> None:
        """Run tasks, started in order, and return when all are done.

        After an error or an interrupt, no further task starts, and no task runs after the call.
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
                    with _products:
                        task()
                except BaseException:
                    start_no_more()
                    raise
                self._count(units, report=threading.get_ident() == caller)

        workers = min(self._threads, len(tasks))
        others: list[Future[None]] = []
        try:
            if workers > 1:
                self._spawn(work, workers - 1, others)
            work()
        finally:
            start_no_more()
            others = settle(others)
        for other in others:
            other.result()
        self._count(0.0)

    def _count(self, units: float, report: bool = True) -> None:
        with self._lock:
            self._done += units
        if report and self._progress is not None:
            self._progress(round(self._done))
