"""The reference's fused multiply-add against exact rational arithmetic."""

from fractions import Fraction

import numpy as np
import pytest

from initium.kernels.reference.arithmetic import fma, polynomial

FORMATS = {"float32": (24, -149, 127), "float64": (53, -1074, 1023)}  # digits, exponents of least and most


def rounded(exact, dtype):
    """Round a fraction once, to nearest even, with no help from floats."""
    digits, least, most = FORMATS[dtype]
    if exact == 0:
        return 0.0
    size = abs(exact)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= Fraction(2) ** exponent > size
    unit = Fraction(2) ** max(exponent - digits + 1, least)
    whole = round(size / unit) * unit  # of Python: ties to even
    if whole >= Fraction(2) ** (most + 1):
        return float("inf") if exact > 0 else float("-inf")
    return float(whole) if exact > 0 else -float(whole)


def expected(a, b, c, dtype):
    return np.array(
        [
            rounded(Fraction(x) * Fraction(y) + Fraction(z), dtype)
            for x, y, z in zip(a.tolist(), b.tolist(), c.tolist(), strict=True)
        ],
        dtype,
    )


def any_bits(rng, count, dtype):
    """Floats of every exponent, subnormals and zeros included."""
    size = np.dtype(dtype).itemsize
    values = rng.integers(0, 1 << 8 * size, count, dtype=f"u{size}", endpoint=False).view(dtype)
    return np.where(np.isfinite(values), values, np.asarray(1.5, dtype)).astype(dtype)


def cases(rng, kind, dtype, count=4000):
    """Draw operands that are hard in one way each."""
    digits = FORMATS[dtype][0]
    real = np.dtype(dtype).type
    a, b = (rng.standard_normal(count).astype(dtype) for _ in range(2))
    if kind == "plain":
        return a, b, rng.standard_normal(count).astype(dtype)
    if kind == "any bits":
        return tuple(any_bits(rng, count, dtype) for _ in range(3))
    if kind == "cancelling":  # c is the rounded product: what is left is its rounding error
        return a, b, -(a * b)
    if kind == "nearly cancelling":
        c = -(a * b)
        return a, b, np.nextafter(c, real(rng.choice([-1, 1])) * np.inf).astype(dtype)
    if kind == "halfway":
        # a b is a half unit of the last place of c, give or take the least that a b can hold.
        c = np.ldexp(rng.uniform(1, 2, count).astype(dtype), 0).astype(dtype)
        half = real(2.0 ** -(digits - 1) / 2)
        bump = rng.choice([-1, 0, 1], count) * 2.0 ** -(digits - 1)
        return (
            (np.ones(count) + bump).astype(dtype),
            np.full(count, half, dtype) * rng.choice([-1, 1], count),
            c,
        )
    if kind == "far below halfway":
        # The tail of a b lies far below what even a wider sum would keep.
        c = rng.uniform(1, 2, count).astype(dtype)
        a = (1 + rng.integers(1, 8, count) * 2.0 ** -(digits - 1)).astype(dtype)
        b = (2.0**-digits * (1 - rng.integers(0, 8, count) * 2.0**-digits)).astype(dtype)
        return a, b, np.where(rng.random(count) < 0.5, c, -c).astype(dtype)
    if kind == "subnormal":
        low = FORMATS[dtype][1]
        scale = rng.integers(low - 2, low + 2 * digits, count)
        half = scale // 2
        return (
            np.ldexp(rng.uniform(1, 2, count), half).astype(dtype),
            np.ldexp(rng.uniform(-2, 2, count), scale - half).astype(dtype),
            (rng.integers(-5, 6, count) * 2.0**low).astype(dtype),
        )
    raise ValueError(kind)


KINDS = ["plain", "any bits", "cancelling", "nearly cancelling", "halfway", "far below halfway", "subnormal"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", FORMATS)
def test_fma_rounds_once(dtype, kind):
    rng = np.random.default_rng([KINDS.index(kind), len(dtype)])
    a, b, c = (np.ascontiguousarray(x, dtype) for x in cases(rng, kind, dtype))
    made = fma(a, b, c)
    assert made.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(made, expected(a, b, c, dtype))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", FORMATS)
def test_these_cases_catch_two_roundings(dtype):
    wide = np.float64 if dtype == "float32" else np.longdouble
    caught = {"two": 0, "wider": 0}
    for kind in KINDS:
        rng = np.random.default_rng([KINDS.index(kind), len(dtype)])
        a, b, c = (np.ascontiguousarray(x, dtype) for x in cases(rng, kind, dtype))
        exact = expected(a, b, c, dtype)
        caught["two"] += int((a * b + c != exact).sum())
        caught["wider"] += int(
            ((a.astype(wide) * b.astype(wide) + c.astype(wide)).astype(dtype) != exact).sum()
        )
    assert caught["two"] > 1000
    # Even a sum in a wider format rounds twice and is wrong now and then.
    assert caught["wider"] > 10 or (dtype == "float64" and np.finfo(wide).nmant == 52)


@pytest.mark.parametrize("dtype", FORMATS)
def test_fma_broadcasts(dtype):
    a = np.arange(6, dtype=dtype).reshape(2, 3)
    made = fma(a, np.asarray(2, dtype), np.ones(3, dtype))
    np.testing.assert_array_equal(made, 2 * a + 1)
    assert made.dtype == np.dtype(dtype)


@pytest.mark.parametrize("dtype", FORMATS)
def test_polynomials_are_horner_chains_of_fma(dtype):
    rng = np.random.default_rng(3)
    coefficients = [float(np.dtype(dtype).type(c)) for c in rng.standard_normal(5)]
    v = rng.standard_normal(500).astype(dtype)
    value = np.full(500, coefficients[-1], dtype)
    for c in coefficients[-2::-1]:
        value = expected(value, v, np.full(500, c, dtype), dtype)
    np.testing.assert_array_equal(polynomial(coefficients, v), value)
