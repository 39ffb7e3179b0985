"""What a backend is: a record of functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from numpy.typing import NDArray

from initium.memory.destination import Destination
from initium.planning.matrices import GaussianDraw, MatrixJob
from initium.planning.plan import Plan

__all__ = ["Backend", "DrawGaussians", "Progress", "counted_from"]

#: Calls back with the number of units done so far.
Progress: TypeAlias = Callable[[int], None]
#: Fills arrays in a backend's memory with standard normals, in the calling thread.
DrawGaussians: TypeAlias = Callable[[Iterable[GaussianDraw]], None]


@dataclass(frozen=True)
class Backend:
    """What a backend can do; `initium.backends.run.run` puts it to work.

    Attributes
    ----------
    name
        As `backend=` takes it.
    devices
        Kinds of device whose memory it fills, such as ``("cpu",)``.
    fill
        ``fill(plan, threads, progress)`` draws the tables of a plan; `threads` and `progress` may be None.
    orthogonal
        ``orthogonal(jobs, draw, threads, progress)`` makes orthogonal matrices of Gaussians that `draw`
        draws.
    write
        ``write(array, destination)`` rounds a NumPy array into memory of the same shape.
    """

    name: str
    devices: tuple[str, ...]
    fill: Callable[[Plan, int | None, Progress | None], None]
    orthogonal: Callable[[Sequence[MatrixJob], DrawGaussians, int | None, Progress | None], None]
    write: Callable[[NDArray[Any], Destination], None]


def counted_from(before: int, progress: Progress | None) -> Progress | None:
    """Return what reports units as if `before` had been done already."""
    return None if progress is None else lambda units: progress(before + units)
