"""Object code of texts of LLVM IR, of several at once.

llvmlite lets one thread at a time into LLVM. LLVM itself works in several, each on modules of a
context of its own; so what takes long is called here without that lock.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
from llvmlite.utils import get_library_name

from backends.llvm.pool import cores
from backends.llvm.splitting import Text
from backends.llvm.target import made_machine, parsed, pass_builder

SLOW = ("LLVMPY_RunNewModulePassManager", "LLVMPY_TargetMachineEmitToMemory")


@cache
def unlocked() -> Any:
    """What takes long of LLVM, without the lock of llvmlite."""
    library = ctypes.CDLL(str(Path(llvm.__file__).parent / get_library_name()))
    for name in SLOW:
        ours, theirs = getattr(library, name), getattr(llvm.ffi.lib, name)
        ours.argtypes, ours.restype = theirs.argtypes, theirs.restype
    return library


def objects(texts: Sequence[Text]) -> list[bytes]:
    """The object code of each text, made on as many threads as there are cores.

    Raises:
        RuntimeError: LLVM does not understand a text, or has no machine code for it.
    """
    if len(texts) == 1:
        return [compiled(texts[0])]
    with ThreadPoolExecutor(min(len(texts), len(cores()))) as pool:
        works = [pool.submit(copy_context().run, compiled, text) for text in texts]
        return [work.result() for work in works]


def compiled(text: Text) -> bytes:
    """The object code of one text."""
    target = made_machine(text.brief)
    module, builder = parsed(text.source, target, llvm.create_context()), pass_builder(target)
    passes = brief() if text.brief else builder.getModulePassManager()
    unlocked().LLVMPY_RunNewModulePassManager(passes, module, builder)
    return emitted(target, module)


def brief() -> llvm.ModulePassManager:
    """The passes for what is not worth optimising: values on the stack become registers."""
    passes = llvm.create_new_module_pass_manager()
    passes.add_always_inliner_pass()
    passes.add_sroa_pass()
    return passes


def emitted(target: llvm.TargetMachine, module: llvm.ModuleRef) -> bytes:
    """The object code of a module."""
    with llvm.ffi.OutputString() as problem:
        buffer = unlocked().LLVMPY_TargetMachineEmitToMemory(target, module, 1, problem)
        if not buffer:
            raise RuntimeError(str(problem))
    library = llvm.ffi.lib
    try:
        start, size = library.LLVMPY_GetBufferStart(buffer), library.LLVMPY_GetBufferSize(buffer)
        return ctypes.string_at(start, size)
    finally:
        library.LLVMPY_DisposeMemoryBuffer(buffer)
