"""The reference backend: plain NumPy in one thread; the other backends are tested against it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initium.backends.base import Backend, DrawGaussians, Progress
from initium.backends.orthogonal_stacks import make_stack, stacks, units_of
from initium.checks import check_count
from initium.dtypes import DTYPES
from initium.kernels import table as T
from initium.kernels.reference.fill import fill_job
from initium.kernels.reference.orthogonal import by_householder, by_qr
from initium.memory.destination import write_host
from initium.planning.matrices import MatrixJob
from initium.planning.plan import Plan, Table

__all__ = ["BACKEND"]


def _fill(plan: Plan, threads: int | None, progress: Progress | None) -> None:
    if threads is not None:
        check_count("threads", threads, minimum=1)
    done = 0
    for table in plan.tables:
        for index, row in enumerate(table.rows):
            fill_job(row, _view(row, table), table.kind, plan.seed)
            ends = table.rows[index + 1]["tile"] if index + 1 < len(table.rows) else table.tiles
            if progress is not None:
                progress(done + int(ends))
        done += table.tiles


def _view(row: Any, table: Table) -> NDArray[Any]:
    """Return the box of one row as an array over its memory."""
    dtype = DTYPES[table.output].numpy if table.output in DTYPES else np.dtype(f"u{T.OUTPUTS[table.output]}")
    extent, steps = (tuple(int(n) for n in row[field]) for field in ("extent", "byte_step"))
    reach = [(n - 1) * step for n, step in zip(extent, steps, strict=True)]
    low = sum(r for r in reach if r < 0)
    size = sum(abs(r) for r in reach) + dtype.itemsize
    memory: Any = (ctypes.c_char * size).from_address(int(row["address"]) + low)
    return np.ndarray(extent, dtype, memory, -low, steps)


def _orthogonal(
    jobs: Sequence[MatrixJob], draw: DrawGaussians, threads: int | None, progress: Progress | None
) -> None:
    """Compute the matrices one by one."""
    done = 0.0
    for stack in stacks(jobs, 1):
        method = by_qr if stack[0].job.method == "qr" else _stack_by_householder
        make_stack(stack, method, draw)
        done += units_of(stack)
        if progress is not None:
            progress(round(done))


def _stack_by_householder(gaussians: NDArray[Any]) -> NDArray[Any]:
    return np.stack([by_householder(g) for g in gaussians])


BACKEND = Backend("numpy", ("cpu",), _fill, _orthogonal, write_host)
