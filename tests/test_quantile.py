"""The inverse CDF: float64 against mpmath, float32 against float64.

A kernel maps a word to a sign, a magnitude m and its complement t, and those to the tail probability
h = far + (near - far) (t + 1/2) / words between the tails at the two ends of a side; the value is the
normal quantile of exactly that h. mpmath evaluates the CDF at the value that came out: the distance to
the true quantile is (CDF(z) - h) / density(z), to twice the digits that are asked for.
"""

import math
import threading
from functools import cache
from itertools import pairwise

import mpmath as mp
import numba
import numpy as np
import pytest
from cases import INF, extreme_words

from initium import dtypes
from initium.fills.elementwise import TruncatedNormalFill, normal_fill
from initium.kernels import coefficients
from initium.kernels import table as T
from initium.kernels.cpu import instructions as L
from initium.kernels.cpu import memory
from initium.kernels.cpu import normal as cpu_normal
from initium.kernels.cpu import quantile as cpu_quantile
from initium.kernels.reference import normal, quantile
from initium.kernels.reference.arithmetic import polynomial

F32, F64 = dtypes.lookup("float32"), dtypes.lookup("float64")
PRECISION = 220  # bits of mpmath
ULPS_32, ULPS_64 = 4, 8
SYMMETRIC = [0.1, 1.0, 2.0, 3.0, 6.0, INF]
BOUNDED = [
    *((-INF, INF), (-0.1, 0.1), (-1.0, 1.0), (-2.0, 2.0), (-3.0, 3.0), (-6.0, 6.0)),
    *((-1.0, 3.0), (-INF, 0.5), (-0.25, INF), (0.0, INF), (0.001, 4.0), (-3.0, -0.5), (2.0, 2.001)),
    *((5.25, INF), (-INF, -5.25), (12.0, 13.0), (37.0, INF), (40.0, INF), (40.0, 41.0), (-INF, -1000.0)),
    *((1e5, INF), (30.0, 39.0)),
]


def ulps(error, value, digits):
    """Express errors in units of the last place of `value`."""
    return error / np.ldexp(1.0, np.frexp(value)[1] - digits)


# --- the truth ----------------------------------------------------------------------------------------------


def tail(z):
    """P(Z > z), to PRECISION bits of relative precision."""
    return mp.erfc(mp.mpf(z) / mp.sqrt(2)) / 2 if z != INF else mp.mpf(0)


@cache
def sides(lower, upper):
    """Return the sign of the first side, and both sides' (tail at the near end, tail at the far end)."""
    with mp.workprec(PRECISION):
        if upper <= 0:
            return -1, (tail(-upper), tail(-lower)), None
        if lower >= 0:
            return 1, (tail(lower), tail(upper)), None
        return 1, (tail(0), tail(upper)), (tail(0), tail(-lower))


def exact_tail(word, split, bits, lower, upper):
    """Return (sign, h) of a word."""
    sign, first, second = sides(lower, upper)
    if word <= split:
        (near, far), m, words = first, word, split + 1
    else:
        assert second is not None
        sign, (near, far), m, words = -1, second, 2**bits - 1 - word, 2**bits - split - 1
    return sign, far + (near - far) * (2 * (words - 1 - m) + 1) / (2 * words)


def distance(z, h):
    """Return z - quantile(h) for z >= 0."""
    z = mp.mpf(float(z))
    point = z / mp.sqrt(2)
    excess = (1 - 2 * h) - mp.erf(point) if z < 1 else mp.erfc(point) - 2 * h
    step = excess / 2 / (mp.exp(-z * z / 2) / mp.sqrt(2 * mp.pi))
    # CDF(z - step) = h up to step**2: the sign is that of the CDF's excess.
    return float(-step)


