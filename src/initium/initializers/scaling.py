"""Variance scaling: one general class, and its special cases under the names of papers and libraries."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from initium.checks import check_choice, check_positive
from initium.fills.base import Fill
from initium.fills.elementwise import TruncatedNormalFill, UniformFill, normal_fill
from initium.initializers.gains import squared_gain
from initium.kernels.float_mode import in_default_mode
from initium.layouts import Fans, Layout, LayoutLike, lookup

__all__ = [
    "TRUNCATED_STD",
    "VarianceScaling",
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
    "xavier_normal",
    "xavier_uniform",
]

#: Standard deviation of a standard normal truncated at 2 sigma; TensorFlow, Keras and JAX divide by it.
TRUNCATED_STD = 0.87962566103423978


Distribution = Literal["uniform", "normal", "truncated_normal"]


_MODES: dict[str, Callable[[Fans], float]] = {
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
        return normal_fill(0.0, std)
    return TruncatedNormalFill(0.0, std / TRUNCATED_STD, -2.0, 2.0)


_DISTRIBUTIONS = ("uniform", "normal", "truncated_normal")


@dataclass(frozen=True)
class VarianceScaling:
    """Zero mean and variance ``scale / n``; n is a fan of the shape.

    Parameters
    ----------
    scale
        Factor of the variance (not of the std), > 0.
    mode
        The definition of n: ``"fan_in"``, ``"fan_out"``, ``"fan_avg"`` or ``"fan_geo_avg"``.
    distribution
        ``"uniform"`` on +-sqrt(3 scale / n), ``"normal"``, or ``"truncated_normal"`` at 2 sigma. The std of
        the latter is corrected, so that the variance **after** truncation is scale / n.
    layout
        ``"out_in"`` (torch), ``"in_out"`` (Keras, JAX) or a `Layout` with explicit axes. Default: the layout
        of the tensor if it is known, else ``"out_in"``.

    Notes
    -----
    As `keras.initializers.VarianceScaling` and `jax.nn.initializers.variance_scaling`; only JAX has
    fan_geo_avg. A fan of zero counts as one, as in Keras; such a weight has no elements.

    Examples
    --------
    >>> import initium as ini
    >>> scaling = ini.VarianceScaling(2.0, "fan_in", "truncated_normal")
    >>> scaling.fans((256, 128))
    Fans(fan_in=128.0, fan_out=256.0)
    >>> fill = scaling.resolve((256, 128))
    >>> print(fill, fill.std)
    truncated_normal(0, 0.142106, -2, 2) 0.125
    """

    scale: float = 1.0
    mode: str = "fan_in"
    distribution: str = "truncated_normal"
    layout: LayoutLike = None

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)
        check_choice("mode", self.mode, tuple(_MODES))
        check_choice("distribution", self.distribution, _DISTRIBUTIONS)
        lookup(self.layout)

    def fans(self, shape: Sequence[int], layout: Layout | None = None) -> Fans:
        """Return the fans of a weight; `layout` is the layout of the tensor if it is known."""
        return lookup(self.layout, layout).fans(shape)

    def resolve(self, shape: Sequence[int], layout: Layout | None = None) -> Fill:
        """Return the fill with variance scale / n."""
        n = _MODES[self.mode](self.fans(shape, layout))
        return _by_std(self.distribution, self.scale / max(1.0, n))


# --- special cases, one line each ---------------------------------------------------------------------------


@in_default_mode
def glorot_uniform(layout: LayoutLike = None, *, gain: float = 1.0) -> VarianceScaling:
    """U(+-gain sqrt(6 / (fan_in + fan_out))).

    Source: Glorot and Bengio 2010, eq. 16 (their normalised initialization).
    Peers: torch xavier_uniform_; Keras GlorotUniform; JAX glorot_uniform.
    """
    return VarianceScaling(check_positive("gain", gain) ** 2, "fan_avg", "uniform", layout)


@in_default_mode
def glorot_normal(layout: LayoutLike = None, *, gain: float = 1.0, truncated: bool = True) -> VarianceScaling:
    """N(0, 2 gain^2 / (fan_in + fan_out)); if `truncated`, at 2 sigma with the std corrected.

    Source: Glorot and Bengio 2010, eq. 12.
    Peers: Keras GlorotNormal; JAX glorot_normal; torch xavier_normal_ (not truncated).
    """
    return VarianceScaling(check_positive("gain", gain) ** 2, "fan_avg", _bell(truncated), layout)


def he_uniform(
    layout: LayoutLike = None, *, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> VarianceScaling:
    """U(+-gain sqrt(3 / n)), with the gain of the nonlinearity; sqrt(2 / (1 + a^2)) for leaky_relu.

    Source: He et al. 2015, section 2.2.
    Peers: torch kaiming_uniform_; Keras HeUniform; JAX he_uniform.
    """
    return VarianceScaling(squared_gain(nonlinearity, a), mode, "uniform", layout)


def he_normal(
    layout: LayoutLike = None,
    *,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    truncated: bool = True,
) -> VarianceScaling:
    """N(0, gain^2 / n); if `truncated`, at 2 sigma with the std corrected.

    The aliases `kaiming_normal` and `msra_normal` truncate, as in JAX. torch's kaiming_normal_ and Caffe's
    MSRAFiller do not truncate; their equivalents are ``truncated=False``,
    `initium.torch.init.kaiming_normal_` and `caffe_msra`.

    Source: He et al. 2015, section 2.2.
    Peers: Keras HeNormal; JAX he_normal; torch kaiming_normal_ (not truncated).
    """
    return VarianceScaling(squared_gain(nonlinearity, a), mode, _bell(truncated), layout)


def lecun_uniform(layout: LayoutLike = None) -> VarianceScaling:
    """U(+-sqrt(3 / fan_in)).

    Source: LeCun et al. 1998, section 4.6.
    Peers: Keras LecunUniform; JAX lecun_uniform.
    """
    return VarianceScaling(1.0, "fan_in", "uniform", layout)


def lecun_normal(layout: LayoutLike = None, *, truncated: bool = True) -> VarianceScaling:
    """N(0, 1 / fan_in); if `truncated`, at 2 sigma with the std corrected.

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
