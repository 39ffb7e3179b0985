"""The normal distribution's tails on the host, in decimal arithmetic.

Bounds of truncation enter the values that kernels draw, so every platform must compute the same bits:
`math.erfc` and `math.log` differ between C libraries in the last place, `decimal` does not.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from decimal import Context, Decimal, localcontext
from functools import lru_cache

__all__ = ["density", "exact", "log_tail", "tail"]

_CONTEXT = Context(prec=60, Emin=-(10**17), Emax=10**17)
_GUARD = Decimal(10) ** -56
# Beyond this distance the continued fraction needs fewer terms than the series.
_SERIES_LIMIT = Decimal(4)


def exact() -> AbstractContextManager[Context]:
    """Return the context in which all arithmetic on tails is done, whatever context the caller set."""
    return localcontext(_CONTEXT)


def _pi() -> Decimal:
    """Return pi by Gauss and Legendre's iteration in the current context."""
    a, b, t, p = Decimal(1), 1 / Decimal(2).sqrt(), Decimal("0.25"), Decimal(1)
    for _ in range(6):  # the digits double: 6 rounds give over 80
        a, b, t, p = (a + b) / 2, (a * b).sqrt(), t - p * ((a - b) / 2) ** 2, 2 * p
    return (a + b) ** 2 / (4 * t)


@lru_cache(maxsize=1)
def _log_sqrt_2_pi() -> Decimal:
    with exact():
        return (2 * _pi()).ln() / 2


def _density_log(z: Decimal) -> Decimal:
    return -z * z / 2 - _log_sqrt_2_pi()


def _centre(z: Decimal) -> Decimal:
    """Return P(0 < Z < z) by the series z phi(z) (1 + z^2/3 + z^4/(3 5) + ...), all terms positive."""
    term = total = z
    n = 1
    while term > total * _GUARD:
        n += 2
        term = term * z * z / n
        total += term
    return total * _density_log(z).exp()


def _mills(z: Decimal) -> Decimal:
    """Return P(Z > z) / phi(z) = 1/(z + 1/(z + 2/(z + 3/(z + ...)))) (Laplace), for z >= 4."""
    depth = 40 + int(Decimal(6000) / (z * z))
    fraction = z
    for k in range(depth, 0, -1):
        fraction = z + k / fraction
    return 1 / fraction


def density(z: float) -> Decimal:
    """Return the density of a standard normal at z, zero at infinity."""
    with exact():
        return _density_log(Decimal(z)).exp() if abs(z) < float("inf") else Decimal(0)


@lru_cache(maxsize=4096)
def tail(z: float) -> Decimal:
    """Return P(Z > z) of a standard normal Z, to 40 digits relative, for any finite or infinite z.

    Parameters
    ----------
    z
        Distance in standard deviations; not NaN.
    """
    if z == float("inf"):
        return Decimal(0)
    if z == float("-inf"):
        return Decimal(1)
    with exact():
        if z < 0:
            return 1 - tail(-z)
        if z == 0:
            return Decimal("0.5")
        point = Decimal(z)
        if point < _SERIES_LIMIT:
            return Decimal("0.5") - _centre(point)
        return _mills(point) * _density_log(point).exp()


@lru_cache(maxsize=4096)
def log_tail(z: float) -> Decimal:
    """Return log P(Z > z), which stays finite where `tail` no longer fits a float."""
    with exact():
        point = Decimal(z)
        if point < _SERIES_LIMIT:
            return tail(z).ln()
        return _mills(point).ln() + _density_log(point)
