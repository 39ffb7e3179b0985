"""Orthogonal jobs in array operations of NumPy or CuPy, for GPU backends.

The algorithm is that of `initium.kernels.cpu.orthogonal`. Here each step handles all matrices of a stack, and
batched products give all T factors. Every product has full float32 (or float64) precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from initium.backends.base import DrawGaussians, Progress
from initium.memory.destination import Destination, joined
from initium.planning.matrices import GaussianDraw, MatrixJob

__all__ = ["full_float32", "make"]

#: An array of the module that is used, NumPy or CuPy.
Array: TypeAlias = Any
#: ``write(array, destination)`` writes an array, rounded to the dtype, to memory of its shape.
Write: TypeAlias = Callable[[Array, Destination], None]

#: Number of reflectors per panel, a power of two.
_PANEL = 128
# Values of the matrices that are computed together (1 GiB in float32); one larger matrix is allowed.
_VALUES = 1 << 28


def make(
    jobs: Iterable[MatrixJob], xp: Any, draw: DrawGaussians, write: Write, progress: Progress | None
) -> None:
    """Compute orthogonal matrices on the current device of an array module.

    Parameters
    ----------
    jobs
        The matrices and their destinations.
    xp
        `numpy` or `cupy`.
    draw
        Draws standard normals into arrays of the module.
    write
        See `Write`.
    progress
        Called with the units done after each job.
    """
    done = 0
    with full_float32(xp):
        for job in jobs:
            step = max(1, _VALUES // job.values)
            for first in range(0, len(job.starts), step):
                stop = min(first + step, len(job.starts))
                made = _stack(xp, job, first, stop, draw)
                for part, target in _targets(job, first, stop):
                    write(made[part].reshape(target.shape), target)
            done += job.units
            if progress is not None:
                progress(done)


@contextmanager
def full_float32(xp: Any) -> Iterator[None]:
    """Disable TF32 in cuBLAS; this overrides ``CUPY_TF32``."""
    if xp is np:
        yield
        return
    linalg = xp._core._routines_linalg
    before = linalg.get_compute_type(np.float32)
    linalg.set_compute_type(np.float32, linalg.COMPUTE_TYPE_FP32)
    try:
        yield
    finally:
        linalg.set_compute_type(np.float32, before)


def _targets(job: MatrixJob, first: int, stop: int) -> Iterator[tuple[Any, Destination]]:
    """Yield the selections of matrices [first, stop), each with its destination."""
    plain = joined(job.destination, *job.split)
    if plain is not None:
        address = plain.address + first * plain.byte_steps[0]
        yield slice(None), plain._replace(address=address, shape=(stop - first, *plain.shape[1:]))
        return
    stack, own = (job.destination.shape, job.destination.byte_steps), job.split[0]
    for number in range(first, stop):  # the strides do not allow one array for all
        place = np.unravel_index(number, stack[0][:own])
        address = job.destination.address + sum(int(i) * s for i, s in zip(place, stack[1], strict=False))
        shape, steps = stack[0][own:], stack[1][own:]
        yield number - first, job.destination._replace(address=address, shape=shape, byte_steps=steps)


def _stack(xp: Any, job: MatrixJob, first: int, stop: int, draw: DrawGaussians) -> Array:
    """Return the wanted part of matrices [first, stop) of a job, shape (stop - first, rows, columns)."""
    gaussians = xp.empty((stop - first, job.short, job.long), job.arithmetic.numpy)
    runs = job.runs(first, stop)
    draw(GaussianDraw(job, box, gaussians[run].reshape(-1)) for run, box in runs)
    rows, columns = xp.asarray(job.rows), xp.asarray(job.columns)
    if job.method == "qr":
        q, signs = _by_qr(xp, gaussians)
        q = q[:, rows[:, None], columns]
    else:
        vectors, signs = _reflectors(xp, gaussians)
        factors = _factors(xp, vectors)
        # A reflector costs its length per row, or per column after it. Columns cost at most three quarters.
        if 4 * len(job.rows) < 3 * len(job.columns):
            q = _rows(xp, vectors, factors, rows)[:, :, columns]
        else:
            q = _columns(xp, vectors, factors, job.columns)[:, rows]
    return q * (signs[:, columns] * job.arithmetic.numpy.type(job.gain))[:, None, :]


def _by_qr(xp: Any, gaussians: Array) -> tuple[Array, Array]:
    q, r = xp.linalg.qr(xp.swapaxes(gaussians, -1, -2))
    diagonal = xp.diagonal(r, axis1=-2, axis2=-1)
    return q, xp.where(diagonal < 0, -1, 1).astype(q.dtype)


def _reflectors(xp: Any, gaussians: Array) -> tuple[Array, Array]:
    """Return Householder vectors of squared length 2 as rows, and the signs of the diagonal of R."""
    short = gaussians.shape[-2]
    v = xp.triu(gaussians)
    head = xp.diagonal(v, axis1=-2, axis2=-1).astype(np.float64)
    norm = xp.sqrt(xp.sum(v * v, axis=-1, dtype=np.float64))
    signs = xp.where(head >= 0, -1.0, 1.0)
    zero = norm == 0  # any reflector is correct
    scale = 1 / xp.sqrt(xp.where(zero, 1, norm * (norm + abs(head))))
    v *= scale[..., None].astype(v.dtype)
    diagonal = xp.arange(short)
    v[:, diagonal, diagonal] = xp.where(zero, math.sqrt(2), (head - signs * norm) * scale).astype(v.dtype)
    if short == gaussians.shape[-1]:  # the last reflector has length 1: it is a sign, without rounding
        v[:, -1, -1] = 0
        signs[:, -1] *= -1
    return v, signs.astype(v.dtype)


def _factors(xp: Any, vectors: Array) -> Array:
    """Return the T factors of all panels of all matrices, shape (count, panels, b, b).

    T^-1 = I + striu(V V'). Blocks on the diagonal are inverted in pairs, all blocks of a size at once.
    """
    count, short, long = vectors.shape
    panels = -(-short // _PANEL)
    padded = xp.zeros((count, panels * _PANEL, long), vectors.dtype)
    padded[:, :short] = vectors
    v = padded.reshape(count * panels, _PANEL, long)
    u = xp.triu(v @ xp.swapaxes(v, -1, -2), 1)
    t = xp.zeros_like(u)
    t[:, xp.arange(_PANEL), xp.arange(_PANEL)] = 1
    half = 1
    while half < _PANEL:
        pairs = _PANEL // (2 * half)
        grid = (count * panels, pairs, 2 * half, pairs, 2 * half)
        inverse, block = t.reshape(grid), xp.arange(pairs)
        corner = u.reshape(grid)[:, block, :half, block, half:]
        upper, lower = inverse[:, block, :half, block, :half], inverse[:, block, half:, block, half:]
        inverse[:, block, :half, block, half:] = -(upper @ corner @ lower)
        half *= 2
    return t.reshape(count, panels, _PANEL, _PANEL)


def _panels(vectors: Array, factors: Array, stop: int) -> list[tuple[int, int, Array, Array]]:
    """Return (first reflector, end, V, T) of each panel that holds reflectors before `stop`."""
    found = []
    for number, first in enumerate(range(0, stop, _PANEL)):
        end = min(first + _PANEL, vectors.shape[1])
        size = end - first
        found.append((first, end, vectors[:, first:end, first:], factors[:, number, :size, :size]))
    return found


def _columns(xp: Any, vectors: Array, factors: Array, columns: NDArray[np.intp]) -> Array:
    """Return columns of H_0 H_1 ... I, as `initium.kernels.cpu.orthogonal.columns_of_q` does."""
    count, _, n = vectors.shape
    order = np.argsort(columns)
    ascending = columns[order]
    q = xp.zeros((count, n, len(columns)), vectors.dtype)
    q[:, xp.asarray(ascending), xp.arange(len(columns))] = 1
    for first, end, v, t in reversed(_panels(vectors, factors, int(ascending[-1]) + 1)):
        own, later = (int(at) for at in np.searchsorted(ascending, (first, end)))
        w = xp.empty((count, end - first, len(columns) - own), v.dtype)
        w[:, :, : later - own] = v[:, :, xp.asarray(ascending[own:later] - first)]
        w[:, :, later - own :] = v[:, :, end - first :] @ q[:, end:, later:]
        q[:, first:, own:] -= xp.swapaxes(v, -1, -2) @ (t @ w)
    in_order = bool((np.diff(order) > 0).all())
    return q if in_order else q[:, :, xp.asarray(np.argsort(order))]


def _rows(xp: Any, vectors: Array, factors: Array, rows: Array) -> Array:
    """Return rows of H_0 H_1 ..., as `initium.kernels.cpu.orthogonal.rows_of_q` does."""
    count, short, n = vectors.shape
    q = xp.zeros((count, len(rows), n), vectors.dtype)
    q[:, xp.arange(len(rows)), rows] = 1
    for first, _, v, t in _panels(vectors, factors, short):
        q[:, :, first:] -= ((q[:, :, first:] @ xp.swapaxes(v, -1, -2)) @ t) @ v
    return q
