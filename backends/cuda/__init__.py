"""The CUDA backend: a staged program as kernels of CUDA C++, with what the host does meanwhile."""
