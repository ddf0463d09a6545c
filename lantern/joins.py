"""What follows a branch in which a call stands, as part of the branch again.

`lantern.bodies` makes a function of its own of what is long, which each branch calls at its end
with what it has computed. Where functions are taken path by path (`lantern.paths`), that stands in
the way: what a call is given there would have to be computed before all calls are found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lantern.groups import RECUR, Body, Function, Group
from lantern.regions import Block, Slot, Step, floating


def joined(group: Group, entry: int) -> Group:
    """The functions that an entry reaches, itself first, when each call at the end of another
    function that is given floats is replaced by what it does."""
    reached = [entry]
    bodies: list[Body] = []
    for k in reached:  # which grows meanwhile
        bodies.append(_merged(group, group.functions[k].body, (k,)))
        called = (step.static["function"] for step in _calls(bodies[-1]))
        reached += (f for f in dict.fromkeys(called) if f not in reached)
    numbers = {k: number for number, k in enumerate(reached)}
    functions = (
        Function(*group.functions[k][:3], _renumbered(body, numbers))
        for k, body in zip(reached, bodies, strict=True)
    )
    return Group(tuple(functions), group.captures, group.sums)


def _calls(body: Body) -> list[Step]:
    return [s for part in body.all() for s in part.block.steps if s.primitive is RECUR]


def _merged(group: Group, body: Body, inside: tuple[int, ...]) -> Body:
    """A body with what the calls at its ends do, but for those of functions that it is inside."""
    if body.branches:
        branches = tuple(_merged(group, branch, inside) for branch in body.branches)
        return Body(body.block, branches, body.adds)
    last = body.block.steps[-1] if body.block.steps else None
    if last is None or last.primitive is not RECUR or last.results != body.block.results:
        return body
    k = last.static["function"]
    if k in inside or not any(map(floating, group.functions[k].args)):
        return body
    return _merged(group, _followed(group, body, last), (*inside, k))


def _followed(group: Group, body: Body, call: Step) -> Body:
    """A leaf with the body of the function that it calls in place of the call."""
    outer, inner = body.block, group.functions[call.static["function"]].body
    captures = outer.params[len(outer.params) - len(group.captures) :]
    known: dict[Any, Any] = dict(zip(inner.block.params, (*call.args, *captures), strict=True))
    kinds, steps = list(outer.kinds), list(outer.steps[:-1])
    for step in inner.block.steps:
        for r in step.results:
            known[r] = Slot(len(kinds))
            kinds.append(inner.block.kind(r))
        made = tuple(known[r] for r in step.results)
        steps.append(step._replace(args=_renamed(step.args, known), results=made))
    block = Block(outer.params, tuple(steps), _renamed(inner.block.results, known), kinds)
    return Body(block, inner.branches, inner.adds)


def _renamed(values: Sequence[Any], known: dict[Any, Any]) -> tuple[Any, ...]:
    return tuple(known[v] if type(v) is Slot else v for v in values)


def _renumbered(body: Body, numbers: dict[int, int]) -> Body:
    """A body that calls functions by other numbers."""
    block = body.block
    steps = tuple(
        step._replace(static=step.static | {"function": numbers[step.static["function"]]})
        if step.primitive is RECUR else step
        for step in block.steps
    )  # fmt: skip
    branches = tuple(_renumbered(branch, numbers) for branch in body.branches)
    return Body(Block(block.params, steps, block.results, block.kinds), branches, body.adds)
