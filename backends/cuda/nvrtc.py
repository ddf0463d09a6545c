"""NVRTC, the compiler of CUDA C++ as a library: machine code of a text, and what kernels take.

It needs neither a GPU nor a driver nor CuPy, only the library itself and the headers of float16 and
bfloat16: those of the packages ``nvidia-cuda-nvrtc`` and ``nvidia-cuda-runtime``, or of a CUDA that
is installed. Machine code is kept by content, where there is a place to keep it.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from backends.cuda import prelude
from backends.cuda.device import DeviceError, Keep
from backends.cuda.limits import Usage

# `-v` makes the assembler say what each kernel takes, in the log of the compilation.
OPTIONS = (*prelude.OPTIONS, "--ptxas-options=-v")
INSTALL = "pip install 'lantern-ad[cuda13]', or 'lantern-ad[cuda12]' for a driver of CUDA 12"
ENTRY = re.compile(r"Compiling entry function '(\w+)' for.*?(?=Compiling entry function|\Z)", re.S)
NUMBERS = {
    "registers": r"Used (\d+) registers",
    "shared": r"(\d+) bytes smem",
    "stores": r"(\d+) bytes spill stores",
    "loads": r"(\d+) bytes spill loads",
    "stack": r"(\d+) bytes stack frame",
}


class Code(NamedTuple):
    """A translation unit that is compiled.

    Attributes:
        cubin: machine code of one architecture.
        usage: of each kernel.
    """

    cubin: bytes
    usage: dict[str, Usage]


class CompilerMissing(ModuleNotFoundError):
    """There is no NVRTC, or its headers are missing."""


class Toolkit(NamedTuple):
    """NVRTC and the headers that belong to it.

    Attributes:
        library: the file.
        headers: the folder of ``cuda_fp16.h``.
    """

    library: Path
    headers: Path


def roots() -> Iterator[tuple[Path, Path]]:
    """Folders where a toolkit may be: of libraries and of headers. Packages of Python first: which
    CuPy takes, too."""
    spec = importlib.util.find_spec("nvidia")
    for package in (spec.submodule_search_locations or ()) if spec else ():
        yield Path(package, "cu13", "lib"), Path(package, "cu13", "include")
        yield Path(package, "cuda_nvrtc", "lib"), Path(package, "cuda_runtime", "include")
    for name in ("CUDA_PATH", "CUDA_HOME"):
        if folder := os.environ.get(name):
            yield Path(folder, "lib64"), Path(folder, "include")
    yield Path("/usr/local/cuda/lib64"), Path("/usr/local/cuda/include")


def find() -> Toolkit:
    """The toolkit of this machine.

    Raises:
        CompilerMissing: there is none; says how to get it.
    """
    for libraries, headers in roots():
        found = sorted(libraries.glob("libnvrtc.so.[0-9]*"))
        if found and (headers / "cuda_fp16.h").exists():
            return Toolkit(found[0], headers)
    raise CompilerMissing(
        f"the compiler NVRTC and its headers cuda_fp16.h and cuda_bf16.h were not found: {INSTALL}",
        name="nvidia",
    )


class Compiler:
    """NVRTC, loaded.

    Args:
        toolkit: where it is.

    Attributes:
        version: such as ``(13, 0)``.
        key: what machine code depends on besides the text and the architecture.
    """

    def __init__(self, toolkit: Toolkit) -> None:
        self.toolkit = toolkit
        for part in toolkit.library.parent.glob("libnvrtc-builtins.so.*"):
            ctypes.CDLL(str(part))  # which the library looks for by its name alone
        self.library = ctypes.CDLL(str(toolkit.library))
        self.library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = major.value, minor.value
        self.key = f"nvrtc {self.version} {OPTIONS}"

    def call(self, name: str, *arguments: object) -> None:
        """Call a function of NVRTC.

        Raises:
            DeviceError: it says that something went wrong.
        """
        if code := self.library[name](*arguments):
            raise DeviceError(f"{name}: {self.library.nvrtcGetErrorString(code).decode()}")

    def text(self, what: str, program: ctypes.c_void_p) -> bytes:
        """What NVRTC has to tell of a program: its ``"ProgramLog"`` or its ``"CUBIN"``."""
        size = ctypes.c_size_t()
        self.call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        found = ctypes.create_string_buffer(size.value)
        self.call(f"nvrtcGet{what}", program, found)
        return found.raw

    def compile(self, source: str, architecture: str) -> Code:
        """Compile a translation unit.

        Args:
            source: the text.
            architecture: such as ``"sm_90"``.

        Raises:
            DeviceError: the text, or the architecture, is not understood; with what NVRTC says.
        """
        options = [f"-arch={architecture}", *OPTIONS, f"-I{self.toolkit.headers}"]
        given = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
        program = ctypes.c_void_p()
        self.call(
            "nvrtcCreateProgram",
            ctypes.byref(program), source.encode(), b"lantern.cu", 0, None, None,
        )  # fmt: skip
        try:
            failed = self.library.nvrtcCompileProgram(program, len(options), given)
            log = self.text("ProgramLog", program).rstrip(b"\0").decode(errors="replace")
            if failed:
                reason = self.library.nvrtcGetErrorString(failed).decode()
                raise DeviceError(f"NVRTC for {architecture}: {reason}\n{log}")
            return Code(self.text("CUBIN", program), usages(log))
        finally:
            self.call("nvrtcDestroyProgram", ctypes.byref(program))


def usages(log: str) -> dict[str, Usage]:
    """What each kernel takes, from what the assembler says.

    Example:
        >>> usages('''ptxas info : Compiling entry function 'add' for 'sm_90'
        ...     0 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
        ... ptxas info : Used 10 registers, used 1 barriers, 256 bytes smem''')
        {'add': Usage(registers=10, shared=256, spills=12, stack=0)}
    """
    found: dict[str, Usage] = {}
    for entry in ENTRY.finditer(log):
        said = {what: re.search(pattern, entry[0]) for what, pattern in NUMBERS.items()}
        n = {what: int(number[1]) if number else 0 for what, number in said.items()}
        found[entry[1]] = Usage(n["registers"], n["shared"], n["stores"] + n["loads"], n["stack"])
    return found


@cache
def compiler() -> Compiler:
    """The compiler of this machine, loaded once.

    Raises:
        CompilerMissing: there is none.
    """
    return Compiler(find())


def compiled(source: str, architecture: str, keep: Keep | None = None) -> Code:
    """The machine code of a translation unit: compiled, or found where it is kept.

    Args:
        source: the text.
        architecture: such as ``"sm_90"``.
        keep: where machine code is kept.

    Raises:
        CompilerMissing: there is no NVRTC.
        DeviceError: the text is not understood.
    """
    key = hashlib.sha256(f"{compiler().key} {architecture}\n{source}".encode()).hexdigest()
    if keep and (data := keep.get(key)):
        return unpack(data)
    made = compiler().compile(source, architecture)
    if keep:
        keep.put(key, pack(made))
    return made


def pack(code: Code) -> bytes:
    """Code as bytes: a line of JSON, and the machine code."""
    return json.dumps(code.usage).encode() + b"\n" + code.cubin


def unpack(data: bytes) -> Code:
    """The inverse of `pack`."""
    head, _, cubin = data.partition(b"\n")
    return Code(cubin, {name: Usage(*numbers) for name, numbers in json.loads(head).items()})
