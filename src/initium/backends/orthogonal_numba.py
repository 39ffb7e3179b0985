"""Orthogonal jobs on CPU cores: the order of work, its threads and its memory.

BLAS runs on one thread; panels, blocks of columns or whole matrices are distributed over the threads of this
package. So threads synchronise twice per large matrix, not at each product. The shapes of all products depend
only on the matrix and the wanted part, so the number of threads changes no bit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from initium.backends.base import DrawGaussians, Progress
from initium.backends.orthogonal_stacks import Span, is_whole, make_stack, stacks, units_of
from initium.backends.threads import Crew, one_blas_thread
from initium.kernels.cpu import orthogonal as kernel
from initium.kernels.reference.orthogonal import by_qr
from initium.memory.arrays import destination_of
from initium.memory.destination import host_view, joined
from initium.planning.matrices import GaussianDraw, MatrixJob
from initium.regions.boxes import Box

__all__ = ["make"]

Real = NDArray[Any]

# Up to this longer side, a loop over reflectors takes less time than calls of a BLAS.
_SMALL = 48
# Values per task of small matrices.
_STACK_VALUES = 1 << 17
# Up to this number of values, and with a matrix for each thread, one thread computes a whole matrix.
_MEDIUM = 1 << 20
# Columns (or rows) per block, by the shorter side. Small blocks make inefficient products; large ones balance
# badly.
_BLOCK, _SMALL_BLOCK, _SMALL_SIDE = 128, 64, 512


def make(jobs: Sequence[MatrixJob], draw: DrawGaussians, threads: int, progress: Progress | None) -> None:
    """Compute orthogonal matrices.

    Parameters
    ----------
    jobs
        The matrices and their destinations.
    draw
        Draws standard normals in the calling thread.
    threads
        Number of threads.
    progress
        Called from time to time with the units done.
    """
    crew = Crew(threads, progress)
    by_lapack = [job for job in jobs if job.method == "qr"]
    others = [job for job in jobs if job.method != "qr"]

    def task(stack: Sequence[Span], method: Callable[[Real], Real]) -> tuple[Callable[[], None], float]:
        return partial(make_stack, stack, method, draw), units_of(stack)

    with one_blas_thread():
        crew.together([task(stack, by_qr) for stack in stacks(by_lapack, _STACK_VALUES)])
        small = stacks([job for job in others if job.long <= _SMALL], _STACK_VALUES)
        crew.together([task(stack, kernel.small) for stack in small])
        large = _matrices([job for job in others if job.long > _SMALL], draw)
        alone = [m for m in large if m.values <= _MEDIUM and len(large) >= threads]
        crew.together([(matrix.make, matrix.units) for matrix in alone])
        for matrix in large:
            if matrix.values > _MEDIUM or len(large) < threads:
                crew.together([(panel, 0.0) for panel in matrix.panel_tasks()])
                blocks = list(matrix.block_tasks())
                crew.together([(block, matrix.units / len(blocks)) for block in blocks])
                matrix.finish()


# --- large matrices -----------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """A part of one matrix: job, number in the stack, memory, and a (rows, columns) view or copy of it."""

    job: MatrixJob
    matrix: int
    memory: Real
    target: Real


def _matrices(jobs: Iterable[MatrixJob], draw: DrawGaussians) -> list[_Matrix]:
    """Collect the parts of each matrix, so that its reflectors are computed once."""
    shared: dict[tuple[Any, ...], list[_Part]] = defaultdict(list)
    for job in jobs:
        memory = host_view(job.destination)
        stack, sides = job.split
        for number, start in enumerate(job.starts.tolist()):
            own = memory[np.unravel_index(number, memory.shape[:stack])]
            plain = joined(destination_of(own), sides - stack)
            # If the strides do not allow a (rows, columns) view, the matrix is computed in a copy.
            size = len(job.rows), len(job.columns)
            target = np.empty(size, own.dtype) if plain is None else host_view(plain)
            part = _Part(job, number, own, target)
            shared[job.stream, start, job.long, job.short, job.arithmetic].append(part)
    return [_Matrix(parts, draw) for parts in shared.values()]


class _Matrix:
    """A large matrix: first its reflectors, then blocks of its columns or rows in any order."""

    def __init__(self, parts: Sequence[_Part], draw: DrawGaussians) -> None:
        self._parts, self._draw_gaussians = parts, draw
        job = parts[0].job
        self._long, self._short, self._real = job.long, job.short, job.arithmetic
        # Reflectors after the last wanted column do not change it.
        self._reflectors = 1 + max(int(part.job.columns.max()) for part in parts)
        self._panels: list[kernel.Panel | None] = [None] * -(-self._reflectors // kernel.PANEL)
        self._boxes: list[Box] = []
        self._gaussians: list[Real] = []

    @property
    def values(self) -> int:
        """Number of values of the whole matrix."""
        return self._parts[0].job.values

    @property
    def units(self) -> float:
        """Units of work of all parts."""
        return sum(part.job.units / len(part.job.starts) for part in self._parts)

    def make(self) -> None:
        """Compute the whole matrix in one thread."""
        self._reserve()
        self._draw(range(len(self._panels)))
        for number in range(len(self._panels)):
            self._reflect(number)
        for task in self.block_tasks():
            task()
        self.finish()

    def panel_tasks(self) -> Iterator[Callable[[], None]]:
        """Yield tasks that compute the reflectors."""
        self._reserve()
        return (partial(self._make_panel, number) for number in range(len(self._panels)))

    def _reserve(self) -> None:
        """Allocate all panels at once, since large allocations get huge pages."""
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
        job = self._parts[0].job
        self._draw_gaussians(GaussianDraw(job, self._boxes[k], self._gaussians[k]) for k in numbers)

    def _reflect(self, number: int) -> None:
        self._panels[number] = kernel.panel(number * kernel.PANEL, self._gaussians[number])

    def block_tasks(self) -> Iterator[Callable[[], None]]:
        """Yield tasks that compute the parts, the longest first; all panels must exist."""
        panels = [panel for panel in self._panels if panel is not None]
        signs = np.concatenate([panel.signs for panel in panels])
        for part in self._parts:
            by_columns = self._column_cost(part.job.columns) <= self._row_cost(part.job)
            method = self._column_blocks if by_columns else self._row_blocks
            yield from method(part, panels, signs * self._real.numpy.type(part.job.gain))

    def finish(self) -> None:
        """Free the reflectors, and copy the parts that were computed in a copy."""
        self._panels.clear()
        self._gaussians.clear()
        for part in self._parts:
            if not np.may_share_memory(part.memory, part.target):
                part.memory[...] = part.target.reshape(part.memory.shape)

    # A reflector costs its length for each column after it, or for each row.

    def _column_cost(self, columns: NDArray[np.intp]) -> int:
        return int(((columns + 1) * (2 * self._long - columns)).sum()) // 2

    def _row_cost(self, job: MatrixJob) -> int:
        return len(job.rows) * (self._reflectors * (2 * self._long - self._reflectors + 1)) // 2

    def _blocks(self, count: int) -> Iterator[tuple[int, int]]:
        """Split `count` columns or rows into blocks, the last first, since these columns cost the most."""
        size = _BLOCK if self._short >= _SMALL_SIDE else _SMALL_BLOCK
        for first in reversed(range(0, count, size)):
            yield first, min(first + size, count)

    def _column_blocks(
        self, part: _Part, panels: Sequence[kernel.Panel], factors: Real
    ) -> Iterator[Callable[[], None]]:
        job, _, _, target = part
        rows = slice(None) if is_whole(job.rows, self._long) else job.rows
        order = np.argsort(job.columns)
        in_order = bool((np.diff(order) > 0).all())

        def make(first: int, stop: int) -> None:
            columns = job.columns[order[first:stop]]
            needed = panels[: columns[-1] // kernel.PANEL + 1]
            q = kernel.columns_of_q(needed, self._long, columns)
            q *= factors[columns]
            target[:, slice(first, stop) if in_order else order[first:stop]] = q[rows]

        return (partial(make, first, stop) for first, stop in self._blocks(len(order)))

    def _row_blocks(
        self, part: _Part, panels: Sequence[kernel.Panel], factors: Real
    ) -> Iterator[Callable[[], None]]:
        job, _, _, target = part
        columns = slice(0, self._short) if is_whole(job.columns, self._short) else job.columns

        def make(first: int, stop: int) -> None:
            q = kernel.rows_of_q(panels, self._long, job.rows[first:stop])
            target[first:stop] = q[:, columns] * factors[columns]

        return (partial(make, first, stop) for first, stop in self._blocks(len(job.rows)))
