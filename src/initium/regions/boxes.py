"""Boxes: the part of a global shape that is drawn, with its global indices and its place in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

from initium.checks import check_integer
from initium.memory.destination import packed_steps

# Values per run along a strided axis; the cache lines of a run fit in the first-level cache.
_RUN = 128

__all__ = ["Box", "Part", "box_of", "parts", "whole"]


@dataclass(frozen=True)
class Box:
    """A part of a global shape: the elements that a tuple of slices selects.

    Attributes
    ----------
    shape
        Extents of the box, which are the shape of the drawn array.
    start
        Global row-major index of the box's first element.
    steps
        Global indices per step along each axis; negative for a reversed axis.
    """

    shape: tuple[int, ...]
    start: int
    steps: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class Axis(NamedTuple):
    """One axis of a box in memory: extent, global indices per step, bytes per step."""

    extent: int
    index_step: int
    byte_step: int


@dataclass(frozen=True)
class Part:
    """A part of a box with few axes, which fits in one row of a job table.

    Attributes
    ----------
    index, byte
        Offsets of the part's first element from the box's first element.
    count
        Number of elements.
    extents, index_steps, byte_steps
        The axes, padded in front with axes of one element; the last one has index step 1.
    """

    index: int
    byte: int
    count: int
    extents: tuple[int, ...]
    index_steps: tuple[int, ...]
    byte_steps: tuple[int, ...]


@lru_cache(maxsize=4096)
def whole(shape: tuple[int, ...]) -> Box:
    """Return the box of all elements of a shape."""
    return Box(shape, 0, packed_steps(shape))


def box_of(shape: tuple[int, ...], box: Any = None) -> Box:
    """Return the `Box` that a tuple of slices selects from `shape`.

    Parameters
    ----------
    shape
        The global shape.
    box
        None for the whole shape, or a tuple of slices, one per axis. Missing slices and ``...`` select whole
        axes. Starts and stops may be negative as in Python, but must be within the axis.

    Raises
    ------
    TypeError
        If `box` contains an object that is not a slice.
    ValueError
        If `box` has too many slices, or a slice exceeds its axis.
    """
    if box is None:
        return whole(shape)
    strides = packed_steps(shape)
    extents, steps, start = [], [], 0
    for axis, (part, extent, stride) in enumerate(
        zip(_complete(box, len(shape)), shape, strides, strict=True)
    ):
        first, count, step = _bounds(part, axis, extent)
        start += first * stride
        extents.append(count)
        steps.append(step * stride)
    return Box(tuple(extents), start if math.prod(extents) else 0, tuple(steps))


def _complete(box: Any, axes: int) -> list[slice]:
    parts = list(box) if isinstance(box, tuple) else [box]
    for part in parts:
        if not isinstance(part, slice) and part is not Ellipsis:
            raise TypeError(
                f"box={box!r} holds {part!r}; expected slices only (slice(i, i + 1) for one index)"
            )
    if parts.count(Ellipsis) > 1:
        raise ValueError(f"box={box!r} has two ellipses; expected at most one")
    missing = axes - sum(part is not Ellipsis for part in parts)
    if missing < 0:
        raise ValueError(f"box={box!r} has {len(parts)} slices; expected at most {axes}, one per axis")
    where = parts.index(Ellipsis) if Ellipsis in parts else len(parts)
    whole = [slice(None)] * missing
    return [*parts[:where], *whole, *parts[where + 1 :]]


def _bounds(part: slice, axis: int, extent: int) -> tuple[int, int, int]:
    """Return first index, count and step of a slice whose bounds must lie within the axis."""
    for name in ("start", "stop", "step"):
        value = getattr(part, name)
        if value is None:
            continue
        number = check_integer(f"box[{axis}].{name}", value)
        lowest = -extent - 1 if name == "stop" and (part.step or 1) < 0 else -extent
        if name == "step":
            if number == 0:
                raise ValueError(f"box[{axis}].step=0; expected a step that is not zero")
        elif not lowest <= number <= extent:
            raise ValueError(
                f"box[{axis}].{name}={number} is out of range; axis {axis} has {extent} elements"
            )
    covered = range(*part.indices(extent))
    return (covered.start if covered else 0), len(covered), covered.step


def _merged(axes: Sequence[Axis], itemsize: int) -> list[Axis]:
    """Drop axes of one element, merge contiguous axes, and end with an axis of index step 1."""
    merged: list[Axis] = []
    for axis in axes:
        if axis.extent == 1:
            continue
        if merged:
            outer = merged[-1]
            if (outer.index_step, outer.byte_step) == (
                axis.index_step * axis.extent,
                axis.byte_step * axis.extent,
            ):
                merged[-1] = Axis(outer.extent * axis.extent, axis.index_step, axis.byte_step)
                continue
        merged.append(axis)
    if not merged or merged[-1].index_step != 1:
        merged.append(Axis(1, 1, itemsize))
    return merged


@lru_cache(maxsize=4096)
def parts(box: Box, byte_steps: tuple[int, ...], itemsize: int, limit: int) -> tuple[Part, ...]:
    """Split a box in memory into parts of at most `limit` axes.

    Parameters
    ----------
    box
        The part of a tensor that is drawn; not empty.
    byte_steps
        Bytes per step along each axis of the box.
    itemsize
        Bytes per value.
    limit
        Number of axes in one row of a job table.
    """
    axes = _merged([Axis(*axis) for axis in zip(box.shape, box.steps, byte_steps, strict=True)], itemsize)
    return tuple(
        part
        for index, byte, piece in _by_cache_lines(axes, itemsize)
        for part in _few_axes(piece, limit, index, byte)
    )


def _by_cache_lines(axes: list[Axis], itemsize: int) -> Iterator[tuple[int, int, list[Axis]]]:
    """Split a strided innermost axis into short runs if another axis has a smaller stride.

    A loop along the strided axis touches one cache line per value. With runs of `_RUN` values, row after row,
    the loop returns to each line before the line leaves the cache. An example is a transposed matrix.
    """
    *outer, inner = axes
    closest = min((abs(axis.byte_step) for axis in outer), default=0)
    if inner.byte_step == itemsize or not closest or closest >= abs(inner.byte_step) or inner.extent <= _RUN:
        yield 0, 0, axes
        return
    whole_runs, rest = divmod(inner.extent, _RUN)
    runs = Axis(whole_runs, _RUN, _RUN * inner.byte_step)
    yield 0, 0, [runs, *outer, Axis(_RUN, 1, inner.byte_step)]
    if rest:
        done = whole_runs * _RUN
        yield done, done * inner.byte_step, [*outer, Axis(rest, 1, inner.byte_step)]


def _few_axes(axes: list[Axis], limit: int, index: int, byte: int) -> Iterator[Part]:
    """Yield a part of the last `limit` axes for each position in the axes before them."""
    outer, inner = axes[:-limit], axes[-limit:]
    padded = [Axis(1, 0, 0)] * (limit - len(inner)) + inner
    extents, index_steps, byte_steps = (tuple(axis[k] for axis in padded) for k in range(3))
    count = math.prod(extents)
    for position in product(*(range(axis.extent) for axis in outer)):
        yield Part(
            index + sum(i * axis.index_step for i, axis in zip(position, outer, strict=True)),
            byte + sum(i * axis.byte_step for i, axis in zip(position, outer, strict=True)),
            count,
            extents,
            index_steps,
            byte_steps,
        )
