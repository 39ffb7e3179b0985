"""Sparse weights: normal values and zeros; an exact number of zeros per column, or zeros with a probability.

The values are those of a normal tensor with the same seed and name. Other words of the same stream select the
zeros: word ``2**63 + i`` belongs to element i of the global shape. So a slice equals the same slice of the
whole, and the zeros do not depend on the dtype.
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

#: Block of word 2**63, the first word that selects zeros. Values use the words below, float64 values two
#: each.
_FIRST_BLOCK = 1 << 61
# Words that are drawn at a time to find the thresholds of columns.
_WORDS = 1 << 22


@dataclass(frozen=True)
class _MaskedNormal(PatternFill):
    """Normal values on a global shape, with some of them replaced by zero."""

    shape: tuple[int, ...]
    normal: TruncatedNormalFill

    def kept(self, index: tuple[range, ...], draw: Draw) -> NDArray[np.bool_]:
        """Return which values at ``np.ix_(*index)`` are kept; the others are zero."""
        raise NotImplementedError

    def choosers(self, index: tuple[range, ...], draw: Draw) -> NDArray[np.uint32]:
        """Return the words that select the zeros."""
        return draw.words(self.shape, index, _FIRST_BLOCK)

    def array(self, index: tuple[range, ...], dtype: DType, draw: Draw) -> NDArray[Any]:
        """Return the normal values that are kept, and 0 elsewhere."""
        values = draw(self.normal, self.shape, index, dtype)
        values[~self.kept(index, draw)] = 0
        return values

    def check(self, dtype: DType) -> None:
        """Raise `ValueError` if the normal values overflow the dtype."""
        self.normal.check(dtype)

    def _moments(self, share: float) -> tuple[float, float]:
        mean, std = self.normal.mean, self.normal.std
        return mean * share, math.sqrt(share * (std**2 + mean**2 * (1 - share)))


# --- an exact number of zeros -------------------------------------------------------------------------------


@dataclass(frozen=True)
class SparseFill(_MaskedNormal):
    """Normal values with `zeros` zeros in each line along `axis` of a matrix."""

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
        """Return which values are kept: all but those with the `zeros` smallest words of their line.

        Equal words are ordered by their position in the line.
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
            after = np.array(index[self.axis]) >= places[k]
            np.moveaxis(kept, self.axis, 0)[:, k] &= (along > words[k]) | after
        return kept


@lru_cache(maxsize=64)
def _borders(fill: SparseFill, first: int, count: int, draw: Draw) -> NDArray[np.uint64]:
    """Return the threshold of each line: the smallest word that is kept, in the upper 32 bits.

    If the same word also occurs at positions that are zero, the lower 32 bits are the first position that is
    kept; else they are 0.
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
    """Return a copy of the transpose, made in strips, since rows of 2**n words use few sets of the cache."""
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
        Fraction of each line that is zero, in [0, 1]; the fraction that is **not** zero if `counts` is
        ``"nonzeros"``.
    std
        Standard deviation of the values that are not zero.
    axis
        Axis along a line: 0 for columns (torch, Lasagne), 1 for rows.
    counts
        ``"zeros"``: ceil(sparsity n) of n values are zero (torch). ``"nonzeros"``: floor(sparsity n) values
        are not zero (Lasagne).

    Notes
    -----
    torch's weights are (out, in), so a column holds the weights from one input. Lasagne's weights are
    (in, out), so a column holds the weights into one unit, as in Martens 2010, who keeps 15 inputs per unit.

    Examples
    --------
    >>> import initium as ini
    >>> ini.initialize(ini.Sparse(0.5, std=1.0), (4, 2), seed=7, name="w")
    array([[ 0.38980126,  1.211281  ],
           [ 0.        ,  0.        ],
           [-0.03326891, -1.0005817 ],
           [ 0.        ,  0.        ]], dtype=float32)
    """

    sparsity: float
    std: float = 0.01
    axis: int = 0
    counts: str = "zeros"

    def __post_init__(self) -> None:
        if not 0 <= check_number("sparsity", self.sparsity) <= 1:
            raise ValueError(f"sparsity={self.sparsity} is out of range; expected a fraction in [0, 1]")
        check_std("std", self.std)
        if check_integer("axis", self.axis) not in (0, 1):
            raise ValueError(f"axis={self.axis} is not an axis of a matrix; expected 0 or 1")
        check_choice("counts", self.counts, ("zeros", "nonzeros"))

    def resolve(self, shape: Sequence[int], layout: Layout | None = None) -> Fill:
        """Return the fill of a matrix; raise `ValueError` if the shape does not have two axes."""
        if len(shape) != 2:
            raise ValueError(f"shape={tuple(shape)} is not a matrix; expected two axes for sparse weights")
        n = shape[self.axis]
        share = self.sparsity * n
        zeros = min(n, math.ceil(share)) if self.counts == "zeros" else n - int(share)
        return SparseFill(tuple(shape), normal_fill(0.0, float(self.std)), zeros, self.axis)


def sparse(sparsity: float, std: float = 0.01) -> Sparse:
    """N(0, std^2), with ceil(sparsity rows) values of each column set to 0.

    Source: Martens 2010, section 5, in the version of torch.
    Peers: torch sparse_.
    """
    return Sparse(sparsity, std)


def lasagne_sparse(sparsity: float = 0.1, std: float = 0.01) -> Sparse:
    """N(0, std^2) for floor(sparsity rows) values of each column, 0 for the others.

    Source: Lasagne, lasagne/init.py, after Martens 2010.
    Peers: lasagne.init.Sparse.
    """
    return Sparse(sparsity, std, counts="nonzeros")


# --- zeros with a probability -------------------------------------------------------------------------------


@dataclass(frozen=True)
class SparseGaussianFill(_MaskedNormal):
    """Normal values, each kept with the probability ``kept_words / 2**32``, else 0."""

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
        """Return which words are below the threshold."""
        return self.choosers(index, draw) < np.uint64(self.kept_words)


@dataclass(frozen=True)
class SparseGaussian:
    """N(mean, std^2), each value kept with probability ``nonzeros / shape[0]``, else 0.

    Parameters
    ----------
    nonzeros
        Expected number of inputs that are kept per output, >= 0.
    mean, std
        Mean and standard deviation of the values that are kept.

    Examples
    --------
    >>> import initium as ini
    >>> ini.initialize(ini.SparseGaussian(1), (4, 3), seed=7, name="w")
    array([[ 0.        ,  0.        ,  0.        ],
           [-0.2807281 ,  0.        ,  0.        ],
           [ 0.        , -0.7481679 ,  0.        ],
           [ 0.        , -0.29333523,  1.243292  ]], dtype=float32)
    """

    nonzeros: int
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        check_count("nonzeros", self.nonzeros)
        check_finite("mean", self.mean)
        check_std("std", self.std)

    def resolve(self, shape: Sequence[int], layout: Layout | None = None) -> Fill:
        """Return the fill; raise `ValueError` for a scalar, or if `nonzeros` exceeds ``shape[0]``."""
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
