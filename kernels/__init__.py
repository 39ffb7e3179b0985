"""The kernels, in three implementations with the same file names: NumPy reference, Numba for CPUs, CUDA.

The input of a kernel is a job table (`initium.kernels.table`). It holds no names of tensors, models or files.
"""
