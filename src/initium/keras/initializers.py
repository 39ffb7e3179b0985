"""Keras initializers with the samplers of initium: the same names and arguments.

As in Keras, an initializer with an integer seed draws the same values at every call. Without a seed, it takes
one from Python's `random` when it is created; `keras.utils.set_random_seed` controls it. With a
`keras.random.SeedGenerator`, each call draws other values. The stream is that of ``name``, by default of the
empty name.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from initium.checks import check_choice, check_seed
from initium.initializers import basic, filters, identities, orthogonal, scaling
from initium.initializers.catalogue import MAKERS
from initium.layouts import IN_OUT, Fans, Layout, axes_of
from initium.tensor import initialize

__all__ = [
    "STFT",
    "Catalogued",
    "Constant",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Identity",
    "LecunNormal",
    "LecunUniform",
    "Ones",
    "Orthogonal",
    "RandomNormal",
    "RandomUniform",
    "TruncatedNormal",
    "VarianceScaling",
    "Zeros",
]

_serialisable = keras.saving.register_keras_serializable(package="initium")
# The dtypes that every Keras backend takes from NumPy. Others are passed as float32 and cast without loss.
_WIDE = ("float32", "float64", "float16")


class _Initializer(keras.initializers.Initializer):  # type: ignore[misc]
    """Base class: draws from the initializer `_made`; a subclass lists its arguments in `_arguments`."""

    _arguments: tuple[str, ...] = ()

    def _made(self) -> basic.Initializer:
        raise NotImplementedError

    def _next_seed(self) -> int:
        return 0  # for initializers without randomness

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        """Return a tensor of the Keras backend.

        Parameters
        ----------
        shape
            The shape of the weight.
        dtype
            A Keras dtype. Default: `keras.config.floatx`.
        """
        target = keras.backend.standardize_dtype(dtype)
        name = getattr(self, "name", "")
        values = initialize(self._made(), shape, seed=self._next_seed(), name=name, dtype=target)
        if target not in _WIDE:
            values = values.astype(np.float32)
        return keras.ops.convert_to_tensor(values, dtype=target)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for serialisation."""
        return {name: getattr(self, name) for name in self._arguments}


