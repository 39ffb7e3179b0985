"""Fans: how many inputs feed a unit, and how many outputs a unit feeds, read off a weight's shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from initium.checks import check_integer

__all__ = ["IN_OUT", "OUT_IN", "Fans", "Layout", "lookup"]


class Fans(NamedTuple):
    """Inputs and outputs per unit; means of axes may make them fractional."""

    fan_in: float
    fan_out: float


@dataclass(frozen=True)
class Layout:
    """Which axes of a weight are inputs, outputs and stacked copies; the rest is the receptive field.

    Parameters
    ----------
    in_axis, out_axis
        Axis, or axes, whose sizes multiply to the number of input and output channels.
    batch_axis
        Axes that stack independent weights (experts, layers): they count in no fan.

    Notes
    -----
    Sizes of axes that are neither input, output nor batch multiply both fans, as in torch
    (`_calculate_fan_in_and_fan_out`), Keras (`compute_fans`) and JAX (`_compute_fans`).
    """

    in_axis: int | tuple[int, ...]
    out_axis: int | tuple[int, ...]
    batch_axis: tuple[int, ...] = ()
    name: str = field(default="", compare=False)

    def fans(self, shape: Sequence[int]) -> Fans:
        """Return the fans of a weight of this layout.

        Parameters
        ----------
        shape
            The **global** shape of the weight, never a shard's.

        Raises
        ------
        ValueError
            If the shape has fewer than two axes besides `batch_axis`, or lacks an axis that is named,
            or one axis has two roles.
        """
        shape = tuple(shape)
        batch = self._axes("batch_axis", self.batch_axis, shape)
        if len(shape) - len(batch) < 2:
            kind = "besides batch_axis " if batch else ""
            raise ValueError(
                f"fans of shape={shape} are not defined; expected at least two axes {kind}(input and output)"
            )
        inputs = self._axes("in_axis", self.in_axis, shape)
        outputs = self._axes("out_axis", self.out_axis, shape)
        roles = inputs + outputs + batch
        if len(set(roles)) != len(roles):
            raise ValueError(f"shape={shape}: an axis has two roles in {self}; expected distinct axes")
        n_in = math.prod(shape[a] for a in inputs)
        n_out = math.prod(shape[a] for a in outputs)
        receptive = math.prod(n for a, n in enumerate(shape) if a not in roles)
        return Fans(float(n_in * receptive), float(n_out * receptive))

    @staticmethod
    def _axes(argument: str, axes: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
        chosen = axes if isinstance(axes, tuple) else (axes,)
        for axis in chosen:
            if not -len(shape) <= check_integer(argument, axis) < len(shape):
                raise ValueError(f"{argument}={axis} is not an axis of shape={shape}")
        return tuple(axis % len(shape) for axis in chosen)


#: (out, in, *receptive): torch's Linear and Conv weights.
OUT_IN = Layout(in_axis=1, out_axis=0, name="out_in")
#: (*receptive, in, out): Keras', JAX's and TensorFlow's kernels, and GPT-2's Conv1D.
IN_OUT = Layout(in_axis=-2, out_axis=-1, name="in_out")

_NAMED = {layout.name: layout for layout in (OUT_IN, IN_OUT)}


def lookup(layout: str | Layout) -> Layout:
    """Return the layout of that name (``"out_in"``, ``"in_out"``), or `layout` itself."""
    if isinstance(layout, Layout):
        return layout
    if isinstance(layout, str) and layout in _NAMED:
        return _NAMED[layout]
    raise ValueError(f"layout={layout!r} is unknown; expected a Layout or one of {', '.join(_NAMED)}")
