"""Distribution: the normal quantile, from a tail probability to the distance from the mean in units of sigma.

`initium.kernels.coefficients` states the formulas with their coefficients.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from initium.kernels import coefficients as C
from initium.kernels.reference.arithmetic import fma, polynomial

__all__ = ["central_quantile32", "quantile32", "quantile64"]

Real = NDArray[Any]


def _exponent_and_fraction(a: Real) -> tuple[Real, Real]:
    """Return (e, f) with ``a = 2**e (1 + f)`` and 1 + f in [sqrt 1/2, sqrt 2), both in the type of `a`."""
    mantissa, exponent = np.frexp(a)  # mantissa in [1/2, 1)
    low = mantissa < np.asarray(0.5**0.5, a.dtype)
    exponent = exponent - low
    return exponent.astype(a.dtype), np.ldexp(a, -exponent) - np.asarray(1, a.dtype)


# --- float32 ------------------------------------------------------------------------------------------------


def central_quantile32(x: Real, h: Real) -> Real:
    """Return z for h >= Phi(-2), with the sign of x."""
    s = fma(-h, h, h)
    a, b = (polynomial(c, s) for c in (C.NORMAL32_CENTRAL_A, C.NORMAL32_CENTRAL_B))
    return fma(x * a, np.float32(1) / b, x)


def _wide32(x: Real, h: Real) -> Real:
    v = np.sqrt(fma(-h, h, h))
    a, b = (polynomial(c, v) for c in (C.NORMAL32_WIDE_A, C.NORMAL32_WIDE_B))
    return fma(x * a, np.float32(1) / b, x)


def _tail32(h: Real) -> Real:
    e, f = _exponent_and_fraction(h)
    log = fma(f * f, polynomial(C.NORMAL32_LOG, f), f)
    r = np.sqrt(fma(-e - np.float32(1), np.float32(C.NORMAL32_LN2), -log))
    a, b = (polynomial(c, r) for c in (C.NORMAL32_TAIL_A, C.NORMAL32_TAIL_B))
    return fma(r, np.float32(C.NORMAL32_TAIL_SLOPE), a / b)


def quantile32(x: Real, h: Real) -> Real:
    """Return z for any h >= 2**-126, with the sign of x."""
    z = _wide32(x, h)
    rare = h < np.float32(C.NORMAL_WIDE_MIN_H)
    z[rare] = np.copysign(_tail32(h[rare]), x[rare])
    return z


# --- float64 ------------------------------------------------------------------------------------------------


def _minus_log64(a: Real) -> Real:
    """Return -log(a) of a floating-point number that is not subnormal."""
    e, f = _exponent_and_fraction(a)
    n = -e
    g = f / (f + 2.0)
    y = g * g
    half = (f * 0.5) * f
    lost = fma(-g, half + y * polynomial(C.NORMAL64_LOG, y), half)  # f - log(1 + f)
    return fma(n, np.float64(C.NORMAL64_LN2_HIGH), fma(n, np.float64(C.NORMAL64_LN2_LOW), lost) - f)


def _wide64(x: Real, h: Real) -> Real:
    v = np.sqrt(fma(-h, h, h))
    return fma(x, polynomial(C.NORMAL64_WIDE_A, v) / polynomial(C.NORMAL64_WIDE_B, v), x)


def _tail64(w: Real) -> Real:
    r = np.sqrt(w)
    ratio = polynomial(C.NORMAL64_TAIL_A, r) / polynomial(C.NORMAL64_TAIL_B, r)
    return fma(r, np.float64(C.NORMAL64_TAIL_SLOPE), ratio)


def _far64(w: Real) -> Real:
    y = fma(w, np.float64(2), np.float64(C.NORMAL64_LOG_2_OVER_PI))
    l = -_minus_log64(y)  # noqa: E741
    i = 1.0 / y
    p = polynomial(C.NORMAL64_FAR_5, l)
    for row in (C.NORMAL64_FAR_4, C.NORMAL64_FAR_3, C.NORMAL64_FAR_2, C.NORMAL64_FAR_1):
        p = fma(p, i, polynomial(row, l))
    z: Real = np.sqrt(fma(p, i, y - l))
    return z


def quantile64(x: Real, h: Real, ratio: Real, w_reference: Real) -> Real:
    """Return z for the tail probability h; for small h, from -log(2 h) = w_reference - log(ratio)."""
    z = _wide64(x, h)
    rare = h < C.NORMAL_WIDE_MIN_H
    w = _minus_log64(ratio[rare]) + w_reference[rare]
    border = C.NORMAL64_FAR_MIN_W  # each formula gets only arguments of its range, so none overflows
    z[rare] = np.where(w > border, _far64(np.maximum(w, border)), _tail64(np.minimum(w, border)))
    return z
