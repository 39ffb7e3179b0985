"""Sparse weights: as many zeros as the conventions say, everywhere, and the same in every slice."""

import numpy as np
import pytest
from peers import Law, p_value
from scipy import stats

import initium as ini
from initium.backends import run as run_module
from initium.initializers import sparse
from initium.initializers.sparse import Sparse, SparseGaussian, caffe_gaussian, lasagne_sparse

FALSE_ALARM = 1e-4  # of each statistical test under new seeds


def draw(initializer, shape, seed=1, **more):
    return ini.initialize(initializer, shape, seed=seed, name="w", **more)


@pytest.mark.parametrize("share", [0.0, 0.1, 1 / 3, 0.7, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("shape", [(10, 7), (1, 9), (101, 3)])
def test_zeros_of_each_line(share, shape):
    for axis in (0, 1):
        n = shape[axis]
        zeros = (draw(Sparse(share, axis=axis), shape) == 0).sum(axis)
        assert (zeros == int(np.ceil(share * n))).all()
        zeros = (draw(Sparse(share, axis=axis, counts="nonzeros"), shape) == 0).sum(axis)
        assert (zeros == n - int(share * n)).all()


def test_lasagne_counts_what_is_not_zero():
    assert ((draw(lasagne_sparse(), (10, 40)) != 0).sum(0) == 1).all()
    assert ((draw(lasagne_sparse(0.7), (10, 40)) != 0).sum(0) == 7).all()


def test_values_are_those_of_the_normal_tensor():
    for dtype in ("float32", "float64", "bfloat16", "float8_e4m3fn"):
        normal = ini.normal((30, 20), 0, 0.5, seed=1, name="w", dtype=dtype)
        kept = draw(Sparse(0.4, 0.5), (30, 20), dtype="float32") != 0
        expected = np.where(kept, normal, np.zeros((), normal.dtype))
        assert np.array_equal(draw(Sparse(0.4, 0.5), (30, 20), dtype=dtype), expected)


@pytest.mark.parametrize("initializer", [Sparse(0.3), Sparse(0.8, axis=1), SparseGaussian(5)], ids=str)
def test_slices_equal_the_whole(initializer, monkeypatch):
    whole = draw(initializer, (40, 30))
    for box in (
        (slice(3, 9), slice(5, 6)),
        (slice(30, 3, -4), slice(None, None, 3)),
        (slice(0, 0), slice(None)),
    ):
        assert np.array_equal(draw(initializer, (40, 30), box=box), whole[box])
    target = np.empty((30, 40), np.float32).T
    assert np.array_equal(draw(initializer, (40, 30), out=target), whole)
    # Pieces and blocks of a few values: their borders may not show.
    monkeypatch.setattr(run_module, "_VALUES", 64)
    monkeypatch.setattr(sparse, "_WORDS", 100)
    sparse._borders.cache_clear()
    assert np.array_equal(draw(initializer, (40, 30)), whole)


def test_slices_share_what_was_found_of_the_whole():
    sparse._borders.cache_clear()
    for row in range(20):
        draw(Sparse(0.3), (20, 3000), seed=77, box=(slice(row, row + 1),))
    assert sparse._borders.cache_info().misses == 1


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.95])
def test_equal_choosers_go_by_their_place(monkeypatch, request, axis, share):
    real = sparse.SparseFill.choosers
    monkeypatch.setattr(sparse.SparseFill, "choosers", lambda *arguments: real(*arguments) % np.uint32(5))
    sparse._borders.cache_clear()  # of real choosers, and then of these
    request.addfinalizer(sparse._borders.cache_clear)
    whole = draw(Sparse(share, axis=axis), (60, 50))
    fill = Sparse(share, axis=axis).resolve((60, 50))
    words = ini.bits(3000, seed=1, name="w", start=1 << 63).reshape(60, 50) % 5
    order = np.argsort(np.moveaxis(words, axis, 0), axis=0, kind="stable")[: fill.zeros]
    expected = np.ones((*order.shape[1:], whole.shape[axis]), bool)
    np.put_along_axis(expected, order.T, False, axis=1)
    assert np.array_equal(whole != 0, expected.T if axis == 0 else expected)
    box = (slice(50, 3, -2), slice(1, None, 3))
    assert np.array_equal(draw(Sparse(share, axis=axis), (60, 50), box=box), whole[box])


