"""Fused multiply-add for NumPy arrays, with one rounding as in IEEE 754, since NumPy has none."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["fma", "polynomial"]

#: Arrays, or NumPy scalars that broadcast; float32 or float64.
Real = Any
_SPLITTER = np.float64(2**27 + 1)
# Outside this range of magnitudes, the low part of a product may underflow, or a split may overflow.
_SAFE_LOW, _SAFE_HIGH = 2.0**-900, 2.0**900


def fma(a: Real, b: Real, c: Real) -> NDArray[Any]:
    """Return ``a * b + c`` with one rounding; the arguments are all float32 or all float64, and broadcast."""
    a, b, c = np.broadcast_arrays(a, b, c)
    if a.dtype == np.float32:
        return _fma32(a, b, c)
    return _fma64(a, b, c)


def _fma32(a: Real, b: Real, c: Real) -> NDArray[Any]:
    # The product is exact in float64. With the sum rounded to odd, the second rounding is correct.
    product = a.astype(np.float64) * b.astype(np.float64)
    rounded: NDArray[Any] = _add_to_odd(product, c.astype(np.float64)).astype(np.float32)
    return rounded


def _two_sum(a: Real, b: Real) -> tuple[Real, Real]:
    """Return the rounded sum and its exact error (Knuth)."""
    total = a + b
    virtual = total - a
    return total, (a - (total - virtual)) + (b - virtual)


def _two_product(a: Real, b: Real) -> tuple[Real, Real]:
    """Return the rounded product and its exact error (Dekker, Veltkamp)."""
    product = a * b
    a_high, b_high = (x * _SPLITTER - (x * _SPLITTER - x) for x in (a, b))
    a_low, b_low = a - a_high, b - b_high
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def _add_to_odd(a: Real, b: Real) -> Real:
    """Return ``a + b`` rounded to odd: the neighbour with the odd last bit, unless the sum is exact."""
    total, error = _two_sum(a, b)
    even = (total.view(np.int64) & 1) == 0
    towards = np.where(error > 0, np.inf, -np.inf)
    return np.where((error != 0) & even, np.nextafter(total, towards), total)


def _fma64(a: Real, b: Real, c: Real) -> NDArray[Any]:
    # Boldo and Melquiond (2008), "Emulation of FMA and correctly rounded sums: proved algorithms".
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        high, low = _two_product(a, b)
        term_high, term_low = _two_sum(c, low)
        sum_high, sum_low = _two_sum(high, term_high)
        result: NDArray[Any] = sum_high + _add_to_odd(term_low, sum_low)
    product = np.abs(high)
    unsafe = (
        (((product < _SAFE_LOW) | (np.abs(c) < _SAFE_LOW)) & (a != 0) & (b != 0) & (c != 0))
        | ((product < _SAFE_LOW) & (a != 0) & (b != 0))
        | (np.maximum.reduce([product, np.abs(a), np.abs(b), np.abs(c)]) > _SAFE_HIGH)
    )
    if unsafe.any():
        result = result.copy()
        result[unsafe] = [
            _fma_exact(*map(float, abc)) for abc in zip(a[unsafe], b[unsafe], c[unsafe], strict=True)
        ]
    return result


def _fma_exact(a: float, b: float, c: float) -> float:
    if not np.isfinite([a, b, c]).all():
        return a * b + c
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return a * b + c  # IEEE's sign of zero
    try:
        return float(exact)
    except OverflowError:
        return float(np.copysign(np.inf, exact > 0 or -1))


def polynomial(coefficients: Sequence[float], v: NDArray[Any]) -> NDArray[Any]:
    """Evaluate a polynomial (lowest power first) by Horner's rule in fma, in the type of `v`."""
    *rest, last = (np.asarray(c, v.dtype) for c in coefficients)
    value: NDArray[Any] = np.broadcast_to(last, v.shape)
    for c in reversed(rest):
        value = fma(value, v, c)
    return value
