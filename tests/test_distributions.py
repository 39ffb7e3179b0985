"""Distributions: 1e8 values of each against exact CDFs, and what must be independent.

Seeds are fixed, so every run gives the same result; ALPHA is the rate at which a correct generator would
fail one check for a seed of anybody's choice. There are about 600 checks: all of them pass with
probability above 0.99 for a correct generator. Each kind of check has a negative control: values that are
slightly wrong, which it must reject.

Values are counted in buckets of float32 patterns (BUCKET_BITS low bits dropped), whose borders are exact,
so that KS, chi-square, symmetry and tails all come from one pass; KS at bucket borders only is a little
conservative. The probability of a bucket is the difference of the exact CDF at its borders. The float32
grid moves that by less than 1e-7 (a few counts of 1e8, against the chance spread of hundreds).
"""

import math
from fractions import Fraction
from functools import cache
from threading import Thread

import mpmath as mp
import numba
import numpy as np
import pytest
from cases import DTYPES, INF, ordered_values
from scipy import special, stats

import initium as ini
from initium import dtypes

ALPHA = 1e-5
COUNT = 10**8
CHUNK = 5 * 10**6
SEED = 20240607
BUCKET_BITS = 12
BUCKETS = 1 << (32 - BUCKET_BITS)
LAGS = 8
#: P(Z > 3), P(Z > 4) and P(Z > 5): for the normal, the thresholds are 3, 4 and 5 themselves.
TAILS = special.ndtr([-3.0, -4.0, -5.0])


# --- exact laws ---------------------------------------------------------------------------------------------


class Law:
    """A distribution: CDF, its complement (both precise where small) and central moments."""

    def __init__(self, initializer, lower, upper, symmetric=False):
        self.initializer, self.lower, self.upper, self.symmetric = initializer, lower, upper, symmetric

    def between(self, a, b):
        """P(a < value <= b), elementwise, without cancellation; a <= b."""
        a, b = (np.clip(v, self.lower, self.upper) for v in (a, b))
        return np.where(a > 0, self._mass(-b, -a, True), self._mass(a, b, False)) / self._whole

    def _mass(self, a, b, mirrored):
        raise NotImplementedError

    @cache  # noqa: B019
    def moments(self):
        """Return the mean, and E (value - mean)**k for k up to 8, as floats."""
        with mp.workdps(40):
            low, high = (min(max(end, self._start), self._stop) for end in (self.lower, self.upper))
            points = [mp.mpf(low) + (mp.mpf(high) - low) * i / 8 for i in range(9)]
            norm = mp.quad(self.density, points)
            mean = mp.quad(lambda v: v * self.density(v), points) / norm
            return float(mean), [
                float(mp.quad(lambda v, k=k: (v - mean) ** k * self.density(v), points) / norm)
                for k in range(9)
            ]

    @cache  # noqa: B019
    def thresholds(self):
        """Return float32 thresholds of TAILS below and above, and the probabilities of <= and >= them."""
        low, high = (np.array([self._threshold(p, side) for p in TAILS], np.float32) for side in (-1, 1))
        # A value rounds to the threshold from half a unit beyond it.
        reach = [v.astype(np.float64) + s * np.spacing(np.abs(v)) / 2 for v, s in ((low, 1), (high, -1))]
        everything = np.full(len(TAILS), INF)
        return low, high, self.between(-everything, reach[0]), self.between(reach[1], everything)

    def _threshold(self, p, side):
        near, far = max(self.lower, -9.0), min(self.upper, 9.0)
        for _ in range(80):
            middle = (near + far) / 2
            beyond = self.between(-INF, middle) if side < 0 else self.between(middle, INF)
            if (beyond < p) == (side < 0):
                near = middle
            else:
                far = middle
        return near


class Gaussian(Law):
    """Normal of mean 0 and std 1 on [lower, upper]."""

    _start, _stop = -12.0, 17.0
    density = staticmethod(mp.npdf)

    @property
    def _whole(self):
        if self.lower > 0:
            return special.ndtr(-self.lower) - special.ndtr(-self.upper)
        return special.ndtr(self.upper) - special.ndtr(self.lower)

    def _mass(self, a, b, mirrored):
        return special.ndtr(b) - special.ndtr(a)


