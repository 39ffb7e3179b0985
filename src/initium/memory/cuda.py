"""GPU memory through CuPy: devices, arrays, allocation and CUDA streams.

CuPy is imported only when a GPU is used.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from initium.dtypes import DType
from initium.memory import torch
from initium.memory.destination import Destination, check_layout, packed_steps

__all__ = [
    "Queue",
    "allocate",
    "cupy",
    "destination_of",
    "device_name",
    "index_of",
    "queue_of",
]

_INSTALL = "pip install 'initium[cuda13]' (or 'initium[cuda12]' for a driver of CUDA 12)"
_LEAST_CAPABILITY = 80


@cache
def cupy() -> Any:
    """Return CuPy; raise if it is not installed, or if it finds no GPU.

    Raises
    ------
    ImportError
        If CuPy is missing or cannot be loaded.
    RuntimeError
        If there is no driver or no GPU.
    """
    try:
        import cupy as module
    except ImportError as error:
        raise ImportError(f"device='cuda' needs CuPy ({error}); {_INSTALL}") from error
    try:
        count = module.cuda.runtime.getDeviceCount()
    except module.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(
            f"device='cuda' finds no NVIDIA driver that fits CuPy {module.__version__} ({error}); install or "
            f"update the driver until nvidia-smi lists a GPU, or install the CuPy of your driver: {_INSTALL}"
        ) from error
    if not count:
        raise RuntimeError("device='cuda' finds no NVIDIA GPU; expected one that nvidia-smi lists")
    return module


# --- devices ------------------------------------------------------------------------------------------------


def device_name(device: str) -> str:
    """Return ``"cuda:N"`` for ``"cuda:N"`` or ``"cuda"``, CuPy's current device; raise if there is none."""
    kind, colon, number = device.partition(":")
    if kind != "cuda" or (colon and not (number.isascii() and number.isdigit())):
        raise ValueError(f"device={device!r} is unknown; expected 'cpu', 'cuda' or 'cuda:N'")
    index = int(number) if colon else int(cupy().cuda.Device().id)
    count = cupy().cuda.runtime.getDeviceCount()
    if index >= count:
        raise ValueError(
            f"device={device!r} does not exist; this machine has {count} GPUs; 'cuda:0' is the first"
        )
    _check_capability(index)
    return f"cuda:{index}"


@cache
def _check_capability(index: int) -> None:
    found = int(cupy().cuda.Device(index).compute_capability)
    if found < _LEAST_CAPABILITY:
        raise RuntimeError(
            f"cuda:{index} has compute capability {found / 10}; expected {_LEAST_CAPABILITY / 10} or "
            "later (Ampere), whose instructions the kernels use"
        )


def index_of(device: str) -> int:
    """Return N of ``"cuda:N"``."""
    return int(device.removeprefix("cuda:"))


# --- arrays -------------------------------------------------------------------------------------------------


def destination_of(array: Any) -> Destination:
    """Return the destination of an array in GPU memory; the array is not copied.

    Parameters
    ----------
    array
        A torch tensor, a CuPy array, or an object with DLPack (JAX) or the CUDA array interface.

    Raises
    ------
    ValueError
        If its dtype is not supported, its memory is read-only, freed or misaligned, or its elements overlap.
    RuntimeError
        If the compute capability of the GPU is too low.
    """
    if torch.is_tensor(array):
        made = torch.destination_of(array, f"cuda:{array.device.index}")
    elif _is_cupy(array):
        made = _of_cupy(array, array)
    elif hasattr(array, "__dlpack__"):
        made = _of_cupy(_exported(array), array)
    else:
        made = _of_interface(array)
    _check_capability(index_of(made.device))
    if 0 not in made.shape and made.address == 0:
        raise ValueError("the array's memory has been freed; expected an array that owns memory")
    size = made.dtype.itemsize
    if any(step % size for step in (made.address, *made.byte_steps)):
        raise ValueError(
            f"elements of {size} bytes have address {made.address:#x} and strides {made.byte_steps}; "
            f"expected multiples of {size}, the alignment that a GPU needs"
        )
    return made


def _is_cupy(array: Any) -> bool:
    return type(array).__module__.partition(".")[0] == "cupy"


def _of_cupy(view: Any, owner: Any) -> Destination:
    dtype = check_layout(view.dtype, view.shape, view.strides)
    return Destination(view.data.ptr, view.shape, view.strides, dtype, f"cuda:{view.device.id}", owner)


def _exported(array: Any) -> Any:
    """Return a CuPy view of the memory of a DLPack producer, ready on the device's current stream."""
    with cupy().cuda.Device(array.__dlpack_device__()[1]):
        try:
            return cupy().from_dlpack(array)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"the {type(array).__name__} does not export its memory: {error}") from error


