"""The primitives that perform a block (`lantern.regions`): once, or once for each step of a loop.

Their rules cut the block in halves and perform the same primitive on each, one level down. So
derivatives of any order, batches and programs need nothing of their own here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lantern.batch import as_wanted, told_apart
from lantern.control import Primitive, bound
from lantern.declare import declared_rule
from lantern.lengths import Length
from lantern.primitives.elementwise import add, subtract
from lantern.primitives.structure import permute
from lantern.ragged import element, is_opaque, is_ragged, stacked, zeros
from lantern.regions import Block, Halves, Kind, Recording, Slot, floating, needed, primitives_of
from lantern.tensor import Tensor

Adjoints = tuple[Any, ...]
Steps = int | Length | None
COUNT = primitives_of(add)  # what counts

Run = Callable[[Block], Callable[..., tuple[Any, ...]]]


def call(block: Block, *values: Any, run: Run | None = None) -> tuple[Any, ...]:
    """Perform a block once; in a program it is written once, however often it is performed.

    Args:
        block: what to perform.
        *values: one for each parameter, of any level.
        run: gives a function of arrays for a block, here and for the halves and batches of this
            one; None performs the steps one by one. It plays no part while a program is written.
    """
    return _CALL[block.linear](*values, block=block, run=run)


def scan(
    block: Block, *values: Any, carried: int, captured: int, length: Steps, reverse: bool
) -> tuple[Any, ...]:
    """Perform a block ``length`` times.

    Args:
        block: from the carry, the captures and one step's elements to the carry and what this step
            adds to each stacked result.
        *values: the carry; the captures, which every step reads; arrays with one element a step
            along their first axis.
        carried: how many values the carry has.
        captured: how many captures there are.
        length: the number of steps. If it is known only when this runs, that is the first of the
            values, and this is None, where stacked operands and results are lists, or the `Length`
            of these, which are tables.
        reverse: whether the last step is the first to run.

    Returns:
        The carry after the last step, and the stacked results.
    """
    static = {"carried": carried, "captured": captured, "length": length, "reverse": reverse}
    return _SCAN[block.linear](*values, block=block, **static)


# Once ---------------------------------------------------------------------------------------------


def wanted_floats(block: Block, wanted: tuple[int, ...] | None) -> tuple[int, ...]:
    """The positions of the floating parameters whose adjoints are wanted; None: all."""
    some = range(len(block.params)) if wanted is None else wanted
    return tuple(i for i in some if floating(block.kind(block.params[i])))


def call_rule(
    *values: Any, block: Block, run: Run | None, wanted: tuple[int, ...] | None = None
) -> Any:
    """The rule of a primitive that performs a block once."""
    floats = wanted_floats(block, wanted)
    h = block.halves(floats, frozenset(block.params))
    again = run is not None and any(is_opaque(*h.forward.kind(slot)) for slot in h.saved)
    outs = call(block if again else h.forward, *values, run=run)
    frame = [] if again else frame_of(h, dict(zip(h.forward.params, values, strict=True)), outs)
    arity, count = len(values), len(block.results)
    dz = yield outs[:count]
    arrived = tuple(i for i in h.adjoints if dz[i] is not None)
    if arrived != h.adjoints:  # what comes of other results alone is no part of this way back
        h = block.halves(floats, frozenset(block.params), arrived)
    if not h.found:
        return (None,) * arity
    seeds = [dz[i] for i in h.adjoints]
    if again:
        found = call(_there_and_back(block, h), *values, *seeds, run=run)
    else:
        found = call(h.backward, *frame, *seeds, run=run)
    return at_positions(arity, h.found, found)


def _there_and_back(block: Block, h: Halves) -> Block:
    """Both halves as one block, from the parameters and the adjoints of results to the adjoints in
    ``found``: where a frame is lists or nodes, which leave no function of arrays."""
    key = "there and back", h.found, h.adjoints
    if key not in block.cut:
        region = Recording()
        params = [region.parameter(*block.kind(p)) for p in block.params]
        seeds = [region.parameter(*block.kind(block.results[i])) for i in h.adjoints]
        with region:
            outs = call(h.forward, *params)
            frame = frame_of(h, dict(zip(h.forward.params, params, strict=True)), outs)
            block.cut[key] = region.block(call(h.backward, *frame, *seeds))
    return block.cut[key]


def frame_of(h: Halves, params: dict[Slot, Any], outs: Sequence[Any]) -> list[Any]:
    """What the backward half reads: parameters, and what the forward half returns for it."""
    saved = dict(zip(h.saved, outs[len(outs) - len(h.saved) :], strict=True))
    return [saved[slot] if slot in saved else params[slot] for slot in h.frame]


def at_positions(count: int, positions: Sequence[int], found: Sequence[Any]) -> Adjoints:
    """Adjoints at their positions, None elsewhere."""
    at = dict(zip(positions, found, strict=True))
    return tuple(at.get(i) for i in range(count))


def _call_kernel(*values: Any, block: Block, run: Run | None) -> tuple[Any, ...]:
    return block(*values) if run is None else run(block)(*values)


def _call_batch(
    perform: Any,
    size: int,
    mapped: tuple[bool, ...],
    *values: Any,
    block: Block,
    run: Run | None,
) -> tuple[Any, ...]:
    batched, many = block.batched(size, mapped)
    outs = call(batched, *values, run=run)
    return told_apart(outs, many)


# Step by step -------------------------------------------------------------------------------------


class LoopHalves(NamedTuple):
    """The halves of a loop's body, the backward one as a body again.

    Its carry is the adjoint of the floating carry, then sums of the adjoints of captures, then
    values of the loop's own carry that are had back step by step, where the first one is what the
    loop ended with: a step hands on what it was given, which is what the one before it made. Its
    stacked operands are the adjoints of the stacked results, then what is stacked of the frame.

    Attributes:
        halves: of the body.
        back: the body of the loop back.
        fixed: what it reads of the captures.
        stacked: what it reads of a step: elements of stacked operands, and what the step saved.
        floats: the floating values of the carry, by position.
        sums: the captures that have an adjoint, by position.
        rows: the stacked operands that have one.
        turned: the values of the carry that are had back, by position.
    """

    halves: Halves
    back: Block
    fixed: tuple[Slot, ...]
    stacked: tuple[Slot, ...]
    floats: tuple[int, ...]
    sums: tuple[int, ...]
    rows: tuple[int, ...]
    turned: tuple[int, ...]

    @property
    def places(self) -> tuple[int, ...]:
        """The positions of the parameters whose adjoints `unwind` gives."""
        return (*self.floats, *self.sums, *self.rows)

    def read(self, values: Sequence[Any], outs: Sequence[Any]) -> dict[Slot, Any]:
        """What the backward half reads, given the operands and results of the loop forward."""
        given = dict(zip(self.halves.forward.params, values, strict=True))
        return dict(zip(self.halves.frame, frame_of(self.halves, given, outs), strict=True))

    def unwind(
        self,
        count: Sequence[Any],
        dz: Sequence[Any],
        ends: Sequence[Any],
        read: dict[Slot, Any],
        carried: int,
        length: Steps,
        reverse: bool,
    ) -> tuple[Any, ...]:
        """Perform the loop back, from the adjoints of the results of the loop, and what of its last
        carry is had back."""
        kinds = [self.halves.forward.kind(self.halves.forward.params[i]) for i in self.sums]
        found = scan(
            self.back,
            *count,
            *(dz[i] for i in self.floats),
            *(zeros(*kind) for kind in kinds),
            *ends,
            *(read[slot] for slot in self.fixed),
            *(dz[i] for i in self.halves.adjoints if i >= carried),
            *(read[slot] for slot in self.stacked),
            carried=len(self.floats) + len(self.sums) + len(self.turned),
            captured=len(self.fixed),
            length=length,
            reverse=reverse,
        )
        first = len(self.floats) + len(self.sums)
        return (*found[:first], *found[first + len(self.turned) :])


def loop_halves(block: Block, carried: int, inner: int, wanted: tuple[int, ...]) -> LoopHalves:
    """The halves of a loop's body, made once; behind the ``inner`` parameters come the stacked."""
    key = "loop", carried, inner, wanted
    if key not in block.cut:
        block.cut[key] = _cut_loop(block, carried, inner, wanted)
    return block.cut[key]


