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
from initium.fans import Fans
from initium.fills import Fill, NormalFill
from initium.initializers import Normal
from initium.kernels.reference.fill import draw
from initium.kernels.reference.philox import philox_words
from initium.patterns import PatternFill

__all__ = ["Sparse", "SparseGaussian", "caffe_gaussian", "lasagne_sparse", "sparse"]

#: First word that chooses zeros; values take words below 2**63 (float64: below 2**62 elements, in pairs).
_FIRST_WORD = np.uint64(1 << 63)
# Words that are drawn at a time while a column's border is sought.
_WORDS = 1 << 22


def _global_index(shape: tuple[int, ...], index: tuple[range, ...]) -> NDArray[np.uint64]:
    """Return the row-major global index of each element at ``np.ix_(*index)``."""
    total = np.zeros((), np.uint64)
    step = 1
    for axis in reversed(range(len(shape))):
        along = np.array(index[axis], np.uint64) * np.uint64(step)
        total = total + along.reshape((-1,) + (1,) * (len(shape) - 1 - axis))
        step *= shape[axis]
    return np.asarray(total)


def _choosers(index: NDArray[np.uint64], stream: int, seed: int) -> NDArray[np.uint64]:
    """Return the words that choose zeros, 32 bits each."""
    return philox_words(index + _FIRST_WORD, stream, seed).astype(np.uint64)


@dataclass(frozen=True)
class _MaskedNormal(PatternFill):
    """Normals on a global shape, some of them zero."""

    shape: tuple[int, ...]
    normal: Fill

    def kept(self, index: tuple[range, ...], stream: int, seed: int) -> NDArray[np.bool_]:
        """Tell which values at ``np.ix_(*index)`` are not zero."""
        raise NotImplementedError

    def array(self, index: tuple[range, ...], dtype: DType, stream: int, seed: int) -> NDArray[Any]:
        """Return the normals where they are kept, else 0."""
        kept = self.kept(index, stream, seed)
        where = _global_index(self.shape, index)[kept]
        encoding = self.normal.encode(dtype)
        parameters = np.array(encoding.parameters)
        values = np.zeros(kept.shape, dtype.numpy)
        values[kept] = draw(encoding.kind, dtype.numpy, where, stream, seed, encoding.split, parameters)
        return values

    def encode(self, dtype: DType) -> Any:
        """Return the encoding of a pattern; raise `ValueError` if the normals overflow the dtype."""
        self.normal.encode(dtype)
        return super().encode(dtype)

    @property
    def reach(self) -> float:
        """0: `encode` leaves the check to the normals."""
        return 0.0

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

    def kept(self, index: tuple[range, ...], stream: int, seed: int) -> NDArray[np.bool_]:
        """Tell which values do not belong to the `zeros` smallest choosers of their line.

        Choosers that are equal are ordered by their place in the line.
        """
        lines = index[1 - self.axis]
        borders = np.array([self._border(line, stream, seed) for line in lines], np.uint64)
        along = np.array(index[self.axis], np.uint64)
        if self.axis == 0:
            along, borders = along[:, None], borders[None, :]
        else:
            along, borders = along[None, :], borders[:, None]
        choosers = _choosers(_global_index(self.shape, index), stream, seed)
        return choosers << np.uint64(32) | along >= borders

    def _border(self, line: int, stream: int, seed: int) -> int:
        block = max(1, _WORDS // max(1, self.shape[self.axis]))
        return int(_borders(self, line // block * block, block, stream, seed)[line % block])


@lru_cache(maxsize=64)
def _borders(fill: SparseFill, first: int, count: int, stream: int, seed: int) -> NDArray[np.uint64]:
    """Return, for each of some lines, the smallest chooser, with its place, that is kept."""
    length, lines = fill.shape[fill.axis], range(first, min(first + count, fill.shape[1 - fill.axis]))
    if fill.zeros == 0:
        return np.zeros(len(lines), np.uint64)
    if fill.zeros == length:
        return np.full(len(lines), np.iinfo(np.uint64).max)
    index = (range(length), lines) if fill.axis == 0 else (lines, range(length))
    choosers = _choosers(_global_index(fill.shape, index), stream, seed)
    if fill.axis == 1:
        choosers = choosers.T
    keys = choosers << np.uint64(32) | np.arange(length, dtype=np.uint64)[:, None]
    borders: NDArray[np.uint64] = np.partition(keys, fill.zeros, axis=0)[fill.zeros].copy()
    return borders


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

    def resolve(self, shape: Sequence[int], fans: Fans | None = None) -> Fill:
        """Return the fill of a matrix; raise `ValueError` for any other shape."""
        if len(shape) != 2:
            raise ValueError(f"shape={tuple(shape)} is no matrix; expected two axes for sparse weights")
        n = shape[self.axis]
        share = self.sparsity * n
        zeros = min(n, math.ceil(share)) if self.counts == "zeros" else n - int(share)
        return SparseFill(tuple(shape), NormalFill(0.0, float(self.std)), zeros, self.axis)


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

    def kept(self, index: tuple[range, ...], stream: int, seed: int) -> NDArray[np.bool_]:
        """Tell which choosers lie below the border."""
        choosers = _choosers(_global_index(self.shape, index), stream, seed)
        return choosers < np.uint64(self.kept_words)


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

    def resolve(self, shape: Sequence[int], fans: Fans | None = None) -> Fill:
        """Return the fill; raise `ValueError` for a scalar, or if more are to be kept than there are."""
        if not shape or self.nonzeros > shape[0]:
            raise ValueError(
                f"nonzeros={self.nonzeros} of shape={tuple(shape)}; expected at most shape[0], the outputs"
            )
        words = round(self.nonzeros * 2**32 / shape[0]) if shape[0] else 0
        return SparseGaussianFill(tuple(shape), NormalFill(float(self.mean), float(self.std)), words)


def caffe_gaussian(mean: float = 0.0, std: float = 1.0, sparse: int = -1) -> Normal | SparseGaussian:
    """N(mean, std^2); with `sparse` >= 0 each value is kept with probability sparse / shape[0], else 0.

    Source: Caffe, include/caffe/filler.hpp.
    Peers: Caffe GaussianFiller.
    """
    if check_integer("sparse", sparse) < -1:
        raise ValueError(f"sparse={sparse} is too small; expected an integer >= -1 (-1: none)")
    return Normal(mean, std) if sparse == -1 else SparseGaussian(sparse, mean, std)
