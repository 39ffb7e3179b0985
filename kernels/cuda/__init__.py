"""CUDA kernels in C++, with the file names of the CPU kernels; `source` joins the files."""
