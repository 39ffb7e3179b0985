"""The CPU backend: Numba kernels without the GIL, in threads of our own.

Numba's own threading layers either abort when two Python threads enter them at once or do not survive
fork; plain threads over one counter of tiles do both, and finish together however uneven the tiles.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np

from initium.backends import Backend, Progress
from initium.checks import check_count
from initium.destinations import write_host
from initium.kernels.cpu.fill import run
from initium.plan import Plan

__all__ = ["BACKEND"]

_POLL_SECONDS = 0.05
# A thread is worth its start only from about this many tiles on.
_TILES_PER_THREAD = 2
# From this many bytes on, a call writes past the caches: a third faster at 256 MiB of float32 uniforms
# (Zen 5), while what is smaller may stay in the cache of whoever reads it next.
_PAST_CACHES = 1 << 25


def _available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Pool:
    """The worker threads of this process: as many as were ever asked for, started once, anew after fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._size = 0

    def start(self, work: Callable[[], None], workers: int) -> list[Future[None]]:
        with self._lock:
            if self._executor is None or self._size < workers:
                if self._executor is not None:
                    self._executor.shutdown(wait=False)  # what runs there goes on to its end
                self._executor = ThreadPoolExecutor(workers, "initium")
                self._size = workers
            return [self._executor.submit(work) for _ in range(workers)]


_pool = _Pool()


def _reset_after_fork() -> None:
    global _pool  # a child has none of its parent's threads
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


def _fill(plan: Plan, threads: int | None, progress: Progress | None) -> None:
    wanted = _available_cores() if threads is None else check_count("threads", threads, minimum=1)
    # One counter a cache line, so that threads in different tables do not share one.
    counters = [np.zeros(8, np.int64) for _ in plan.tables]

    past_caches = sum(table.nbytes for table in plan.tables) >= _PAST_CACHES

    def work() -> None:
        # No barrier between tables: who finds one table claimed goes on to the next.
        for table, counter in zip(plan.tables, counters, strict=True):
            if counter[0] < table.tiles:
                run(table.rows, table.tiles, counter, plan.seed, table.kind, table.output, past_caches)

    def done() -> int:
        return sum(
            min(int(counter[0]), table.tiles) for table, counter in zip(plan.tables, counters, strict=True)
        )

    workers = min(wanted, -(-plan.tiles // _TILES_PER_THREAD))
    others: list[Future[None]] = []
    try:
        if progress is None:
            others = _pool.start(work, workers - 1) if workers > 1 else []
            work()
        else:
            others = _pool.start(work, max(workers, 1))
            _watch(others, done, progress)
    finally:
        # After an interrupt or an error in `progress` too, no thread writes once the call is over: what is
        # left counts as claimed, and each thread ends with its tile.
        for table, counter in zip(plan.tables, counters, strict=True):
            counter[0] = max(counter[0], table.tiles)
        # Who has not started behind other calls is not waited for.
        others = [other for other in others if not other.cancel()]
        if others:
            wait(others)
    for other in others:
        other.result()


def _watch(others: list[Future[None]], done: Callable[[], int], progress: Progress) -> None:
    """Report from the calling thread while the workers draw."""
    while wait(others, _POLL_SECONDS).not_done:
        progress(done())
    progress(done())


def _orthogonal(plan: Plan, threads: int | None, progress: Progress | None) -> None:
    from initium.backends.orthogonal import run as run_orthogonal

    wanted = _available_cores() if threads is None else check_count("threads", threads, minimum=1)
    run_orthogonal(plan, wanted, lambda part: _fill(part, 1, None), _pool.start, progress)


BACKEND = Backend("numba", ("cpu",), _fill, _orthogonal, write_host, _fill)
