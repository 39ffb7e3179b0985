"""Orthogonal fills: random orthogonal matrices, and the definition of their values.

A random orthogonal weight is the sign-corrected Q of the QR decomposition of a Gaussian matrix. Its
distribution is the Haar measure on the orthogonal (or semi-orthogonal) matrices. Let n be the longer side of
the matrix and m the shorter one:

- The Gaussians G are the values of ``initium.normal((m, n))`` with the same seed and name. Value ``j n + k``
  of the stream is ``G[j, k]``. In a stack, each matrix takes the next ``m n`` values.
- ``method="householder"``: reflector j acts on axes j and up. It maps the vector ``G[j, j:]`` to a multiple
  of the first unit vector; ``G[j, :j]`` is not used. The matrix is the product of the reflectors in order
  (Stewart 1980).
- ``method="qr"``: the matrix is the Q of ``G.T`` (Mezzadri 2007): the same distribution, other values.
- A wide matrix is the transpose of the tall one. So a weight (out, in) and a weight (in, out) with the same
  name are transposes of each other.
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
        Axes that form the rows of a matrix; the remaining axes form the columns.
    batch_axes
        Axes that stack independent matrices.
    gain
        Factor of the matrices.
    method
        ``"householder"`` or ``"qr"``.
    centre
        (axis, position) of the axes on which all other positions are zero (delta-orthogonal).
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
        """Axes that form the columns."""
        others = {*self.row_axes, *self.batch_axes, *(axis for axis, _ in self.centre)}
        return tuple(axis for axis in range(len(self.shape)) if axis not in others)

    @property
    def sides(self) -> tuple[int, int]:
        """Longer and shorter side of a matrix."""
        rows, columns = (math.prod(self.shape[a] for a in axes) for axes in (self.row_axes, self.column_axes))
        return max(rows, columns), min(rows, columns)

    @property
    def period(self) -> int:
        """Number of consecutive elements that hold whole matrices: one matrix of a stack, or all."""
        stacked = len(self.batch_axes)
        leading = self.batch_axes == tuple(range(stacked))
        return math.prod(self.shape[stacked:] if leading else self.shape)

    @property
    def mean(self) -> float:
        """Expectation of a value: zero."""
        return 0.0

    @property
    def std(self) -> float:
        """Root mean square of all values; for one matrix it is gain / sqrt(longer side)."""
        positions = math.prod(self.shape[axis] for axis, _ in self.centre)
        return abs(self.gain) / math.sqrt(max(1, self.sides[0] * positions))

    def check(self, dtype: DType) -> None:
        """Raise `ValueError` if the gain overflows the dtype."""
        check_reach(self, abs(self.gain), dtype)
