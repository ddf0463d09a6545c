"""From CUDA C++ to a shared object with the kernels, and how one of them is called."""

from __future__ import annotations

import ctypes
import functools
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from backends.cuda.device import DeviceError, Grid
from backends.cuda.emulator.build import HERE, build, key
from backends.cuda.emulator.engine import Launch, Operand, engine

OPTIONS = (
    *("-x", "c++", "-std=c++20", "-fPIC", "-shared", "-nostdlib", "-pipe"),
    *("-g1", "-gdwarf-4", "-fno-var-tracking", "-fno-exceptions", "-fno-rtti"),
    *("-fno-threadsafe-statics", "-fno-strict-aliasing", "-fno-math-errno", "-ffp-contract=off"),
    *("-ftrivial-auto-var-init=pattern", "-Werror=uninitialized", "-Wno-maybe-uninitialized"),
    *("-fsanitize=bounds-strict,alignment,integer-divide-by-zero", "-fno-sanitize-recover=all"),
)
PLAIN = ("-Og", "-fwrapv")  # it takes g++ two thirds of the time of -O1
CHECKED = (  # hooks before each access, of vectors as a whole; registers that nobody set are found
    *("-O1", "-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0", "-fno-tree-sra"),
    "-fsanitize=signed-integer-overflow,shift",
)
PARAMETERS = 4096  # more than fit into what the driver of CUDA takes
FIRST = 32  # bytes of a section before what the text declares (``export.h``)

TOKEN = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|[{};]', re.S)
KERNEL = re.compile(
    r'(?:extern\s+"C"\s+)?__global__\s+(?:void\s+)?(?:__launch_bounds__\s*\(([^)]*)\)\s*)?'
    r"(?:void\s+)?(\w+)\s*\("
)
DYNAMIC = re.compile(
    r"extern\s+__shared__\s+((?:__align__\s*\(\s*\d+\s*\)\s+)?)([\w\s]+?)\s*(\w+)\[\]\s*;"
)
INCLUDE = re.compile(r"^[ \t]*#[ \t]*include[ \t]*<(?:cuda_fp16|cuda_bf16)\.h>", re.M)


class Parameter(ctypes.Structure):
    """What a kernel takes at one place (``export.h`` has the same)."""

    _fields_ = (
        ("kind", ctypes.c_char),
        ("bytes", ctypes.c_uint16),
        ("element", ctypes.c_uint16),
        ("alignment", ctypes.c_uint16),
    )


class Section(ctypes.Structure):
    """Memory that is declared as shared."""

    _fields_ = (("begin", ctypes.c_void_p), ("end", ctypes.c_void_p))


class Unit(NamedTuple):
    """A translation unit that is compiled and loaded.

    Attributes:
        source: its text.
        path: where the shared object lies.
        library: that, loaded.
        checked: whether every access is reported to the engine.
    """

    source: str
    path: Path
    library: ctypes.CDLL
    checked: bool = False


class Kernel:
    """A kernel that can be launched.

    Attributes:
        name: of the function.
        unit: which has it.
        bound: the threads of a block that ``__launch_bounds__`` promises, or 0.
        parameters: what it takes.
        static: bytes of shared memory that are declared.
        anywhere: whether it may find pointers elsewhere than in its arguments.
    """

    def __init__(self, name: str, unit: Unit, bound: int) -> None:
        self.name, self.unit, self.bound = name, unit, bound
        symbols = unit.library
        self.entry = ctypes.cast(symbols[f"emulator_call_{name}"], ctypes.c_void_p).value
        parameters = (Parameter * PARAMETERS)()
        count: int = symbols[f"emulator_signature_{name}"](parameters)
        self.parameters = list(parameters[:count])
        self.anywhere = any(p.kind in b"st" for p in self.parameters)
        self.sections = (Section * 2)()
        symbols[f"emulator_sections_{name}"](self.sections)
        self.static = sum(max(0, s.end - s.begin - FIRST) for s in self.sections)

    def run(
        self,
        library: ctypes.PyDLL,
        grid: Grid,
        block: Grid,
        shared: int,
        arguments: Sequence[np.generic],
        operands: Sequence[Operand],
        seed: int,
        milliseconds: int,
    ) -> None:
        """Run it now.

        Raises:
            DeviceError: it does what a kernel must not; says where.
        """
        kept = [np.atleast_1d(argument) for argument in arguments]
        places = np.array([array.ctypes.data for array in kept], np.uint64)
        given = (Operand * len(operands))(*operands)
        launch = Launch(
            entry=self.entry,
            arguments=places.ctypes.data,
            grid=grid,
            block=block,
            sections=ctypes.addressof(self.sections),
            operands=ctypes.addressof(given),
            section_count=len(self.sections),
            operand_count=len(operands),
            dynamic=shared,
            milliseconds=milliseconds,
            checked=self.unit.checked,
            anywhere=self.anywhere,
            seed=seed,
        )
        message = library.emulator_launch(ctypes.byref(launch))
        if message is not None:
            raise DeviceError(f"kernel {self.name}: {located(message.decode(), self.unit)}")


