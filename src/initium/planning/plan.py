"""Plans: all jobs of a call, arranged in job tables, matrix jobs and pattern jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from initium.checks import check_seed
from initium.dtypes import DType
from initium.fills.elementwise import ConstantFill, ElementwiseFill, Encoding
from initium.fills.orthogonal import OrthogonalFill
from initium.fills.patterns import PatternFill
from initium.kernels import table as T
from initium.planning.jobs import Job, PatternJob
from initium.planning.matrices import MatrixJob, matrix_jobs
from initium.regions.boxes import parts
from initium.regions.windows import windows

__all__ = ["Plan", "Table", "plan"]

_Answer = TypeVar("_Answer")
_ZERO = ConstantFill(0.0)


@dataclass(frozen=True, eq=False)
class Table:
    """Jobs of one kind and output, in the form that kernels read.

    Attributes
    ----------
    kind, output
        Kind and output of all rows; see `initium.kernels.table`.
    rows
        Rows of `initium.kernels.table.JOB`, in the order of their tiles.
    tiles
        Number of tiles of all rows.
    owners
        For each row, the position of its job in `Plan.jobs`.
    """

    kind: str
    output: str
    rows: NDArray[np.void]
    tiles: int
    owners: Sequence[int] | NDArray[np.intp]

    @property
    def nbytes(self) -> int:
        """Bytes that the jobs write."""
        return int(self.rows["count"].sum()) * T.OUTPUTS[self.output]


@dataclass(frozen=True, eq=False)
class Plan:
    """All jobs of a call. A plan can be run any number of times, and always writes the same values.

    Attributes
    ----------
    seed
        Philox key of all jobs.
    tables
        Jobs of elementwise fills, by kind and output.
    jobs
        The jobs from which the plan was made; they keep the destinations alive.
    matrices
        Jobs of orthogonal fills.
    patterns
        Jobs of pattern fills.
    """

    seed: int
    tables: tuple[Table, ...]
    jobs: tuple[Job, ...]
    matrices: tuple[MatrixJob, ...] = ()
    patterns: tuple[PatternJob, ...] = ()

    @property
    def tiles(self) -> int:
        """Number of tiles of all tables."""
        return sum(table.tiles for table in self.tables)

    @property
    def units(self) -> int:
        """Units of work of the whole plan, for progress reports."""
        matrices = sum(job.units for job in self.matrices)
        return self.tiles + matrices + sum(job.units for job in self.patterns)


def plan(jobs: Iterable[Job], seed: int) -> Plan:
    """Prepare jobs for a backend.

    Parameters
    ----------
    jobs
        The jobs, in any order; jobs without elements are dropped.
    seed
        The Philox key, in [0, 2**64).

    Raises
    ------
    ValueError
        If a dtype cannot hold its distribution; the message names the tensor, and nothing has been written.
    """
    seed = check_seed(seed)
    listed = tuple(jobs)
    groups: dict[tuple[str, str], _Group] = {}
    # Jobs that differ only in name and address share their rows, since the layers of a model repeat.
    known: dict[tuple[Any, ...], tuple[_Group, int]] = {}
    matrices: list[MatrixJob] = []
    patterns: list[PatternJob] = []
    for position, job in enumerate(listed):
        if not job.box.size:
            continue
        fill = job.fill
        if not isinstance(fill, ElementwiseFill):
            _named(job, fill.check)
            if isinstance(fill, PatternFill):
                found = windows(fill.shape, job.box, job.destination)
                patterns.extend(PatternJob(job.name, job.stream, fill, window) for window in found)
                continue
            assert isinstance(fill, OrthogonalFill)
            matrices.extend(matrix_jobs(job, fill))
            if not fill.centre:
                continue
            fill = _ZERO  # tables are filled before matrices
        destination = job.destination
        key = id(fill), id(job.box), destination.byte_steps, destination.dtype.code
        if key not in known:
            encoding = _named(job, fill.encode)
            output = T.output_of(encoding.kind, destination.dtype.name, destination.dtype.itemsize)
            group = groups.setdefault((encoding.kind, output), _Group())
            known[key] = group, len(group.templates)
            group.templates.append(_rows(job, encoding))
        group, template = known[key]
        group.members.append((template, position, destination.address, job.stream))
    tables = (group.table(kind, output) for (kind, output), group in groups.items())
    return Plan(seed, tuple(tables), listed, tuple(matrices), tuple(patterns))


def _named(job: Job, ask: Callable[[DType], _Answer]) -> _Answer:
    """Call a method of a fill with the job's dtype; errors name the tensor."""
    try:
        return ask(job.destination.dtype)
    except ValueError as error:
        if not job.name:
            raise
        raise ValueError(f"tensor {job.name!r}: {error}") from error


def _rows(job: Job, encoding: Encoding) -> NDArray[np.void]:
    """Return the rows of a job with stream and address zero."""
    lines = [
        (
            part.byte % 2**64,
            0,
            job.box.start + part.index,
            encoding.integer,
            part.count,
            -(-part.count // T.TILE),
            part.extents,
            part.index_steps,
            part.byte_steps,
            encoding.parameters,
        )
        for part in parts(job.box, job.destination.byte_steps, job.destination.dtype.itemsize, T.JOB_AXES)
    ]
    return np.array(lines, T.JOB)


class _Group:
    """The jobs of one table that is being built.

    Attributes
    ----------
    templates
        Rows that jobs share if they differ only in name and address.
    members
        Template, position in the plan, address and stream of each job.
    """

    def __init__(self) -> None:
        self.templates: list[NDArray[np.void]] = []
        self.members: list[tuple[int, int, int, int]] = []

    def table(self, kind: str, output: str) -> Table:
        """Return the rows of all jobs in order, each with its address, stream and first tile."""
        if len(self.members) == 1:  # a shortcut for a call with one tensor
            ((_, position, address, stream),) = self.members
            rows = self.templates[0]
            return _table(kind, output, rows, np.uint64(address), np.uint64(stream), (position,) * len(rows))
        lengths = np.array([len(lines) for lines in self.templates])
        starts = np.cumsum(lengths) - lengths
        chosen, owners, addresses, streams = zip(*self.members, strict=True)
        template = np.array(chosen)
        counts = lengths[template]
        # Row k of a job is row starts[template] + k of all templates.
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = np.concatenate(self.templates)[np.repeat(starts[template], counts) + within]
        return _table(
            kind,
            output,
            rows,
            np.repeat(np.array(addresses, np.uint64), counts),
            np.repeat(np.array(streams, np.uint64), counts),
            np.repeat(np.array(owners), counts),
        )


def _table(
    kind: str,
    output: str,
    rows: NDArray[np.void],
    addresses: NDArray[np.uint64] | np.uint64,
    streams: NDArray[np.uint64] | np.uint64,
    owners: Sequence[int] | NDArray[np.intp],
) -> Table:
    """Complete rows whose address and stream are zero, and whose tile field is their number of tiles."""
    rows["address"] += addresses
    rows["stream"] = streams
    ends = rows["tile"].cumsum()
    rows["tile"] = ends - rows["tile"]
    return Table(kind, output, rows, int(ends[-1]), owners)
