"""Caffe's positive unit ball: positive weights whose rows sum to one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initium.dtypes import DType
from initium.fills.base import Fill
from initium.fills.patterns import LINES, Draw, PatternFill, by_blocks
from initium.layouts import Layout

__all__ = ["PositiveUnitball", "caffe_positive_unitball"]

# Words that are drawn at a time to sum rows.
_WORDS = 1 << 22


def _integers(words: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Return odd integers below 2**25: uniform values on (0, 1), times a factor that cancels."""
    return (words.astype(np.int64) >> 8 << 1) + 1


@lru_cache(maxsize=64)
def _sums(first: int, count: int, rows: int, length: int, draw: Draw) -> NDArray[np.int64]:
    """Return the sums of the integers of rows; they are exact, so they do not depend on the order."""
    block = range(first, min(first + count, rows))
    total = np.zeros(len(block), np.int64)
    for begin in range(0, length, _WORDS):
        part = range(begin, min(begin + _WORDS, length))
        total += _integers(draw.words((rows, length), (block, part))).sum(axis=1)
    return total


@dataclass(frozen=True)
class PositiveUnitballFill(PatternFill):
    """Uniform values on (0, 1), divided by the sum of all values with the same first index."""

    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"uniform(0, 1) / sum of {self._length}"

    @property
    def _length(self) -> int:
        return math.prod(self.shape[1:])

    @property
    def mean(self) -> float:
        """Mean of all values: the reciprocal of the number of values in a row."""
        return 1 / self._length if self._length else 0.0

    @property
    def std(self) -> float:
        """Standard deviation to first order in 1 / n, for rows of n."""
        return 0.0 if self._length < 2 else self.mean * math.sqrt((1 - self.mean) / 3)

    @property
    def reach(self) -> float:
        """Bound of all values: 1."""
        return 1.0

    def array(self, index: tuple[range, ...], dtype: DType, draw: Draw) -> NDArray[Any]:
        """Return the quotients in float64."""
        rows, length = self.shape[0], self._length
        block = min(max(1, _WORDS // length), LINES)
        sums = by_blocks(index[0], block, lambda first: _sums(first, block, rows, length, draw))
        integers = _integers(draw.words(self.shape, index))
        quotients: NDArray[np.float64] = integers / sums.reshape((-1,) + (1,) * (integers.ndim - 1))
        return quotients


@dataclass(frozen=True)
class PositiveUnitball:
    """Positive weights; the weights with the same first index sum to one.

    Examples
    --------
    >>> import initium as ini
    >>> ini.initialize(ini.PositiveUnitball(), (2, 3), seed=7, name="w")
    array([[0.12577425, 0.32103744, 0.5531883 ],
           [0.35091254, 0.38928807, 0.25979936]], dtype=float32)
    """

    def resolve(self, shape: Sequence[int], layout: Layout | None = None) -> Fill:
        """Return the fill; raise `ValueError` for a scalar."""
        if not shape:
            raise ValueError("shape=() has no rows; expected at least one axis")
        return PositiveUnitballFill(tuple(shape))


def caffe_positive_unitball() -> PositiveUnitball:
    """U(0, 1), divided by the sum over all axes but the first.

    Source: Caffe, include/caffe/filler.hpp.
    Peers: Caffe PositiveUnitballFiller.
    """
    return PositiveUnitball()
