"""From a traced program to something that runs: through the passes and a backend, or from disk.

The key on disk is taken from the traced program, before any pass, so that what is there is found
without running passes or LLVM. This is the one module of lantern that reaches the backends.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lantern.errors import ArgumentError, BackendWarning, StagingError
from lantern.staged.options import Options
from lantern.staged.store import Store, default_folder

if TYPE_CHECKING:
    from staging.cost import Cost
    from staging.ir import Op, Program
    from staging.machine import Machine
    from staging.pipeline import Pass

Array = np.ndarray[Any, Any]
Executable = Callable[[list[Any]], list[Any]]
NEEDED = {"llvmlite": "llvmlite", "cffi": "cffi", "scipy_openblas32": "scipy-openblas32"}


@functools.cache
def default_backend() -> str:
    """``"llvm"``; without the packages that it needs ``"interpreter"``, with a warning."""
    missing = [name for module, name in NEEDED.items() if not importlib.util.find_spec(module)]
    if not missing:
        return "llvm"
    warnings.warn(
        f"compiled functions are interpreted by NumPy, which is slow: for native code, pip install "
        f"{' '.join(missing)}. ln.compile(backend='interpreter') says that this is meant",
        BackendWarning,
        stacklevel=2,
    )
    return "interpreter"


def passes_of(options: Options) -> tuple[Pass, ...]:
    """The passes that a program goes through: the interpreter by itself needs none."""
    unasked = options.backend == "interpreter" and options.passes is None
    return () if unasked else native_passes(options)


def native_passes(options: Options) -> tuple[Pass, ...]:
    """The passes on the way to native code; those for a GPU keep what it has whole kernels for."""
    if options.passes is not None:
        return options.passes
    if options.backend in DEVICES:
        from backends.cuda.passes import PASSES

        return PASSES
    from staging.pipeline import DEFAULT

    return DEFAULT


def interpreter(program: Program, text: str, options: Options) -> Executable:
    """The backend that runs the reference interpreter."""
    from staging.interpret import interpret
    from staging.pipeline import optimise

    ready = optimise(program, passes_of(options))
    return lambda arrays: interpret(ready, arrays)


def llvm(program: Program, text: str, options: Options) -> Executable:
    """The backend of native code for this CPU."""
    from backends.llvm import compile_program, pack, unpack
    from staging.pipeline import optimise

    key = content_key(text, options) if options.cache else None
    store = Store(options.cache) if options.cache else None
    if store and key and (data := store.get(key)):
        try:
            return unpack(data)
        except ValueError:
            store.discard(key)
    made = compile_program(optimise(program, passes_of(options)), options.threads)
    if store and key:
        store.put(key, pack(made))
    return made


@functools.cache
def gpu() -> Any:
    """The GPU; one, so that arrays of one function's are known to the others.

    Raises:
        StagingError: there is none, or what it takes to use one is not installed.
    """
    from backends.cuda.runtime import CupyDevice, DeviceMissing

    try:
        return CupyDevice()
    except DeviceMissing as missing:
        raise StagingError(str(missing)) from None


@functools.cache
def emulated(folder: str | None) -> Any:
    """What plays a GPU on the CPU."""
    from backends.cuda.emulator import EmulatedDevice

    return EmulatedDevice(folder=str(Path(folder, "emulated")) if folder else None)


DEVICES: dict[str, Callable[[str | None], Any]] = {
    "cuda": lambda folder: gpu(),
    "cuda-emulated": emulated,
}


def device(backend: str) -> Any:
    """The device of a backend.

    Raises:
        StagingError: there is none, or this backend has none.
    """
    if backend not in DEVICES:
        raise StagingError(f"backend {backend!r} has no device; {', '.join(DEVICES)} have one")
    return DEVICES[backend](default_folder())


def placed(x: Any, backend: str) -> Any:
    """An array on the device of a backend."""
    from backends.cuda import DeviceArray

    return x if type(x) is DeviceArray and x.device is device(backend) else copied(x, backend)


def copied(x: Any, backend: str) -> Any:
    """A copy of an array of NumPy on the device of a backend."""
    from backends.cuda import DeviceArray
    from backends.cuda.memory import whole

    host, there = np.asarray(x, order="C"), device(backend)
    span = whole(there.empty(host.nbytes, "arrays that were put on the GPU"))
    there.to_device(span, host)
    return DeviceArray(there, span, host.shape, host.dtype)


def adopted(x: Any, backend: str) -> Any:
    """Another library's array on the device of a backend."""
    from backends.cuda import DeviceArray
    from staging.interpret import numpy_dtype

    there = device(backend)
    span, shape, dtype = there.adopt(x)
    return DeviceArray(there, span, shape, numpy_dtype(dtype))


