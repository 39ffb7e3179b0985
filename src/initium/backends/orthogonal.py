"""Orthogonal jobs on CPU cores: the order of work, its threads and its memory.

BLAS runs on one thread, and panels, blocks of columns or whole matrices are spread over threads of our own:
they meet twice for each large matrix instead of at each product, and `threads=` stays in our hands.
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from initium.backends import Progress
from initium.boxes import Box
from initium.destinations import destination_of, host_view, joined
from initium.fills import NormalFill
from initium.kernels.cpu import orthogonal as kernel
from initium.kernels.reference.orthogonal import by_householder, by_qr
from initium.orthogonality import MatrixJob
from initium.plan import Job, Plan, plan

__all__ = ["run", "run_reference"]

#: Draws a plan in the calling thread.
Fill: TypeAlias = Callable[[Plan], None]
#: Starts a function in so many threads.
Spawn: TypeAlias = Callable[[Callable[[], None], int], list[Future[None]]]

Real = NDArray[Any]

# Up to this longer side, a loop over reflectors beats calls of a BLAS (measured on AVX2).
_SMALL = 48
# Values that a task makes of small matrices.
_STACK_VALUES = 1 << 17
# Up to so many values, and with a matrix for each thread, a thread makes a matrix on its own.
_MEDIUM = 1 << 20
# Columns (or rows) of a block: fewer make thin products, more make uneven shares and take memory.
_LEAST_BLOCK, _MOST_BLOCK = 64, 256


def run(plan: Plan, threads: int, fill: Fill, spawn: Spawn, progress: Progress | None) -> None:
    """Make all orthogonal matrices of a plan.

    Parameters
    ----------
    plan
        Its `matrices` are made.
    threads
        How many threads to use.
    fill
        Draws a plan in the calling thread.
    spawn
        Starts a function in so many threads.
    progress
        Called now and then with the units done.
    """
    crew = _Crew(threads, spawn, progress)
    by_lapack = [job for job in plan.matrices if job.method == "qr"]
    others = [job for job in plan.matrices if job.method != "qr"]

    def task(stack: Sequence[_Span], method: Callable[[Real], Real]) -> tuple[Callable[[], None], float]:
        return partial(_make_stack, stack, method, plan.seed, fill), _units(stack)

    with _blas_threads(threads):  # LAPACK's threads, for want of parts of a QR
        for stack in _stacks([job for job in by_lapack if job.values > _MEDIUM], 1):
            crew.together([task(stack, by_qr)])
    with _blas_threads(1):
        medium = _stacks([job for job in by_lapack if job.values <= _MEDIUM], _STACK_VALUES)
        small = _stacks([job for job in others if job.long <= _SMALL], _STACK_VALUES)
        crew.together([task(stack, by_qr) for stack in medium])
        crew.together([task(stack, kernel.small) for stack in small])
        large = _matrices([job for job in others if job.long > _SMALL], plan.seed, fill, threads)
        alone = [m for m in large if m.values <= _MEDIUM and len(large) >= threads]
        crew.together([(matrix.make, matrix.units) for matrix in alone])
        for matrix in large:
            if matrix.values > _MEDIUM or len(large) < threads:
                crew.together([(panel, 0.0) for panel in matrix.panel_tasks()])
                blocks = list(matrix.block_tasks())
                crew.together([(block, matrix.units / len(blocks)) for block in blocks])
                matrix.finish()


def run_reference(plan: Plan, fill: Fill, progress: Progress | None) -> None:
    """Make all orthogonal matrices of a plan one by one, by the reference."""
    done = 0.0
    for stack in _stacks(plan.matrices, 1):
        method = by_qr if stack[0].job.method == "qr" else _reference_stack
        _make_stack(stack, method, plan.seed, fill)
        done += _units(stack)
        if progress is not None:
            progress(round(done))


def _reference_stack(gaussians: Real) -> Real:
    return np.stack([by_householder(g) for g in gaussians])


# --- threads ------------------------------------------------------------------------------------------------

_blas_lock = threading.Lock()
_blas_limits: list[int] = []
_blas_before: list[tuple[Any, int]] = []


@cache
def _blas_libraries() -> list[Any]:
    # NumPy has loaded its BLAS by now. One that threadpoolctl does not know keeps its threads.
    return list(ThreadpoolController().select(user_api="blas").lib_controllers)


@contextmanager
def _blas_threads(count: int) -> Iterator[None]:
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


class _Crew:
    """Runs lists of tasks over threads, and counts units of work."""

    def __init__(self, threads: int, spawn: Spawn, progress: Progress | None) -> None:
        self._threads, self._spawn, self._progress = threads, spawn, progress
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


# --- stacks of matrices that are made together --------------------------------------------------------------


class _Span(NamedTuple):
    """Matrices [first, stop) of a job."""

    job: MatrixJob
    first: int
    stop: int


def _units(stack: Sequence[_Span]) -> float:
    return sum(span.job.units * (span.stop - span.first) / len(span.job.starts) for span in stack)


def _stacks(jobs: Iterable[MatrixJob], values: int) -> Iterator[list[_Span]]:
    """Group matrices of equal shape, of any jobs, into stacks of about so many values."""
    groups: dict[tuple[Any, ...], list[MatrixJob]] = defaultdict(list)
    for job in jobs:
        groups[job.long, job.short, job.arithmetic, job.method].append(job)
    for (long, short, _, _), members in groups.items():
        most = max(1, values // (long * short))
        stack: list[_Span] = []
        room = most
        for job in members:
            first = 0
            while first < len(job.starts):
                stop = min(first + room, len(job.starts))
                stack.append(_Span(job, first, stop))
                room -= stop - first
                first = stop
                if not room:
                    yield stack
                    stack, room = [], most
        if stack:
            yield stack


def _make_stack(stack: Sequence[_Span], method: Callable[[Real], Real], seed: int, fill: Fill) -> None:
    job = stack[0].job
    count = sum(span.stop - span.first for span in stack)
    gaussians = np.empty((count, job.short, job.long), job.arithmetic.numpy)
    _draw(_stack_boxes(stack, gaussians), seed, fill)
    q = method(gaussians)
    done = 0
    for job, first, stop in stack:
        made = q[done : done + stop - first]
        done += stop - first
        if not (_is_whole(job.rows, job.long) and _is_whole(job.columns, job.short)):
            made = made[:, job.rows[:, None], job.columns]
        _write_stack(job, first, stop, made * made.dtype.type(job.gain))


def _is_whole(index: NDArray[np.intp], extent: int) -> bool:
    return len(index) == extent and bool((index == np.arange(extent)).all())


def _stack_boxes(stack: Sequence[_Span], gaussians: Real) -> Iterator[tuple[int, Box, Real]]:
    """Yield what to draw for the matrices of a stack."""
    done = 0
    for job, first, stop in stack:
        own = gaussians[done : done + stop - first]
        yield from ((job.stream, box, own[run].reshape(-1)) for run, box in job.runs(first, stop))
        done += stop - first


def _write_stack(job: MatrixJob, first: int, stop: int, values: Real) -> None:
    plain = joined(job.destination, *job.split)
    if plain is not None:
        host_view(plain)[first:stop] = values
        return
    target = host_view(job.destination)
    for number, matrix in enumerate(values, start=first):
        part = target[np.unravel_index(number, target.shape[: job.split[0]])]
        part[...] = matrix.reshape(part.shape)


def _draw(wanted: Iterable[tuple[int, Box, Real]], seed: int, fill: Fill) -> None:
    """Draw standard normals, for each (stream, box, array of its shape)."""
    normal = NormalFill()
    fill(plan((Job(stream, normal, box, destination_of(array)) for stream, box, array in wanted), seed))


# --- large matrices -----------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """A part of one matrix: which of a job's stack, its memory, and that or a copy as (rows, columns)."""

    job: MatrixJob
    matrix: int
    memory: Real
    target: Real


