"""The parts of a body, between its calls, as blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from backends.llvm.activations import Body, Line, Variable, handed_on
from staging.ir import Block, Op, Type, Value


def wanted(body: Body, number: int, added: Sequence[Line]) -> list[Variable]:
    """What a part makes that is read behind it, or by lines that add numbers to sums."""
    made = {v: None for line in body.parts[number] for v in line.results}
    later = {v for line in added for v in line.inputs}
    if number < len(body.cuts):
        cut = body.cuts[number]
        later |= {*cut.kept, *cut.line.inputs}
    elif body.branches:
        later |= {body.results[0], *handed_on(body)}
    else:
        later |= {*body.results}
    return [v for v in made if v in later]


def outline(
    lines: Iterable[Line], made: Sequence[Variable], sums: Mapping[int, Type]
) -> tuple[Block, list[Variable]]:
    """A block of some lines, and what it reads; what is found again, but in nodes, is part of it.

    Args:
        lines: its operations.
        made: what it gives.
        sums: the types of the sums that it also takes, and gives behind that.
    """
    inside: dict[Variable, Value] = {}
    params: dict[Variable, Value] = {}
    before = {k: Value(type) for k, type in sums.items()}
    after = dict(before)
    ops: list[Op] = []

    def copy(line: Line) -> None:
        inputs = tuple(map(read, line.inputs))
        results = tuple(Value(v.type) for v in line.results)
        inside.update(zip(line.results, results, strict=True))
        if line.sum is not None:
            inputs, results = (after[line.sum], *inputs), (Value(sums[line.sum]),)
            after[line.sum] = results[0]
        op = line.op
        ops.append(Op(op.name, inputs, results, op.attributes, op.blocks, op.place))

    def read(variable: Variable) -> Value:
        if variable not in inside:
            line = variable.line
            if line is not None and line.found and line.op.name not in ("unpack", "tag"):
                copy(line)
            else:
                inside[variable] = params[variable] = Value(variable.type)
        return inside[variable]

    for line in lines:
        copy(line)
    results = (*(inside[v] for v in made), *after.values())
    return Block((*params.values(), *before.values()), tuple(ops), results), [*params]