def compile_unit(
    source: str, names: Sequence[str], folder: Path, checked: bool
) -> dict[str, Kernel]:
    """The kernels of these names; ``checked``: with hooks by which the engine sees each access.

    Raises:
        DeviceError: g++ refuses the text.
    """
    text = translated(source, names)
    options = (*OPTIONS, *(CHECKED if checked else PLAIN))
    path = folder / f"{key(text, *options)}.so"
    build(
        path,
        [*options, f"-I{HERE / 'include'}", "-", "-x", "none", str(engine(folder).path), "-lgcc"],
        text,
    )
    unit = Unit(source, path, ctypes.CDLL(str(path)), checked)
    bounds = {match[2]: match[1] for match in KERNEL.finditer(source)}
    return {name: Kernel(name, unit, _bound(bounds.get(name))) for name in names}


def _bound(text: str | None) -> int:
    first = (text or "").split(",")[0].strip()
    return int(first) if first.isdigit() else 0


def translated(source: str, names: Sequence[str]) -> str:
    """The text that g++ is given: the same lines with the same numbers, in a namespace without a
    name; the shared memory of each kernel in a section of its own; dynamic shared memory, which C++
    cannot declare, as a pointer.

    Example:
        >>> print(DYNAMIC.sub(_dynamic, "extern __shared__ float tile[];"))
        float* const tile = (float*)emulator_dynamic();
    """
    body = INCLUDE.sub("", source)
    pieces, end = list[str](), 0
    for match in KERNEL.finditer(body):
        last = _closing(body, match.end())
        pieces += [body[end : match.start()], _section(match[2], body, match.start())]
        pieces += [body[match.start() : last], _section("emulator_common", body, last)]
        end = last
    pieces.append(body[end:])
    includes = "".join(f'#include "cuda_{kind}.h"\n' for kind in ("fp16", "bf16") if kind in source)
    exports = "\n".join(f"EMULATOR_EXPORT({name})" for name in names)
    return (
        f'#include "cuda.h"\n{includes}namespace {{\n#line 1 "kernel.cu"\n'
        f'{DYNAMIC.sub(_dynamic, "".join(pieces))}\n}}\n#include "export.h"\n{exports}\n'
    )


def _dynamic(match: re.Match[str]) -> str:
    kind = match[2].strip()
    return f"{kind}* const {match[3]} = ({kind}*)emulator_dynamic();"


def _section(name: str, text: str, place: int) -> str:
    """Directives by which what is declared shared from a place on lies in a section."""
    line = text.count("\n", 0, place) + 1
    return (
        "\n#undef __shared__\n#define __shared__ static "
        f'__attribute__((section("shared_{name}")))\n#line {line} "kernel.cu"\n'
    )


def _closing(text: str, place: int) -> int:
    """Where the braces that open after a place are closed, or a declaration ends."""
    depth = 0
    for match in TOKEN.finditer(text, place):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if match[0] in ("}", ";") and depth == 0:
            return match.end()
    return len(text)


@functools.lru_cache(256)
def _line(path: Path, offset: int) -> int:
    """The line that an offset in a shared object comes from, behind which the processor was; 0 if
    that is not known."""
    command = ["addr2line", "-i", "-e", str(path), hex(offset - 1)]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    match = re.search(r"kernel\.cu:(\d+)", found)  # the innermost function in the text
    return int(match[1]) if match else 0


def located(message: str, unit: Unit) -> str:
    """A message of the engine, with the lines of the source that it speaks of.

    Example:
        >>> located("divided; <line 2>", Unit("int x;\\nx / 0;", Path(), ctypes.CDLL(None)))
        'divided; line 2: x / 0;'
    """
    lines = unit.source.splitlines()

    def told(match: re.Match[str]) -> str:
        number = int(match[2]) if match[1] == "line" else _line(unit.path, int(match[2], 16))
        if not 0 < number <= len(lines):
            return "a line that is not known"
        return f"line {number}: {lines[number - 1].strip()}"

    return re.sub(r"<(line|pc) ([0-9a-f]+)>", told, message)
