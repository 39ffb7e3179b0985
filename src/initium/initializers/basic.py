"""Initializers: what the user asks for. Here are the protocol, constants, and the plain distributions.

`Initializer.resolve` turns an initializer into a fill, the concrete distribution, for one shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from initium.checks import check_finite, check_number, check_std
from initium.fills.base import Fill
from initium.fills.elementwise import ConstantFill, TruncatedNormalFill, UniformFill, normal_fill
from initium.initializers.filters import ConstantArray
from initium.layouts import Layout

__all__ = [
    "Constant",
    "Initializer",
    "Normal",
    "TruncatedNormal",
    "Uniform",
    "constant",
    "ones",
    "zeros",
]


@runtime_checkable
class Initializer(Protocol):
    """Anything that can say which distribution a weight of some shape takes."""

    def resolve(self, shape: Sequence[int], layout: Layout | None = None) -> Fill:
        """Return the fill for a weight.

        Parameters
        ----------
        shape
            The **global** shape, never a shard's.
        layout
            The layout of the tensor, where it is known; it counts where the initializer leaves its own open.
        """
        ...


@dataclass(frozen=True)
class Constant:
    """Every weight is `value`."""

    value: float = 0.0

    def __post_init__(self) -> None:
        check_number("value", self.value)

    def resolve(self, shape: Sequence[int], layout: Layout | None = None) -> Fill:
        """Return the constant fill."""
        return ConstantFill(float(self.value))


@dataclass(frozen=True)
class Uniform:
    """Uniform on [low, high)."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        UniformFill(self.low, self.high)

    def resolve(self, shape: Sequence[int], layout: Layout | None = None) -> Fill:
        """Return the uniform fill."""
        return UniformFill(float(self.low), float(self.high))


@dataclass(frozen=True)
class Normal:
    """Normal with `mean` and standard deviation `std`."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        check_finite("mean", self.mean)
        check_std("std", self.std)

    def resolve(self, shape: Sequence[int], layout: Layout | None = None) -> Fill:
        """Return the normal fill."""
        return normal_fill(float(self.mean), float(self.std))


@dataclass(frozen=True)
class TruncatedNormal:
    """Normal, conditioned on an interval.

    Parameters
    ----------
    mean, std
        Of the normal **before** truncation.
    lower, upper
        Bounds in units of `std` from `mean`, or values themselves if `absolute`; infinite ones leave that
        side open.
    absolute
        Whether the bounds are values, as in ``torch.nn.init.trunc_normal_(a=, b=)``.
    """

    mean: float = 0.0
    std: float = 1.0
    lower: float = -2.0
    upper: float = 2.0
    absolute: bool = False

    def __post_init__(self) -> None:
        self.resolve(())

    def resolve(self, shape: Sequence[int], layout: Layout | None = None) -> Fill:
        """Return the truncated normal fill, with its bounds in units of `std`."""
        lower, upper = check_number("lower", self.lower), check_number("upper", self.upper)
        mean, std = check_finite("mean", self.mean), check_std("std", self.std)
        if self.absolute:
            if lower >= upper:
                raise ValueError(f"lower={lower} is not below upper={upper}; expected lower < upper")
            if std == 0:
                if not lower <= mean <= upper:
                    raise ValueError(
                        f"std=0 and mean={mean} lies outside [{lower}, {upper}]; expected std > 0"
                    )
                return ConstantFill(mean)
            lower, upper = -_sigmas_within(-lower, -mean, std), _sigmas_within(upper, mean, std)
        return TruncatedNormalFill(mean, std, lower, upper)


def _sigmas_within(bound: float, mean: float, std: float) -> float:
    """Return the distance of an upper bound from the mean in units of std, rounded to stay within it."""
    sigmas = (bound - mean) / std
    while math.isfinite(sigmas) and Fraction(mean) + Fraction(std) * Fraction(sigmas) > bound:
        sigmas = math.nextafter(sigmas, -math.inf)
    return sigmas


def zeros() -> Constant:
    """0.

    Peers: torch zeros_; Keras Zeros; JAX zeros.
    """
    return Constant(0.0)


def ones() -> Constant:
    """1.

    Peers: torch ones_; Keras Ones; JAX ones.
    """
    return Constant(1.0)


def constant(value: float | NDArray[Any]) -> Constant | ConstantArray:
    """`value`: a number, or an array that broadcasts to the shape.

    Peers: torch constant_; Keras Constant; JAX constant; Caffe ConstantFiller.
    """
    return ConstantArray(value) if np.ndim(value) else Constant(value)  # type: ignore[arg-type]
