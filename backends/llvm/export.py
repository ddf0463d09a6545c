"""A program as a library for programs in C: object code, a header, and a linker's call.

The library is serial, allocates what it works in at each call, and holds the arrays that the
program closed over as constants. It needs the C library and its mathematics (libm), and no BLAS:
every matrix product is an own kernel.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from backends.llvm.code import Code
from backends.llvm.program import Entry
from backends.llvm.target import compiling_for, machine, optimised
from backends.llvm.threads import ERROR
from staging.ir import Op, Program, Type
from staging.memory import ALIGNMENT

C_TYPES = {"bool": "uint8_t", "float16": "uint16_t", "bfloat16": "uint16_t"} | {
    "float32": "float",
    "float64": "double",
}
KEYWORDS = frozenset((
    "auto", "break", "case", "char", "const", "continue", "default", "do", "double", "else",
    "enum", "extern", "float", "for", "goto", "if", "inline", "int", "long", "register",
    "restrict", "return", "short", "signed", "sizeof", "static", "struct", "switch", "typedef",
    "union", "unsigned", "void", "volatile", "while", "bool", "class", "delete", "new",
    "operator", "private", "public", "this", "template", "try", "catch", "throw", "using",
    "namespace",
))  # fmt: skip
LACKING = {
    "linalg": "decompositions need LAPACK, which the library does without",
    "print": "it shows values by Python",
}
NO_MEMORY = -1
# What fails for lack of memory; a `recurse` also for a call inside of itself.
SAVING = ("while", "scan", "recurse", "pack", "merge", "unpack")


class ExportError(Exception):
    """A program that cannot become a library, or no linker for one."""


@dataclass(frozen=True)
class Exported:
    """Object code and the header for it."""

    code: bytes
    header: str


class Standalone(Entry):
    """An entry that calls nothing but the C library."""

    libraries = False

    def run_op(self, op: Op) -> None:
        if op.name in LACKING:
            raise ExportError(f"{op.name} cannot be exported: {LACKING[op.name]}\n  at {op.place}")
        super().run_op(op)

    def written(self) -> str:
        return super().written().replace("define i32 @run(", "define internal i32 @run(", 1)


def export(
    program: Program,
    name: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    constants: Sequence[np.ndarray[Any, Any]] = (),
    cpu: str | None = None,
) -> Exported:
    """Compile a program for C.

    Args:
        program: an optimised program.
        name: of the function.
        inputs: what the parameters are called where the program was written, ``params['w']``, but
            for the last ones:
        constants: the values of the last parameters.
        outputs: what the results are called.
        cpu: one of `backends.llvm.target.WIDTHS`; None for this one.

    Raises:
        ExportError: the program has an operation that needs more than the C library.
    """
    program = Program(program.name, program.block)  # nothing is donated: C code keeps its arrays
    with compiling_for(cpu):
        module = Standalone(1).finished(program)
        names = identifiers([*inputs, *outputs])
        count = len(inputs)
        text = [module.source, wrapper(name, count, len(outputs), constants, module.arena)]
        text.append(messages(name, module.fallible))
        code = machine().emit_object(optimised("\n".join(text)))
        target = f"{cpu or llvm.get_host_cpu_name()}, {machine().triple}"
    params, results = program.block.params[:count], program.block.results
    types = [v.type for v in (*params, *results)]
    fields = list(zip(names, types, [*inputs, *outputs], strict=True))
    return Exported(code, header(name, fields, count, module.arena, target, constants))


def identifiers(paths: Sequence[str]) -> list[str]:
    """Paths as names for C, all different.

    Example:
        >>> identifiers(["params['w'][0]", "x", "x", "int"])
        ['params_w_0', 'x', 'x_2', 'int_']
    """
    found: list[str] = []
    for path in paths:
        base = re.sub(r"\W+", "_", path).strip("_") or "x"
        base = f"{base}_" if base in KEYWORDS else f"x{base}" if base[0].isdigit() else base
        number, name = 2, base
        while name in found:
            name, number = f"{base}_{number}", number + 1
        found.append(name)
    return found


# LLVM IR ------------------------------------------------------------------------------------------


def wrapper(
    name: str, inputs: int, outputs: int, constants: Sequence[np.ndarray[Any, Any]], arena: int
) -> str:
    """The function that C calls: it takes the arrays one by one, and the memory to work in."""
    lines = [
        f'@constant{i} = internal constant [{a.nbytes} x i8] c"{escaped(a.tobytes())}", align 64'
        for i, a in enumerate(constants)
    ]
    code = Code()
    arrays = code.slot(f"[{max(1, inputs + len(constants))} x ptr]")
    results = code.slot(f"[{max(1, outputs)} x ptr]")
    error = code.slot(f"[{ERROR} x i64]")
    given = [*(f"%a{i}" for i in range(inputs)), *(f"@constant{i}" for i in range(len(constants)))]
    for array, pointers in ((arrays, given), (results, [f"%r{i}" for i in range(outputs)])):
        for i, pointer in enumerate(pointers):
            at = code.let(f"getelementptr ptr, ptr {array}, i64 {i}")
            code.do(f"store ptr {pointer}, ptr {at}")
    size = -(-max(arena, 1) // ALIGNMENT) * ALIGNMENT
    space = code.let(f"call ptr @aligned_alloc(i64 {ALIGNMENT}, i64 {size})")
    with code.when(code.let(f"icmp eq ptr {space}, null")):
        code.do(f"ret i32 {NO_MEMORY}")
        code.label(code.fresh("unreached"))
    words = (arrays, results, space, error, "null", "null", "@never")
    failed = code.let(f"call i32 @run({', '.join(f'ptr {word}' for word in words)})")
    code.do(f"call void @free(ptr {space})")
    code.do(f"ret i32 {failed}")
    params = [*(f"ptr %a{i}" for i in range(inputs)), *(f"ptr %r{i}" for i in range(outputs))]
    lines.append("@never = internal constant i32 0")  # nothing interrupts it
    lines += ["declare ptr @aligned_alloc(i64, i64)", "declare void @free(ptr)"]
    lines.append(f"define i32 @{name}({', '.join(params)}) {{\n{code.body()}\n}}")
    return "\n".join(lines)


def messages(name: str, fallible: Sequence[Op]) -> str:
    """The function that explains what the other one returned."""
    texts = {0: "done", NO_MEMORY: f"{name}: out of memory"}
    for number, op in enumerate(fallible, 1):
        reason = "no memory is left" if op.name in SAVING else "an index is out of range"
        reason += ", or its limit is passed" if "limit" in op.attributes else ""
        reason += ", or a call never ends" if op.name == "recurse" else ""
        what = str(op.attributes.get("message") or f"{op.name}: {reason}")
        texts[number] = f"{what}, at {op.place}"
    texts[len(fallible) + 1] = f"{name}: no such error"
    lines: list[str] = []
    cases: list[str] = []
    blocks: list[str] = []
    for i, (code, text) in enumerate(texts.items()):
        data = text.encode() + b"\0"
        lines.append(f'@message{i} = internal constant [{len(data)} x i8] c"{escaped(data)}"')
        cases.append(f"i32 {code}, label %m{i}")
        blocks.append(f"m{i}:\n  ret ptr @message{i}")
    last = len(texts) - 1
    lines.append(f"define ptr @{name}_message(i32 %code) {{\n  switch i32 %code, label %m{last} [")
    return "\n".join([*lines, *cases[:-1], "]", *blocks, "}"])


def escaped(data: bytes) -> str:
    """Bytes as LLVM writes them in a text."""
    return "\\" + data.hex("\\").upper() if data else ""


# C ------------------------------------------------------------------------------------------------


def c_type(type: Type) -> str:
    """The type of an element in C."""
    return C_TYPES.get(type.dtype) or f"{type.dtype}_t"


def header(
    name: str,
    fields: Sequence[tuple[str, Type, str]],
    inputs: int,
    arena: int,
    target: str,
    constants: Sequence[np.ndarray[Any, Any]],
) -> str:
    """The declarations for C and C++."""
    guard = f"{name.upper()}_H"
    width = max((len(n) for n, _, _ in fields), default=0)
    kinds = max((len(str(t)) for _, t, _ in fields), default=0)
    rows = [f"     {n:{width}}  {t!s:{kinds}}  {path}" for n, t, path in fields]
    held = sum(a.nbytes for a in constants)
    params = [f"const {c_type(t)} *{n}" for n, t, _ in fields[:inputs]]
    params += [f"{c_type(t)} *{n}" for n, t, _ in fields[inputs:]]
    listed = (",\n" + " " * (len(name) + 5)).join(params) or "void"
    return f"""/* {name}, compiled by lantern for {target}.

   It runs in the calling thread, and may be called from several threads at once. A call allocates
   {arena} bytes and frees them; {held} bytes of constant arrays are part of the code. It takes
   the C library and its mathematics (-lm), and nothing else. */
