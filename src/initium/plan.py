"""Plans: jobs (a fill on a box of a named tensor, with its destination) laid out in job tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initium.boxes import Box, parts
from initium.checks import check_seed
from initium.destinations import Destination
from initium.fills import Encoding, Fill
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


def _rows(job: Job, encoding: Encoding) -> Iterable[tuple[Any, ...]]:
    destination, start = job.destination, job.box.start
    itemsize = destination.dtype.itemsize
    for part in parts(job.box, destination.byte_steps, itemsize, constants.JOB_AXES):
        yield (
            destination.address + part.byte,
            job.stream,
            start + part.index,
            encoding.split,
            part.count,
            0,
            part.extents,
            part.index_steps,
            part.byte_steps,
            encoding.parameters,
        )


def _table(kind: str, output: str, lines: list[tuple[Any, ...]]) -> Table:
    table = np.array(lines, constants.JOB)
    tiles = -(-table["count"] // constants.TILE)
    table["tile"] = np.cumsum(tiles) - tiles
    return Table(kind, output, table, int(tiles.sum()))
