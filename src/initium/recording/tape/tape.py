"""The tape: which operations wrote which memory while a model's own code ran on the meta device.

A meta tensor has a shape and no data. Its storage still identifies the memory that it stands for, so a tensor
is a `Region` of a storage, and an operation is a `Step` that reads and writes regions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

__all__ = ["CONSTANT", "DRAW", "UNDEFINED", "Region", "Step", "Tape", "bound", "map_tensors", "tensors_in"]

#: Steps besides operations of torch: a tensor with known values, and a draw of an initializer.
CONSTANT, DRAW = "constant", "draw"

#: Operations that make memory without values.
UNDEFINED = frozenset(
    f"aten::{name}"
    for name in (
        "empty",
        "empty_like",
        "empty_permuted",
        "empty_strided",
        "new_empty",
        "new_empty_strided",
    )
)
#: In-place operations that read nothing of the tensor that they write, besides the random ones.
_OVERWRITING = frozenset(("aten::fill_", "aten::zero_", "aten::copy_"))


class Region(NamedTuple):
    """The elements of a storage that a tensor shows.

    Attributes
    ----------
    storage
        Number of the storage on its tape.
    shape, strides, offset
        Extents, and steps and offset in elements.
    dtype
        The dtype of torch.
    """

    storage: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def is_dense(self) -> bool:
        """Whether the elements fill one range of memory, each element once, in any order of the axes."""
        expected = 1
        for step, extent in sorted((s, n) for s, n in zip(self.strides, self.shape, strict=True) if n != 1):
            if step != expected:
                return 0 in self.shape
            expected *= extent
        return True

    @property
    def is_simple(self) -> bool:
        """Whether each element has its own place, in the order of the axes or in another one."""
        return all(step > 0 or n == 1 for step, n in zip(self.strides, self.shape, strict=True))


@dataclass(frozen=True, eq=False)
class Step:
    """One operation on the tape.

    Attributes
    ----------
    operation
        The operation of torch, or `CONSTANT` or `DRAW`.
    arguments, keywords
        Its arguments, with regions in place of tensors; of a constant the tensor, of a draw the initializer.
    reads, writes
        The regions that it reads, and those that it writes: outputs and arguments that it changes.
    outputs
        New tensors, in the order of the operation's outputs; None for an output that is not one.
    """

    operation: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    reads: tuple[Region, ...]
    writes: tuple[Region, ...]
    outputs: tuple[Region | None, ...] = ()

    @property
    def name(self) -> str:
        """The name of the operation, without its overload, such as ``"aten::normal_"``."""
        return self.operation if isinstance(self.operation, str) else self.operation._schema.name

    @property
    def is_random(self) -> bool:
        """Whether the operation draws random values."""
        if isinstance(self.operation, str):
            return self.operation == DRAW
        return torch.Tag.nondeterministic_seeded in self.operation.tags

    @property
    def overwrites(self) -> bool:
        """Whether what the operation writes depends on nothing that was there before."""
        if self.operation == CONSTANT or self.is_random or self.name in _OVERWRITING:
            return True
        return all(region in self.outputs for region in self.writes)


class _Shared(NamedTuple):
    """Memory that code may change through NumPy, and its values at the last look."""

    region: Region
    memory: Tensor
    seen: Tensor


@dataclass(eq=False)
class Tape:
    """Steps in the order in which they ran, and the storages that they use."""

    steps: list[Step] = field(default_factory=list)
    _storages: list[Any] = field(default_factory=list)  # keeps the identities below from being used again
    _numbers: dict[int, int] = field(default_factory=dict)
    _writers: list[list[int]] = field(default_factory=list)  # positions of the steps that write each storage
    #: Memory that code may change through NumPy, by storage.
    shared: dict[int, list[_Shared]] = field(default_factory=dict)
    #: Storages with data that code loads from files, with those that stand for them.
    loaded: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    #: Registered tensors by id, with how often each was changed when the recording ended.
    versions: dict[int, tuple[Any, int]] = field(default_factory=dict)
    #: The last error of the recording.
    failure: Exception | None = None

    def knows(self, tensor: Tensor) -> bool:
        """Return whether a tensor is on this tape."""
        return tensor.untyped_storage()._cdata in self._numbers

    def region(self, tensor: Tensor) -> Region:
        """Return the region of a tensor; its storage gets a number if it has none."""
        storage = tensor.untyped_storage()
        number = self._numbers.get(storage._cdata)
        if number is None:
            number = self._numbers[storage._cdata] = len(self._storages)
            self._storages.append(storage)
            self._writers.append([])
        return Region(number, tuple(tensor.shape), tensor.stride(), tensor.storage_offset(), tensor.dtype)

    def nbytes(self, storage: int) -> int:
        """Return the size of a storage."""
        return int(self._storages[storage].nbytes())

    def covers(self, region: Region) -> bool:
        """Return whether a region is its whole storage."""
        return region.is_dense and region.size * region.dtype.itemsize == self.nbytes(region.storage)

    def append(self, step: Step) -> None:
        """Add a step."""
        position = len(self.steps)
        self.steps.append(step)
        for storage in {region.storage for region in step.writes}:
            self._writers[storage].append(position)

    def constant(self, value: Tensor) -> Tensor:
        """Record a tensor with known values, and return the meta tensor that stands for it."""
        kept = value.detach().clone(memory_format=torch.preserve_format)
        made = torch.empty_strided(kept.shape, kept.stride(), dtype=kept.dtype, device="meta")
        self.append(Step(CONSTANT, (kept,), {}, (), (self.region(made),), ()))
        return made

    def is_changed(self, tensor: Tensor) -> bool:
        """Return whether an operation has changed a registered tensor since the recording ended."""
        known, version = self.versions.get(id(tensor), (None, 0))
        return known is not None and known() is tensor and tensor._version != version

    def share(self, region: Region, memory: Tensor) -> None:
        """Remember that code may change the values of a region through memory outside the tape."""
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            memory = memory.detach()
            self.shared.setdefault(region.storage, []).append(_Shared(region, memory, memory.clone()))

    def update(self, storages: Iterable[int] | None = None) -> None:
        """Record what code has changed through NumPy in some storages, or in all."""
        looked_at = self.shared.keys() if storages is None else self.shared.keys() & set(storages)
        if not looked_at:
            return
        with torch.no_grad(), _disable_current_modes(), torch._C.DisableTorchFunction():
            for shared in (shared for storage in looked_at for shared in self.shared[storage]):
                if not torch.equal(shared.memory, shared.seen):
                    shared.seen.copy_(shared.memory)
                    self.append(Step(CONSTANT, (shared.memory.clone(),), {}, (), (shared.region,), ()))

    def draw(self, tensor: Tensor, initializer: Any) -> None:
        """Record that an initializer draws a tensor."""
        self.append(Step(DRAW, (initializer,), {}, (), (self.region(tensor),), ()))

    def slice(self, region: Region) -> list[int]:
        """Return the positions of the steps that decide the values of a region, in order."""
        found: set[int] = set()
        seen: set[tuple[int, int]] = set()
        waiting = [(region.storage, len(self.steps))]
        while waiting:
            storage, before = looked_at = waiting.pop()
            if looked_at in seen:
                continue
            seen.add(looked_at)
            for position in self._back(storage, before):
                if position not in found:
                    found.add(position)
                    waiting += [(read.storage, position) for read in self.steps[position].reads]
        return sorted(found)

    def _back(self, storage: int, before: int) -> Iterator[int]:
        """Yield the steps that write a storage, backwards, up to one that overwrites all of it."""
        for position in reversed(self._writers[storage]):
            if position >= before:
                continue
            yield position
            step = self.steps[position]
            if step.overwrites and any(r.storage == storage and self.covers(r) for r in step.writes):
                return


def bound(operation: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """Return the arguments of an operation of torch by name, with its default values."""
    declared = operation._schema.arguments
    given = dict(zip((argument.name for argument in declared), args, strict=False)) | dict(kwargs)
    return {a.name: given.get(a.name, a.default_value) for a in declared}


def tensors_in(values: Any) -> list[Tensor]:
    """Return the tensors in nested arguments."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def map_tensors(function: Any, values: Any) -> Any:
    """Return nested arguments with each tensor replaced."""
    return tree_map_only(Tensor, function, values)
