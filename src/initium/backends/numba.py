"""The CPU backend: Numba kernels without the GIL, in a thread pool of this package.

All threads of a call claim tiles from one counter per table. This balances the load, also for tiles of
different cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait

import numpy as np

from initium.backends.base import Backend, DrawGaussians, Progress
from initium.backends.threads import count_of, settle, start
from initium.kernels.cpu.fill import run
from initium.kernels.forks import importing
from initium.memory.destination import write_host
from initium.planning.matrices import MatrixJob
from initium.planning.plan import Plan

__all__ = ["BACKEND"]

_POLL_SECONDS = 0.05
# With fewer tiles per thread, the start of a thread costs more than it gains.
_TILES_PER_THREAD = 2
# From this number of bytes on, a call uses nontemporal stores, which bypass the caches. Less data may stay in
# the cache for its next reader.
_PAST_CACHES = 1 << 25


def _fill(plan: Plan, threads: int | None, progress: Progress | None) -> None:
    wanted = count_of(threads)
    # One counter per cache line, so that threads in different tables do not share a line.
    counters = [np.zeros(8, np.int64) for _ in plan.tables]

    past_caches = sum(table.nbytes for table in plan.tables) >= _PAST_CACHES

    def work() -> None:
        # No barrier between tables: a thread that finds no tile in one table continues with the next.
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
            if workers > 1:
                start(work, workers - 1, others)
            work()
        else:
            start(work, max(workers, 1), others)
            if not others:  # no thread could be started
                work()
            _watch(others, done, progress)
    finally:
        # No thread may write after the call, also after an interrupt or an error in `progress`. So the
        # remaining tiles are marked as claimed, and each thread stops after its current tile.
        for table, counter in zip(plan.tables, counters, strict=True):
            counter[0] = max(counter[0], table.tiles)
        others = settle(others)
    for other in others:
        other.result()


def _watch(others: list[Future[None]], done: Callable[[], int], progress: Progress) -> None:
    """Report progress from the calling thread while the workers draw."""
    while wait(others, _POLL_SECONDS).not_done:
        progress(done())
    progress(done())


def _orthogonal(
    jobs: Sequence[MatrixJob], draw: DrawGaussians, threads: int | None, progress: Progress | None
) -> None:
    with importing:
        from initium.backends.orthogonal_numba import make  # only here, since its import compiles kernels

    make(jobs, draw, count_of(threads), progress)


BACKEND = Backend("numba", ("cpu",), _fill, _orthogonal, write_host)