def _cut_loop(block: Block, carried: int, inner: int, wanted: tuple[int, ...]) -> LoopHalves:
    params = block.params
    floats = tuple(i for i in range(carried) if floating(block.kind(params[i])))
    counts = counters(block, carried)
    free = frozenset((*params[carried:], *(params[i] for i in counts)))
    whole = block.halves(tuple(sorted({*floats, *wanted})), free)
    h, turned = turning(whole, carried, counts)
    captures = set(h.forward.params[carried:inner])
    fixed = tuple(slot for slot in h.frame if slot in captures)
    stacked = tuple(slot for slot in h.frame if slot not in captures)
    sums = tuple(i for i in h.found if carried <= i < inner)
    rows = tuple(i for i in h.found if i >= inner)
    region = Recording()

    def new(source: Block, slots: Sequence[Any]) -> list[Tensor]:
        return [region.parameter(*source.kind(slot)) for slot in slots]

    of_carry = new(block, [params[i] for i in floats])
    so_far = new(block, [params[i] for i in sums])
    made = new(block, [params[i] for i in turned])
    read = dict(zip(fixed, new(h.backward, fixed), strict=True))
    of_rows = new(block, [block.results[i] for i in h.adjoints if i >= carried])
    read |= zip(stacked, new(h.backward, stacked), strict=True)
    with region:
        for i, after in zip(turned, made, strict=True):
            read[h.forward.results[i]] = after
            if i in counts:
                read[h.forward.params[i]] = subtract(after, counts[i])
        found = h.backward(*(read[slot] for slot in whole.frame), *of_carry, *of_rows)
        at = dict(zip(h.found, found, strict=True))
        results = [at[i] if i in at else zeros(*block.kind(params[i])) for i in floats]
        results += [add(total, at[i]) for total, i in zip(so_far, sums, strict=True)]
        results += [read[h.forward.params[i]] for i in turned]
        results += [at[i] for i in rows]
    return LoopHalves(h, region.block(results), fixed, stacked, floats, sums, rows, turned)


