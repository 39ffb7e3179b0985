"""Sparse weights: normals of which some are zero, an exact number per column or each with a probability.

The values are those of a normal tensor of the same seed and name; zeros are chosen by further words of the
same stream, which no value uses: word ``2**63 + i`` belongs to element i of the global shape. Hence any slice
equals the same slice of the whole, and the zeros do not depend on the dtype.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initium.checks import check_choice, check_count, check_finite, check_integer, check_number, check_std
from initium.dtypes import DType
from initium.fills.base import Fill
from initium.fills.elementwise import TruncatedNormalFill, normal_fill
from initium.fills.patterns import LINES, Draw, PatternFill, by_blocks
from initium.initializers.basic import Normal
from initium.layouts import Layout

__all__ = ["Sparse", "SparseGaussian", "caffe_gaussian", "lasagne_sparse", "sparse"]

#: Block of the first word that chooses zeros, word 2**63; values take those below (two each for float64).
_FIRST_BLOCK = 1 << 61
# Words that are drawn at a time while a column's border is sought.
_WORDS = 1 << 22


@dataclass(frozen=True)
class _MaskedNormal(PatternFill):
    """Normals on a global shape, some of them zero."""

    shape: tuple[int, ...]
    normal: TruncatedNormalFill

    def kept(self, index: tuple[range, ...], draw: Draw) -> NDArray[np.bool_]:
        """Tell which values at ``np.ix_(*index)`` are not zero."""
        raise NotImplementedError

    def choosers(self, index: tuple[range, ...], draw: Draw) -> NDArray[np.uint32]:
        """Return the words that choose zeros."""
        return draw.words(self.shape, index, _FIRST_BLOCK)

    def array(self, index: tuple[range, ...], dtype: DType, draw: Draw) -> NDArray[Any]:
        """Return the normals where they are kept, else 0."""
        values = draw(self.normal, self.shape, index, dtype)
        values[~self.kept(index, draw)] = 0
        return values

    def check(self, dtype: DType) -> None:
        """Raise `ValueError` if the normals overflow the dtype."""
        self.normal.check(dtype)

    def _moments(self, share: float) -> tuple[float, float]:
        mean, std = self.normal.mean, self.normal.std
        return mean * share, math.sqrt(share * (std**2 + mean**2 * (1 - share)))


# --- an exact number of zeros -------------------------------------------------------------------------------


@dataclass(frozen=True)
class SparseFill(_MaskedNormal):
    """Normals with `zeros` zeros in each line along `axis` of a matrix."""

    zeros: int = 0
    axis: int = 0

    def __str__(self) -> str:
        return f"{self.normal}, {self.zeros} of {self.shape[self.axis]} zero along axis {self.axis}"

    @property
    def mean(self) -> float:
        """Mean of all values."""
        return self._moments(self._share)[0]

    @property
    def std(self) -> float:
        """Standard deviation of all values, zeros included."""
        return self._moments(self._share)[1]

    @property
    def _share(self) -> float:
        length = self.shape[self.axis]
        return 1 - self.zeros / length if length else 1.0

    def kept(self, index: tuple[range, ...], draw: Draw) -> NDArray[np.bool_]:
        """Tell which values do not belong to the `zeros` smallest choosers of their line.

        Choosers that are equal are ordered by their place in the line.
        """
        if self.zeros in (0, self.shape[self.axis]):
            return np.full(tuple(map(len, index)), self.zeros == 0)
        block = min(max(1, _WORDS // self.shape[self.axis]), LINES)
        borders = by_blocks(index[1 - self.axis], block, lambda first: _borders(self, first, block, draw))
        words, places = (borders >> np.uint64(32)).astype(np.uint32), borders & np.uint64(0xFFFFFFFF)
        choosers = self.choosers(index, draw)
        kept = choosers >= np.expand_dims(words, self.axis)
        for k in np.flatnonzero(places):
            along = np.moveaxis(choosers, self.axis, 0)[:, k]
            behind = np.array(index[self.axis]) >= places[k]
            np.moveaxis(kept, self.axis, 0)[:, k] &= (along > words[k]) | behind
        return kept


@lru_cache(maxsize=64)
def _borders(fill: SparseFill, first: int, count: int, draw: Draw) -> NDArray[np.uint64]:
    """Return, for each of some lines, the smallest chooser that is kept, in the upper 32 bits.

    The lower 32 say from which place on it is kept, where other places before have the same chooser; else 0.
    """
    length, lines = fill.shape[fill.axis], range(first, min(first + count, fill.shape[1 - fill.axis]))
    index = (range(length), lines) if fill.axis == 0 else (lines, range(length))
    choosers = fill.choosers(index, draw)
    by_line = _transposed(choosers) if fill.axis == 0 else choosers
    words = np.partition(by_line, fill.zeros, axis=1)[:, fill.zeros]
    borders = words.astype(np.uint64) << np.uint64(32)
    ties = fill.zeros - np.count_nonzero(by_line < words[:, None], axis=1)
    for k in np.flatnonzero(ties):
        borders[k] |= np.uint64(np.flatnonzero(by_line[k] == words[k])[ties[k]])
    return borders


def _transposed(array: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the transpose in memory of its own, by strips: six times as fast where rows have 2**n words."""
    turned = np.empty(array.shape[::-1], array.dtype)
    for first in range(0, len(turned), 64):
        turned[first : first + 64] = np.ascontiguousarray(array[:, first : first + 64]).T
    return turned


