"""The reference backend: plain NumPy, one thread, slow, and the judge of the others."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initium.backends import Backend, Progress
from initium.checks import check_count
from initium.destinations import write_host
from initium.dtypes import DTYPES
from initium.kernels.reference.fill import fill_job
from initium.plan import Plan, Table

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
    if table.output in DTYPES:
        dtype = DTYPES[table.output].numpy
    else:
        dtype = np.dtype(f"u{int(table.output.removeprefix('bits')) // 8}")
    extent, steps = (tuple(int(n) for n in row[field]) for field in ("extent", "byte_step"))
    reach = [(n - 1) * step for n, step in zip(extent, steps, strict=True)]
    low = sum(r for r in reach if r < 0)
    size = sum(abs(r) for r in reach) + dtype.itemsize
    memory: Any = (ctypes.c_char * size).from_address(int(row["address"]) + low)
    return np.ndarray(extent, dtype, memory, -low, steps)


def _orthogonal(plan: Plan, threads: int | None, progress: Progress | None) -> None:
    from initium.backends.orthogonal import run_reference

    run_reference(plan, lambda part: _fill(part, None, None), progress)


BACKEND = Backend("numpy", ("cpu",), _fill, _orthogonal, write_host, _fill)
