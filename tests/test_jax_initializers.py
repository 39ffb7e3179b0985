"""`initium.jax.initializers` in the place of `jax.nn.initializers`."""

import inspect
import math

import jax
import jax.nn.initializers as peer
import jax.numpy as jnp
import numpy as np
import pytest
from peers import Law, jax_law, p_value

import initium as ini
from initium.initializers.peers import caffe_xavier
from initium.jax import initializers

FALSE_ALARM = 1e-4  # of each statistical test under new seeds
KEY = jax.random.key(5)

MAKERS = {
    "constant": (0.3,),
    "delta_orthogonal": (),
    "glorot_normal": (),
    "glorot_uniform": (),
    "he_normal": (),
    "he_uniform": (),
    "lecun_normal": (),
    "lecun_uniform": (),
    "normal": (),
    "orthogonal": (),
    "truncated_normal": (),
    "uniform": (),
    "variance_scaling": (0.5, "fan_geo_avg", "normal"),
}
# Those of independent values.
LAWS = [name for name in MAKERS if name not in ("constant", "orthogonal", "delta_orthogonal")]


def made(name, module=initializers, **more):
    return getattr(module, name)(*MAKERS[name], **more)


def shape_of(name):
    return (3, 4, 6) if name == "delta_orthogonal" else (4, 6)


every = pytest.mark.parametrize("name", MAKERS)


def test_every_name_of_jax_is_here():
    public = {name for name in dir(peer) if name[0].islower() and not name.startswith("__")}
    assert public <= set(initializers.__all__)


@pytest.mark.parametrize("name", [*MAKERS, "zeros", "ones", "kaiming_normal", "xavier_uniform"])
def test_signatures_are_those_of_jax(name):
    ours = inspect.signature(getattr(initializers, name)).parameters
    theirs = inspect.signature(getattr(peer, name)).parameters
    assert [n for n, p in ours.items() if p.kind is not p.KEYWORD_ONLY] == list(theirs)
    assert all(ours[n].default == p.default for n, p in theirs.items())


@pytest.mark.parametrize("name", LAWS)
def test_values_follow_the_law_of_jax(name):
    law = jax_law(made(name, peer), (150, 260))
    values = made(name)(KEY, (150, 260))
    assert p_value(values, law) > FALSE_ALARM
    assert (
        p_value(values, Law(law.kind, law.a * 1.06, law.b * 1.06, law.cut)) < FALSE_ALARM
    )  # negative control


def test_bounds_of_truncated_normal():
    law = jax_law(peer.truncated_normal(0.5, lower=-1.5, upper=1.5), (200, 200))
    assert (
        p_value(initializers.truncated_normal(0.5, lower=-1.5, upper=1.5)(KEY, (200, 200)), law) > FALSE_ALARM
    )


@pytest.mark.parametrize(
    ("shape", "axis"), [((4, 6), -1), ((6, 4), -1), ((4, 6), 0), ((2, 3, 5), -1), ((2, 3, 5), 1)]
)
def test_orthogonal_has_the_axes_of_jax(shape, axis):
    def gram(weight):
        matrix = np.moveaxis(np.asarray(weight, np.float64), axis, -1).reshape(-1, shape[axis])
        return matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T

    ours = gram(initializers.orthogonal(2.0, axis)(KEY, shape))
    np.testing.assert_allclose(ours, gram(peer.orthogonal(2.0, axis)(KEY, shape)), atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 4, 6), (4, 5, 2, 3), (2, 3, 4, 2, 2)])
def test_delta_orthogonal_has_the_centre_of_jax(shape):
    ours, theirs = (np.asarray(m.delta_orthogonal(2.0)(KEY, shape)) for m in (initializers, peer))
    assert np.array_equal(ours.any((-1, -2)), theirs.any((-1, -2)))
    centre = ours[ours.any((-1, -2))].reshape(shape[-2:])
    np.testing.assert_allclose(centre @ centre.T, 4 * np.eye(shape[-2]), atol=1e-5)


# --- keys, dtypes, transformations --------------------------------------------------------------------------


def test_seed_is_the_key():
    assert initializers.seed_of(jax.random.key(7)) == initializers.seed_of(jax.random.PRNGKey(7)) == 7
    folded = jax.random.fold_in(KEY, 3)
    high, low = (int(word) for word in jax.random.key_data(folded))
    assert initializers.seed_of(folded) == high << 32 | low
    drawn = initializers.he_normal()(folded, (5, 7))
    assert np.array_equal(drawn, ini.initialize(ini.he_normal("in_out"), (5, 7), seed=high << 32 | low))
    named = initializers.he_normal(name="w")(folded, (5, 7))
    assert np.array_equal(
        named, ini.initialize(ini.he_normal("in_out"), (5, 7), seed=high << 32 | low, name="w")
    )