def _of_interface(array: Any) -> Destination:
    found = array.__cuda_array_interface__
    address, read_only = found["data"]
    if read_only:
        raise ValueError("the array is read-only; expected a writable one")
    if found.get("mask") is not None:
        raise ValueError("the array is masked; expected one without a mask")
    numpy, shape = np.dtype(found["typestr"]), tuple(found["shape"])
    steps = found.get("strides")
    steps = packed_steps(shape, numpy.itemsize) if steps is None else tuple(steps)
    dtype = check_layout(numpy, shape, steps)
    return Destination(address or 0, shape, steps, dtype, f"cuda:{_device_of(address, shape)}", array)


def _device_of(address: int, shape: tuple[int, ...]) -> int:
    runtime = cupy().cuda.runtime
    if not address and 0 in shape:
        return int(cupy().cuda.Device().id)
    found = runtime.pointerGetAttributes(address)
    if found.type not in (runtime.memoryTypeDevice, runtime.memoryTypeManaged):
        raise ValueError(f"address {address:#x} is not GPU memory; expected an array that was not freed")
    return int(found.device)


def allocate(specs: Sequence[tuple[tuple[int, ...], DType]], device: str) -> list[Destination]:
    """Return uninitialised memory for new CuPy arrays on one device, from CuPy's memory pool.

    Raises
    ------
    MemoryError
        If the arrays do not fit; nothing is allocated then.
    """
    module, index = cupy(), index_of(device)
    nbytes = sum(math.prod(shape) * dtype.itemsize for shape, dtype in specs)
    with module.cuda.Device(index):
        free, total = module.cuda.runtime.memGetInfo()
        pooled = module.get_default_memory_pool().free_bytes()
        if nbytes > free + pooled:
            raise MemoryError(
                f"{len(specs)} arrays of {_gib(nbytes)} do not fit on {device}: {_gib(free + pooled)} of "
                f"{_gib(total)} are free, {_gib(pooled)} of them in CuPy's pool"
            )
        try:
            arrays = [_on_pool(module, shape, dtype) for shape, dtype in specs]
        except module.cuda.memory.OutOfMemoryError as error:
            raise MemoryError(
                f"{len(specs)} arrays of {_gib(nbytes)} do not fit on {device}: {error}"
            ) from error
    return [
        Destination(int(array.data.ptr), array.shape, array.strides, dtype, device, array)
        for array, (_, dtype) in zip(arrays, specs, strict=True)
    ]


def _on_pool(module: Any, shape: tuple[int, ...], dtype: DType) -> Any:
    # CuPy does not support float8, but accepts it as the dtype of memory that is passed in.
    memory = module.cuda.alloc(math.prod(shape) * dtype.itemsize)
    return module.ndarray(shape, dtype.numpy, memory)


def _gib(nbytes: int) -> str:
    return f"{nbytes / 2**30:.2f} GiB"


# --- streams ------------------------------------------------------------------------------------------------


class Queue(NamedTuple):
    """Device and CUDA stream for work on an array, which then runs after all earlier work on that array.

    Attributes
    ----------
    device
        Number of the device.
    stream
        Handle of the CUDA stream.
    waits
        Whether the host waits for the work: the array's library has internal streams, which do not wait.
    """

    device: int
    stream: int
    waits: bool

    @contextmanager
    def entered(self) -> Iterator[Any]:
        """Make device and stream the current ones of CuPy."""
        module = cupy()
        with module.cuda.Device(self.device):
            before = module.cuda.get_current_stream()
            stream = module.cuda.Stream.from_external(_Handle(self.stream))
            # Not `with stream`: it would restore the stream of the last `with`, not the stream of `use`.
            stream.use()
            try:
                yield stream
            finally:
                before.use()
            if self.waits:
                stream.synchronize()


class _Handle:
    """An object with the CUDA stream protocol that CuPy expects."""

    def __init__(self, stream: int) -> None:
        self._stream = stream

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._stream


def queue_of(destination: Destination) -> Queue:
    """Return the queue of an array at this moment: the current stream of its library.

    Raises
    ------
    ValueError
        If the array names a stream of another device.
    """
    index, owner = index_of(destination.device), destination.owner
    if torch.is_tensor(owner):
        return Queue(index, sys.modules["torch"].cuda.current_stream(index).cuda_stream, False)
    current = int(cupy().cuda.get_current_stream(index).ptr)
    if _is_cupy(owner):
        return Queue(index, current, False)
    if hasattr(owner, "__dlpack__"):
        _exported(owner)  # makes CuPy's current stream wait for the work on the array
        return Queue(index, current, True)
    stream = owner.__cuda_array_interface__.get("stream")
    if stream is None:
        return Queue(index, current, False)
    _check_stream(stream, index)
    return Queue(index, stream, False)


def _check_stream(stream: int, device: int) -> None:
    """Raise if events of the device cannot be recorded on the stream."""
    module = cupy()
    if stream in (1, 2):  # the default streams, which exist on every device
        return
    with module.cuda.Device(device):
        try:
            module.cuda.Event(disable_timing=True).record(module.cuda.Stream.from_external(_Handle(stream)))
        except module.cuda.runtime.CUDARuntimeError as error:
            raise ValueError(
                f"stream {stream:#x} of an array on cuda:{device} belongs to another device: {error}"
            ) from error
