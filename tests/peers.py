"""What peers draw from, by themselves: their own code runs, and its samplers are overheard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch

from initium.fills.elementwise import ConstantFill, TruncatedNormalFill, UniformFill


class Law(NamedTuple):
    """A distribution: uniform on [a, b); normal of mean a and std b, cut at `cut` stds; or the constant a."""

    kind: str
    a: float
    b: float
    cut: float = np.inf


def law_of(initializer: Any, shape: Sequence[int]) -> Law:
    """The law of one of initium's initializers."""
    match initializer.resolve(tuple(shape)):
        case ConstantFill(value):
            return Law("constant", value, 0.0)
        case UniformFill(low, high):
            return Law("uniform", low, high)
        case TruncatedNormalFill(location, scale, lower, upper):
            assert lower == -upper
            return Law("normal", location, scale, upper)
    raise AssertionError(f"{initializer} resolves to an unknown fill")


def torch_law(function: Callable[..., Any], shape: Sequence[int], **arguments: Any) -> Law:
    """The law that a function of `torch.nn.init` draws from."""
    heard: list[Law] = []

    def listen(kind: str) -> Any:
        def sampler(tensor: Any, a: float, b: float, generator: Any = None) -> Any:
            heard.append(Law(kind, float(a), float(b)))
            return tensor

        return mock.patch.object(torch.Tensor, f"{kind}_", sampler)

    with listen("uniform"), listen("normal"):
        function(torch.empty(*shape), **arguments)
    (law,) = heard
    return law


@contextmanager
def _samplers(module: Any, heard: list[Law], make: Callable[[Sequence[int]], Any]) -> Any:
    """Put samplers in place of a module's `random` that note their law and return ones."""

    def uniform(*, shape: Any, low: float, high: float) -> Any:
        heard.append(Law("uniform", low, high))
        return make(shape)

    def normal(*, shape: Any, mean: float, std: float, cut: float = np.inf) -> Any:
        heard.append(Law("normal", mean, std, cut))
        return make(shape)

    with mock.patch.object(module, "random", mock.Mock()) as random:
        yield random, uniform, normal


def keras_law(initializer: Any, shape: Sequence[int]) -> Law:
    """The law that a Keras initializer draws from."""
    from keras.src.initializers import random_initializers as module

    heard: list[Law] = []
    with _samplers(module, heard, np.ones) as (random, uniform, normal):
        random.uniform = lambda shape, minval, maxval, **_: uniform(shape=shape, low=minval, high=maxval)
        random.normal = lambda shape, mean, stddev, **_: normal(shape=shape, mean=mean, std=stddev)
        random.truncated_normal = lambda shape, mean, stddev, **_: normal(
            shape=shape, mean=mean, std=stddev, cut=2.0
        )
        initializer(tuple(shape))
    (law,) = heard
    return law


def jax_law(initializer: Any, shape: Sequence[int]) -> Law:
    """The law that a JAX initializer draws from; its scale has float32's precision."""
    import jax
    import jax.numpy as jnp
    from jax._src.nn import initializers as module

    heard: list[Law] = []
    with _samplers(module, heard, jnp.ones) as (random, uniform, normal):
        random.uniform = lambda key, shape, dtype=None, minval=0.0, maxval=1.0, **_: uniform(
            shape=shape, low=minval, high=maxval
        )
        random.normal = lambda key, shape, dtype=None, **_: normal(shape=shape, mean=0.0, std=1.0)
        random.truncated_normal = lambda key, lower, upper, shape, dtype=None, **_: normal(
            shape=shape, mean=0.0, std=1.0, cut=upper
        )

        def scaled_normal(key: Any, shape: Any, dtype: Any, scale: Any, **_: Any) -> Any:
            return normal(shape=shape, mean=0.0, std=1.0) * scale

        # From 0.12 on JAX draws normals from its own uniforms here.
        with mock.patch.object(module, "_scaled_normal", scaled_normal, create=True):
            scaled = initializer(jax.random.key(0), tuple(shape), jnp.float32)
    (law,) = heard
    factor = float(np.asarray(scaled).flat[0])
    return Law(law.kind, law.a * factor, law.b * factor, law.cut)


def p_value(sample: Any, law: Law) -> float:
    """The p-value of a Kolmogorov-Smirnov test of a sample against a law."""
    from scipy import stats

    if law.kind == "uniform":
        distribution = stats.uniform(law.a, law.b - law.a)
    elif law.cut == np.inf:
        distribution = stats.norm(law.a, law.b)
    else:
        distribution = stats.truncnorm(-law.cut, law.cut, law.a, law.b)
    return float(stats.kstest(np.ravel(np.asarray(sample, np.float64)), distribution.cdf).pvalue)
