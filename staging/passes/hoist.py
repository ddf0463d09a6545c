"""Loops: what every step would compute alike is computed once, before the loop.

Only what cannot fail and is worth it moves: products, reductions, transcendental functions, and
what is computed from those element by element. Views, sums and the like are made faster than read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias, cast

from staging.cost import WORK
from staging.ir import Block, Literal, Op, Program, Value
from staging.ops import OPS
from staging.passes.rewrite import Nested, each_block

COSTLY = 16  # vector instructions an element
WORTH = frozenset(("matmul", "reduce", "cumulate", "argreduce", "argsort"))
VIEWS = frozenset(("constant", "iota", "broadcast", "reshape", "transpose", "slice"))

Worth: TypeAlias = "Callable[[Op, dict[Value, Op]], bool]"


def worth(op: Op, moved: dict[Value, Op]) -> bool:
    """Whether it costs less to read the result of an operation than to compute it."""
    if op.name in WORTH:
        return True
    if not OPS[op.name].elementwise:
        return False
    size = op.results[0].type.bytes
    if any(v in moved and v.type.bytes >= size for v in op.inputs):
        return True
    return WORK.get(op.name, 1) >= COSTLY


def hoist(program: Program, worth: Worth = worth) -> Program:
    """Move what does not depend on the step out of loops, and let carries that never change be
    captures.

    Args:
        program: what to improve.
        worth: whether an operation is worth it, given those that move before it.

    Example:
        >>> from staging.passes.dead import remove_dead
        >>> from staging.text import parse_program
        >>> print(remove_dead(hoist(parse_program('''program @p(%a: float32[], %w: float32[]) {
        ...   %y = scan(%a, %w) {length=3, carried=1, captured=1, reverse=false}
        ...     block(%c: float32[], %k: float32[]) {
        ...     %e = exp(%k): float32[]
        ...     %d = mul(%c, %e): float32[]
        ...     return (%d)
        ...   }: float32[]
        ...   return (%y)
        ... }'''))), end="")
        program @p(%a: float32[], %w: float32[]) {
          %e = exp(%w): float32[]
          %y = scan(%a, %e) {length=3, carried=1, captured=1, reverse=false} block(%c: float32[], %e_4: float32[]) {
            %d = mul(%c, %e_4): float32[]
            return (%d)
          }: float32[]
          return (%y)
        }
    """  # noqa: E501  # the printed program has lines as long as they come
    shorter: dict[tuple[Block, int, int], _Loop] = {}

    def change(block: Block, nested: Nested) -> Block:
        ops: list[Op] = []
        new: dict[Value, Value] = {}
        for op in block.ops:
            inputs = tuple(new.get(v, v) for v in op.inputs)
            blocks = tuple(map(nested, op.blocks))
            op = Op(op.name, inputs, op.results, op.attributes, blocks, op.place)
            if op.name == "scan" and cast(int, op.attributes["length"]) > 1:
                carried, captured = (cast(int, op.attributes[k]) for k in ("carried", "captured"))
                key = op.blocks[0], carried, captured
                if key not in shorter:
                    shorter[key] = _shortened(*key, worth)
                ops += _applied(shorter[key], op, new)
            else:
                ops.append(op)
        return Block(block.params, tuple(ops), tuple(new.get(v, v) for v in block.results))

    return program.with_block(each_block(program.block, change))


class _Loop(NamedTuple):
    """What a loop's body becomes.

    Attributes:
        body: the new one. It takes the carries left, the captures, then those that never change,
            then what is computed before the loop, then the stacked values.
        fixed: which carries never change.
        before: the operations before the loop, on the parameters of the old body.
        given: their results that the new body takes.
    """

    body: Block
    fixed: tuple[int, ...]
    before: tuple[Op, ...]
    given: tuple[Value, ...]


def _shortened(block: Block, carried: int, captured: int, worth: Worth) -> _Loop:
    """The loop whose body a block is."""
    params, results = block.params, block.results
    fixed = tuple(k for k in range(carried) if results[k] is params[k])
    alike = {*(params[k] for k in fixed), *params[carried : carried + captured]}
    moved: dict[Value, Op] = {}
    makers: dict[Value, Op] = {}
    for op in block.ops:
        if not (OPS[op.name].elementwise or op.name in WORTH or op.name in VIEWS):
            continue
        if alike.issuperset(op.inputs):
            (result,) = op.results
            alike.add(result)
            makers[result] = op
            if worth(op, moved):
                moved[result] = op
    left = [op for op in block.ops if op.results[:1] == () or op.results[0] not in moved]
    read = {v for op in left for v in op.inputs} | set(results)
    given = tuple(v for v in moved if v in read)
    before = _cone(given, makers)
    kept = [k for k in range(carried) if k not in fixed]
    # What moves out leaves the body a parameter of its own, since a value is defined once.
    inside = {v: Value(v.type, v.hint) for v in given}
    ops = [
        Op(op.name, tuple(inside.get(v, v) for v in op.inputs), op.results, op.attributes,
           op.blocks, op.place)
        for op in left
    ]  # fmt: skip
    captures = params[carried : carried + captured]
    steps = params[carried + captured :]
    given_in = (*captures, *(params[k] for k in fixed), *inside.values())
    taken = (*(params[k] for k in kept), *given_in, *steps)
    returned = [r for k, r in enumerate(results) if k not in fixed]
    body = Block(taken, tuple(ops), tuple(inside.get(v, v) for v in returned))
    return _Loop(body, fixed, before, given)


def _cone(values: Sequence[Value], makers: dict[Value, Op]) -> tuple[Op, ...]:
    """The operations that make values, in order."""
    wanted = set(values)
    ops: list[Op] = []
    for result, op in reversed(makers.items()):
        if result in wanted:
            ops.append(op)
            wanted.update(op.inputs)
    return tuple(reversed(ops))


def _applied(loop: _Loop, op: Op, new: dict[Value, Value]) -> list[Op]:
    """A scan with a shorter body, behind what moved out of it."""
    if not loop.fixed and not loop.given:
        return [op]
    carried, captured = (cast(int, op.attributes[k]) for k in ("carried", "captured"))
    outside = dict(zip(op.blocks[0].params, op.inputs, strict=True))
    ops: list[Op] = []
    for inner in loop.before:
        (result,) = inner.results
        outside[result] = Value(result.type, result.hint)
        inputs = tuple(outside[v] for v in inner.inputs)
        ops.append(Op(inner.name, inputs, (outside[result],), inner.attributes, (), inner.place))
    kept = [k for k in range(carried) if k not in loop.fixed]
    for k in loop.fixed:
        new[op.results[k]] = op.inputs[k]
    inputs = (*(op.inputs[k] for k in kept), *op.inputs[carried : carried + captured],
              *(op.inputs[k] for k in loop.fixed), *(outside[v] for v in loop.given),
              *op.inputs[carried + captured :])  # fmt: skip
    results = tuple(v for k, v in enumerate(op.results) if k not in loop.fixed)
    attributes: dict[str, Literal] = dict(op.attributes)
    attributes["carried"] = len(kept)
    attributes["captured"] = captured + len(loop.fixed) + len(loop.given)
    return [*ops, Op("scan", inputs, results, attributes, (loop.body,), op.place)]
