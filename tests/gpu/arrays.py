"""Arrays of a GPU's memory as NumPy arrays, bit for bit, whatever dtypes a library knows."""

import numpy as np

from initium.memory import cuda
from initium.memory.arrays import destination_of


def host(array):
    """Copy an array of CuPy, torch or JAX to the CPU."""
    destination = destination_of(array)
    module, size = cuda.cupy(), destination.dtype.itemsize
    if 0 in destination.shape:
        return np.zeros(destination.shape, destination.dtype.numpy)
    low, end = destination.span
    with cuda.queue_of(destination).entered() as stream:
        memory = module.cuda.UnownedMemory(low, end - low, array, cuda.index_of(destination.device))
        pointer = module.cuda.MemoryPointer(memory, destination.address - low)
        view = module.ndarray(destination.shape, f"u{size}", pointer, strides=destination.byte_steps)
        copied = module.ascontiguousarray(view).get()
        stream.synchronize()
    return copied.view(destination.dtype.numpy)
