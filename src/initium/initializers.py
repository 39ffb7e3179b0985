"""Initializers: what the user asks for; `resolve` turns one into a fill for one shape.

One general class per family and one-line specialisations; aliases by assignment.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from initium import fans as _fans
from initium.checks import check_choice, check_finite, check_number, check_positive, check_std
from initium.fills import ConstantFill, Fill, NormalFill, TruncatedNormalFill, UniformFill
from initium.filters import ConstantArray
from initium.gains import squared_gain

__all__ = [
    "Constant",
    "Initializer",
    "Normal",
    "TruncatedNormal",
    "Uniform",
    "VarianceScaling",
    "constant",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "msra_normal",
    "msra_uniform",
    "ones",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]

#: Standard deviation of a standard normal truncated at 2 sigmas; tf, Keras and JAX divide by it.
TRUNCATED_STD = 0.87962566103423978


@runtime_checkable
class Initializer(Protocol):
    """Anything that can say which distribution a weight of some shape takes."""

    def resolve(self, shape: Sequence[int], fans: _fans.Fans | None = None) -> Fill:
        """Return the fill for a weight.

        Parameters
        ----------
        shape
            The **global** shape, never a shard's.
        fans
            Fans that override those read off the shape.
        """
        ...


@dataclass(frozen=True)
class Constant:
    """Every weight is `value`."""

    value: float = 0.0

    def __post_init__(self) -> None:
        check_number("value", self.value)

    def resolve(self, shape: Sequence[int], fans: _fans.Fans | None = None) -> Fill:
        """Return the constant fill."""
        return ConstantFill(float(self.value))


@dataclass(frozen=True)
class Uniform:
    """Uniform on [low, high)."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        UniformFill(self.low, self.high)

    def resolve(self, shape: Sequence[int], fans: _fans.Fans | None = None) -> Fill:
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

    def resolve(self, shape: Sequence[int], fans: _fans.Fans | None = None) -> Fill:
        """Return the normal fill."""
        return NormalFill(float(self.mean), float(self.std))


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

    def resolve(self, shape: Sequence[int], fans: _fans.Fans | None = None) -> Fill:
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


Mode = Literal["fan_in", "fan_out", "fan_avg", "fan_geo_avg"]
Distribution = Literal["uniform", "normal", "truncated_normal"]

_MODES: dict[str, Callable[[_fans.Fans], float]] = {
    "fan_in": lambda fans: fans.fan_in,
    "fan_out": lambda fans: fans.fan_out,
    "fan_avg": lambda fans: (fans.fan_in + fans.fan_out) / 2,
    "fan_geo_avg": lambda fans: math.sqrt(fans.fan_in * fans.fan_out),
}


def _by_std(distribution: str, variance: float) -> Fill:
    if distribution == "uniform":
        bound = math.sqrt(3.0 * variance)
        return UniformFill(-bound, bound)
    std = math.sqrt(variance)
    if distribution == "normal":
        return NormalFill(0.0, std)
    return TruncatedNormalFill(0.0, std / TRUNCATED_STD, -2.0, 2.0)


_DISTRIBUTIONS = ("uniform", "normal", "truncated_normal")


@dataclass(frozen=True)
class VarianceScaling:
    """Zero mean, variance ``scale / n`` with n read off the shape.

    Parameters
    ----------
    scale
        Factor of the variance (not of the std), > 0.
    mode
        What n is: ``"fan_in"``, ``"fan_out"``, ``"fan_avg"`` or ``"fan_geo_avg"``.
    distribution
        ``"uniform"`` on +-sqrt(3 scale / n), ``"normal"``, or ``"truncated_normal"`` at two sigmas, its std
        corrected so that the variance **after** truncation is scale / n.
    layout
        ``"out_in"`` (torch), ``"in_out"`` (Keras, JAX) or a `Layout` of explicit axes.

    Notes
    -----
    As `keras.initializers.VarianceScaling` and `jax.nn.initializers.variance_scaling`; fan_geo_avg is
    JAX's. A fan of zero counts as one, as in Keras; the weight has no elements then.
    """

    scale: float = 1.0
    mode: str = "fan_in"
    distribution: str = "truncated_normal"
    layout: str | _fans.Layout = "out_in"

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)
        check_choice("mode", self.mode, tuple(_MODES))
        check_choice("distribution", self.distribution, _DISTRIBUTIONS)
        _fans.lookup(self.layout)

    def fans(self, shape: Sequence[int]) -> _fans.Fans:
        """Return the fans of a weight of this layout."""
        return _fans.lookup(self.layout).fans(shape)

    def resolve(self, shape: Sequence[int], fans: _fans.Fans | None = None) -> Fill:
        """Return the fill of variance scale / n."""
        n = _MODES[self.mode](fans if fans is not None else self.fans(shape))
        return _by_std(self.distribution, self.scale / max(1.0, n))


