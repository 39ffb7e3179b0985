"""`initium.keras` in the place of `keras.initializers`."""

import inspect
import json
import math

import numpy as np
import pytest
from peers import Law, keras_law, p_value

import initium as ini

keras = pytest.importorskip("keras")

import initium.keras as ours  # noqa: E402  (after Keras's backend is chosen)

FALSE_ALARM = 1e-4  # of each statistical test under new seeds

RANDOM = {
    "RandomNormal": {"mean": 0.5},
    "RandomUniform": {"minval": -0.3},
    "TruncatedNormal": {"stddev": 0.2},
    "VarianceScaling": {"scale": 0.7, "mode": "fan_out", "distribution": "untruncated_normal"},
    "GlorotUniform": {},
    "GlorotNormal": {},
    "HeUniform": {},
    "HeNormal": {},
    "LecunUniform": {},
    "LecunNormal": {},
}
MATRICES = {"Orthogonal": {"gain": 2.0}, **RANDOM}
FIXED = {"Constant": {"value": 0.3}, "Zeros": {}, "Ones": {}, "Identity": {"gain": 0.5}}
EVERY = {**MATRICES, **FIXED, "STFT": {"side": "imag", "periodic": True}}


def make(name, module=ours, /, **more):
    return getattr(module, name)(**EVERY[name], **more)


every = pytest.mark.parametrize("name", EVERY)


def test_every_class_of_keras_is_here():
    classes = {n for n in dir(keras.initializers) if n[0].isupper() and not n.endswith("Initializer")}
    assert classes | {"Catalogued"} == set(ours.__all__)
    assert classes == set(EVERY)


@every
def test_signatures_are_those_of_keras(name):
    mine = inspect.signature(getattr(ours, name)).parameters
    theirs = inspect.signature(getattr(keras.initializers, name)).parameters
    assert [n for n in mine if n != "name"] == list(theirs)
    assert all(mine[n].default == p.default for n, p in theirs.items())


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("shape", [(150, 260), (3, 5, 50, 60)])
def test_values_follow_the_law_of_keras(name, shape):
    law = keras_law(make(name, keras.initializers, seed=1), shape)
    values = make(name, seed=1)(shape)
    assert p_value(values, law) > FALSE_ALARM
    other = Law(
        law.kind, law.a, law.b + 0.06 * (law.b - law.a) if law.kind == "uniform" else law.b * 1.06, law.cut
    )
    assert p_value(values, other) < FALSE_ALARM  # negative control


@pytest.mark.parametrize("shape", [(), (7,), (5, 6), (2, 3, 5, 6)])
@pytest.mark.parametrize("axes", [(None, None), ([0], [-1]), ([0, 1], [-1]), ([0], None)])
@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
def test_fans_are_those_of_keras(shape, axes, mode):
    if None not in axes and len(shape) < 2:
        pytest.skip("Keras has no such axes")
    theirs = keras.initializers.VarianceScaling(1.0, mode, "uniform", 1, *axes)
    mine = ours.VarianceScaling(1.0, mode, "uniform", 1, *axes)
    assert mine._made().resolve(shape).high == pytest.approx(keras_law(theirs, shape).b, rel=1e-14)


@pytest.mark.parametrize("name", [*FIXED, "STFT"])
def test_fixed_values_are_those_of_keras(name):
    shape = (16, 1, 9) if name == "STFT" else (4, 6)
    np.testing.assert_allclose(make(name)(shape), make(name, keras.initializers)(shape), atol=2e-5)


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (2, 3, 5)])
def test_orthogonal_has_the_axes_of_keras(shape):
    weight = np.asarray(make("Orthogonal", seed=1)(shape)).reshape(-1, shape[-1])
    gram = weight.T @ weight if weight.shape[0] >= weight.shape[1] else weight @ weight.T
    np.testing.assert_allclose(gram, 4 * np.eye(len(gram)), atol=1e-5)


# --- seeds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MATRICES)
def test_seeds_behave_as_in_keras(name):
    for module in (keras.initializers, ours):
        fixed = make(name, module, seed=3)
        assert np.array_equal(fixed((4, 6)), fixed((4, 6)))
        assert np.array_equal(fixed((4, 6)), make(name, module, seed=3)((4, 6)))
        open_seed = make(name, module)
        assert np.array_equal(open_seed((4, 6)), open_seed((4, 6)))
        assert not np.array_equal(open_seed((4, 6)), make(name, module)((4, 6)))
        keras.utils.set_random_seed(9)
        first = make(name, module)((4, 6))
        keras.utils.set_random_seed(9)
        assert np.array_equal(first, make(name, module)((4, 6)))
        generated = make(name, module, seed=keras.random.SeedGenerator(5))
        values = generated((4, 6))
        assert not np.array_equal(values, generated((4, 6)))
        assert np.array_equal(values, make(name, module, seed=keras.random.SeedGenerator(5))((4, 6)))


