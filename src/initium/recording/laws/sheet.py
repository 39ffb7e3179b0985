"""From a tape to laws: by which initializers the boxes of a tensor start, where its steps are that simple.

The steps that decide a tensor are run on descriptions in place of values: a `Sheet` lists which initializer
draws which region of a storage. Operations with numbers (times 0.02, plus 1) change the initializer. Where an
operation is not known here, the result is a program: `initium.recording.tape.replay` runs its steps on draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from initium.initializers.basic import Constant, Initializer, Normal, Uniform
from initium.recording.laws.affine import affine, clamped, converted, inverse_erf
from initium.recording.tape.tape import CONSTANT, DRAW, UNDEFINED, Region, Step, Tape, bound

__all__ = ["Entry", "Sheet", "Value", "initializer_of", "sheet_of"]


@dataclass(frozen=True)
class Value:
    """How the elements of a region start.

    Attributes
    ----------
    initializer
        The initializer, with the operations that followed.
    source
        Position of the random step that drew them; None for constants. The element of the region at an index
        comes from the draw at the same index.
    is_negated
        Whether the operations that followed turn the order of the values around.
    """

    initializer: Initializer
    source: int | None = None
    is_negated: bool = False


class Entry(NamedTuple):
    """A region of a storage, and how it starts."""

    region: Region
    value: Value


#: What is known of a storage: entries in the order of writing; None if its values need a program.
Sheet = list[Entry] | None


def sheet_of(tape: Tape, region: Region) -> Sheet:
    """Return how the storage of a region starts; None if a program decides it."""
    reader = _Reader(tape)
    for position in tape.slice(region):
        reader.read(position, tape.steps[position])
    return reader.sheets.get(region.storage, [])


def initializer_of(step: Step) -> Initializer | None:
    """Return the initializer that a random step amounts to; None if there is not one."""
    if step.operation == DRAW:
        return step.arguments[0]  # type: ignore[no-any-return]
    make = _DRAWS.get(step.name)
    return None if make is None else make(bound(step.operation, step.arguments, step.keywords))


def _uniform(low: float, high: float) -> Initializer:
    return Uniform(float(low), float(high)) if low < high else Constant(float(low))


def _normal(a: dict[str, Any]) -> Initializer | None:
    mean, std = a.get("mean", 0.0), a.get("std", 1.0)
    numbers = isinstance(mean, (int, float)) and isinstance(std, (int, float))
    return Normal(float(mean), float(std)) if numbers else None


_DRAWS: dict[str, Callable[[dict[str, Any]], Initializer | None]] = {
    "aten::uniform_": lambda a: _uniform(a["from"], a["to"]),
    "aten::uniform": lambda a: _uniform(a["from"], a["to"]),
    "aten::rand": lambda a: _uniform(0.0, 1.0),
    "aten::rand_like": lambda a: _uniform(0.0, 1.0),
    "aten::normal_": _normal,
    "aten::normal": _normal,
    "aten::normal_functional": _normal,
    "aten::randn": lambda a: Normal(0.0, 1.0),
    "aten::randn_like": lambda a: Normal(0.0, 1.0),
}

_CONSTANTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    **dict.fromkeys(("aten::zeros", "aten::zeros_like", "aten::new_zeros", "aten::zero_"), lambda a: 0.0),
    **dict.fromkeys(("aten::ones", "aten::ones_like", "aten::new_ones"), lambda a: 1.0),
    **dict.fromkeys(("aten::full", "aten::full_like", "aten::new_full"), lambda a: a["fill_value"]),
    "aten::scalar_tensor": lambda a: a["s"],
    "aten::fill_": lambda a: a["value"],
}

_COPIES = frozenset(("aten::clone", "aten::_to_copy", "aten::copy_"))


class _Change(NamedTuple):
    """What an operation does to an initializer, and whether it turns the order of the values around."""

    law: Callable[[Initializer], Initializer | None]
    negates: bool = False

    def of(self, value: Value) -> Value | None:
        """Return the changed value; None if there is no initializer for it."""
        made = self.law(value.initializer)
        if made is None:
            return None
        return replace(value, initializer=made, is_negated=value.is_negated != self.negates)


class _Reader:
    """Reads steps in order; keeps a sheet for each storage."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self.sheets: dict[int, Sheet] = {}

    def read(self, position: int, step: Step) -> None:
        """Read one step."""
        if step.name in UNDEFINED:
            self.sheets[step.writes[0].storage] = []
            return
        if len(step.writes) != 1 or not self._read(position, step, step.writes[0]):
            for region in step.writes:
                self.sheets[region.storage] = None

    def _read(self, position: int, step: Step, written: Region) -> bool:
        """Read a step that writes one region; return whether it is known here."""
        if not written.dtype.is_floating_point:
            return False
        if step.is_random:
            initializer = initializer_of(step)
            return initializer is not None and self._put(written, Value(initializer, position))
        if step.operation == CONSTANT:
            value = step.arguments[0]
            return value.numel() == 1 and not value.isnan() and self._put(written, _constant(value))
        arguments = bound(step.operation, step.arguments, step.keywords)
        if step.name in _CONSTANTS:
            number = self._number(_CONSTANTS[step.name](arguments))
            if number is None or math.isnan(number):
                return False
            return self._put(written, _constant(torch.tensor(number, dtype=written.dtype)))
        if step.name in _COPIES:
            source = arguments["src"] if step.name == "aten::copy_" else arguments["self"]
            change = _Change(lambda i: converted(i, source.dtype, written.dtype))
            return self._carry(source, written, change)
        return self._elementwise(step.name.removeprefix("aten::").rstrip("_"), arguments, written)

    def _elementwise(self, name: str, arguments: dict[str, Any], written: Region) -> bool:
        source = arguments.get("self")
        if not isinstance(source, Region) or source.dtype != written.dtype:
            return False
        change = self._change(name, arguments, written.dtype)
        return change is not None and self._carry(source, written, change)

    def _change(self, name: str, arguments: dict[str, Any], dtype: torch.dtype) -> _Change | None:
        """Return what an operation does to an initializer; None if it is not known here."""
        if name == "neg":
            return _Change(lambda i: affine(i, -1.0, 0.0, dtype), negates=True)
        if name == "erfinv":
            return _Change(inverse_erf)
        if name == "clamp":
            low, high = arguments["min"], arguments["max"]
            if isinstance(low, Region) or isinstance(high, Region):
                return None
            return _Change(lambda i: clamped(i, low, high))
        if name not in ("mul", "div", "add", "sub") or arguments.get("rounding_mode"):
            return None
        number = self._number(arguments["other"])
        if number is None or (name == "div" and number == 0):
            return None
        if name in ("mul", "div"):
            scale = number if name == "mul" else 1.0 / number

            def scaled(i: Initializer) -> Initializer | None:
                if name == "div" and isinstance(i, Constant):
                    return Constant((torch.tensor(i.value, dtype=dtype) / number).double().item())
                return affine(i, scale, 0.0, dtype)

            return _Change(scaled, negates=scale < 0)
        shift = number * float(arguments.get("alpha", 1)) * (1.0 if name == "add" else -1.0)
        exact = arguments.get("alpha", 1) == 1  # the sum of constants

        def shifted(i: Initializer) -> Initializer | None:
            return affine(i, 1.0, shift, dtype) if exact or not isinstance(i, Constant) else None

        return _Change(shifted)

    def _number(self, value: Any) -> float | None:
        """Return an argument as a number: itself, or the value of a tensor of one constant."""
        if isinstance(value, Region):
            known = self._at(value) if value.size == 1 else None
            return known.initializer.value if known and isinstance(known.initializer, Constant) else None
        return float(value) if isinstance(value, (int, float)) else None

    def _at(self, region: Region) -> Value | None:
        """Return how a region starts, if one entry says it."""
        sheet = self.sheets.get(region.storage)
        if not sheet:
            return None
        entry = sheet[-1]
        if entry.region.dtype != region.dtype:
            return None
        is_constant = isinstance(entry.value.initializer, Constant) and self._tape.covers(entry.region)
        return entry.value if entry.region == region or is_constant else None

    def _put(self, region: Region, value: Value) -> bool:
        """Set how a region starts; return whether that can be said."""
        sheet = self.sheets.get(region.storage, [])
        if self._tape.covers(region):
            sheet = []
        elif sheet is None or not region.is_simple:
            return False
        self.sheets[region.storage] = [*(e for e in sheet if e.region != region), Entry(region, value)]
        return True

    def _carry(self, source: Region, written: Region, change: _Change) -> bool:
        """Set how a region starts: as another one (or itself), changed; return whether that can be said."""
        sheet = self.sheets.get(source.storage)
        if not sheet or any(entry.region.dtype != source.dtype for entry in sheet):
            return False
        if not self._tape.covers(source) or not self._tape.covers(written):
            known = self._at(source)
            made = None if known is None else change.of(known)
            if made is None or source.shape != written.shape:
                return False
            return self._put(written, made)
        if (source.shape, source.strides) != (written.shape, written.strides):
            return False
        entries = []
        for entry in sheet:
            made = change.of(entry.value)
            if made is None:
                return False
            moved = entry.region._replace(
                storage=written.storage,
                offset=entry.region.offset - source.offset + written.offset,
                dtype=written.dtype,
            )
            entries.append(Entry(moved, made))
        self.sheets[written.storage] = entries
        return True


def _constant(number: Tensor) -> Value:
    """Return a constant as a tensor of its dtype holds it."""
    return Value(Constant(number.double().item()))
