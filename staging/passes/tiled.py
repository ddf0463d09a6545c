"""Tiled operations: a `call` that a backend may do by one kernel of its own, as a plain block.

The kinds of `staging.ops.TILED` name what their blocks compute: attention, its adjoint. A backend
with a kernel for one looks at the name, the operands and the attributes; any other opens it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from staging.ir import Attributes, Block, Op, Program, Value, walk
from staging.ops import TILED
from staging.passes.rewrite import Nested, Rebuilt, each_block, rewrite


def open_tiled(program: Program) -> Program:
    """The program with the block of each tiled operation in its place.

    Example:
        >>> from staging.text import parse_program
        >>> print(open_tiled(parse_program('''program @p(%x: float32[2]) {
        ...   %y = call(%x) {kind='attention', causal=false, segmented=false}
        ...   block(%a: float32[2]) {
        ...     %b = exp(%a): float32[2]
        ...     return (%b)
        ...   }: float32[2]
        ...   return (%y)
        ... }''')), end="")
        program @p(%x: float32[2]) {
          %1 = exp(%x): float32[2]
          return (%1)
        }
    """
    tiled = any(op.attributes.get("kind") in TILED for op in walk(program.block))
    return rewrite(program, _opened) if tiled else program


# The inputs and results of which the axes but the last may be in any order in memory.
MOVABLE = {"attention": ((0, 1, 2), (0,)), "attention_adjoint": ((0, 1, 2, 4), (0, 1, 2))}


def turn_tiled(program: Program) -> Program:
    """The program with the transposes before and behind a tiled operation in its block, where they
    leave the last axis alone: a kernel reads and writes rows wherever they are.

    The operation then says of each input from which of the axes in memory its axes come
    (``turned``), and of each result to which of its axes those in memory belong (``made``).

    Example:
        >>> from staging.text import parse_program
        >>> found = turn_tiled(parse_program('''
        ... program @p(%q: float32[4, 2], %k: float32[4, 2], %x: float32[2, 4, 2]) {
        ...   %v = transpose(%x) {axes=(1, 0, 2)}: float32[4, 2, 2]
        ...   %y = call(%q, %k, %v) {kind='attention', causal=false, segmented=false}
        ...   block(%a: float32[4, 2], %b: float32[4, 2], %c: float32[4, 2, 2]) {
        ...     return (%a)
        ...   }: float32[4, 2]
        ...   return (%y)
        ... }'''))
        >>> found.block.ops[1].attributes["turned"]
        ((), (), (1, 0, 2))
    """
    tiled = any(op.attributes.get("kind") in TILED for op in walk(program.block))
    return program.with_block(each_block(program.block, _turned)) if tiled else program


def _turned(block: Block, nested: Nested) -> Block:
    makers = {v: op for op in block.ops for v in op.results}
    readers: dict[Value, list[Op]] = {}
    for op in block.ops:
        for value in op.inputs:
            readers.setdefault(value, []).append(op)
    ops: list[Op] = []
    taken: set[Op] = set()
    for op in block.ops:
        if op.attributes.get("kind") in TILED:
            moved, results = MOVABLE[str(op.attributes["kind"])]
            before = {i: turn for i in moved if (turn := makers.get(op.inputs[i]))}
            before = {i: turn for i, turn in before.items() if keeps_rows(turn)}
            after: dict[int, Op] = {}
            for k in results:
                turns = filter(keeps_rows, readers.get(op.results[k], ()))
                if turn := next(turns, None):  # for all others it is transposed back
                    after[k] = turn
            taken.update(after.values())
            ops.append(_with_turns(op, before, after))
            ops += (_turned_back(op.results[k], turn) for k, turn in after.items())
        elif op not in taken:
            blocks = tuple(map(nested, op.blocks))
            ops.append(Op(op.name, op.inputs, op.results, op.attributes, blocks, op.place))
    return Block(block.params, tuple(ops), block.results)


def axes_of(turn: Op | None) -> tuple[int, ...]:
    """The axes of a transpose; none if there is none."""
    return cast("tuple[int, ...]", turn.attributes["axes"]) if turn is not None else ()


def inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of the transpose back."""
    return tuple(axes.index(i) for i in range(len(axes)))


def keeps_rows(op: Op) -> bool:
    """Whether an operation is a transpose that leaves the last axis alone."""
    return op.name == "transpose" and axes_of(op)[-1:] == (len(axes_of(op)) - 1,)


def _turned_back(value: Value, turn: Op) -> Op:
    """What others read, who want a result as it was."""
    return Op("transpose", turn.results, (value,), {"axes": inverse(axes_of(turn))}, (), turn.place)


def _with_turns(op: Op, before: Mapping[int, Op], after: Mapping[int, Op]) -> Op:
    """A tiled operation with transposes of some inputs and some results in its block."""
    (block,) = op.blocks
    inputs, params, first = list(op.inputs), list(block.params), list[Op]()
    results, given, last = list(op.results), list(block.results), list[Op]()
    for i, turn in before.items():
        (inputs[i],), inside = turn.inputs, params[i]
        params[i] = Value(inputs[i].type, inside.hint)
        first.append(Op("transpose", (params[i],), (inside,), turn.attributes, (), turn.place))
    for k, turn in after.items():
        (results[k],), inside = turn.results, given[k]
        given[k] = Value(results[k].type, inside.hint)
        last.append(Op("transpose", (inside,), (given[k],), turn.attributes, (), turn.place))
    attributes: Attributes = {
        **op.attributes,
        "turned": tuple(axes_of(before.get(i)) for i in range(len(inputs))),
        "made": tuple(axes_of(after.get(k)) for k in range(len(results))),
    }
    inner = Block(tuple(params), (*first, *block.ops, *last), tuple(given))
    return Op(op.name, tuple(inputs), tuple(results), attributes, (inner,), op.place)


def _opened(out: Rebuilt, op: Op, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
    if op.attributes.get("kind") not in TILED:
        return None
    return opened(out, op.blocks[0], inputs)


def opened(out: Rebuilt, block: Block, inputs: tuple[Value, ...]) -> Sequence[Value]:
    """What a block gives for some inputs, its operations written where an operation held it."""
    new = dict(zip(block.params, inputs, strict=True))
    for inner in block.ops:
        out.place = inner.place
        given = tuple(new[v] for v in inner.inputs)
        results = out.write(inner.name, given, inner.attributes, inner.blocks)
        new.update(zip(inner.results, results, strict=True))
    return [new[v] for v in block.results]
