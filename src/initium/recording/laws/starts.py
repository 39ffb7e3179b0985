"""How the tensors of a recorded model start: the law of each, and which of them share draws."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from initium.initializers.basic import Constant, Normal, TruncatedNormal, Uniform
from initium.recording.laws.boxes import Bounds, box_in, disjoint, extents, size_of
from initium.recording.laws.random_steps import SOURCES, of_parts
from initium.recording.laws.sheet import Entry, initializer_of, sheet_of
from initium.recording.laws.start import Piece, Program, Start
from initium.recording.tape.errors import RecordingError
from initium.recording.tape.tape import Region, Step, Tape

__all__ = ["starts_of"]

#: Initializers whose value at an index does not depend on the shape.
_ELEMENTWISE = (Constant, Normal, TruncatedNormal, Uniform)
#: More boxes than this in one tensor are left to a program.
_MOST_BOXES = 1024


def starts_of(tape: Tape, tensors: Mapping[str, Tensor]) -> dict[str, Start]:
    """Return how each tensor of a recorded model starts.

    Parameters
    ----------
    tape
        The record of the model's construction.
    tensors
        Its parameters and buffers, on the meta device, by name; tied ones under each name.

    Raises
    ------
    RecordingError
        If the record does not say how a tensor starts; the message names all such tensors, with the reason.
    """
    for name, tensor in tensors.items():
        if tensor.is_conj() or tensor.is_neg():
            raise RecordingError(f"{name} is a lazy conjugate or negative; expected .resolve_conj()")
    regions = {name: tape.region(tensor) for name, tensor in tensors.items()}
    tied = _tied(tape, regions)
    reader = _Laws(tape)
    for name, region in regions.items():
        if name not in tied:
            reader.read(name, region)
    if reader.reasons:
        listed = "; ".join(f"{name}: {reason}" for name, reason in reader.reasons.items())
        raise RecordingError(f"how these tensors start is not known: {listed}")
    made = reader.starts()
    return {
        name: made.get(name) or Start(name, region.shape, region.dtype, tied_to=tied[name])
        for name, region in regions.items()
    }


def _tied(tape: Tape, regions: Mapping[str, Region]) -> dict[str, str]:
    """Return {later name: first name} of tensors in the same memory; the first one covers the others."""
    first: dict[Region, str] = {}
    shared: dict[int, list[Region]] = {}
    for name, region in regions.items():
        if region not in first:
            first[region] = name
            shared.setdefault(region.storage, []).append(region)
    tied = {name: first[region] for name, region in regions.items() if first[region] != name}
    for parts in shared.values():
        whole = next((part for part in parts if tape.covers(part)), None)
        if len(parts) > 1 and whole is None and not _are_apart(parts):
            names = " and ".join(first[part] for part in parts[:2])
            raise RecordingError(f"{names} share memory in part; expected separate or tied tensors")
        for part in parts:
            if whole is not None and part != whole:
                tied |= {name: first[whole] for name, region in regions.items() if region == part}
    return tied


def _are_apart(parts: Sequence[Region]) -> bool:
    """Return whether regions of one storage, in the order of memory, end before the next begins."""
    spans = sorted((p.offset * p.dtype.itemsize, _end(p) * p.dtype.itemsize) for p in parts)
    return all(end <= begin for (_, end), (begin, _) in pairwise(spans))


def _end(region: Region) -> int:
    """Return the place after a region's last element."""
    if not region.size:
        return region.offset
    return region.offset + 1 + sum((n - 1) * s for n, s in zip(region.shape, region.strides, strict=True))


class _Use(NamedTuple):
    """Which elements of a tensor come from a random step, and which of its draws they are.

    Two tensors of one layout whose uses are equal are equal.
    """

    source: int
    is_negated: bool
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    boxes: tuple[Bounds, ...]


class _Law(NamedTuple):
    """The law of a tensor that needs no program: a piece for each box, and the random steps that it uses."""

    pieces: tuple[Piece, ...]
    uses: tuple[_Use, ...]

    @property
    def sources(self) -> frozenset[int]:
        """The positions of the random steps."""
        return frozenset(use.source for use in self.uses)

    def is_drawn_by(self, step: Step, region: Region) -> bool:
        """Return whether the tensor is the draw of one step, as it was drawn."""
        drawn, initializer = step.writes[0], initializer_of(step)
        if [piece.initializer for piece in self.pieces] != [initializer] or len(self.uses) != 1:
            return False
        use = self.uses[0]
        layout = region.shape, region.strides, 0, region.dtype
        return (
            not use.is_negated
            and layout == (use.shape, use.strides, use.offset, drawn.dtype)
            and layout[:2] == (drawn.shape, drawn.strides)
        )


