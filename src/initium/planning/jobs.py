"""Jobs: a fill on a box of a named tensor, and where it goes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from initium.fills.base import Fill
from initium.fills.patterns import PatternFill
from initium.kernels import table as T
from initium.memory.destination import Destination
from initium.planning.streams import stream_id
from initium.regions.boxes import Box
from initium.regions.windows import Window

__all__ = ["Job", "PatternJob", "job_of"]


class Job(NamedTuple):
    """A fill on a box of one tensor, and where it goes; `job_of` makes one.

    A tuple, as `Destination` is: a plan of 10,000 tensors makes as many of each, and a frozen dataclass
    takes several times as long to make.

    Attributes
    ----------
    name, stream
        The tensor's name, for messages, and the stream that it stands for, see `initium.stream_id`.
    fill
        The distribution.
    box
        The part of the global shape; `destination` has its shape.
    destination
        The memory that is written.
    """

    name: str
    stream: int
    fill: Fill
    box: Box
    destination: Destination


def job_of(name: str, fill: Fill, box: Box, destination: Destination) -> Job:
    """Return the job that draws a box of the tensor of that name."""
    return Job(name, stream_id(name), fill, box, destination)


@dataclass(frozen=True, eq=False)
class PatternJob:
    """A window of one tensor that takes a pattern."""

    name: str
    stream: int
    fill: PatternFill
    window: Window

    @property
    def units(self) -> int:
        """Units of work, as progress counts them."""
        return -(-math.prod(self.window.destination.shape) // T.TILE)
