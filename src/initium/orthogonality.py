"""Orthogonal weights: random ones by Haar measure, and the identities of matrices and convolutions.

A random orthogonal weight is the sign-corrected Q of the QR of a Gaussian matrix, uniform over all orthogonal
(or semi-orthogonal) matrices. Write n for the longer side of the matrix and m for the shorter one:

- the Gaussians are those of ``initium.normal((m, n))`` of the same seed and name: value ``j n + k`` of the
  stream stands in row j and column k of G (behind ``m n`` values for each matrix before it in a stack);
- ``method="householder"``: reflector j is that of the vector ``G[j, j:]`` on axes j and up; the matrix is the
  product of the reflectors in order (Stewart 1980), and ``G[j, :j]`` is not used;
- ``method="qr"``: the matrix is the Q of ``G.T`` (Mezzadri 2007). Same distribution, other values;
- a wide matrix is the transpose of the tall one. So a weight and its transposed twin of the same name are
  transposes of each other, in torch's layout and in JAX's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initium import fans as _fans
from initium.boxes import Box, whole
from initium.checks import check_choice, check_count, check_finite, check_integer
from initium.destinations import Destination
from initium.dtypes import DTYPES, DType
from initium.fills import Encoding
from initium.kernels import constants
from initium.patterns import Draw, PatternFill, check_reach
from initium.windows import windows

__all__ = [
    "ORTHOGONAL",
    "DeltaOrthogonal",
    "Dirac",
    "DiracFill",
    "Identity",
    "IdentityFill",
    "MatrixJob",
    "Orthogonal",
    "OrthogonalFill",
    "delta_orthogonal",
    "matrix_jobs",
]

#: The kind that the encoding of an orthogonal fill names; its jobs go to `Backend.orthogonal`.
ORTHOGONAL = "orthogonal"
_METHODS = ("householder", "qr")
_SPATIAL = (1, 2, 3)

Axes = tuple[int, ...]

# --- the fill and its jobs ----------------------------------------------------------------------------------


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
    def mean(self) -> float:
        """Expectation of a value: zero."""
        return 0.0

    @property
    def std(self) -> float:
        """Root mean square of all values: that of a matrix is gain / sqrt(longer side)."""
        positions = math.prod(self.shape[axis] for axis, _ in self.centre)
        return abs(self.gain) / math.sqrt(max(1, self.sides[0] * positions))

    def encode(self, dtype: DType) -> Encoding:
        """Return an encoding that says no more than the kind; raise `ValueError` if the gain overflows."""
        check_reach(self, abs(self.gain), dtype)
        return Encoding(ORTHOGONAL, 0, ())


@dataclass(frozen=True, eq=False)
class MatrixJob:
    """Parts of a stack of orthogonal matrices, seen as tall ones: n rows, m <= n columns.

    Attributes
    ----------
    stream
        The tensor's stream.
    long, short
        n and m.
    starts
        Index of the first Gaussian of each matrix, shape (count,).
    rows, columns
        Which of the n and of the m are made.
    gain, method
        As in `OrthogonalFill`.
    destination
        Memory with the axes of the stack, of the rows and of the columns, in this order.
    split
        How many of the destination's axes are the stack's, and how many those and the rows'.
    """

    stream: int
    long: int
    short: int
    starts: NDArray[np.int64]
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    gain: float
    method: str
    destination: Destination
    split: tuple[int, int]

    @property
    def values(self) -> int:
        """Number of values of a whole matrix."""
        return self.long * self.short

    @property
    def units(self) -> int:
        """Units of work, as progress counts them."""
        return -(-len(self.starts) * len(self.rows) * len(self.columns) // constants.TILE)

    @property
    def arithmetic(self) -> DType:
        """What Gaussians and products are computed in."""
        return DTYPES["float64" if self.destination.dtype.word_bits == 64 else "float32"]

    def gaussians(self, matrix: int, first: int, count: int) -> Box:
        """Return the box of rows ``G[first : first + count, first:]`` of a matrix, in the (flat) stream."""
        start = int(self.starts[matrix]) + first * (self.long + 1)
        return Box((count, self.long - first), start, (self.long, 1))

    def runs(self, first: int, stop: int) -> Iterator[tuple[slice, Box]]:
        """Yield which of the matrices [first, stop) follow each other in the stream, and all their Gaussians.

        The slices count from `first`.
        """
        size = self.long * self.short
        starts = self.starts[first:stop]
        ends = [*(np.flatnonzero(np.diff(starts) != size) + 1).tolist(), len(starts)]
        begin = 0
        for end in ends:
            yield slice(begin, end), Box(((end - begin) * size,), int(starts[begin]), (1,))
            begin = end


def matrix_jobs(stream: int, fill: OrthogonalFill, box: Box, destination: Destination) -> Iterator[MatrixJob]:
    """Yield the jobs for a box that is not empty; where the box misses the centre, there are none."""
    long, short = fill.sides
    tall = math.prod(fill.shape[a] for a in fill.row_axes) == long
    sides = (fill.row_axes, fill.column_axes) if tall else (fill.column_axes, fill.row_axes)
    for window in windows(fill.shape, box, destination):
        for axis, position in fill.centre:
            if position not in window.index[axis]:
                break
            at = window.index[axis].index(position)
            window = window.part(axis, slice(at, at + 1))
        else:
            order = (*fill.batch_axes, *sides[0], *sides[1], *(axis for axis, _ in fill.centre))
            target = window.destination
            kept = order[: len(order) - len(fill.centre)]
            stack, rows, columns = (
                _flat([window.index[a] for a in axes], [fill.shape[a] for a in axes])
                for axes in (fill.batch_axes, *sides)
            )
            yield MatrixJob(
                stream,
                long,
                short,
                stack * (long * short),
                rows,
                columns,
                fill.gain,
                fill.method,
                target._replace(
                    shape=tuple(target.shape[a] for a in kept),
                    byte_steps=tuple(target.byte_steps[a] for a in kept),
                ),
                (len(fill.batch_axes), len(fill.batch_axes) + len(sides[0])),
            )


def _flat(index: Sequence[range], shape: Sequence[int]) -> NDArray[np.int64]:
    """Return the flat indices of a grid, in order."""
    flat = np.zeros(1, np.int64)
    for positions, stride in zip(index, whole(tuple(shape)).steps, strict=True):
        along = np.arange(positions.start, positions.stop, positions.step, dtype=np.int64) * stride
        flat = (flat[:, None] + along).ravel()
    return flat


# --- initializers -------------------------------------------------------------------------------------------


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
        (``(rest, shape[-1])``, of which this is the transpose); the ``out_axis`` of a `Layout`.
    column_axis
        That axis by number, as in `jax.nn.initializers.orthogonal`; overrides `layout`.
    batch_axis
        Axes that stack independent matrices (experts, heads); those of a `Layout` by default.

    Notes
    -----
    Distribution as in `torch.nn.init.orthogonal_`, `keras.initializers.Orthogonal` and
    `jax.nn.initializers.orthogonal`; what the values are made of stands at the top of this module. They are
    computed in float32 (float64 for float64) and rounded once; slices, threads and backends agree within
    1e-5 times the gain. Extra memory of ``"householder"``, in units of the whole matrix in float32 and with
    two threads: 0.7 for square matrices from 4096 on, 1.5 for 1024 and for tall ones. ``"qr"`` takes
    several times the matrix.
    """

    gain: float = 1.0
    method: str = "householder"
    layout: str | _fans.Layout = "out_in"
    column_axis: int | None = None
    batch_axis: int | Axes = ()

    def __post_init__(self) -> None:
        check_finite("gain", self.gain)
        check_choice("method", self.method, _METHODS)
        _fans.lookup(self.layout)
        if self.column_axis is not None:
            check_integer("column_axis", self.column_axis)
        for axis in self._batch():
            check_integer("batch_axis", axis)

    def _batch(self) -> Axes:
        chosen = self.batch_axis if isinstance(self.batch_axis, tuple) else (self.batch_axis,)
        return chosen or _fans.lookup(self.layout).batch_axis

    def resolve(self, shape: Sequence[int], fans: _fans.Fans | None = None) -> OrthogonalFill:
        """Return the orthogonal fill for a global shape of at least two axes besides `batch_axis`."""
        shape = tuple(shape)
        batch = _axes("batch_axis", self._batch(), shape)
        if len(shape) - len(batch) < 2:
            kind = "besides batch_axis " if batch else ""
            raise ValueError(f"shape={shape} is no matrix; expected at least two axes {kind}to be orthogonal")
        if self.column_axis is not None:
            rows = _axes("column_axis", self.column_axis, shape)
        elif isinstance(self.layout, _fans.Layout):
            rows = _axes("layout.out_axis", self.layout.out_axis, shape)
        else:
            matrix = [axis for axis in range(len(shape)) if axis not in batch]
            rows = (matrix[0] if self.layout == _fans.OUT_IN.name else matrix[-1],)
        if set(rows) & set(batch):
            raise ValueError(f"batch_axis={self.batch_axis} of shape={shape} holds the rows; expected others")
        fill = OrthogonalFill(shape, rows, batch, float(self.gain), self.method)
        if not fill.column_axes:
            raise ValueError(f"shape={shape} has no axis left for columns; expected one besides {rows}")
        return fill


