"""Runs: parts of a tensor in row-major order, for tensors that several fills make up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from initium.dtypes import DType
from initium.fills.base import Fill
from initium.planning.jobs import Job

__all__ = ["Composite", "Run"]


@dataclass(frozen=True)
class Run:
    """Elements [start, stop) of a tensor, in row-major order, with one fill.

    Attributes
    ----------
    start, stop
        The elements.
    fill
        The distribution.
    name
        The name of the stream.
    first
        The element that has index 0 of the stream.
    """

    start: int
    stop: int
    fill: Fill
    name: str
    first: int = 0


@runtime_checkable
class Composite(Protocol):
    """What takes the place of a fill where several fills, or a program, make up a tensor."""

    def check(self, dtype: DType) -> None:
        """Raise `ValueError` if the dtype cannot hold the values."""
        ...

    def runs(self) -> list[Run] | None:
        """Return the runs that make up the tensor, in order; None if runs do not make it up."""
        ...

    def values(self, dtype: str, draw: Callable[[list[Job]], None]) -> NDArray[Any]:
        """Return all values in row-major order, in a dtype; `draw` draws jobs."""
        ...
