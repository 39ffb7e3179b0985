"""Matrix jobs: parts of stacks of orthogonal matrices."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from initium.dtypes import DTYPES, DType
from initium.fills.orthogonal import OrthogonalFill
from initium.kernels import table as T
from initium.memory.destination import Destination, packed_steps
from initium.planning.jobs import Job
from initium.regions.boxes import Box
from initium.regions.windows import windows

__all__ = ["GaussianDraw", "MatrixJob", "matrix_jobs"]


@dataclass(frozen=True, eq=False)
class MatrixJob:
    """Parts of a stack of orthogonal matrices, each with n rows and m <= n columns (transposed if wide).

    Attributes
    ----------
    name, stream
        Name and stream of the tensor.
    long, short
        n and m.
    starts
        Index of the first Gaussian of each matrix, shape (count,).
    rows, columns
        Indices of the rows (of n) and of the columns (of m) that are wanted.
    gain, method
        As in `OrthogonalFill`.
    destination
        Memory with the axes of the stack, of the rows and of the columns, in this order.
    split
        Number of stack axes of the destination, and number of stack and row axes together.
    """

    name: str
    stream: int
    long: int
    short: int
    starts: NDArray[np.int64]
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    gain: float
    method: str
    destination: Destination
    split: tuple[int, int]

    @property
    def values(self) -> int:
        """Number of values of a whole matrix."""
        return self.long * self.short

    @property
    def units(self) -> int:
        """Units of work, for progress reports."""
        return -(-len(self.starts) * len(self.rows) * len(self.columns) // T.TILE)

    @property
    def arithmetic(self) -> DType:
        """The dtype in which Gaussians and products are computed."""
        return DTYPES["float64" if self.destination.dtype.word_bits == 64 else "float32"]

    def gaussians(self, matrix: int, first: int, count: int) -> Box:
        """Return the box of ``G[first : first + count, first:]`` of a matrix, in the (flat) stream."""
        start = int(self.starts[matrix]) + first * (self.long + 1)
        return Box((count, self.long - first), start, (self.long, 1))

    def runs(self, first: int, stop: int) -> Iterator[tuple[slice, Box]]:
        """Yield runs of the matrices [first, stop) that are consecutive in the stream, with their Gaussians.

        The slices count from `first`.
        """
        size = self.values
        starts = self.starts[first:stop]
        ends = [*(np.flatnonzero(np.diff(starts) != size) + 1).tolist(), len(starts)]
        begin = 0
        for end in ends:
            yield slice(begin, end), Box(((end - begin) * size,), int(starts[begin]), (1,))
            begin = end


def matrix_jobs(job: Job, fill: OrthogonalFill) -> Iterator[MatrixJob]:
    """Yield the matrix jobs of a job whose box is not empty; none if the box does not contain the centre."""
    long, short = fill.sides
    tall = math.prod(fill.shape[a] for a in fill.row_axes) == long
    sides = (fill.row_axes, fill.column_axes) if tall else (fill.column_axes, fill.row_axes)
    for window in windows(fill.shape, job.box, job.destination):
        for axis, position in fill.centre:
            if position not in window.index[axis]:
                break
            at = window.index[axis].index(position)
            window = window.part(axis, slice(at, at + 1))
        else:
            order = (*fill.batch_axes, *sides[0], *sides[1], *(axis for axis, _ in fill.centre))
            target = window.destination
            kept = order[: len(order) - len(fill.centre)]
            stack, rows, columns = (
                _flat([window.index[a] for a in axes], [fill.shape[a] for a in axes])
                for axes in (fill.batch_axes, *sides)
            )
            yield MatrixJob(
                job.name,
                job.stream,
                long,
                short,
                stack * (long * short),
                rows,
                columns,
                fill.gain,
                fill.method,
                target._replace(
                    shape=tuple(target.shape[a] for a in kept),
                    byte_steps=tuple(target.byte_steps[a] for a in kept),
                ),
                (len(fill.batch_axes), len(fill.batch_axes) + len(sides[0])),
            )


def _flat(index: Sequence[range], shape: Sequence[int]) -> NDArray[np.int64]:
    """Return the flat indices of a grid, in order."""
    flat = np.zeros(1, np.int64)
    for positions, stride in zip(index, packed_steps(shape), strict=True):
        along = np.arange(positions.start, positions.stop, positions.step, dtype=np.int64) * stride
        flat = (flat[:, None] + along).ravel()
    return flat


class GaussianDraw(NamedTuple):
    """A request for standard normals: the matrix, their box in the stream, and an array of its shape."""

    job: MatrixJob
    box: Box
    array: Any
