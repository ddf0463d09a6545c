"""The host: its LLVM target machine, optimisation, and loading of object code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import llvmlite.binding as llvm


@cache
def machine() -> llvm.TargetMachine:
    """The target machine of the CPU that this process runs on."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        reloc="pic",
        codemodel="small",
    )


@cache
def features() -> str:
    """The name of this CPU and what it can do."""
    return f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"


@cache
def vector_bits() -> int:
    """The widest vectors of this CPU."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f") and features.get("avx512vl"):
        return 512
    return 256 if features.get("avx2") else 128


def optimised(source: str) -> llvm.ModuleRef:
    """Parse LLVM IR, check it, and run LLVM's passes on it."""
    target = machine()
    module = llvm.parse_assembly(source)
    module.triple = target.triple
    module.data_layout = str(target.target_data)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = True
    # Vectors come from loops here. Unrolling what is vectorised and interleaved doubles the time of
    # compiling, and was measured to gain nothing.
    options.slp_vectorization = options.loop_unrolling = False
    builder = llvm.create_pass_builder(target, options)
    builder.getModulePassManager().run(module, builder)
    return module


class Library:
    """Object code loaded into this process; unloaded when it is collected.

    Args:
        code: an object file's bytes.
        entries: the names of the functions to find.
        symbols: the addresses of functions that the code calls, by name; the process's own, as
        those of the C library, are found without.

    Attributes:
        addresses: where the functions are, by name.
    """

    def __init__(self, code: bytes, entries: Sequence[str], symbols: Mapping[str, int]) -> None:
        self.compiler = llvm.create_lljit_compiler(machine())
        builder = llvm.JITLibraryBuilder().add_object_img(code).add_current_process()
        for name, address in symbols.items():
            builder.import_symbol(name, address)
        for entry in entries:
            builder.export_symbol(entry)
        self.tracker = builder.link(self.compiler, entries[0])
        self.addresses: dict[str, int] = {entry: self.tracker[entry] for entry in entries}
