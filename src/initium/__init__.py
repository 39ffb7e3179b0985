"""initium: weight initialisation at memory speed, with the same bits everywhere.

A name is imported on its first use, so that ``import initium`` loads neither Numba nor a framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from initium._version import __version__

# Not at the first use: a fork during this import would leave half of it to the child.
from initium.kernels.forks import importing

if TYPE_CHECKING:
    from initium.initializers.basic import (
        Constant,
        Initializer,
        Normal,
        TruncatedNormal,
        Uniform,
        constant,
        ones,
        zeros,
    )
    from initium.initializers.filters import STFT, Bilinear, bilinear, caffe_bilinear, stft
    from initium.initializers.gains import calculate_gain
    from initium.initializers.identities import Dirac, Identity
    from initium.initializers.orthogonal import DeltaOrthogonal, Orthogonal, delta_orthogonal
    from initium.initializers.peers import (
        caffe_msra,
        caffe_xavier,
        keras_random_normal,
        keras_random_uniform,
        keras_truncated_normal,
        kwon_logistic,
        kwon_tanh,
        mxnet_msra_prelu,
        mxnet_xavier,
        normalised_xavier,
        one_over_sqrt_normal,
        one_over_sqrt_uniform,
        simple_xavier,
        tf_variance_scaling,
        tf_xavier,
        torch_bias,
        torch_embedding,
        torch_linear,
        torch_rnn,
        xavier_logistic,
        xavier_tanh,
    )
    from initium.initializers.scaling import (
        VarianceScaling,
        glorot_normal,
        glorot_uniform,
        he_normal,
        he_uniform,
        kaiming_normal,
        kaiming_uniform,
        lecun_normal,
        lecun_uniform,
        msra_normal,
        msra_uniform,
        xavier_normal,
        xavier_uniform,
    )
    from initium.initializers.sparse import Sparse, SparseGaussian, caffe_gaussian, lasagne_sparse, sparse
    from initium.initializers.unit_ball import PositiveUnitball, caffe_positive_unitball
    from initium.layouts import Fans, Layout
    from initium.model import Report, init_model, plan_model, run_plan
    from initium.planning.streams import stream_id
    from initium.recipes.rules import Rules, own, skip
    from initium.specs import TensorSpec
    from initium.tensor import bits, initialize, normal, orthogonal, truncated_normal, uniform

_HOMES = {
    "tensor": ("bits", "initialize", "normal", "orthogonal", "truncated_normal", "uniform"),
    "initializers.peers": (
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
    ),
    "layouts": ("Fans", "Layout"),
    "initializers.filters": (
        "STFT",
        "Bilinear",
        "bilinear",
        "caffe_bilinear",
        "stft",
    ),
    "initializers.gains": ("calculate_gain",),
    "initializers.basic": (
        *("Constant", "Initializer", "Normal", "TruncatedNormal", "Uniform"),
        *("constant", "ones", "zeros"),
    ),
    "initializers.identities": ("Dirac", "Identity"),
    "initializers.orthogonal": ("DeltaOrthogonal", "Orthogonal", "delta_orthogonal"),
    "initializers.scaling": (
        "VarianceScaling",
        *("glorot_normal", "glorot_uniform", "xavier_normal", "xavier_uniform"),
        *("he_normal", "he_uniform", "kaiming_normal", "kaiming_uniform", "msra_normal", "msra_uniform"),
        *("lecun_normal", "lecun_uniform"),
    ),
    "model": ("Report", "init_model", "plan_model", "run_plan"),
    "recipes.rules": ("Rules", "own", "skip"),
    "initializers.sparse": (
        "Sparse",
        "SparseGaussian",
        "caffe_gaussian",
        "lasagne_sparse",
        "sparse",
    ),
    "specs": ("TensorSpec",),
    "planning.streams": ("stream_id",),
    "initializers.unit_ball": (
        "PositiveUnitball",
        "caffe_positive_unitball",
    ),
}
#: Modules for other frameworks; each is imported on its first use.
_BRIDGES = ("jax", "keras", "torch")
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "STFT",
    "Bilinear",
    "Constant",
    "DeltaOrthogonal",
    "Dirac",
    "Fans",
    "Identity",
    "Initializer",
    "Layout",
    "Normal",
    "Orthogonal",
    "PositiveUnitball",
    "Report",
    "Rules",
    "Sparse",
    "SparseGaussian",
    "TensorSpec",
    "TruncatedNormal",
    "Uniform",
    "VarianceScaling",
    "__version__",
    "bilinear",
    "bits",
    "caffe_bilinear",
    "caffe_gaussian",
    "caffe_msra",
    "caffe_positive_unitball",
    "caffe_xavier",
    "calculate_gain",
    "constant",
    "delta_orthogonal",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "init_model",
    "initialize",
    "kaiming_normal",
    "kaiming_uniform",
    "keras_random_normal",
    "keras_random_uniform",
    "keras_truncated_normal",
    "kwon_logistic",
    "kwon_tanh",
    "lasagne_sparse",
    "lecun_normal",
    "lecun_uniform",
    "msra_normal",
    "msra_uniform",
    "mxnet_msra_prelu",
    "mxnet_xavier",
    "normal",
    "normalised_xavier",
    "one_over_sqrt_normal",
    "one_over_sqrt_uniform",
    "ones",
    "orthogonal",
    "own",
    "plan_model",
    "run_plan",
    "simple_xavier",
    "skip",
    "sparse",
    "stft",
    "stream_id",
    "tf_variance_scaling",
    "tf_xavier",
    "torch_bias",
    "torch_embedding",
    "torch_linear",
    "torch_rnn",
    "truncated_normal",
    "uniform",
    "xavier_logistic",
    "xavier_normal",
    "xavier_tanh",
    "xavier_uniform",
    "zeros",
]


def __getattr__(name: str) -> Any:
    if name not in _BRIDGES and name not in _HOME_OF:
        raise AttributeError(f"module 'initium' has no attribute {name!r}")
    home = _import(name if name in _BRIDGES else _HOME_OF[name])
    if name in _BRIDGES:
        return home
    value = getattr(home, name)
    globals()[name] = value
    return value


def _import(home: str) -> Any:
    with importing:
        from initium.kernels.float_mode import in_default_mode

        return in_default_mode(import_module)(f"initium.{home}")


def __dir__() -> list[str]:
    return sorted(__all__)
