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
from initium.kernels.reference.philox import philox_words
from initium.patterns import PatternFill

__all__ = ["PositiveUnitball", "caffe_positive_unitball"]

# Words that are drawn at a time while a row is summed up.
_WORDS = 1 << 22


def _integers(index: NDArray[np.uint64], stream: int, seed: int) -> NDArray[np.int64]:
    """Return odd integers below 2**25: uniform on (0, 1) but for a factor that cancels."""
    return (philox_words(index, stream, seed).astype(np.int64) >> 8 << 1) + 1


@lru_cache(maxsize=4096)
def _row_sum(row: int, length: int, stream: int, seed: int) -> int:
    """Return the sum of a row's integers, which is exact and so does not depend on any order."""
    total = 0
    for first in range(row * length, (row + 1) * length, _WORDS):
        count = min(_WORDS, (row + 1) * length - first)
        index = np.arange(count, dtype=np.uint64) + np.uint64(first)
        total += int(_integers(index, stream, seed).sum())
    return total


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

    def array(self, index: tuple[range, ...], dtype: DType, stream: int, seed: int) -> NDArray[Any]:
        """Return the quotients in float64."""
        rows, inner = index[0], self.shape[1:]
        place = np.zeros((), np.uint64)
        step = 1
        for axis in reversed(range(len(inner))):
            along = np.array(index[axis + 1], np.uint64) * np.uint64(step)
            place = place + along.reshape((-1,) + (1,) * (len(inner) - 1 - axis))
            step *= inner[axis]
        values = [
            _integers(place.ravel() + np.uint64(row * step), stream, seed) / _row_sum(row, step, stream, seed)
            for row in rows
        ]
        return np.stack(values).reshape(tuple(map(len, index)))


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
