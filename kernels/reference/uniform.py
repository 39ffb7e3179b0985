"""Bits to real, and the uniform distribution, by signed odd integers that are exact in the float type."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from initium.kernels import table as T
from initium.kernels.reference.arithmetic import fma

__all__ = ["uniform32", "uniform64"]


def uniform32(words: NDArray[np.uint32], p: NDArray[np.float64]) -> NDArray[Any]:
    """Return ``(int32(word) >> 7 | 1) * 2**7 * scale + offset`` in float32, one rounding."""
    odd = ((words.view(np.int32) >> 7) | 1) << 7
    return fma(odd.astype(np.float32), np.float32(p[T.SCALE]), np.float32(p[T.OFFSET]))


def uniform64(words: NDArray[np.uint64], p: NDArray[np.float64]) -> NDArray[Any]:
    """Return ``(int64(word) >> 10 | 1) * 2**10 * scale + offset`` in float64, one rounding."""
    odd = ((words.view(np.int64) >> 10) | 1) << 10
    return fma(odd.astype(np.float64), np.float64(p[T.SCALE]), np.float64(p[T.OFFSET]))
