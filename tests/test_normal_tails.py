"""The host's normal distribution against mpmath, over all exponents that floats have."""

import decimal
import math
import sys
from itertools import combinations

import exact_normal
import mpmath as mp
import pytest
from cases import INF
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from initium.fills import elementwise as fills
from initium.fills import normal_tails
from initium.fills.elementwise import TruncatedNormalFill

#: Every magnitude, with the borders between the formulas and both sides of them.
POINTS = [
    *(5e-324, 1e-320, 2.0**-1022, 1e-300, 1e-200, 1e-160, 1e-100, 1e-62, 1e-43, 1e-30, 1e-21, 1e-20, 1e-19),
    *(1e-16, 1e-10, 1e-5, 0.1, 0.5, 1 - 2.0**-53, 1.0, 2.0, 3.0, 4.0, 5 - 2.0**-50, 5.0, 6.0, 8.0, 12.5),
    *(38.0, 40.0, 100.0, 1e3, 1e5, 1e8, 2.0**29 - 2.0**-24, 2.0**29, 6e8, 1e9, 1e10, 1e15, 1e20, 1e100),
    *(1e154, 1e200, 1e300, 1.7e308),
]
NEIGHBOURS = [(z, math.nextafter(z, INF)) for z in POINTS]
CLOSE = [(z, z * (1 + 1e-9)) for z in POINTS if z > 1e-300]
ONE_SIDE = [*((0.0, z) for z in [*POINTS, INF]), *combinations([*POINTS, INF], 2), *NEIGHBOURS, *CLOSE]
STRADDLING = [
    *((-z, z) for z in [*POINTS, INF]),
    *((-z, upper) for z, upper in [*combinations([*POINTS, INF], 2), *NEIGHBOURS, *CLOSE]),
]


def error(made, exact):
    """Return how far off a Decimal or a float is, relative to the exact value."""
    if exact == 0:
        return 0.0 if -1e-300 < made < 1e-300 else INF
    exponent = decimal.Decimal(made).adjusted()
    if exponent < -(10**6):  # mpmath rounds decimals of that size badly
        return 0.0 if exact < mp.mpf(10) ** -(10**6) else INF
    return float(abs(mp.mpf(str(decimal.Decimal(made))) / exact - 1))


@st.composite
def magnitudes(draw):
    """Positive floats of any exponent."""
    return math.ldexp(draw(st.floats(1.0, 2.0)), draw(st.integers(-1074, 1022)))


@st.composite
def one_side(draw):
    """Return 0 < near < far: of any two magnitudes, or relatively close by any power of two."""
    near = draw(magnitudes())
    if draw(st.booleans()):
        far = near + math.ldexp(near, -draw(st.integers(1, 52)))
    else:
        far = draw(st.one_of(magnitudes(), st.just(INF)))
    assume(near != far)
    return min(near, far), max(near, far)


# --- tails --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("z", POINTS)
def test_tail_and_depth(z):
    with mp.workdps(120):
        assert error(normal_tails.depth(z), exact_normal.depth(z)) < 1e-60
        if z < 5e8:
            assert error(normal_tails.tail(z), exact_normal.tail(z)) < 1e-60
            assert error(normal_tails.tail(-z), 1 - exact_normal.tail(z)) < 1e-60


def test_the_ends():
    assert (normal_tails.tail(0.0), normal_tails.tail(INF), normal_tails.tail(-INF)) == (
        decimal.Decimal("0.5"),
        0,
        1,
    )
    assert (normal_tails.depth(0.0), normal_tails.depth(INF)) == (0, INF)
    assert (normal_tails.mass(-INF, INF), normal_tails.mass(0.0, INF), normal_tails.mass(0.0, 0.0)) == (
        1,
        decimal.Decimal("0.5"),
        0,
    )
    assert normal_tails.moments(-INF, INF) == (0, 1)


# --- differences --------------------------------------------------------------------------------------------


def check_differences(near, far):
    with mp.workdps(120):
        assert error(normal_tails.within(near, far), exact_normal.within(near, far)) < 1e-40
        assert error(normal_tails.beyond(near, far), exact_normal.beyond(near, far)) < 1e-40
        if near < 5e8:
            check_mass(near, far)
            check_mass(-far, -near)


def check_mass(lower, upper):
    with mp.workdps(120):
        assert error(normal_tails.mass(lower, upper), exact_normal.mass(lower, upper)) < 1e-40


