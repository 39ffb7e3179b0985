"""Fills of independent values: words, constants, uniform and normal, and their parameters in a job row.

`encode` returns the numbers that kernels read, for one fill and one dtype.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from initium.checks import check_finite, check_number, check_std
from initium.dtypes import DTYPES, DType
from initium.fills import normal_tails
from initium.fills.base import Real, check_reach
from initium.kernels import coefficients
from initium.kernels import table as T

__all__ = [
    "ConstantFill",
    "ElementwiseFill",
    "Encoding",
    "TruncatedNormalFill",
    "UniformFill",
    "WordsFill",
    "normal_fill",
]


class Encoding(NamedTuple):
    """The input of a kernel: the kind, one 64-bit number and the row of parameters."""

    kind: str
    integer: int
    parameters: tuple[float, ...]


class ElementwiseFill:
    """A fill in which each value depends on its own index only; kernels draw it."""

    @property
    def mean(self) -> float:
        """Expectation of a value."""
        raise NotImplementedError

    @property
    def std(self) -> float:
        """Standard deviation of a value."""
        raise NotImplementedError

    def encode(self, dtype: DType) -> Encoding:
        """Return the input of the kernel; raise `ValueError` if the dtype cannot hold the distribution."""
        raise NotImplementedError

    def check(self, dtype: DType) -> None:
        """Raise `ValueError` if the dtype cannot hold the distribution."""
        self.encode(dtype)


# --- the affine map ---------------------------------------------------------------------------------------

_F32, _F64 = DTYPES["float32"], DTYPES["float64"]


def _arithmetic(dtype: DType) -> DType:
    return _F64 if dtype.word_bits == 64 else _F32


def _next(value: float, real: DType) -> Fraction:
    """Return the `real` number above `value`; above the largest, the number that rounding assumes there."""
    above = real.above(value)
    return Fraction(above) if above < math.inf else 2 * Fraction(value) - Fraction(real.below(value))


def _rounds_inside(exact: Fraction, low: float, high: float, real: DType) -> bool:
    """Return whether the `real` value nearest to `exact` is in [low, high]; both are `real` values."""
    above, below = _next(high, real), -_next(-low, real)
    # A tie rounds to the even neighbour, which may be outside, so it counts as outside.
    return below + Fraction(low) < 2 * exact < above + Fraction(high)


def _affine(
    scale: Fraction, offset: Fraction, reach: Fraction, low: float, high: float, real: DType
) -> tuple[float, float]:
    """Return `real` (scale, offset) such that ``fma(+-reach, scale, offset)`` rounds into [low, high].

    Usually these are the nearest values of scale and offset. If an extreme rounds out of the interval (as for
    [0, 1)), the offset decreases by one unit in the last place. If this does not help, the scale decreases.
    """

    def fits(scale: float, offset: float) -> bool:
        top = Fraction(scale) * reach
        return all(_rounds_inside(Fraction(offset) + e, low, high, real) for e in (top, -top))

    near_scale, near_offset = real.round_to_nearest(float(scale)), real.round_to_nearest(float(offset))
    if fits(near_scale, near_offset):
        return near_scale, near_offset
    lower = real.below(near_offset)
    if fits(near_scale, lower):
        return near_scale, lower
    middle = min(max(near_offset, low), high)
    room = min(Fraction(high) - Fraction(middle), Fraction(middle) - Fraction(low))
    return min(near_scale, real.at_most(room / reach)), middle


def _row(values: dict[int, float]) -> tuple[float, ...]:
    row = [0.0] * T.JOB_PARAMETERS
    for place, value in values.items():
        row[place] = value
    return tuple(row)


def _inside(fill: ElementwiseFill, low: Real, high: Real, dtype: DType) -> tuple[float, float]:
    """Return the smallest and largest value of `dtype` in [low, high]; raise if there is none."""
    # A bound of zero has the sign of its side, so that selections and min/max instructions agree.
    least, most = dtype.at_least(low) or -0.0, dtype.at_most(high) or 0.0
    if least > most:
        raise ValueError(
            f"{fill} holds no value of dtype {dtype}; expected a wider interval or a finer dtype"
        )
    return least, most


# --- words ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WordsFill(ElementwiseFill):
    """The words of the stream, written to memory of 32 bits per element.

    Attributes
    ----------
    first_block
        Block that holds element zero.
    """

    first_block: int = 0

    @property
    def mean(self) -> float:
        """Expectation of a word."""
        return (2.0**32 - 1) / 2

    @property
    def std(self) -> float:
        """Standard deviation of a word."""
        return math.sqrt((2.0**64 - 1) / 12)

    def encode(self, dtype: DType) -> Encoding:
        """Return the first block; only the width of the dtype matters."""
        if dtype.itemsize != 4:
            raise ValueError(f"words have 32 bits; expected memory of 4 bytes per element, not {dtype}")
        return Encoding(T.WORDS, self.first_block, _row({}))


# --- constant ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConstantFill(ElementwiseFill):
    """Every value is `value`, rounded once to the dtype."""

    value: float

    def __post_init__(self) -> None:
        check_number("value", self.value)

    def __str__(self) -> str:
        return f"constant({self.value:g})"

    @property
    def mean(self) -> float:
        """Expectation of a value."""
        return self.value

    @property
    def std(self) -> float:
        """Standard deviation: zero."""
        return 0.0

    def encode(self, dtype: DType) -> Encoding:
        """Return the bit pattern; raise `ValueError` if a finite value overflows the dtype."""
        if math.isfinite(self.value):
            check_reach(self, abs(self.value), dtype)
        with np.errstate(over="ignore"):
            source = np.float64(self.value) if dtype.word_bits == 64 else np.float32(self.value)
            item = np.asarray(source).astype(dtype.numpy)
        if math.isinf(self.value) and not np.isinf(item.astype(np.float64)):
            raise ValueError(f"{self} does not exist in dtype {dtype}; expected a finite value")
        return Encoding(T.CONSTANT, int.from_bytes(item.tobytes(), _byte_order()), _row({}))


def _byte_order() -> Literal["little", "big"]:
    """Return the byte order of this machine, as `int.from_bytes` names it."""
    return "little" if np.dtype("<u2").isnative else "big"


# --- uniform ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UniformFill(ElementwiseFill):
    """Uniform on [low, high)."""

    low: float
    high: float

    def __post_init__(self) -> None:
        low, high = check_finite("low", self.low), check_finite("high", self.high)
        if low >= high:
            raise ValueError(f"low={low} is not below high={high}; expected low < high")

    def __str__(self) -> str:
        return f"uniform({self.low:g}, {self.high:g})"

    @property
    def mean(self) -> float:
        """Middle of the interval."""
        return self.low / 2 + self.high / 2

    @property
    def std(self) -> float:
        """Width over sqrt(12)."""
        return (self.high / 2 - self.low / 2) / math.sqrt(3.0)

    def encode(self, dtype: DType) -> Encoding:
        """Return scale and offset for the signed odd integers of `kernels/*/uniform`."""
        return _encode_uniform(self, dtype)


@lru_cache(maxsize=4096)
def _encode_uniform(fill: UniformFill, dtype: DType) -> Encoding:
    check_reach(fill, max(-fill.low, fill.high), dtype)
    real = _arithmetic(dtype)
    low, high = real.at_least(fill.low), real.below(fill.high)
    least, most = dtype.at_least(fill.low) or -0.0, dtype.below(fill.high) or 0.0
    if low > high or least > most:
        raise ValueError(
            f"{fill} holds no value of dtype {dtype}; expected a wider interval or a finer dtype"
        )
    # Integers (word >> k | 1) << k: 25 signed bits of 32, 54 of 64.
    reach = (1 << 31) - (1 << 7) if real is _F32 else (1 << 63) - (1 << 10)
    scale = (Fraction(fill.high) - Fraction(fill.low)) / (1 << real.word_bits)
    tiny = Fraction(float(np.finfo(real.numpy).tiny))
    if scale < tiny:
        least_width = float(tiny * (1 << real.word_bits))
        raise ValueError(f"{fill} is too narrow for {real} arithmetic; expected a width >= {least_width:.3g}")
    middle = (Fraction(fill.high) + Fraction(fill.low)) / 2
    near_scale, offset = _affine(scale, middle, Fraction(reach), low, high, real)
    return Encoding(T.UNIFORM, 0, _row({T.SCALE: near_scale, T.OFFSET: offset, T.LOW: least, T.HIGH: most}))


# --- normal -----------------------------------------------------------------------------------------------

# The largest draw with two tails: its tail probability is at least 2**-33 (32-bit words) or 2**-65.
_FARTHEST = {32: 6.35, 64: 9.27}
# For one tail from `near` on: a draw exceeds z with a probability of at most exp((near**2 - z**2) / 2).
_FARTHEST_OF_ONE = {32: 6.77, 64: 9.5}
# The quantile has an error of up to 4 ulp. A support that is smaller by more than this stays in its bounds.
_INSET = 1 - 2.0**-21
# With smaller symmetric bounds, the float32 steps are subnormal, and values have errors of 5 ulp.
_LEAST_FLOAT32_BOUND = 2.0**-96
# With smaller bounds, the step of a word may be subnormal in float64.
_LEAST_BOUND = 2.0**-900
# The square of a larger bound overflows.
_GREATEST_BOUND = 2.0**512 * (1 - 2.0**-20)


@dataclass(frozen=True)
class TruncatedNormalFill(ElementwiseFill):
    """Normal with `location` and `scale`, truncated to [location + lower scale, location + upper scale].

    Parameters
    ----------
    location, scale
        Mean and standard deviation of the normal distribution before truncation.
    lower, upper
        Bounds in units of `scale`; an infinite bound leaves its side open.
    """

    location: float = 0.0
    scale: float = 1.0
    lower: float = -math.inf
    upper: float = math.inf

    def __post_init__(self) -> None:
        check_finite("mean", self.location)
        check_std("std", self.scale)
        lower, upper = check_number("lower", self.lower), check_number("upper", self.upper)
        if lower >= upper:
            raise ValueError(f"lower={lower} is not below upper={upper}; expected lower < upper")
        if lower == math.inf or upper == -math.inf:
            raise ValueError(f"lower={lower}, upper={upper} leave no interval; expected a finite inner bound")

    def __str__(self) -> str:
        if self.lower == -math.inf and self.upper == math.inf:
            return f"normal({self.location:g}, {self.scale:g})"
        return f"truncated_normal({self.location:g}, {self.scale:g}, {self.lower:g}, {self.upper:g})"

    @property
    def mean(self) -> float:
        """Expectation after truncation."""
        mean, _ = normal_tails.moments(self.lower, self.upper)
        with normal_tails.exact():
            return float(Decimal(self.location) + Decimal(self.scale) * mean)

    @property
    def std(self) -> float:
        """Standard deviation after truncation."""
        _, std = normal_tails.moments(self.lower, self.upper)
        with normal_tails.exact():
            return float(Decimal(self.scale) * std)

    @property
    def bounds(self) -> tuple[Real, Real]:
        """The exact interval, in the units of the values."""
        return tuple(  # type: ignore[return-value]
            Fraction(self.location) + Fraction(self.scale) * Fraction(b) if math.isfinite(b) else b
            for b in (self.lower, self.upper)
        )

    def encode(self, dtype: DType) -> Encoding:
        """Return the parameters of the cheapest kernel that draws this distribution."""
        return _encode_normal(self, dtype)


def normal_fill(mean: float = 0.0, std: float = 1.0) -> TruncatedNormalFill:
    """Return the normal fill without bounds."""
    return TruncatedNormalFill(mean, std)


@lru_cache(maxsize=4096)
def _encode_normal(fill: TruncatedNormalFill, dtype: DType) -> Encoding:
    if fill.scale == 0:
        return ConstantFill(fill.location).encode(dtype)
    reach = _reach(fill, dtype.word_bits)
    least, most = (Fraction(fill.location) + Fraction(fill.scale) * Fraction(z) for z in reach)
    check_reach(fill, max(-least, most), dtype)
    low, high = _inside(fill, *fill.bounds, dtype)
    if max(fill.lower, -fill.upper) > _GREATEST_BOUND:
        return ConstantFill(_inner_bound(fill, low, high)).encode(dtype)
    with normal_tails.exact():
        if dtype.word_bits == 32 and fill.lower == -fill.upper and _suits_float32(fill):
            return _encode_symmetric(fill, low, high)
        return _encode_bounded(fill, low, high, dtype.word_bits)


def _reach(fill: TruncatedNormalFill, word_bits: int) -> tuple[float, float]:
    """Return an interval that contains all draws, in units of sigma."""
    farthest = _FARTHEST[word_bits]
    if fill.lower > -farthest / 2 or fill.upper < farthest / 2:
        farthest = math.hypot(max(fill.lower, -fill.upper, 0.0), _FARTHEST_OF_ONE[word_bits])
    return max(fill.lower, -farthest), min(fill.upper, farthest)


def _inner_bound(fill: TruncatedNormalFill, low: float, high: float) -> float:
    """Return the bound next to the mean, in [low, high]; beyond 1e8 sigma all draws round to it."""
    bound = fill.bounds[0 if fill.lower > 0 else 1]
    return min(max(float(bound), low), high)


def _suits_float32(fill: TruncatedNormalFill) -> bool:
    return fill.upper >= _LEAST_FLOAT32_BOUND and fill.scale <= _F32.max


def _float32(value: Decimal | float) -> float:
    return float(np.float32(float(value)))


def _encode_symmetric(fill: TruncatedNormalFill, low: float, high: float) -> Encoding:
    inset = fill.upper * _INSET
    outside, kept = 2 * normal_tails.tail(inset), normal_tails.mass(-inset, inset)
    lower, upper = fill.bounds
    if lower < -_F32.max or upper > _F32.max:  # no draw is so large, see `check_reach`
        scale, offset = _F32.round_to_nearest(fill.scale), _F32.round_to_nearest(fill.location)
    else:
        low32, high32 = (_F32.at_least(lower), _F32.at_most(upper))
        reach = Fraction(fill.upper)
        scale, offset = _affine(Fraction(fill.scale), Fraction(fill.location), reach, low32, high32, _F32)
    central = fill.upper <= T.CENTRAL_SIGMAS
    x_scale = coefficients.NORMAL32_CENTRAL_X_SCALE if central else coefficients.NORMAL32_WIDE_X_SCALE
    x_step = Decimal(x_scale) * kept / (1 << 31)
    h_step = kept / (1 << 32)
    return Encoding(
        T.CENTRAL_NORMAL if central else T.NORMAL,
        0,
        _row(
            {
                T.SCALE: scale,
                T.OFFSET: offset,
                T.LOW: low,
                T.HIGH: high,
                T.X_STEP: _float32(x_step),
                T.X_START: _float32(x_step / 2),
                T.H_STEP: _float32(h_step),
                T.H_START: _float32(outside / 2 + h_step / 2),
            }
        ),
    )


def _encode_bounded(fill: TruncatedNormalFill, low: float, high: float, word_bits: int) -> Encoding:
    words = 1 << word_bits
    scale, lower, upper = fill.scale, fill.lower, fill.upper
    if upper <= 0:  # use the mirror image on the positive side
        scale, lower, upper = -scale, -upper, -lower
    if max(-lower, upper) < _LEAST_BOUND:  # the density is constant: the same distribution in smaller units
        scale, lower, upper = scale * 2.0**-500, lower * 2.0**500, upper * 2.0**500
    if lower >= 0:
        positive, sides = words, {T.POSITIVE: _side(lower, upper, words)}
    else:
        right, left = normal_tails.mass(0.0, upper), normal_tails.mass(0.0, -lower)
        positive = min(max(int((words * right / (right + left)).to_integral_value()), 1), words - 1)
        sides = {
            T.POSITIVE: _side(0.0, upper, positive),
            T.NEGATIVE: _side(0.0, -lower, words - positive),
        }
    row = {T.SCALE: scale, T.OFFSET: fill.location, T.LOW: low, T.HIGH: high}
    for start, side in sides.items():
        row.update({start + place: value for place, value in side.items()})
    return Encoding(T.BOUNDED_NORMAL, positive - 1, _row(row))


def _side(near: float, far: float, words: int) -> dict[int, float]:
    """Return the parameters of `words` words over [near, far], in sigma, on the positive side."""
    ratio_start = normal_tails.beyond(near, far)
    ratio_step = normal_tails.within(near, far) / words
    x_scale = 2 * Decimal(coefficients.NORMAL64_WIDE_X_SCALE)
    x_start, x_step = x_scale * normal_tails.mass(0.0, near), x_scale * normal_tails.mass(near, far) / words
    return {
        T.SIDE_X_STEP: float(x_step),
        T.SIDE_X_START: float(x_start + x_step / 2),
        T.SIDE_RATIO_STEP: float(ratio_step),
        T.SIDE_RATIO_START: float(ratio_start + ratio_step / 2),
        T.SIDE_H_REFERENCE: float(normal_tails.tail(near)),
        T.SIDE_W_REFERENCE: float(normal_tails.depth(near)),
    }