def parameters_of(lower, upper, dtype):
    """Return kind, split and parameters of the bare quantile: scale 1, offset 0."""
    fill = normal_fill() if (lower, upper) == (-INF, INF) else TruncatedNormalFill(0.0, 1.0, lower, upper)
    kind, split, row = fill.encode(dtype)
    row = np.array(row)
    row[T.SCALE], row[T.OFFSET] = math.copysign(1.0, row[T.SCALE]), 0.0
    return kind, split, row


# --- float64 ------------------------------------------------------------------------------------------------


def words_64(rng, split, count):
    """Words of every binade of m and t on both sides, at the ends and the border, and at random."""
    top = 2**64 - 1
    words = {word for word in extreme_words(64)}
    words |= {split + i for i in range(-20, 21) if 0 <= split + i <= top} | {0, 1, top - 1, top}
    words |= {int(word) for word in rng.integers(0, top, count, np.uint64, endpoint=True)}
    for _ in range(count // 2):
        step = int(2.0 ** rng.uniform(0, 63))
        words |= {w for w in (step, split - step, split + step, top - step) if 0 <= w <= top}
    return np.array(sorted(words), np.uint64)


def worst_64(lower, upper, count):
    """Return the largest error in ulp over a sample of 64-bit words, and the size of the sample."""
    kind, split, row = parameters_of(lower, upper, F64)
    assert kind == T.BOUNDED_NORMAL
    words = words_64(np.random.default_rng(5), split, count)
    made = normal.bounded_normal64(words, split, row)
    worst = 0.0
    with mp.workprec(PRECISION):
        for word, z in zip(words.tolist(), made.tolist(), strict=True):
            sign, h = exact_tail(word, split, 64, lower, upper)
            assert z * sign > 0
            worst = max(worst, abs(float(ulps(distance(abs(z), h), abs(z), 53))))
    return worst, len(words)


@pytest.mark.parametrize(("lower", "upper"), BOUNDED)
def test_float64_is_within_8_ulp_of_mpmath(lower, upper):
    worst, count = worst_64(lower, upper, 3000 if math.isinf(upper - lower) else 1200)
    assert count >= 2000
    assert worst <= ULPS_64


@pytest.mark.parametrize("lower", [5.25, 40.0])
def test_a_bound_that_is_a_little_off_is_noticed(lower, monkeypatch):
    # A neighbouring bound, 16 ulp off.
    _, split, row = parameters_of(lower, INF, F64)
    words = np.array([1, 2, 3], np.uint64) << np.uint64(61)
    made = normal.bounded_normal64(words, split, row)
    off = lower * (1 + 2.0**-48)
    with mp.workprec(PRECISION):
        for word, z in zip(words.tolist(), made.tolist(), strict=True):
            assert abs(ulps(distance(z, exact_tail(word, split, 64, lower, INF)[1]), z, 53)) <= ULPS_64
            assert abs(ulps(distance(z, exact_tail(word, split, 64, off, INF)[1]), z, 53)) > ULPS_64


@pytest.mark.parametrize(("lower", "upper"), BOUNDED)
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_the_split_between_the_sides_is_exact(lower, upper, dtype):
    kind, split, _ = parameters_of(lower, upper, dtype)
    if kind != T.BOUNDED_NORMAL:
        assert lower == -upper
        return
    words = 2**dtype.word_bits
    _, (near, far), second = sides(lower, upper)
    if second is None:
        assert split == words - 1
    else:
        with mp.workprec(PRECISION):
            share = (near - far) / (near - far + second[0] - second[1])
            assert abs(split + 1 - share * words) <= 0.5


def test_float64_is_monotonic_to_a_few_ulp():
    _, split, row = parameters_of(-INF, INF, F64)
    m = np.unique(np.random.default_rng(1).integers(0, 2**63, 200_000, dtype=np.uint64))
    z = normal.bounded_normal64(m, split, row)
    fall = np.maximum.accumulate(z) - z
    assert ulps(fall, z, 53).max() <= 2 * ULPS_64


# --- float32 ------------------------------------------------------------------------------------------------

_INSET = mp.mpf(1) - mp.mpf(2) ** -21  # of the truncation bound, see initium.fills


@cache
def outside(c):
    """Return the two-sided probability beyond the inset bound."""
    with mp.workprec(PRECISION):
        return 2 * tail(mp.mpf(c) * _INSET) if c != INF else mp.mpf(0)


def oracle(m, c):
    """Return the quantiles of 31-bit magnitudes from float64 arithmetic."""
    kept, q = float(1 - outside(c)), float(outside(c))
    m = np.asarray(m, np.float64)
    h = q / 2 + kept * (2.0**31 - 0.5 - m) * 2.0**-32
    x = coefficients.NORMAL64_WIDE_X_SCALE * kept * (m + 0.5) * 2.0**-31
    return quantile.quantile64(x, h, h, np.full(h.shape, -math.log(2)))


def singles(words, c):
    """Return the float32 quantiles of signed words, as the reference draws them."""
    kind, _, row = parameters_of(-c, c, F32)
    assert kind == (T.CENTRAL_NORMAL if c <= 2 else T.NORMAL)
    sampler = normal.central_normal32 if c <= 2 else normal.normal32
    return sampler(np.asarray(words).astype(np.int32).view(np.uint32), row)


def signed_oracle(words, c):
    """Return the quantiles of signed words: w and ~w = -1 - w mirror each other."""
    words = np.asarray(words)
    z = oracle(np.where(words < 0, ~words, words), c)
    return np.where(words < 0, -z, z)


@cache
def magnitudes(c):
    """A dense sample of the 2**31 magnitudes.

    - Every binade of m and of t = 2**31 - 1 - m: its ends +-64 and 512 places within. The integers become
      float32 by rounding to 24 bits and go through one fma; so the only structure on a scale below
      2**-23 of a binade is rounding noise, whose law is the same all over a binade.
    - Every border between pieces +-4096: h = 2**-11 (wide to tail), the borders of the exponent within
      the logarithm (h = sqrt(1/2) 2**k), and the binades of z, where its ulp doubles.
    - Both ends, 65536 each, and 2**20 at random.
    """
    rng = np.random.default_rng(11)
    top, near = 2**31 - 1, np.arange(-4096, 4097)
    parts = [np.arange(65536), top - np.arange(65536), rng.integers(0, top + 1, 1 << 20)]
    for k in range(31):
        places = np.concatenate([2**k + np.arange(-64, 65), (2**k * rng.uniform(1, 2, 512)).astype(np.int64)])
        parts += [places, top - places]
    kept, q = float(1 - outside(c)), float(outside(c))
    borders = [2.0**-11, *(2.0 ** -(k + 0.5) for k in range(1, 34))]
    borders += [math.erfc(2.0**k / math.sqrt(2)) / 2 for k in range(-28, 3)]
    for h in borders:
        if q / 2 < h:
            parts.append(top - int((h - q / 2) / kept * 2.0**32) + near)
    m = np.concatenate(parts)
    return np.unique(m[(m >= 0) & (m <= top)])


@pytest.mark.parametrize("c", SYMMETRIC)
def test_the_oracle_is_within_8_ulp_of_mpmath(c):
    m = np.random.default_rng(2).choice(magnitudes(c), 1500)
    made = oracle(m, c)
    worst = 0.0
    with mp.workprec(PRECISION):
        q = outside(c)
        for i, z in zip(m.tolist(), made.tolist(), strict=True):
            h = q / 2 + (1 - q) * (2 * (2**31 - 1 - i) + 1) / mp.mpf(2) ** 33
            worst = max(worst, abs(float(ulps(distance(z, h), z, 53))))
    assert worst <= 2 * ULPS_64  # h itself is a rounded float64 here


@pytest.mark.parametrize("c", SYMMETRIC)
def test_float32_is_within_4_ulp(c):
    m = magnitudes(c)
    assert m.size > 1_300_000
    exact = oracle(m, c)
    for sign, words in ((1, m), (-1, ~m)):  # integers of either sign are rounded to float32 on their own
        z = sign * singles(words, c)
        assert np.abs(ulps(z - exact, exact, 24)).max() <= ULPS_32
        assert (z > 0).all()
        assert (z <= c).all()


@pytest.mark.parametrize("c", SYMMETRIC)
def test_float32_is_unbiased(c):
    # Rounding noise averages out over random words; 0.01 of its spread would be chance.
    words = np.random.default_rng(6).integers(-(2**31), 2**31, 1 << 20)
    exact = signed_oracle(words, c)
    error = ulps(singles(words, c) - exact, exact, 24)
    away = error * np.sign(exact)
    assert abs(error.mean()) < 0.03
    assert abs(away.mean()) < 0.5  # the steps of x and h are rounded floats


@pytest.mark.parametrize(("lower", "upper"), [b for b in BOUNDED if b[0] != -b[1]])
def test_other_bounds_of_float32_are_float64_quantiles(lower, upper):
    kind, split, row = parameters_of(lower, upper, F32)
    assert kind == T.BOUNDED_NORMAL
    rng = np.random.default_rng(3)
    words = np.unique(np.concatenate([extreme_words(32), rng.integers(0, 2**32, 400)]).astype(np.uint32))
    made = normal.bounded_normal64(words, split, row)  # which the fill rounds once to float32
    with mp.workprec(PRECISION):
        for word, z in zip(words.tolist(), made.tolist(), strict=True):
            sign, h = exact_tail(word, split, 32, lower, upper)
            assert abs(ulps(distance(z * sign, h), abs(z), 53)) <= ULPS_64


def test_the_smallest_values_are_relatively_precise():
    m = np.arange(2000)
    exact = math.sqrt(2 * math.pi) * (m + 0.5) * 2.0**-32  # the quantile is linear here, to 1e-13
    assert np.abs(ulps(singles(m, INF) - exact, exact, 24)).max() <= ULPS_32
    _, split, row = parameters_of(-INF, INF, F64)
    made = normal.bounded_normal64(m.astype(np.uint64), split, row)
    exact = math.sqrt(2 * math.pi) * (m + 0.5) * 2.0**-64
    assert np.abs(ulps(made - exact, exact, 53)).max() <= ULPS_64


def test_the_largest_values():
    with mp.workprec(PRECISION):
        far32 = float(mp.sqrt(2) * mp.erfinv(1 - mp.mpf(2) ** -32))
    last = singles([2**31 - 1], INF)[0]
    assert abs(ulps(last - far32, far32, 24)) <= ULPS_32
    assert 6.2 < last < 6.4


def test_a_coefficient_that_is_a_little_off_is_noticed(monkeypatch):
    m = magnitudes(INF)
    exact = oracle(m, INF)
    for name, place in (("NORMAL32_WIDE_A", 3), ("NORMAL32_TAIL_A", 2), ("NORMAL32_LOG", 0)):
        changed = list(getattr(coefficients, name))
        changed[place] *= 1 + 2.0**-12
        with monkeypatch.context() as patch:
            patch.setattr(coefficients, name, tuple(changed))
            assert np.abs(ulps(singles(m, INF) - exact, exact, 24)).max() > ULPS_32, name


def test_without_fma_other_values_come_out(monkeypatch):
    def two_roundings(a, b, c):
        return a * b + c

    m = magnitudes(INF)
    before = singles(m, INF)
    monkeypatch.setattr(normal, "fma", two_roundings)
    monkeypatch.setattr(quantile, "fma", two_roundings)
    monkeypatch.setitem(polynomial.__globals__, "fma", two_roundings)
    assert (singles(m, INF) != before).mean() > 0.01


# --- every word, through the Numba kernels -------------------------------------------------------------

_BLOCKS = 4
_VALUES = 4 * _BLOCKS
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_SIGN_BIT = np.uint32(31)
_LN2 = math.log(2)


def _scanner(sampler):
    """Compile a loop over blocks of four consecutive words; it returns (largest error in ulp, where)."""

    @numba.njit(nogil=True, error_model="numpy")
    def scan(first, last, p, x_step, h_step, h_start, single, double, single_at, double_at):
        worst, where = 0.0, np.uint64(0)
        word = first
        while word < last:
            a = L.iota(word >> np.uint64(2), _BLOCKS) << np.uint64(2)
            words = L.interleave_words(a, a | np.uint64(1), a | np.uint64(2), a | np.uint64(3))
            memory.store(single_at, sampler(words, p))
            magnitude = words ^ L.shift_signed(words, _SIGN_BIT)
            h = L.fma(L.unsigned_to_float(L.widen(magnitude ^ _MAGNITUDE)), h_step, h_start)
            x = L.fma(L.unsigned_to_float(L.widen(magnitude)), x_step, x_step * 0.5)
            memory.store(double_at, cpu_quantile.quantile64(x, h, h, L.splat(-_LN2, h)))
            for i in range(_VALUES):
                exact = double[i]
                error = abs(abs(np.float64(single[i])) - exact)
                exponent = (np.float64(exact).view(np.int64) >> np.int64(52)) - np.int64(23)
                size = error / np.int64(exponent << np.int64(52)).view(np.float64)
                if size > worst:
                    worst, where = size, word + np.uint64(i)
            word += np.uint64(_VALUES)
        return worst, where

    return scan


def scan(c, first, last, threads=2, **change):
    """Return the largest error in ulp of the Numba kernel over words [first, last), and its word."""
    _, _, row = parameters_of(-c, c, F32)
    for place, factor in change.items():
        row[getattr(T, place)] *= factor
    p = tuple(np.float32(value) for value in row)
    kept, q = float(1 - outside(c)), float(outside(c))
    numbers = coefficients.NORMAL64_WIDE_X_SCALE * kept * 2.0**-31, kept * 2.0**-32, q / 2 + kept * 2.0**-33
    run = _scanner(cpu_normal.central_normal32 if c <= 2 else cpu_normal.normal32)
    found = []

    def work(start, stop):
        single, double = np.zeros(_VALUES, np.float32), np.zeros(_VALUES)
        addresses = np.uint64(single.ctypes.data), np.uint64(double.ctypes.data)
        found.append(run(np.uint64(start), np.uint64(stop), p, *numbers, single, double, *addresses))

    cuts = [first + (last - first) * i // threads // _VALUES * _VALUES for i in range(threads)] + [last]
    workers = [threading.Thread(target=work, args=cut) for cut in pairwise(cuts)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == threads
    return max(found)


@pytest.mark.parametrize("c", [2.0, INF])
def test_the_scan_over_numba_words(c):
    for first in (0, 2**30, 2**31 - 2**19, 2**31, 2**32 - 2**19):
        worst, word = scan(c, first, first + 2**19)
        assert worst <= ULPS_32, word
        # The same words by the reference, so that the scan itself is known to look at the right thing.
        words = np.arange(first, first + 2**19).astype(np.uint32).view(np.int32)
        exact = signed_oracle(words, c)
        assert abs(np.abs(ulps(singles(words, c) - exact, exact, 24)).max() - worst) < 1e-6
    assert scan(c, 0, 2**16, X_STEP=1 + 2.0**-20)[0] > ULPS_32


@pytest.mark.exhaustive
@pytest.mark.parametrize("c", SYMMETRIC)
def test_every_word_of_float32(c):
    worst, word = scan(c, 0, 2**32)
    print(f"truncated at {c}: at most {worst:.4f} ulp, at word {word}")
    assert worst <= ULPS_32