class Flat(Law):
    """Uniform."""

    _start, _stop = -INF, INF

    @staticmethod
    def density(v):
        return mp.mpf(1)

    @property
    def _whole(self):
        return self.upper - self.lower

    def _mass(self, a, b, mirrored):
        return b - a


LAWS = {
    "uniform": Flat(ini.Uniform(-1.0, 1.0), -1.0, 1.0, symmetric=True),
    "normal": Gaussian(ini.Normal(), -INF, INF, symmetric=True),
    "truncated_2": Gaussian(ini.TruncatedNormal(0.0, 1.0, -2.0, 2.0), -2.0, 2.0, symmetric=True),
    "truncated_3": Gaussian(ini.TruncatedNormal(0.0, 1.0, -3.0, 3.0), -3.0, 3.0, symmetric=True),
    "asymmetric": Gaussian(ini.TruncatedNormal(0.0, 1.0, -1.0, 3.0), -1.0, 3.0),
    "far_tail": Gaussian(ini.TruncatedNormal(0.0, 1.0, 5.25, INF), 5.25, INF),
}


# --- counting -----------------------------------------------------------------------------------------------


@numba.njit(nogil=True)
def _count(patterns, values, mean, std, low, high, counts, below, above, sums, products, squares):
    """Add values to bucket and tail counts, sums of powers 1 to 4 about the mean, and products at lags."""
    n = values.size
    for i in range(n):
        bits = patterns[i]
        ordered = ~bits if bits >> np.uint32(31) else bits | np.uint32(0x80000000)
        counts[ordered >> np.uint32(BUCKET_BITS)] += 1
        if values[i] <= low[0]:
            for k in range(low.size):
                below[k] += values[i] <= low[k]
        if values[i] >= high[0]:
            for k in range(high.size):
                above[k] += values[i] >= high[k]
    partial = np.zeros(4)
    for start in range(0, n, 4096):  # blocks keep the rounding errors of the sums far below their spread
        partial[:] = 0.0
        for i in range(start, min(start + 4096, n)):
            d = values[i] - mean
            partial[0] += d
            partial[1] += d * d
            partial[2] += d * d * d
            partial[3] += d * d * d * d
        sums += partial
    # A value that a lag misses at the end of a chunk is one in millions.
    for lag in range(1, products.size + 1):
        total, total_squares = 0.0, 0.0
        for i in range(n - lag):
            a, b = (values[i] - mean) / std, (values[i + lag] - mean) / std
            total += a * b
            total_squares += (a * a - 1) * (b * b - 1)
        products[lag - 1] += total
        squares[lag - 1] += total_squares


class Tally:
    """What was counted of one sample."""

    def __init__(self, draw, law, count=COUNT, lags=LAGS):
        """`draw(start, stop)` returns float32 values that are to be taken for those of `law`."""
        self.count = count
        self.counts = np.zeros(BUCKETS, np.int64)
        self.below, self.above = np.zeros(3, np.int64), np.zeros(3, np.int64)
        self.sums, self.products, self.squares = np.zeros(4), np.zeros(lags), np.zeros(lags)
        halves = [Thread(target=self._half, args=(draw, law, half)) for half in range(2)]
        self._parts = []
        for half in halves:
            half.start()
        for half in halves:
            half.join()
        assert len(self._parts) == 2
        for part in self._parts:
            for name, value in part.items():
                setattr(self, name, getattr(self, name) + value)
        assert self.counts.sum() == count

    def _half(self, draw, law, half):
        names = ("counts", "below", "above", "sums", "products", "squares")
        part = {name: np.zeros_like(getattr(self, name)) for name in names}
        mean, central = law.moments()
        fixed = mean, math.sqrt(central[2]), law.thresholds()[0], law.thresholds()[1]
        for start in range(half * CHUNK, self.count, 2 * CHUNK):
            values = draw(start, min(start + CHUNK, self.count))
            _count(values.view(np.uint32), values, *fixed, *part.values())
        self._parts.append(part)


def drawn(initializer, name, seed=SEED):
    """Return a function that draws a part of a tensor of COUNT values on one thread."""

    def draw(start, stop):
        box = slice(start, stop)
        return ini.initialize(initializer, COUNT, seed=seed, name=name, box=box, threads=1)

    return draw


