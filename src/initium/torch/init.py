"""`torch.nn.init` with the samplers of initium: the same names and signatures.

Each function fills a tensor in place and returns it. Every function that draws takes torch's ``generator=``,
and also ``seed=`` and ``name=``. With a seed, the values are those of `initium.initialize` for this seed and
name. Without a seed, each call draws a seed of 64 bits from the generator (default: torch's default CPU
generator). So `torch.manual_seed` makes a program reproducible, and different calls give different values.

As in torch, tensors keep ``requires_grad``, their version counter increases, and autograd records nothing.
Meta tensors and fake tensors stay unchanged. Unlike torch, normal values can be drawn in float8,
`orthogonal_` takes bfloat16 and float16, and `trunc_normal_` takes infinite bounds and bounds far from the
mean. Complex tensors and sparse layouts are not supported.

Examples
--------
>>> import torch
>>> from initium.torch import init
>>> init.kaiming_normal_(torch.empty(2, 3), seed=7, name="fc.weight")
tensor([[ 0.1180, -1.2315,  1.1621],
        [-2.0389,  1.2242, -0.3156]])
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor
from torch._subclasses import FakeTensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from initium.checks import check_choice, check_count, check_finite
from initium.initializers.basic import Constant, Initializer, Normal, TruncatedNormal, Uniform
from initium.initializers.gains import calculate_gain, squared_gain
from initium.initializers.orthogonal import Orthogonal
from initium.initializers.scaling import VarianceScaling
from initium.initializers.sparse import Sparse
from initium.kernels.float_mode import in_default_mode
from initium.tensor import initialize
from initium.torch.seeds import fresh_seed

__all__ = [
    "calculate_gain",
    "constant",
    "constant_",
    "dirac",
    "dirac_",
    "eye",
    "eye_",
    "kaiming_normal",
    "kaiming_normal_",
    "kaiming_uniform",
    "kaiming_uniform_",
    "normal",
    "normal_",
    "ones_",
    "orthogonal",
    "orthogonal_",
    "sparse",
    "sparse_",
    "trunc_normal_",
    "uniform",
    "uniform_",
    "xavier_normal",
    "xavier_normal_",
    "xavier_uniform",
    "xavier_uniform_",
    "zeros_",
]

_Function = TypeVar("_Function", bound=Callable[..., Tensor])


def _overridable(function: _Function) -> _Function:
    """Check the tensor; as in torch, tensor subclasses and modes can override the function."""

    @functools.wraps(function)
    def outer(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"tensor is a {type(tensor).__name__}; expected a torch.Tensor")
        if has_torch_function_unary(tensor):
            return handle_torch_function(outer, (tensor,), tensor, *args, **kwargs)
        return function(tensor, *args, **kwargs)

    return outer  # type: ignore[return-value]


# --- drawing ------------------------------------------------------------------------------------------------


def _draw(
    tensor: Tensor, initializer: Initializer, generator: Generator | None, seed: int | None, name: str
) -> Tensor:
    if tensor.is_meta or isinstance(tensor, FakeTensor):
        initializer.resolve(tuple(tensor.shape))  # raises the same errors as for a tensor with memory
        return tensor
    if tensor.layout != torch.strided:
        raise ValueError(f"tensor has layout {tensor.layout}; expected torch.strided")
    if tensor.is_neg() or tensor.is_conj():
        raise ValueError("tensor is a view that negates or conjugates; expected one that holds its values")
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        raise RuntimeError("tensor is an inference tensor; expected a call within torch.inference_mode()")
    drawn = fresh_seed(generator) if seed is None else seed
    initialize(initializer, tuple(tensor.shape), seed=drawn, name=name, out=tensor)
    return tensor


@_overridable
def uniform_(
    tensor: Tensor,
    a: float = 0.0,
    b: float = 1.0,
    generator: Generator | None = None,
    *,
    seed: int | None = None,
    name: str = "",
) -> Tensor:
    """Fill with U[a, b).

    Parameters
    ----------
    tensor
        A tensor of any shape and strides.
    a, b
        Bounds; if they are equal, every value is a, as in torch.
    generator
        The generator that the seed is drawn from.
    seed, name
        Seed and name of the stream, instead of a seed from the generator.
    """
    if check_finite("a", a) == check_finite("b", b):
        return _draw(tensor, Constant(a), generator, seed, name)
    if a > b:
        raise ValueError(f"a={a} is above b={b}; expected a <= b")
    return _draw(tensor, Uniform(a, b), generator, seed, name)


@_overridable
def normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    generator: Generator | None = None,
    *,
    seed: int | None = None,
    name: str = "",
) -> Tensor:
    """Fill with N(mean, std^2).

    Parameters
    ----------
    tensor
        A tensor of any shape and strides.
    mean, std
        Mean and standard deviation.
    generator, seed, name
        See `uniform_`.
    """
    return _draw(tensor, Normal(mean, std), generator, seed, name)


@_overridable
def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
    *,
    seed: int | None = None,
    name: str = "",
) -> Tensor:
    """Fill with N(mean, std^2), truncated to [a, b].

    Parameters
    ----------
    tensor
        A tensor of any shape and strides.
    mean, std
        Mean and standard deviation of the normal distribution before truncation.
    a, b
        Bounds as values, not in units of std; they can be far from the mean without loss of accuracy.
    generator, seed, name
        See `uniform_`.
    """
    return _draw(tensor, TruncatedNormal(mean, std, a, b, absolute=True), generator, seed, name)


@_overridable
def xavier_uniform_(
    tensor: Tensor,
    gain: float = 1.0,
    generator: Generator | None = None,
    *,
    seed: int | None = None,
    name: str = "",
) -> Tensor:
    """Fill with U(+-gain sqrt(6 / (fan_in + fan_out))) (Glorot and Bengio 2010).

    Parameters
    ----------
    tensor
        A tensor of shape (out, in, ...), at least 2-D.
    gain
        Factor of the bound, >= 0.
    generator, seed, name
        See `uniform_`.
    """
    return _draw(tensor, _xavier("uniform", gain, tensor), generator, seed, name)


@_overridable
def xavier_normal_(
    tensor: Tensor,
    gain: float = 1.0,
    generator: Generator | None = None,
    *,
    seed: int | None = None,
    name: str = "",
) -> Tensor:
    """Fill with N(0, 2 gain^2 / (fan_in + fan_out)), not truncated (Glorot and Bengio 2010).

    Parameters
    ----------
    tensor
        A tensor of shape (out, in, ...), at least 2-D.
    gain
        Factor of the std, >= 0.
    generator, seed, name
        See `uniform_`.
    """
    return _draw(tensor, _xavier("normal", gain, tensor), generator, seed, name)


@in_default_mode
def _xavier(distribution: str, gain: float, tensor: Tensor) -> Initializer:
    if check_finite("gain", gain) < 0:
        raise ValueError(f"gain={gain} is negative; expected a number >= 0")
    scaling = VarianceScaling(gain**2 or 1.0, "fan_avg", distribution)
    scaling.fans(tensor.shape)  # too few axes are an error, also for gain 0
    return scaling if gain**2 else Constant(0.0)


@_overridable
def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
    *,
    seed: int | None = None,
    name: str = "",
) -> Tensor:
    """Fill with U(+-gain sqrt(3 / fan)) (He et al. 2015).

    Parameters
    ----------
    tensor
        A tensor of shape (out, in, ...), at least 2-D.
    a
        Negative slope, for leaky_relu only.
    mode
        ``"fan_in"`` or ``"fan_out"``.
    nonlinearity
        A nonlinearity of `calculate_gain`.
    generator, seed, name
        See `uniform_`.
    """
    return _kaiming(tensor, "uniform", a, mode, nonlinearity, generator, seed, name)


@_overridable
def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
    *,
    seed: int | None = None,
    name: str = "",
) -> Tensor:
    """Fill with N(0, gain^2 / fan), **not** truncated, unlike Keras's HeNormal (He et al. 2015).

    Parameters
    ----------
    tensor
        A tensor of shape (out, in, ...), at least 2-D.
    a
        Negative slope, for leaky_relu only.
    mode
        ``"fan_in"`` or ``"fan_out"``.
    nonlinearity
        A nonlinearity of `calculate_gain`.
    generator, seed, name
        See `uniform_`.
    """
    return _kaiming(tensor, "normal", a, mode, nonlinearity, generator, seed, name)


def _kaiming(
    tensor: Tensor,
    distribution: str,
    a: float,
    mode: str,
    nonlinearity: str,
    generator: Generator | None,
    seed: int | None,
    name: str,
) -> Tensor:
    if 0 in tensor.shape:
        # The warning points to the caller of the public function.
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=4)
        return tensor
    lowered = mode.lower() if isinstance(mode, str) else mode
    check_choice("mode", lowered, ("fan_in", "fan_out"))
    scaling = VarianceScaling(squared_gain(nonlinearity, a), lowered, distribution)
    return _draw(tensor, scaling, generator, seed, name)


@_overridable
def orthogonal_(
    tensor: Tensor,
    gain: float = 1,
    generator: Generator | None = None,
    *,
    seed: int | None = None,
    name: str = "",
) -> Tensor:
    """Fill with a random (semi-)orthogonal matrix of shape (out, rest), by Haar measure (Saxe et al. 2014).

    Parameters
    ----------
    tensor
        A tensor with at least two axes, of any dtype of initium, including bfloat16 and float16.
    gain
        Factor of the matrix.
    generator, seed, name
        See `uniform_`.
    """
    return _draw(tensor, Orthogonal(gain), generator, seed, name)


@_overridable
def sparse_(
    tensor: Tensor,
    sparsity: float,
    std: float = 0.01,
    generator: Generator | None = None,
    *,
    seed: int | None = None,
    name: str = "",
) -> Tensor:
    """Fill with N(0, std^2), with ceil(sparsity rows) values of each column set to zero (Martens 2010).

    Parameters
    ----------
    tensor
        A matrix.
    sparsity
        Fraction of zeros in each column, in [0, 1].
    std
        Standard deviation of the values that are not zero.
    generator, seed, name
        See `uniform_`. The seed also selects the zeros (torch selects them with its default generator).
    """
    return _draw(tensor, Sparse(sparsity, std), generator, seed, name)


# --- without randomness: fills of torch ---------------------------------------------------------------------


@_overridable
def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with `val`; the tensor can have any dtype of torch."""
    with torch.no_grad():
        return tensor.fill_(val)


