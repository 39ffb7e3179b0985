"""How one tensor of a recorded model starts: initializers for boxes of it, or a program over draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from initium import dtypes
from initium.dtypes import DType
from initium.fills.base import Fill
from initium.initializers.basic import Constant, Initializer
from initium.layouts import Layout
from initium.memory.arrays import destination_of
from initium.planning.jobs import Job, job_of
from initium.planning.runs import Run
from initium.recording.laws.boxes import Bounds, size_of
from initium.recording.laws.random_steps import SOURCES, of_parts
from initium.recording.laws.sheet import initializer_of
from initium.recording.tape.errors import RecordingError
from initium.recording.tape.replay import replay
from initium.recording.tape.tape import Region, Step, Tape
from initium.regions.boxes import box_of, whole

__all__ = ["DrawJobs", "Given", "Piece", "Program", "Start"]

#: Draws jobs.
DrawJobs = Callable[[list[Job]], None]


@dataclass(frozen=True)
class Given:
    """An initializer with a fill that is known already."""

    fill: Fill

    def resolve(self, shape: Sequence[int], layout: Layout | None = None) -> Fill:
        """Return the fill."""
        return self.fill


@dataclass(frozen=True)
class Piece:
    """A box of a tensor with one initializer.

    Attributes
    ----------
    box
        First index and last index + 1 along each axis.
    shape
        The shape that the initializer is asked for: that of the box, perhaps without axes of one element.
    initializer
        How the box starts.
    name
        The name of the stream.
    is_own
        Whether the values are those of a tensor of its own with this shape, such as an orthogonal matrix. If
        not, they are those at the same indices of the whole tensor.
    """

    box: Bounds
    shape: tuple[int, ...]
    initializer: Initializer
    name: str = ""
    is_own: bool = False


@dataclass(frozen=True, eq=False)
class Program:
    """Steps of a tape that compute a tensor from constants and draws.

    Attributes
    ----------
    tape, region
        The tape, and the region of the tensor.
    names
        The names of the streams of the random steps, by position.
    """

    tape: Tape
    region: Region
    names: Mapping[int, str]

    def __str__(self) -> str:
        names = [step.name.removeprefix("aten::") for step in self._steps]
        drawn = sum(step.is_random for step in self._steps)
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        return f"program({shown})" if drawn else f"values({shown})"

    @property
    def is_random(self) -> bool:
        """Whether the values depend on the seed."""
        return bool(self.names)

    @property
    def _steps(self) -> list[Step]:
        return [self.tape.steps[position] for position in self.tape.slice(self.region)]

    def run(self, draw: DrawJobs, fill: int = 0xFF) -> Tensor:
        """Return the values: a new tensor on the CPU; `draw` draws the random steps. See `replay`."""

        def of_step(position: int, step: Step, arguments: dict[str, Any]) -> Sequence[Tensor]:
            region, name = step.writes[0], self.names[position]
            initializer = initializer_of(step)
            if region.dtype.is_complex and (parts := of_parts(initializer)) is not None:
                drawn = _drawn(draw, parts, (*region.shape, 2), region.dtype.to_real(), name)
                return [torch.view_as_complex(drawn)]
            if initializer is not None:
                return [_drawn(draw, initializer, region.shape, region.dtype, name)]
            kind, compute = SOURCES[step.name]
            source = _drawn(draw, kind, region.shape, torch.float64, name)
            return [compute(source, arguments).to(region.dtype)]

        return replay(self.tape, self.region, of_step, fill)


@dataclass(frozen=True, eq=False)
class Start:
    """How one tensor starts.

    Attributes
    ----------
    name, shape, dtype
        Name, shape and dtype of the tensor.
    pieces
        Disjoint boxes that cover the tensor; empty if a program computes it.
    program
        The program, or None.
    tied_to
        The first name of the same tensor, or None.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: tuple[Piece, ...] = ()
    program: Program | None = None
    tied_to: str | None = None

    def __str__(self) -> str:
        if self.tied_to is not None:
            return f"tied to {self.tied_to}"
        if self.program is not None:
            return str(self.program)
        if not self.pieces:
            return "no elements"
        if len(self.pieces) == 1:
            return _text(self.pieces[0].initializer, self.pieces[0].shape)
        laws: dict[str, list[str]] = {}
        for piece in self.pieces:
            laws.setdefault(_text(piece.initializer, piece.shape), []).append(_slices(piece.box, self.shape))
        return "; ".join(
            f"{law} at {', '.join(where[:3])}{', ...' * (len(where) > 3)}" for law, where in laws.items()
        )

    @property
    def is_random(self) -> bool:
        """Whether the values depend on the seed."""
        if self.program is not None:
            return self.program.is_random
        return any(not isinstance(piece.initializer, Constant) for piece in self.pieces)

    @property
    def has_constant_boxes(self) -> bool:
        """Whether some boxes are constant, and others are not."""
        constant = [isinstance(piece.initializer, Constant) for piece in self.pieces]
        return any(constant) and not all(constant)

    @property
    def mean(self) -> float:
        """Mean of a value; NaN if the tensor has several laws or a program."""
        return self._fill.mean if self._fill is not None else math.nan

    @property
    def std(self) -> float:
        """Standard deviation of a value; NaN if the tensor has several laws or a program."""
        return self._fill.std if self._fill is not None else math.nan

    @property
    def _fill(self) -> Fill | None:
        if len(self.pieces) != 1:
            return None
        return self.pieces[0].initializer.resolve(self.pieces[0].shape)

    def check(self, dtype: DType) -> None:
        """Raise `ValueError` if the dtype cannot hold the distribution."""
        for piece in self.pieces:
            piece.initializer.resolve(piece.shape).check(dtype)

    def jobs(self, tensor: Tensor) -> list[Job]:
        """Return the jobs that draw what needs no program in a tensor of this shape."""
        return [self._job(piece, tensor) for piece in self.pieces]

    def _job(self, piece: Piece, tensor: Tensor) -> Job:
        part = tensor[tuple(slice(first, end) for first, end in piece.box)] if piece.box else tensor
        if piece.is_own:
            part, shape, box = part.view(piece.shape), piece.shape, whole(piece.shape)
        else:
            shape, box = self.shape, box_of(self.shape, tuple(slice(*ends) for ends in piece.box))
        fill = piece.initializer.resolve(shape)
        destination = destination_of(part, "params", self.name)
        fill.check(destination.dtype)
        return job_of(piece.name, fill, box, destination)

    def computed(self, draw: DrawJobs) -> Tensor:
        """Return the values of the program: a new tensor on the CPU.

        Raises
        ------
        RecordingError
            If the program reads memory without values.
        """
        assert self.program is not None
        values = self.program.run(draw)
        # NaN may be memory without values, or a value that the code sets.
        unknown = values.isnan()
        if unknown.any() and not unknown.equal(self.program.run(draw, fill=0).isnan()):
            raise RecordingError(f"{self.name}: {self.program} reads memory that no operation has written")
        return values

    def runs(self) -> list[Run] | None:
        """Return the runs that make up the tensor; None if runs do not make it up. See `Composite`."""
        if self.program is not None:
            return None
        runs = []
        for piece in self.pieces:
            span = _span(piece.box, self.shape)
            if span is None:
                return None
            fill = piece.initializer.resolve(piece.shape if piece.is_own else self.shape)
            runs.append(Run(*span, fill, piece.name, span[0] if piece.is_own else 0))
        return sorted(runs, key=lambda run: run.start)

    def values(self, dtype: str, draw: DrawJobs) -> NDArray[Any]:
        """Return all values in row-major order, in a dtype. See `Composite`."""
        made = torch.empty(self.shape, dtype=getattr(torch, dtype))
        if self.program is not None:
            made.copy_(self.computed(draw))
        else:
            draw(self.jobs(made))
        values: NDArray[Any] = made.reshape(-1).view(torch.uint8).numpy()
        return values.view(dtypes.stored(dtype).numpy)


def _drawn(
    draw: DrawJobs, initializer: Initializer, shape: tuple[int, ...], dtype: torch.dtype, name: str
) -> Tensor:
    made = torch.empty(shape, dtype=dtype)
    draw([job_of(name, initializer.resolve(shape), whole(shape), destination_of(made))])
    return made


def _span(box: Bounds, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return the first element of a box and the one after its last; None if others lie between."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    first = sum(begin * stride for (begin, _), stride in zip(box, strides, strict=True))
    stop = 1 + sum((end - 1) * stride for (_, end), stride in zip(box, strides, strict=True))
    return (first, stop) if stop - first == size_of(box) else None


def _text(initializer: Initializer, shape: tuple[int, ...]) -> str:
    return str(initializer.resolve(shape))


def _slices(box: Bounds, shape: tuple[int, ...]) -> str:
    parts = []
    for (first, end), extent in zip(box, shape, strict=True):
        whole = (first, end) == (0, extent)
        parts.append(":" if whole else str(first) if end == first + 1 else f"{first}:{end}")
    while len(parts) > 1 and parts[-1] == ":":
        parts.pop()
    return f"[{', '.join(parts)}]"
