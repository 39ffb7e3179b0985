"""How operations with numbers change the law of a draw."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from initium.initializers.basic import Constant, Initializer, Normal, TruncatedNormal, Uniform
from initium.initializers.orthogonal import Orthogonal
from initium.initializers.sparse import Sparse

__all__ = ["affine", "clamped", "converted", "inverse_erf"]

#: Relative difference up to which a clamp is at the bounds of a truncated normal.
_CLOSE = 1e-6
#: Distance from the mean, in standard deviations, beyond which a normal draw has a probability below 1e-22.
_FAR = 10.0


def affine(initializer: Initializer, scale: float, shift: float, dtype: torch.dtype) -> Initializer | None:
    """Return the law of scale * x + shift, for x from an initializer; None if none is known.

    Parameters
    ----------
    initializer
        The law of x.
    scale, shift
        The numbers.
    dtype
        The dtype in which torch computes; constants are rounded to it.
    """
    if isinstance(initializer, Constant):
        number = torch.tensor(initializer.value, dtype=dtype)
        return Constant((number * scale + shift).double().item())
    if not (math.isfinite(scale) and math.isfinite(shift)):
        return None
    if scale == 0:
        return Constant(shift)
    if isinstance(initializer, Normal):
        return Normal(initializer.mean * scale + shift, initializer.std * abs(scale))
    if isinstance(initializer, Uniform):
        low, high = sorted((initializer.low * scale + shift, initializer.high * scale + shift))
        return Uniform(low, high)
    if isinstance(initializer, TruncatedNormal):
        lower, upper = sorted(bound * scale + shift for bound in bounds_of(initializer))
        mean, std = initializer.mean * scale + shift, initializer.std * abs(scale)
        return TruncatedNormal(mean, std, lower, upper, absolute=True)
    if isinstance(initializer, Orthogonal) and not shift:
        return replace(initializer, gain=initializer.gain * scale)
    if isinstance(initializer, Sparse) and not shift:
        return replace(initializer, std=initializer.std * abs(scale))
    return None


def bounds_of(initializer: TruncatedNormal) -> tuple[float, float]:
    """Return the bounds of a truncated normal, as values."""
    lower, upper = initializer.lower, initializer.upper
    if initializer.absolute:
        return lower, upper
    return initializer.mean + initializer.std * lower, initializer.mean + initializer.std * upper


def inverse_erf(initializer: Initializer) -> Initializer | None:
    """Return the law of erfinv(x) for a uniform x: a normal of std sqrt(1/2), truncated.

    This is how timm and older versions of torch draw a truncated normal.
    """
    if not isinstance(initializer, Uniform) or not -1 <= initializer.low < initializer.high <= 1:
        return None
    ends = torch.tensor([initializer.low, initializer.high], dtype=torch.float64)
    lower, upper = torch.erfinv(ends).tolist()
    return TruncatedNormal(0.0, math.sqrt(0.5), lower, upper, absolute=True)


def clamped(initializer: Initializer, low: float | None, high: float | None) -> Initializer | None:
    """Return the law of a clamped draw, if the clamp only removes rounding errors at its bounds."""
    if isinstance(initializer, TruncatedNormal):
        ends = bounds_of(initializer)
        if not all(map(math.isfinite, ends)):
            return _cut(initializer, low, high)
    elif isinstance(initializer, Uniform):
        ends = initializer.low, initializer.high
    elif isinstance(initializer, Constant):
        value = initializer.value if low is None else max(initializer.value, low)
        return Constant(value if high is None else min(value, high))
    else:
        return None
    slack = _CLOSE * (ends[1] - ends[0])
    inside = (low is None or low <= ends[0] + slack) and (high is None or high >= ends[1] - slack)
    return initializer if inside else None


def _cut(initializer: TruncatedNormal, low: float | None, high: float | None) -> Initializer | None:
    """Return the law of a normal draw that is clamped where it never is; None if it may be there."""
    reach = _FAR * initializer.std
    lower, upper = bounds_of(initializer)
    if low is None or high is None or min(initializer.mean - low, high - initializer.mean) < reach:
        return None
    ends = max(low, lower), min(high, upper)
    return TruncatedNormal(initializer.mean, initializer.std, *ends, absolute=True)


def converted(initializer: Initializer, source: torch.dtype, dtype: torch.dtype) -> Initializer | None:
    """Return the law of a draw in one dtype that is converted to another; None if it rounds twice."""
    if source == dtype:
        return initializer
    if isinstance(initializer, Constant):
        return Constant(torch.tensor(initializer.value, dtype=dtype).double().item())
    # A draw in bfloat16 or float16 is the draw in float32, rounded once; float64 has a draw of its own.
    return initializer if source == torch.float32 and dtype.itemsize < 4 else None
