"""Initializers of other libraries and papers; their names state the origin.

Each docstring states the formula, with n_in and n_out for fan_in and fan_out, the source and the equivalents
in other libraries. Each function returns a general initializer, with the layout of its library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from initium.checks import check_choice, check_count, check_positive
from initium.fills.base import Fill
from initium.fills.elementwise import UniformFill
from initium.initializers.basic import Constant, Normal, TruncatedNormal, Uniform
from initium.initializers.gains import squared_gain
from initium.initializers.scaling import TRUNCATED_STD, VarianceScaling, glorot_uniform
from initium.kernels.float_mode import in_default_mode
from initium.layouts import IN_OUT, Fans, Layout, LayoutLike, lookup

__all__ = [
    "FourthRoot",
    "caffe_msra",
    "caffe_xavier",
    "keras_random_normal",
    "keras_random_uniform",
    "keras_truncated_normal",
    "kwon_logistic",
    "kwon_tanh",
    "mxnet_msra_prelu",
    "mxnet_xavier",
    "normalised_xavier",
    "one_over_sqrt_normal",
    "one_over_sqrt_uniform",
    "simple_xavier",
    "tf_variance_scaling",
    "tf_xavier",
    "torch_bias",
    "torch_embedding",
    "torch_linear",
    "torch_rnn",
    "xavier_logistic",
    "xavier_tanh",
]

# --- rules of thumb and papers ------------------------------------------------------------------------------


def one_over_sqrt_uniform(layout: LayoutLike = None) -> VarianceScaling:
    """U(+-1 / sqrt(n_in)); its variance is 1 / (3 n_in).

    Source: LeCun et al. 1998; the "commonly used heuristic" of Glorot and Bengio 2010, eq. 1.
    Peers: torch Linear and Conv defaults.
    """
    return VarianceScaling(1.0 / 3.0, "fan_in", "uniform", layout)


def one_over_sqrt_normal(layout: LayoutLike = None) -> VarianceScaling:
    """N(0, 1 / n_in), not truncated.

    Source: LeCun et al. 1998, section 4.6.
    Peers: JAX variance_scaling(1, "fan_in", "normal").
    """
    return VarianceScaling(1.0, "fan_in", "normal", layout)


#: The "simple" Xavier initialization of tutorials.
simple_xavier = one_over_sqrt_uniform
#: The "normalised" Xavier initialization of tutorials, U(+-sqrt(6) / sqrt(n_in + n_out)).
normalised_xavier = glorot_uniform


def xavier_tanh(layout: LayoutLike = None) -> VarianceScaling:
    """U(+-sqrt(6 / (n_in + n_out))), for tanh.

    Source: Glorot and Bengio 2010, eq. 16.
    Peers: Theano deep learning tutorial (Bengio et al.), tanh layers.
    """
    return glorot_uniform(layout)


def xavier_logistic(layout: LayoutLike = None) -> VarianceScaling:
    """U(+-4 sqrt(6 / (n_in + n_out))), for the logistic function; its slope at 0 is 1/4 of the slope of tanh.

    Source: Theano deep learning tutorial (Bengio et al.), after Glorot and Bengio 2010.
    Peers: Theano deep learning tutorial, sigmoid layers.
    """
    return glorot_uniform(layout, gain=4.0)


def kwon_logistic(layout: LayoutLike = None) -> VarianceScaling:
    """U(+-sqrt(6 / (n_in + n_out))), for the logistic function.

    Source: Kwon, Kwon, Chung and Lim 2019 (IJITEE 8, 4S2), as quoted by tutorials; without the factor 4 of
    `xavier_logistic`.
    """
    return glorot_uniform(layout)


def kwon_tanh(layout: LayoutLike = None) -> FourthRoot:
    """U(+-(6 / (n_in + n_out))^(1/4)), for tanh.

    Source: Kwon, Kwon, Chung and Lim 2019 (IJITEE 8, 4S2), as quoted by tutorials. The fourth root may be a
    misprint of 4 sqrt, which other tables have for tanh. The derivation (slope 1 at 0) supports neither;
    `xavier_tanh` is the usual choice.
    """
    return FourthRoot(6.0, layout)


@dataclass(frozen=True)
class FourthRoot:
    """Uniform on +-(scale / (fan_in + fan_out))**(1/4).

    Parameters
    ----------
    scale
        Numerator under the root, > 0.
    layout
        See `VarianceScaling`.
    """

    scale: float = 6.0
    layout: LayoutLike = None

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)
        lookup(self.layout)

    def fans(self, shape: Sequence[int], layout: Layout | None = None) -> Fans:
        """Return the fans of a weight; `layout` is the layout of the tensor if it is known."""
        return lookup(self.layout, layout).fans(shape)

    def resolve(self, shape: Sequence[int], layout: Layout | None = None) -> Fill:
        """Return the uniform fill."""
        n_in, n_out = self.fans(shape, layout)
        bound = math.sqrt(math.sqrt(self.scale / max(1.0, n_in + n_out)))
        return UniformFill(-bound, bound)


# --- Caffe --------------------------------------------------------------------------------------------------

_CAFFE_NORMS = {"FAN_IN": "fan_in", "FAN_OUT": "fan_out", "AVERAGE": "fan_avg"}


def caffe_xavier(variance_norm: str = "FAN_IN") -> VarianceScaling:
    """U(+-sqrt(3 / n)), n = n_in (FAN_IN), n_out (FAN_OUT) or (n_in + n_out) / 2 (AVERAGE).

    n_in = count / shape[0] and n_out = count / shape[1] of the blob, also for deconvolutions.

    Source: Caffe, include/caffe/filler.hpp.
    Peers: Caffe XavierFiller.
    """
    return VarianceScaling(1.0, _mode("variance_norm", variance_norm, _CAFFE_NORMS), "uniform", "out_in")


def caffe_msra(variance_norm: str = "FAN_IN") -> VarianceScaling:
    """N(0, 2 / n), not truncated; n as for `caffe_xavier`.

    Source: Caffe, include/caffe/filler.hpp, after He et al. 2015.
    Peers: Caffe MSRAFiller.
    """
    return VarianceScaling(2.0, _mode("variance_norm", variance_norm, _CAFFE_NORMS), "normal", "out_in")


def _mode(argument: str, value: str, modes: dict[str, str]) -> str:
    check_choice(argument, value, tuple(modes))
    return modes[value]


# --- TensorFlow 1 -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _WithVectors(Layout):
    """A layout in which a vector of n elements has n inputs and n outputs."""

    def fans(self, shape: Sequence[int]) -> Fans:
        """Return the fans, also for a vector."""
        return Fans(float(shape[0]), float(shape[0])) if len(shape) == 1 else super().fans(shape)


_TF_LAYOUT = _WithVectors(IN_OUT.in_axis, IN_OUT.out_axis, name="in_out")
_TF_MODES = {"FAN_IN": "fan_in", "FAN_OUT": "fan_out", "FAN_AVG": "fan_avg"}
#: The factor of tf.contrib. The exact one is 1 / TRUNCATED_STD**2 = 1.2924; the variance is 0.6 % too large.
_TF_CORRECTION = 1.3


@in_default_mode
def tf_variance_scaling(factor: float = 2.0, mode: str = "FAN_IN", uniform: bool = False) -> VarianceScaling:
    """N(0, 1.3 factor / n) truncated at 2 sigma, or U(+-sqrt(3 factor / n)) if `uniform`.

    n = n_in (FAN_IN), n_out (FAN_OUT) or (n_in + n_out) / 2 (FAN_AVG). The inputs are the second axis from
    the end; a vector of n elements has n_in = n_out = n.

    Source: TensorFlow 1, tensorflow/contrib/layers/python/layers/initializers.py.
    Peers: tf.contrib.layers.variance_scaling_initializer.
    """
    chosen = _mode("mode", mode, _TF_MODES)
    if uniform:
        return VarianceScaling(factor, chosen, "uniform", _TF_LAYOUT)
    scale = _TF_CORRECTION * factor * TRUNCATED_STD**2
    return VarianceScaling(scale, chosen, "truncated_normal", _TF_LAYOUT)


def tf_xavier(uniform: bool = True) -> VarianceScaling:
    """U(+-sqrt(6 / (n_in + n_out))), or N(0, 2.6 / (n_in + n_out)) truncated at 2 sigma if not `uniform`.

    Source: TensorFlow 1, tensorflow/contrib/layers/python/layers/initializers.py (its docstring says
    sqrt(3 / (in + out)) for the normal; this is the formula of its code).
    Peers: tf.contrib.layers.xavier_initializer.
    """
    return tf_variance_scaling(1.0, "FAN_AVG", uniform)


# --- MXNet --------------------------------------------------------------------------------------------------

_MXNET_FACTORS = {"in": "fan_in", "out": "fan_out", "avg": "fan_avg"}


@in_default_mode
def mxnet_xavier(
    rnd_type: str = "uniform", factor_type: str = "avg", magnitude: float = 3.0
) -> VarianceScaling:
    """U(+-sqrt(magnitude / n)), or N(0, magnitude / n) if `rnd_type` is "gaussian".

    n = n_in ("in"), n_out ("out") or (n_in + n_out) / 2 ("avg").

    Source: Apache MXNet, python/mxnet/initializer.py.
    Peers: mxnet.initializer.Xavier.
    """
    check_choice("rnd_type", rnd_type, ("uniform", "gaussian"))
    mode = _mode("factor_type", factor_type, _MXNET_FACTORS)
    if rnd_type == "uniform":
        return VarianceScaling(check_positive("magnitude", magnitude) / 3.0, mode, "uniform", "out_in")
    return VarianceScaling(magnitude, mode, "normal", "out_in")


def mxnet_msra_prelu(factor_type: str = "avg", slope: float = 0.25) -> VarianceScaling:
    """N(0, 2 / ((1 + slope^2) n)), n as for `mxnet_xavier`.

    Source: Apache MXNet, python/mxnet/initializer.py, after He et al. 2015.
    Peers: mxnet.initializer.MSRAPrelu.
    """
    return mxnet_xavier("gaussian", factor_type, squared_gain("leaky_relu", slope))


# --- Keras --------------------------------------------------------------------------------------------------


def keras_random_normal(mean: float = 0.0, stddev: float = 0.05) -> Normal:
    """N(mean, stddev^2); the default stddev is 0.05.

    Peers: Keras RandomNormal.
    """
    return Normal(mean, stddev)


def keras_random_uniform(minval: float = -0.05, maxval: float = 0.05) -> Uniform:
    """U[minval, maxval); the default bounds are +-0.05.

    Peers: Keras RandomUniform, the default of its Embedding.
    """
    return Uniform(minval, maxval)


def keras_truncated_normal(mean: float = 0.0, stddev: float = 0.05) -> TruncatedNormal:
    """N(mean, stddev^2) truncated at 2 sigma; the std is not corrected and becomes 0.88 stddev.

    Peers: Keras TruncatedNormal.
    """
    return TruncatedNormal(mean, stddev)


# --- torch's layers -----------------------------------------------------------------------------------------


def torch_linear(layout: LayoutLike = None) -> VarianceScaling:
    """U(+-1 / sqrt(n_in)); in torch, this is kaiming_uniform_ with a = sqrt(5).

    For transposed convolutions, torch takes shape[1], their output axis, as the input axis. The default
    layout here does the same.

    Source: torch, nn/modules/linear.py and nn/modules/conv.py, reset_parameters.
    Peers: weights of torch Linear, Conv and ConvTranspose.
    """
    return one_over_sqrt_uniform(layout)


@in_default_mode
def torch_bias(fan_in: int) -> Uniform | Constant:
    """U(+-1 / sqrt(fan_in)), with the fan_in of the weight; 0 if fan_in is 0.

    Source: torch, nn/modules/linear.py and nn/modules/conv.py, reset_parameters.
    Peers: biases of torch Linear, Conv and ConvTranspose; weight and bias of Bilinear, with in1_features.
    """
    if check_count("fan_in", fan_in) == 0:
        return Constant(0.0)
    bound = 1.0 / math.sqrt(fan_in)
    return Uniform(-bound, bound)


def torch_rnn(hidden_size: int) -> Uniform | Constant:
    """U(+-1 / sqrt(hidden_size)), for weights and biases.

    Source: torch, nn/modules/rnn.py, reset_parameters.
    Peers: torch RNN, LSTM, GRU and their cells.
    """
    return torch_bias(check_count("hidden_size", hidden_size))


def torch_embedding() -> Normal:
    """N(0, 1); torch sets the row of padding_idx to 0 afterwards.

    Source: torch, nn/modules/sparse.py, reset_parameters.
    Peers: torch Embedding and EmbeddingBag.
    """
    return Normal(0.0, 1.0)
