"""Windows: a box as one range of indices per axis of the global shape, with its memory.

Elementwise fills need only the global index of each value. Other fills need the index along each axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from initium.memory.destination import Destination, packed_steps
from initium.regions.boxes import Box

__all__ = ["Window", "windows"]


@dataclass(frozen=True, eq=False)
class Window:
    """A part of a global shape, with its memory.

    Attributes
    ----------
    index
        The indices that are drawn, one range per axis; steps may be negative.
    destination
        Memory with the shape of the ranges.
    """

    index: tuple[range, ...]
    destination: Destination

    def part(self, axis: int, positions: slice) -> Window:
        """Return the window of a slice of the positions along one axis; the slice's step is positive."""
        index, target = list(self.index), self.destination
        picked = range(len(index[axis]))[positions]
        index[axis] = index[axis][positions]
        shape, steps = list(target.shape), list(target.byte_steps)
        address = target.address + picked.start * steps[axis]
        shape[axis], steps[axis] = len(picked), steps[axis] * picked.step
        moved = target._replace(address=address, shape=tuple(shape), byte_steps=tuple(steps))
        return Window(tuple(index), moved)


def windows(shape: tuple[int, ...], box: Box, destination: Destination) -> Iterator[Window]:
    """Yield the windows of a box that is not empty.

    Parameters
    ----------
    shape
        The global shape.
    box
        A box with the axes of the global shape, or a run of elements: one axis with step 1.
    destination
        Memory with the shape of the box.

    Raises
    ------
    ValueError
        If the box is neither of the two.
    """
    strides = packed_steps(shape)
    if len(box.shape) == len(shape):
        first = _unravel(box.start, strides)
        index = tuple(
            range(i, i + n * (step // stride), step // stride) if n > 1 else range(i, i + 1)
            for i, n, step, stride in zip(first, box.shape, box.steps, strides, strict=True)
        )
        yield Window(index, destination)
    elif box.steps == (1,):
        yield from _of_run(shape, box.start, box.size, destination)
    else:
        raise ValueError(
            f"box has {len(box.shape)} axes in shape={shape}; expected {len(shape)} axes, or a run"
        )


def _unravel(start: int, strides: tuple[int, ...]) -> list[int]:
    position = []
    for stride in strides:
        i, start = divmod(start, stride)
        position.append(i)
    return position


def _of_run(shape: tuple[int, ...], start: int, count: int, destination: Destination) -> Iterator[Window]:
    (byte_step,) = destination.byte_steps
    done = 0
    for index in _cut(shape, start, start + count):
        extents = tuple(len(r) for r in index)
        steps = packed_steps(extents, byte_step)
        address = destination.address + done * byte_step
        done += math.prod(extents)
        yield Window(index, destination._replace(address=address, shape=extents, byte_steps=steps))


def _cut(shape: tuple[int, ...], start: int, stop: int) -> Iterator[tuple[range, ...]]:
    """Split elements [start, stop) of a row-major array into boxes, in order."""
    if start >= stop:
        return
    if not shape:
        yield ()
        return
    inner = shape[1:]
    size = math.prod(inner)
    first, last = -(-start // size), stop // size  # the whole rows
    if first > last:  # within one row
        for rest in _cut(inner, start - last * size, stop - last * size):
            yield (range(last, last + 1), *rest)
        return
    for rest in _cut(inner, start - (first - 1) * size, size) if start < first * size else ():
        yield (range(first - 1, first), *rest)
    if first < last:
        yield (range(first, last), *(range(n) for n in inner))
    for rest in _cut(inner, 0, stop - last * size):
        yield (range(last, last + 1), *rest)