@dataclass(frozen=True)
class Sparse:
    """Matrix of N(0, std^2) with an exact number of zeros in each line.

    Parameters
    ----------
    sparsity
        In [0, 1]: share of each line that is zero, or that is **not** if `counts` is ``"nonzeros"``.
    std
        Of the values that are not zero.
    axis
        Along which a line runs: 0 for columns (torch, Lasagne), 1 for rows.
    counts
        ``"zeros"``: ceil(sparsity n) of n are zero (torch). ``"nonzeros"``: floor(sparsity n) are not
        (Lasagne).

    Notes
    -----
    torch's weights are (out, in), so that its columns hold what one input feeds; Lasagne's are (in, out), and
    its columns hold what feeds one unit, as in Martens 2010, who keeps 15 inputs of each unit.
    """

    sparsity: float
    std: float = 0.01
    axis: int = 0
    counts: str = "zeros"

    def __post_init__(self) -> None:
        if not 0 <= check_number("sparsity", self.sparsity) <= 1:
            raise ValueError(f"sparsity={self.sparsity} is out of range; expected a share in [0, 1]")
        check_std("std", self.std)
        if check_integer("axis", self.axis) not in (0, 1):
            raise ValueError(f"axis={self.axis} is no axis of a matrix; expected 0 or 1")
        check_choice("counts", self.counts, ("zeros", "nonzeros"))

    def resolve(self, shape: Sequence[int], layout: Layout | None = None) -> Fill:
        """Return the fill of a matrix; raise `ValueError` for any other shape."""
        if len(shape) != 2:
            raise ValueError(f"shape={tuple(shape)} is no matrix; expected two axes for sparse weights")
        n = shape[self.axis]
        share = self.sparsity * n
        zeros = min(n, math.ceil(share)) if self.counts == "zeros" else n - int(share)
        return SparseFill(tuple(shape), normal_fill(0.0, float(self.std)), zeros, self.axis)


def sparse(sparsity: float, std: float = 0.01) -> Sparse:
    """N(0, std^2), of which ceil(sparsity rows) in each column are 0.

    Source: Martens 2010, section 5, as torch has it.
    Peers: torch sparse_.
    """
    return Sparse(sparsity, std)


def lasagne_sparse(sparsity: float = 0.1, std: float = 0.01) -> Sparse:
    """N(0, std^2) for floor(sparsity rows) values in each column, the rest is 0.

    Source: Lasagne, lasagne/init.py, after Martens 2010.
    Peers: lasagne.init.Sparse.
    """
    return Sparse(sparsity, std, counts="nonzeros")


# --- zeros with a probability -------------------------------------------------------------------------------


@dataclass(frozen=True)
class SparseGaussianFill(_MaskedNormal):
    """Normals, each of which stays with the probability ``kept_words / 2**32``."""

    kept_words: int = 0

    def __str__(self) -> str:
        return f"{self.normal}, each kept with probability {self.kept_words / 2**32:.4g}"

    @property
    def mean(self) -> float:
        """Mean of all values."""
        return self._moments(self.kept_words / 2**32)[0]

    @property
    def std(self) -> float:
        """Standard deviation of all values, zeros included."""
        return self._moments(self.kept_words / 2**32)[1]

    def kept(self, index: tuple[range, ...], draw: Draw) -> NDArray[np.bool_]:
        """Tell which choosers lie below the border."""
        return self.choosers(index, draw) < np.uint64(self.kept_words)


@dataclass(frozen=True)
class SparseGaussian:
    """N(mean, std^2), each value kept with probability ``nonzeros / shape[0]``, else 0.

    Parameters
    ----------
    nonzeros
        Expected number of inputs that are kept for an output, >= 0.
    mean, std
        Of the values that are kept.
    """

    nonzeros: int
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        check_count("nonzeros", self.nonzeros)
        check_finite("mean", self.mean)
        check_std("std", self.std)

    def resolve(self, shape: Sequence[int], layout: Layout | None = None) -> Fill:
        """Return the fill; raise `ValueError` for a scalar, or if more are to be kept than there are."""
        if not shape or self.nonzeros > shape[0]:
            raise ValueError(
                f"nonzeros={self.nonzeros} of shape={tuple(shape)}; expected at most shape[0], the outputs"
            )
        words = round(self.nonzeros * 2**32 / shape[0]) if shape[0] else 0
        return SparseGaussianFill(tuple(shape), normal_fill(float(self.mean), float(self.std)), words)


def caffe_gaussian(mean: float = 0.0, std: float = 1.0, sparse: int = -1) -> Normal | SparseGaussian:
    """N(mean, std^2); with `sparse` >= 0 each value is kept with probability sparse / shape[0], else 0.

    Source: Caffe, include/caffe/filler.hpp.
    Peers: Caffe GaussianFiller.
    """
    if check_integer("sparse", sparse) < -1:
        raise ValueError(f"sparse={sparse} is too small; expected an integer >= -1 (-1: none)")
    return Normal(mean, std) if sparse == -1 else SparseGaussian(sparse, mean, std)
