"""Paths: the ways through the functions of a recursion, and what is known of them before anything
is computed.

Where neither the conditions nor the integers that calls are given depend on floating arguments or
on results of calls, all calls can be found first. `surveyed` divides each path in *control*, which
finds the path and the calls inside, and in what is computed then: a block from the columns that
control gives, the results of the calls inside and the captures, to the results.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from lantern.choices import switch
from lantern.groups import RECUR, Body, Group
from lantern.primitives import indexing
from lantern.ragged import zeros
from lantern.regions import Block, Kind, Recording, Slot, Step, floating, primitives_of
from staging.agenda import Call, Way

INTEGER = np.dtype(np.int64)
# Where the indices stand among the arguments of what fails if they are out of range.
INDEXED = dict.fromkeys(primitives_of(indexing.gather), 1) | dict.fromkeys(
    primitives_of(indexing.scatter_add, indexing.scatter_set, indexing.scatter_extreme), 2
)


class Refusal(Exception):
    """Why calls cannot be found before anything is computed."""


class Inner(NamedTuple):
    """A result of a call inside a path: which call, which result, and the slot that holds it."""

    call: int
    result: int
    slot: Slot


@dataclass(eq=False)
class Path:
    """A way through a function, and what it computes.

    Attributes:
        block: from the columns that control gives, the results of calls, and captures, to the
            results of the function.
        given: the slots of the first of these.
        inner: the second.
        captures: the positions, among those of the group, of the last.
    """

    block: Block
    given: tuple[Slot, ...]
    inner: tuple[Inner, ...]
    captures: tuple[int, ...]
    halves: dict[Any, Any] = field(default_factory=dict[Any, Any])


class Survey(NamedTuple):
    """What is known of a group of functions before anything is computed.

    Attributes:
        controls: for each function a block from its arguments and the captures to the number of
            the path and to values.
        ways: for each path its function, the calls inside, and what its columns hold of the values.
        paths: what each computes.
    """

    controls: tuple[Block, ...]
    ways: tuple[Way, ...]
    paths: tuple[Path, ...]


def surveyed(group: Group, mapped: Sequence[bool]) -> Survey:
    """Divide each path of a group in control and what is computed.

    Args:
        group: the functions.
        mapped: which captures have an element for each root. What is read of one is a column.

    Raises:
        Refusal: calls cannot be found before anything is computed.
    """
    if group.sums:
        raise Refusal("it is the way back of a recursion")
    controls: list[Block] = []
    ways: list[Way] = []
    paths: list[Path] = []
    for k, function in enumerate(group.functions):
        if any(map(floating, function.args)):
            raise Refusal(f"{function.name} has a floating argument")
        straight = list(_straight(group, k))
        cuts = [_divided(group, one, mapped) for one in straight]
        layout: list[Kind] = []
        homes = [_places([one.kind(v) for v in cut.values], layout) for one, cut in
                 zip(straight, cuts, strict=True)]  # fmt: skip
        for cut, home in zip(cuts, homes, strict=True):
            calls, at = [], iter(home)
            for step in cut.calls:
                calls.append(Call(step.static["function"], tuple(next(at) for _ in step.args)))
            ways.append(Way(k, tuple(calls), tuple(enumerate(at))))
            paths.append(cut.path)
        leaves = [
            Block(one.params, cone(one.steps, cut.values), _laid(cut.values, home, layout),
                  one.kinds)
            for one, cut, home in zip(straight, cuts, homes, strict=True)
        ]  # fmt: skip
        controls.append(_control(group, k, leaves, len(paths) - len(leaves)))
    return Survey(tuple(controls), tuple(ways), tuple(paths))


def slots(step: Step) -> list[Slot]:
    """What a step reads, but for constants."""
    return _slots(step.args)


def _slots(values: Sequence[Any]) -> list[Slot]:
    return [v for v in values if type(v) is Slot]


def is_call(step: Step) -> bool:
    """Whether a step calls a function of the group."""
    return step.primitive is RECUR


def cone(steps: Sequence[Step], results: Sequence[Any]) -> tuple[Step, ...]:
    """The steps that results come from."""
    reads = set(_slots(results))
    kept: list[Step] = []
    for step in reversed(steps):
        if not reads.isdisjoint(step.results):
            reads.update(slots(step))
            kept.append(step)
    return tuple(kept[::-1])


# Ways through a function ------------------------------------------------------------------------


def _straight(group: Group, k: int) -> Iterator[Block]:
    """Each way through a function as one block, from its arguments and the captures to its
    results."""
    kinds: list[Kind] = []

    def new(kind: Kind) -> Slot:
        kinds.append(kind)
        return Slot(len(kinds) - 1)

    function = group.functions[k]
    params = tuple(map(new, (*function.args, *group.captures)))
    captures = params[len(function.args) :]

    def walk(body: Body, given: Sequence[Any], steps: tuple[Step, ...]) -> Iterator[Block]:
        block = body.block
        known: dict[Any, Any] = dict(zip(block.params, (*given, *captures), strict=True))
        for step in block.steps:
            if step.primitive.effect and not is_call(step):
                raise Refusal(f"{function.name} has an effect, {step.primitive.name}")
            args = tuple(known[a] if type(a) is Slot else a for a in step.args)
            known |= {r: new(block.kind(r)) for r in step.results}
            made = tuple(known[r] for r in step.results)
            steps = (*steps, step._replace(args=args, results=made))
        results = [known[r] if type(r) is Slot else r for r in block.results]
        if not body.branches:
            yield Block(params, steps, tuple(results), kinds)
        for branch in body.branches:
            yield from walk(branch, results[1:], steps)

    yield from walk(function.body, params[: len(function.args)], ())


class _Cut(NamedTuple):
    """A path divided.

    Attributes:
        calls: the calls inside.
        values: what control gives: the arguments of the calls, then the columns.
        path: what is computed.
    """

    calls: list[Step]
    values: list[Any]
    path: Path


def _divided(group: Group, one: Block, mapped: Sequence[bool]) -> _Cut:
    """Divide a way through a function in control and what is computed."""
    captures = one.params[len(one.params) - len(group.captures) :]
    own = {c for c, m in zip(captures, mapped, strict=True) if m}
    calls = [step for step in one.steps if is_call(step)]
    pinned = [
        r
        for step in one.steps
        if not is_call(step) and not own.isdisjoint(slots(step))
        for r in step.results
    ]
    arguments = [a for step in calls for a in step.args]
    control = cone(one.steps, (*arguments, *pinned))
    if any(map(is_call, control)):
        raise Refusal("integers that a call is given depend on the result of another call")
    found = {r for step in control for r in step.results}
    found.update(one.params[: len(one.params) - len(captures)])
    found |= own
    steps: list[Step] = []
    reads = set(_slots(one.results))
    for step in reversed(one.steps):
        if not is_call(step) and not (reads - found).isdisjoint(step.results):
            steps.append(step)
            reads.update(slots(step))
    inner = tuple(
        Inner(number, i, r)
        for number, step in enumerate(calls)
        for i, r in enumerate(step.results)
        if r in reads
    )
    _check_indices(steps[::-1], {i.slot for i in inner})
    given = tuple(sorted(reads & found))
    _check_given(one, [v for v in given if floating(one.kind(v))], captures, mapped)
    fixed = tuple(i for i, c in enumerate(captures) if c in reads and c not in own)
    params = (*given, *(i.slot for i in inner), *(captures[i] for i in fixed))
    block = Block(params, tuple(steps[::-1]), one.results, one.kinds)
    return _Cut(calls, [*arguments, *given], Path(block, given, inner, fixed))


def _check_given(
    one: Block, given: Sequence[Slot], captures: Sequence[Slot], mapped: Sequence[bool]
) -> None:
    """Refuse floats from control that depend on captures which are differentiated: what control
    computes has no adjoint."""
    read = {a for step in cone(one.steps, given) for a in slots(step)}.union(given)
    for c, m in zip(captures, mapped, strict=True):
        if not m and c in read and floating(one.kind(c)):
            raise Refusal("a loop or branch without a call reads arrays of an item and of all")


def _check_indices(steps: Sequence[Step], late: set[Slot]) -> None:
    """Refuse indices that depend on results of calls: where a unit has more rows than are ready, it
    computes with anything there."""
    for step in steps:
        first = INDEXED.get(step.primitive)
        if first is not None and not late.isdisjoint(_slots(step.args[first:])):
            raise Refusal("an index depends on the result of another call")
        if not late.isdisjoint(slots(step)):
            late.update(step.results)


# Control ----------------------------------------------------------------------------------------


def _places(kinds: Iterable[Kind], layout: list[Kind]) -> list[int]:
    """For each kind a place of its own in a layout, which grows where it has none left."""
    taken: list[int] = []
    for kind in kinds:
        free = (i for i, k in enumerate(layout) if k == kind and i not in taken)
        place = next(free, len(layout))
        if place == len(layout):
            layout.append(kind)
        taken.append(place)
    return taken


def _laid(values: Sequence[Any], home: Sequence[int], layout: Sequence[Kind]) -> tuple[Any, ...]:
    """Values at their places, zeros elsewhere."""
    at = dict(zip(home, values, strict=True))
    return tuple(at[i] if i in at else zeros(*kind) for i, kind in enumerate(layout))


def _control(group: Group, k: int, leaves: Sequence[Block], first: int) -> Block:
    """From the arguments of a function and the captures to the number of its path, and to what a
    block for each path gives."""
    function = group.functions[k]
    region = Recording()
    params = [region.parameter(*kind) for kind in (*function.args, *group.captures)]
    with region:
        (number,) = _decision(function.body, iter(range(len(leaves))))(*params)
        values = leaves[0](*params) if len(leaves) == 1 else (
            switch(number, *params, blocks=tuple(leaves)) if leaves[0].results else ()
        )  # fmt: skip
        return region.block([number + np.int64(first), *values])


def _decision(body: Body, numbers: Iterator[int]) -> Block:
    """From what a body is given to the number of the path that a call takes."""
    own = body.block
    if not body.branches:
        return Block(own.params, (), (np.asarray(next(numbers), INTEGER),), own.kinds)
    inside = [_decision(branch, numbers) for branch in body.branches]
    read = sorted({i for b in inside for i in _read(b)})
    captures = own.params[len(own.params) - len(inside[0].params) + len(own.results) - 1 :]
    handed = (*own.results[1:], *captures)
    wanted = (own.results[0], *(handed[i] for i in read))
    steps = cone(own.steps, wanted)
    if any(map(is_call, steps)):
        raise Refusal("a condition depends on the result of a call")
    region = Recording()
    params = [region.parameter(*own.kind(p)) for p in own.params]
    blocks = tuple(
        Block(tuple(b.params[i] for i in read), b.steps, b.results, b.kinds) for b in inside
    )
    with region:
        index, *values = Block(own.params, steps, wanted, own.kinds)(*params)
        return region.block(switch(index, *values, blocks=blocks))


def _read(block: Block) -> list[int]:
    """The positions of the parameters that a block reads."""
    read = {a for step in block.steps for a in slots(step)}.union(_slots(block.results))
    return [i for i, p in enumerate(block.params) if p in read]
