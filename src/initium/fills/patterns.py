"""Pattern fills: values that depend on their index along each axis, computed by NumPy in pieces.

A fill that is neither elementwise nor orthogonal derives from `PatternFill` and implements `array`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initium.dtypes import DTYPES, DType
from initium.fills.base import Fill, check_reach
from initium.fills.elementwise import WordsFill
from initium.memory.destination import packed_steps
from initium.regions.boxes import Box

__all__ = ["LINES", "Draw", "PatternFill", "by_blocks"]

#: Largest number of lines in a block, for fills that read all values of a line.
LINES = 1 << 16


@dataclass(frozen=True)
class Draw:
    """Random values of one tensor's stream, for patterns that contain random values.

    Attributes
    ----------
    stream, seed
        Stream and seed of the tensor. Two draws with the same stream and seed give the same values.
    sample
        ``sample(fill, box, dtype)`` returns an array on the CPU.
    """

    stream: int
    seed: int
    sample: Callable[[Fill, Box, DType], NDArray[Any]] = field(compare=False)

    def __call__(
        self, fill: Fill, shape: tuple[int, ...], index: tuple[range, ...], dtype: DType
    ) -> NDArray[Any]:
        """Return the values of `fill` on a global shape at ``np.ix_(*index)``; no range is empty."""
        strides = packed_steps(shape)
        start = sum(along.start * stride for along, stride in zip(index, strides, strict=True))
        steps = tuple(along.step * stride for along, stride in zip(index, strides, strict=True))
        return self.sample(fill, Box(tuple(map(len, index)), start, steps), dtype)

    def words(
        self, shape: tuple[int, ...], index: tuple[range, ...], first_block: int = 0
    ) -> NDArray[np.uint32]:
        """Return one word for each element."""
        return self(WordsFill(first_block), shape, index, DTYPES["float32"]).view(np.uint32)


def by_blocks(lines: range, block: int, of_block: Callable[[int], NDArray[Any]]) -> NDArray[Any]:
    """Return one value per line; ``of_block(first)`` returns the values of `block` lines from `first` on."""
    wanted = np.array(lines)
    numbers, where = np.unique(wanted // block, return_inverse=True)
    found = [of_block(int(number) * block) for number in numbers]
    starts = np.cumsum([0, *(len(values) for values in found)])
    values: NDArray[Any] = np.concatenate(found)[starts[where] + wanted % block]
    return values


class PatternFill:
    """A fill that computes an array for each part of its shape.

    Attributes
    ----------
    shape
        The global shape.
    mean, std
        Mean and standard deviation over all values of the tensor.
    """

    shape: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Mean of all values."""
        raise NotImplementedError

    @property
    def std(self) -> float:
        """Standard deviation of all values."""
        raise NotImplementedError

    @property
    def reach(self) -> float:
        """Largest magnitude of a value, which the dtype must hold."""
        raise NotImplementedError

    def array(self, index: tuple[range, ...], dtype: DType, draw: Draw) -> NDArray[Any]:
        """Return the values at ``np.ix_(*index)``, in any real dtype; the caller rounds them to `dtype`.

        A value may depend only on its own index, on `dtype` and on `draw`, so that a slice equals the same
        slice of the whole.
        """
        raise NotImplementedError

    def check(self, dtype: DType) -> None:
        """Raise `ValueError` if values overflow the dtype."""
        check_reach(self, self.reach, dtype)
