"""Layouts: which axes of a weight are inputs, outputs and stacked copies, and the fans of a shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from initium.checks import check_integer

__all__ = [
    "IN_OUT",
    "OUT_IN",
    "TRANSPOSED",
    "Axes",
    "Fans",
    "GroupedTransposed",
    "Layout",
    "LayoutLike",
    "UnknownLayout",
    "UnknownLayoutError",
    "axes_of",
    "is_same",
    "lookup",
]

Axes: TypeAlias = tuple[int, ...]


class Fans(NamedTuple):
    """Inputs and outputs per unit, times the receptive field; floats, since formulas take means of them."""

    fan_in: float
    fan_out: float


@dataclass(frozen=True)
class Layout:
    """The roles of the axes of a weight: inputs, outputs, stacked copies; the rest is the receptive field.

    Parameters
    ----------
    in_axis, out_axis
        Axis, or axes, whose sizes multiply to the number of input and output channels.
    batch_axis
        Axes that stack independent weights (experts, layers). They do not count in the fans.
    name
        The name of the layout in messages and in the catalogue.

    Notes
    -----
    The sizes of all other axes multiply both fans, as in torch (`_calculate_fan_in_and_fan_out`), Keras
    (`compute_fans`) and JAX (`_compute_fans`).

    Examples
    --------
    >>> import initium as ini
    >>> ini.Layout(in_axis=1, out_axis=0).fans((64, 3, 3, 3))
    Fans(fan_in=27.0, fan_out=576.0)

    A stack of 8 experts with weights (in, out):

    >>> ini.Layout(in_axis=1, out_axis=2, batch_axis=(0,)).fans((8, 512, 2048))
    Fans(fan_in=512.0, fan_out=2048.0)
    """

    in_axis: int | tuple[int, ...]
    out_axis: int | tuple[int, ...]
    batch_axis: tuple[int, ...] = ()
    name: str = field(default="", compare=False)

    def fans(self, shape: Sequence[int]) -> Fans:
        """Return the fans of a weight with this layout.

        Parameters
        ----------
        shape
            The **global** shape of the weight, not the shape of a shard.

        Raises
        ------
        ValueError
            If the shape has fewer than two axes besides `batch_axis`, if it lacks an axis of the layout, or
            if one axis has two roles.
        """
        shape = tuple(shape)
        batch = axes_of("batch_axis", self.batch_axis, shape)
        if len(shape) - len(batch) < 2:
            kind = "besides batch_axis " if batch else ""
            raise ValueError(
                f"fans of shape={shape} are not defined; expected at least two axes {kind}(input and output)"
            )
        inputs = axes_of("in_axis", self.in_axis, shape)
        outputs = axes_of("out_axis", self.out_axis, shape)
        roles = inputs + outputs + batch
        if len(set(roles)) != len(roles):
            raise ValueError(f"shape={shape}: an axis has two roles in {self}; expected distinct axes")
        n_in = math.prod(shape[a] for a in inputs)
        n_out = math.prod(shape[a] for a in outputs)
        receptive = math.prod(n for a, n in enumerate(shape) if a not in roles)
        return Fans(float(n_in * receptive), float(n_out * receptive))


@dataclass(frozen=True)
class GroupedTransposed(Layout):
    """The layout (in, out / groups, *receptive) of torch's ConvTranspose with groups.

    Its fans are those of torch for a Conv with the same channels, kernel and groups: the inputs of one unit,
    and the outputs of all groups.

    Examples
    --------
    >>> from initium.layouts import OUT_IN, GroupedTransposed
    >>> GroupedTransposed(groups=4).fans((8, 3, 5))  # 8 inputs, 12 outputs
    Fans(fan_in=10.0, fan_out=60.0)
    >>> OUT_IN.fans((12, 2, 5))  # the weight of a Conv with 8 inputs, 12 outputs and 4 groups
    Fans(fan_in=10.0, fan_out=60.0)
    """

    in_axis: int | tuple[int, ...] = 0
    out_axis: int | tuple[int, ...] = 1
    groups: int = 1

    def fans(self, shape: Sequence[int]) -> Fans:
        """Return the fans of a weight; see `Layout.fans`."""
        fans = super().fans(shape)
        return Fans(fans.fan_in / self.groups, fans.fan_out * self.groups)


class UnknownLayoutError(ValueError):
    """An initializer needs the layout of a weight, and neither the user nor the model has stated it."""


@dataclass(frozen=True)
class UnknownLayout(Layout):
    """In place of a tensor's layout: it is not known, and (out, in) would be a guess.

    An initializer that needs the layout raises `UnknownLayoutError`, unless it has a layout of its own.
    Others, such as a normal distribution with a given std, do not notice it.

    Parameters
    ----------
    reason
        The text of the error.

    Examples
    --------
    >>> import initium as ini
    >>> from initium.layouts import UnknownLayout
    >>> unknown = UnknownLayout(reason="nobody has stated the axes")
    >>> ini.Normal(0.0, 0.02).resolve((8, 4, 4), unknown).std
    0.02
    >>> ini.he_normal().resolve((8, 4, 4), unknown)
    Traceback (most recent call last):
        ...
    initium.layouts.UnknownLayoutError: nobody has stated the axes
    """

    in_axis: int | tuple[int, ...] = ()
    out_axis: int | tuple[int, ...] = ()
    reason: str = ""

    def fans(self, shape: Sequence[int]) -> Fans:
        """Raise `UnknownLayoutError`."""
        raise UnknownLayoutError(self.reason)


def axes_of(argument: str, axes: int | Axes, shape: Sequence[int]) -> Axes:
    """Return axes of a shape as numbers >= 0.

    Raises
    ------
    TypeError
        If an axis is not an integer.
    ValueError
        If the shape lacks an axis, or an axis is given twice.
    """
    chosen = axes if isinstance(axes, tuple) else (axes,)
    for axis in chosen:
        if not -len(shape) <= check_integer(argument, axis) < len(shape):
            raise ValueError(f"{argument}={axis} is not an axis of shape={tuple(shape)}")
    counted = tuple(axis % len(shape) for axis in chosen)
    if len(set(counted)) < len(counted):
        raise ValueError(f"{argument}={axes} names an axis of shape={tuple(shape)} twice")
    return counted


#: (out, in, *receptive): weights of torch's Linear and Conv.
OUT_IN = Layout(in_axis=1, out_axis=0, name="out_in")
#: (*receptive, in, out): kernels of Keras, JAX and TensorFlow, and GPT-2's Conv1D.
IN_OUT = Layout(in_axis=-2, out_axis=-1, name="in_out")
#: (in, out, *receptive): weights of torch's ConvTranspose.
TRANSPOSED = Layout(in_axis=0, out_axis=1, name="transposed")

_NAMED = {layout.name: layout for layout in (OUT_IN, IN_OUT)}

#: A layout, its name, or None for the layout of the tensor.
LayoutLike: TypeAlias = str | Layout | None


def lookup(layout: LayoutLike, tensor: Layout | None = None) -> Layout:
    """Return the layout by which an initializer reads a shape.

    Parameters
    ----------
    layout
        The layout of the initializer: a `Layout`, ``"out_in"``, ``"in_out"``, or None for no choice.
    tensor
        The layout of the tensor if it is known; used where the initializer makes no choice.

    Returns
    -------
    Layout
        `layout`, else `tensor`, else (out, in), as in torch.

    Raises
    ------
    UnknownLayoutError
        If neither is known, and the tensor is not (out, in) by convention.
    ValueError
        If there is no layout with that name.
    """
    if layout is None:
        if isinstance(tensor, UnknownLayout):
            raise UnknownLayoutError(tensor.reason)
        return OUT_IN if tensor is None else tensor
    if isinstance(layout, Layout):
        return layout
    if isinstance(layout, str) and layout in _NAMED:
        return _NAMED[layout]
    raise ValueError(f"layout={layout!r} is unknown; expected a Layout or one of {', '.join(_NAMED)}")


def is_same(layout: Layout, standard: Layout) -> bool:
    """Return whether a layout is one of the standard layouts, by its axes and by its name.

    The axes alone do not suffice: an explicit `Layout` counts axes of the whole shape, while ``"out_in"`` and
    ``"in_out"`` leave out the batch axes of an initializer. The name alone is the user's choice.
    """
    return layout == standard and layout.name == standard.name