def _axes(argument: str, axes: Any, shape: tuple[int, ...]) -> Axes:
    chosen = axes if isinstance(axes, tuple) else (axes,)
    for axis in chosen:
        if not -len(shape) <= check_integer(argument, axis) < len(shape):
            raise ValueError(f"{argument}={axis} is not an axis of shape={shape}")
    counted = tuple(axis % len(shape) for axis in chosen)
    if len(set(counted)) < len(counted):
        raise ValueError(f"{argument}={axes} names an axis of shape={shape} twice")
    return counted


@dataclass(frozen=True)
class DeltaOrthogonal:
    """A convolution that is an orthogonal matrix at its centre and zero elsewhere (Xiao et al. 2018).

    Parameters
    ----------
    gain, method
        As in `Orthogonal`; the matrix equals that of `Orthogonal` for a weight of the same name without
        spatial axes.
    layout
        ``"out_in"``: (out, in, *spatial), or ``"in_out"``: (*spatial, in, out). One to three spatial axes.
    centre
        Of an axis of even size k: ``"upper"`` is ``k // 2``, as in `torch.nn.init.dirac_`, ``"lower"`` is
        ``(k - 1) // 2``, as in `jax.nn.initializers.delta_orthogonal`. By default that of the layout's
        library.

    Notes
    -----
    Needs in <= out, so that the convolution keeps norms.
    """

    gain: float = 1.0
    method: str = "householder"
    layout: str = "out_in"
    centre: str | None = None

    def __post_init__(self) -> None:
        check_finite("gain", self.gain)
        check_choice("method", self.method, _METHODS)
        check_choice("layout", self.layout, ("out_in", "in_out"))
        if self.centre is not None:
            check_choice("centre", self.centre, ("lower", "upper"))

    def resolve(self, shape: Sequence[int], fans: _fans.Fans | None = None) -> OrthogonalFill:
        """Return the fill for a convolution's global shape."""
        shape = tuple(shape)
        out, into, spatial = _convolution_axes(shape, self.layout)
        if shape[into] > shape[out]:
            raise ValueError(
                f"shape={shape} has {shape[into]} input and {shape[out]} output channels; expected in <= out"
            )
        upper = (self.layout == "out_in") if self.centre is None else self.centre == "upper"
        centre = tuple((axis, _centre(shape[axis], upper)) for axis in spatial)
        return OrthogonalFill(shape, (out,), (), float(self.gain), self.method, centre)


