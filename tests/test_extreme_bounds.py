"""Truncation at bounds of every exponent: what the planner hands the kernels, and what these draw from it.

Locations are zero and scales powers of two, chosen so that values are about 1: then a value over its scale is
the quantile itself, less one rounding to the dtype.
"""

import math
from fractions import Fraction

import exact_normal
import mpmath as mp
import numpy as np
import pytest
from cases import INF, same_bits

import initium as ini
from initium import dtypes
from initium.fills.elementwise import TruncatedNormalFill
from initium.kernels import coefficients
from initium.kernels import table as T

POINTS = [
    *(5e-324, 2.0**-1022, 1e-300, 2.0**-900, 1e-200, 1e-100, 3.06e-62, 1e-61, 1e-43, 1e-30, 2.0**-97),
    *(2.0**-96, 1e-16, 1e-5, 0.1, 1.0, 2.0, 3.3, 5.0, 8.0, 38.0, 40.0, 1e3, 1e5, 1e8, 2.0**29, 1e10, 1e15),
    *(1e20, 1e100, 1e154, 1.34e154, 1.341e154, 1e200, 1e300, 1.7e308),
]


def cases():
    yield -1.08e-299, 3.06e-62
    yield 0.0, INF
    for i, z in enumerate(POINTS):
        beside, near_by = math.nextafter(z, INF), z * (1 + 1e-6)
        yield from ((z, INF), (-z, INF), (-INF, -z), (0.0, z), (-z, z))
        yield from ((-z, beside), (z, beside), (-beside, -z))
        if z < near_by:
            yield z, near_by
        for far in POINTS[i + 1 :: 5]:
            yield from ((z, far), (-z, far), (-far, z), (-far, -z))


CASES = list(cases())


def fill_of(lower, upper):
    """Return the fill whose inner bound is about 1, or its reach where the mean is inside."""
    inner, reach = max(lower, -upper, 0.0), min(max(-lower, upper), 1.0)
    exponent = -math.frexp(inner or reach)[1]
    return TruncatedNormalFill(0.0, math.ldexp(1.0, min(max(exponent, -1070), 1023)), lower, upper)


def encoded(dtype):
    """Yield (lower, upper, fill, encoding) of all cases that the dtype can hold."""
    held = 0
    for lower, upper in CASES:
        fill = fill_of(lower, upper)
        try:
            encoding = fill.encode(dtypes.lookup(dtype))
        except ValueError:  # no value of the dtype in the interval, or values too large for it
            continue
        held += 1
        yield lower, upper, fill, encoding
    assert held > len(CASES) * 0.6


def sides(lower, upper, split, bits):
    """Return (sign, near, far, words) of the side or sides."""
    if upper <= 0:
        return [(-1, -upper, -lower, 1 << bits)]
    if lower >= 0:
        return [(1, lower, upper, 1 << bits)]
    return [(1, 0.0, upper, split + 1), (-1, 0.0, -lower, (1 << bits) - 1 - split)]


# --- encodings ----------------------------------------------------------------------------------------------


def assert_nearest(made, exact, digits=53):
    """Check a float that was rounded once, or of float32 twice."""
    assert math.isfinite(made)
    assert abs(made - exact) <= max(abs(exact) * mp.mpf(2) ** -digits * (1 + 2.0**-28), mp.mpf(2) ** -1075)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_encodings_of_bounded_normals(dtype):
    bits = dtypes.lookup(dtype).word_bits
    for lower, upper, fill, (kind, split, row) in encoded(dtype):
        if kind != T.BOUNDED_NORMAL:
            continue
        unit = fill.scale / abs(row[T.SCALE])  # the smallest bounds are told in others than sigmas
        parts = sides(lower, upper, split, bits)
        with mp.workdps(120):
            if len(parts) == 2:
                check_split(lower, upper, split, 2**bits)
            for (_, near, far, words), start in zip(parts, (T.POSITIVE, T.NEGATIVE), strict=False):
                check_side(near * unit, far * unit, words, row[start:])


def check_split(lower, upper, split, words):
    right, left = exact_normal.centre(upper), exact_normal.centre(-lower)
    positive = words * right / (right + left)
    assert abs(split + 1 - min(max(positive, 1), words - 1)) <= 0.5


def check_side(near, far, words, row):
    x_scale = 2 * mp.mpf(coefficients.NORMAL64_WIDE_X_SCALE)
    x_step = x_scale * exact_normal.mass(near, far) / words
    ratio_step = exact_normal.within(near, far) / words
    assert_nearest(row[T.SIDE_X_STEP], x_step)
    assert_nearest(row[T.SIDE_X_START], x_scale * exact_normal.centre(near) + x_step / 2)
    assert_nearest(row[T.SIDE_RATIO_STEP], ratio_step)
    assert_nearest(row[T.SIDE_RATIO_START], exact_normal.beyond(near, far) + ratio_step / 2)
    assert_nearest(row[T.SIDE_H_REFERENCE], exact_normal.tail(near))
    assert_nearest(row[T.SIDE_W_REFERENCE], exact_normal.depth(near))


