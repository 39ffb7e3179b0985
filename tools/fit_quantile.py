"""Fit the functions of the normal quantile and print them as Python constants.

Run ``python tools/fit_quantile.py``; it prints the ``NORMAL*`` names of ``kernels/coefficients.py``.
Needs numpy, scipy and mpmath and takes about two minutes. Every random choice is seeded.

The half to fit is ``z(h) = -ndtri(h) >= 0`` for a tail probability ``0 < h <= 1/2``. With ``x = 1 - 2h`` and
``s = h (1 - h)``, ``z / x`` is a smooth even function of x, so a function of s alone, and a rational one of
low degree is close to it. The kernels carry ``X = scale x`` and evaluate ``z = X + X A/B``, so the rounding
errors of A and B enter with the small weight ``|A/B|`` only:

- central, ``h >= ndtr(-2)``: A and B in s;
- wide, ``h >= 2**-11``: A and B in ``v = sqrt(s)``;
- tail: with ``w = -log(2h)`` and ``r = sqrt(w)``, ``z = slope r + A(r)/B(r)``;
- far tail, ``w > 729`` (h is below the smallest double): the asymptotic series of ``z**2``.

Each rational function is the minimax one of its degree in relative error of z (Remez exchange in high
precision). The float32 ones are then searched among their rounded neighbours, for their *rounded* evaluation.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from fractions import Fraction

import mpmath as mp
import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
Reals = list[mp.mpf]

DIGITS = 60
GRID = 400
# Times 1 - erfc(sqrt 2), for bounds at 2 sigma, this is within 4e-11 of a float32: no bias there.
CENTRAL32_X_SCALE = 359 / 256
WIDE32_X_SCALE = 1.4375
WIDE64_X_SCALE = 1.5
WIDE_MIN_H = mp.mpf(2) ** -11
TAIL32_MIN_H = mp.mpf(2) ** -126
TAIL32_SLOPE = 1.3125
TAIL64_SLOPE = 1.375
FAR_MIN_W = 729
FAR_TERMS = 5
SCALES = 200
POINTS = 60_000
SEED = 1


# ----------------------------------------------------------------------------------------------------
# Remez exchange for rational functions


def horner(coefficients: Reals, t: mp.mpf) -> mp.mpf:
    """Value of a polynomial, lowest power first."""
    value = coefficients[-1]
    for c in reversed(coefficients[:-1]):
        value = value * t + c
    return value


def _solve(t: Reals, f: Reals, n: int, m: int, b: Reals | None, level: mp.mpf) -> tuple[Reals, Reals, mp.mpf]:
    """Solve ``P = f (1 + sign level) Q`` at t by a Newton step from (b, level); interpolate if b is None."""
    size = len(t)
    matrix, right = mp.matrix(size, size), mp.matrix(size, 1)
    for row, (u, g) in enumerate(zip(t, f, strict=True)):
        sign = -1 if row % 2 else 1
        goal = g * (1 + sign * level)
        power = mp.mpf(1)
        for j in range(max(n, m) + 1):
            if j <= n:
                matrix[row, j] = power
            if 1 <= j <= m:
                matrix[row, n + j] = -goal * power
            power *= u
        if b is not None:
            matrix[row, size - 1] = -sign * g * horner(b, u)
        right[row] = goal
    x = mp.lu_solve(matrix, right)
    step = x[size - 1] if b is not None else mp.mpf(0)
    a, b = x[: n + 1], [mp.mpf(1), *x[n + 1 : n + m + 1]]
    return list(a), b, level + step


def _extrema(error: list[float], count: int) -> list[int]:
    """Return the indices of the ``count`` largest extrema of alternating sign."""
    found: list[int] = []
    start = 0
    while start < len(error):
        stop = best = start
        while stop < len(error) and (error[stop] > 0) == (error[start] > 0):
            best = stop if abs(error[stop]) > abs(error[best]) else best
            stop += 1
        found.append(best)
        start = stop
    if len(found) < count:
        raise ArithmeticError(f"only {len(found)} alternations of {count}: change the grid or the degree")
    while len(found) > count:  # drop single ends, or pairs inside, so that signs still alternate
        small = min(range(len(found)), key=lambda i: abs(error[found[i]]))
        if small in (0, len(found) - 1):
            del found[small]
        elif len(found) == count + 1:
            del found[0 if abs(error[found[0]]) < abs(error[found[-1]]) else -1]
        else:
            left = small - 1 if abs(error[found[small - 1]]) < abs(error[found[small + 1]]) else small
            del found[left : left + 2]
    return found


def remez(t: Reals, f: Reals, n: int, m: int) -> tuple[float, Reals, Reals]:
    """Minimax ``A/B`` of degrees (n, m) to f on the grid t, in relative error.

    Returns the largest relative error on the grid and the coefficients of A and B (B with constant term 1).
    """
    unknowns = n + m + 1
    index = [len(t) * (2 * i + 1) // (2 * unknowns) for i in range(unknowns)]
    a, b, level = _solve([t[i] for i in index], [f[i] for i in index], n, m, None, mp.mpf(0))
    for _ in range(30):
        below = [horner(b, u) for u in t]
        error = [float(horner(a, u) / q / g - 1) for u, g, q in zip(t, f, below, strict=True)]
        worst = max(abs(e) for e in error)
        if level and worst <= abs(float(level)) * 1.001:
            if min(below) <= 0:
                raise ArithmeticError("the denominator vanishes on the interval")
            return worst, a, b
        index = _extrema(error, unknowns + 1)
        points, values = [t[i] for i in index], [f[i] for i in index]
        for _ in range(20):
            previous = level
            a, b, level = _solve(points, values, n, m, b, level)
            if abs(level - previous) <= 1e-9 * abs(level):
                break
    raise ArithmeticError(f"no convergence for degrees {(n, m)}")


# ----------------------------------------------------------------------------------------------------
# The functions to fit, on grids that crowd at both ends


def _between(low: mp.mpf, high: mp.mpf) -> Reals:
    return [low + (high - low) * (1 - mp.cos(mp.pi * i / (GRID - 1))) / 2 for i in range(GRID)]


def quantile_of_w(w: mp.mpf) -> mp.mpf:
    """Return z with ``erfc(z / sqrt 2) = exp(-w)``."""
    return mp.findroot(lambda z: mp.log(mp.erfc(z / mp.sqrt(2))) + w, mp.sqrt(2 * w) * mp.mpf("0.9"))


def central_samples(z_max: mp.mpf, root: bool, scale: float) -> tuple[Reals, Reals]:
    """``z / X`` over s, or over sqrt(s), for 0 <= z <= z_max."""
    pairs = []
    for i in range(GRID):
        z = z_max * mp.sin(mp.pi * i / (2 * GRID - 2))
        h, x = mp.erfc(z / mp.sqrt(2)) / 2, mp.erf(z / mp.sqrt(2))
        s = h * (1 - h)
        pairs.append((mp.sqrt(s) if root else s, (z / x if i else mp.sqrt(mp.pi / 2)) / scale))
    pairs.sort()
    return [p[0] for p in pairs], [p[1] for p in pairs]


def tail_samples(w_min: mp.mpf, w_max: mp.mpf) -> tuple[Reals, Reals]:
    """Return z over r = sqrt(w)."""
    z = _between(quantile_of_w(w_min), quantile_of_w(w_max))
    return [mp.sqrt(-mp.log(mp.erfc(u / mp.sqrt(2)))) for u in z], z


def fit_central(z_max: mp.mpf, root: bool, scale: float, n: int, m: int) -> tuple[float, Reals, Reals]:
    """Return A and B of ``z = X + X A/B`` (the fit of z/X has numerator A + B, so n >= m)."""
    error, a, b = remez(*central_samples(z_max, root, scale), n, m)
    return error, [u - (b[i] if i <= m else 0) for i, u in enumerate(a)], b


def fit_tail(w_min: mp.mpf, w_max: mp.mpf, slope: float, n: int, m: int) -> tuple[float, Reals, Reals]:
    """Return A and B of ``z = slope r + A(r)/B(r)`` (so n >= m + 1)."""
    error, a, b = remez(*tail_samples(w_min, w_max), n, m)
    return error, [u - (slope * b[i - 1] if 1 <= i <= m + 1 else 0) for i, u in enumerate(a)], b


def fit_log32(n: int) -> Reals:
    """P of ``log(1 + f) = f + f**2 P(f)`` for sqrt(1/2) <= 1 + f <= sqrt(2)."""
    f = _between(mp.sqrt(mp.mpf(1) / 2) - 1, mp.sqrt(2) - 1)
    return remez(f, [(mp.log1p(u) - u) / u**2 for u in f], n, 0)[1]


def fit_log64(n: int) -> Reals:
    """P of ``log((1 + g)/(1 - g)) = 2 g + g u P(u)``, ``u = g**2``, on the same interval."""
    u = _between(mp.mpf("1e-12"), (mp.sqrt(2) - 1) ** 2 / (mp.sqrt(2) + 1) ** 2)
    return remez(u, [2 * (mp.atanh(mp.sqrt(v)) / mp.sqrt(v) - 1) / v for v in u], n, 0)[1]


# ----------------------------------------------------------------------------------------------------
# Rounding to float32


def f32(value: Floats) -> Floats:
    """Round to float32, kept as float64."""
    return value.astype(np.float32).astype(np.float64)


def horner32(c: Floats, t: Floats) -> Floats:
    """Float32 Horner with fma (rounded through float64: wrong once in 2**29 cases, harmless in a search)."""
    value = np.full_like(t, c[-1])
    for a in c[-2::-1]:
        value = f32(value * t + a)
    return value


def central32(c: Floats, n: int, X: Floats, t: Floats) -> Floats:
    """``fma(X A(t), 1/B(t), X)`` in float32; c holds A then B."""
    return f32(f32(X * horner32(c[: n + 1], t)) * f32(1 / horner32(c[n + 1 :], t)) + X)


def tail32(c: Floats, n: int, r: Floats) -> Floats:
    """``fma(slope, r, A(r)/B(r))`` in float32; c holds A then B."""
    return f32(TAIL32_SLOPE * r + f32(horner32(c[: n + 1], r) / horner32(c[n + 1 :], r)))


def magnitudes(z: Floats, scale: float, q0: float) -> tuple[Floats, Floats, Floats]:
    """Float32 X and h, as the kernels make them, for 31-bit magnitudes near z, and the exact z of each.

    The truncation is at the z of q0, the two-sided probability outside (0 for none).
    """
    tail = np.floor((special.erfc(z / 2**0.5) - q0) / (1 - q0) * 2.0**31).clip(0, 2.0**31 - 1)
    m = np.where(z < 0.5, np.floor(special.erf(z / 2**0.5) / (1 - q0) * 2.0**31), 2.0**31 - 1 - tail)
    t = 2.0**31 - 1 - m
    xs, hs = scale * (1 - q0) * 2.0**-31, (1 - q0) * 2.0**-32
    xs, xb, hs, hb = (float(np.float32(v)) for v in (xs, xs / 2, hs, q0 / 2 + hs / 2))
    X, h = f32(f32(m) * xs + xb), f32(f32(t) * hs + hb)
    x, q = (1 - q0) * (m + 0.5) * 2.0**-31, q0 + (1 - q0) * (t + 0.5) * 2.0**-31
    return X, h, np.where(x < 0.5, special.erfinv(x), special.erfcinv(q)) * 2**0.5


def test_points(stop: float, rng: np.random.Generator, count: int) -> Floats:
    """Return z in (0, stop): even, just below powers of two (where an ulp is smallest for z), and near 0."""
    below = 2.0 ** rng.integers(-5, 3, 4 * count) * (1 - rng.uniform(0, 0.15, 4 * count))
    below = below[below < stop][:count]
    return np.concatenate([rng.uniform(0, stop, count), below, stop * 2.0 ** -rng.uniform(0, 28, count // 6)])


def badness(z: Floats, exact: Floats) -> float:
    """Smooth stand-in for the largest error in ulp: the 20-norm."""
    ulp = (z - exact) / np.ldexp(1.0, np.frexp(exact)[1] - 24)
    return float(np.mean(ulp**20) ** (1 / 20))


def search32(
    a: Reals, b: Reals, at: mp.mpf, score: Callable[[Floats], float], starts: int = 5, steps: int = 250
) -> tuple[Floats, Floats]:
    """Best float32 coefficients near (a, b): scales with 1 <= B(at) < 2, then random moves by a few ulp."""
    rng = np.random.default_rng(SEED)
    unit = np.array([float(u / horner(b, at)) for u in a + b])
    tried = sorted((score(c := f32(unit * 2.0 ** (i / SCALES))), tuple(c)) for i in range(SCALES))
    best = tried[0]
    for value, start in tried[:starts]:
        c = np.array(start)
        for _ in range(steps):
            trial = c.astype(np.float32)
            for j in rng.choice(len(c), rng.integers(1, 4), replace=False):
                ulps = int(rng.integers(1, 1 + 2 ** rng.integers(0, 4)) * rng.choice((-1, 1)))
                trial[j : j + 1].view(np.int32)[0] += ulps
            new = score(trial.astype(np.float64))
            if new < value:
                value, c = new, trial.astype(np.float64)
        best = min(best, (value, tuple(c)))
    return np.array(best[1][: len(a)]), np.array(best[1][len(a) :])


def search_central32(
    z_max: mp.mpf, root: bool, scale: float, n: int, m: int, bounds: tuple[float, ...]
) -> tuple[float, Floats, Floats]:
    """Fit and round one central block; its roundings are judged under truncation at each of the bounds."""
    error, a, b = fit_central(z_max, root, scale, n, m)
    rng = np.random.default_rng(SEED)
    sets = []
    for bound in bounds:
        points = test_points(min(float(z_max), bound), rng, POINTS // len(bounds))
        sets.append(magnitudes(points, scale, special.erfc(bound / 2**0.5)))
    X, h, exact = (np.concatenate(part) for part in zip(*sets, strict=True))
    s = f32(h - h * h)
    t = f32(np.sqrt(s)) if root else s
    at = mp.mpf(1) / (2 if root else 4)
    return error, *search32(a, b, at, lambda c: badness(central32(c, n, X, t), exact))


def search_tail32(n: int, m: int) -> tuple[float, Floats, Floats]:
    """Fit and round the float32 tail."""
    w_max = -mp.log(2 * TAIL32_MIN_H)
    error, a, b = fit_tail(-mp.log(2 * WIDE_MIN_H) * mp.mpf("0.9999"), w_max, TAIL32_SLOPE, n, m)
    rng = np.random.default_rng(SEED)
    w = np.concatenate([rng.uniform(7, 24, 40000), rng.uniform(7, float(w_max), 20000)])
    exact = np.array([normal_from_w(u) for u in w])
    r = f32(np.sqrt(f32(w)))
    return error, *search32(a, b, mp.mpf(3), lambda c: badness(tail32(c, n, r), exact))


def normal_from_w(w: float) -> float:
    """Return z from w in double, by Newton's method on log(erfc)."""
    z = (2 * w) ** 0.5
    for _ in range(60):
        scaled = special.erfcx(z / 2**0.5)
        step = (z * z / 2 - np.log(scaled) - w) * scaled / (2 / np.pi) ** 0.5
        z -= step
        if abs(step) < 1e-13 * z:
            break
    return float(z)


