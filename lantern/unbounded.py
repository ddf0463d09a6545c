"""The primitive that performs a block while another one holds.

Its rule performs the forward half of the body in the same way; what the backward half reads of each
step is saved in lists, and the way back is a scan of those (`lantern.blocks`).

Where the test differs within a batch the loop goes on while any element does, and steps change only
those that do: by `lantern.choices.choose`, so that what is computed for the others reaches no
result and no adjoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lantern.batch import as_wanted, refuse_effects, told_apart
from lantern.blocks import at_positions, declared, loop_halves, scan, wanted_floats
from lantern.choices import choose
from lantern.errors import LimitError
from lantern.primitives.elementwise import add, less
from lantern.primitives.reductions import any_of, reduce_max
from lantern.primitives.structure import convert
from lantern.ragged import stacked, zeros
from lantern.regions import Block, Kind, Recording
from lantern.tensor import Tensor

INTEGER = np.dtype(np.int64)


def while_(
    test: Block, body: Block, *values: Any, carried: int, limit: int | None
) -> tuple[Any, ...]:
    """Perform a block while another one holds.

    Args:
        test: from the carry and the captures to a boolean.
        body: from the carry and the captures to the carry, and what a step adds to each list.
        *values: the carry, then the captures, which every step reads.
        carried: how many values the carry has.
        limit: after how many steps a further one is an error; None: there is no limit.

    Returns:
        The number of steps, the last carry, and the lists.
    """
    return _WHILE[body.linear](*values, test=test, body=body, carried=carried, limit=limit)


def _while_rule(
    *values: Any,
    test: Block,
    body: Block,
    carried: int,
    limit: int | None,
    wanted: tuple[int, ...] | None = None,
) -> Any:
    loop = loop_halves(body, carried, len(values), wanted_floats(body, wanted))
    count, *outs = while_(test, loop.halves.forward, *values, carried=carried, limit=limit)
    read, ends = loop.read(values, outs), [outs[i] for i in loop.turned]
    arity, results = len(values), len(body.results)
    dz = yield (count, *outs[:results])
    found = loop.unwind((count,), dz[1:], ends, read, carried, None, True)
    return at_positions(arity, loop.places, found)


def beyond_limit(limit: int) -> LimitError:
    """The error of a loop that goes on beyond its limit."""
    from staging.failures import beyond  # which eager programs do without

    return LimitError(beyond(limit))


def while_kernel(
    *values: Any, test: Block, body: Block, carried: int, limit: int | None
) -> tuple[Any, ...]:
    carry, fixed = values[:carried], values[carried:]
    kinds = [body.kind(r) for r in body.results[carried:]]
    lists: list[list[Any]] = [[] for _ in kinds]
    count = 0
    while test(*carry, *fixed)[0]:
        if count == limit:
            raise beyond_limit(count)
        outs = body(*carry, *fixed)
        carry = outs[:carried]
        for some, y in zip(lists, outs[carried:], strict=True):
            some.append(y)
        count += 1
    ends = (stacked(some, None, *kind) for some, kind in zip(lists, kinds, strict=True))
    return (INTEGER.type(count), *carry, *ends)


def while_batch(
    perform: Any,
    size: int,
    mapped: tuple[bool, ...],
    *values: Any,
    test: Block,
    body: Block,
    carried: int,
    **static: Any,
) -> tuple[Any, ...]:
    """Of `while_`, and of primitives that do the same and keep less for their derivative."""
    step, own, many = body.steady(size, mapped, carried)
    holds, (differs,) = test.batched(size, own)
    if differs:
        return _masked_while(perform, size, mapped, values, test, body, carried, **static)
    given = as_wanted(values, own, mapped, size)
    count, *outs = perform(*given, test=holds, body=step, carried=carried, **static)
    return told_apart((count, *outs), (False, *many))


def _masked_while(
    perform: Any,
    size: int,
    mapped: tuple[bool, ...],
    values: Sequence[Any],
    test: Block,
    body: Block,
    carried: int,
    **static: Any,
) -> tuple[Any, ...]:
    """The carry also holds how many steps each element has made, and whether it goes on."""
    refuse_effects("the number of steps of a loop", (test, body))
    own = (*(True,) * carried, *mapped[carried:])
    holds = test.batched(size, own, (True,))[0]
    given = as_wanted(values, own, mapped, size)
    kinds = body.kinds_in_batch(size, own)
    every = Recording()
    _, active, *_ = parameters(every, [((size,), INTEGER), ((size,), np.dtype(bool)), *kinds])
    with every:
        going = every.block([any_of(active, axes=(0,))])
    region = Recording()
    counts, active, *inside = parameters(
        region, [((size,), INTEGER), ((size,), np.dtype(bool)), *kinds]
    )
    with region:
        outs = _masked(size, active, inside, own, body, carried)
        (still,) = holds(*outs[:carried], *inside[carried:])
        counts = add(counts, convert(active, dtype=INTEGER))
        step = region.block([counts, still, *outs])
    (start,) = holds(*given)
    none = np.zeros(size, INTEGER)
    _, counts, _, *outs = perform(
        none, start, *given, test=going, body=step, carried=carried + 2, **static
    )
    return (counts, *outs)


def masked_scan(
    size: int,
    mapped: tuple[bool, ...],
    values: Sequence[Any],
    block: Block,
    carried: int,
    captured: int,
    reverse: bool,
) -> tuple[Any, ...]:
    """A scan in a batch whose elements differ in the number of steps, the first of the values.

    The carry also holds the number of the step; those behind its own change nothing of an element.
    """
    refuse_effects("the number of steps of a loop", (block,))
    counts, *values = values
    own = (*(True,) * carried, *mapped[1 + carried :])
    given = as_wanted(values, own, mapped[1:], size)
    kinds = block.kinds_in_batch(size, own)
    region = Recording()
    number, *inside = parameters(region, [((), INTEGER), *kinds[:carried]])
    total, *rest = parameters(region, [((size,), INTEGER), *kinds[carried:]])
    inside += rest
    with region:
        outs = _masked(size, less(number, total), inside, own, block, carried)
        step = region.block([add(number, -1 if reverse else 1), *outs])
    most = reduce_max(counts, axes=(0,))
    first = add(most, -1) if reverse else np.zeros((), INTEGER)
    _, *outs = scan(
        step, most, first, *given[:carried], counts, *given[carried:],
        carried=carried + 1, captured=captured + 1, length=None, reverse=reverse,
    )  # fmt: skip
    return tuple(outs)


def parameters(region: Recording, kinds: Iterable[Kind]) -> list[Tensor]:
    """New parameters of a region."""
    return [region.parameter(*kind) for kind in kinds]


def _masked(
    size: int,
    active: Any,
    values: Sequence[Any],
    mapped: Sequence[bool],
    block: Block,
    carried: int,
) -> tuple[Any, ...]:
    """A step of a batch that only the active elements make; the others keep their carry, and give
    zeros."""
    full = block.batched(size, (True,) * len(values), (True,) * len(block.results))[0]
    skipped = Recording()
    params = parameters(skipped, [full.kind(p) for p in full.params])
    given = [zeros(*full.kind(r)) for r in full.results[carried:]]
    skip = skipped.block([*params[:carried], *given])
    whole = as_wanted(values, (True,) * len(values), mapped, size)
    return choose(
        convert(active, dtype=INTEGER), *whole,
        blocks=(skip, full), shared=len(values), picked=len(block.results),
    )  # fmt: skip


_WHILE = declared("while", while_kernel, _while_rule, while_batch)
WHILES = tuple(_WHILE.values())
