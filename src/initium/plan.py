"""Plans: jobs (a fill on a box of a named tensor, with its destination) laid out in job tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from initium.boxes import Box, parts
from initium.checks import check_seed
from initium.destinations import Destination
from initium.dtypes import DTYPES
from initium.fills import ConstantFill, Fill
from initium.kernels import constants
from initium.orthogonality import MatrixJob, OrthogonalFill, matrix_jobs
from initium.patterns import PatternFill, PatternJob
from initium.windows import windows

__all__ = ["Job", "Plan", "Table", "plan"]

_ZERO = ConstantFill(0.0)
# Kinds that write bits, whatever the dtype.
_BITS = (constants.WORDS, constants.CONSTANT)


class Job(NamedTuple):
    """A fill on a box of one tensor, and where it goes.

    A tuple, as `Destination` is: a plan of 10,000 tensors makes as many of each, and a frozen dataclass
    takes several times as long to make.

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

    @property
    def nbytes(self) -> int:
        """Bytes that the jobs write."""
        bits = self.output.removeprefix("bits")
        itemsize = int(bits) // 8 if bits.isdigit() else DTYPES[self.output].itemsize
        return int(self.rows["count"].sum()) * itemsize


@dataclass(frozen=True, eq=False)
class Plan:
    """All jobs of a call. It may be run any number of times, and always writes the same values.

    Attributes
    ----------
    seed
        Philox key of all jobs.
    tables
        Jobs of independent values, by kind and output.
    jobs
        What the plan was made from; keeps the destinations alive.
    matrices
        Orthogonal jobs.
    patterns
        Jobs whose values depend on their place.
    """

    seed: int
    tables: tuple[Table, ...]
    jobs: tuple[Job, ...]
    matrices: tuple[MatrixJob, ...] = ()
    patterns: tuple[PatternJob, ...] = ()

    @property
    def tiles(self) -> int:
        """Tiles of all tables."""
        return sum(table.tiles for table in self.tables)

    @property
    def units(self) -> int:
        """Units of work in the whole plan, as progress counts them."""
        matrices = sum(job.units for job in self.matrices)
        return self.tiles + matrices + sum(job.units for job in self.patterns)


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
    groups: dict[tuple[str, str], _Group] = {}
    # Jobs that differ in nothing but name and memory share their rows: models repeat their layers.
    known: dict[tuple[Any, ...], tuple[_Group, int]] = {}
    matrices: list[MatrixJob] = []
    patterns: list[PatternJob] = []
    for job in listed:
        if not job.box.size:
            continue
        if isinstance(job.fill, (OrthogonalFill, PatternFill)):
            job.fill.encode(job.destination.dtype)
            if isinstance(job.fill, PatternFill):
                patterns.extend(_pattern_jobs(job, job.fill))
                continue
            matrices.extend(matrix_jobs(job.stream, job.fill, job.box, job.destination))
            if not job.fill.centre:
                continue
            job = job._replace(fill=_ZERO)  # tables are filled before matrices
        destination = job.destination
        key = id(job.fill), id(job.box), destination.byte_steps, destination.dtype.code
        if key not in known:
            kind, output, lines = _lines(job)
            group = groups.setdefault((kind, output), _Group())
            known[key] = group, len(group.templates)
            group.templates.append(lines)
        group, template = known[key]
        group.chosen.append(template)
        group.addresses.append(destination.address)
        group.streams.append(job.stream)
    tables = (group.table(kind, output) for (kind, output), group in groups.items())
    return Plan(seed, tuple(tables), listed, tuple(matrices), tuple(patterns))


def _pattern_jobs(job: Job, fill: PatternFill) -> Iterable[PatternJob]:
    found = windows(fill.shape, job.box, job.destination)
    return (PatternJob(job.stream, fill, window) for window in found)


def _lines(job: Job) -> tuple[str, str, NDArray[np.void]]:
    """Return kind, output and the rows of a job, as if its name and its memory began at zero."""
    dtype = job.destination.dtype
    encoding = job.fill.encode(dtype)
    output = f"bits{8 * dtype.itemsize}" if encoding.kind in _BITS else dtype.name
    lines = [
        (
            part.byte % 2**64,
            0,
            job.box.start + part.index,
            encoding.split,
            part.count,
            -(-part.count // constants.TILE),
            part.extents,
            part.index_steps,
            part.byte_steps,
            encoding.parameters,
        )
        for part in parts(job.box, job.destination.byte_steps, dtype.itemsize, constants.JOB_AXES)
    ]
    return encoding.kind, output, np.array(lines, constants.JOB)


class _Group:
    """The jobs of one table while it is laid out."""

    def __init__(self) -> None:
        self.templates: list[NDArray[np.void]] = []
        self.chosen: list[int] = []
        self.addresses: list[int] = []
        self.streams: list[int] = []

    def table(self, kind: str, output: str) -> Table:
        """Return the rows of all jobs in order, each with its own address, stream and first tile."""
        if len(self.chosen) == 1:  # a call for one tensor: a sixth of the time
            address, stream = np.uint64(self.addresses[0]), np.uint64(self.streams[0])
            return _table(kind, output, self.templates[0], address, stream)
        lengths = np.array([len(lines) for lines in self.templates])
        starts = np.cumsum(lengths) - lengths
        chosen = np.array(self.chosen)
        counts = lengths[chosen]
        # Row k of a job is row starts[template] + k of all templates.
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = np.concatenate(self.templates)[np.repeat(starts[chosen], counts) + within]
        addresses = np.repeat(np.array(self.addresses, np.uint64), counts)
        return _table(kind, output, rows, addresses, np.repeat(np.array(self.streams, np.uint64), counts))


def _table(
    kind: str,
    output: str,
    rows: NDArray[np.void],
    addresses: NDArray[np.uint64] | np.uint64,
    streams: NDArray[np.uint64] | np.uint64,
) -> Table:
    """Complete rows that begin at address and stream zero, and hold their numbers of tiles."""
    rows["address"] += addresses
    rows["stream"] = streams
    ends = rows["tile"].cumsum()
    rows["tile"] = ends - rows["tile"]
    return Table(kind, output, rows, int(ends[-1]))
