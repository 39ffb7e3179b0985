"""The normal distribution on the host, in decimal arithmetic: tails, masses of intervals, moments.

The values that kernels draw depend on the bounds of truncation, so every platform must compute the same bits.
`math.erfc` and `math.log` differ between C libraries in the last place; `decimal` does not.

Bounds are floats, so two bounds differ by at least 2**-53 of the larger one. `_centre` near the mean, `tail`
away from the mean, and `depth` have a relative accuracy of 60 digits. So a difference of two of their values
loses 17 digits and keeps 40. For differences of tails, use `mass`, `within` or `moments`. Do not subtract
tails: near the mean the difference has no correct digit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from decimal import Context, Decimal, localcontext
from functools import lru_cache, wraps
from typing import TypeVar, cast

__all__ = ["beyond", "depth", "exact", "mass", "moments", "tail", "within"]

_Function = TypeVar("_Function", bound=Callable[..., object])

_CONTEXT = Context(prec=80, Emin=-(10**17), Emax=10**17)
_GUARD = Decimal(10) ** -77
_HALF = Decimal("0.5")
# From this distance on, the continued fraction costs less than the series.
_SERIES_LIMIT = 5.0
# Up to this y, the terms of fourth order are below the last digit of 1 - y.
_SMALL = Decimal(10) ** -20
# From here on, floats have a distance of 2**-23, and the density decreases by e**-64 from one to the next.
# The distribution is exponential: the far bound and the curvature (1 in 2**58) do not change its moments.
_EXPONENTIAL = 2.0**29
# exp(-z**2 / 2) is zero in _CONTEXT.
_NO_DENSITY = 1e9
# Terms in `_narrow_moments`. Their bound (1/2)**n / n!, for pairs of terms, is below 1e-80 from here on.
_NARROW_TERMS = 108


def exact() -> AbstractContextManager[Context]:
    """Return the decimal context for all arithmetic on tails, independent of the caller's context."""
    return localcontext(_CONTEXT)


def _pi() -> Decimal:
    """Return pi by the iteration of Gauss and Legendre, in the current context."""
    a, b, t, p = Decimal(1), 1 / Decimal(2).sqrt(), Decimal("0.25"), Decimal(1)
    for _ in range(6):  # the digits double: 6 rounds give over 160
        a, b, t, p = (a + b) / 2, (a * b).sqrt(), t - p * ((a - b) / 2) ** 2, 2 * p
    return (a + b) ** 2 / (4 * t)


def _decimal(function: _Function) -> _Function:
    """Return the function with the context `exact()` and a cache."""

    @lru_cache(maxsize=4096)
    @wraps(function)
    def wrapper(*args: float) -> object:
        with exact():
            return function(*args)

    return cast(_Function, wrapper)


# --- tails --------------------------------------------------------------------------------------------------


@_decimal
def _log_sqrt_2_pi() -> Decimal:
    return (2 * _pi()).ln() / 2


def _density_log(z: float) -> Decimal:
    point = Decimal(z)
    return -point * point / 2 - _log_sqrt_2_pi()


@_decimal
def _mills(z: float) -> Decimal:
    """Return P(Z > z) / phi(z) = 1/(z + 1/(z + 2/(z + 3/(z + ...)))) (Laplace), for z >= 5."""
    fraction = point = +Decimal(z)
    for k in range(40 + int(10_000 / z / z), 0, -1):
        fraction = point + k / fraction
    return 1 / fraction


@_decimal
def _centre(z: float) -> Decimal:
    """Return P(0 < Z < z), z >= 0, by the series z phi(z) (1 + z^2/3 + z^4/(3 5) + ...)."""
    if z >= _SERIES_LIMIT:
        return _HALF - tail(z)
    term = total = point = +Decimal(z)
    n = 1
    while term > total * _GUARD:
        n += 2
        term = term * point * point / n
        total += term
    return total * _density_log(z).exp()


