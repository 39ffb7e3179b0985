"""A stand-in for CuPy that records what it is asked, as small as the GPU backend allows.

Memory of its "GPUs" is this machine's, and its launches run the real kernels by `cuda_shim`, so that a call
through the whole backend leaves real values behind.
"""

import ctypes
import math
from types import SimpleNamespace

import cuda_shim
import numpy as np

from initium.kernels.cuda import source
from initium.memory.destination import packed_steps

MULTIPROCESSORS = 3


class CUDARuntimeError(RuntimeError):
    pass


class OutOfMemoryError(MemoryError):
    pass


class Pointer:
    """Memory at an address, and what keeps it alive."""

    def __init__(self, fake, address, owner):
        self.fake, self.ptr, self.owner = fake, address, owner

    def copy_to_host_async(self, to, nbytes, stream):
        self.fake.calls.append(("to host", nbytes, stream.ptr))
        ctypes.memmove(to, self.ptr, nbytes)


class Array:
    """An array in the memory of a GPU."""

    def __init__(self, fake, host, device):
        self.host, self.fake, self.device = host, fake, SimpleNamespace(id=device)
        self.shape, self.strides, self.dtype, self.size = host.shape, host.strides, host.dtype, host.size
        self.data = Pointer(fake, host.ctypes.data, host)

    def __dlpack_device__(self):
        return 2, self.device.id

    def _like(self, host):
        return type(self)(self.fake, host, self.device.id)

    def reshape(self, *shape):
        return self._like(self.host.reshape(*shape))

    def view(self, dtype):
        return self._like(self.host.view(dtype))

    def astype(self, dtype):
        return self._like(self.host.astype(dtype))

    def __getitem__(self, key):
        return self._like(self.host[key])

    def __setitem__(self, key, value):
        self.host[key] = value.host


Array.__module__ = "cupy"


class Stream:
    def __init__(self, fake, ptr):
        self.fake, self.ptr = fake, ptr

    def use(self):
        self.fake.current[self.fake.device] = self.ptr

    def synchronize(self):
        self.fake.calls.append(("wait", self.ptr))


class Device:
    def __init__(self, fake, index=None):
        self.fake, self.id = fake, fake.device if index is None else int(index)
        self.attributes = {"MultiProcessorCount": MULTIPROCESSORS}
        self.compute_capability = fake.capability

    def __enter__(self):
        self.before = self.fake.device
        self.fake.device = self.id

    def __exit__(self, *error):
        self.fake.device = self.before