class _Laws:
    """Reads the law of each tensor, then names the streams of those that share draws."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._regions: dict[str, Region] = {}
        self._laws: dict[str, _Law | None] = {}
        self._users: dict[int, list[str]] = {}  # names of the tensors that use each random step
        self.reasons: dict[str, str] = {}

    def read(self, name: str, region: Region) -> None:
        """Read the law of a tensor, or the reason why there is none."""
        self._regions[name] = region
        try:
            self._laws[name] = law = _law(self._tape, region)
        except _WithoutValuesError as error:
            self._laws[name], self.reasons[name] = None, str(error)
            return
        if law is not None:
            sources: Iterable[int] = law.sources
        else:
            steps = {position: self._tape.steps[position] for position in self._tape.slice(region)}
            reason = _refused(steps.values())
            if reason:
                self.reasons[name] = reason
            sources = [position for position, step in steps.items() if step.is_random]
        for position in sources:
            self._users.setdefault(position, []).append(name)

    def starts(self) -> dict[str, Start]:
        """Return the starts; draws that several tensors share get one name."""
        while self._separated():
            pass
        # The stream of a random step has the name of the first tensor that it draws by a law.
        owners: dict[int, str] = {}
        for name, law in self._laws.items():
            for position in law.sources if law is not None else ():
                owners.setdefault(position, name)
        return {name: self._start(name, owners) for name in self._regions}

    def _separated(self) -> bool:
        """Leave to programs what shares a draw with a tensor that uses it in another way; return if any."""
        changed = False
        for position, names in self._users.items():
            laws = {(self._laws[name], self._regions[name]._replace(storage=0, offset=0)) for name in names}
            if len(laws) == 1:
                continue
            for name in names:
                law = self._laws[name]
                if law is not None and not law.is_drawn_by(self._tape.steps[position], self._regions[name]):
                    self._laws[name], changed = None, True
        return changed

    def _start(self, name: str, owners: dict[int, str]) -> Start:
        region, law = self._regions[name], self._laws[name]
        if law is None:
            program = Program(self._tape, region, self._streams(name, region, owners))
            return Start(name, region.shape, region.dtype, program=program)
        stream = owners[min(law.sources)] if law.sources else name
        pieces = [
            replace(piece, name=f"{stream}#{number}" if piece.is_own and len(law.pieces) > 1 else stream)
            for number, piece in enumerate(law.pieces)
        ]
        return Start(name, region.shape, region.dtype, tuple(pieces))

    def _streams(self, name: str, region: Region, owners: dict[int, str]) -> dict[int, str]:
        """Return the names of the streams of a program's random steps."""
        streams: dict[int, str] = {}
        for position in self._tape.slice(region):
            if not self._tape.steps[position].is_random:
                continue
            if position not in owners:
                number = sum(stream.partition("#")[0] == name for stream in streams.values())
                owners[position] = f"{name}#{number}" if number else name
            streams[position] = owners[position]
        return streams


class _WithoutValuesError(ValueError):
    """A tensor has elements that no step writes."""


def _refused(steps: Iterable[Step]) -> str | None:
    """Return why a program cannot compute a tensor; None if it can."""
    for step in steps:
        if not step.is_random:
            continue
        if initializer_of(step) is None and step.name not in SOURCES:
            return f"initium does not draw as {step.name} does"
        if any(not _can_draw(step, written.dtype) for written in step.writes):
            return f"{step.name} draws values of {step.writes[0].dtype}"
    return None


def _can_draw(step: Step, dtype: torch.dtype) -> bool:
    """Return whether a program can draw what a random step draws in a dtype."""
    initializer = initializer_of(step)
    if dtype.is_complex and initializer is not None:
        return dtype != torch.complex32 and of_parts(initializer) is not None
    return dtype.is_floating_point or (step.name in SOURCES and not dtype.is_complex)


def _law(tape: Tape, region: Region) -> _Law | None:
    """Return the law of a tensor; None if it needs a program.

    Raises
    ------
    _WithoutValuesError
        If the steps leave elements without values.
    """
    if not region.size:
        return _Law((), ())
    sheet = sheet_of(tape, region)
    if sheet is None or len(sheet) > _MOST_BOXES or not region.is_simple:
        return None
    boxes = [_box(tape, region, entry) for entry in sheet]
    if any(box is None for box in boxes):
        return None
    known = [box for box in boxes if box is not None]
    left = disjoint(known)
    if sum(size_of(box) for rest in left for box in rest) != region.size:
        raise _WithoutValuesError("the model's own code leaves it, or a part of it, without values")
    used = [(rest, box, entry) for rest, box, entry in zip(left, known, sheet, strict=True) if rest]
    uses = tuple(
        _Use(
            entry.value.source,
            entry.value.is_negated,
            entry.region.shape,
            entry.region.strides,
            entry.region.offset - region.offset,
            tuple(rest),
        )
        for rest, _, entry in used
        if entry.value.source is not None and not isinstance(entry.value.initializer, Constant)
    )
    if len({use.source for use in uses}) != len(uses):
        return None  # one draw is in several places
    initializers = {entry.value.initializer for _, _, entry in used}
    if len(initializers) == 1 and isinstance(first := initializers.pop(), _ELEMENTWISE):
        return _Law((Piece(_everything(region), region.shape, first),), uses)
    pieces = []
    for rest, box, entry in used:
        initializer = entry.value.initializer
        is_own = not isinstance(initializer, _ELEMENTWISE)
        if is_own and rest != [box]:
            return None  # overwritten in part
        shape = entry.region.shape if is_own else None
        pieces += [Piece(b, shape or extents(b), initializer, is_own=is_own) for b in rest]
    return _Law(tuple(pieces), uses)


def _box(tape: Tape, region: Region, entry: Entry) -> Bounds | None:
    """Return the box of a tensor that an entry describes; None if it is not a box, or in another order."""
    drawn, initializer = entry.region, entry.value.initializer
    if drawn.dtype != region.dtype:
        return None
    if isinstance(initializer, Constant) and tape.covers(drawn):
        return _everything(region)
    if isinstance(initializer, _ELEMENTWISE) and tape.covers(drawn) and tape.covers(region):
        return _everything(region)
    box = box_in(region, drawn)
    if box is None or isinstance(initializer, _ELEMENTWISE):
        return box
    order = (
        [n for n in drawn.shape if n != 1],
        [s for s, n in zip(drawn.strides, drawn.shape, strict=True) if n != 1],
    )
    kept = [(n, s) for n, s in zip(extents(box), region.strides, strict=True) if n != 1]
    return box if order == ([n for n, _ in kept], [s for _, s in kept]) else None


def _everything(region: Region) -> Bounds:
    return tuple((0, extent) for extent in region.shape)
