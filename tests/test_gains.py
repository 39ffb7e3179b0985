import math

import mpmath
import pytest
import torch

from initium.initializers.gains import GAINS, calculate_gain, squared_gain


@pytest.mark.parametrize("nonlinearity", [n for n in GAINS if n not in ("gelu", "silu")])
def test_gains_are_those_of_torch(nonlinearity):
    assert calculate_gain(nonlinearity) == torch.nn.init.calculate_gain(nonlinearity)


@pytest.mark.parametrize("slope", [None, 0, 0.01, 0.2, -1, 5**0.5])
def test_leaky_relu_is_that_of_torch(slope):
    assert calculate_gain("leaky_relu", slope) == torch.nn.init.calculate_gain("leaky_relu", slope)


def second_moment(function):
    def integrand(z):
        return function(z) ** 2 * mpmath.exp(-z * z / 2) / mpmath.sqrt(2 * mpmath.pi)

    return float(mpmath.quad(integrand, [-mpmath.inf, -8, -4, -2, 0, 2, 4, 8, mpmath.inf]))


@pytest.mark.parametrize(
    ("nonlinearity", "function"),
    [
        ("linear", lambda z: z),
        ("relu", lambda z: max(z, 0)),
        ("gelu", lambda z: z * mpmath.ncdf(z)),
        ("silu", lambda z: z / (1 + mpmath.exp(-z))),
    ],
)
def test_gain_keeps_the_second_moment(nonlinearity, function):
    assert calculate_gain(nonlinearity) ** 2 * second_moment(function) == pytest.approx(1, abs=1e-14)


def test_squared_gain_is_exact_for_relu():
    assert squared_gain("relu") == squared_gain("leaky_relu", 0) == 2.0
    assert squared_gain("tanh") == (5 / 3) ** 2
    assert math.sqrt(squared_gain("leaky_relu", 0.2)) == calculate_gain("leaky_relu", 0.2)


@pytest.mark.parametrize("function", [calculate_gain, squared_gain])
def test_bad_arguments(function):
    with pytest.raises(ValueError, match=r"nonlinearity='swish'.*linear.*relu.*silu.*leaky_relu"):
        function("swish")
    with pytest.raises(ValueError, match="nonlinearity=None"):
        function(None)
    with pytest.raises(TypeError, match="param=True"):
        function("leaky_relu", True)
    with pytest.raises(ValueError, match="param is NaN"):
        function("leaky_relu", math.nan)
