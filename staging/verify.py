"""The verifier: what every program must satisfy, checked after every pass under test."""

from __future__ import annotations

from staging.ir import Block, IRError, Program, Value
from staging.ops import result_types


def verify(program: Program) -> Program:
    """Return the program, shown to be well formed.

    Every value is defined once, before it is read, in the block that reads it; every operation is
    in the table and types as the table says.

    Raises:
        IRError: it is not; the message names the operation and the user's line.

    Example:
        >>> from staging.text import parse_program
        >>> program = parse_program("program @same(%x: float32[2]) { return (%x) }")
        >>> verify(program) is program
        True
    """
    _verify_block(program.block, set(), set(), "")
    positions = range(len(program.block.params))
    if list(program.donated) != [i for i in positions if i in program.donated]:
        raise IRError(f"the donated parameters {program.donated} are not positions in order")
    return program


def _verify_block(block: Block, everywhere: set[Value], verified: set[Block], holder: str) -> None:
    if block in verified:  # shared by several operations
        return
    verified.add(block)
    known: set[Value] = set()

    def define(values: tuple[Value, ...], what: str) -> None:
        for value in values:
            if value in everywhere:
                raise IRError(f"{what}: {value} is defined twice")
            known.add(value)
            everywhere.add(value)

    define(block.params, "parameters")
    for op in block.ops:
        what = f"{op.name} at {op.place or 'an unknown line'}"
        for value in op.inputs:
            if value not in known:
                raise IRError(f"{what} reads {value}, which this block has not defined before")
        if op.name == "recur" and holder != "recurse":
            raise IRError(f"{what} stands outside of a recurse")
        for nested in op.blocks:
            _verify_block(nested, everywhere, verified, op.name)
        types = result_types(op.name, tuple(v.type for v in op.inputs), op.attributes, op.blocks)
        if types != tuple(v.type for v in op.results):
            raise IRError(f"{what} gives {types}, its results are {op.results}")
        define(op.results, what)
    for value in block.results:
        if value not in known:
            raise IRError(f"the block returns {value}, which it has not defined")
