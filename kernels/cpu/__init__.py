"""Numba kernels for CPU cores; `fill` draws job tables, and `orthogonal` computes matrices."""
