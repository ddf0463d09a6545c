"""Executables as bytes, and back: what a later process needs to run one, and nothing else.

The layout is the length of a header in 8 bytes, the header in JSON, and the object files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Any

from backends.llvm.executable import Executable
from backends.llvm.module import Module
from staging.ir import Block, Op, Program, Type, Value


def pack(executable: Executable) -> bytes:
    """An executable as bytes. Of its program only the types of parameters and results are kept."""
    program, module = executable.program, executable.module
    header = {
        "name": program.name,
        "params": [*map(described, program.block.params)],
        "results": [*map(described, program.block.results)],
        "donated": program.donated,
        "arena": module.arena,
        "kept": module.kept,
        "threads": module.threads,
        "parallel": module.parallel,
        "lists": module.lists,
        "loops": module.loops,
        "exports": module.exports,
        "alignment": module.alignment,
        "imports": executable.imports,
        "sizes": [*map(len, executable.codes)],
        "fallible": [*map(sketch, module.fallible)],
        "shown": [*map(sketch, module.shown)],
    }
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(executable.codes)


def unpack(data: bytes) -> Executable:
    """The executable that was packed.

    Raises:
        ValueError: the bytes are not those of one.
    """
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])
        params, results = (tuple(map(value, header[k])) for k in ("params", "results"))
        program = Program(header["name"], Block(params, (), results), tuple(header["donated"]))
        module = Module(
            arena=header["arena"],
            kept=tuple(header["kept"]),
            threads=header["threads"],
            parallel=header["parallel"],
            lists=header["lists"],
            loops=header["loops"],
            exports=tuple(header["exports"]),
            alignment=header["alignment"],
            fallible=[*map(operation, header["fallible"])],
            shown=[*map(operation, header["shown"])],
        )
        ends = [*accumulate(header["sizes"], initial=8 + size)]
        codes = [data[start:end] for start, end in pairwise(ends)]
        return Executable(program, module, codes, header["imports"])
    except (KeyError, TypeError, AttributeError, RuntimeError) as problem:
        raise ValueError(f"not an executable: {problem}") from problem


def described(v: Value) -> list[Any]:
    return [v.type.dtype, v.type.shape, v.hint]


def value(kept: list[Any]) -> Value:
    dtype, shape, hint = kept
    return Value(Type(dtype, tuple(shape)), hint)


def sketch(op: Op) -> list[Any]:
    """What messages say of an operation: its name, the types of its inputs, attributes, place."""
    return [op.name, [*map(described, op.inputs)], dict(op.attributes), op.place]


def operation(kept: list[Any]) -> Op:
    name, inputs, attributes, place = kept
    return Op(name, tuple(map(value, inputs)), (), frozen(attributes), (), place)


def frozen(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes with tuples, which JSON turns into lists."""

    def of(x: Any) -> Any:
        return tuple(map(of, x)) if isinstance(x, list) else x

    return {key: of(x) for key, x in attributes.items()}
