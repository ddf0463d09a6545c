"""A device of the CUDA backend that runs on the CPU: the generated CUDA C++, unmodified, compiled
by g++, with a fiber for each thread of CUDA that waits.

It finds what a GPU would not say: access outside of buffers, misaligned vectors, barriers that not
all threads reach, shuffles that read lanes which take no part, launches beyond the limits, and
arguments of another width than the parameter. Threads, blocks and streams run in a random order
which a seed gives.

`device` has the device and `streams` its queues; `compiler` makes of a translation unit a shared
object, which `engine`, and the C++ in the folder of that name, runs; ``include`` has what kernels
include.
"""

from backends.cuda.emulator.device import EmulatedDevice

__all__ = ["EmulatedDevice"]
