"""Numba kernels for CPU cores; `initium.kernels.cpu.fill` is their only entry."""
