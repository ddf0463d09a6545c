"""Recursion in segments: what is kept is the calls at borders, not a node of each call.

A call knows how many calls deep it stands. At some depths there are *borders*: a call there that
reaches the border behind it leaves its arguments and its results in a *cell*, which joins those of
the other borders that the call around it meets, last in, first out. Nothing else is kept. The first
segment of a path is so many calls deep, each one behind it a call deeper than the one before, as in
`lantern.segments` where nobody knows the number of steps: so n calls of which one makes the next
have at most √(2n) borders.

The way back arrives at a cell with the adjoints of the call's results, and replays the segment: the
forward half of the call, with nodes. A call that has a cell is not made again, for its results lie
there; one that reached no border is made whole. So there is a tree of nodes that ends in cells, and
the way back through it goes on from these in the same way.

How many nodes there are at a time depends on what still waits for them. Where a segment meets one
cell, its nodes are made twice. First to find the adjoints of the results of the call there; they
are forgotten, and the way back of that call runs, whose answer lies in its cell then. Only with
that the segment is walked to its end. So a chain of n calls has the nodes of one segment at a time.
Where a segment meets more cells, its nodes stay until the calls there have been walked back.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import log
from typing import Any, NamedTuple

from lantern import activations, reversal
from lantern.activations import recurse_kernel
from lantern.blocks import declared
from lantern.cells import leaving
from lantern.checkpoint_policies import Budget, Policy, Sqrt
from lantern.errors import ArgumentError
from lantern.groups import PACK, RECUR, Body, Group
from lantern.regions import Step, bytes_of, floating
from lantern.reversal import GroupHalves
from lantern.walks import Back

WORD = 8  # the bytes of what is no array, in a node


def recurse(*values: Any, group: Group, entry: int, depth: int) -> tuple[Any, ...]:
    """`lantern.activations.recurse`, whose derivative keeps the calls at borders.

    Args:
        *values: the arguments, then what the group captures.
        group: the functions; there are no sums.
        entry: the number of the one that is called.
        depth: how many calls deep the first segment is.
    """
    return _RECURSE[group.linear](*values, group=group, entry=entry, depth=depth)


def first_depth(policy: Policy, group: Group) -> int:
    """How many calls deep the first segment is under a policy: one, or as many as have nodes in
    half of a number of bytes. With what it meets that reaches no border it may be twice as deep.

    Raises:
        ArgumentError: the policy is for loops.
    """
    if isinstance(policy, Sqrt):
        return 1
    if not isinstance(policy, Budget):
        raise ArgumentError(
            "checkpoint: binomial is for loops, whose states lie in slots; a recursion takes "
            '"sqrt" or a number of bytes'
        )
    captured = (k for k, kind in enumerate(group.captures) if floating(kind))
    made = reversal.halves(group, tuple(captured)).forward
    size = max(sum(max(bytes_of(b.block.kind(v)), WORD) for v in step.args)
               for b, step in steps_of(made) if step.primitive is PACK)  # fmt: skip
    many = policy.bytes // 2 // (WORD + size)
    paths = (path for f in group.functions for path in f.body.paths())
    calls = max(sum(len(calls_of(b)) for b in path) for path in paths)
    return max(1, many if calls < 2 else int(log(max(many, 1), calls) / 2))


def steps_of(group: Group) -> Iterator[tuple[Body, Step]]:
    """The steps of a group, and the bodies that they are in."""
    return ((b, step) for f in group.functions for b in f.body.all() for step in b.block.steps)


def calls_of(body: Body) -> list[int]:
    """The functions that a block calls."""
    steps = body.block.steps
    return [step.static["function"] for step in steps if step.primitive is RECUR]


class Segmented(NamedTuple):
    """A group in segments.

    Attributes:
        there: its last function leads from the arguments of the entry to its results, and its cell.
        back: from the cell, and the adjoints of the floating results, to the adjoints of the
            arguments. It captures what the group does; its sums are the adjoints of ``found``.
        entry: the number of the function of ``back`` that does so.
        halves: of the group without segments.
    """

    there: Group
    back: Group
    entry: int
    halves: GroupHalves


def segmented(group: Group, entry: int, depth: int, wanted: tuple[int, ...]) -> Segmented:
    """A group in segments, made once."""
    key = "segmented", entry, depth, wanted
    if key not in group.cut:
        h = reversal.halves(group, wanted)
        back = Back(group, h, with_borders(group, entry))
        there = leaving(group, entry, depth, back.borders)
        group.cut[key] = Segmented(there, back.group(), back.number("back", entry), h)
    return group.cut[key]


def with_borders(group: Group, entry: int) -> tuple[int, ...]:
    """The functions whose calls may be at borders: the entry, and some of the others, so that no
    path goes on forever without one of them."""
    calls = [{k for b in f.body.all() for k in calls_of(b)} for f in group.functions]
    chosen = {entry}
    for k in range(len(calls)):
        reached, left = set[int](), [k]
        while left:
            new = calls[left.pop()] - chosen - reached
            reached |= new
            left += new
        if k in reached:
            chosen.add(k)
    return tuple(sorted(chosen))


# The primitive ------------------------------------------------------------------------------------


def _recurse_rule(
    *values: Any, group: Group, entry: int, depth: int, wanted: tuple[int, ...] | None = None
) -> Any:
    arity, args = len(values), len(group.functions[entry].args)
    captured = range(arity - args) if wanted is None else [i - args for i in wanted if i >= args]
    floats = tuple(k for k in captured if floating(group.captures[k]))
    s = segmented(group, entry, depth, floats)
    captures, kinds = values[args:], group.functions[entry].results
    start = len(s.there.functions) - 1
    *outs, cell = activations.recurse(*values, group=s.there, entry=start)
    dz = yield tuple(outs)
    seeds = [dz[i] for i, kind in enumerate(kinds) if floating(kind)]
    found = activations.recurse(cell, *seeds, *captures, group=s.back, entry=s.entry)
    adjoints: list[Any] = [None] * arity
    places = (*s.halves.cuts[entry].found, *(args + k for k in s.halves.found))
    for i, adjoint in zip(places, found, strict=True):
        adjoints[i] = adjoint
    return tuple(adjoints)


def _recurse_kernel(*values: Any, group: Group, entry: int, depth: int) -> tuple[Any, ...]:
    return recurse_kernel(*values, group=group, entry=entry)


_RECURSE = declared("recurse", _recurse_kernel, _recurse_rule, activations.recurse_batch)
RECURSIONS = tuple(_RECURSE.values())
