"""Filters and arrays as weights, and Caffe's unit ball."""

import math

import numpy as np
import pytest
from peers import Law, p_value

import initium as ini
from initium.backends import run as run_module
from initium.initializers import unit_ball
from initium.initializers.filters import STFT, Bilinear, ConstantArray, stft
from initium.initializers.unit_ball import PositiveUnitball

keras = pytest.importorskip("keras")


def draw(initializer, shape, **more):
    return ini.initialize(initializer, shape, seed=1, name="w", **more)


# --- arrays -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0], [[1], [2]], np.arange(24).reshape(4, 2, 3), [[[0.1]]]])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float8_e5m2"])
def test_arrays_broadcast_as_in_numpy(values, dtype):
    drawn = draw(ini.constant(values), (4, 2, 3), dtype=dtype)
    expected = np.broadcast_to(np.asarray(values, np.float64), (4, 2, 3))
    expected = expected if dtype == "float64" else expected.astype(np.float32)
    assert np.array_equal(drawn, expected.astype(drawn.dtype))
    box = (slice(3, None, -2), slice(1, 2), slice(None))
    assert np.array_equal(draw(ini.constant(values), (4, 2, 3), dtype=dtype, box=box), drawn[box])


def test_arrays_are_copied():
    values = np.ones(3)
    made = ConstantArray(values)
    values[0] = 5
    assert draw(made, (3,)).tolist() == [1, 1, 1]
    assert made.resolve((3,)).mean == 1.0


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: ini.constant([1.0, 2.0]).resolve((3,)),
            ValueError,
            r"shape \(2,\) do not broadcast to shape=\(3,\)",
        ),
        (lambda: ini.constant([1.0, 2.0]).resolve(()), ValueError, "do not broadcast"),
        (lambda: ini.constant([math.nan, 2.0]), ValueError, "values holds NaN"),
        (lambda: ini.constant([1j, 2.0]), TypeError, "not an array of real numbers"),
        (lambda: draw(ini.constant([1e9]), (3,), dtype="float16"), ValueError, "overflows dtype float16"),
    ],
)
@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")
def test_bad_arrays(make, error, message):
    with pytest.raises(error, match=message):
        make()


# --- bilinear -----------------------------------------------------------------------------------------------


def caffe_bilinear(width):
    """Caffe's loop, in Python."""
    f = math.ceil(width / 2.0)
    c = (2 * f - 1 - f % 2) / (2.0 * f)
    return [[(1 - abs(x / f - c)) * (1 - abs(y / f - c)) for x in range(width)] for y in range(width)]


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 8])
def test_bilinear_is_that_of_caffe(width):
    weight = draw(Bilinear(), (3, 2, width, width))
    np.testing.assert_allclose(weight, np.broadcast_to(caffe_bilinear(width), weight.shape), rtol=1e-7)


def test_bilinear_interpolates():
    torch = pytest.importorskip("torch")
    weight = torch.from_numpy(draw(Bilinear(), (1, 1, 4, 4)))
    image = torch.arange(25.0).reshape(1, 1, 5, 5)
    up = torch.nn.functional.conv_transpose2d(image, weight, stride=2, padding=1)
    expected = torch.nn.functional.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(up[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])


@pytest.mark.parametrize("shape", [(4, 4), (1, 1, 3, 4), (1, 4, 4), (1, 1, 4, 4, 4)])
def test_bilinear_needs_square_filters(shape):
    with pytest.raises(ValueError, match="not a square 2-D filter"):
        Bilinear().resolve(shape)


# --- short-time Fourier transform ---------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["real", "imag"])
@pytest.mark.parametrize(
    ("window", "scaling"), [("hann", "density"), ("hamming", "spectrum"), ("hann", None), (None, None)]
)
@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("shape", [(16, 1, 9), (20, 1, 5), (7, 1, 1 + 8)])
def test_stft_is_that_of_keras(side, window, scaling, periodic, shape):
    peer = keras.initializers.STFT(side, window, scaling, periodic)
    expected = np.asarray(peer(shape, "float32"))
    np.testing.assert_allclose(draw(stft(side, window, scaling, periodic), shape), expected, atol=2e-5)


def test_stft_slices_equal_the_whole():
    whole = draw(STFT(), (16, 1, 9))
    box = (slice(12, 2, -3), slice(None), slice(1, 8, 2))
    assert np.array_equal(draw(STFT(), (16, 1, 9), box=box), whole[box])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: STFT("both"), "side='both' is unknown; expected one of real, imag"),
        (lambda: STFT(scaling="power"), "scaling='power' is unknown; expected one of density, spectrum"),
        (lambda: STFT(window="hanning window").resolve((16, 1, 9)), "window='hanning window' is unknown"),
        (lambda: STFT().resolve((16, 9)), "not a filter bank; expected"),
        (lambda: STFT().resolve((16, 2, 9)), "not a filter bank"),
    ],
)
def test_bad_stft(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- unit ball ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_rows_of_the_unit_ball_sum_to_one(dtype):
    weight = draw(PositiveUnitball(), (6, 4, 5), dtype=dtype).astype(np.float64)
    assert (weight > 0).all()
    close = {"float32": 1e-6, "float64": 1e-15, "bfloat16": 0.01}[dtype]
    assert weight.sum((1, 2)) == pytest.approx(np.ones(6), abs=close)


def test_unit_ball_is_a_normalised_uniform():
    weight = draw(PositiveUnitball(), (4, 20_000), dtype="float64")
    for row in weight:
        top = row.max() * (1 + 1 / 20_000)
        assert p_value(row, Law("uniform", 0.0, top)) > 1e-4
        assert p_value(row, Law("uniform", 0.0, top * 1.03)) < 1e-4  # negative control
    fill = PositiveUnitball().resolve((4, 20_000))
    assert weight.mean() == pytest.approx(fill.mean)
    assert weight.std() == pytest.approx(fill.std, rel=0.01)


def test_slices_of_the_unit_ball_equal_the_whole(monkeypatch):
    whole = draw(PositiveUnitball(), (6, 4, 5))
    box = (slice(5, 1, -2), slice(1, 3), slice(None, None, 2))
    assert np.array_equal(draw(PositiveUnitball(), (6, 4, 5), box=box), whole[box])
    monkeypatch.setattr(run_module, "_VALUES", 7)
    monkeypatch.setattr(unit_ball, "_WORDS", 3)
    unit_ball._sums.cache_clear()
    assert np.array_equal(draw(PositiveUnitball(), (6, 4, 5)), whole)


def test_unit_ball_of_few():
    assert draw(PositiveUnitball(), (3,)).tolist() == [1, 1, 1]
    assert draw(PositiveUnitball(), (3, 0)).shape == (3, 0)
    with pytest.raises(ValueError, match=r"shape=\(\) has no rows"):
        PositiveUnitball().resolve(())
