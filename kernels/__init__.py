"""The kernels, in three twins of the same names: NumPy reference, Numba on CPU cores, CUDA.

Nothing here knows of tensors' names, models or files: kernels see job tables (`initium.kernels.table`).
"""
