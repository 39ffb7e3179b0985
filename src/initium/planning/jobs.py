"""Jobs: a fill, a box of a named tensor and its destination."""

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
    """A fill, a box of one tensor and its destination; `job_of` makes one.

    A named tuple, like `Destination`, since a frozen dataclass is slower to construct, and a plan constructs
    one of each per tensor.

    Attributes
    ----------
    name, stream
        The tensor's name, for messages, and its stream; see `initium.stream_id`.
    fill
        The distribution.
    box
        The part of the global shape; `destination` has the shape of the box.
    destination
        The memory that is written.
    """

    name: str
    stream: int
    fill: Fill
    box: Box
    destination: Destination


def job_of(name: str, fill: Fill, box: Box, destination: Destination) -> Job:
    """Return the job that draws a box of the tensor `name`."""
    return Job(name, stream_id(name), fill, box, destination)


@dataclass(frozen=True, eq=False)
class PatternJob:
    """A pattern fill on a window of one tensor."""

    name: str
    stream: int
    fill: PatternFill
    window: Window

    @property
    def units(self) -> int:
        """Units of work, for progress reports."""
        return -(-math.prod(self.window.destination.shape) // T.TILE)
