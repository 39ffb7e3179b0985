"""CUDA kernels: hand-written C++ beside its CPU twin; `initium.kernels.cuda.source` puts it together."""
