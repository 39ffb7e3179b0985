"""Plans: jobs (a fill on a box of a named tensor, with its destination) laid out in job tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initium.boxes import Box, rows
from initium.checks import check_seed
from initium.destinations import Destination
from initium.fills import Fill
from initium.kernels import constants

__all__ = ["Job", "Plan", "Table", "plan"]


@dataclass(frozen=True)
class Job:
    """A fill on a box of one tensor, and where it goes.

    Attributes
    ----------
    stream
        The tensor's stream, see `initium.stream_id`.
    fill
        The distribution.
    box
        The part of the global shape; `destination` has its shape.
    destination
        The memory that is written.
    """

    stream: int
    fill: Fill
    box: Box
    destination: Destination


@dataclass(frozen=True, eq=False)
class Table:
    """Jobs of one kind and output, as kernels read them: rows of `constants.JOB`, and their tiles."""

    kind: str
    output: str
    rows: NDArray[np.void]
    tiles: int


@dataclass(frozen=True, eq=False)
class Plan:
    """All jobs of a call. It may be run any number of times, and always writes the same values.

    Attributes
    ----------
    seed
        Philox key of all jobs.
    tables
        The jobs, by kind and output.
    jobs
        What the tables were made from; keeps the destinations alive.
    """

    seed: int
    tables: tuple[Table, ...]
    jobs: tuple[Job, ...]

    @property
    def tiles(self) -> int:
        """Units of work in the whole plan."""
        return sum(table.tiles for table in self.tables)


def plan(jobs: Iterable[Job], seed: int) -> Plan:
    """Lay jobs out for a backend.

    Parameters
    ----------
    jobs
        In any order; those of no elements are dropped.
    seed
        In [0, 2**64).

    Raises
    ------
    ValueError
        If a dtype cannot hold its distribution, before anything is written.
    """
    seed = check_seed(seed)
    listed = tuple(jobs)
    groups: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
    for job in listed:
        if job.box.size:
            dtype = job.destination.dtype
            encoding = job.fill.encode(dtype)
            output = f"bits{8 * dtype.itemsize}" if encoding.kind == constants.CONSTANT else dtype.name
            groups.setdefault((encoding.kind, output), []).extend(_rows(job, encoding))
    tables = (_table(kind, output, lines) for (kind, output), lines in groups.items())
    return Plan(seed, tuple(tables), listed)


def _rows(job: Job, encoding: Any) -> Iterable[tuple[Any, ...]]:
    destination = job.destination
    parts = rows(job.box, destination.byte_steps, destination.dtype.itemsize, constants.JOB_AXES)
    for index, byte, axes in parts:
        extent = tuple(axis.extent for axis in axes)
        yield (
            destination.address + byte,
            job.stream,
            job.box.start + index,
            encoding.split,
            _product(extent),
            0,
            extent,
            tuple(axis.index_step for axis in axes),
            tuple(axis.byte_step for axis in axes),
            encoding.parameters,
        )


def _product(extent: tuple[int, ...]) -> int:
    a, b, c, d = extent
    return a * b * c * d


def _table(kind: str, output: str, lines: list[tuple[Any, ...]]) -> Table:
    table = np.array(lines, constants.JOB)
    tiles = -(-table["count"] // constants.TILE)
    table["tile"] = np.cumsum(tiles) - tiles
    return Table(kind, output, table, int(tiles.sum()))