def _centre(extent: int, upper: bool) -> int:
    return max(0, extent - (not upper)) // 2


def _convolution_axes(shape: tuple[int, ...], layout: str) -> tuple[int, int, Axes]:
    """Return the axes of outputs, of inputs, and the spatial ones of a convolution."""
    spatial = len(shape) - 2
    if spatial not in _SPATIAL:
        raise ValueError(f"shape={shape} is no convolution; expected 3 to 5 axes")
    if layout == "out_in":
        return 0, 1, tuple(range(2, len(shape)))
    return spatial + 1, spatial, tuple(range(spatial))


def delta_orthogonal(gain: float = 1.0, layout: str = "out_in") -> DeltaOrthogonal:
    """Orthogonal at the centre of a convolution, zero elsewhere (Xiao et al. 2018)."""
    return DeltaOrthogonal(gain, layout=layout)


# --- identities ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class IdentityFill(PatternFill):
    """`gain` where row and column number are equal, else 0."""

    shape: tuple[int, ...]
    gain: float

    def __str__(self) -> str:
        return f"identity({self.gain:g})"

    @property
    def mean(self) -> float:
        """Mean of all values."""
        return self.gain / max(1, *self.shape)

    @property
    def std(self) -> float:
        """Standard deviation of all values."""
        share = 1 / max(1, *self.shape)
        return abs(self.gain) * math.sqrt(share * (1 - share))

    @property
    def reach(self) -> float:
        """Largest magnitude."""
        return abs(self.gain)

    def array(self, index: tuple[range, ...], dtype: DType, draw: Draw) -> NDArray[Any]:
        """Return a part of the matrix."""
        rows, columns = (np.asarray(i) for i in index)
        return np.where(rows[:, None] == columns, self.gain, 0.0)


