"""Haar measure: orthogonal matrices are uniform, and what is merely orthogonal is told apart.

Seeds are fixed. Under new ones, each p-value of the battery falls below `FALSE_ALARM` with that probability
(moments by the central limit theorem, over thousands of matrices); a battery of 20 raises a false alarm in
2e-3 of all runs. Negative controls must be rejected with p < `CERTAIN`.
"""

import numpy as np
import pytest
from scipy import stats
from threadpoolctl import threadpool_limits

import initium as ini

FALSE_ALARM = 1e-4
CERTAIN = 1e-12

# (matrices, n): interleaved small ones, and ones of several panels.
SIZES = [(20_000, 4), (20_000, 9), (1_000, 110)]
METHODS = ["householder", "qr"]


@pytest.fixture(autouse=True)
def one_blas_thread():
    """LAPACK's threads cost more than they bring on matrices this small."""
    with threadpool_limits(1, "blas"):
        yield


def haar(count, rows, columns, method="householder", seed=5):
    q = ini.orthogonal((count, rows, columns), seed=seed, name="haar", batch_axis=0, method=method)
    return q.astype(np.float64)


def rotation(n):
    """A fixed orthogonal matrix without small entries or symmetry."""
    rng = np.random.default_rng(99)
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def entry_p(values, n):
    """An entry of a unit vector uniform on the sphere: (1 + q) / 2 is Beta((n - 1) / 2, (n - 1) / 2)."""
    half = (n - 1) / 2
    return stats.kstest((1 + values) / 2, stats.beta(half, half).cdf).pvalue


def mean_p(values, expected):
    """Of a mean, by the normal distribution."""
    z = (values.mean() - expected) / (values.std(ddof=1) / np.sqrt(len(values)))
    return 2 * stats.norm.sf(abs(z))


def angles(q, seed):
    """One eigenvalue's angle in (0, pi) per matrix, and the gap to the next one, at a random place."""
    found = np.sort(np.abs(np.angle(np.linalg.eigvals(q))), axis=-1)
    place = np.random.default_rng(seed).integers(0, q.shape[-1] - 2, len(q))
    each = np.arange(len(q))
    # Conjugates come in pairs of equal angle: the gap spans one pair.
    return found[each, place], found[each, place + 2] - found[each, place]


