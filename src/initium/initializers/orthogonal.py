"""Random orthogonal weights by Haar measure: matrices, and convolutions with a matrix at their centre."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from initium.checks import check_choice, check_finite, check_integer
from initium.fills.orthogonal import METHODS, OrthogonalFill
from initium.initializers.identities import centre_of, convolution_axes
from initium.layouts import (
    IN_OUT,
    OUT_IN,
    Axes,
    Layout,
    LayoutLike,
    UnknownLayout,
    axes_of,
    is_same,
    lookup,
)

__all__ = ["DeltaOrthogonal", "Orthogonal", "delta_orthogonal"]


@dataclass(frozen=True)
class Orthogonal:
    """Random orthogonal matrices by Haar measure, times `gain`.

    The rows are orthonormal if there are at most as many rows as columns, else the columns.

    Parameters
    ----------
    gain
        Factor of the matrix, finite.
    method
        ``"householder"``: the product of reflectors of Gaussian vectors, computed by matrix products; the
        cost of a slice is about proportional to its size. ``"qr"``: the QR decomposition of LAPACK or
        cuSOLVER, always for the whole matrix.
    layout
        Which axis forms the rows of the matrix; the other axes, except `batch_axis`, form the columns.
        ``"out_in"``: the first axis, as in torch. ``"in_out"``: the last axis, as in Keras and JAX (whose
        matrix is the transpose). A `Layout`: its ``out_axis``. Default: the layout of the tensor if it is
        known, else ``"out_in"``.
    column_axis
        The number of this axis, as in `jax.nn.initializers.orthogonal`; overrides `layout`.
    batch_axis
        Axes that stack independent matrices (experts, heads). Default: the batch axes of a `Layout`.

    Notes
    -----
    The distribution is that of `torch.nn.init.orthogonal_`, `keras.initializers.Orthogonal` and
    `jax.nn.initializers.orthogonal`. `initium.fills.orthogonal` defines the values. They are computed in
    float32 (float64 for float64) and rounded once. The number of threads changes no bit; slices and backends
    agree within 1e-5 times the gain. Extra memory of ``"householder"`` with two threads, in units of the
    whole float32 matrix: 0.7 for square matrices from 4096 on, 1.5 for 1024 and for tall matrices. ``"qr"``
    needs several times the matrix.

    Examples
    --------
    >>> import numpy as np
    >>> import initium as ini
    >>> heads = ini.initialize(ini.Orthogonal(batch_axis=0), (8, 4, 6), seed=7, name="heads")
    >>> bool(np.allclose(heads[5] @ heads[5].T, np.eye(4), atol=1e-6))
    True
    """

    gain: float = 1.0
    method: str = "householder"
    layout: LayoutLike = None
    column_axis: int | None = None
    batch_axis: int | Axes = ()

    def __post_init__(self) -> None:
        check_finite("gain", self.gain)
        check_choice("method", self.method, METHODS)
        lookup(self.layout)
        if self.column_axis is not None:
            check_integer("column_axis", self.column_axis)
        for axis in self._batch():
            check_integer("batch_axis", axis)

    def _batch(self) -> Axes:
        return self.batch_axis if isinstance(self.batch_axis, tuple) else (self.batch_axis,)

    def resolve(self, shape: Sequence[int], layout: Layout | None = None) -> OrthogonalFill:
        """Return the orthogonal fill for a global shape of at least two axes besides `batch_axis`."""
        shape, read_by = tuple(shape), self._read_by(shape, layout)
        batch = axes_of("batch_axis", self._batch() or read_by.batch_axis, shape)
        if len(shape) - len(batch) < 2:
            kind = "besides batch_axis " if batch else ""
            raise ValueError(
                f"shape={shape} is not a matrix; expected at least two axes {kind}to be orthogonal"
            )
        rows = self._rows(shape, batch, read_by)
        if set(rows) & set(batch):
            raise ValueError(
                f"batch_axis={self.batch_axis} of shape={shape} contains the rows {rows}; expected others"
            )
        fill = OrthogonalFill(shape, rows, batch, float(self.gain), self.method)
        if not fill.column_axes:
            raise ValueError(f"shape={shape} has no axis left for columns; expected one besides {rows}")
        return fill

    def _read_by(self, shape: Sequence[int], layout: Layout | None) -> Layout:
        """Return the layout; a given stack of matrices needs none, since transposes have the same law."""
        is_stated = self.column_axis is not None or len(shape) - len(self._batch()) == 2
        if self.layout is None and isinstance(layout, UnknownLayout) and self._batch() and is_stated:
            return OUT_IN
        return lookup(self.layout, layout)

    def _rows(self, shape: tuple[int, ...], batch: Axes, layout: Layout) -> Axes:
        """Return the axes that form the rows."""
        if self.column_axis is not None:
            return axes_of("column_axis", self.column_axis, shape)
        matrix = [axis for axis in range(len(shape)) if axis not in batch]
        if is_same(layout, OUT_IN):
            return (matrix[0],)
        if is_same(layout, IN_OUT):
            return (matrix[-1],)
        return axes_of("layout.out_axis", layout.out_axis, shape)


@dataclass(frozen=True)
class DeltaOrthogonal:
    """A convolution that is an orthogonal matrix at its centre and zero elsewhere (Xiao et al. 2018).

    Parameters
    ----------
    gain, method
        As in `Orthogonal`. The matrix equals that of `Orthogonal` for a weight with the same name and no
        spatial axes.
    layout
        ``"out_in"``: (out, in, *spatial), ``"in_out"``: (*spatial, in, out), or a `Layout` with one output
        axis and one input axis. Default: the layout of the tensor if it is known, else ``"out_in"``. There
        are one to three spatial axes.
    centre
        The centre of an axis of even size k: ``"upper"`` is ``k // 2``, as in `torch.nn.init.dirac_`;
        ``"lower"`` is ``(k - 1) // 2``, as in `jax.nn.initializers.delta_orthogonal`. Default: ``"lower"``
        for ``"in_out"``, else ``"upper"``.

    Notes
    -----
    Requires in <= out, so that the convolution preserves norms.

    Examples
    --------
    >>> import numpy as np
    >>> import initium as ini
    >>> weight = ini.initialize(ini.DeltaOrthogonal(), (6, 4, 3, 3), seed=7, name="conv.weight")
    >>> centre = weight[:, :, 1, 1]
    >>> bool(np.allclose(centre.T @ centre, np.eye(4), atol=1e-6)), int(np.count_nonzero(weight))
    (True, 24)
    """

    gain: float = 1.0
    method: str = "householder"
    layout: LayoutLike = None
    centre: str | None = None

    def __post_init__(self) -> None:
        check_finite("gain", self.gain)
        check_choice("method", self.method, METHODS)
        lookup(self.layout)
        if self.centre is not None:
            check_choice("centre", self.centre, ("lower", "upper"))

    def resolve(self, shape: Sequence[int], layout: Layout | None = None) -> OrthogonalFill:
        """Return the fill for the global shape of a convolution."""
        shape, read_by = tuple(shape), lookup(self.layout, layout)
        out, into, spatial = convolution_axes(shape, read_by)
        if shape[into] > shape[out]:
            raise ValueError(
                f"shape={shape} has {shape[into]} input and {shape[out]} output channels; expected in <= out"
            )
        upper = not is_same(read_by, IN_OUT) if self.centre is None else self.centre == "upper"
        centre = tuple((axis, centre_of(shape[axis], upper)) for axis in spatial)
        return OrthogonalFill(shape, (out,), (), float(self.gain), self.method, centre)


def delta_orthogonal(gain: float = 1.0, layout: LayoutLike = None) -> DeltaOrthogonal:
    """Orthogonal at the centre of a convolution, zero elsewhere (Xiao et al. 2018)."""
    return DeltaOrthogonal(gain, layout=layout)
