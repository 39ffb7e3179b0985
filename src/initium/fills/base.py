"""The interface of all fills.

An initializer is the user's choice. Its `resolve` returns a fill, the concrete distribution for one shape. A
fill does not depend on names and seeds.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Protocol, TypeAlias

from initium.dtypes import DType

__all__ = ["Fill", "Real", "check_reach"]

#: A number; a fraction where the exact value matters.
Real: TypeAlias = float | Fraction


class Fill(Protocol):
    """One concrete distribution.

    There are three kinds: `ElementwiseFill` for independent values, `PatternFill`, and `OrthogonalFill`.
    """

    @property
    def mean(self) -> float:
        """Expectation of a value."""
        ...

    @property
    def std(self) -> float:
        """Standard deviation of a value."""
        ...

    def check(self, dtype: DType) -> None:
        """Raise `ValueError` if the dtype cannot hold the distribution."""
        ...


def check_reach(fill: object, reach: Real, dtype: DType) -> None:
    """Raise `ValueError` if magnitudes up to `reach` do not fit the dtype."""
    if reach > dtype.max:
        raise ValueError(f"{fill} overflows dtype {dtype}; expected values of at most {dtype.max:.6g}")