def test_differences_keep_40_digits():
    for near, far in ONE_SIDE:
        check_differences(near, far)
    for lower, upper in STRADDLING:
        check_mass(lower, upper)
        check_mass(-upper, -lower)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(one_side())
def test_differences_of_any_bounds_keep_40_digits(bounds):
    check_differences(*bounds)
    check_mass(-bounds[0], bounds[1])


def test_tails_that_are_subtracted_are_noticed(monkeypatch):
    def difference(lower, upper):
        with normal_tails.exact():
            return normal_tails.tail(lower) - normal_tails.tail(upper)

    monkeypatch.setattr(normal_tails, "mass", difference)
    check_mass(0.1, 0.2)
    with pytest.raises(AssertionError):
        check_mass(1e-62, 1e-61)


# --- moments ------------------------------------------------------------------------------------------------


def check_moments(lower, upper):
    near = max(lower, -upper) < 2.0**29
    with mp.workdps(exact_normal.MOMENT_DIGITS):
        mean, std = exact_normal.moments(lower, upper)
        made = normal_tails.moments(lower, upper)
        assert error(made[0], mean) < (1e-40 if near else 2e-17)
        assert error(made[1], std) < (1e-40 if near else 2e-17)
    fill = TruncatedNormalFill(0.0, 1.0, lower, upper)
    assert abs(fill.mean - float(mean)) <= math.ulp(float(mean))
    assert abs(fill.std - float(std)) <= math.ulp(float(std))


def test_moments_against_mpmath():
    for lower, upper in [*ONE_SIDE, *STRADDLING]:
        check_moments(lower, upper)
    for lower, upper in [*NEIGHBOURS, *CLOSE]:
        check_moments(-upper, -lower)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(one_side(), st.booleans())
def test_moments_of_any_bounds(bounds, straddle):
    check_moments(-bounds[0] if straddle else bounds[0], bounds[1])


def test_moments_in_units_of_other_scales():
    # Their scale and location enter before the one rounding.
    assert TruncatedNormalFill(0.0, 1e300, 0.0, 5e-324).std == pytest.approx(5e-24 / math.sqrt(12), rel=0.02)
    fill = TruncatedNormalFill(-(2.0**40), 1.0, 2.0**40, INF)
    assert fill.mean == pytest.approx(2.0**-40, rel=1e-15)
    narrow = TruncatedNormalFill(3.0, 1e-200, 1.0, 1 + 2.0**-52)
    assert narrow.std == pytest.approx(1e-200 * 2.0**-52 / math.sqrt(12), rel=1e-15)


# --- work and context ---------------------------------------------------------------------------------------


def forget():
    for module in (normal_tails, fills):
        for function in vars(module).values():
            if hasattr(function, "cache_clear"):
                function.cache_clear()


def lines_of_gauss(function, *args):
    """Count the lines of `initium.normal_tails` that one call from scratch executes."""
    count = 0

    def trace(frame, event, arg):
        nonlocal count
        if frame.f_code.co_filename != normal_tails.__file__:
            return None
        count += event == "line"
        return trace

    forget()
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function(*args)
    finally:
        sys.settrace(before)
    return count


def test_work_is_bounded():
    # A tail takes at most 440 steps of the continued fraction or 110 terms of the series.
    for z in [*POINTS, *(4 + i / 16 for i in range(32))]:
        assert lines_of_gauss(normal_tails.tail, z) < 1000
    worst = 0
    for lower, upper in [*ONE_SIDE, *STRADDLING[::3]]:
        if math.isinf(lower):
            continue
        worst = max(worst, lines_of_gauss(normal_tails.moments, lower, upper))
        if upper != lower:
            worst = max(worst, lines_of_gauss(normal_tails.mass, lower, upper))
        if lower >= 0:
            worst = max(worst, lines_of_gauss(normal_tails.within, lower, upper))
    assert worst < 2000


def test_the_callers_context_does_not_matter():
    def made():
        forget()
        return [
            normal_tails.mass(1e-3, 6.0),
            normal_tails.within(0.5, 7.0),
            *normal_tails.moments(-1.0, 7.0),
            normal_tails._centre(6.0),
        ]

    expected = made()
    with decimal.localcontext(decimal.Context(prec=5, Emax=10, Emin=-10, rounding=decimal.ROUND_UP)):
        assert made() == expected
    forget()
