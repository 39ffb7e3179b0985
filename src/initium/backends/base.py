"""The interface of a backend: a record of functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from numpy.typing import NDArray

from initium.memory.destination import Destination
from initium.planning.matrices import GaussianDraw, MatrixJob
from initium.planning.plan import Plan

__all__ = ["Backend", "DrawGaussians", "Progress", "counted_from"]

#: A function that is called with the number of units done so far.
Progress: TypeAlias = Callable[[int], None]
#: A function that fills arrays in a backend's memory with standard normals, in the calling thread.
DrawGaussians: TypeAlias = Callable[[Iterable[GaussianDraw]], None]


@dataclass(frozen=True)
class Backend:
    """The functions of a backend, which `initium.backends.run.run` calls.

    Attributes
    ----------
    name
        The value of `backend=`.
    devices
        The kinds of device whose memory it fills, such as ``("cpu",)``.
    fill
        ``fill(plan, threads, progress)`` draws the tables of a plan; `threads` and `progress` may be None.
    orthogonal
        ``orthogonal(jobs, draw, threads, progress)`` computes orthogonal matrices from Gaussians; `draw`
        draws the Gaussians.
    write
        ``write(array, destination)`` writes a NumPy array, rounded to the dtype, to memory of its shape.
    """

    name: str
    devices: tuple[str, ...]
    fill: Callable[[Plan, int | None, Progress | None], None]
    orthogonal: Callable[[Sequence[MatrixJob], DrawGaussians, int | None, Progress | None], None]
    write: Callable[[NDArray[Any], Destination], None]


def counted_from(before: int, progress: Progress | None) -> Progress | None:
    """Return a progress function that adds `before` to the units it reports."""
    return None if progress is None else lambda units: progress(before + units)
