"""Functions that draw one tensor, or a box of it."""

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


#: A stream has 2**64 blocks.
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
    """Return 32-bit words of a tensor's Philox4x32-10 stream.

    Parameters
    ----------
    count
        Number of words.
    seed
        The Philox key, in [0, 2**64).
    name
        The tensor's name; it selects the stream (see `stream_id`).
    start
        Index of the first word; word i is word ``i % 4`` of block ``i // 4``.
    device, backend, threads
        See `initialize`.

    Returns
    -------
    ndarray of uint32, shape (count,)
        A NumPy array, or a CuPy array on a GPU.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or is out of range.

    Examples
    --------
    >>> import initium as ini
    >>> ini.bits(3, seed=7, name="w")
    array([ 651367224, 1662608174, 2864885131], dtype=uint32)
    >>> ini.bits(2, seed=7, name="w", start=1)
    array([1662608174, 2864885131], dtype=uint32)
    """
    first, number = check_count("start", start), check_count("count", count)
    if first + number > _WORDS_OF_A_STREAM:
        raise ValueError(f"start={first} and count={number} exceed the stream; it has 2**66 words")
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
        The Philox key, in [0, 2**64).
    name
        The tensor's name. Tensors with different names have independent values.
    dtype
        One of initium's dtypes. Default: the dtype of `out`, else float32.
    device
        Where to allocate: ``"cpu"`` (the default), ``"cuda"`` or ``"cuda:N"``; with `out`, its device.
    box
        Tuple of slices into the global shape. Only this part is drawn.
    out
        Writable array with the shape of the box and any strides; it is filled in place. An array in GPU
        memory is filled on the current stream of its library, and the call does not wait for the GPU.
    backend
        ``"numba"`` or ``"numpy"`` on the CPU, ``"cuda"`` on a GPU. Default: the fastest one of the device.
    threads
        Number of CPU threads. Default: all available cores. It never changes a value.

    Returns
    -------
    ndarray
        `out`, or a new array with the shape of the box: a NumPy array, or a CuPy array on a GPU.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong; nothing has been written then.

    Examples
    --------
    >>> import initium as ini
    >>> ini.initialize(ini.he_normal(), (2, 3), seed=7, name="w")
    array([[ 0.34456474,  1.0433289 , -0.8419773 ],
           [-0.24842983, -0.02947567, -0.8709342 ]], dtype=float32)

    The second row of the same tensor, without the first:

    >>> ini.initialize(ini.he_normal(), (2, 3), seed=7, name="w", box=(slice(1, 2),))
    array([[-0.24842983, -0.02947567, -0.8709342 ]], dtype=float32)
    """
    if not hasattr(initializer, "resolve"):  # cheaper than isinstance with a protocol
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
        raise ValueError(f"out is on device {target.device}; expected device={device}")
    if target.shape != shape:
        raise ValueError(f"out has shape {target.shape}; expected {shape}")
    wanted: DType = target.dtype if dtype is None else dtypes.lookup(dtype)
    if wanted != target.dtype:
        raise ValueError(f"out has dtype {target.dtype}; expected dtype={wanted}")
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
    """Draw a tensor with the uniform distribution on [low, high).

    No value is outside the interval, also after rounding to the destination dtype. The options are those of
    `initialize`.

    Examples
    --------
    >>> import initium as ini
    >>> ini.uniform(3, -1.0, 1.0, seed=7, name="w")
    array([ 0.30331653,  0.7742123 , -0.6659339 ], dtype=float32)
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
    """Draw a tensor with the normal distribution of mean `mean` and standard deviation `std`.

    Each value is the normal quantile of one word: a sign bit and a 31-bit magnitude. Tails reach 6.3 sigma.
    float64 uses two words, with a 63-bit magnitude, and tails reach 9.2 sigma. The options are those of
    `initialize`.

    Examples
    --------
    >>> import initium as ini
    >>> ini.normal(3, seed=7, name="w")
    array([ 0.38980126,  1.211281  , -0.9659562 ], dtype=float32)
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
    """Draw a tensor with the normal distribution truncated to [mean + lower std, mean + upper std].

    Parameters
    ----------
    shape
        The global shape.
    mean, std
        Mean and standard deviation of the normal distribution before truncation.
    lower, upper
        Bounds: distances from `mean` in units of `std`. An infinite bound leaves its side open. Bounds far
        from the mean, such as (5.25, inf), lose no accuracy.
    seed, name
        See `initialize`.
    **options
        See `initialize`.

    Examples
    --------
    >>> import initium as ini
    >>> ini.truncated_normal(3, std=0.02, seed=7, name="w")
    array([ 0.00742411,  0.02247992, -0.01814153], dtype=float32)
    >>> ini.truncated_normal(2, lower=5.25, upper=float("inf"), seed=7, name="w")
    array([5.2802153, 5.339466 ], dtype=float32)
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
    """Draw a random orthogonal (or semi-orthogonal) matrix by Haar measure, times `gain`.

    Parameters
    ----------
    shape
        The global shape; it has at least two axes.
    gain, method, layout, column_axis, batch_axis
        See `initium.Orthogonal`, which also states how the values are computed.
    seed, name
        See `initialize`.
    **options
        See `initialize`. The cost of a `box` is proportional to its size.

    Examples
    --------
    >>> import numpy as np
    >>> import initium as ini
    >>> q = ini.orthogonal((3, 5), seed=7, name="w")
    >>> bool(np.allclose(q @ q.T, np.eye(3), atol=1e-6))
    True
    """
    initializer = Orthogonal(gain, method, layout, column_axis, batch_axis)
    return initialize(initializer, shape, seed=seed, name=name, **options)
