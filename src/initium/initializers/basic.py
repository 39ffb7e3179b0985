"""The protocol of initializers, constants, and the basic distributions.

`Initializer.resolve` returns the fill for one shape: the concrete distribution.
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
    """An object that returns the distribution for a weight of any shape.

    Examples
    --------
    A class with `resolve` is an initializer:

    >>> import initium as ini
    >>> class Shrinking:
    ...     def resolve(self, shape, layout=None):
    ...         return ini.Normal(0.0, 1.0 / len(shape)).resolve(shape, layout)
    >>> isinstance(Shrinking(), ini.Initializer)
    True
    >>> ini.initialize(Shrinking(), (1, 3), seed=7, name="w")
    array([[ 0.19490063,  0.6056405 , -0.4829781 ]], dtype=float32)
    """

    def resolve(self, shape: Sequence[int], layout: Layout | None = None) -> Fill:
        """Return the fill for a weight.

        Parameters
        ----------
        shape
            The **global** shape, not the shape of a shard.
        layout
            The layout of the tensor if it is known. It is used if the initializer has no layout.
        """
        ...


@dataclass(frozen=True)
class Constant:
    """Every weight is `value`.

    Examples
    --------
    >>> import initium as ini
    >>> ini.initialize(ini.Constant(0.5), 3, seed=0)
    array([0.5, 0.5, 0.5], dtype=float32)
    """

    value: float = 0.0

    def __post_init__(self) -> None:
        check_number("value", self.value)

    def resolve(self, shape: Sequence[int], layout: Layout | None = None) -> Fill:
        """Return the constant fill."""
        return ConstantFill(float(self.value))


@dataclass(frozen=True)
class Uniform:
    """Uniform on [low, high).

    Examples
    --------
    >>> import initium as ini
    >>> ini.initialize(ini.Uniform(-1.0, 1.0), 3, seed=7, name="w")
    array([ 0.30331653,  0.7742123 , -0.6659339 ], dtype=float32)
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        UniformFill(self.low, self.high)

    def resolve(self, shape: Sequence[int], layout: Layout | None = None) -> Fill:
        """Return the uniform fill."""
        return UniformFill(float(self.low), float(self.high))


@dataclass(frozen=True)
class Normal:
    """Normal with mean `mean` and standard deviation `std`.

    Examples
    --------
    >>> import initium as ini
    >>> ini.initialize(ini.Normal(0.0, 0.02), 3, seed=7, name="w")
    array([ 0.00779602,  0.02422562, -0.01931912], dtype=float32)
    """

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
    """Normal, truncated to an interval.

    Parameters
    ----------
    mean, std
        Mean and standard deviation of the normal distribution **before** truncation.
    lower, upper
        Bounds: distances from `mean` in units of `std`, or values if `absolute`. An infinite bound leaves its
        side open.
    absolute
        Whether the bounds are values, as in ``torch.nn.init.trunc_normal_(a=, b=)``.

    Examples
    --------
    >>> import initium as ini
    >>> ini.initialize(ini.TruncatedNormal(0.0, 0.02, -2.0, 2.0), 3, seed=7, name="w")
    array([ 0.00742411,  0.02247992, -0.01814153], dtype=float32)
    >>> print(ini.TruncatedNormal(0.0, 0.02, -0.04, 0.04, absolute=True).resolve((4, 3)))
    truncated_normal(0, 0.02, -2, 2)
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
                    raise ValueError(f"std=0 and mean={mean} is outside [{lower}, {upper}]; expected std > 0")
                return ConstantFill(mean)
            lower, upper = -_sigmas_within(-lower, -mean, std), _sigmas_within(upper, mean, std)
        return TruncatedNormalFill(mean, std, lower, upper)


def _sigmas_within(bound: float, mean: float, std: float) -> float:
    """Return the distance of an upper bound from the mean in units of std, rounded so as not to exceed it."""
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
