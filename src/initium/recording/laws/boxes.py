"""From regions of memory to disjoint boxes of a tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence

from initium.recording.tape.tape import Region

__all__ = ["Bounds", "box_in", "disjoint", "extents", "size_of"]

#: First and last index + 1 along each axis.
Bounds = tuple[tuple[int, int], ...]


def box_in(tensor: Region, part: Region) -> Bounds | None:
    """Return the box of a tensor that another region of the same storage shows, or None if that is not a box.

    The axes of the part may come in another order, and axes of one element may be missing.
    """
    if part.dtype != tensor.dtype or part.offset < tensor.offset:
        return None
    rest = part.offset - tensor.offset
    steps = [(s, n) for s, n in zip(part.strides, part.shape, strict=True) if n != 1]
    counts = dict(steps)
    if len(counts) != len(steps):
        return None  # its elements overlap
    bounds: dict[int, tuple[int, int]] = {}
    # From the axis with the largest step on, the offset has one digit per axis.
    axes = sorted(range(len(tensor.shape)), key=lambda axis: (-tensor.strides[axis], -tensor.shape[axis]))
    for axis in axes:
        step, extent = tensor.strides[axis], tensor.shape[axis]
        first, rest = (rest // step, rest % step) if extent != 1 and step else (0, rest)
        count = counts.pop(step, 1) if extent != 1 else 1
        if first + count > extent:
            return None
        bounds[axis] = (first, first + count)
    if rest or counts:
        return None
    return tuple(bounds[axis] for axis in range(len(tensor.shape)))


def extents(box: Bounds) -> tuple[int, ...]:
    """Return the shape of a box."""
    return tuple(end - first for first, end in box)


def size_of(box: Bounds) -> int:
    """Return the number of elements of a box."""
    return math.prod(extents(box))


def disjoint(boxes: Sequence[Bounds]) -> list[list[Bounds]]:
    """Return for each box what the later ones leave of it, as disjoint boxes."""
    left: list[list[Bounds]] = []
    for number, box in enumerate(boxes):
        remaining = [box]
        for later in boxes[number + 1 :]:
            remaining = [piece for part in remaining for piece in _without(part, later)]
        left.append(remaining)
    return left


def _without(box: Bounds, hole: Bounds) -> list[Bounds]:
    """Return a box without another one, as disjoint boxes."""
    if any(h[0] >= b[1] or h[1] <= b[0] for b, h in zip(box, hole, strict=True)):
        return [box]
    pieces = []
    rest = list(box)
    for axis, ((first, end), (hole_first, hole_end)) in enumerate(zip(box, hole, strict=True)):
        for low, high in ((first, hole_first), (hole_end, end)):
            if low < high:
                pieces.append((*rest[:axis], (low, high), *box[axis + 1 :]))
        rest[axis] = (max(first, hole_first), min(end, hole_end))
    return pieces
