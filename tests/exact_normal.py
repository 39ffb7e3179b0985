"""The standard normal by mpmath, for any two bounds that floats can name.

In the working precision of the caller, of which up to 40 digits are lost. Moments want MOMENT_DIGITS: the
variance between neighbours of 1e-308 is 1e-650 of the terms that it is the rest of, and these are rests of
others, 1e-330 of them.
"""

import math
from functools import cache, wraps

import mpmath as mp

MOMENT_DIGITS = 1400
# From here on the asymptotic series has terms enough; erfc overflows in mpmath farther out.
_ASYMPTOTIC = 1e6
# exp(-_NOTHING) is as good as zero.
_NOTHING = 10**6


def remembered(function):
    """Compute once for the same arguments and working precision."""

    @cache
    def compute(precision, *args):
        return function(*args)

    @wraps(function)
    def wrapper(*args):
        return compute(mp.mp.prec, *args)

    return wrapper


@remembered
def centre(z):
    """P(0 < Z < z)."""
    return mp.erf(mp.mpf(z) / mp.sqrt(2)) / 2


@remembered
def mills(z):
    """P(Z > z) / phi(z)."""
    z = mp.mpf(z)
    if z < _ASYMPTOTIC:
        return mp.erfc(z / mp.sqrt(2)) / 2 / mp.npdf(z)
    term = total = 1 / z
    k = 1
    while abs(term) > mp.mpf(10) ** -mp.mp.dps * total:
        term *= -k / (z * z)
        k += 2
        total += term
    return total


@remembered
def tail(z):
    """P(Z > z); zero from 1e10 on."""
    z = mp.mpf(z)
    if z < 10:
        return mp.mpf(1) / 2 - centre(z)
    return mills(z) * mp.npdf(z) if z < 1e10 else mp.mpf(0)


@remembered
def depth(z):
    """-log(2 P(Z > z)), z >= 0."""
    z = mp.mpf(z)
    return -mp.log1p(-2 * centre(z)) if z < 1 else z * z / 2 - mp.log(2 * mills(z) / mp.sqrt(2 * mp.pi))


@remembered
def beyond(near, far):
    """P(Z > far) / P(Z > near), 0 <= near < far; zero below exp(-_NOTHING)."""
    drop = (mp.mpf(far) - near) * (mp.mpf(far) + near) / 2
    return mp.exp(-drop) * mills(far) / mills(near) if drop < _NOTHING else mp.mpf(0)


@remembered
def within(near, far):
    """P(near < Z < far) / P(Z > near), 0 <= near < far."""
    return (centre(far) - centre(near)) / tail(near) if near < 1 else 1 - beyond(near, far)


@remembered
def mass(lower, upper):
    """P(lower < Z < upper)."""
    if upper <= 0 and lower < 0:
        return mass(-upper, -lower)
    return centre(upper) - centre(lower) if lower < 1 else tail(lower) - tail(upper)


@remembered
def moments(lower, upper):
    """Mean and standard deviation on [lower, upper] (Johnson, Kotz, Balakrishnan 1994)."""
    assert mp.mp.dps >= MOMENT_DIGITS
    if upper <= 0:
        mean, std = moments(-upper, -lower)
        return -mean, std
    nearest = max(lower, 0.0)  # all densities are relative to the one there
    at = [_density(z, nearest) for z in (lower, upper)]
    if lower >= 1:
        whole = mills(lower) - at[1] * (mills(upper) if at[1] else 0)
    else:
        whole = mass(lower, upper) / mp.npdf(nearest)
    edges = [z * d if d else mp.mpf(0) for z, d in zip((lower, upper), at, strict=True)]
    mean = (at[0] - at[1]) / whole
    return mean, mp.sqrt(1 + (edges[0] - edges[1]) / whole - mean * mean)


def _density(z, nearest):
    if math.isinf(z):
        return mp.mpf(0)
    drop = (mp.mpf(z) - nearest) * (mp.mpf(z) + nearest) / 2
    return mp.exp(-drop) if drop < _NOTHING else mp.mpf(0)
