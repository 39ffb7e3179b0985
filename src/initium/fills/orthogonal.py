"""Orthogonal fills: random orthogonal matrices, and what their values are made of.

A random orthogonal weight is the sign-corrected Q of the QR of a Gaussian matrix, uniform over all orthogonal
(or semi-orthogonal) matrices. Write n for the longer side of the matrix and m for the shorter one:

- the Gaussians are those of ``initium.normal((m, n))`` of the same seed and name: value ``j n + k`` of the
  stream stands in row j and column k of G (after ``m n`` values for each matrix before it in a stack);
- ``method="householder"``: reflector j is that of the vector ``G[j, j:]`` on axes j and up; the matrix is the
  product of the reflectors in order (Stewart 1980), and ``G[j, :j]`` is not used;
- ``method="qr"``: the matrix is the Q of ``G.T`` (Mezzadri 2007). Same distribution, other values;
- a wide matrix is the transpose of the tall one. So a weight and its transposed twin of the same name are
  transposes of each other, in torch's layout and in JAX's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from initium.dtypes import DType
from initium.fills.base import check_reach
from initium.layouts import Axes

__all__ = ["METHODS", "OrthogonalFill"]

METHODS = ("householder", "qr")


@dataclass(frozen=True)
class OrthogonalFill:
    """Random (semi-)orthogonal matrices by Haar measure, times a gain.

    Attributes
    ----------
    shape
        The global shape.
    row_axes
        Axes that make up the rows of a matrix; what is left over makes up the columns.
    batch_axes
        Axes that stack independent matrices.
    gain
        Factor of the matrices.
    method
        ``"householder"`` or ``"qr"``.
    centre
        (axis, position) of axes on which all other positions are zero (delta-orthogonal).
    """

    shape: tuple[int, ...]
    row_axes: Axes
    batch_axes: Axes = ()
    gain: float = 1.0
    method: str = "householder"
    centre: tuple[tuple[int, int], ...] = ()

    def __str__(self) -> str:
        kind = "delta_orthogonal" if self.centre else "orthogonal"
        return f"{kind}({self.gain:g})" if self.method == "householder" else f"{kind}({self.gain:g}, qr)"

    @property
    def column_axes(self) -> Axes:
        """Axes that make up the columns."""
        others = {*self.row_axes, *self.batch_axes, *(axis for axis, _ in self.centre)}
        return tuple(axis for axis in range(len(self.shape)) if axis not in others)

    @property
    def sides(self) -> tuple[int, int]:
        """Longer and shorter side of a matrix."""
        rows, columns = (math.prod(self.shape[a] for a in axes) for axes in (self.row_axes, self.column_axes))
        return max(rows, columns), min(rows, columns)

    @property
    def period(self) -> int:
        """Number of consecutive elements that hold whole matrices: one of a stack, or all."""
        stacked = len(self.batch_axes)
        leading = self.batch_axes == tuple(range(stacked))
        return math.prod(self.shape[stacked:] if leading else self.shape)

    @property
    def mean(self) -> float:
        """Expectation of a value: zero."""
        return 0.0

    @property
    def std(self) -> float:
        """Root mean square of all values: that of a matrix is gain / sqrt(longer side)."""
        positions = math.prod(self.shape[axis] for axis, _ in self.centre)
        return abs(self.gain) / math.sqrt(max(1, self.sides[0] * positions))

    def check(self, dtype: DType) -> None:
        """Raise `ValueError` if the gain overflows the dtype."""
        check_reach(self, abs(self.gain), dtype)
