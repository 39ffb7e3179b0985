"""Normal distributions, one word per value: bits to (x, h), the quantile, the affine map."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from initium.kernels import table as T
from initium.kernels.reference.arithmetic import fma
from initium.kernels.reference.quantile import central_quantile32, quantile32, quantile64

__all__ = ["bounded_normal64", "central_normal32", "normal32"]

_MAGNITUDE = np.int32(0x7FFFFFFF)


def _symmetric32(quantile: Any, words: NDArray[np.uint32], p: NDArray[np.float64]) -> NDArray[Any]:
    single = p.astype(np.float32)
    signed = words.view(np.int32)
    complement = _MAGNITUDE - np.where(signed < 0, ~signed, signed)
    x = fma(signed.astype(np.float32), single[T.X_STEP], single[T.X_START])
    h = fma(complement.astype(np.float32), single[T.H_STEP], single[T.H_START])
    return fma(quantile(x, h), single[T.SCALE], single[T.OFFSET])


def central_normal32(words: NDArray[np.uint32], p: NDArray[np.float64]) -> NDArray[Any]:
    """Draw normal values truncated symmetrically within 2 sigma."""
    return _symmetric32(central_quantile32, words, p)


def normal32(words: NDArray[np.uint32], p: NDArray[np.float64]) -> NDArray[Any]:
    """Draw normal values without bounds or with symmetric bounds."""
    return _symmetric32(quantile32, words, p)


def bounded_normal64(words: NDArray[Any], split: int, p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draw normal values between any two bounds, in float64; words have 32 or 64 bits."""
    last = np.uint64(np.iinfo(words.dtype).max)
    w, border = words.astype(np.uint64), np.uint64(split)
    above = w <= border
    with np.errstate(over="ignore"):  # overflow on the side that is not selected
        magnitude = np.where(above, w, last - w).astype(np.float64)
        complement = np.where(above, border - w, w - border - np.uint64(1)).astype(np.float64)
    side = np.where(above[:, None], p[T.POSITIVE : T.NEGATIVE], p[T.NEGATIVE : T.END])
    x = fma(magnitude, side[:, T.SIDE_X_STEP], side[:, T.SIDE_X_START])
    ratio = fma(complement, side[:, T.SIDE_RATIO_STEP], side[:, T.SIDE_RATIO_START])
    h = ratio * side[:, T.SIDE_H_REFERENCE]
    z = quantile64(x, h, ratio, side[:, T.SIDE_W_REFERENCE])
    return fma(np.where(above, z, -z), p[T.SCALE], p[T.OFFSET])
