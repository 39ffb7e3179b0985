"""initium: weight initialisation at memory speed, with the same bits everywhere.

Names are imported when first used, so that ``import initium`` loads neither Numba nor any framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from initium._version import __version__

if TYPE_CHECKING:
    from initium.api import bits, initialize, normal, truncated_normal, uniform
    from initium.fans import Fans, Layout
    from initium.initializers import (
        Constant,
        Initializer,
        Normal,
        TruncatedNormal,
        Uniform,
        VarianceScaling,
        constant,
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
        ones,
        xavier_normal,
        xavier_uniform,
        zeros,
    )
    from initium.model import Report, init_model
    from initium.rules import Rules, skip
    from initium.specs import TensorSpec
    from initium.streams import stream_id

_HOMES = {
    "api": ("bits", "initialize", "normal", "truncated_normal", "uniform"),
    "fans": ("Fans", "Layout"),
    "initializers": (
        *("Constant", "Initializer", "Normal", "TruncatedNormal", "Uniform", "VarianceScaling"),
        *("constant", "ones", "zeros"),
        *("glorot_normal", "glorot_uniform", "xavier_normal", "xavier_uniform"),
        *("he_normal", "he_uniform", "kaiming_normal", "kaiming_uniform", "msra_normal", "msra_uniform"),
        *("lecun_normal", "lecun_uniform"),
    ),
    "model": ("Report", "init_model"),
    "rules": ("Rules", "skip"),
    "specs": ("TensorSpec",),
    "streams": ("stream_id",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Constant",
    "Fans",
    "Initializer",
    "Layout",
    "Normal",
    "Report",
    "Rules",
    "TensorSpec",
    "TruncatedNormal",
    "Uniform",
    "VarianceScaling",
    "__version__",
    "bits",
    "constant",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "init_model",
    "initialize",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "msra_normal",
    "msra_uniform",
    "normal",
    "ones",
    "skip",
    "stream_id",
    "truncated_normal",
    "uniform",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'initium' has no attribute {name!r}")
    value = getattr(import_module(f"initium.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