def on_device(program: Program, text: str, options: Options) -> Executable:
    """The backend of kernels in CUDA C++. Its results stay on the device."""
    from backends.cuda import compile_program
    from staging.pipeline import optimise

    there = DEVICES[options.backend](options.cache)
    store = Store(options.cache) if options.cache else None
    ready = optimise(program, passes_of(options))
    return compile_program(ready, there, careful=options.careful, keep=store)


BACKENDS: dict[str, Callable[[Program, str, Options], Executable]] = {
    "interpreter": interpreter,
    "llvm": llvm,
    "cuda": on_device,
    "cuda-emulated": on_device,
}


def executable(program: Program, text: str, options: Options) -> Executable:
    """What runs a program, whose text is also given.

    Raises:
        StagingError: a package is missing, or the backend does not know an operation; the message
            names it and the user's line.
    """
    try:
        return BACKENDS[options.backend](program, text, options)
    except ModuleNotFoundError as missing:
        name = NEEDED.get(missing.name or "", missing.name)
        raise StagingError(
            f"backend {options.backend!r} needs the package {name}: pip install {name}"
        ) from None
    except NotImplementedError as problem:
        raise StagingError(
            f"{problem}\nln.compile(backend='interpreter') runs it; or compute that part outside "
            "of the compiled function"
        ) from None


def stages(program: Program, options: Options) -> dict[str, Program]:
    """The program after each pass, and as ``optimised`` after all of them."""
    from staging.pipeline import optimise

    found: dict[str, Program] = {}
    last = optimise(program, native_passes(options), found.__setitem__)
    return {**found, "optimised": last}


def optimised(program: Program, options: Options) -> Program:
    """The program that native code is made of."""
    from staging.pipeline import optimise

    return optimise(program, native_passes(options))


def native_source(program: Program, options: Options, assembly: bool) -> str:
    """The LLVM IR, or CUDA C++, that a program becomes, or the machine code, as text."""
    if options.backend in DEVICES:
        return device_source(optimised(program, options), assembly)
    from backends.llvm import assembly_of, source_of

    source = source_of(optimised(program, options), options.threads)
    return assembly_of(source) if assembly else source


def device_source(program: Program, assembly: bool) -> str:
    """The CUDA C++ that an optimised program becomes; its machine code is not shown."""
    from backends.cuda import source_of

    if assembly:
        raise StagingError(
            "asm() shows the machine code of backend 'llvm'; source() shows the CUDA C++ of this "
            "function's kernels, which NVRTC compiles"
        )
    return source_of(program)


@contextmanager
def native() -> Iterator[None]:
    """A context for what takes the packages of native code.

    Raises:
        StagingError: one is missing.
    """
    try:
        yield
    except ModuleNotFoundError as missing:
        name = NEEDED.get(missing.name or "", missing.name)
        raise StagingError(f"this needs the package {name}: pip install {name}") from None


