"""Normal distributions, one word a value: bits to (x, h), the quantile, the affine map."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from initium.kernels import parameters as P
from initium.kernels.reference.arithmetic import fma
from initium.kernels.reference.quantile import central_quantile32, quantile32, quantile64

__all__ = ["bounded_normal64", "central_normal32", "normal32"]

_MAGNITUDE = np.int32(0x7FFFFFFF)


def _symmetric32(quantile: Any, words: NDArray[np.uint32], p: NDArray[np.float64]) -> NDArray[Any]:
    single = p.astype(np.float32)
    signed = words.view(np.int32)
    complement = _MAGNITUDE - np.where(signed < 0, ~signed, signed)
    x = fma(signed.astype(np.float32), single[P.X_STEP], single[P.X_START])
    h = fma(complement.astype(np.float32), single[P.H_STEP], single[P.H_START])
    return fma(quantile(x, h), single[P.SCALE], single[P.OFFSET])


def central_normal32(words: NDArray[np.uint32], p: NDArray[np.float64]) -> NDArray[Any]:
    """Draw normals truncated symmetrically within 2 sigmas."""
    return _symmetric32(central_quantile32, words, p)


def normal32(words: NDArray[np.uint32], p: NDArray[np.float64]) -> NDArray[Any]:
    """Draw normals truncated symmetrically anywhere or not at all."""
    return _symmetric32(quantile32, words, p)


def bounded_normal64(words: NDArray[Any], split: int, p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draw normals between any two bounds, in float64; words of 32 or 64 bits."""
    last = np.uint64(np.iinfo(words.dtype).max)
    w, border = words.astype(np.uint64), np.uint64(split)
    above = w <= border
    with np.errstate(over="ignore"):  # of the side that is not chosen
        magnitude = np.where(above, w, last - w).astype(np.float64)
        complement = np.where(above, border - w, w - border - np.uint64(1)).astype(np.float64)
    side = np.where(above[:, None], p[P.POSITIVE : P.NEGATIVE], p[P.NEGATIVE : P.END])
    x = fma(magnitude, side[:, P.SIDE_X_STEP], side[:, P.SIDE_X_START])
    ratio = fma(complement, side[:, P.SIDE_RATIO_STEP], side[:, P.SIDE_RATIO_START])
    h = ratio * side[:, P.SIDE_H_REFERENCE]
    z = quantile64(x, h, ratio, side[:, P.SIDE_W_REFERENCE])
    return fma(np.where(above, z, -z), p[P.SCALE], p[P.OFFSET])
