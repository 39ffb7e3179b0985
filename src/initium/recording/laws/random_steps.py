"""Random operations of torch for which there is not one initializer, computed from draws of initium."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from initium.initializers.basic import Initializer, Normal, Uniform

__all__ = ["SOURCES", "of_parts"]

_Compute = Callable[[Tensor, dict[str, Any]], Tensor]

_unit, _standard = Uniform(0.0, 1.0), Normal(0.0, 1.0)


def of_parts(initializer: Initializer | None) -> Initializer | None:
    """Return the law of the real and the imaginary part of complex draws; None if it is not known.

    Torch halves the variance of complex normal draws, and adds the mean to both parts.
    """
    if isinstance(initializer, Normal):
        return Normal(initializer.mean, initializer.std * math.sqrt(0.5))
    return initializer if isinstance(initializer, Uniform) else None


def _normal(drawn: Tensor, a: dict[str, Any]) -> Tensor:
    return drawn * a["std"] + a["mean"]


def _below(drawn: Tensor, a: dict[str, Any]) -> Tensor:
    """Bernoulli: 1 with the probability in `p`, or in the tensor itself."""
    chance = a["self"] if a.get("p") is None else a["p"]
    return drawn < chance


def _integers(drawn: Tensor, a: dict[str, Any]) -> Tensor:
    low, high = a.get("low") or 0, a["high"]
    return torch.floor(drawn * (high - low)) + low


def _exponential(drawn: Tensor, a: dict[str, Any]) -> Tensor:
    return -torch.log1p(-drawn) / a["lambd"]


def _log_normal(drawn: Tensor, a: dict[str, Any]) -> Tensor:
    return torch.exp(drawn * a["std"] + a["mean"])


#: The initializer of the draws in float64 and what is computed from them, by operation.
SOURCES: Mapping[str, tuple[Initializer, _Compute]] = {
    "aten::normal": (_standard, _normal),
    "aten::bernoulli": (_unit, _below),
    "aten::bernoulli_": (_unit, _below),
    "aten::randint": (_unit, _integers),
    "aten::randint_like": (_unit, _integers),
    "aten::randperm": (_unit, lambda drawn, a: torch.argsort(drawn)),
    "aten::exponential_": (_unit, _exponential),
    "aten::log_normal_": (_standard, _log_normal),
}