@_decimal
def tail(z: float) -> Decimal:
    """Return P(Z > z) of a standard normal Z, for any finite or infinite z.

    The relative accuracy is 60 digits. From 6e8 on, the result is zero: its exponent is below -(10**17).

    Parameters
    ----------
    z
        Distance in standard deviations; not NaN.
    """
    if z < 0:
        return _HALF + _centre(-z)
    if z < _SERIES_LIMIT:
        return _HALF - _centre(z)
    return _mills(z) * _density_log(z).exp() if z < math.inf else Decimal(0)


@_decimal
def depth(z: float) -> Decimal:
    """Return -log(2 P(Z > z)), z >= 0; it is zero at the mean, and finite where `tail` is zero."""
    if z >= _SERIES_LIMIT:
        return -_density_log(z) - (2 * _mills(z)).ln() if z < math.inf else Decimal(math.inf)
    y = 2 * _centre(z)
    return y + y * y / 2 + y * y * y / 3 if y < _SMALL else -(1 - y).ln()


# --- differences of tails -----------------------------------------------------------------------------------


@_decimal
def mass(lower: float, upper: float) -> Decimal:
    """Return P(lower < Z < upper), lower <= upper, with 40 digits (zero where both tails are zero)."""
    if lower < 0 and upper <= 0:
        return mass(-upper, -lower)
    if lower < 0:
        return _centre(-lower) + _centre(upper)
    if lower < 1:
        return _centre(upper) - _centre(lower)
    return tail(lower) - tail(upper)


@_decimal
def beyond(near: float, far: float) -> Decimal:
    """Return P(Z > far) / P(Z > near), 0 <= near < far, also where both tails are zero in `tail`."""
    return (depth(near) - depth(far)).exp()


@_decimal
def within(near: float, far: float) -> Decimal:
    """Return P(near < Z < far) / P(Z > near) = 1 - beyond(near, far), 0 <= near < far."""
    drop = depth(far) - depth(near)
    return drop - drop * drop / 2 + drop * drop * drop / 6 if drop < _SMALL else 1 - (-drop).exp()


# --- moments ------------------------------------------------------------------------------------------------


@_decimal
def moments(lower: float, upper: float) -> tuple[Decimal, Decimal]:
    """Return mean and standard deviation of a standard normal on [lower, upper], with 17 digits."""
    if upper <= 0:
        mean, std = moments(-upper, -lower)
        return -mean, std
    low = Decimal(lower)
    if lower >= _EXPONENTIAL:
        return low + 1 / low, 1 / low
    if upper - lower <= 2:
        middle, half = (Decimal(upper) + low) / 2, (Decimal(upper) - low) / 2
        if half * (abs(middle) + half) <= 1:
            return _narrow_moments(middle, half)
    return _wide_moments(lower, upper)


def _narrow_moments(middle: Decimal, half: Decimal) -> tuple[Decimal, Decimal]:
    """Return mean and standard deviation by the series of the density in t around the middle.

    ``exp(-middle t - t**2 / 2) = sum q[n] (t / half)**n`` with ``(n+1) q[n+1] = -middle half q[n] - half**2
    q[n-1]``, integrated term by term. There is no cancellation, also for narrow intervals.
    """
    zeroth = first = second = before = Decimal(0)
    q = Decimal(1)
    for n in range(_NARROW_TERMS):
        if n % 2:
            first += q / (n + 2)
        else:
            zeroth += q / (n + 1)
            second += q / (n + 3)
        q, before = -half * (middle * q + half * before) / (n + 1), q
    shift = first / zeroth
    return middle + half * shift, half * (second / zeroth - shift * shift).sqrt()


def _wide_moments(lower: float, upper: float) -> tuple[Decimal, Decimal]:
    """Return mean and standard deviation from the densities at the ends (Johnson, Kotz, Balakrishnan 1994).

    The terms of the variance are larger than the variance by up to ``_EXPONENTIAL**4``, 35 digits.
    """
    whole = mass(lower, upper)
    a, b = (min(max(z, -_NO_DENSITY), _NO_DENSITY) for z in (lower, upper))
    at_a, at_b = (_density_log(z).exp() / whole for z in (a, b))
    mean = at_a - at_b
    return mean, (1 + Decimal(a) * at_a - Decimal(b) * at_b - mean * mean).sqrt()
