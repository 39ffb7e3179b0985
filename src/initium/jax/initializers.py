"""`jax.nn.initializers` with the samplers of initium: the same names and defaults.

Each function returns an initializer that is called with (key, shape, dtype). The seed of a threefry key is
``high << 32 | low``, so ``jax.random.key(n)`` is seed n; other keys are hashed. The stream is that of
``name=``, by default of the empty name. Values are drawn on the host, so they have the same bits on every
device. Under `jax.jit`, `jax.vmap` and `jax.eval_shape`, the initializers use `jax.pure_callback`.

Random weights have a real floating dtype; constants can have any dtype of JAX.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from initium import dtypes, tensor
from initium.checks import check_integer, check_shape
from initium.initializers.basic import Initializer, Normal, TruncatedNormal, Uniform
from initium.initializers.orthogonal import DeltaOrthogonal, Orthogonal
from initium.initializers.scaling import VarianceScaling
from initium.layouts import Layout

__all__ = [
    "constant",
    "delta_orthogonal",
    "from_initializer",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "ones",
    "orthogonal",
    "seed_of",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]

Axes = int | Sequence[int]


class Init(Protocol):
    """The type of the initializers in this module."""

    def __call__(self, key: Any, shape: Any, dtype: Any = ..., out_sharding: Any = None) -> jax.Array:
        """Return an array of this shape and dtype."""
        ...


# --- keys ---------------------------------------------------------------------------------------------------


def seed_of(key: Any) -> int:
    """Return the seed for a JAX key.

    Parameters
    ----------
    key
        One key from `jax.random.key` or `jax.random.PRNGKey`; not traced.

    Raises
    ------
    TypeError, ValueError
        If it is not a key, or an array of several keys.
    """
    return _seed(np.asarray(_words(key)))


def _words(key: Any) -> Any:
    """Return the words of a key, shape (n,); they may be traced."""
    dtype = getattr(key, "dtype", None)
    if dtype is None:
        raise TypeError(f"key={key!r} is not a JAX key; expected jax.random.key(...)")
    words = jax.random.key_data(key) if jnp.issubdtype(dtype, jax.dtypes.prng_key) else key
    if words.dtype != np.uint32 or words.ndim != 1:
        raise ValueError(f"key has shape {key.shape} and dtype {dtype}; expected one key of jax.random")
    return words


def _seed(words: NDArray[np.uint32]) -> int:
    if words.size == 2:
        return int(words[0]) << 32 | int(words[1])
    return int.from_bytes(blake2b(words.astype("<u4").tobytes(), digest_size=8).digest(), "little")


# --- drawing ------------------------------------------------------------------------------------------------


def from_initializer(initializer: Initializer, dtype: Any = None, *, name: str = "") -> Init:
    """Return a JAX initializer for any initializer of initium.

    Parameters
    ----------
    initializer
        An initializer, such as ``initium.caffe_xavier()``.
    dtype
        The default dtype; None means the default float dtype of JAX.
    name
        The name of the stream.

    Examples
    --------
    >>> import jax
    >>> import initium as ini
    >>> from initium.jax import initializers
    >>> init = initializers.from_initializer(ini.caffe_xavier(), name="w")
    >>> init(jax.random.key(7), (2, 3))
    Array([[ 0.30331653,  0.7742123 , -0.6659339 ],
           [-0.22108108, -0.02653986, -0.68297094]], dtype=float32)
    """

    def init(key: Any, shape: Any, dtype: Any = dtype, out_sharding: Any = None) -> jax.Array:
        target = _dtype(dtype)
        dtypes.lookup(target)  # raises here for an unknown dtype, not in the callback
        whole = check_shape(shape)
        initializer.resolve(whole)
        words = _words(key)

        def draw(words: NDArray[np.uint32]) -> Any:
            return tensor.initialize(
                initializer, whole, seed=_seed(np.asarray(words)), name=name, dtype=target
            )

        if isinstance(words, jax.core.Tracer):
            result = jax.ShapeDtypeStruct(whole, target)
            drawn = jax.pure_callback(draw, result, words, vmap_method="sequential")
        else:
            drawn = jnp.asarray(draw(words))
        return drawn if out_sharding is None else _placed(drawn, out_sharding)

    return init


def _placed(array: Any, sharding: Any) -> jax.Array:
    if isinstance(array, jax.core.Tracer):
        return jax.lax.with_sharding_constraint(array, sharding)
    return jax.device_put(array, sharding)


# --- without randomness: JAX arrays of any dtype ------------------------------------------------------------


def zeros(key: Any, shape: Any, dtype: Any = None, out_sharding: Any = None) -> jax.Array:
    """Return zeros; the key is not used."""
    return constant(0)(key, shape, dtype, out_sharding)


def ones(key: Any, shape: Any, dtype: Any = None, out_sharding: Any = None) -> jax.Array:
    """Return ones; the key is not used."""
    return constant(1)(key, shape, dtype, out_sharding)


def constant(value: Any, dtype: Any = None) -> Init:
    """Return an initializer with the constant `value`: a number or an array that broadcasts to the shape."""

    def init(key: Any, shape: Any, dtype: Any = dtype, out_sharding: Any = None) -> jax.Array:
        filled = jnp.full(check_shape(shape), jnp.asarray(value), _dtype(dtype))
        return filled if out_sharding is None else _placed(filled, out_sharding)

    return init


def _dtype(dtype: Any) -> Any:
    return jax.dtypes.canonicalize_dtype(float if dtype is None else dtype)


# --- distributions ------------------------------------------------------------------------------------------


def uniform(scale: float = 1e-2, dtype: Any = None, *, name: str = "") -> Init:
    """Return an initializer of U[0, scale)."""
    return from_initializer(Uniform(0.0, scale), dtype, name=name)


def normal(stddev: float = 1e-2, dtype: Any = None, *, name: str = "") -> Init:
    """Return an initializer of N(0, stddev^2)."""
    return from_initializer(Normal(0.0, stddev), dtype, name=name)


def truncated_normal(
    stddev: float = 1e-2, dtype: Any = None, lower: float = -2.0, upper: float = 2.0, *, name: str = ""
) -> Init:
    """Return an initializer of N(0, stddev^2), truncated to [lower stddev, upper stddev].

    As in JAX, `stddev` is not corrected for the truncation.
    """
    return from_initializer(TruncatedNormal(0.0, stddev, lower, upper), dtype, name=name)


def variance_scaling(
    scale: float,
    mode: str,
    distribution: str,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: Any = None,
    *,
    name: str = "",
) -> Init:
    """Return an initializer with variance ``scale / n``; see `initium.VarianceScaling`.

    Parameters
    ----------
    scale
        Factor of the variance, > 0.
    mode
        ``"fan_in"``, ``"fan_out"``, ``"fan_avg"`` or ``"fan_geo_avg"``.
    distribution
        ``"uniform"``, ``"normal"`` or ``"truncated_normal"``.
    in_axis, out_axis, batch_axis
        Axes of inputs, outputs and stacked copies; the rest is the receptive field.
    dtype
        The default dtype.
    name
        The name of the stream.
    """
    layout = Layout(_axes(in_axis), _axes(out_axis), _axes(batch_axis))
    return from_initializer(VarianceScaling(scale, mode, distribution, layout), dtype, name=name)


def _axes(axes: Axes) -> tuple[int, ...]:
    return (axes,) if isinstance(axes, int) else tuple(axes)


def glorot_uniform(
    in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = (), dtype: Any = None, *, name: str = ""
) -> Init:
    """Return an initializer of U(+-sqrt(6 / (fan_in + fan_out)))."""
    return variance_scaling(1.0, "fan_avg", "uniform", in_axis, out_axis, batch_axis, dtype, name=name)


def glorot_normal(
    in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = (), dtype: Any = None, *, name: str = ""
) -> Init:
    """Return an initializer of truncated normal values with variance 2 / (fan_in + fan_out)."""
    return variance_scaling(
        1.0, "fan_avg", "truncated_normal", in_axis, out_axis, batch_axis, dtype, name=name
    )


def lecun_uniform(
    in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = (), dtype: Any = None, *, name: str = ""
) -> Init:
    """Return an initializer of U(+-sqrt(3 / fan_in))."""
    return variance_scaling(1.0, "fan_in", "uniform", in_axis, out_axis, batch_axis, dtype, name=name)


def lecun_normal(
    in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = (), dtype: Any = None, *, name: str = ""
) -> Init:
    """Return an initializer of truncated normal values with variance 1 / fan_in."""
    return variance_scaling(
        1.0, "fan_in", "truncated_normal", in_axis, out_axis, batch_axis, dtype, name=name
    )


def he_uniform(
    in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = (), dtype: Any = None, *, name: str = ""
) -> Init:
    """Return an initializer of U(+-sqrt(6 / fan_in))."""
    return variance_scaling(2.0, "fan_in", "uniform", in_axis, out_axis, batch_axis, dtype, name=name)


def he_normal(
    in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = (), dtype: Any = None, *, name: str = ""
) -> Init:
    """Return an initializer of truncated normal values with variance 2 / fan_in."""
    return variance_scaling(
        2.0, "fan_in", "truncated_normal", in_axis, out_axis, batch_axis, dtype, name=name
    )


def orthogonal(scale: float = 1.0, column_axis: int = -1, dtype: Any = None, *, name: str = "") -> Init:
    """Return an initializer of random orthogonal matrices, times `scale`, with the columns `column_axis`."""
    return from_initializer(Orthogonal(scale, column_axis=column_axis), dtype, name=name)


def delta_orthogonal(scale: float = 1.0, column_axis: int = -1, dtype: Any = None, *, name: str = "") -> Init:
    """Return an initializer of convolutions with `scale` times an orthogonal matrix at their centre.

    `column_axis` has no effect, as in JAX.
    """
    check_integer("column_axis", column_axis)
    return from_initializer(DeltaOrthogonal(scale, layout="in_out"), dtype, name=name)


xavier_uniform = glorot_uniform
xavier_normal = glorot_normal
kaiming_uniform = he_uniform
kaiming_normal = he_normal