# ----------------------------------------------------------------------------------------------------
# The asymptotic series

Series = dict[tuple[int, int], Fraction]  # (power of 1/y, power of L = log y) -> coefficient


def _times(p: Series, q: Series, top: int) -> Series:
    out: Series = {}
    for (i, j), u in p.items():
        for (k, n), v in q.items():
            if i + k <= top:
                out[i + k, j + n] = out.get((i + k, j + n), Fraction(0)) + u * v
    return out


def _plus(p: Series, q: Series, factor: Fraction | int = 1) -> Series:
    out = dict(p)
    for key, v in q.items():
        out[key] = out.get(key, Fraction(0)) + factor * v
    return out


def _log1p(p: Series, top: int) -> Series:
    out: Series = {}
    power: Series = {(0, 0): Fraction(1)}
    for k in range(1, top + 1):
        power = _times(power, p, top)
        out = _plus(out, power, Fraction((-1) ** (k + 1), k))
    return out


def far_series(terms: int) -> list[list[Fraction]]:
    """Polynomials c_k(L), lowest power first, of ``z**2 = y - L + sum_k c_k(L) y**-k``, ``L = log y``.

    From ``erfc(z / sqrt 2) = sqrt(2/pi) / z exp(-z**2 / 2) (1 - z**-2 + 3 z**-4 - ...)`` (Abramowitz and
    Stegun 7.1.23) follows ``Z + log Z = y + 2 log(1 - 1/Z + 3/Z**2 - ...)`` for ``Z = z**2`` and
    ``y = 2 w + log(2/pi)``.
    """
    top = terms + 1
    delta: Series = {}  # Z = y (1 + delta)
    for _ in range(top + 1):
        inverse: Series = {}
        power: Series = {(0, 0): Fraction(1)}
        for k in range(top + 1):
            inverse = _plus(inverse, power, (-1) ** k)
            power = _times(power, delta, top)
        inverse = _times({(1, 0): Fraction(1)}, inverse, top)  # 1/Z
        tail: Series = {}
        power = {(0, 0): Fraction(1)}
        factor = Fraction(1)
        for k in range(1, top + 1):
            power = _times(power, inverse, top)
            factor *= -(2 * k - 1)
            tail = _plus(tail, power, factor)
        change = _plus(_plus({(0, 1): Fraction(-1)}, _log1p(delta, top), -1), _log1p(tail, top), 2)
        delta = _times({(1, 0): Fraction(1)}, change, top)
    return [[delta.get((k + 1, j), Fraction(0)) for j in range(k + 1)] for k in range(1, terms + 1)]


