"""Distribution: the normal quantile, from a tail probability to the distance from the mean in units of sigma.

`initium.kernels.coefficients` states the formulas with their coefficients.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from initium.kernels import coefficients as C
from initium.kernels.cpu.instructions import (
    any_lane,
    bits_of,
    float_of,
    fma,
    polynomial,
    select,
    shift_signed,
    signed_to_float,
    sqrt,
)
from initium.kernels.cpu.jit import inline

__all__ = ["central_quantile32", "quantile32", "quantile64"]

# --- float32 ------------------------------------------------------------------------------------------------

_central_a, _central_b = polynomial(C.NORMAL32_CENTRAL_A), polynomial(C.NORMAL32_CENTRAL_B)
_wide_a, _wide_b = polynomial(C.NORMAL32_WIDE_A), polynomial(C.NORMAL32_WIDE_B)
_tail_a, _tail_b = polynomial(C.NORMAL32_TAIL_A), polynomial(C.NORMAL32_TAIL_B)
_log_poly = polynomial(C.NORMAL32_LOG)

_ONE = np.float32(1)
_WIDE_MIN = np.float32(C.NORMAL_WIDE_MIN_H)
_LN2 = np.float32(C.NORMAL32_LN2)
_SLOPE = np.float32(C.NORMAL32_TAIL_SLOPE)
_SQRT_HALF = np.uint32(np.float32(0.5**0.5).view(np.uint32))
_EXPONENT = np.uint32(0xFF800000)
_MANTISSA_BITS = np.uint32(23)


@inline
def central_quantile32(x: Any, h: Any) -> Any:
    """Return z for h >= Phi(-2), with the sign of x."""
    s = fma(-h, h, h)
    return fma(x * _central_a(s), _ONE / _central_b(s), x)


@inline
def _wide32(x: Any, h: Any) -> Any:
    v = sqrt(fma(-h, h, h))
    return fma(x * _wide_a(v), _ONE / _wide_b(v), x)


@inline
def _tail32(h: Any) -> Any:
    # h = 2**e (1 + f) with 1 + f in [sqrt 1/2, sqrt 2); the difference of the bits gives e.
    bits = bits_of(h)
    above = bits - _SQRT_HALF
    f = float_of(bits - (above & _EXPONENT)) - _ONE
    e = signed_to_float(shift_signed(above, _MANTISSA_BITS))
    log = fma(f * f, _log_poly(f), f)
    r = sqrt(fma(-e - _ONE, _LN2, -log))
    return fma(r, _SLOPE, _tail_a(r) / _tail_b(r))


@inline
def quantile32(x: Any, h: Any, sign: Any) -> Any:
    """Return z for any h >= 2**-126, with the sign of x; `sign` is the sign bit of x.

    Tails are rare, so most vectors skip the tail formula.
    """
    z = _wide32(x, h)
    rare = h < _WIDE_MIN
    if any_lane(rare):
        z = select(rare, float_of(bits_of(_tail32(h)) | sign), z)
    return z


# --- float64 ------------------------------------------------------------------------------------------------

_wide64_a, _wide64_b = polynomial(C.NORMAL64_WIDE_A), polynomial(C.NORMAL64_WIDE_B)
_tail64_a, _tail64_b = polynomial(C.NORMAL64_TAIL_A), polynomial(C.NORMAL64_TAIL_B)
_log64_poly = polynomial(C.NORMAL64_LOG)
_far1, _far2, _far3 = polynomial(C.NORMAL64_FAR_1), polynomial(C.NORMAL64_FAR_2), polynomial(C.NORMAL64_FAR_3)
_far4, _far5 = polynomial(C.NORMAL64_FAR_4), polynomial(C.NORMAL64_FAR_5)

_SQRT_HALF64 = np.uint64(np.float64(0.5**0.5).view(np.uint64))
_EXPONENT64 = np.uint64(0xFFF0000000000000)
_MANTISSA_BITS64 = np.uint64(52)


@inline
def _minus_log64(a: Any) -> Any:
    """Return -log(a) of a floating-point number that is not subnormal."""
    bits = bits_of(a)
    above = bits - _SQRT_HALF64
    f = float_of(bits - (above & _EXPONENT64)) - 1.0
    n = -signed_to_float(shift_signed(above, _MANTISSA_BITS64))
    g = f / (f + 2.0)
    y = g * g
    half = (f * 0.5) * f
    lost = fma(-g, half + y * _log64_poly(y), half)  # f - log(1 + f)
    return fma(n, C.NORMAL64_LN2_HIGH, fma(n, C.NORMAL64_LN2_LOW, lost) - f)


@inline
def _wide64(x: Any, h: Any) -> Any:
    v = sqrt(fma(-h, h, h))
    return fma(x, _wide64_a(v) / _wide64_b(v), x)


@inline
def _tail64(w: Any) -> Any:
    r = sqrt(w)
    return fma(r, C.NORMAL64_TAIL_SLOPE, _tail64_a(r) / _tail64_b(r))


@inline
def _far64(w: Any) -> Any:
    y = fma(w, 2.0, C.NORMAL64_LOG_2_OVER_PI)
    l = -_minus_log64(y)  # noqa: E741
    i = 1.0 / y
    p = fma(fma(fma(fma(_far5(l), i, _far4(l)), i, _far3(l)), i, _far2(l)), i, _far1(l))
    return sqrt(fma(p, i, y - l))


@inline
def quantile64(x: Any, h: Any, ratio: Any, w_reference: Any) -> Any:
    """Return z for the tail probability h; for small h, from -log(2 h) = w_reference - log(ratio)."""
    z = _wide64(x, h)
    rare = h < C.NORMAL_WIDE_MIN_H
    if any_lane(rare):
        w = _minus_log64(ratio) + w_reference
        z = select(rare, _tail64(w), z)
        far = w > C.NORMAL64_FAR_MIN_W
        if any_lane(far):
            z = select(far, _far64(w), z)
    return z