def test_keys_of_other_implementations():
    first, second = (initializers.normal()(jax.random.key(n, impl="rbg"), (50,)) for n in (1, 2))
    assert not np.array_equal(first, second)
    assert 0 <= initializers.seed_of(jax.random.key(1, impl="rbg")) < 2**64


@every
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float8_e4m3fn"])
def test_dtypes(name, dtype):
    by_call = made(name)(KEY, shape_of(name), jnp.dtype(dtype))
    by_maker = made(name, dtype=jnp.dtype(dtype))(KEY, shape_of(name))
    assert by_call.dtype == by_maker.dtype == jnp.dtype(dtype)
    assert np.array_equal(by_call, by_maker)
    assert made(name)(KEY, shape_of(name)).dtype == jnp.float32


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_, jnp.complex64])
def test_constants_take_any_dtype(dtype):
    for name, arguments in (("zeros", None), ("ones", None), ("constant", (3,))):
        ours, theirs = (
            getattr(m, name) if arguments is None else getattr(m, name)(*arguments)
            for m in (initializers, peer)
        )
        made = ours(KEY, (2, 3), dtype)
        assert made.dtype == dtype
        assert np.array_equal(made, theirs(KEY, (2, 3), dtype))


def test_float64_follows_the_setting_of_jax():
    assert initializers.normal()(KEY, (3,), np.float64).dtype == jnp.float32
    with jax.enable_x64(True):
        assert initializers.normal()(KEY, (3,)).dtype == jnp.float64


@every
def test_transformations_do_not_change_values(name):
    init, shape = made(name), shape_of(name)
    eager = init(KEY, shape)
    assert isinstance(eager, jax.Array)
    assert np.array_equal(jax.jit(init, static_argnums=1)(KEY, shape), eager)
    keys = jax.random.split(KEY, 3)
    stacked = jax.vmap(lambda key: init(key, shape))(keys)
    assert np.array_equal(stacked[1], init(keys[1], shape))
    described = jax.eval_shape(lambda key: init(key, shape), KEY)
    assert (described.shape, described.dtype) == (shape, jnp.float32)
    if name != "constant":
        assert not np.array_equal(stacked[0], stacked[1])


def test_sharding():
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    eager = initializers.normal()(KEY, (4, 4), out_sharding=sharding)
    assert eager.sharding == sharding
    assert np.array_equal(initializers.ones(KEY, (4, 4), out_sharding=sharding), np.ones((4, 4)))


def test_any_initializer_of_initium():
    init = initializers.from_initializer(caffe_xavier("AVERAGE"), jnp.bfloat16, name="w")
    expected = ini.initialize(caffe_xavier("AVERAGE"), (4, 6), seed=5, name="w", dtype="bfloat16")
    assert np.array_equal(init(KEY, (4, 6)), expected)
    assert np.array_equal(initializers.constant([1.0, 2.0])(KEY, (3, 2)), [[1, 2]] * 3)


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: initializers.normal()(5, (3,)), TypeError, "key=5 is not a JAX key"),
        (
            lambda: initializers.normal()(jnp.ones(3), (3,)),
            ValueError,
            r"key has shape \(3,\) and dtype float32",
        ),
        (lambda: initializers.normal()(jax.random.split(KEY), (3,)), ValueError, r"key has shape \(2,\)"),
        (
            lambda: initializers.normal()(KEY, (3,), jnp.int32),
            ValueError,
            "dtype=dtype.'int32'. is not a dtype",
        ),
        (lambda: initializers.normal()(KEY, (3,), jnp.complex64), ValueError, "complex64"),
        (lambda: initializers.he_normal()(KEY, (3,)), ValueError, r"fans of shape=\(3,\) are not defined"),
        (lambda: initializers.variance_scaling(1.0, "fan", "normal"), ValueError, "mode='fan' is unknown"),
        (lambda: initializers.variance_scaling(1.0, "fan_in", "cauchy"), ValueError, "distribution='cauchy'"),
        (lambda: initializers.he_normal(in_axis=5)(KEY, (3, 4)), ValueError, "in_axis=5 is not an axis"),
        (lambda: initializers.orthogonal()(KEY, (3,)), ValueError, "not a matrix"),
        (lambda: initializers.delta_orthogonal()(KEY, (3, 6, 4)), ValueError, "expected in <= out"),
        (lambda: initializers.normal(math.nan), ValueError, "std is NaN"),
        (lambda: jax.jit(lambda k: initializers.he_normal()(k, (3,)))(KEY), ValueError, "not defined"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