# ----------------------------------------------------------------------------------------------------
# Output


def show(name: str, values: Floats | Reals | list[Fraction]) -> None:
    """Print a tuple of floats, one a line."""
    print(f"{name} = (")
    for v in values:
        print(f"    {float(v)!r},")
    print(")")


def scaled(a: Reals, b: Reals, at: mp.mpf) -> tuple[Reals, Reals]:
    """Both divided by B(at)."""
    unit = horner(b, at)
    return [u / unit for u in a], [u / unit for u in b]


def main() -> None:
    """Fit everything and print it."""
    argparse.ArgumentParser(description="Print the constants of the normal quantile.").parse_args()
    mp.mp.dps = DIGITS
    w_wide = -mp.log(2 * WIDE_MIN_H)
    z_wide = quantile_of_w(w_wide)

    print("# Normal quantile, printed by tools/fit_quantile.py; lowest powers first.")
    print(f"NORMAL_WIDE_MIN_H = {float(WIDE_MIN_H)!r}")
    error, a, b = search_central32(mp.mpf(2), False, CENTRAL32_X_SCALE, 5, 4, (2, 2, 1.5, 1))
    print(f"# |z| <= 2; relative error of the unrounded fit {error:.1e}")
    print(f"NORMAL32_CENTRAL_X_SCALE = {CENTRAL32_X_SCALE!r}")
    show("NORMAL32_CENTRAL_A", a)
    show("NORMAL32_CENTRAL_B", b)
    error, a, b = search_central32(z_wide, True, WIDE32_X_SCALE, 5, 5, (np.inf, np.inf, 3, 2.5))
    print(f"# h >= NORMAL_WIDE_MIN_H; unrounded {error:.1e}")
    print(f"NORMAL32_WIDE_X_SCALE = {WIDE32_X_SCALE!r}")
    show("NORMAL32_WIDE_A", a)
    show("NORMAL32_WIDE_B", b)
    show("NORMAL32_LOG", f32(np.array([float(u) for u in fit_log32(7)])))
    print(f"NORMAL32_LN2 = {float(np.float32(np.log(2)))!r}")
    error, a, b = search_tail32(4, 3)
    print(f"# 2**-126 <= h < NORMAL_WIDE_MIN_H; unrounded {error:.1e}")
    print(f"NORMAL32_TAIL_SLOPE = {TAIL32_SLOPE!r}")
    show("NORMAL32_TAIL_A", a)
    show("NORMAL32_TAIL_B", b)

    error, ma, mb = fit_central(z_wide, True, WIDE64_X_SCALE, 11, 11)
    print(f"# h >= NORMAL_WIDE_MIN_H; unrounded {error:.1e}")
    print(f"NORMAL64_WIDE_X_SCALE = {WIDE64_X_SCALE!r}")
    for name, values in zip("AB", scaled(ma, mb, mp.mpf(1) / 2), strict=True):
        show(f"NORMAL64_WIDE_{name}", values)
    show("NORMAL64_LOG", fit_log64(6))
    high = float(mp.log(2))
    print(f"NORMAL64_LN2_HIGH = {high!r}")
    print(f"NORMAL64_LN2_LOW = {float(mp.log(2) - mp.mpf(high))!r}")
    error, ma, mb = fit_tail(w_wide * mp.mpf("0.9999"), mp.mpf(FAR_MIN_W) + 1, TAIL64_SLOPE, 10, 9)
    print(f"# up to w = NORMAL64_FAR_MIN_W; unrounded {error:.1e}")
    print(f"NORMAL64_TAIL_SLOPE = {TAIL64_SLOPE!r}")
    for name, values in zip("AB", scaled(ma, mb, mp.mpf(3)), strict=True):
        show(f"NORMAL64_TAIL_{name}", values)
    print(f"NORMAL64_FAR_MIN_W = {float(FAR_MIN_W)!r}")
    print(f"NORMAL64_LOG_2_OVER_PI = {float(mp.log(2 / mp.pi))!r}")
    for k, c in enumerate(far_series(FAR_TERMS), start=1):
        show(f"NORMAL64_FAR_{k}", c)


if __name__ == "__main__":
    main()