def battery(q):
    """P-values of square matrices, by name."""
    count, n, _ = q.shape
    trace = np.trace(q, axis1=1, axis2=2)
    trace_of_square = np.einsum("kij,kji->k", q, q)
    turn = rotation(n)
    few = q[: 4000 if n < 20 else 300]
    peer = stats.ortho_group.rvs(n, len(few), random_state=np.random.default_rng(7))
    mine, other = angles(few, 1), angles(peer, 2)
    positive = int((np.linalg.det(q) > 0).sum())
    return {
        "first column": entry_p(q[:, 0, 0], n),
        "first column, last row": entry_p(q[:, -1, 0], n),
        "last column": entry_p(q[:, -1, -1], n),
        "last column, first row": entry_p(q[:, 0, -1], n),
        "middle": entry_p(q[:, n // 2, n // 2], n),
        "turned from the left": entry_p(np.einsum("i,kij->kj", turn[0], q)[:, n // 2], n),
        "turned from the right": entry_p(np.einsum("kij,j->ki", q, turn[:, 0])[:, n // 2], n),
        "turned from both sides": entry_p(np.einsum("i,kij,j->k", turn[1], q, turn[:, 2]), n),
        # Moments of the trace: Diaconis and Shahshahani (1994), of O(n) for small powers exact.
        "E tr": mean_p(trace, 0),
        "E tr^2": mean_p(trace**2, 1),
        "E tr^3": mean_p(trace**3, 0),
        "E tr(Q^2)": mean_p(trace_of_square, 1),
        "E tr^2 tr(Q^2)": mean_p(trace**2 * trace_of_square, 1),
        # Mixed moments: Collins and Sniady (2006).
        "E q11 q22": mean_p(q[:, 0, 0] * q[:, 1, 1], 0),
        "E q11^2 q12^2": mean_p(q[:, 0, 0] ** 2 * q[:, 0, 1] ** 2, 1 / (n * (n + 2))),
        "E q11^2 q22^2": mean_p(q[:, 0, 0] ** 2 * q[:, 1, 1] ** 2, (n + 1) / (n * (n - 1) * (n + 2))),
        "E q11 q12 q21 q22": mean_p(
            q[:, 0, 0] * q[:, 0, 1] * q[:, 1, 0] * q[:, 1, 1], -1 / (n * (n - 1) * (n + 2))
        ),
        "det": stats.binomtest(positive, count).pvalue,
        "angle": stats.ks_2samp(mine[0], other[0]).pvalue,
        "gap of angles": stats.ks_2samp(mine[1], other[1]).pvalue,
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count, n", SIZES)
def test_square_matrices_are_haar(count, n, method):
    found = battery(haar(count, n, n, method))
    assert not {name: p for name, p in found.items() if p < FALSE_ALARM}


def test_matrices_of_two_rows_are_rotations_and_reflections():
    q = haar(20_000, 2, 2)
    turned = np.linalg.det(q) > 0
    assert stats.binomtest(int(turned.sum()), len(q)).pvalue > FALSE_ALARM
    for part in (q[turned], q[~turned]):
        uniform = stats.uniform(-np.pi, 2 * np.pi)
        assert stats.kstest(np.arctan2(part[:, 1, 0], part[:, 0, 0]), uniform.cdf).pvalue > FALSE_ALARM


def test_single_values_are_signs():
    q = haar(10_000, 1, 1)
    assert (np.abs(q) == 1).all()
    assert stats.binomtest(int((q > 0).sum()), q.size).pvalue > FALSE_ALARM


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count, rows, columns", [(20_000, 7, 3), (20_000, 2, 6), (2_000, 130, 99)])
def test_semi_orthogonal_matrices_are_haar(count, rows, columns, method):
    q = haar(count, rows, columns, method)
    n, m = max(rows, columns), min(rows, columns)
    tall = q if rows >= columns else np.swapaxes(q, 1, 2)
    turn = rotation(n)
    found = {
        "first": entry_p(tall[:, 0, 0], n),
        "last": entry_p(tall[:, -1, -1], n),
        "turned": entry_p(np.einsum("i,kij->kj", turn[0], tall)[:, m - 1], n),
        "turned columns": entry_p(np.einsum("kij,j->ki", tall, rotation(m)[:, 0])[:, n // 2], n),
        "E q11 q22": mean_p(tall[:, 0, 0] * tall[:, 1, 1], 0),
        "E q11 q12 q21 q22": mean_p(
            tall[:, 0, 0] * tall[:, 0, 1] * tall[:, 1, 0] * tall[:, 1, 1], -1 / (n * (n - 1) * (n + 2))
        ),
        # The square of a row's length: one minus Beta((n - m) / 2, m / 2).
        "length of a row": stats.kstest(
            (tall[:, -1] ** 2).sum(-1), stats.beta(m / 2, (n - m) / 2).cdf
        ).pvalue,
    }
    assert not {name: p for name, p in found.items() if p < FALSE_ALARM}


@pytest.mark.parametrize("count, n", SIZES)
def test_both_methods_agree_in_distribution(count, n):
    one, other = (haar(count, n, n, method, seed) for method, seed in zip(METHODS, (1, 2), strict=True))
    for statistic in (
        lambda q: np.trace(q, axis1=1, axis2=2),
        lambda q: q[:, 0, 0] * q[:, 1, 1],
        lambda q: np.abs(q).max((1, 2)),
        lambda q: (q**4).sum((1, 2)),
    ):
        assert stats.ks_2samp(statistic(one), statistic(other)).pvalue > FALSE_ALARM


# --- negative controls --------------------------------------------------------------------------------------


def test_qr_without_the_sign_fix_is_rejected():
    rng = np.random.default_rng(3)
    for count, n in SIZES[:2]:
        found = battery(np.linalg.qr(rng.standard_normal((count, n, n)))[0])
        for name in ("first column", "middle", "E tr", "angle"):
            assert found[name] < CERTAIN, (n, name, found)


def test_rotations_alone_are_rejected():
    q = haar(20_000, 5, 5)
    q[:, :, 0] *= np.linalg.det(q)[:, None]
    found = battery(q)
    assert found["det"] < CERTAIN
    assert found["E tr(Q^2)"] > FALSE_ALARM  # SO(n) shares the lower moments: only some tests can tell


def test_signs_alone_are_rejected():
    """Random signs on the columns of an unfixed QR are enough for Haar; on a fixed matrix they are not."""
    rng = np.random.default_rng(4)
    signs = rng.choice([-1.0, 1.0], (20_000, 1, 5))
    assert min(battery(rotation(5) * signs).values()) < CERTAIN


def test_a_missing_reflector_is_rejected():
    """The last of n reflectors is a mere sign; without it, one column's sign hangs on the others."""
    q = haar(20_000, 4, 4)
    q[:, :, -1] *= np.sign(q[:, -1, -1])[:, None]
    found = battery(q)
    assert found["last column"] < CERTAIN
