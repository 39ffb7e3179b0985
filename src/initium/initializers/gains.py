"""Gains: the factors of the std of weights that compensate for a nonlinearity.

A layer with std ``gain / sqrt(fan_in)`` keeps the second moment of a normal signal z through the nonlinearity
f if ``gain = 1 / sqrt(E f(z)^2)`` (He et al. 2015, section 2.2, for ReLU). torch uses other values for
sigmoid, tanh and SELU; `calculate_gain` agrees with torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from initium.checks import check_choice, check_finite
from initium.kernels.float_mode import in_default_mode

__all__ = ["GAINS", "calculate_gain", "squared_gain"]

_LEAKY_RELU = "leaky_relu"
#: Default slope of a leaky ReLU in torch.
_NEGATIVE_SLOPE = 0.01

#: Gain by nonlinearity, without leaky_relu, whose gain depends on its slope.
GAINS: Mapping[str, float] = MappingProxyType(
    {
        "linear": 1.0,
        "conv1d": 1.0,
        "conv2d": 1.0,
        "conv3d": 1.0,
        "conv_transpose1d": 1.0,
        "conv_transpose2d": 1.0,
        "conv_transpose3d": 1.0,
        "sigmoid": 1.0,
        "tanh": 5.0 / 3.0,
        "relu": math.sqrt(2.0),
        "selu": 0.75,
        # E f(z)^2 = 1/3 + 1/(2 pi sqrt 3) for the exact GELU, z Phi(z).
        "gelu": 1.0 / math.sqrt(1.0 / 3.0 + 1.0 / (2.0 * math.pi * math.sqrt(3.0))),
        # E f(z)^2 has no closed form for SiLU, z / (1 + exp(-z)); its integral to 40 digits, rounded.
        "silu": 1.6765324703310912,
    }
)


@in_default_mode
def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """Return the recommended gain of the std for a nonlinearity.

    Parameters
    ----------
    nonlinearity
        ``"linear"``, ``"conv1d"`` to ``"conv3d"``, ``"conv_transpose1d"`` to ``"conv_transpose3d"`` (1),
        ``"sigmoid"`` (1), ``"tanh"`` (5/3), ``"relu"`` (sqrt 2), ``"leaky_relu"``
        (sqrt(2 / (1 + param^2))), ``"selu"`` (3/4), ``"gelu"`` (1.5335) or ``"silu"`` (1.6765).
    param
        Negative slope, for ``"leaky_relu"`` only; 0.01 by default.

    Raises
    ------
    TypeError
        If `param` is not a number.
    ValueError
        If the nonlinearity is unknown, or `param` is not finite.

    Notes
    -----
    As `torch.nn.init.calculate_gain`, which has no GELU and SiLU. Their gains are ``1 / sqrt(E f(z)^2)`` for
    a standard normal z, the condition of He et al. 2015 (for ReLU it gives sqrt 2).

    Examples
    --------
    >>> import initium as ini
    >>> ini.calculate_gain("tanh")
    1.6666666666666667
    >>> ini.calculate_gain("leaky_relu", 0.2)
    1.3867504905630728
    """
    if _checked(nonlinearity) in GAINS:
        return GAINS[nonlinearity]
    return math.sqrt(squared_gain(nonlinearity, param))


@in_default_mode
def squared_gain(nonlinearity: str, param: float | None = None) -> float:
    """Return the factor of the variance: the square of `calculate_gain`, and exactly 2 for ReLU.

    Parameters and errors are those of `calculate_gain`.
    """
    if _checked(nonlinearity) == "relu":
        return 2.0
    if nonlinearity in GAINS:
        return GAINS[nonlinearity] ** 2
    slope: Any = _NEGATIVE_SLOPE if param is None else param
    return 2.0 / (1.0 + check_finite("param", slope) ** 2)


def _checked(nonlinearity: str) -> str:
    check_choice("nonlinearity", nonlinearity, (*GAINS, _LEAKY_RELU))
    return nonlinearity