def tally(name, initializer=None, change=None, count=COUNT, lags=LAGS):
    """Count a sample of a law, or of something else that is to be taken for it."""
    law = LAWS[name]
    draw = drawn(initializer or law.initializer, name)
    if change is not None:
        return Tally(lambda start, stop: change(draw(start, stop)), law, count, lags)
    return Tally(draw, law, count, lags)


@cache
def sample(name):
    return tally(name)


def borders():
    """Return the lower border of every bucket as float64, minus infinity first and infinity last."""
    ordered = (np.arange(BUCKETS, dtype=np.uint64) << np.uint64(BUCKET_BITS)).astype(np.uint32)
    bits = np.where(ordered >> 31 == 1, ordered ^ np.uint32(0x80000000), ~ordered).astype(np.uint32)
    with np.errstate(invalid="ignore"):
        values = bits.view(np.float32).astype(np.float64)
    # A negative bucket's lowest pattern is its value farthest from zero; what lies between it and the next
    # value outwards rounds to either, which is below what can be seen.
    values[np.isnan(values)] = np.where(np.flatnonzero(np.isnan(values)) < BUCKETS // 2, -INF, INF)
    return np.append(values, INF)


BORDERS = borders()


@cache
def expected(name):
    """Return the probability of every bucket."""
    return LAWS[name].between(BORDERS[:-1], BORDERS[1:])


# --- the checks: each returns a p-value, or the smallest of several, corrected for their number -------------


def smallest(p):
    """Sidak's correction."""
    p = np.asarray(p)
    return float(-np.expm1(p.size * np.log1p(-p.min())))


def two_sided(z):
    return 2 * special.ndtr(-np.abs(z))


def ks(found, name):
    """Kolmogorov and Smirnov, at all borders."""
    distance = np.abs(np.cumsum(found.counts) / found.count - np.cumsum(expected(name))).max()
    return float(special.kolmogorov(distance * math.sqrt(found.count)))


def chi_square(found, name, groups=1000):
    """Pearson's chi-square over about `groups` groups of buckets of even probability."""
    group = np.minimum(np.cumsum(expected(name)) * groups, groups - 1).astype(np.int64)
    p = np.bincount(group, expected(name), groups)
    counts = np.bincount(group, found.counts, groups)
    used = p * found.count > 50
    assert used.sum() > min(groups // 2, 90)
    assert counts[~used].sum() <= 50 * groups
    statistic = ((counts - found.count * p)[used] ** 2 / (found.count * p)[used]).sum()
    return float(stats.chi2.sf(statistic, used.sum() - 1))


def moments(found, name):
    """Return p-values of the first four moments about the true mean."""
    _, central = LAWS[name].moments()
    made = found.sums / found.count
    spread = [math.sqrt((central[2 * k] - central[k] ** 2) / found.count) for k in range(1, 5)]
    return two_sided((made - central[1:5]) / spread)


def tails(found, name):
    """Counts beyond 3, 4 and 5 sigmas, or beyond what has their probability, on each side."""
    _, _, below, above = LAWS[name].thresholds()
    found_p = []
    for counts, masses in ((found.below, below), (found.above, above)):
        for count, mass in zip(counts, masses, strict=True):
            low, high = (
                stats.binom.cdf(count, found.count, mass),
                stats.binom.sf(count - 1, found.count, mass),
            )
            found_p.append(min(1.0, 2 * min(low, high)))
    return smallest(found_p)


def symmetry(found, name, groups=500):
    """Compare the counts of values and of their negatives, in groups."""
    above, below = found.counts[BUCKETS // 2 :], found.counts[: BUCKETS // 2][::-1]
    mass = np.cumsum(expected(name)[BUCKETS // 2 :])
    group = np.minimum(mass / mass[-1] * groups, groups - 1).astype(np.int64)
    above, below = np.bincount(group, above, groups), np.bincount(group, below, groups)
    both = above + below
    used = both > 50
    statistic = ((above - below)[used] ** 2 / both[used]).sum()
    return float(stats.chi2.sf(statistic, used.sum()))


def neighbours(found, name):
    """Correlation at lags 1 to 8, of values and of their squares."""
    _, central = LAWS[name].moments()
    spread = central[4] / central[2] ** 2 - 1  # variance of a squared standardised value
    z = np.concatenate([found.products, found.squares / spread]) / math.sqrt(found.count)
    return smallest(two_sided(z))


# --- 1e8 values of each -------------------------------------------------------------------------------------

every_law = pytest.mark.parametrize("name", LAWS)


@every_law
def test_ks(name):
    assert ks(sample(name), name) > ALPHA


@every_law
def test_chi_square(name):
    assert chi_square(sample(name), name) > ALPHA


@every_law
def test_moments(name):
    assert smallest(moments(sample(name), name)) > ALPHA


@every_law
def test_tail_counts(name):
    assert tails(sample(name), name) > ALPHA


def test_the_normal_has_values_beyond_5_sigmas():
    found = sample("normal")
    low, high, below, above = LAWS["normal"].thresholds()
    np.testing.assert_allclose(high, [3, 4, 5], rtol=1e-6)
    np.testing.assert_allclose(low, [-3, -4, -5], rtol=1e-6)
    np.testing.assert_allclose([below, above], [TAILS, TAILS], rtol=2e-6)
    assert 20 < found.below[2] + found.above[2] < 110  # 57 expected
    assert found.counts[BORDERS[:-1] >= 6.35].sum() == 0


@pytest.mark.parametrize("name", [name for name in LAWS if LAWS[name].symmetric])
def test_symmetry(name):
    assert symmetry(sample(name), name) > ALPHA


@every_law
def test_neighbours(name):
    assert neighbours(sample(name), name) > ALPHA


@every_law
def test_no_value_outside(name):
    counts, law = sample(name).counts, LAWS[name]
    outside = (BORDERS[:-1] > law.upper) | (BORDERS[1:] < law.lower)
    assert counts[outside].sum() == 0


# --- controls: slightly wrong values, which the checks must reject ------------------------------------------

CONTROL = 10**7 * 2


def test_a_shifted_mean_is_noticed():
    found = tally("normal", ini.Normal(2e-3, 1.0), count=CONTROL, lags=0)
    assert ks(found, "normal") < ALPHA
    assert chi_square(found, "normal", 100) < ALPHA
    assert symmetry(found, "normal", 20) < ALPHA
    assert moments(found, "normal")[0] < ALPHA


def test_a_shift_of_1e_3_is_noticed_at_full_size():
    found = tally("normal", ini.Normal(1e-3, 1.0), lags=0)
    assert ks(found, "normal") < ALPHA
    assert moments(found, "normal")[0] < ALPHA
    assert symmetry(found, "normal", 20) < ALPHA


def test_a_wrong_std_is_noticed():
    found = tally("normal", ini.Normal(0.0, 1.002), count=CONTROL, lags=0)
    assert ks(found, "normal") < ALPHA
    assert chi_square(found, "normal", 100) < ALPHA
    assert moments(found, "normal")[1] < ALPHA
    assert moments(found, "normal")[3] < ALPHA


def test_a_wrong_kurtosis_is_noticed():
    def bend(v):  # a slightly heavier tail, of the same variance
        return ((v + np.float32(1e-3) * v**3) / np.float32(1 + 3e-3)).astype(np.float32)

    found = tally("normal", change=bend, count=CONTROL, lags=0)
    assert moments(found, "normal")[3] < ALPHA


@pytest.mark.parametrize(("name", "cut"), [("normal", 4.4), ("far_tail", 7.0), ("uniform", 0.99999)])
def test_a_truncated_tail_is_noticed(name, cut):
    found = tally(name, change=lambda v: np.where(v > np.float32(cut), -v if cut < 5 else v - 1, v), lags=0)
    assert tails(found, name) < ALPHA


def test_wrong_bounds_are_noticed():
    found = tally("truncated_2", ini.TruncatedNormal(0.0, 1.0, -2.01, 2.01), count=CONTROL, lags=0)
    assert ks(found, "truncated_2") < ALPHA
    assert chi_square(found, "truncated_2", 100) < ALPHA
    found = tally("asymmetric", ini.TruncatedNormal(0.0, 1.0, -1.0, 3.1), count=CONTROL, lags=0)
    assert tails(found, "asymmetric") < ALPHA


def test_a_coarse_grid_is_noticed():
    def coarse(v):
        return np.round(v * np.float32(512)) / np.float32(512)

    assert chi_square(tally("uniform", change=coarse, count=CONTROL, lags=0), "uniform") < ALPHA


def test_correlated_neighbours_are_noticed():
    def mix(v):
        a = np.float32(0.0015)
        made = v.copy()
        made[3:] = np.sqrt(1 - a * a) * v[3:] + a * v[:-3]
        return made

    assert neighbours(tally("normal", change=mix, count=CONTROL), "normal") < ALPHA


def test_neighbours_of_dependent_size_are_noticed():
    def same_size(v):
        made = v.copy()
        made[:-1:250] = np.copysign(v[1::250], v[:-1:250])
        return made

    assert neighbours(tally("normal", change=same_size, count=CONTROL), "normal") < ALPHA


# --- between tensors and between seeds ----------------------------------------------------------------------

PAIR = 1 << 20


def agreement(a, b):
    """Return the p-value of the number of equal bits, and of equal words, of two arrays of words."""
    differing = int(np.bitwise_count(a ^ b).sum(dtype=np.int64))
    bits = 32 * a.size
    equal = int((a == b).sum())
    return smallest(
        [two_sided((differing - bits / 2) / math.sqrt(bits / 4)), stats.poisson.sf(equal - 1, a.size / 2**32)]
    )


def per_bit(a, b):
    """Return the p-value of the agreement of each of the 32 bits."""
    differing = np.array([((a ^ b) >> np.uint32(k) & np.uint32(1)).sum(dtype=np.int64) for k in range(32)])
    return smallest(two_sided((differing - a.size / 2) / math.sqrt(a.size / 4)))


def correlation(a, b):
    """Return the p-value of the correlation of two standard normal arrays, at shifts -2 to 2 and -4, 4."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    found = []
    for shift in (-4, -2, -1, 0, 1, 2, 4):
        x, y = (a[shift:], b[: b.size - shift]) if shift >= 0 else (a[:shift], b[-shift:])
        found.append(float(x @ y) / math.sqrt(x.size))
    return smallest(two_sided(np.array(found)))


def words(seed, name):
    return ini.bits(PAIR // 4, seed=seed, name=name)


def normals(seed, name):
    return ini.normal(PAIR, seed=seed, name=name)


NAMES = [
    *(
        "",
        "a",
        "b",
        "w",
        "W",
        "w ",
        "weight",
        "weighs",
        "h.0.weight",
        "h.1.weight",
        "h.10.weight",
        "h.01.weight",
    ),
    *(f"model.layers.{i}.self_attn.{p}_proj.weight" for i in (0, 1, 10, 11) for p in "qkv"),
    *("transformer.h.0.attn.c_attn.weight", "transformer.h.0.attn.c_attn.bias"),
]


@pytest.mark.parametrize("name", NAMES[1:])
def test_tensors_are_independent(name):
    for other in (NAMES[NAMES.index(name) - 1], NAMES[0]):
        a, b = words(SEED, name), words(SEED, other)
        assert agreement(a, b) > ALPHA
        assert per_bit(a, b) > ALPHA
        assert correlation(normals(SEED, name), normals(SEED, other)) > ALPHA


def test_streams_of_names_are_distinct():
    names = {f"model.layers.{i}.{p}" for i in range(500) for p in ("a.weight", "b.weight", "a.bias", "norm")}
    names |= {f"{c}{d}" for c in map(chr, range(32, 500)) for d in ("", "x", ".weight")}
    streams = np.array([ini.stream_id(name) for name in sorted(names)], np.uint64)
    assert np.unique(streams).size == streams.size
    flips = np.bitwise_count(streams[1:] ^ streams[:-1]).astype(np.int64)
    assert two_sided((flips.sum() - 32 * flips.size) / math.sqrt(16 * flips.size)) > ALPHA


@pytest.mark.parametrize("name", ["", "h.0.weight"])
def test_seeds_are_independent(name):
    seeds = [SEED + 1, SEED + 2, SEED - 1, 0, *(SEED ^ 1 << k for k in range(64))]
    own, own_normals = words(SEED, name), normals(SEED, name)
    for seed in seeds:
        other = words(seed, name)
        assert agreement(own, other) > ALPHA, seed
        assert per_bit(own, other) > ALPHA, seed
        assert correlation(own_normals, normals(seed, name)) > ALPHA, seed


def test_dependent_tensors_are_noticed():
    a, b = words(SEED, "a"), words(SEED, "b")
    same = b.copy()
    same[::200_000] = a[::200_000]  # two equal words in 2**18
    assert agreement(a, same) < ALPHA
    rng = np.random.default_rng(1)
    one_bit = np.where(rng.random(a.size) < 0.02, a & np.uint32(64) | b & ~np.uint32(64), b)
    assert per_bit(a, one_bit) < ALPHA
    x, y = normals(SEED, "a"), normals(SEED, "b")
    for shift in (0, 1, -4):
        assert correlation(x, y + 0.008 * np.roll(x, -shift)) < ALPHA


# --- the other dtypes: the exact discrete law of rounded values ---------------------------------------------

NARROW = [name for name in DTYPES if dtypes.lookup(name).itemsize < 4]
NARROW_COUNT = 10**7
#: Laws in narrow dtypes, off their grids: (law, scale, offset) and the interval of what may come out.
ROUNDED = {
    "uniform": (Flat(ini.Uniform(0.0, 1.0), 0.0, 1.0), 1.0, 0.0),
    "uniform_off_grid": (Flat(ini.Uniform(-0.3, 0.7), -0.3, 0.7), 1.0, 0.0),
    "normal": (LAWS["normal"], 1.0, 0.0),
    "truncated_2": (LAWS["truncated_2"], 1.0, 0.0),
    "truncated_off_grid": (Gaussian(ini.TruncatedNormal(0.1, 0.3, -2.0, 2.0), -2.0, 2.0), 0.3, 0.1),
    "asymmetric": (LAWS["asymmetric"], 1.0, 0.0),
    "far_tail": (LAWS["far_tail"], 1.0, 0.0),
}


def discrete(dtype, law, scale, offset):
    """Return the values that may come out, and their probabilities: all that is rounded to each."""
    values = ordered_values(dtype)
    low, high = law.lower * scale + offset, law.upper * scale + offset
    fill = law.initializer.resolve(())
    if isinstance(law, Flat):
        values = values[(values >= low) & (values < high)]
    else:  # 0.1 - 2 * 0.3, worked out exactly, is a little more than -0.5
        values = values[[fill.bounds[0] <= value <= fill.bounds[1] for value in map(Fraction, values)]]
    edges = np.concatenate([[low], (values[1:] + values[:-1]) / 2, [high]])
    return values, law.between((edges[:-1] - offset) / scale, (edges[1:] - offset) / scale)


def rounded_counts(initializer, dtype, values, count=NARROW_COUNT):
    made = ini.initialize(initializer, count, seed=SEED, name=dtype, dtype=dtype)
    distinct, counts = np.unique(made.view(f"u{made.itemsize}"), return_counts=True)
    distinct = distinct.astype(f"u{made.itemsize}").view(made.dtype).astype(np.float64)
    found = np.zeros(values.size, np.int64)
    where = np.searchsorted(values, distinct)
    assert (where < values.size).all()
    np.testing.assert_array_equal(values[where], distinct)  # nothing outside of the interval
    np.add.at(found, where, counts)
    return found


def discrete_chi_square(counts, p, count):
    """Pearson's chi-square over neighbouring values, joined until each group expects 50."""
    mass = np.cumsum(p * count)
    group = (mass / 50).astype(np.int64) if (p * count < 50).any() else np.arange(p.size)
    _, group = np.unique(group, return_inverse=True)
    observed, wanted = np.bincount(group, counts), np.bincount(group, p * count)
    used = wanted > 20
    statistic = ((observed - wanted)[used] ** 2 / wanted[used]).sum()
    return float(stats.chi2.sf(statistic, max(1, used.sum() - 1)))


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", ROUNDED)
def test_narrow_dtypes_follow_the_rounded_law(name, dtype):
    law, scale, offset = ROUNDED[name]
    values, p = discrete(dtype, law, scale, offset)
    assert abs(p.sum() - 1) < 1e-12
    counts = rounded_counts(law.initializer, dtype, values)
    assert discrete_chi_square(counts, p, NARROW_COUNT) > ALPHA
    # No pile-up: the outermost values have what is rounded to them, and no more. (Values that are finer
    # than the uniform's steps of 2**-24 are joined.)
    for mass, count in ((np.cumsum(p), np.cumsum(counts)), (np.cumsum(p[::-1]), np.cumsum(counts[::-1]))):
        end = int(np.argmax(mass > 2e-6))
        low = stats.binom.cdf(count[end], NARROW_COUNT, mass[end])
        high = stats.binom.sf(count[end] - 1, NARROW_COUNT, mass[end])
        assert 2 * min(low, high) > ALPHA


def test_a_pile_up_at_the_bound_is_noticed():
    # What torch does: clamp to the bound what rejection or rounding left outside.
    values, p = discrete("bfloat16", LAWS["truncated_2"], 1.0, 0.0)
    counts = rounded_counts(LAWS["truncated_2"].initializer, "bfloat16", values)
    moved = counts.copy()
    moved[-2] -= NARROW_COUNT // 5000
    moved[-1] += NARROW_COUNT // 5000
    assert stats.binom.sf(moved[-1] - 1, NARROW_COUNT, p[-1]) < ALPHA
    assert discrete_chi_square(moved, p, NARROW_COUNT) < ALPHA


def test_truncation_instead_of_rounding_is_noticed():
    values, p = discrete("bfloat16", LAWS["truncated_2"], 1.0, 0.0)
    single = ini.initialize(LAWS["truncated_2"].initializer, NARROW_COUNT, seed=SEED, name="bfloat16")
    cut = (single.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)
    counts = np.bincount(np.searchsorted(values, cut), minlength=values.size)
    assert discrete_chi_square(counts, p, NARROW_COUNT) < ALPHA


@pytest.mark.parametrize("name", [name for name in LAWS if np.isfinite(LAWS[name].upper)])
def test_no_pile_up_in_float32(name):
    # The outermost thousandth of the interval, in eight parts of even probability.
    law = LAWS[name]
    values = np.concatenate([drawn(law.initializer, name)(i * CHUNK, (i + 1) * CHUNK) for i in range(8)])
    width = law.upper - law.lower
    for bound, side in ((law.lower, 1), (law.upper, -1)):
        edges = np.sort(bound + side * width * np.array([1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 0.0]))
        p = law.between(edges[:-1], edges[1:])
        near = values[(values >= edges[0]) & (values <= edges[-1])]
        counts, _ = np.histogram(near.astype(np.float64), edges)
        low = stats.binom.cdf(counts, values.size, p)
        high = stats.binom.sf(counts - 1, values.size, p)
        assert smallest(np.minimum(1.0, 2 * np.minimum(low, high))) > ALPHA
        assert (values != np.float32(bound)).mean() > 1 - 1e-6


# --- float64 ------------------------------------------------------------------------------------------------


@every_law
def test_float64(name):
    law = LAWS[name]
    values = np.sort(ini.initialize(law.initializer, 4_000_000, seed=SEED, name=name, dtype="float64"))
    assert values[0] >= law.lower
    assert values[-1] <= law.upper
    start = law.lower if np.isfinite(law.lower) else -40.0
    cdf = law.between(np.full(values.shape, start), values)
    steps = np.arange(values.size + 1) / values.size
    distance = max(np.abs(cdf - steps[1:]).max(), np.abs(cdf - steps[:-1]).max())
    assert special.kolmogorov(distance * math.sqrt(values.size)) > ALPHA
    assert np.unique(values).size > values.size - 20  # 53 bits hardly ever repeat


def test_every_bit_of_float64_is_random():
    values = ini.uniform(1 << 20, 1.0, 2.0, seed=SEED, name="bits", dtype="float64")
    bits = values.view(np.uint64)
    ones = np.array([(bits >> np.uint64(k) & np.uint64(1)).sum(dtype=np.int64) for k in range(52)])
    assert smallest(two_sided((ones - bits.size / 2) / math.sqrt(bits.size / 4))) > ALPHA
    single = ini.uniform(1 << 20, 1.0, 2.0, seed=SEED, name="bits").astype(np.float64).view(np.uint64)
    assert ((single >> np.uint64(10) & np.uint64(1)) == 0).all()  # the control: float32 ends here
