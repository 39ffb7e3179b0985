"""Random orthogonal weights by Haar measure: matrices, and convolutions that are one at their centre."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from initium.checks import check_choice, check_finite, check_integer
from initium.fills.orthogonal import METHODS, OrthogonalFill
from initium.initializers.identities import centre_of, convolution_axes
from initium.layouts import IN_OUT, OUT_IN, Axes, Layout, LayoutLike, axes_of, lookup

__all__ = ["DeltaOrthogonal", "Orthogonal", "delta_orthogonal"]


@dataclass(frozen=True)
class Orthogonal:
    """Random orthogonal matrices by Haar measure, times `gain`.

    Rows are orthonormal where there are fewer rows than columns, columns where there are fewer columns.

    Parameters
    ----------
    gain
        Factor of the matrix, finite.
    method
        ``"householder"``: a product of reflectors of Gaussian vectors, all of it matrix products, of which a
        slice costs its share. ``"qr"``: LAPACK's or cuSOLVER's QR, always of the whole matrix.
    layout
        Which axis makes up the rows of the matrix, `batch_axis` apart: the first one for ``"out_in"``, the
        flattening of torch (``(shape[0], rest)``); the last one for ``"in_out"``, that of Keras and JAX
        (``(rest, shape[-1])``, of which this is the transpose); the ``out_axis`` of a `Layout`. By default
        the layout of the tensor where it is known, else ``"out_in"``.
    column_axis
        That axis by number, as in `jax.nn.initializers.orthogonal`; overrides `layout`.
    batch_axis
        Axes that stack independent matrices (experts, heads); those of a `Layout` by default.

    Notes
    -----
    Distribution as in `torch.nn.init.orthogonal_`, `keras.initializers.Orthogonal` and
    `jax.nn.initializers.orthogonal`; what the values are made of is stated in `initium.fills.orthogonal`.
    They are computed in float32 (float64 for float64) and rounded once; slices, threads and backends agree
    within 1e-5 times the gain. Extra memory of ``"householder"``, in units of the whole matrix in float32 and
    with two threads: 0.7 for square matrices from 4096 on, 1.5 for 1024 and for tall ones. ``"qr"`` takes
    several times the matrix.
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
        shape, read_by = tuple(shape), lookup(self.layout, layout)
        batch = axes_of("batch_axis", self._batch() or read_by.batch_axis, shape)
        if len(shape) - len(batch) < 2:
            kind = "besides batch_axis " if batch else ""
            raise ValueError(f"shape={shape} is no matrix; expected at least two axes {kind}to be orthogonal")
        rows = self._rows(shape, batch, read_by)
        if set(rows) & set(batch):
            raise ValueError(f"batch_axis={self.batch_axis} of shape={shape} holds the rows; expected others")
        fill = OrthogonalFill(shape, rows, batch, float(self.gain), self.method)
        if not fill.column_axes:
            raise ValueError(f"shape={shape} has no axis left for columns; expected one besides {rows}")
        return fill

    def _rows(self, shape: tuple[int, ...], batch: Axes, layout: Layout) -> Axes:
        """Return the axes that make up the rows."""
        if self.column_axis is not None:
            return axes_of("column_axis", self.column_axis, shape)
        matrix = [axis for axis in range(len(shape)) if axis not in batch]
        if layout.name == OUT_IN.name:
            return (matrix[0],)
        if layout.name == IN_OUT.name:
            return (matrix[-1],)
        return axes_of("layout.out_axis", layout.out_axis, shape)


@dataclass(frozen=True)
class DeltaOrthogonal:
    """A convolution that is an orthogonal matrix at its centre and zero elsewhere (Xiao et al. 2018).

    Parameters
    ----------
    gain, method
        As in `Orthogonal`; the matrix equals that of `Orthogonal` for a weight of the same name without
        spatial axes.
    layout
        ``"out_in"``: (out, in, *spatial), ``"in_out"``: (*spatial, in, out), or a `Layout` with one axis of
        outputs and one of inputs. By default that of the tensor where it is known, else ``"out_in"``. One to
        three spatial axes.
    centre
        Of an axis of even size k: ``"upper"`` is ``k // 2``, as in `torch.nn.init.dirac_`, ``"lower"`` is
        ``(k - 1) // 2``, as in `jax.nn.initializers.delta_orthogonal`. By default ``"lower"`` for
        ``"in_out"``, else ``"upper"``.

    Notes
    -----
    Needs in <= out, so that the convolution keeps norms.
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
        """Return the fill for a convolution's global shape."""
        shape, read_by = tuple(shape), lookup(self.layout, layout)
        out, into, spatial = convolution_axes(shape, read_by)
        if shape[into] > shape[out]:
            raise ValueError(
                f"shape={shape} has {shape[into]} input and {shape[out]} output channels; expected in <= out"
            )
        upper = (read_by.name != IN_OUT.name) if self.centre is None else self.centre == "upper"
        centre = tuple((axis, centre_of(shape[axis], upper)) for axis in spatial)
        return OrthogonalFill(shape, (out,), (), float(self.gain), self.method, centre)


def delta_orthogonal(gain: float = 1.0, layout: LayoutLike = None) -> DeltaOrthogonal:
    """Orthogonal at the centre of a convolution, zero elsewhere (Xiao et al. 2018)."""
    return DeltaOrthogonal(gain, layout=layout)
