"""The CPU that is compiled for, optimisation, and loading of object code."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import llvmlite.binding as llvm

# CPUs that can be compiled for besides the one that this process runs on: their widest vectors.
WIDTHS = {"x86-64": 128, "x86-64-v2": 128, "x86-64-v3": 256, "x86-64-v4": 512, "generic": 128}
_cpu: ContextVar[str | None] = ContextVar("cpu", default=None)


@contextmanager
def compiling_for(cpu: str | None) -> Iterator[None]:
    """A context in which code is written for a CPU of `WIDTHS`; None for the one of this process.

    Raises:
        ValueError: there is no such one.
    """
    if cpu is not None and cpu not in WIDTHS:
        raise ValueError(f"cpu {cpu!r} is not one of {', '.join(WIDTHS)}")
    token = _cpu.set(cpu)
    try:
        yield
    finally:
        _cpu.reset(token)


def machine() -> llvm.TargetMachine:
    """The target machine of the CPU that is compiled for."""
    return _machine(_cpu.get())


def made_machine(brief: bool = False) -> llvm.TargetMachine:
    """A target machine for one thread, which shares nothing with others.

    Args:
        brief: whether code shall be made quickly, and not be fast.
    """
    return _made(_cpu.get(), 0 if brief else 3)


@cache
def _machine(cpu: str | None) -> llvm.TargetMachine:
    return _made(cpu, 3)


def _made(cpu: str | None, level: int) -> llvm.TargetMachine:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=cpu or llvm.get_host_cpu_name(),
        features="" if cpu else llvm.get_host_cpu_features().flatten(),
        opt=level,
        reloc="pic",
        codemodel="small",
    )


@cache
def features() -> str:
    """The name of this CPU and what it can do."""
    return f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"


def vector_bits() -> int:
    """The widest vectors of the CPU that is compiled for."""
    cpu = _cpu.get()
    return WIDTHS[cpu] if cpu else _host_bits()


def has_half() -> bool:
    """Whether the CPU that is compiled for converts float16; not every x86-64 does."""
    cpu = _cpu.get()
    if cpu:
        return cpu in ("x86-64-v3", "x86-64-v4")
    return platform.machine() not in ("x86_64", "AMD64") or bool(
        llvm.get_host_cpu_features().get("f16c")
    )


@cache  # so that the warning is given once
def _host_bits() -> int:
    features = llvm.get_host_cpu_features()
    if features.get("avx512f") and features.get("avx512vl"):
        return 512
    if features.get("avx2"):
        return 256
    if platform.machine() in ("x86_64", "AMD64"):
        warnings.warn(
            f"this CPU ({llvm.get_host_cpu_name()}) has no AVX2; native programs use vectors of "
            "128 bits, and are slower",
            RuntimeWarning,
            stacklevel=2,
        )
    return 128


def parsed(
    source: str,
    target: llvm.TargetMachine | None = None,
    context: llvm.context.ContextRef | None = None,
) -> llvm.ModuleRef:
    """Parse LLVM IR, and check it."""
    target = target or machine()
    module = llvm.parse_assembly(source, context)
    module.triple = target.triple
    module.data_layout = str(target.target_data)
    module.verify()
    return module


def optimised(source: str) -> llvm.ModuleRef:
    """Parse LLVM IR, check it, and run LLVM's passes on it."""
    module, builder = parsed(source), pass_builder(machine())
    builder.getModulePassManager().run(module, builder)
    return module


def pass_builder(target: llvm.TargetMachine) -> llvm.PassBuilder:
    """What knows LLVM's passes, and their order for code that shall be fast."""
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = True
    # Vectors come from loops here. Unrolling what is vectorised and interleaved doubles the time of
    # compiling, and was measured to gain nothing.
    options.slp_vectorization = options.loop_unrolling = False
    return llvm.create_pass_builder(target, options)


class Library:
    """Object code loaded into this process; unloaded when it is collected.

    Args:
        codes: the bytes of object files, which are linked with each other.
        entries: the names of the functions to find.
        symbols: the addresses of functions that the code calls, by name; the process's own, as
        those of the C library, are found without.

    Attributes:
        addresses: where the functions are, by name.
    """

    def __init__(
        self, codes: Sequence[bytes], entries: Sequence[str], symbols: Mapping[str, int]
    ) -> None:
        # JITLink lays the sections of an object side by side. RuntimeDyld takes memory for each by
        # itself, and where they come to lie more than 2 GiB apart, as beside a large reservation
        # of the address space, what the small code model can reach is exceeded: it aborts.
        self.compiler = llvm.create_lljit_compiler(machine(), use_jit_link=True)
        builder = llvm.JITLibraryBuilder().add_current_process()
        for code in codes:
            builder.add_object_img(code)
        for name, address in symbols.items():
            builder.import_symbol(name, address)
        for entry in entries:
            builder.export_symbol(entry)
        self.tracker = builder.link(self.compiler, entries[0])
        self.addresses: dict[str, int] = {entry: self.tracker[entry] for entry in entries}
