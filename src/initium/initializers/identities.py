"""Identity matrices and identity convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initium.checks import check_count, check_finite
from initium.dtypes import DType
from initium.fills.patterns import Draw, PatternFill
from initium.layouts import Axes, GroupedTransposed, Layout, LayoutLike, axes_of, lookup

__all__ = ["Dirac", "DiracFill", "Identity", "IdentityFill", "centre_of", "convolution_axes"]

_SPATIAL = (1, 2, 3)


@dataclass(frozen=True)
class IdentityFill(PatternFill):
    """`gain` where row and column index are equal, else 0."""

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
        """Return the values at the indices."""
        rows, columns = (np.asarray(i) for i in index)
        return np.where(rows[:, None] == columns, self.gain, 0.0)


@dataclass(frozen=True)
class Identity:
    """`gain` times the identity matrix; the shape may be rectangular.

    Notes
    -----
    As `torch.nn.init.eye_` and `keras.initializers.Identity`.

    Examples
    --------
    >>> import initium as ini
    >>> ini.initialize(ini.Identity(), (2, 3), seed=0)
    array([[1., 0., 0.],
           [0., 1., 0.]], dtype=float32)
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        check_finite("gain", self.gain)

    def resolve(self, shape: Sequence[int], layout: Layout | None = None) -> IdentityFill:
        """Return the fill for a shape of two axes."""
        if len(shape) != 2:
            raise ValueError(f"shape={tuple(shape)} is not a matrix; expected two axes for the identity")
        return IdentityFill(tuple(shape), float(self.gain))


@dataclass(frozen=True)
class DiracFill(PatternFill):
    """1 at the centre of the spatial axes where output and input channel are equal, else 0.

    Attributes
    ----------
    out_axis, in_axis
        Axes of the channels.
    centre
        (axis, position) of the spatial axes.
    groups
        Number of groups of output channels; in each group, channels count from 0.
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
        """Return the values at the indices."""
        at = np.ix_(*(np.asarray(i) for i in index))
        per_group = max(1, self.shape[self.out_axis] // self.groups)
        passed: NDArray[np.bool_] = at[self.out_axis] % per_group == at[self.in_axis]
        for axis, position in self.centre:
            passed = passed & (at[axis] == position)
        return passed.astype(np.float32)


@dataclass(frozen=True)
class Dirac:
    """The identity convolution: output channel c of each group is input channel c.

    Parameters
    ----------
    groups
        Number of groups of the convolution; it divides the number of output channels.
    layout
        ``"out_in"``: (out, in, *spatial), ``"in_out"``: (*spatial, in, out), or a `Layout` with one output
        axis and one input axis. Default: the layout of the tensor if it is known, else ``"out_in"``. There
        are one to three spatial axes.

    Notes
    -----
    As `torch.nn.init.dirac_`: output channels without an input channel are zero, and the centre is at
    ``k // 2``.

    Examples
    --------
    >>> import initium as ini
    >>> ini.initialize(ini.Dirac(), (2, 2, 3), seed=0)
    array([[[0., 1., 0.],
            [0., 0., 0.]],
    <BLANKLINE>
           [[0., 0., 0.],
            [0., 1., 0.]]], dtype=float32)
    """

    groups: int = 1
    layout: LayoutLike = None

    def __post_init__(self) -> None:
        check_count("groups", self.groups, minimum=1)
        lookup(self.layout)

    def resolve(self, shape: Sequence[int], layout: Layout | None = None) -> DiracFill:
        """Return the fill for the global shape of a convolution."""
        shape = tuple(shape)
        read_by = lookup(self.layout, layout)
        out, into, spatial = convolution_axes(shape, read_by)
        if isinstance(read_by, GroupedTransposed):
            out, into = into, out  # its input axis has the channels of all groups
        if shape[out] % self.groups:
            raise ValueError(
                f"groups={self.groups} does not divide the {shape[out]} outputs of shape={shape}"
            )
        centre = tuple((axis, centre_of(shape[axis], True)) for axis in spatial)
        return DiracFill(shape, out, into, centre, self.groups)


def convolution_axes(shape: tuple[int, ...], layout: Layout) -> tuple[int, int, Axes]:
    """Return the output axis, the input axis and the spatial axes of a convolution."""
    if len(shape) - 2 not in _SPATIAL:
        raise ValueError(f"shape={shape} is not a convolution; expected 3 to 5 axes")
    outputs = axes_of("layout.out_axis", layout.out_axis, shape)
    inputs = axes_of("layout.in_axis", layout.in_axis, shape)
    if len({*outputs, *inputs}) != 2 or len(outputs) != 1 or layout.batch_axis:
        raise ValueError(
            f"{layout} is not a layout of convolutions; expected one output axis and one input axis"
        )
    spatial = tuple(axis for axis in range(len(shape)) if axis not in (*outputs, *inputs))
    return outputs[0], inputs[0], spatial


def centre_of(extent: int, upper: bool) -> int:
    """Return the middle position of an axis: the upper or lower one if their number is even."""
    return max(0, extent - (not upper)) // 2
