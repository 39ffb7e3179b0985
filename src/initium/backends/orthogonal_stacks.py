"""Stacks: matrices of equal shape that a CPU backend computes together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from initium.backends.base import DrawGaussians
from initium.memory.destination import host_view, joined
from initium.planning.matrices import GaussianDraw, MatrixJob

__all__ = ["Span", "is_whole", "make_stack", "stacks", "units_of"]

Real = NDArray[Any]


class Span(NamedTuple):
    """Matrices [first, stop) of a job."""

    job: MatrixJob
    first: int
    stop: int


def units_of(stack: Sequence[Span]) -> float:
    """Return the units of work of a stack, for progress reports."""
    return sum(span.job.units * (span.stop - span.first) / len(span.job.starts) for span in stack)


def stacks(jobs: Iterable[MatrixJob], values: int) -> Iterator[list[Span]]:
    """Group matrices of equal shape, from all jobs, into stacks of at most `values` values or one matrix."""
    groups: dict[tuple[Any, ...], list[MatrixJob]] = defaultdict(list)
    for job in jobs:
        groups[job.long, job.short, job.arithmetic, job.method].append(job)
    for members in groups.values():
        most = max(1, values // members[0].values)
        stack: list[Span] = []
        room = most
        for job in members:
            first = 0
            while first < len(job.starts):
                stop = min(first + room, len(job.starts))
                stack.append(Span(job, first, stop))
                room -= stop - first
                first = stop
                if not room:
                    yield stack
                    stack, room = [], most
        if stack:
            yield stack


def make_stack(stack: Sequence[Span], method: Callable[[Real], Real], draw: DrawGaussians) -> None:
    """Draw the Gaussians of a stack, compute the matrices by `method`, and write the wanted parts."""
    job = stack[0].job
    count = sum(span.stop - span.first for span in stack)
    gaussians = np.empty((count, job.short, job.long), job.arithmetic.numpy)
    draw(_draws(stack, gaussians))
    q = method(gaussians)
    done = 0
    for job, first, stop in stack:
        made = q[done : done + stop - first]
        done += stop - first
        if not (is_whole(job.rows, job.long) and is_whole(job.columns, job.short)):
            made = made[:, job.rows[:, None], job.columns]
        _write_stack(job, first, stop, made * made.dtype.type(job.gain))


def is_whole(index: NDArray[np.intp], extent: int) -> bool:
    """Return whether an index selects a whole axis, in order."""
    return len(index) == extent and bool((index == np.arange(extent)).all())


def _draws(stack: Sequence[Span], gaussians: Real) -> Iterator[GaussianDraw]:
    """Yield the requests for the Gaussians of a stack."""
    done = 0
    for job, first, stop in stack:
        own = gaussians[done : done + stop - first]
        yield from (GaussianDraw(job, box, own[run].reshape(-1)) for run, box in job.runs(first, stop))
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
