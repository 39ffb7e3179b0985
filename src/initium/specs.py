"""The description of a tensor without values: its name, shape and dtype."""

from __future__ import annotations

import math
from dataclasses import dataclass

from initium import dtypes
from initium.checks import check_name, check_shape

__all__ = ["TensorSpec"]


@dataclass(frozen=True)
class TensorSpec:
    """A named tensor without values.

    Parameters
    ----------
    name
        The tensor's name, which selects its stream.
    shape
        The global shape; ``()`` is a scalar.
    dtype
        Any dtype that `initium.dtypes.stored` takes; stored as initium's name, such as ``"bfloat16"``.

    Raises
    ------
    TypeError
        If `name` is not a string, or `shape` does not hold integers.
    ValueError
        If `name` has no UTF-8 form, a dimension is negative, or `dtype` is unknown.

    Examples
    --------
    >>> import initium as ini
    >>> spec = ini.TensorSpec("fc.weight", (4, 3), "BF16")
    >>> spec.dtype, spec.size, spec.nbytes
    ('bfloat16', 12, 24)
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        check_name(self.name)
        object.__setattr__(self, "shape", check_shape(self.shape))
        object.__setattr__(self, "dtype", dtypes.stored(self.dtype).name)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return dtypes.stored(self.dtype).itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self.itemsize