def counters(block: Block, carried: int) -> dict[int, Any]:
    """The integers of a loop's carry to which each step adds a number and does nothing else, by
    position: that number."""
    makers = {slot: step for step in block.steps for slot in step.results}
    found: dict[int, Any] = {}
    for i, (given, made) in enumerate(zip(block.params[:carried], block.results, strict=False)):
        step = makers.get(made) if type(made) is Slot else None
        if step and step.primitive in COUNT and given in step.args:
            numbers = [a for a in step.args if type(a) is not Slot]
            if numbers and block.kind(given)[1].kind in "iu":
                found[i] = numbers[0]
    return found


def turning(h: Halves, carried: int, counts: dict[int, Any]) -> tuple[Halves, tuple[int, ...]]:
    """The halves of a loop's body that save less: a value of the carry which the way back has from
    the step behind it, since that was given what this one made. Of a value that each step saves
    both as it was given and as it was made, one is enough; a counter is not saved at all.

    Returns:
        The halves, of whose frame these values are left out, and their positions in the carry.
    """
    given, made, read = h.forward.params, h.forward.results, set(h.frame)
    counted = {i for i in counts if not read.isdisjoint((given[i], made[i]))}
    both = {i for i in range(carried) if type(made[i]) is Slot and {given[i], made[i]} <= read}
    turned = tuple(sorted(counted | {i for i in both if given[i] != made[i]}))
    had = {made[i] for i in turned} | {given[i] for i in counted}
    frame, saved = (tuple(slot for slot in some if slot not in had) for some in (h.frame, h.saved))
    results = (*made[: len(made) - len(h.saved)], *saved)
    steps = tuple(needed(h.forward.steps, results)[0])
    return h._replace(
        forward=Block(given, steps, results, h.forward.kinds), frame=frame, saved=saved
    ), turned


def _scan_rule(
    *values: Any,
    block: Block,
    carried: int,
    captured: int,
    length: Steps,
    reverse: bool,
    wanted: tuple[int, ...] | None = None,
) -> Any:
    count, values, wanted = _counted(values, length, wanted)
    loop = loop_halves(block, carried, carried + captured, wanted_floats(block, wanted))
    static = {"captured": captured, "length": length, "reverse": reverse}
    outs = scan(loop.halves.forward, *count, *values, carried=carried, **static)
    read, ends = loop.read(values, outs), [outs[i] for i in loop.turned]
    arity, results = len(values), len(block.results)
    dz = yield outs[:results]
    found = loop.unwind(count, dz, ends, read, carried, length, not reverse)
    return (*(None,) * len(count), *at_positions(arity, loop.places, found))


def _counted(
    values: tuple[Any, ...], length: Steps, wanted: tuple[int, ...] | None
) -> tuple[tuple[Any, ...], tuple[Any, ...], tuple[int, ...] | None]:
    """The number of steps, if it is an operand; the operands behind it, and what is wanted of
    those, by position."""
    first = 1 if length is None or type(length) is Length else 0
    if wanted is not None:
        wanted = tuple(i - first for i in wanted if i >= first)
    return values[:first], values[first:], wanted


