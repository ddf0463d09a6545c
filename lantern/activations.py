"""The primitive that performs a group: calls wait on a stack of their own, not on Python's.

On arrays, each block of a group is written as functions of Python, cut at its calls: one runs up to
a call and says what to call, and what is kept for the function behind the call. So a call that
waits is a continuation in the flesh: code, and the values that it reads. A call at the end of a
function leaves nothing behind.

The rule performs the halves of the group (`lantern.reversal`); in a batch every element goes its
own way, in a loop.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lantern import reversal
from lantern.blocks import declared, one_by_one
from lantern.checks import checks
from lantern.errors import BatchingError, FrameMemoryError, LimitError
from lantern.groups import RECUR, Body, Function, Group
from lantern.places import at_place
from lantern.primitives.effects import show
from lantern.primitives.indexing import add_rows
from lantern.regions import Slot, Step, bytes_of, floating, primitives_of, slots
from staging.cycles import Watch
from staging.failures import inside_itself

PRINTS = primitives_of(show)
MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4
CALL, VALUE = 160, 64  # bytes of Python's objects for a call that waits, and for a value of it


def recurse(*values: Any, group: Group, entry: int) -> tuple[Any, ...]:
    """Perform a function of a group.

    Args:
        *values: its arguments, then what the group captures.
        group: the functions.
        entry: the number of the one that is called.

    Returns:
        Its results, then the group's sums.
    """
    return _RECURSE[group.linear](*values, group=group, entry=entry)


def _recurse_rule(
    *values: Any, group: Group, entry: int, wanted: tuple[int, ...] | None = None
) -> Any:
    arity, args = len(values), len(group.functions[entry].args)
    captured = range(arity - args) if wanted is None else [i - args for i in wanted if i >= args]
    h = reversal.halves(group, tuple(k for k in captured if floating(group.captures[k])))
    count = len(group.functions[entry].results)
    outs = recurse(*values, group=h.forward, entry=entry)
    node, reads = outs[count], [values[args + k] for k in h.reads]
    dz = yield (*outs[:count], *outs[count + 1 :])
    seeds = [dz[i] for i, kind in enumerate(group.functions[entry].results) if floating(kind)]
    of_sums = [dz[count + k] for k, kind in enumerate(group.sums) if floating(kind)]
    found = recurse(node, *seeds, *reads, *of_sums, group=h.backward, entry=entry)
    adjoints: list[Any] = [None] * arity
    places = (*h.cuts[entry].found, *(args + k for k in h.found))
    for i, adjoint in zip(places, found, strict=True):
        adjoints[i] = adjoint
    return tuple(adjoints)


def recurse_batch(
    perform: Any,
    size: int,
    mapped: tuple[bool, ...],
    *values: Any,
    group: Group,
    entry: int,
    **static: Any,
) -> tuple[Any, ...]:
    """One element after the other: each goes its own way."""
    shown = [
        step.place
        for f in group.functions for b in f.body.all() for step in b.block.steps
        if step.primitive in PRINTS
    ]  # fmt: skip
    if shown:
        raise BatchingError(
            f"a recursive function prints inside of ln.vmap, at {shown[0]}: there is no order for "
            "what the calls for different elements of a batch do; take it out"
        )
    kinds = (*group.functions[entry].args, *group.captures)

    def one(*given: Any) -> tuple[Any, ...]:
        return perform(*given, group=group, entry=entry, **static)

    return one_by_one(one, size, mapped, values, kinds)


# On arrays ----------------------------------------------------------------------------------------


class Segment(NamedTuple):
    """A part of a block, up to a call or to the end.

    Attributes:
        run: from what is given and what it reads; to what its end takes, and what the segment
            behind that reads.
        given: the slots of what the call before it, or the caller, gives.
        reads: the others that it reads.
        steps: what it performs.
        end: the call; None at the end of the block.
        tail: whether the call gives the results of the function.
        held: about how many bytes wait for the call.
    """

    run: Callable[..., tuple[Any, Any]]
    given: tuple[Slot, ...]
    reads: tuple[Slot, ...]
    steps: Sequence[Step]
    end: Step | None
    tail: bool
    held: int


class Code(NamedTuple):
    """A body, ready to run: its segments and its branches."""

    body: Body
    segments: list[Segment]
    branches: list[Code]


def recurse_kernel(*values: Any, group: Group, entry: int) -> tuple[Any, ...]:
    checked = checks.get() is not None
    key = "code", checked
    if key not in group.cut:
        group.cut[key] = [code_of(f, f.body, len(group.captures), checked) for f in group.functions]
    functions: list[Code] = group.cut[key]
    count = len(group.functions[entry].args)
    captures = values[count:]
    sums = [np.zeros(shape, dtype) for shape, dtype in group.sums]
    stack: list[tuple[Code, int, Any]] = []
    watch, held = Watch(), 0
    code, number, given, kept = functions[entry], 0, values[:count], captures
    while True:
        segment = code.segments[number]
        try:
            out, kept = segment.run(*given, *kept)
        except Exception as problem:  # of any kernel: it is raised again, with where it was
            raise explained(segment, (*given, *kept), problem) from None
        if segment.end is not None:
            if segment.tail:
                add_to(sums, code.body, kept)
            else:
                stack.append((code, number + 1, kept))
                held += segment.held
                if held > MEMORY:
                    raise FrameMemoryError(
                        f"{len(stack)} calls of a recursive function wait for others, and there is "
                        "no memory left; it may not end: give it a limit, "
                        "ln.recursive(f, limit=N)"
                    )
            callee = segment.end.static["function"]
            if watch.repeats(functions[callee], out, len(stack)):
                raise LimitError(inside_itself(group.functions[callee].name))
            code, number, given, kept = functions[callee], 0, out, captures
        elif code.branches:
            code = code.branches[min(max(int(out[0]), 0), len(code.branches) - 1)]
            number, given, kept = 0, out[1:], captures
        else:
            add_to(sums, code.body, kept)
            if not stack:
                return (*out, *(total[()] for total in sums))
            code, number, kept = stack.pop()
            if len(stack) < watch.depth:
                watch.end()
            held -= code.segments[number - 1].held
            given = out


def add_to(sums: list[Any], body: Body, values: Sequence[Any]) -> None:
    """Add what a leaf gives to the sums, in place."""
    for added, value, indices in body.parts(values)[1]:
        total = sums[added.sum]
        if not indices:
            total += value
        elif indices[0].ndim:
            add_rows(total, value, *indices)
        else:
            total[tuple(indices)] += value


def explained(segment: Segment, values: Sequence[Any], problem: Exception) -> Exception:
    """The error of a segment that failed, performed again step by step, so that it says where."""
    try:
        again(segment, values)
    except Exception as found:  # the same failure, which now says where it is
        return found
    return problem


def again(segment: Segment, values: Sequence[Any]) -> None:
    """Perform a segment step by step."""
    known: dict[Any, Any] = dict(zip((*segment.given, *segment.reads), values, strict=True))
    for step in segment.steps:
        with at_place(step.place):
            args = (known[a] if type(a) is Slot else a for a in step.args)
            out = step.primitive.perform(*args, **step.static)
        known.update(zip(step.results, out if step.many else (out,), strict=True))


def code_of(function: Function, body: Body, captured: int, checked: bool) -> Code:
    """A body as functions of Python.

    Args:
        captured: how many of the last parameters are captures.
        checked: whether primitives look at what they compute (`lantern.debug.check_nans`).
    """
    block = body.block
    results, added = (block.results, []) if body.branches else body.parts(block.results)
    contributions = [v for _, value, indices in added for v in (value, *indices)]
    calls = [n for n, step in enumerate(block.steps) if step.primitive is RECUR]
    ends = [*calls, len(block.steps)]
    split = len(block.params) - captured
    # From the end to the front: what is read from the end of each segment on.
    live: set[Slot] = slots((*results, *contributions))
    segments: list[Segment] = []
    for k in reversed(range(len(ends))):
        start = ends[k - 1] + 1 if k else 0
        steps = block.steps[start : ends[k]]
        if k == len(calls):  # the last one
            end, tail, out, kept = None, False, results, contributions
        else:
            end = block.steps[ends[k]]
            tail = _is_tail(body, ends[k], end, results, contributions)
            out, kept = end.args, contributions if tail else sorted(live)
            live = live | slots(end.args)
        for step in reversed(steps):
            live = (live - set(step.results)) | slots(step.args)
        if k:
            given = block.steps[start - 1].results
            live = live - set(given)
            reads = tuple(sorted(live))
        else:
            given, reads = block.params[:split], block.params[split:]
        run = _written(steps, (*given, *reads), out, kept, checked)
        own = slots(kept).difference(block.params[split:])
        held = CALL + sum(VALUE + bytes_of(block.kinds[v.number]) for v in own)
        segments.append(Segment(run, tuple(given), reads, steps, end, tail, held))
    branches = [code_of(function, branch, captured, checked) for branch in body.branches]
    return Code(body, segments[::-1], branches)


def _is_tail(
    body: Body, place: int, end: Step, results: Sequence[Any], contributions: Sequence[Any]
) -> bool:
    """Whether a call gives the results of the function."""
    return (
        not body.branches
        and place == len(body.block.steps) - 1
        and all(type(y) is Slot for y in results)
        and tuple(results) == end.results
        and slots(contributions).isdisjoint(end.results)
    )


def _written(
    steps: Sequence[Step],
    params: Sequence[Slot],
    out: Sequence[Any],
    kept: Sequence[Any],
    checked: bool,
) -> Callable[..., tuple[Any, Any]]:
    """Steps as a function of Python; each forgets what nothing behind it reads."""
    names: dict[str, Any] = {}

    def word(value: Any) -> str:
        if type(value) is Slot:
            return f"v{value.number}"
        names[f"c{len(names)}"] = value
        return f"c{len(names) - 1}"

    def listed(values: Sequence[Any]) -> str:
        return "(" + "".join(f"{word(v)}, " for v in values) + ")"

    lines: list[str] = []
    for step in steps:
        kernel = step.primitive.kernel
        run: Any = step.primitive.perform if kernel is None or checked else kernel
        run = functools.partial(run, **step.static) if step.static else run
        to = ", ".join(map(word, step.results)) + (", " if step.many and step.results else "")
        call = f"{word(run)}({', '.join(map(word, step.args))})"
        lines.append(f"    {to} = {call}" if step.results else f"    {call}")
    head = f"def segment({', '.join(map(word, params))}):"
    source = "\n".join([head, *lines, f"    return {listed(out)}, {listed(kept)}"])
    exec(compile(source, "<lantern.activations>", "exec"), names)
    return names["segment"]


_RECURSE = declared("recurse", recurse_kernel, _recurse_rule, recurse_batch)
RECURSIONS = tuple(_RECURSE.values())
