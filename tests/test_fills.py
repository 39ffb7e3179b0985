"""Encodings: what the planner hands the kernels keeps every value inside its interval."""

import math
from fractions import Fraction

import mpmath as mp
import numpy as np
import pytest
from cases import DTYPES, INF, extreme_words, ordered_values
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy import stats

from initium import dtypes
from initium.fills.elementwise import ConstantFill, TruncatedNormalFill, UniformFill, normal_fill
from initium.initializers.basic import TruncatedNormal
from initium.kernels import table as T
from initium.kernels.reference import fill as reference

# --- draws from words of one's choice -----------------------------------------------------------------------

_HALVES = {
    bits: np.array(extreme_words(bits), np.uint64).astype(f"u{bits // 8}").view(np.uint32)
    for bits in (32, 64)
}


def extreme_values(fill, dtype):
    """Return what the reference draws from the extreme words."""
    dtype = dtypes.lookup(dtype)
    kind, split, row = fill.encode(dtype)
    halves = _HALVES[dtype.word_bits]
    count = halves.size * 32 // dtype.word_bits
    if kind == T.BOUNDED_NORMAL:  # and the words around the border between its sides
        border = np.array([(split + i) % 2**dtype.word_bits for i in range(-3, 5)], np.uint64)
        halves = np.concatenate([halves, border.astype(f"u{dtype.word_bits // 8}").view(np.uint32)])
        count += 8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "philox_words", lambda index, stream, seed: halves[index.astype(np.intp)])
        index = np.arange(count, dtype=np.uint64)
        return reference.draw(kind, dtype.numpy, index, 0, 0, split, np.array(row)).astype(np.float64)


def test_the_extreme_words_reach_the_ends():
    values = extreme_values(UniformFill(-1.0, 1.0), "float64")
    assert values.min() == -1 + 2.0**-53
    assert values.max() == 1 - 2.0**-53
    values = extreme_values(UniformFill(-1.0, 1.0), "float32")
    assert (values.min(), values.max()) == (-1 + 2.0**-24, 1 - 2.0**-24)
    values = extreme_values(normal_fill(), "float32")
    assert 6.2 < values.max() < 6.4
    assert -6.4 < values.min() < -6.2


# --- intervals ----------------------------------------------------------------------------------------------

finite = st.floats(allow_nan=False, allow_infinity=False)
moderate = st.floats(-400, 400)
MAX_32, MAX_64 = (dtypes.lookup(name).max for name in ("float32", "float64"))
narrow_relative = st.floats(1e-16, 1.0)


@st.composite
def intervals(draw):
    """Intervals of all sizes, anywhere: any two floats, or a middle and a relative width."""
    if draw(st.booleans()):
        low, high = sorted([draw(st.one_of(finite, moderate)), draw(st.one_of(finite, moderate))])
    else:
        low = draw(st.one_of(moderate, finite))
        high = low + abs(low) * draw(narrow_relative)
    assume(math.isfinite(high) and low < high)
    return low, high


def encoded(fill, dtype):
    """Return the values at extreme words; reject the example if the dtype cannot hold the fill."""
    try:
        fill.encode(dtypes.lookup(dtype))
    except ValueError:
        return None
    return extreme_values(fill, dtype)


@settings(max_examples=1500, deadline=None, derandomize=True)
@given(intervals(), st.sampled_from(DTYPES))
@example((0.0, 1.0), "float32")
@example((0.0, 1.0), "float64")
@example((1.0, 1.0 + 2.0**-22), "float32")
@example((1.0, 1.0 + 2.0**-51), "float64")
@example((2.0**24, 2.0**24 + 4), "float32")
@example((-448.0, 448.0), "float8_e4m3fn")
@example((-65504.0, 65504.0), "float16")
@example((0.1, 0.1 + 2.0**-25), "float32")
@example((-MAX_32, MAX_32), "float32")
@example((-MAX_64, MAX_64), "float64")
def test_uniform_values_never_leave_their_interval(interval, dtype):
    low, high = interval
    values = encoded(UniformFill(low, high), dtype)
    if values is not None:
        assert (values >= low).all()
        assert (values < high).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_ordinary_intervals_are_not_refused(dtype):
    rng = np.random.default_rng(1)
    for _ in range(100):
        low = float(rng.uniform(-3, 3))
        high = low + float(rng.uniform(0.6, 3))
        values = encoded(UniformFill(low, high), dtype)
        assert values is not None, (low, high)
        assert low <= values.min() <= low + 0.5
        assert high - 1 <= values.max() < high