@pytest.mark.parametrize(
    "initializer", [Sparse(0.3), SparseGaussian(5), ini.caffe_positive_unitball()], ids=str
)
def test_backends_agree(initializer):
    for dtype in ("float32", "float64", "bfloat16"):
        made = draw(initializer, (40, 30), dtype=dtype)
        assert np.array_equal(draw(initializer, (40, 30), dtype=dtype, backend="numpy"), made)


def test_places_of_zeros_are_uniform_and_independent():
    zero = np.stack([draw(Sparse(0.25), (8, 5000), seed=seed) == 0 for seed in range(4)])
    counts = zero.sum((0, 2))  # of each place in a column: 2 of 8, 20,000 columns
    expected = 20_000 * 0.25
    # Fixed column sums make the counts of 8 places a sum of 7 independent ones: scale by 8/7 / (1 - 1/4).
    statistic = ((counts - expected) ** 2 / expected).sum() * (7 / 8) / 0.75
    assert stats.chi2.sf(statistic, 7) > FALSE_ALARM
    pairs = np.array([(zero[:, a] & zero[:, b]).sum() for a in range(8) for b in range(a)])
    assert stats.kstest((pairs - 20_000 / 28) / np.sqrt(20_000 / 28 * 27 / 28), "norm").pvalue > FALSE_ALARM
    # Negative control: zeros that prefer the upper half.
    skewed = np.where(np.arange(8) < 4, counts * 1.05, counts * 0.95)
    assert stats.chi2.sf(((skewed - expected) ** 2 / expected).sum() * (7 / 8) / 0.75, 7) < FALSE_ALARM


def test_moments():
    for initializer in (Sparse(0.3, 2.0), SparseGaussian(50, 1.0, 2.0)):
        fill = initializer.resolve((200, 500))
        values = draw(initializer, (200, 500))
        assert values.mean() == pytest.approx(fill.mean, abs=5 * fill.std / np.sqrt(values.size))
        assert values.std() == pytest.approx(fill.std, rel=0.02)


def test_caffe_keeps_each_value_with_a_probability():
    values = draw(caffe_gaussian(0.0, 0.1, sparse=15), (300, 400))
    kept = (values != 0).sum()
    assert abs(kept - 15 * 400) < 4.5 * np.sqrt(15 * 400 * (1 - 15 / 300))
    assert p_value(values[values != 0], Law("normal", 0.0, 0.1)) > FALSE_ALARM
    assert (values != 0).sum(0).std() > 2  # not an exact number per column
    assert caffe_gaussian(1.0, 0.1) == ini.Normal(1.0, 0.1)
    assert not draw(caffe_gaussian(sparse=0), (5, 5)).any()
    assert draw(caffe_gaussian(sparse=5), (5, 5)).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sparse(1.01), r"sparsity=1\.01 is out of range; expected a fraction in \[0, 1\]"),
        (lambda: Sparse(-0.01), "sparsity=-0.01"),
        (lambda: Sparse(float("nan")), "sparsity is NaN"),
        (lambda: Sparse(0.5, -1.0), "std=-1.0 is negative"),
        (lambda: Sparse(0.5, axis=2), "axis=2 is not an axis of a matrix"),
        (lambda: Sparse(0.5, counts="ones"), "counts='ones' is unknown; expected one of zeros, nonzeros"),
        (lambda: Sparse(0.5).resolve((3,)), r"shape=\(3,\) is not a matrix"),
        (lambda: Sparse(0.5).resolve((3, 3, 3)), "not a matrix"),
        (lambda: SparseGaussian(4).resolve((3, 9)), r"nonzeros=4 of shape=\(3, 9\)"),
        (lambda: SparseGaussian(4).resolve(()), "nonzeros=4"),
        (lambda: SparseGaussian(-1), "nonzeros=-1 is too small"),
        (lambda: caffe_gaussian(sparse=-2), "sparse=-2 is too small"),
        (lambda: draw(Sparse(0.5, 1e6), (3, 3), dtype="float16"), "overflows dtype float16"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
