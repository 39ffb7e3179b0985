"""The definition of a job table: one job after the other, one tile after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from initium.kernels import table as T
from initium.kernels.reference.normal import bounded_normal64, central_normal32, normal32
from initium.kernels.reference.philox import philox_words
from initium.kernels.reference.uniform import uniform32, uniform64

__all__ = ["draw", "fill_job"]

_SAMPLERS = {
    T.UNIFORM: uniform32,
    T.NORMAL: normal32,
    T.CENTRAL_NORMAL: central_normal32,
}


def draw(
    kind: str,
    dtype: np.dtype[Any],
    index: NDArray[np.uint64],
    stream: int,
    seed: int,
    integer: int,
    p: NDArray[Any],
) -> NDArray[Any]:
    """Return the values at global indices `index` (1-D), in `dtype`."""
    if kind == T.WORDS:
        return philox_words(index, stream, seed, integer).view(dtype)
    if kind == T.CONSTANT:
        pattern = np.full(index.shape, integer, np.uint64).astype(f"u{dtype.itemsize}")
        return _typed(pattern.view(dtype))
    if dtype == np.float64:
        words = philox_words(np.stack([2 * index, 2 * index + np.uint64(1)], axis=-1), stream, seed)
        wide = words[..., 0].astype(np.uint64) | (words[..., 1].astype(np.uint64) << np.uint64(32))
        value = uniform64(wide, p) if kind == T.UNIFORM else bounded_normal64(wide, integer, p)
        return _typed(_clamp(value, p[T.LOW], p[T.HIGH]))
    words = philox_words(index, stream, seed)
    if kind == T.BOUNDED_NORMAL:
        value = _clamp(bounded_normal64(words, integer, p), p[T.LOW], p[T.HIGH])
        return _typed(value.astype(np.float32).astype(dtype))
    single: NDArray[Any] = _SAMPLERS[kind](words, p)
    if dtype == np.float32:
        return single
    low, high = np.float32(p[T.LOW]), np.float32(p[T.HIGH])
    return _typed(_clamp(single, low, high).astype(dtype))


def _clamp(x: NDArray[Any], low: Any, high: Any) -> NDArray[Any]:
    """Clamp values to [low, high] as kernels do; zeros keep their signs, unlike in some `np.clip`."""
    raised = np.where(x < low, low, x)
    return np.where(raised > high, high, raised)


def _typed(array: Any) -> NDArray[Any]:
    checked: NDArray[Any] = array  # NumPy's stubs lose the type
    return checked


def fill_job(job: Any, destination: NDArray[Any], kind: str, seed: int) -> None:
    """Fill `destination`, an array over the box of one row of `T.JOB`."""
    *outer, inner = (int(n) for n in job["extent"])
    starts = np.full(1, job["start"], np.uint64)
    for n, step in zip(outer, job["index_step"], strict=False):
        starts = (starts[:, None] + (np.arange(n) * int(step)).astype(np.uint64)).ravel()
    # A tile of short rows at once: each call of NumPy costs more than some thousand values.
    rows = max(T.TILE // max(inner, 1), 1)
    for row in range(0, len(starts), rows):
        block = starts[row : row + rows, None]
        place: tuple[Any, ...] = np.unravel_index(np.arange(row, row + len(block)), outer) if outer else ()
        for first in range(0, inner, T.TILE):
            along = np.arange(first, min(first + T.TILE, inner), dtype=np.uint64)
            values = draw(
                kind,
                destination.dtype,
                (block + along).ravel(),
                int(job["stream"]),
                seed,
                int(job["integer"]),
                job["parameters"],
            )
            where = slice(first, first + len(along))
            destination[(*place, where)] = values.reshape(len(block), len(along))
