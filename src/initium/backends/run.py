"""Running a plan: first its tables, then its matrices, then its patterns.

This module uses the planner and the backends, so that no backend needs the planner or another backend.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initium.backends import backend_for, lookup
from initium.backends.base import Backend, Progress, counted_from
from initium.dtypes import DType
from initium.fills.base import Fill
from initium.fills.elementwise import normal_fill
from initium.fills.patterns import Draw
from initium.memory.arrays import destination_of
from initium.planning.jobs import Job, PatternJob
from initium.planning.matrices import GaussianDraw
from initium.planning.plan import Plan, plan
from initium.regions.boxes import Box
from initium.regions.windows import Window

__all__ = ["draw_gaussians", "run"]

# Values of a pattern that are computed at a time.
_VALUES = 1 << 22
_NORMAL = normal_fill()


def run(
    made: Plan, backend: str | None = None, threads: int | None = None, progress: Progress | None = None
) -> None:
    """Run every job of a plan.

    Parameters
    ----------
    made
        A result of `initium.planning.plan.plan`.
    backend
        The name of a backend. Default: the fastest one for the device of the destinations.
    threads
        Number of CPU threads. Default: all available cores.
    progress
        Called from time to time with the units done.
    """
    chosen = backend_for((job.destination.device for job in made.jobs), backend)
    chosen.fill(made, threads, progress)
    done = made.tiles
    if made.matrices:
        draw = partial(draw_gaussians, chosen, made.seed)
        chosen.orthogonal(made.matrices, draw, threads, counted_from(done, progress))
        done += sum(job.units for job in made.matrices)
    for job in made.patterns:
        _write_pattern(job, made.seed, chosen, threads)
        done += job.units
        if progress is not None:
            progress(done)


def draw_gaussians(backend: Backend, seed: int, wanted: Iterable[GaussianDraw]) -> None:
    """Draw the Gaussians of matrices on a backend, in the calling thread."""
    jobs = [Job(job.name, job.stream, _NORMAL, box, destination_of(array)) for job, box, array in wanted]
    backend.fill(plan(jobs, seed), 1, None)


# --- patterns -----------------------------------------------------------------------------------------------


def _write_pattern(job: PatternJob, seed: int, backend: Backend, threads: int | None) -> None:
    """Compute the values of a job piece by piece in host memory, and write them."""
    host = backend if "cpu" in backend.devices else lookup("numba")

    def sample(fill: Fill, box: Box, dtype: DType) -> NDArray[Any]:
        values = np.empty(box.shape, dtype.numpy)
        drawn = Job(job.name, job.stream, fill, box, destination_of(values))
        host.fill(plan([drawn], seed), threads, None)
        return values

    draw = Draw(job.stream, seed, sample)
    for window in _pieces(job.window):
        target = window.destination
        backend.write(job.fill.array(window.index, target.dtype, draw), target)


def _pieces(window: Window) -> Iterator[Window]:
    shape = window.destination.shape
    size = math.prod(shape)
    axis = next((a for a, n in enumerate(shape) if n > 1), None)
    if size <= _VALUES or axis is None:
        yield window
        return
    step = max(1, _VALUES * shape[axis] // size)
    for first in range(0, shape[axis], step):
        yield from _pieces(window.part(axis, slice(first, min(first + step, shape[axis]))))