@dataclass(frozen=True)
class Identity:
    """`gain` times the identity matrix, also of a shape that is not square.

    Notes
    -----
    As `torch.nn.init.eye_` and `keras.initializers.Identity`.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        check_finite("gain", self.gain)

    def resolve(self, shape: Sequence[int], fans: _fans.Fans | None = None) -> IdentityFill:
        """Return the fill for a shape of two axes."""
        if len(shape) != 2:
            raise ValueError(f"shape={tuple(shape)} is no matrix; expected two axes for the identity")
        return IdentityFill(tuple(shape), float(self.gain))


@dataclass(frozen=True)
class DiracFill(PatternFill):
    """1 where a convolution passes a channel on, else 0.

    Attributes
    ----------
    out_axis, in_axis
        Axes of the channels.
    centre
        (axis, position) of the other axes.
    groups
        Groups of outputs, each of which sees the inputs from the first on.
    """

    shape: tuple[int, ...]
    out_axis: int
    in_axis: int
    centre: tuple[tuple[int, int], ...]
    groups: int

    def __str__(self) -> str:
        return "dirac()" if self.groups == 1 else f"dirac(groups={self.groups})"

    @property
    def _share(self) -> float:
        per_group = min(self.shape[self.out_axis] // self.groups, self.shape[self.in_axis])
        return self.groups * per_group / max(1, math.prod(self.shape))

    @property
    def mean(self) -> float:
        """Mean of all values."""
        return self._share

    @property
    def std(self) -> float:
        """Standard deviation of all values."""
        return math.sqrt(self._share * (1 - self._share))

    @property
    def reach(self) -> float:
        """Largest magnitude."""
        return 1.0

    def array(self, index: tuple[range, ...], dtype: DType, draw: Draw) -> NDArray[Any]:
        """Return a part of the weight."""
        at = np.ix_(*(np.asarray(i) for i in index))
        per_group = max(1, self.shape[self.out_axis] // self.groups)
        passed: NDArray[np.bool_] = at[self.out_axis] % per_group == at[self.in_axis]
        for axis, position in self.centre:
            passed = passed & (at[axis] == position)
        return passed.astype(np.float32)


@dataclass(frozen=True)
class Dirac:
    """The identity of convolutions: output channel c of each group is input channel c.

    Parameters
    ----------
    groups
        Groups of the convolution; they divide the output channels.
    layout
        ``"out_in"``: (out, in, *spatial), or ``"in_out"``: (*spatial, in, out). One to three spatial axes.

    Notes
    -----
    As `torch.nn.init.dirac_`: channels beyond the inputs are zero, and the centre is at ``k // 2``.
    """

    groups: int = 1
    layout: str = "out_in"

    def __post_init__(self) -> None:
        check_count("groups", self.groups, minimum=1)
        check_choice("layout", self.layout, ("out_in", "in_out"))

    def resolve(self, shape: Sequence[int], fans: _fans.Fans | None = None) -> DiracFill:
        """Return the fill for a convolution's global shape."""
        shape = tuple(shape)
        out, into, spatial = _convolution_axes(shape, self.layout)
        if shape[out] % self.groups:
            raise ValueError(
                f"groups={self.groups} does not divide the {shape[out]} outputs of shape={shape}"
            )
        centre = tuple((axis, _centre(shape[axis], True)) for axis in spatial)
        return DiracFill(shape, out, into, centre, self.groups)
