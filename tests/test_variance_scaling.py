"""Variance scaling against torch, Keras and JAX: fans, bounds, stds and truncation over a grid of shapes."""

import math
from functools import partial

import jax.nn.initializers as jax_init
import numpy as np
import pytest
import torch
import torch.nn.init as torch_init
from peers import jax_law, keras_law, law_of, p_value, torch_law

import initium as ini
from initium import layouts
from initium.initializers.scaling import VarianceScaling
from initium.layouts import TRANSPOSED, Layout

keras = pytest.importorskip("keras")
keras_init = keras.initializers

# (out, in, *receptive), as torch has them.
OUT_IN = {
    "dense": (64, 32),
    "wide": (7, 300),
    "one": (1, 1),
    "conv1d": (16, 8, 5),
    "conv2d": (16, 8, 3, 5),
    "conv3d": (8, 4, 3, 3, 2),
    "grouped": (32, 4, 3, 3),
    "depthwise": (16, 1, 3, 3),
    "transposed": (8, 24, 4, 4),
    "embedding": (1000, 16),
    "fused qkv": (3 * 24, 24),
    "stacked experts": (4, 16, 8),
}
# (*receptive, in, out), as Keras and JAX have them.
IN_OUT = {name: (*shape[2:], shape[1], shape[0]) for name, shape in OUT_IN.items()}

out_in = pytest.mark.parametrize("shape", OUT_IN.values(), ids=OUT_IN)
in_out = pytest.mark.parametrize("shape", IN_OUT.values(), ids=IN_OUT)


def same(law, other, rel=1e-14):
    assert law.kind == other.kind
    assert law[1:] == pytest.approx(other[1:], rel=rel, abs=0)


# --- torch --------------------------------------------------------------------------------------------------


@out_in
def test_fans_are_those_of_torch(shape):
    expected = torch_init._calculate_fan_in_and_fan_out(torch.empty(shape))
    assert VarianceScaling().fans(shape) == expected


@out_in
@pytest.mark.parametrize("gain", [1.0, 5 / 3, 0.02])
def test_xavier_is_that_of_torch(shape, gain):
    same(
        law_of(ini.xavier_uniform(gain=gain), shape), torch_law(torch_init.xavier_uniform_, shape, gain=gain)
    )
    ours = ini.xavier_normal(gain=gain, truncated=False)
    same(law_of(ours, shape), torch_law(torch_init.xavier_normal_, shape, gain=gain))


@out_in
@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
@pytest.mark.parametrize(
    ("nonlinearity", "a"),
    [("leaky_relu", 0.0), ("leaky_relu", 5**0.5), ("relu", 0.3), ("tanh", 0.0), ("selu", 0)],
)
def test_kaiming_is_that_of_torch(shape, mode, nonlinearity, a):
    how = {"a": a, "mode": mode, "nonlinearity": nonlinearity}
    same(law_of(ini.kaiming_uniform(**how), shape), torch_law(torch_init.kaiming_uniform_, shape, **how))
    ours = ini.kaiming_normal(**how, truncated=False)
    same(law_of(ours, shape), torch_law(torch_init.kaiming_normal_, shape, **how))


# --- Keras --------------------------------------------------------------------------------------------------

SPECIALISATIONS = [
    "lecun_uniform",
    "lecun_normal",
    "glorot_uniform",
    "glorot_normal",
    "he_uniform",
    "he_normal",
]
specialisation = pytest.mark.parametrize("name", SPECIALISATIONS)


@in_out
@specialisation
def test_specialisations_are_those_of_keras(shape, name):
    ours = getattr(ini, name)("in_out")
    same(law_of(ours, shape), keras_law(getattr(keras_init, name)(seed=1), shape))


@in_out
@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize("distribution", ["uniform", "normal", "truncated_normal"])
def test_variance_scaling_is_that_of_keras(shape, mode, distribution):
    theirs = {"normal": "untruncated_normal"}.get(distribution, distribution)
    peer = keras_init.VarianceScaling(0.7, mode, theirs, seed=1)
    same(law_of(VarianceScaling(0.7, mode, distribution, "in_out"), shape), keras_law(peer, shape))


# --- JAX ----------------------------------------------------------------------------------------------------

FLOAT32 = 3e-7  # JAX scales in float32


@in_out
@specialisation
def test_specialisations_are_those_of_jax(shape, name):
    same(law_of(getattr(ini, name)("in_out"), shape), jax_law(getattr(jax_init, name)(), shape), FLOAT32)


@in_out
@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg", "fan_geo_avg"])
@pytest.mark.parametrize("distribution", ["uniform", "normal", "truncated_normal"])
def test_variance_scaling_is_that_of_jax(shape, mode, distribution):
    peer = jax_init.variance_scaling(0.7, mode, distribution)
    same(law_of(VarianceScaling(0.7, mode, distribution, "in_out"), shape), jax_law(peer, shape), FLOAT32)


AXES = {
    "fused qkv": ((24, 3, 4, 6), {"in_axis": 0, "out_axis": (2, 3), "batch_axis": (1,)}),
    "stacked experts": ((4, 8, 16), {"in_axis": -2, "out_axis": -1, "batch_axis": (0,)}),
    "heads in, width out": ((4, 6, 24), {"in_axis": (0, 1), "out_axis": 2}),
    "experts of convolutions": ((5, 3, 3, 8, 16), {"in_axis": 3, "out_axis": 4, "batch_axis": (0,)}),
    "no axis but two": ((6, 5, 7), {"in_axis": 2, "out_axis": 0}),
}