def scan_kernel(
    *values: Any, block: Block, carried: int, captured: int, length: Steps, reverse: bool
) -> tuple[Any, ...]:
    count, values, _ = _counted(values, length, None)
    steps = range(int(count[0]) if count or length is None else length)
    inner = carried + captured
    carry, fixed = values[:carried], values[carried:inner]
    rows = list(zip(values[inner:], map(block.kind, block.params[inner:]), strict=True))
    kinds = [block.kind(r) for r in block.results[carried:]]
    stacks: list[list[Any]] = [[] for _ in kinds]
    for i in reversed(steps) if reverse else steps:
        outs = block(*carry, *fixed, *(element(x, i, *kind) for x, kind in rows))
        carry = outs[:carried]
        for stack, y in zip(stacks, outs[carried:], strict=True):
            stack.append(y)
    ends = (stack[::-1] if reverse else stack for stack in stacks)
    return (*carry, *(stacked(s, length, *kind) for s, kind in zip(ends, kinds, strict=True)))


def scan_batch(
    perform: Any,
    size: int,
    mapped: tuple[bool, ...],
    *values: Any,
    block: Block,
    carried: int,
    captured: int,
    length: Steps,
    reverse: bool,
    **more: Any,
) -> tuple[Any, ...]:
    """Of `scan`, and of primitives that do the same and keep less for their derivative."""
    if length is None and mapped[0]:
        from lantern.unbounded import masked_scan  # which is written on this module

        return masked_scan(size, mapped, values, block, carried, captured, reverse)
    count, values, _ = _counted(values, length, None)
    inner, mapped = carried + captured, mapped[len(count) :]
    batched, own, many = block.steady(size, mapped, carried)
    rows = zip(values[inner:], map(batched.kind, batched.params[inner:]), mapped[inner:],
               strict=True)  # fmt: skip
    swapped = (_swapped(x, kind, length) if m else x for x, kind, m in rows)
    given = as_wanted((*values[:inner], *swapped), own, mapped, size)
    outs = perform(
        *count, *given, block=batched,
        carried=carried, captured=captured, length=length, reverse=reverse, **more,
    )  # fmt: skip
    ends = zip(outs[carried:], map(batched.kind, batched.results[carried:]), many[carried:],
               strict=True)  # fmt: skip
    swapped = (_swapped(y, kind, length) if m else y for y, kind, m in ends)
    return told_apart((*outs[:carried], *swapped), many)


def one_by_one(
    run: Callable[..., tuple[Any, ...]],
    size: int,
    mapped: Sequence[bool],
    values: Sequence[Any],
    kinds: Sequence[Kind],
) -> tuple[Any, ...]:
    """A batch as a loop over its elements, for what cannot be done for all at once.

    Args:
        run: what is done for one element.
        size: how many there are.
        mapped: which of the values are batches.
        values: operands.
        kinds: theirs, for one element.
    """
    same = [i for i, m in enumerate(mapped) if not m]
    different = [i for i, m in enumerate(mapped) if m]
    region = Recording()
    params = {i: region.parameter(*kinds[i]) for i in (*same, *different)}
    with region:
        block = region.block(run(*(params[i] for i in range(len(kinds)))))
    return scan(
        block, *(values[i] for i in same), *(values[i] for i in different),
        carried=0, captured=len(same), length=size, reverse=False,
    )  # fmt: skip


def _swapped(x: Any, element: Kind, length: Steps) -> Any:
    """The first two axes exchanged, of steps and of a batch; in lists they stand as they should."""
    lists = length is None or is_ragged(element[0])
    return x if lists else permute(x, axes=(1, 0, *range(2, x.ndim)))


def declared(
    name: str,
    kernel: Callable[..., Any],
    rule: Callable[..., Any],
    batch: Callable[..., Any],
    sparse: bool = False,
) -> dict[bool, Callable[..., Any]]:
    """A primitive that performs blocks: for those that forward mode may pass, and for others."""
    checked = declared_rule(rule)
    return {
        linear: bound(
            Primitive(name, kernel, checked, batch, linear, selective=True, sparse=sparse)
        )
        for linear in (True, False)
    }


_CALL = declared("call", _call_kernel, call_rule, _call_batch, sparse=True)
_SCAN = declared("scan", scan_kernel, _scan_rule, scan_batch)
CALLS = tuple(_CALL.values())
SCANS = tuple(_SCAN.values())