class _Random(_Initializer):
    def __init__(self, seed: Any = None, name: str = "") -> None:
        if isinstance(seed, dict):
            seed = keras.saving.deserialize_keras_object(seed)
        if seed is not None and not isinstance(seed, keras.random.SeedGenerator):
            seed = check_seed(seed)
        self._given = seed
        self.seed = random.getrandbits(64) if seed is None else seed
        self.name = name

    def _next_seed(self) -> int:
        if isinstance(self.seed, keras.random.SeedGenerator):
            high, low = (int(word) for word in np.asarray(keras.ops.convert_to_numpy(self.seed.next())))
            return (high & 0xFFFFFFFF) << 32 | (low & 0xFFFFFFFF)
        return int(self.seed)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for serialisation; the seed is None if it was not given."""
        seed = keras.saving.serialize_keras_object(self._given)
        return {**super().get_config(), "seed": seed, "name": self.name}


# --- without randomness -------------------------------------------------------------------------------------


@_serialisable
class Constant(keras.initializers.Initializer):  # type: ignore[misc]
    """Every weight is `value`: a number, or an array that broadcasts to the shape, of any Keras dtype."""

    def __init__(self, value: Any = 0.0) -> None:
        self.value = value

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        """Return a tensor of the Keras backend."""
        target = keras.backend.standardize_dtype(dtype)
        values = keras.ops.cast(keras.ops.convert_to_tensor(self.value), target)
        return keras.ops.broadcast_to(values, tuple(shape))

    def get_config(self) -> dict[str, Any]:
        """Return the value, for serialisation."""
        return {"value": keras.saving.serialize_keras_object(self.value)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Constant:
        """Return the initializer for a result of `get_config`."""
        return cls(**{key: keras.saving.deserialize_keras_object(value) for key, value in config.items()})


@_serialisable
class Zeros(Constant):
    """Every weight is 0."""

    def __init__(self) -> None:
        super().__init__(0)

    def get_config(self) -> dict[str, Any]:
        """Return no arguments."""
        return {}


@_serialisable
class Ones(Constant):
    """Every weight is 1."""

    def __init__(self) -> None:
        super().__init__(1)

    def get_config(self) -> dict[str, Any]:
        """Return no arguments."""
        return {}


@_serialisable
class STFT(_Initializer):
    """The filter bank of a short-time Fourier transform; see `initium.STFT`."""

    _arguments = ("side", "window", "scaling", "periodic")

    def __init__(
        self,
        side: str = "real",
        window: str | None = "hann",
        scaling: str | None = "density",
        periodic: bool = False,
    ) -> None:
        self.side, self.window, self.scaling, self.periodic = side, window, scaling, periodic
        self._made()

    def _made(self) -> basic.Initializer:
        return filters.STFT(self.side, self.window, self.scaling, self.periodic)


@_serialisable
class Identity(_Initializer):
    """`gain` times the identity matrix."""

    _arguments = ("gain",)

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain
        self._made()

    def _made(self) -> basic.Initializer:
        return identities.Identity(self.gain)


# --- distributions ------------------------------------------------------------------------------------------


@_serialisable
class RandomNormal(_Random):
    """N(mean, stddev^2)."""

    _arguments = ("mean", "stddev")

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: Any = None, name: str = "") -> None:
        self.mean, self.stddev = mean, stddev
        super().__init__(seed, name)
        self._made()

    def _made(self) -> basic.Initializer:
        return basic.Normal(self.mean, self.stddev)


@_serialisable
class TruncatedNormal(RandomNormal):
    """N(mean, stddev^2), truncated at 2 stddev; the std is not corrected, as in Keras."""

    def _made(self) -> basic.Initializer:
        return basic.TruncatedNormal(self.mean, self.stddev)


@_serialisable
class RandomUniform(_Random):
    """U[minval, maxval)."""

    _arguments = ("minval", "maxval")

    def __init__(self, minval: float = -0.05, maxval: float = 0.05, seed: Any = None, name: str = "") -> None:
        self.minval, self.maxval = minval, maxval
        super().__init__(seed, name)
        self._made()

    def _made(self) -> basic.Initializer:
        return basic.Uniform(self.minval, self.maxval)


@_serialisable
class Orthogonal(_Random):
    """Random orthogonal matrices by Haar measure, times `gain`; the shape is (rest, last axis)."""

    _arguments = ("gain",)

    def __init__(self, gain: float = 1.0, seed: Any = None, name: str = "") -> None:
        self.gain = gain
        super().__init__(seed, name)
        self._made()

    def _made(self) -> basic.Initializer:
        return orthogonal.Orthogonal(self.gain, layout="in_out")


@_serialisable
class Catalogued(_Random):
    """Any initializer of initium's catalogue by its name, such as ``Catalogued("caffe_xavier")``.

    Parameters
    ----------
    initializer
        A name in `initium.initializers.catalogue.MAKERS`. The default layout is that of the catalogue;
        Keras's weights have ``layout="in_out"``.
    parameters
        Arguments by name, with types of JSON.
    seed, name
        See the documentation of the module.
    """

    _arguments = ("initializer", "parameters")

    def __init__(
        self,
        initializer: str,
        parameters: Mapping[str, Any] | None = None,
        seed: Any = None,
        name: str = "",
    ) -> None:
        check_choice("initializer", initializer, tuple(MAKERS))
        self.initializer, self.parameters = initializer, dict(parameters or {})
        super().__init__(seed, name)
        self._made()

    def _made(self) -> basic.Initializer:
        return MAKERS[self.initializer](**self.parameters)


# --- variance scaling ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _KerasLayout(Layout):
    """Fans as in Keras: defined for vectors and scalars too, and without receptive field for given axes."""

    explicit: bool = False

    def fans(self, shape: Sequence[int]) -> Fans:
        """Return the fans; if the axes are given, there is no receptive field."""
        if self.explicit:
            inputs, outputs = (axes_of(*axes, tuple(shape)) for axes in self._given)
            return Fans(*(float(np.prod([shape[a] for a in axes])) for axes in (inputs, outputs)))
        if len(shape) < 2:
            n = float(shape[0]) if shape else 1.0
            return Fans(n, n)
        return super().fans(shape)

    @property
    def _given(self) -> tuple[tuple[str, Any], ...]:
        return ("input_axes", self.in_axis), ("output_axes", self.out_axis)


#: initium's name for each distribution of Keras.
_DISTRIBUTIONS = {
    "uniform": "uniform",
    "normal": "truncated_normal",
    "truncated_normal": "truncated_normal",
    "untruncated_normal": "normal",
}


@_serialisable
class VarianceScaling(_Random):
    """Zero mean and variance ``scale / n``; n is a fan of the shape (..., in, out).

    Parameters
    ----------
    scale
        Factor of the variance, > 0.
    mode
        ``"fan_in"``, ``"fan_out"``, ``"fan_avg"``, or ``"fan_geo_avg"`` (not in Keras).
    distribution
        ``"truncated_normal"`` (``"normal"`` is the same, as in Keras), ``"untruncated_normal"`` or
        ``"uniform"``.
    seed, name
        See the documentation of the module.
    input_axes, output_axes
        Axes whose sizes multiply to the fans, without a receptive field; used if both are given.
    """

    _arguments: tuple[str, ...] = ("scale", "mode", "distribution", "input_axes", "output_axes")

    def __init__(
        self,
        scale: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        seed: Any = None,
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
        name: str = "",
    ) -> None:
        lowered = distribution.lower() if isinstance(distribution, str) else distribution
        check_choice("distribution", lowered, tuple(_DISTRIBUTIONS))
        self.scale, self.mode = scale, mode
        self.distribution = "truncated_normal" if lowered == "normal" else lowered
        self.input_axes, self.output_axes = input_axes, output_axes
        super().__init__(seed, name)
        self._made()

    def _made(self) -> basic.Initializer:
        if self.input_axes is None or self.output_axes is None:
            layout = _KerasLayout(IN_OUT.in_axis, IN_OUT.out_axis, name="in_out")
        else:
            layout = _KerasLayout(tuple(self.input_axes), tuple(self.output_axes), explicit=True)
        return scaling.VarianceScaling(self.scale, self.mode, _DISTRIBUTIONS[self.distribution], layout)


class _Specialised(VarianceScaling):
    """Variance scaling whose scale, mode and distribution are fixed."""

    _fixed: tuple[float, str, str]
    _arguments = ("input_axes", "output_axes")

    def __init__(
        self,
        seed: Any = None,
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
        name: str = "",
    ) -> None:
        super().__init__(*self._fixed, seed, input_axes, output_axes, name)


@_serialisable
class GlorotUniform(_Specialised):
    """U(+-sqrt(6 / (fan_in + fan_out)))."""

    _fixed = (1.0, "fan_avg", "uniform")


@_serialisable
class GlorotNormal(_Specialised):
    """Truncated normal with variance 2 / (fan_in + fan_out)."""

    _fixed = (1.0, "fan_avg", "truncated_normal")


@_serialisable
class LecunUniform(_Specialised):
    """U(+-sqrt(3 / fan_in))."""

    _fixed = (1.0, "fan_in", "uniform")


@_serialisable
class LecunNormal(_Specialised):
    """Truncated normal with variance 1 / fan_in."""

    _fixed = (1.0, "fan_in", "truncated_normal")


@_serialisable
class HeUniform(_Specialised):
    """U(+-sqrt(6 / fan_in))."""

    _fixed = (2.0, "fan_in", "uniform")


@_serialisable
class HeNormal(_Specialised):
    """Truncated normal with variance 2 / fan_in."""

    _fixed = (2.0, "fan_in", "truncated_normal")