# --- one-line specialisations -------------------------------------------------------------------------------

Layout = str | _fans.Layout


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


def glorot_uniform(layout: Layout = "out_in", *, gain: float = 1.0) -> VarianceScaling:
    """U(+-gain sqrt(6 / (fan_in + fan_out))).

    Source: Glorot and Bengio 2010, eq. 16 (their normalised initialization).
    Peers: torch xavier_uniform_; Keras GlorotUniform; JAX glorot_uniform.
    """
    return VarianceScaling(check_positive("gain", gain) ** 2, "fan_avg", "uniform", layout)


def glorot_normal(layout: Layout = "out_in", *, gain: float = 1.0, truncated: bool = True) -> VarianceScaling:
    """N(0, 2 gain^2 / (fan_in + fan_out)); cut at 2 sigmas with the std corrected, unless not `truncated`.

    Source: Glorot and Bengio 2010, eq. 12.
    Peers: Keras GlorotNormal; JAX glorot_normal; torch xavier_normal_ (not truncated).
    """
    return VarianceScaling(check_positive("gain", gain) ** 2, "fan_avg", _bell(truncated), layout)


def he_uniform(
    layout: Layout = "out_in", *, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> VarianceScaling:
    """U(+-gain sqrt(3 / n)), with the gain of the nonlinearity, for leaky_relu sqrt(2 / (1 + a^2)).

    Source: He et al. 2015, section 2.2.
    Peers: torch kaiming_uniform_; Keras HeUniform; JAX he_uniform.
    """
    return VarianceScaling(squared_gain(nonlinearity, a), mode, "uniform", layout)


def he_normal(
    layout: Layout = "out_in",
    *,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    truncated: bool = True,
) -> VarianceScaling:
    """N(0, gain^2 / n); cut at 2 sigmas with the std corrected, unless not `truncated`.

    Under the names `kaiming_normal` and `msra_normal` too, as in JAX: truncated. torch's kaiming_normal_ and
    Caffe's MSRAFiller do not truncate: that is ``truncated=False``, `initium.torch.init.kaiming_normal_`
    and `caffe_msra`.

    Source: He et al. 2015, section 2.2.
    Peers: Keras HeNormal; JAX he_normal; torch kaiming_normal_ (not truncated).
    """
    return VarianceScaling(squared_gain(nonlinearity, a), mode, _bell(truncated), layout)


def lecun_uniform(layout: Layout = "out_in") -> VarianceScaling:
    """U(+-sqrt(3 / fan_in)).

    Source: LeCun et al. 1998, section 4.6.
    Peers: Keras LecunUniform; JAX lecun_uniform.
    """
    return VarianceScaling(1.0, "fan_in", "uniform", layout)


def lecun_normal(layout: Layout = "out_in", *, truncated: bool = True) -> VarianceScaling:
    """N(0, 1 / fan_in); cut at 2 sigmas with the std corrected, unless not `truncated`.

    Source: LeCun et al. 1998, section 4.6; Klambauer et al. 2017 for SELU.
    Peers: Keras LecunNormal; JAX lecun_normal.
    """
    return VarianceScaling(1.0, "fan_in", _bell(truncated), layout)


def _bell(truncated: bool) -> Distribution:
    return "truncated_normal" if truncated else "normal"


xavier_uniform = glorot_uniform
xavier_normal = glorot_normal
kaiming_uniform = msra_uniform = he_uniform
kaiming_normal = msra_normal = he_normal