def _matrices(jobs: Iterable[MatrixJob], seed: int, fill: Fill, threads: int) -> list[_Matrix]:
    """Collect the parts of each matrix, so that its reflectors are made once."""
    shared: dict[tuple[Any, ...], list[_Part]] = defaultdict(list)
    for job in jobs:
        memory = host_view(job.destination)
        stack, sides = job.split
        for number, start in enumerate(job.starts.tolist()):
            own = memory[np.unravel_index(number, memory.shape[:stack])]
            plain = joined(destination_of(own), sides - stack)
            # Axes of odd strides cannot be seen as one: such a matrix is made aside.
            size = len(job.rows), len(job.columns)
            target = np.empty(size, own.dtype) if plain is None else host_view(plain)
            part = _Part(job, number, own, target)
            shared[job.stream, start, job.long, job.short, job.arithmetic].append(part)
    return [_Matrix(parts, seed, fill, threads) for parts in shared.values()]


class _Matrix:
    """A large matrix: its reflectors first, then blocks of its columns or rows in any order."""

    def __init__(self, parts: Sequence[_Part], seed: int, fill: Fill, threads: int) -> None:
        self._parts, self._seed, self._fill, self._threads = parts, seed, fill, threads
        job = parts[0].job
        self._long, self._short, self._real = job.long, job.short, job.arithmetic
        # Reflectors behind the last column that is wanted leave it alone.
        self._reflectors = 1 + max(int(part.job.columns.max()) for part in parts)
        self._panels: list[kernel.Panel | None] = [None] * -(-self._reflectors // kernel.PANEL)
        self._boxes: list[Box] = []
        self._gaussians: list[Real] = []

    @property
    def values(self) -> int:
        """Number of values of the whole matrix."""
        return self._long * self._short

    @property
    def units(self) -> float:
        """Units of work of all parts."""
        return sum(part.job.units / len(part.job.starts) for part in self._parts)

    def make(self) -> None:
        """Do all of it in one thread."""
        self._reserve()
        self._draw(range(len(self._panels)))
        for number in range(len(self._panels)):
            self._reflect(number)
        for task in self.block_tasks(alone=True):
            task()
        self.finish()

    def panel_tasks(self) -> Iterator[Callable[[], None]]:
        """Yield tasks that make the reflectors."""
        self._reserve()
        return (partial(self._make_panel, number) for number in range(len(self._panels)))

    def _reserve(self) -> None:
        """Allocate all panels at once: large memory comes in large pages."""
        job, matrix, *_ = self._parts[0]
        starts = range(0, self._reflectors, kernel.PANEL)
        self._boxes = [job.gaussians(matrix, k, min(kernel.PANEL, self._reflectors - k)) for k in starts]
        ends = np.cumsum([box.size for box in self._boxes])
        pieces = np.split(np.empty(ends[-1], self._real.numpy), ends[:-1])
        self._gaussians = [piece.reshape(box.shape) for piece, box in zip(pieces, self._boxes, strict=True)]

    def _make_panel(self, number: int) -> None:
        self._draw([number])
        self._reflect(number)

    def _draw(self, numbers: Iterable[int]) -> None:
        stream = self._parts[0].job.stream
        wanted = ((stream, self._boxes[k], self._gaussians[k]) for k in numbers)
        _draw(wanted, self._seed, self._fill)

    def _reflect(self, number: int) -> None:
        self._panels[number] = kernel.panel(number * kernel.PANEL, self._gaussians[number])

    def block_tasks(self, alone: bool = False) -> Iterator[Callable[[], None]]:
        """Yield tasks that make the parts, the longest first; all panels must be there.

        `alone` tells that no other thread works on this matrix.
        """
        panels = [panel for panel in self._panels if panel is not None]
        signs = np.concatenate([panel.signs for panel in panels])
        for part in self._parts:
            by_columns = self._column_cost(part.job.columns) <= self._row_cost(part.job)
            method = self._column_blocks if by_columns else self._row_blocks
            yield from method(part, panels, signs * self._real.numpy.type(part.job.gain), alone)

    def finish(self) -> None:
        """Free the reflectors, and copy what was made aside."""
        self._panels.clear()
        self._gaussians.clear()
        for part in self._parts:
            if not np.may_share_memory(part.memory, part.target):
                part.memory[...] = part.target.reshape(part.memory.shape)

    # A reflector costs its length for each column behind it, or for each row.

    def _column_cost(self, columns: NDArray[np.intp]) -> int:
        return int(((columns + 1) * (2 * self._long - columns)).sum()) // 2

    def _row_cost(self, job: MatrixJob) -> int:
        return len(job.rows) * (self._reflectors * (2 * self._long - self._reflectors + 1)) // 2

    def _blocks(self, count: int, alone: bool) -> Iterator[tuple[int, int]]:
        """Cut `count` columns or rows into blocks, last first: those columns take most reflectors."""
        if alone:
            yield 0, count
            return
        # The blocks of all threads take a quarter of the matrix if it is tall, half of it if it is square.
        share = (0.25 + 0.25 * self._short / self._long) * self._short / self._threads
        size = max(_LEAST_BLOCK, min(_MOST_BLOCK, int(share), -(-count // self._threads)) // 32 * 32)
        for first in reversed(range(0, count, size)):
            yield first, min(first + size, count)

    def _column_blocks(
        self, part: _Part, panels: Sequence[kernel.Panel], factors: Real, alone: bool
    ) -> Iterator[Callable[[], None]]:
        job, _, _, target = part
        rows = slice(None) if _is_whole(job.rows, self._long) else job.rows
        order = np.argsort(job.columns)
        in_order = bool((np.diff(order) > 0).all())

        def make(first: int, stop: int) -> None:
            columns = job.columns[order[first:stop]]
            needed = panels[: columns[-1] // kernel.PANEL + 1]
            q = kernel.columns_of_q(needed, self._long, columns)
            q *= factors[columns]
            target[:, slice(first, stop) if in_order else order[first:stop]] = q[rows]

        return (partial(make, first, stop) for first, stop in self._blocks(len(order), alone))

    def _row_blocks(
        self, part: _Part, panels: Sequence[kernel.Panel], factors: Real, alone: bool
    ) -> Iterator[Callable[[], None]]:
        job, _, _, target = part
        columns = slice(0, self._short) if _is_whole(job.columns, self._short) else job.columns

        def make(first: int, stop: int) -> None:
            q = kernel.rows_of_q(panels, self._long, job.rows[first:stop])
            target[first:stop] = q[:, columns] * factors[columns]

        return (partial(make, first, stop) for first, stop in self._blocks(len(job.rows), alone))
