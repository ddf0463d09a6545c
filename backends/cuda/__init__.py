"""The CUDA backend: a staged program as kernels of CUDA C++, with what the host does meanwhile.

From top to bottom: `executable` (calling), `host`, `control`, `recursion` and `lists` (what happens
on the host while a program runs), `memory` and `streams` (where values lie, in what order work is
done), `passes`, of which `merging` and `inlining` are two, `module` (the translation unit),
`lowering` (the steps of each operation, by `elementwise`, `reductions` and their neighbours,
written on `elements`), `steps` (what these may be), `device` (what is asked of a GPU), which
`runtime` is by CuPy, and `emulator` on the CPU.
"""

from backends.cuda.arrays import DeviceArray
from backends.cuda.executable import Executable, compile_program, source_of

__all__ = ["DeviceArray", "Executable", "compile_program", "source_of"]
