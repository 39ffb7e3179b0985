"""One tensor at a time: bits, and the basic distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from initium import dtypes
from initium.backends.run import run
from initium.checks import check_count, check_seed, check_shape
from initium.dtypes import DType
from initium.fills.base import Fill
from initium.fills.elementwise import WordsFill
from initium.initializers.basic import Initializer, Normal, TruncatedNormal, Uniform
from initium.initializers.orthogonal import Orthogonal
from initium.kernels.float_mode import in_default_mode
from initium.kernels.stream import WORDS_PER_BLOCK
from initium.layouts import LayoutLike
from initium.memory.arrays import allocate, destination_of
from initium.memory.destination import Destination
from initium.memory.devices import check_device, is_on
from initium.memory.torch import mark_as_written
from initium.planning.jobs import job_of
from initium.planning.plan import plan
from initium.regions.boxes import Box, box_of

__all__ = ["bits", "initialize", "normal", "orthogonal", "truncated_normal", "uniform"]


#: 2**64 blocks.
_WORDS_OF_A_STREAM = WORDS_PER_BLOCK << 64


@in_default_mode
def bits(
    count: int,
    *,
    seed: int,
    name: str,
    start: int = 0,
    device: str | None = None,
    backend: str | None = None,
    threads: int | None = None,
) -> Any:
    """Return words of a tensor's Philox4x32-10 stream.

    Parameters
    ----------
    count
        Number of words.
    seed
        Key, in [0, 2**64).
    name
        The tensor's name, which chooses the stream.
    start
        Index of the first word; word i is word ``i % 4`` of block ``i // 4``.
    device, backend, threads
        See `initialize`.

    Returns
    -------
    ndarray of uint32, shape (count,)
        NumPy's, or CuPy's on a GPU.

    Raises
    ------
    TypeError, ValueError
        For arguments of a wrong type or out of range.
    """
    first, number = check_count("start", start), check_count("count", count)
    if first + number > _WORDS_OF_A_STREAM:
        raise ValueError(f"start={first} and count={number} leave the stream; it has 2**66 words")
    block, skip = divmod(first, WORDS_PER_BLOCK)
    shape = check_shape(number, "count")
    target = _target(shape, None, device, None)
    box = Box(shape, skip, (1,))
    _draw(name, WordsFill(block), box, target, seed=seed, backend=backend, threads=threads)
    return target.owner.view(np.uint32)


@in_default_mode
def initialize(
    initializer: Initializer,
    shape: int | Sequence[int],
    *,
    seed: int,
    name: str = "",
    dtype: Any = None,
    device: str | None = None,
    box: Any = None,
    out: Any = None,
    backend: str | None = None,
    threads: int | None = None,
) -> Any:
    """Draw one tensor, or a box of it.

    Parameters
    ----------
    initializer
        Any initializer, such as ``initium.he_normal()``.
    shape
        The **global** shape of the tensor.
    seed
        In [0, 2**64).
    name
        The tensor's name; tensors of different names are independent.
    dtype
        One of initium's dtypes; that of `out`, or float32, by default.
    device
        Where to allocate, ``"cpu"`` (the default), ``"cuda"`` or ``"cuda:N"``; with `out`, its device.
    box
        Tuple of slices into the global shape; only that part is made.
    out
        Writable array of the box's shape, of any strides, that is filled in place. An array in a GPU's
        memory is filled there, in order with its library's current stream; the call does not wait.
    backend
        ``"numba"`` or ``"numpy"`` on the CPU, ``"cuda"`` on a GPU; the fastest of the device by default.
    threads
        Number of CPU threads; all available cores by default. Never changes a value.

    Returns
    -------
    ndarray
        `out`, or a new array of the box's shape: NumPy's, or CuPy's on a GPU.

    Raises
    ------
    TypeError, ValueError
        For bad arguments, before anything is written.
    """
    if not hasattr(initializer, "resolve"):  # isinstance with a protocol takes 3 us
        raise TypeError(f"initializer={initializer!r} has no resolve(shape); expected an initializer")
    whole = check_shape(shape)
    part = box_of(whole, box)
    fill = initializer.resolve(whole)
    seed = check_seed(seed)
    target = _target(part.shape, dtype, device, out)
    _draw(name, fill, part, target, seed=seed, backend=backend, threads=threads)
    mark_as_written([target])
    return target.owner


def _draw(
    name: str,
    fill: Fill,
    box: Box,
    target: Destination,
    *,
    seed: int,
    backend: str | None,
    threads: int | None,
) -> None:
    run(plan([job_of(name, fill, box, target)], seed), backend, threads)


def _target(shape: tuple[int, ...], dtype: Any, device: str | None, out: Any) -> Destination:
    if out is None:
        spec = shape, dtypes.lookup("float32" if dtype is None else dtype)
        return allocate([spec], check_device("cpu" if device is None else device))[0]
    target = destination_of(out)
    if device is not None and not is_on(device, target.device):
        raise ValueError(f"out is on device {target.device}; expected {device} as device says")
    if target.shape != shape:
        raise ValueError(f"out has shape {target.shape}; expected {shape}")
    wanted: DType = target.dtype if dtype is None else dtypes.lookup(dtype)
    if wanted != target.dtype:
        raise ValueError(f"out has dtype {target.dtype}; expected {wanted} as dtype says")
    return target


def uniform(
    shape: int | Sequence[int],
    low: float = 0.0,
    high: float = 1.0,
    *,
    seed: int,
    name: str = "",
    **options: Any,
) -> Any:
    """Draw a tensor uniform on [low, high); see `initialize` for the options.

    No value lies outside of the interval in the destination dtype, not even after rounding.
    """
    return initialize(Uniform(low, high), shape, seed=seed, name=name, **options)


def normal(
    shape: int | Sequence[int],
    mean: float = 0.0,
    std: float = 1.0,
    *,
    seed: int,
    name: str = "",
    **options: Any,
) -> Any:
    """Draw a normal tensor of mean `mean` and standard deviation `std`; see `initialize` for the options.

    Each value is the normal quantile of its own word: a sign bit and a 31-bit magnitude (63-bit for
    float64), so that tails reach 6.3 sigmas (9.2).
    """
    return initialize(Normal(mean, std), shape, seed=seed, name=name, **options)


def truncated_normal(
    shape: int | Sequence[int],
    mean: float = 0.0,
    std: float = 1.0,
    lower: float = -2.0,
    upper: float = 2.0,
    *,
    seed: int,
    name: str = "",
    **options: Any,
) -> Any:
    """Draw a normal tensor conditioned on [mean + lower std, mean + upper std]; see `initialize`.

    Parameters
    ----------
    shape
        The global shape.
    mean, std
        Of the normal before truncation.
    lower, upper
        Bounds in units of `std` from `mean`; infinite ones leave that side open. Far tails such as
        (5.25, inf) are exact.
    seed, name
        See `initialize`.
    **options
        See `initialize`.
    """
    initializer = TruncatedNormal(mean, std, lower, upper)
    return initialize(initializer, shape, seed=seed, name=name, **options)


def orthogonal(
    shape: int | Sequence[int],
    gain: float = 1.0,
    *,
    seed: int,
    name: str = "",
    method: str = "householder",
    layout: LayoutLike = None,
    column_axis: int | None = None,
    batch_axis: int | tuple[int, ...] = (),
    **options: Any,
) -> Any:
    """Draw a random orthogonal (or semi-orthogonal) tensor by Haar measure, times `gain`.

    Parameters
    ----------
    shape
        The global shape, of at least two axes.
    gain, method, layout, column_axis, batch_axis
        See `initium.Orthogonal`, also for what the values are made of.
    seed, name
        See `initialize`.
    **options
        See `initialize`. A `box` costs its share of the whole.
    """
    initializer = Orthogonal(gain, method, layout, column_axis, batch_axis)
    return initialize(initializer, shape, seed=seed, name=name, **options)
