"""Caffe's positive unit ball: rows of positive weights that sum to one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initium.dtypes import DType
from initium.fans import Fans
from initium.fills import Fill
from initium.patterns import Draw, PatternFill

__all__ = ["PositiveUnitball", "caffe_positive_unitball"]

# Words that are drawn at a time while a row is summed up.
_WORDS = 1 << 22


def _integers(words: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Return odd integers below 2**25: uniform on (0, 1) but for a factor that cancels."""
    return (words.astype(np.int64) >> 8 << 1) + 1


@lru_cache(maxsize=4096)
def _row_sum(row: int, rows: int, length: int, draw: Draw) -> int:
    """Return the sum of a row's integers, which is exact and so does not depend on any order."""
    parts = (range(first, min(first + _WORDS, length)) for first in range(0, length, _WORDS))
    here = range(row, row + 1)
    return sum(int(_integers(draw.words((rows, length), (here, part))).sum()) for part in parts)


@dataclass(frozen=True)
class PositiveUnitballFill(PatternFill):
    """Uniform values of (0, 1), divided by the sum of all with the same first index."""

    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"uniform(0, 1) / sum of {self._length}"

    @property
    def _length(self) -> int:
        return math.prod(self.shape[1:])

    @property
    def mean(self) -> float:
        """Mean of all values: the reciprocal of their number in a row."""
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
        sums = [_row_sum(row, self.shape[0], self._length, draw) for row in index[0]]
        integers = _integers(draw.words(self.shape, index))
        quotients: NDArray[np.float64] = integers / np.array(sums).reshape((-1,) + (1,) * (integers.ndim - 1))
        return quotients


@dataclass(frozen=True)
class PositiveUnitball:
    """Positive weights; all with the same first index sum to one."""

    def resolve(self, shape: Sequence[int], fans: Fans | None = None) -> Fill:
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
