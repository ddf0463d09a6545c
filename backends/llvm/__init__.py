"""The LLVM backend: a staged program as one native function for the CPU.

From top to bottom: `binary` (executables as bytes), `executable` (calling), `program` (the entry,
buffers), `control` (what holds blocks), `inline` (blocks whose values stay in registers), `frames`
and `lists` (what loops save), the loop nests (`nests`, `moves`, `orders`, `products`), `kernel`
(elements pulled through operations), `scalar`, `dtypes` and `mathematics` (one element), `affine`
and `code` (positions and text), `target` (LLVM itself). Where values lie is planned by
`staging.memory`.
"""

from backends.llvm.binary import pack, unpack
from backends.llvm.executable import Executable, assembly_of, compile_program, host, source_of

__all__ = ["Executable", "assembly_of", "compile_program", "host", "pack", "source_of", "unpack"]
