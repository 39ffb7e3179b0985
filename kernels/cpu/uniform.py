"""Bits to real, and the uniform distribution, by signed odd integers that are exact in the float type."""

from __future__ import annotations

from typing import Any

import numpy as np

from initium.kernels import table as T
from initium.kernels.cpu.instructions import fma, pair_words, signed_to_float
from initium.kernels.cpu.jit import inline

__all__ = ["uniform32", "uniform64"]

# The high bits that are kept, and the bit below them, which makes the integer odd.
_KEEP32, _ODD32 = np.uint32(0xFFFFFF00), np.uint32(0x80)
_KEEP64, _ODD64 = np.uint64(0xFFFFFFFFFFFFF800), np.uint64(0x400)


@inline
def uniform32(words: Any, p: Any) -> Any:
    """Return ``(int32(word) >> 7 | 1) * 2**7 * SCALE + OFFSET`` in float32, one rounding."""
    return fma(signed_to_float((words & _KEEP32) | _ODD32), p[T.SCALE], p[T.OFFSET])


@inline
def uniform64(words: Any, p: Any) -> Any:
    """Return ``(int64(words) >> 10 | 1) * 2**10 * SCALE + OFFSET`` in float64, one rounding."""
    return fma(signed_to_float((pair_words(words) & _KEEP64) | _ODD64), p[T.SCALE], p[T.OFFSET])