class FakeCupy:
    """The module ``cupy``.

    Attributes
    ----------
    calls
        What was asked, in order.
    device
        Current one.
    current
        Current stream of each device.
    """

    __version__ = "fake"

    def __init__(self, devices=2, free=1 << 30):
        self.calls, self.device = [], 0
        self.devices, self.free, self.capability = devices, free, "90"
        self.current = {0: 0x10, 1: 0x11}
        self.device_of_stream = {0x10: 0, 0x20: 0, 0x11: 1, 0x21: 1}
        self.freed = set()
        self.kernels = []
        runtime = SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError,
            getDeviceCount=self.count,
            memGetInfo=lambda: (self.free, 8 << 30),
            pointerGetAttributes=self.attributes,
            memoryTypeDevice=2,
            memoryTypeManaged=3,
        )
        self.cuda = SimpleNamespace(
            runtime=runtime,
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            Device=lambda index=None: Device(self, index),
            Stream=SimpleNamespace(from_external=lambda handle: Stream(self, handle.__cuda_stream__()[1])),
            Event=lambda disable_timing: SimpleNamespace(record=self.record),
            get_current_stream=lambda device=None: Stream(
                self, self.current[self.device if device is None else device]
            ),
            alloc=self.alloc,
            alloc_pinned_memory=self.pinned,
            UnownedMemory=lambda address, nbytes, owner, device: (address, owner),
            MemoryPointer=lambda memory, offset: Pointer(self, memory[0] + offset, memory[1]),
        )

    def attributes(self, address):
        return SimpleNamespace(type=0 if address in self.freed else 2, device=1)

    def count(self):
        if isinstance(self.devices, Exception):
            raise self.devices
        return self.devices

    def record(self, stream):
        if self.device_of_stream[stream.ptr] != self.device:
            raise CUDARuntimeError("cudaErrorInvalidResourceHandle: invalid resource handle")

    def pinned(self, nbytes):
        memory = np.empty(nbytes, np.uint8)
        return SimpleNamespace(ptr=memory.ctypes.data, memory=memory)

    def get_default_memory_pool(self):
        return SimpleNamespace(free_bytes=lambda: 1 << 20)

    def alloc(self, nbytes):
        self.calls.append(("allocate", nbytes, self.device))
        raw = np.zeros(nbytes + 256, np.uint8)
        return Pointer(self, raw.ctypes.data + -raw.ctypes.data % 256, raw)

    def ndarray(self, shape, dtype, pointer=None, strides=None):
        dtype, shape = np.dtype(dtype), (shape,) if isinstance(shape, int) else tuple(shape)
        if pointer is None:
            if "float8" in dtype.name:
                raise ValueError(f"Unsupported dtype {dtype}")
            pointer = self.alloc(math.prod(shape) * dtype.itemsize)
        bits = f"<u{dtype.itemsize}"
        interface = {"data": (pointer.ptr, False), "shape": (1,), "typestr": bits, "version": 3}
        first = np.asarray(SimpleNamespace(__array_interface__=interface, owner=pointer.owner))
        steps = packed_steps(shape, dtype.itemsize) if strides is None else strides
        host = np.lib.stride_tricks.as_strided(first, shape, steps).view(dtype)
        return Array(self, host, self.device)

    def asarray(self, host):
        self.calls.append(("copy", host.nbytes, self.device, self.current[self.device]))
        return Array(self, host.copy(), self.device)

    def ascontiguousarray(self, array, dtype):
        return Array(self, np.ascontiguousarray(array.host, dtype), array.device.id)

    def from_dlpack(self, array):
        if array.fault:
            raise array.fault
        self.calls.append(("join", self.current[self.device]))
        return Array(self, array.host, array.device)

    def RawModule(self, *, code, options):  # noqa: N802
        assert code == source.source()
        self.kernels.append((options, self.device))
        return SimpleNamespace(get_function=lambda name: lambda *launch: self.launch(name, *launch))

    def launch(self, name, grid, block, arguments):
        assert block == (source.THREADS,) and grid[0] > 0
        self.calls.append(("launch", name, grid[0], self.device, self.current[self.device]))
        library, kernel = cuda_shim.library(), getattr(cuda_shim.library(), name)
        if source.ROUND in name:
            values, to, count = arguments
            places = ctypes.c_void_p(values.data.ptr), ctypes.c_ulonglong(to.data.ptr)
            library.launch_round(kernel, ctypes.c_uint(grid[0]), *places, ctypes.c_int64(int(count)))
            return
        jobs, count, tiles, span, keys = arguments
        assert all(type(number) is np.int64 for number in (count, tiles, span))
        assert keys.shape == (1,) and keys.dtype.names == ("low", "high")  # what CuPy passes by value
        numbers = (ctypes.c_int64(int(number)) for number in (count, tiles, span))
        table, keys = (ctypes.c_void_p(address) for address in (jobs.data.ptr, keys.ctypes.data))
        library.launch(kernel, ctypes.c_uint(grid[0]), table, *numbers, keys)

    def launches(self):
        """Return (kernel, device, stream) of all launches so far, and forget them."""
        launches = [call[1:] for call in self.calls if call[0] == "launch"]
        made = [(name.removeprefix("fill_"), device, stream) for name, _, device, stream in launches]
        self.calls.clear()
        return made


class TorchTensor:
    """A torch tensor in the memory of a GPU."""

    def __init__(self, host, device=0, storage=None):
        self.host, self.device = host, SimpleNamespace(type="cuda", index=device)
        self.shape, self.dtype = host.shape, f"torch.{host.dtype}"
        self.storage = host.nbytes if storage is None else storage
        self.version = 0
        self.layout = "torch.strided"

    def is_inference(self):
        return False

    def is_neg(self):
        return False

    def is_conj(self):
        return False

    def data_ptr(self):
        return self.host.ctypes.data if self.storage else 0

    def element_size(self):
        return self.host.itemsize

    def stride(self):
        return tuple(step // self.host.itemsize for step in self.host.strides)

    def storage_offset(self):
        return 0

    def untyped_storage(self):
        return SimpleNamespace(nbytes=lambda: self.storage)


TorchTensor.__module__ = "torch"


class JaxArray:
    """An array that speaks DLPack."""

    def __init__(self, host, device=0):
        self.host, self.device = host, device
        #: What JAX raises where it is asked for the device, and what CuPy raises on import; None for nothing.
        self.unplaced = self.fault = None

    def __dlpack_device__(self):
        if self.unplaced:
            raise self.unplaced
        return 2, self.device

    def __dlpack__(self, stream=None):
        raise AssertionError("from_dlpack takes care of it")


class InterfaceArray:
    """An array that speaks the CUDA array interface; its memory lies on device 1."""

    def __init__(self, host, stream=None, read_only=False, **more):
        self.host = host
        self.interface = {
            "shape": host.shape,
            "typestr": host.dtype.str,
            "data": (host.ctypes.data, read_only),
            "strides": None if host.flags.c_contiguous else host.strides,
            "version": 3,
            "stream": stream,
            **more,
        }

    @property
    def __cuda_array_interface__(self):
        return self.interface