def test_seed_and_name_give_the_values_of_initialize():
    expected = ini.initialize(ini.he_normal("in_out"), (4, 6), seed=3, name="dense/kernel")
    assert np.array_equal(ours.HeNormal(seed=3, name="dense/kernel")((4, 6)), expected)


# --- dtypes, serialisation, layers --------------------------------------------------------------------------


@every
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtypes(name, dtype):
    shape = (16, 1, 9) if name == "STFT" else (4, 6)
    weight = make(name)(shape, dtype=dtype)
    assert keras.backend.standardize_dtype(weight.dtype) == dtype
    assert weight.shape == shape


@pytest.mark.parametrize("name", ["Constant", "Zeros", "Ones"])
@pytest.mark.parametrize("dtype", ["int32", "bool", "uint8", "bfloat16"])
def test_constants_take_any_dtype(name, dtype):
    made, theirs = (make(name, module)((2, 3), dtype=dtype) for module in (ours, keras.initializers))
    assert keras.backend.standardize_dtype(made.dtype) == dtype
    if (name, dtype) != ("Constant", "bool"):  # Keras multiplies by True, and gives int32
        assert np.array_equal(np.asarray(made, np.float32), np.asarray(theirs, np.float32))


@every
def test_serialisation(name):
    shape = (16, 1, 9) if name == "STFT" else (4, 6)
    initializer = make(name, **({"seed": 3, "name": "w"} if name in MATRICES else {}))
    packed = json.loads(json.dumps(keras.saving.serialize_keras_object(initializer)))
    again = keras.saving.deserialize_keras_object(packed)
    assert type(again) is type(initializer)
    assert again.get_config() == initializer.get_config()
    assert np.array_equal(again(shape), initializer(shape))
    assert np.array_equal(keras.initializers.get(packed)(shape), initializer(shape))
    assert type(initializer.clone()) is type(initializer)


def test_any_initializer_of_the_catalogue():
    made = ours.Catalogued("tf_variance_scaling", {"factor": 1.0, "mode": "FAN_OUT"}, seed=3)
    again = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(keras.saving.serialize_keras_object(made)))
    )
    expected = ini.initialize(ini.tf_variance_scaling(1.0, "FAN_OUT"), (6, 4), seed=3)
    assert np.array_equal(made((6, 4)), expected)
    assert np.array_equal(again((6, 4)), expected)
    with pytest.raises(ValueError, match="initializer='he' is unknown"):
        ours.Catalogued("he")
    with pytest.raises(TypeError, match="unexpected keyword"):
        ours.Catalogued("he_normal", {"scale": 2})


def test_array_and_generator_are_serialised():
    array = ours.Constant(np.array([1.0, 2.0]))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(array))
    assert np.array_equal(again((3, 2)), [[1, 2]] * 3)
    generator = ours.RandomNormal(seed=keras.random.SeedGenerator(5))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(generator))
    assert np.array_equal(again((3,)), generator((3,)))


# Keras 3.15 hands NumPy 2 variables with an old __array__.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_layers_and_saved_models(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            keras.layers.Conv2D(
                8, 3, kernel_initializer=ours.HeNormal(seed=1), bias_initializer=ours.Zeros()
            ),
            keras.layers.Flatten(),
            keras.layers.Dense(
                5, kernel_initializer=ours.Orthogonal(seed=2), bias_initializer=ours.Constant(0.1)
            ),
        ]
    )
    expected = ini.initialize(ini.he_normal("in_out"), (3, 3, 3, 8), seed=1)
    assert np.array_equal(model.layers[0].kernel, expected)
    assert np.asarray(model(np.ones((2, 12, 12, 3), np.float32))).shape == (2, 5)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(again.layers[2].kernel_initializer, ours.Orthogonal)
    rebuilt = keras.models.model_from_json(model.to_json())
    assert np.array_equal(rebuilt.layers[0].kernel, expected)


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ours.VarianceScaling(-1.0), ValueError, "scale=-1.0 is not positive"),
        (lambda: ours.VarianceScaling(mode="fan"), ValueError, "mode='fan' is unknown"),
        (lambda: ours.VarianceScaling(distribution="cauchy"), ValueError, "distribution='cauchy' is unknown"),
        (lambda: ours.RandomNormal(stddev=-1.0), ValueError, "std=-1.0 is negative"),
        (lambda: ours.RandomUniform(1.0, 0.0), ValueError, "low=1.0 is not below high=0.0"),
        (lambda: ours.RandomNormal(seed="a"), TypeError, "seed='a' is not an integer"),
        (lambda: ours.RandomNormal(seed=-1), ValueError, "seed=-1 is out of range"),
        (lambda: ours.Orthogonal(math.inf), ValueError, "gain=inf"),
        (lambda: ours.Orthogonal()((3,)), ValueError, "not a matrix"),
        (lambda: ours.Identity()((3,)), ValueError, "not a matrix"),
        (lambda: ours.RandomNormal()((3,), "int32"), ValueError, "'int32' is not a dtype"),
        (lambda: ours.STFT(window="square root")((8, 1, 5)), ValueError, "window='square root'"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