def roofline(options: Options) -> Machine:
    """The roofline of this machine: from disk, or measured; of a GPU, from its data sheet."""
    if options.backend in DEVICES:
        return sheet(DEVICES[options.backend](options.cache).limits.architecture)
    with native():
        from backends.llvm import host
        from backends.llvm.pool import cores
        from backends.llvm.probe import measure
    from staging.machine import Machine

    threads = options.threads or len(cores())
    key = hashlib.sha256(f"roofline 2 {host(threads)}".encode()).hexdigest()
    store = Store(options.cache) if options.cache else None
    if store and (data := store.get(key)):
        flops, *levels = np.frombuffer(data, np.float64).tolist()
        pairs = zip(levels[::2], levels[1::2], strict=True)
        return Machine(flops, tuple(pairs), threads)
    found = measure(threads)
    if store:
        numbers = [found.flops, *(x for level in found.bandwidth for x in level)]
        store.put(key, np.asarray(numbers, np.float64).tobytes())
    return found


def sheet(architecture: str) -> Machine:
    """The GPU of an architecture whose data sheet is known."""
    from staging.machine import ACCELERATORS

    known = {one.architecture: one for one in ACCELERATORS.values()}
    return known.get(architecture, ACCELERATORS["h100"])


def predicted(program: Program, options: Options, device: str) -> Cost:
    """What a traced program costs on a GPU.

    Raises:
        ArgumentError: its name is not known.
    """
    from backends.cuda.module import written
    from backends.cuda.nvrtc import CompilerMissing, compiled
    from backends.cuda.predict import Usages, predict
    from staging.machine import ACCELERATORS

    if device not in ACCELERATORS:
        raise ArgumentError(f"cost(device={device!r}): not one of {', '.join(ACCELERATORS)}")
    machine = ACCELERATORS[device]
    ready = optimised(program, replace(options, backend="cuda"))
    module = written(ready)
    usages: Usages = {}
    store = Store(options.cache) if options.cache else None
    with suppress(CompilerMissing):  # the table says so
        usages = compiled(module.source, machine.architecture, store).usage
    return predict(ready, module, machine, usages)


def timings(
    program: Program, arrays: list[Array], options: Options
) -> tuple[list[tuple[Op, int, float]], float, int]:
    """How often each kernel of an optimised program runs and how long that takes; how long a call
    takes; and the most bytes that lists and nodes take at a time."""
    if options.backend in DEVICES:
        from backends.cuda import profile

        return profile.measure(program, arrays, DEVICES[options.backend](options.cache))
    with native():
        from backends.llvm.profile import measure
    found, seconds, frames = measure(program, arrays, options.threads)
    return [(one.op, one.times, one.seconds) for one in found], seconds, frames


def c_library(
    program: Program,
    path: Path,
    inputs: list[str],
    outputs: list[str],
    constants: list[Array],
    cpu: str | None,
) -> tuple[Path, Path]:
    """Write an optimised program as a library for C and a header beside it; see `Compiled.export`.

    Raises:
        StagingError: that cannot be.
    """
    with native():
        from backends.llvm.export import ExportError, export, identifiers, link
    (name,) = identifiers([path.stem.removeprefix("lib")])
    header = path.with_name(f"{name}.h")
    try:
        made = export(program, name, inputs, outputs, constants, cpu)
        if path.suffix == ".o":
            path.write_bytes(made.code)
        else:
            with tempfile.TemporaryDirectory() as folder:
                code = Path(folder, f"{name}.o")
                code.write_bytes(made.code)
                link(code, path)
    except (ExportError, NotImplementedError, ValueError) as problem:
        raise StagingError(f"export({str(path)!r}): {problem}") from None
    header.write_text(made.header, encoding="utf-8")
    return path, header


def content_key(text: str, options: Options) -> str | None:
    """What native code depends on, as a file's name, from the text of the program; None if a pass
    of the caller's is in it."""
    from backends.llvm import host
    from staging import pipeline

    passes = passes_of(options)
    if any(one not in pipeline.DEFAULT for one in passes):
        return None
    names = ", ".join(one.name for one in passes)
    parts = [text, names, host(options.threads), sources()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@functools.cache
def sources() -> str:
    """A digest of the passes and the backend themselves."""
    import backends
    import staging

    digest = hashlib.sha256()
    for package in (staging, backends):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()