@_overridable
def ones_(tensor: Tensor) -> Tensor:
    """Fill with 1; the tensor can have any dtype of torch."""
    with torch.no_grad():
        return tensor.fill_(1)


@_overridable
def zeros_(tensor: Tensor) -> Tensor:
    """Fill with 0; the tensor can have any dtype of torch."""
    with torch.no_grad():
        return tensor.zero_()


@_overridable
def eye_(tensor: Tensor) -> Tensor:
    """Fill a matrix with the identity; a rectangular matrix is padded with zeros."""
    if tensor.ndim != 2:
        raise ValueError(f"tensor has shape {tuple(tensor.shape)}; expected two axes")
    with torch.no_grad():
        tensor.zero_()
        tensor.diagonal().fill_(1)
    return tensor


@_overridable
def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """Fill the weight of a convolution so that the first output channels of a group equal its input channels.

    Parameters
    ----------
    tensor
        A tensor of shape (out, in / groups, ...) with one to three spatial axes.
    groups
        Number of groups; it must divide out.
    """
    if not 3 <= tensor.ndim <= 5:
        raise ValueError(f"tensor has shape {tuple(tensor.shape)}; expected three to five axes")
    outputs = tensor.shape[0]
    if outputs % check_count("groups", groups, minimum=1):
        raise ValueError(
            f"groups={groups} does not divide the {outputs} outputs of shape {tuple(tensor.shape)}"
        )
    centre = tuple(taps // 2 for taps in tensor.shape[2:])
    with torch.no_grad():
        tensor.zero_()
        if 0 not in tensor.shape:
            for group in tensor[(slice(None), slice(None), *centre)].chunk(groups):
                group.diagonal().fill_(1)
    return tensor


# --- deprecated names ---------------------------------------------------------------------------------------


def _deprecated(function: _Function) -> _Function:
    new_name = function.__name__
    old_name = new_name.removesuffix("_")

    @functools.wraps(function)
    def renamed(*args: Any, **kwargs: Any) -> Tensor:
        warnings.warn(f"init.{old_name} is deprecated, as in torch; use init.{new_name}", FutureWarning, 2)
        return function(*args, **kwargs)

    renamed.__name__ = old_name
    renamed.__doc__ = f"Deprecated name of `{new_name}`, as in torch."
    return renamed  # type: ignore[return-value]


uniform = _deprecated(uniform_)
normal = _deprecated(normal_)
constant = _deprecated(constant_)
eye = _deprecated(eye_)
dirac = _deprecated(dirac_)
xavier_uniform = _deprecated(xavier_uniform_)
xavier_normal = _deprecated(xavier_normal_)
kaiming_uniform = _deprecated(kaiming_uniform_)
kaiming_normal = _deprecated(kaiming_normal_)
orthogonal = _deprecated(orthogonal_)
sparse = _deprecated(sparse_)