#ifndef {guard}
#define {guard}

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

/* Arrays lie row by row, without gaps, and inputs may be the same array; outputs may share memory
   with nothing. bool is 0 or 1; float16 and bfloat16 are their bits.

   Inputs:
{chr(10).join(rows[:inputs]) or "     none"}
   Outputs:
{chr(10).join(rows[inputs:]) or "     none"}

   Returns 0, or else a number that {name}_message explains; then outputs hold anything. */
int {name}({listed});

/* What a number that {name} returned means; the text is a constant. */
const char *{name}_message(int code);

#ifdef __cplusplus
}}
#endif

#endif
"""


def link(code: Path, library: Path) -> None:
    """Make a shared library of an object file.

    Raises:
        ExportError: there is no linker, or it fails; with what it says.
    """
    for tool in ("cc", "gcc", "clang", "ld", "ld.lld"):
        if path := shutil.which(tool):
            break
    else:
        raise ExportError(
            f"{library.name} takes a linker, and there is none of cc, gcc, clang, ld; an object "
            f"file takes none: export to {library.with_suffix('.o').name}"
        )
    mathematics = [] if tool.startswith("ld") else ["-lm"]
    command = [path, "-shared", "-o", str(library), str(code), *mathematics]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ExportError(f"{' '.join(command)} failed:\n{done.stderr}")