@pytest.mark.parametrize(("shape", "axes"), AXES.values(), ids=AXES)
@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg", "fan_geo_avg"])
def test_axes_are_those_of_jax(shape, axes, mode):
    peer = jax_init.variance_scaling(2.0, mode, "truncated_normal", **axes)
    same(law_of(VarianceScaling(2.0, mode, layout=Layout(**axes)), shape), jax_law(peer, shape), FLOAT32)


# --- the values ---------------------------------------------------------------------------------------------

# 120 tests of 40,000 values. Seeds are fixed; under new seeds a test would fail wrongly once in 1e4 times.
FALSE_ALARM = 1e-4
VALUES = (160, 250)  # fans differ by more than half, which 40,000 values must tell


@specialisation
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16", "float8_e5m2"])
def test_values_follow_the_law_of_the_peer(name, dtype):
    law = keras_law(getattr(keras_init, name)(seed=1), VALUES)
    values = ini.initialize(getattr(ini, name)("in_out"), VALUES, seed=5, name=name, dtype=dtype)
    values = values.astype(np.float64)
    if dtype in ("float32", "float64"):
        assert p_value(values, law) > FALSE_ALARM
    # A KS test does not forgive rounding to few bits: std within 5 standard errors, bounds exact.
    std = values.std()
    expected = _std(law)
    assert abs(std / expected - 1) < 5 / math.sqrt(2 * values.size) + (0.01 if "float8" in dtype else 1e-4)
    bound = law.b if law.kind == "uniform" else law.cut * law.b
    assert np.abs(values).max() <= bound


def _std(law):
    if law.kind == "uniform":
        return (law.b - law.a) / math.sqrt(12)
    return law.b * (0.87962566103423978 if law.cut == 2 else 1.0)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (ini.xavier_uniform(), torch_init.xavier_uniform_),
        (ini.xavier_normal(truncated=False), torch_init.xavier_normal_),
        (ini.kaiming_uniform(), torch_init.kaiming_uniform_),
        (ini.kaiming_normal(truncated=False), torch_init.kaiming_normal_),
    ],
    ids=["xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal"],
)
def test_values_follow_the_law_of_torch(ours, theirs):
    values = ini.initialize(ours, VALUES, seed=7, name="w")
    assert p_value(values, torch_law(theirs, VALUES)) > FALSE_ALARM


@pytest.mark.parametrize("name", SPECIALISATIONS)
def test_negative_control_the_wrong_fan_fails(name):
    """The wrong layout exchanges fan_in and fan_out; Glorot's average must be told from fan_in."""
    wrong = VarianceScaling(1.0, "fan_in", getattr(ini, name)().distribution) if "glorot" in name else None
    values = ini.initialize(wrong or getattr(ini, name)("out_in"), VALUES, seed=5, name=name)
    law = keras_law(getattr(keras_init, name)(seed=1), VALUES)
    assert p_value(values, law) < FALSE_ALARM


@pytest.mark.parametrize("name", ["kaiming_normal", "xavier_normal"])
def test_negative_control_truncation_is_told_from_none(name):
    """The alias means Keras's and JAX's truncated normal; torch's function of that name does not truncate."""
    values = ini.initialize(getattr(ini, name)(), (600, 1000), seed=5, name=name)
    assert p_value(values, torch_law(getattr(torch_init, f"{name}_"), (600, 1000))) < FALSE_ALARM


# --- whose layout counts ------------------------------------------------------------------------------------


def test_the_layout_of_the_tensor_counts_where_the_initializer_leaves_it_open():
    shape = (6, 4, 5)
    for layout, fan_in in ((None, 20.0), (TRANSPOSED, 30.0), (layouts.IN_OUT, 24.0)):
        assert ini.lecun_normal().resolve(shape, layout) == ini.lecun_normal(layout).resolve(shape)
        assert ini.lecun_normal().fans(shape, layout).fan_in == fan_in
        # An initializer that says its own layout keeps it.
        assert ini.lecun_normal("out_in").fans(shape, layout).fan_in == 20.0


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (5,)])
@pytest.mark.parametrize("make", [ini.glorot_uniform, ini.he_normal, partial(ini.lecun_normal, "in_out")])
def test_fans_of_too_few_axes(shape, make):
    with pytest.raises(ValueError, match=r"fans of shape=.* are not defined; expected at least two axes"):
        make().resolve(shape)


def test_unknown_choices_are_listed():
    with pytest.raises(
        ValueError, match="mode='fan_max' is unknown; expected one of fan_in, fan_out, fan_avg"
    ):
        VarianceScaling(mode="fan_max")
    with pytest.raises(ValueError, match="distribution='cauchy' is unknown; expected one of uniform, normal"):
        VarianceScaling(distribution="cauchy")
    with pytest.raises(
        ValueError, match="layout='oihw' is unknown; expected a Layout or one of out_in, in_out"
    ):
        VarianceScaling(layout="oihw")
    with pytest.raises(ValueError, match="nonlinearity='mish' is unknown; expected one of linear"):
        ini.he_normal(nonlinearity="mish")
    with pytest.raises(ValueError, match="mode=7 is unknown"):
        ini.he_normal(mode=7)


@pytest.mark.parametrize("gain", [0.0, -1.0, math.nan, math.inf])
def test_gain_must_be_positive(gain):
    with pytest.raises(ValueError, match="gain"):
        ini.glorot_uniform(gain=gain)
