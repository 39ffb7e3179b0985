"""Haar matrices on CPU cores: reflectors and T factors by Numba, the products by NumPy's BLAS.

All functions run in one thread and without the GIL. The caller distributes panels, blocks of columns or whole
matrices over threads. `initium.kernels.reference.orthogonal` defines the matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from initium.kernels.cpu.jit import parallel_entry

__all__ = ["PANEL", "Panel", "columns_of_q", "panel", "rows_of_q", "small"]

#: Reflectors per panel: small panels make inefficient products; T factors of large panels cost much time.
PANEL = 96
# Rows of a block update that are computed at a time, so that they are still in the cache when subtracted.
_UPDATE_ROWS = 256
# Small matrices that are computed together: enough to fill several vectors, and few enough for the cache.
_SIDE_BY_SIDE = 16

Real = NDArray[Any]
Indices = NDArray[np.intp]


class Panel(NamedTuple):
    """Reflectors ``first, first + 1, ...``: H_first H_(first + 1) ... = I - V' T V.

    Attributes
    ----------
    first
        Number of the first reflector.
    vectors
        V, shape (b, n - first): row i is zero before column i.
    factor
        T, shape (b, b), upper triangular.
    signs
        Signs of the diagonal of R, shape (b,).
    """

    first: int
    vectors: Real
    factor: Real
    signs: Real


@parallel_entry
def _reflect(g: Any, signs: Any) -> None:
    """Replace Gaussian rows by Householder vectors of squared length 2, in place."""
    rows, length = g.shape
    for i in range(rows):
        g[i, :i] = 0
        # Four sums, since a single sum would wait for each addition.
        s0 = s1 = s2 = s3 = 0.0
        whole = i + (length - i) // 4 * 4
        for j in range(i, whole, 4):
            a, b, c, d = (
                np.float64(g[i, j]),
                np.float64(g[i, j + 1]),
                np.float64(g[i, j + 2]),
                np.float64(g[i, j + 3]),
            )
            s0, s1, s2, s3 = s0 + a * a, s1 + b * b, s2 + c * c, s3 + d * d
        for j in range(whole, length):
            s0 += np.float64(g[i, j]) ** 2
        norm = np.sqrt((s0 + s1) + (s2 + s3))
        head = np.float64(g[i, i])
        negative = head >= 0  # x is mapped to -sign(head) |x| e_1, without cancellation
        signs[i] = -1 if negative else 1
        if length - i == 1:  # a reflector of length 1 is a sign, without rounding
            signs[i] = -signs[i]
            g[i, i] = 0
            continue
        if norm == 0:  # any reflector is correct
            g[i, i] = np.sqrt(2.0)
            continue
        scale = 1 / np.sqrt(norm * (norm + abs(head)))
        factor = g.dtype.type(scale)
        for j in range(i + 1, length):
            g[i, j] *= factor
        g[i, i] = (head + norm if negative else head - norm) * scale


@parallel_entry
def _invert(s: Any, t: Any) -> None:
    """Write T, the inverse of I + striu(S), row by row from the last row."""
    b = s.shape[0]
    for i in range(b - 1, -1, -1):
        t[i, :] = 0
        t[i, i] = 1
        for k in range(i + 1, b):
            u = s[i, k]
            for j in range(k, b):
                t[i, j] -= u * t[k, j]


def panel(first: int, gaussians: Real) -> Panel:
    """Return a panel for Gaussians of shape (b, n - first), whose memory is reused for the reflectors.

    T^-1 = I + striu(V V') (Puglisi 1992). The diagonal is set to its exact value, since the squared length of
    the rows of V is 2 with a smaller error than that of a matrix product.
    """
    b = len(gaussians)
    signs = np.empty(b, gaussians.dtype)
    _reflect(gaussians, signs)
    factor = np.empty((b, b), gaussians.dtype)
    _invert(gaussians @ gaussians.T, factor)
    return Panel(first, gaussians, factor, signs)


def columns_of_q(panels: Sequence[Panel], n: int, columns: Indices) -> Real:
    """Return columns of H_0 H_1 ... I, not yet signed.

    Parameters
    ----------
    panels
        Panels in order, from reflector 0 up to at least the last column.
    n
        Length of a column.
    columns
        Column numbers, ascending.

    Notes
    -----
    Reflector k changes only rows from k on, and it does not change columns before k of the identity. So
    column j needs reflectors j, j - 1, ..., 0, and each of them acts on the rows from its own number on.
    """
    q = np.zeros((n, len(columns)), panels[0].vectors.dtype)
    q[columns, np.arange(len(columns))] = 1
    update = np.empty((min(n, _UPDATE_ROWS), len(columns)), q.dtype)
    for start, vectors, factor, _ in reversed(panels):
        end = start + len(vectors)
        own, later = np.searchsorted(columns, (start, end))
        if own == len(columns):
            continue
        # V Q: columns of the identity select columns of V; later columns are zero in the rows before `end`.
        w = np.empty((len(vectors), len(columns) - own), q.dtype)
        w[:, : later - own] = vectors[:, columns[own:later] - start]
        if later < len(columns):
            np.matmul(vectors[:, len(vectors) :], q[end:, later:], out=w[:, later - own :])
        w = factor @ w
        for row in range(start, n, _UPDATE_ROWS):
            target = q[row : row + _UPDATE_ROWS, own:]
            part = vectors[:, row - start : row - start + _UPDATE_ROWS]
            target -= np.matmul(part.T, w, out=update[: len(target), own:])
    return q


def rows_of_q(panels: Sequence[Panel], n: int, rows: Indices) -> Real:
    """Return rows of H_0 H_1 ..., not yet signed, shape (len(rows), n).

    Columns are complete up to the last of the given reflectors.
    """
    q = np.zeros((len(rows), n), panels[0].vectors.dtype)
    q[np.arange(len(rows)), rows] = 1
    update = np.empty((len(rows), min(n, _UPDATE_ROWS)), q.dtype)
    for start, vectors, factor, _ in panels:
        w = vectors.T[rows] if start == 0 else q[:, start:] @ vectors.T
        w = w @ factor
        for column in range(start, n, _UPDATE_ROWS):
            target = q[:, column : column + _UPDATE_ROWS]
            part = vectors[:, column - start : column - start + _UPDATE_ROWS]
            target -= np.matmul(w, part, out=update[:, : target.shape[1]])
    return q


def small(gaussians: Real) -> Real:
    """Compute many small matrices together, one reflector after the other.

    For small matrices, the calls of a BLAS would take most of the time. Here the matrices are interleaved, so
    that each step is a vector operation over several matrices.

    Parameters
    ----------
    gaussians
        Shape (count, m, n), count > 0; destroyed.

    Returns
    -------
    ndarray, shape (count, n, m)
    """
    count, m, n = gaussians.shape
    q = np.empty((count, n, m), gaussians.dtype)
    _small(gaussians, q)
    return q


@parallel_entry
def _small(g: Any, q: Any) -> None:
    count, m, n = g.shape
    width = min(_SIDE_BY_SIDE, count)
    v = np.zeros((m, n, width), g.dtype)
    x = np.empty((n, m, width), g.dtype)
    w = np.empty(width, g.dtype)
    signs = np.empty((width, m), g.dtype)
    for first in range(0, count, width):
        together = min(width, count - first)
        for c in range(together):
            _reflect(g[first + c], signs[c])
            for k in range(m):
                for i in range(k, n):
                    v[k, i, c] = g[first + c, k, i]
        _multiply(v, x, w)
        for c in range(together):
            for i in range(n):
                for j in range(m):
                    q[first + c, i, j] = x[i, j, c] * signs[c, j]


@parallel_entry
def _multiply(v: Any, x: Any, w: Any) -> None:
    """Multiply the reflectors of several matrices: X = H_0 H_1 ... I."""
    m, n, width = v.shape
    x[:] = 0
    for k in range(m - 1, -1, -1):
        # Only rows and columns from k on change; column k is still a column of the identity.
        x[k, k] = 1
        for j in range(k, m):
            w[:] = 0
            for i in range(k, n):
                a, b = v[k, i], x[i, j]
                for lane in range(width):
                    w[lane] += a[lane] * b[lane]
            for i in range(k, n):
                a, b = v[k, i], x[i, j]
                for lane in range(width):
                    b[lane] -= a[lane] * w[lane]