def test_encodings_of_symmetric_normals():
    found = 0
    for _, upper, _, (kind, _, row) in encoded("float32"):
        if kind not in (T.NORMAL, T.CENTRAL_NORMAL):
            continue
        found += 1
        central = kind == T.CENTRAL_NORMAL
        x_scale = coefficients.NORMAL32_CENTRAL_X_SCALE if central else coefficients.NORMAL32_WIDE_X_SCALE
        with mp.workdps(120):
            inset = upper * (1 - mp.mpf(2) ** -21)
            kept = 2 * exact_normal.centre(inset)
            h_step = kept / 2**32
            assert_float32(row[T.X_STEP], x_scale * kept / 2**31)
            assert_float32(row[T.X_START], x_scale * kept / 2**32)
            assert_float32(row[T.H_STEP], h_step)
            assert_float32(row[T.H_START], exact_normal.tail(inset) + h_step / 2)
    assert found > 15


def assert_float32(made, exact):
    assert made == np.float32(made)
    if exact >= 2.0**-126:
        assert_nearest(made, exact, digits=24)
    else:
        assert abs(made - exact) <= 2.0**-150


# --- draws --------------------------------------------------------------------------------------------------

COUNT = 8
#: 8 ulp of the float64 kernel; 4 of the float32 kernel, whose support is inset by 2**-21; one of bfloat16,
#: where the nearest value lies outside the interval and the next one is taken.
TOLERANCE = {"float64": 2.0**-49, "float32": 2.0**-20, "bfloat16": 2.0**-7}


def between(z, near, far):
    """Return P(near < Z < z) / P(near < Z < far), z of any precision."""
    if z <= near:
        return mp.mpf(0)
    return exact_normal.within(near, z) / exact_normal.within(near, far) if z < far else mp.mpf(1)


def is_quantile(z, near, far, p, tolerance):
    low, high = between(z * (1 - tolerance), near, far), between(z * (1 + tolerance), near, far)
    return low <= p <= high


def wanted(word, lower, upper, kind, split, bits):
    """Return (sign, near, far, p): the value of the word is the p-quantile of a side."""
    if kind == T.CONSTANT:
        sign, near, far, _ = sides(lower, upper, split, bits)[0]
        return sign, near, far, mp.mpf("0.5")
    if kind != T.BOUNDED_NORMAL:
        sign, m = (1, word) if word < 2**31 else (-1, 2**32 - 1 - word)
        return sign, 0.0, upper, mp.mpf(2 * m + 1) / 2**32
    first = len(sides(lower, upper, split, bits)) == 1 or word <= split
    sign, near, far, words = sides(lower, upper, split, bits)[0 if first else 1]
    return sign, near, far, mp.mpf(2 * (word if first else 2**bits - 1 - word) + 1) / (2 * words)


def words_of(count, bits):
    """Return the words of the first elements as integers."""
    halves = ini.bits(count * bits // 32, seed=5, name="a").astype("<u4")
    return halves.view(f"<u{bits // 8}").tolist()


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_draws_are_the_quantiles(dtype):
    bits = dtypes.lookup(dtype).word_bits
    for lower, upper, fill, (kind, split, _) in encoded(dtype):
        bounds = 0.0, fill.scale, lower, upper
        made, compiled = (
            ini.truncated_normal(COUNT, *bounds, seed=5, name="a", dtype=dtype, backend=backend)
            for backend in ("numpy", "numba")
        )
        assert same_bits(made, compiled)
        low, high = fill.bounds
        for word, value in zip(words_of(COUNT, bits), made.astype(np.float64).tolist(), strict=True):
            assert math.isfinite(value), (lower, upper)
            assert low <= Fraction(value) <= high, (lower, upper)
            with mp.workdps(120):
                sign, near, far, p = wanted(word, lower, upper, kind, split, bits)
                z = sign * mp.mpf(value) / fill.scale
                assert is_quantile(z, near, far, p, TOLERANCE[dtype]), (lower, upper)


@pytest.mark.parametrize(
    ("near", "z", "far"),
    [
        (0.0, 3e-301, 1e-300),
        (1e-300, 1e-62, 3e-62),
        (1.0, 1.05, 1.1),
        (40.0, 40.01, INF),
        (1e8, 1e8 + 3e-8, INF),
    ],
)
def test_a_quantile_that_is_a_little_off_is_noticed(near, z, far):
    with mp.workdps(120):
        p = between(mp.mpf(z), near, far)
        for sign in (-1, 1):
            assert is_quantile(mp.mpf(z) * (1 + sign * 2.0**-50), near, far, p, 2.0**-49)
            assert not is_quantile(mp.mpf(z) * (1 + sign * 2.0**-48), near, far, p, 2.0**-49)
