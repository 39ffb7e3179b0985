"""What the tests of the engine share: distributions, dtypes, words on demand, comparison of bits."""

import math
from functools import cache

import numpy as np

import initium as ini
from initium import dtypes
from initium.kernels import stream
from initium.memory.arrays import destination_of
from initium.planning.jobs import Job
from initium.regions import boxes

DTYPES = tuple(dtypes.DTYPES)
SEED = 0x0123456789ABCDEF
INF = math.inf

#: Every kind of fill, each with the arguments that lead to another branch of planner or kernel.
DISTRIBUTIONS = {
    "constant": ini.constant(0.1),
    "uniform": ini.Uniform(0.0, 1.0),
    "uniform_offset": ini.Uniform(-0.3, 0.5),
    "uniform_narrow": ini.Uniform(1.0, 1.5),
    "normal": ini.Normal(0.0, 1.0),
    "normal_shifted": ini.Normal(0.5, 0.02),
    "truncated_2": ini.TruncatedNormal(0.0, 0.02, -2.0, 2.0),
    "truncated_half": ini.TruncatedNormal(1.0, 0.5, -0.5, 0.5),
    "truncated_3": ini.TruncatedNormal(0.0, 1.0, -3.0, 3.0),
    "asymmetric": ini.TruncatedNormal(0.0, 1.0, -1.0, 3.0),
    "one_sided": ini.TruncatedNormal(0.0, 1.0, -INF, 0.5),
    "far_tail": ini.TruncatedNormal(0.0, 1.0, 5.25, INF),
    "farther_tail": ini.TruncatedNormal(1.0, 2.0, -INF, -40.0),
}


def same_bits(a, b):
    """Return whether two arrays hold the same bit patterns, signs of zero and NaN payloads included."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def ordered_values(dtype):
    """Every finite value of a narrow dtype (16 bits at most), ascending, zero once, as float64."""
    dtype = dtypes.lookup(dtype)
    patterns = np.arange(1 << (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}")
    with np.errstate(invalid="ignore"):  # signalling NaNs
        values = patterns.view(dtype.numpy).astype(np.float64)
    return np.unique(values[np.isfinite(values)] + 0.0)


_INVERSE_M0 = pow(stream.PHILOX_M0, -1, 1 << 32)
_INVERSE_M1 = pow(stream.PHILOX_M1, -1, 1 << 32)


def counter_of(block, seed):
    """Invert Philox4x32-10: return the counter whose block under the key `seed` is `block`."""
    x0, x1, x2, x3 = block
    for number in reversed(range(stream.PHILOX_ROUNDS)):
        k0 = (seed + number * stream.PHILOX_W0) & 0xFFFFFFFF
        k1 = ((seed >> 32) + number * stream.PHILOX_W1) & 0xFFFFFFFF
        c0 = (x3 * _INVERSE_M0) & 0xFFFFFFFF
        c2 = (x1 * _INVERSE_M1) & 0xFFFFFFFF
        c1 = x0 ^ ((c2 * stream.PHILOX_M1) >> 32) ^ k0
        c3 = x2 ^ ((c0 * stream.PHILOX_M0) >> 32) ^ k1
        x0, x1, x2, x3 = c0, c1, c2, c3
    return x0, x1, x2, x3


@cache
def place_of(words, seed):
    """Find (stream, number of a block below 2**59) whose first words under the key `seed` are `words`.

    Philox is a bijection of the counter, so that any word can be had; the words of the block that nobody
    asked for are tried until the block's number is small enough for a tensor to reach it.
    """
    rng = np.random.default_rng([*words, seed])
    while True:
        rest = rng.integers(0, 1 << 32, 4 - len(words), dtype=np.uint64)
        c0, c1, c2, c3 = counter_of((*words, *(int(word) for word in rest)), seed)
        if (c0 | c1 << 32) < 1 << 59:
            return c2 | c3 << 32, c0 | c1 << 32


def jobs_for_words(fill, dtype, words, seed):
    """Return an array, and the jobs that draw into it one value from each of the given words.

    The words are 64-bit ones for float64 and 32-bit ones else.
    """
    dtype = dtypes.lookup(dtype)
    out = np.zeros(len(words), dtype.numpy)
    jobs = []
    for i, word in enumerate(words):
        halves = (word & 0xFFFFFFFF, word >> 32) if dtype.word_bits == 64 else (word,)
        stream, block = place_of(halves, seed)
        index = block * (4 // len(halves))
        box = boxes.box_of((1 << 62,), slice(index, index + 1))
        jobs.append(Job("", stream, fill, box, destination_of(out[i : i + 1])))
    return out, jobs


def extreme_words(bits):
    """Words at every place where a formula could change its mind: ends, halves, and single bits."""
    top = 1 << bits
    found = {0, top - 1, top // 2, top // 2 - 1}
    for k in range(bits):
        found |= {1 << k, (1 << k) - 1, (1 << k) + 1, (1 << k) ^ (top // 2)}
        found |= {top - (1 << k), top - (1 << k) - 1}
    return sorted(word % top for word in found)