@st.composite
def truncations(draw):
    mean = draw(st.one_of(st.just(0.0), st.floats(-100, 100), st.floats(-1e6, 1e6)))
    std = draw(st.one_of(st.just(1.0), st.floats(1e-6, 100), st.floats(1e-30, 1e10)))
    if draw(st.booleans()):
        upper = draw(st.one_of(st.sampled_from([0.1, 0.5, 1.0, 2.0, 3.0, 6.0]), st.floats(1e-3, 9)))
        return mean, std, -upper, upper
    lower = draw(st.one_of(st.just(-INF), st.floats(-9, 9), st.floats(-50, 50)))
    upper = draw(st.one_of(st.just(INF), st.floats(-9, 9), st.floats(-50, 50)))
    assume(lower < upper)
    return mean, std, lower, upper


@st.composite
def extreme_truncations(draw):
    """Bounds of any exponent, on a scale that brings them, or the mean's neighbourhood, to about 1."""
    size = 10.0 ** draw(st.integers(-307, 307))
    lower, upper = sorted(draw(st.one_of(st.floats(-10, 10), st.just(INF), st.just(-INF))) for _ in range(2))
    std = draw(st.one_of(st.floats(0.1, 10), st.floats(1e-300, 1e300), finite.map(abs)))
    mean = draw(st.one_of(st.just(0.0), st.floats(-10, 10), finite))
    lower, upper, std = lower * size, upper * size, std / size
    assume(lower < upper and lower < INF and upper > -INF and 0 < std < INF)
    return mean, std, lower, upper


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(st.one_of(truncations(), extreme_truncations()), st.sampled_from(DTYPES))
@example((0.0, 1.0, -2.0, 2.0), "bfloat16")
@example((0.0, 0.02, -2.0, 2.0), "float32")
@example((1e6, 1.0, -2.0, 2.0), "float32")
@example((0.0, 1.0, 5.25, INF), "float32")
@example((0.0, 1.0, 8.0, 8.0000001), "float64")
@example((0.0, 1.0, -1.08e-299, 3.06e-62), "float32")
@example((0.0, 1.0, -1.08e-299, 3.06e-62), "float64")
@example((0.0, 1e30, -1e-30, 1e-30), "float32")
@example((0.0, 1e39, -1e-3, 1e-3), "float32")
@example((0.0, MAX_32 / 2, -2.0, 2.0), "float32")
@example((0.0, 1.0, -1e100, 1e100), "float32")
@example((0.0, 1e-200, 1e200, INF), "float64")
@example((0.0, 1e10, 1e-300, 1e300), "float64")
@example((0.0, 818.9, -INF, -80.0), "float16")
def test_truncated_values_never_leave_their_interval(arguments, dtype):
    mean, std, lower, upper = arguments
    fill = TruncatedNormalFill(mean, std, lower, upper)
    values = encoded(fill, dtype)
    if values is None:
        return
    low, high = fill.bounds
    assert np.isfinite(values).all()
    assert all(low <= Fraction(value) <= high for value in (values.min(), values.max()))


