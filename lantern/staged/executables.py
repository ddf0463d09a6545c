"""From a traced program to something that runs: through the passes and a backend, or from disk.

The key on disk is taken from the traced program, before any pass, so that what is there is found
without running passes or LLVM. This is the one module of lantern that reaches the backends.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lantern.errors import BackendWarning, StagingError
from lantern.staged.options import Options
from lantern.staged.store import Store

if TYPE_CHECKING:
    from staging.ir import Program
    from staging.pipeline import Pass

Array = np.ndarray[Any, Any]
Executable = Callable[[list[Array]], list[Array]]
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
    from staging.pipeline import DEFAULT

    if options.passes is not None:
        return options.passes
    return () if options.backend == "interpreter" else DEFAULT


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


BACKENDS: dict[str, Callable[[Program, str, Options], Executable]] = {
    "interpreter": interpreter,
    "llvm": llvm,
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
    from staging.pipeline import DEFAULT, optimise

    found: dict[str, Program] = {}
    last = optimise(
        program, DEFAULT if options.passes is None else options.passes, found.__setitem__
    )
    return {**found, "optimised": last}


def native_source(program: Program, options: Options, assembly: bool) -> str:
    """The LLVM IR that a program becomes, or the machine code, as text."""
    from backends.llvm import assembly_of, source_of
    from staging.pipeline import DEFAULT, optimise

    passes = DEFAULT if options.passes is None else options.passes
    source = source_of(optimise(program, passes), options.threads)
    return assembly_of(source) if assembly else source


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