def test_a_tail_that_overflows_is_refused_on_either_side():
    for lower, upper in ((80.0, INF), (-INF, -80.0)):
        with pytest.raises(ValueError, match="overflows"):
            TruncatedNormalFill(0.0, 818.0, lower, upper).encode(dtypes.lookup("float16"))
        TruncatedNormalFill(0.0, 815.0, lower, upper).encode(dtypes.lookup("float16"))


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    st.floats(-10, 10), st.floats(1e-3, 5), st.floats(-12, 12), st.floats(1e-2, 20), st.sampled_from(DTYPES)
)
@example(0.1, 0.3, -0.5, 1.2, "float64")
@example(0.0, 0.02, -2.0, 4.0, "float32")
def test_absolute_bounds_are_never_passed(mean, std, lower, width, dtype):
    upper = lower + width
    try:
        fill = TruncatedNormal(mean, std, lower, upper, absolute=True).resolve(())
    except ValueError:
        return
    values = encoded(fill, dtype)
    if values is not None:
        assert (values >= lower).all()
        assert (values <= upper).all()


@pytest.mark.parametrize("scale", [1.0, 0.02, 3.7, 1e-6])
@pytest.mark.parametrize("mean", [0.0, 0.3, -5.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ordinary_truncations_reach_their_bounds(dtype, mean, scale):
    for upper in (0.5, 2.0, 3.0):
        fill = TruncatedNormalFill(mean, scale, -upper, upper)
        values = extreme_values(fill, dtype)
        slack = scale * upper * 2.0**-18 + abs(mean) * 2.0**-22
        assert values.max() > mean + upper * scale - slack
        assert values.min() < mean - upper * scale + slack


def test_an_encoding_that_was_not_nudged_is_noticed(monkeypatch):
    # The nearest scale and offset of [0, 1) let the last word round up to 1.
    fill = UniformFill(0.0, 1.0)
    kind, split, row = fill.encode(dtypes.lookup("float32"))
    assert extreme_values(fill, "float32").max() < 1
    plain = list(row)
    plain[T.SCALE], plain[T.OFFSET] = 2.0**-32, 0.5
    monkeypatch.setattr(UniformFill, "encode", lambda self, dtype: (kind, split, tuple(plain)))
    assert extreme_values(fill, "float32").max() == 1


# --- rounding inside a dtype --------------------------------------------------------------------------------

NARROW = [name for name in DTYPES if dtypes.lookup(name).itemsize < 4]


@pytest.mark.parametrize("name", NARROW)
def test_neighbours_against_every_value(name):
    dtype, values = dtypes.lookup(name), ordered_values(name)
    rng = np.random.default_rng(4)
    some = values if values.size < 1000 else np.unique(rng.choice(values, 3000))
    middles = (values[:-1] + values[1:]) / 2
    probes = [*some, *rng.choice(middles, 1000), *(values.max() * rng.uniform(-1.2, 1.2, 1000))]
    probes += [*np.nextafter(some, INF), *np.nextafter(some, -INF), values[0] * 2, values[-1] * 2]
    for probe in map(float, probes):
        above, below = np.searchsorted(values, probe, "left"), np.searchsorted(values, probe, "right") - 1
        assert dtype.at_least(probe) == (values[above] if above < values.size else INF), probe
        assert dtype.at_most(probe) == (values[below] if below >= 0 else -INF), probe
        less = np.searchsorted(values, probe, "left") - 1
        assert dtype.below(probe) == (values[less] if less >= 0 else -INF), probe
    for here, there in zip(values[:-1].tolist(), values[1:].tolist(), strict=True):
        assert dtype.above(here) == there
    assert dtype.above(values[-1]) == INF
    assert dtype.max == values[-1]


@pytest.mark.parametrize("name", NARROW)
def test_rounding_to_nearest_even_against_every_value(name):
    dtype, values = dtypes.lookup(name), ordered_values(name)
    rng = np.random.default_rng(5)
    probes = values[0] + (values[-1] - values[0]) * rng.random(2000)
    probes = np.concatenate([probes, rng.choice(values, 1000) * rng.uniform(0.5, 0.999, 1000)]).astype(
        np.float32
    )
    for probe in map(float, probes):
        distance = np.abs(values - probe)
        nearest = values[distance == distance.min()]
        assert dtype.round_to_nearest(probe) in nearest


@settings(max_examples=300, deadline=None, derandomize=True)
@given(finite, st.sampled_from(["float32", "float64"]))
def test_neighbours_of_wide_dtypes(value, name):
    dtype = dtypes.lookup(name)
    real = dtype.numpy.type
    least, most, below = dtype.at_least(value), dtype.at_most(value), dtype.below(value)
    assert most <= value <= least
    assert below < value
    assert below == most or most == value
    for number in (least, most, below):
        assert math.isinf(number) or float(real(number)) == number
    if abs(value) <= dtype.max:
        assert least == most or float(np.nextafter(real(most), real(INF))) == least
    exact = Fraction(value) + Fraction(1, 10**400)
    assert dtype.at_least(exact) > value
    assert dtype.at_most(exact) == most


def test_fractions_past_all_floats():
    huge = Fraction(10) ** 400
    for dtype in map(dtypes.lookup, DTYPES):
        assert (dtype.at_least(huge), dtype.at_most(huge), dtype.below(huge)) == (INF, dtype.max, dtype.max)
        assert (dtype.at_least(-huge), dtype.at_most(-huge)) == (-dtype.max, -INF)


# --- moments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lower", "upper"),
    [
        *(
            (-2.0, 2.0),
            (-3.0, 3.0),
            (-0.5, 0.5),
            (-1.0, 3.0),
            (0.0, 1.0),
            (-INF, 0.5),
            (0.25, INF),
            (2.0, 2.5),
        ),
        *((-INF, INF), (5.25, INF), (-6.5, -6.0), (-1e-3, 1e-3), (1.0, 1.001)),
        *((7.5, INF), (8.0, 9.0), (-INF, -20.0), (40.0, INF), (9.0, 9.001)),
    ],
)
def test_mean_and_std_against_scipy(lower, upper):
    mean, std = 0.3, 2.0
    fill = TruncatedNormalFill(mean, std, lower, upper)
    with mp.workdps(900):  # the mass of the farthest tail is 1e-350, a difference of ones on the left
        a, b = mp.mpf(lower), mp.mpf(upper)

        def density(z):
            return mp.npdf(z) if mp.isfinite(z) else mp.mpf(0)

        mass = (mp.erfc(a / mp.sqrt(2)) - mp.erfc(b / mp.sqrt(2))) / 2
        first = (density(a) - density(b)) / mass
        edges = (a * density(a) if mp.isfinite(a) else 0) - (b * density(b) if mp.isfinite(b) else 0)
        exact_mean, exact_std = float(mean + std * first), float(std * mp.sqrt(1 + edges / mass - first**2))
    peer = stats.truncnorm(lower, upper, loc=mean, scale=std)
    assert peer.mean() == pytest.approx(exact_mean, rel=1e-6)
    assert math.isinf(upper - lower) or peer.std() == pytest.approx(exact_std, rel=1e-2)
    assert fill.mean == pytest.approx(exact_mean, rel=1e-15)
    assert fill.std == pytest.approx(exact_std, rel=1e-15)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.3, 0.5), (-1e300, 1e300), (5.0, 5.5)])
def test_mean_and_std_of_uniform(low, high):
    fill = UniformFill(low, high)
    with np.errstate(over="ignore"):
        assert fill.mean == pytest.approx(low / 2 + high / 2)
        assert fill.std == pytest.approx((high / 2 - low / 2) / math.sqrt(3))


def test_mean_and_std_of_normal_and_constant():
    assert (normal_fill(0.5, 2.0).mean, normal_fill(0.5, 2.0).std) == (0.5, 2.0)
    assert (ConstantFill(3.0).mean, ConstantFill(3.0).std) == (3.0, 0.0)


# --- constants ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_constants_are_rounded_once(dtype):
    numpy = dtypes.lookup(dtype).numpy
    for value in (0.0, -0.0, 1.0, 0.1, -2.7, 1e-7, 300.0):
        kind, pattern, _ = ConstantFill(value).encode(dtypes.lookup(dtype))
        assert kind == T.CONSTANT
        expected = np.asarray(value, np.float64 if dtype == "float64" else np.float32).astype(numpy)
        assert pattern == int(expected.view(f"u{numpy.itemsize}"))
