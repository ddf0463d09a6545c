"""The primitives that perform one of several blocks (`lantern.regions`).

`switch` performs the one that an index names; its rule does the same with the halves. Where the
index differs within a batch, `choose` performs every block and picks results, and adjoints, element
by element. It picks only after differentiating: what the blocks that were not chosen compute,
infinities and nans included, reaches no adjoint.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lantern.activations import RECURSIONS
from lantern.batch import as_wanted, refuse_effects, told_apart
from lantern.blocks import declared, one_by_one
from lantern.ragged import Empty, is_ragged, zeros
from lantern.regions import Block, Halves, Kind, Slot, floating, primitives_of, walk

Blocks = tuple[Block, ...]


def switch(index: Any, *values: Any, blocks: Blocks) -> tuple[Any, ...]:
    """Perform ``blocks[index]``, the index clipped to what there is.

    Args:
        index: int64, shape ().
        *values: one for each parameter; all blocks have parameters and results of the same types.
        blocks: what to choose from.
    """
    return _SWITCH[all(b.linear for b in blocks)](index, *values, blocks=blocks)


class Cut(NamedTuple):
    """The halves of several blocks, of which one is performed.

    Attributes:
        forward: each from the parameters to the results, and behind them the frame; in the places
            of the frame that a block does not use stand zeros.
        backward: each from the parameters in ``reads``, the frame, and the adjoints of the floating
            results, to the adjoints of the parameters in ``found``.
        reads: the positions of the parameters that some backward half reads.
        adjoints: the positions of the floating results.
        found: the positions of the parameters that some backward half has an adjoint for.
    """

    forward: Blocks
    backward: Blocks
    reads: tuple[int, ...]
    adjoints: tuple[int, ...]
    found: tuple[int, ...]


def _cut(blocks: Blocks, wanted: tuple[int, ...]) -> Cut:
    key = "switch", blocks[1:], wanted
    if key not in blocks[0].cut:
        blocks[0].cut[key] = _make_cut(blocks, wanted)
    return blocks[0].cut[key]


def _make_cut(blocks: Blocks, wanted: tuple[int, ...]) -> Cut:
    halves = [b.halves(wanted, frozenset(b.params)) for b in blocks]
    layout: list[Kind] = []
    homes = [_places([h.forward.kind(s) for s in h.saved], layout) for h in halves]
    reads = sorted({h.forward.params.index(s) for h in halves for s in h.frame if s not in h.saved})
    found = sorted({i for h in halves for i in h.found})
    adjoints = halves[0].adjoints
    forward, backward = [], []
    for block, h, places in zip(blocks, halves, homes, strict=True):
        own = h.forward
        count = len(block.results)
        frame = dict(zip(places, h.saved, strict=True))
        kept = tuple(frame.get(i, zeros(*kind)) for i, kind in enumerate(layout))
        forward.append(Block(own.params, own.steps, (*own.results[:count], *kept), own.kinds))
        spare = iter(range(len(own.kinds), len(own.kinds) + len(layout)))
        slots = [frame[i] if i in frame else Slot(next(spare)) for i in range(len(layout))]
        kinds = (*own.kinds, *(k for i, k in enumerate(layout) if i not in frame))
        seeds = h.backward.params[len(h.frame) :]
        params = (*(own.params[i] for i in reads), *slots, *seeds)
        arrived = dict(zip(h.found, h.backward.results, strict=True))
        results = tuple(
            arrived[i] if i in arrived else zeros(*own.kind(own.params[i])) for i in found
        )
        backward.append(Block(params, h.backward.steps, results, kinds))
    return Cut(tuple(forward), tuple(backward), tuple(reads), adjoints, tuple(found))


def _places(kinds: Sequence[Kind], layout: list[Kind]) -> list[int]:
    """For each kind a place of its own in a layout, which grows where it has none left. Lists share
    no place: within a batch they cannot be picked element by element."""
    taken: list[int] = []
    for kind in kinds:
        same = (i for i, k in enumerate(layout) if k == kind and i not in taken)
        free = iter(()) if is_ragged(kind[0]) else same
        place = next(free, len(layout))
        if place == len(layout):
            layout.append(kind)
        taken.append(place)
    return taken


def _floats(values: Sequence[Any], positions: Sequence[int] | None) -> tuple[int, ...]:
    """The positions, counted without the index, of floating values whose adjoints are wanted."""
    some = range(len(values)) if positions is None else [i - 1 for i in positions if i]
    return tuple(i for i in some if floating(((), values[i].dtype)))


def _switch_rule(
    index: Any, *values: Any, blocks: Blocks, wanted: tuple[int, ...] | None = None
) -> Any:
    cut = _cut(blocks, _floats(values, wanted))
    outs = switch(index, *values, blocks=cut.forward)
    reads = [values[i] for i in cut.reads]
    arity, count = len(values), len(blocks[0].results)
    frame = outs[count:]
    dz = yield outs[:count]
    if not cut.found:
        return (None,) * (1 + arity)
    seeds = (dz[i] for i in cut.adjoints)
    found = switch(index, *reads, *frame, *seeds, blocks=cut.backward)
    at = dict(zip(cut.found, found, strict=True))
    return (None, *(at.get(i) for i in range(arity)))


def _switch_kernel(index: Any, *values: Any, blocks: Blocks) -> tuple[Any, ...]:
    return blocks[min(max(int(index), 0), len(blocks) - 1)](*values)


def _switch_batch(
    perform: Any, size: int, mapped: tuple[bool, ...], index: Any, *values: Any, blocks: Blocks
) -> tuple[Any, ...]:
    own, results = mapped[1:], len(blocks[0].results)
    if mapped[0] and any(map(_recursive, blocks)):  # which need not end where it is not chosen
        kinds = [((), index.dtype), *map(blocks[0].kind, blocks[0].params)]
        one = functools.partial(switch, blocks=blocks)
        return one_by_one(one, size, mapped, (index, *values), kinds)
    if mapped[0]:
        refuse_effects("which branch is taken", blocks)
        every = tuple(b.batched(size, (True,) * len(own), (True,) * results)[0] for b in blocks)
        whole = as_wanted(values, (True,) * len(own), own, size)
        return choose(index, *whole, blocks=every, shared=len(own), picked=results)
    each = [b.batched(size, own)[1] for b in blocks]
    many = tuple(any(some) for some in zip(*each, strict=True))
    outs = switch(index, *values, blocks=tuple(b.batched(size, own, many)[0] for b in blocks))
    return told_apart(outs, many)


def _recursive(block: Block) -> bool:
    """Whether a block performs a recursive function, and nothing that makes lists."""
    kinds = (*map(block.kind, block.params), *map(block.kind, block.results))
    return not any(is_ragged(shape) for shape, _ in kinds) and any(
        step.primitive in _RECURSIONS for step in walk(block)
    )


_RECURSIONS = primitives_of(*RECURSIONS)


# One for each element of a batch ------------------------------------------------------------------


def choose(index: Any, *values: Any, blocks: Blocks, shared: int, picked: int) -> tuple[Any, ...]:
    """Perform every block on a batch, and pick results by an index.

    Args:
        index: int64, shape (N, ...), clipped to what there is.
        *values: operands that all blocks share, the axes of the index leading; then those of the
            first block alone, of the second, and so on.
        blocks: each from the shared operands and its own to ``picked`` results, the axes of the
            index leading, and others of its own. Of a result that is a list, all blocks but one
            give an empty one.
        shared: the number of operands that are shared.
        picked: the number of results that are picked.

    Returns:
        The picked results, then the other ones of each block.
    """
    linear = all(b.linear for b in blocks)
    return _CHOOSE[linear](index, *values, blocks=blocks, shared=shared, picked=picked)


def divided(values: Sequence[Any], blocks: Blocks, shared: int) -> list[tuple[Any, ...]]:
    """The operands of each block."""
    rest = iter(values[shared:])
    return [
        (*values[:shared], *(next(rest) for _ in range(len(b.params) - shared))) for b in blocks
    ]


def _choose_kernel(
    index: Any, *values: Any, blocks: Blocks, shared: int, picked: int
) -> tuple[Any, ...]:
    index = np.clip(index, 0, len(blocks) - 1)
    with np.errstate(all="ignore"):  # of what is not picked
        results = [b(*own) for b, own in zip(blocks, divided(values, blocks, shared), strict=True)]
    chosen = list(results[0][:picked])
    for number, some in enumerate(results[1:], 1):
        for i, y in enumerate(some[:picked]):
            if is_ragged(blocks[number].kind(blocks[number].results[i])[0]):
                chosen[i] = chosen[i] if type(y) is Empty else y
                continue
            here = (index == number).reshape(index.shape + (1,) * (y.ndim - index.ndim))
            chosen[i] = np.where(here, y, chosen[i])
    return (*chosen, *(y for some in results for y in some[picked:]))


def _choose_rule(
    index: Any,
    *values: Any,
    blocks: Blocks,
    shared: int,
    picked: int,
    wanted: tuple[int, ...] | None = None,
) -> Any:
    cut = _cut_choice(blocks, shared, picked, _floats(values, wanted))
    outs = choose(index, *values, blocks=cut.forward, shared=shared, picked=picked)
    own = iter(outs[picked:])
    yielded, reads, arity = list(outs[:picked]), [values[i] for i in cut.reads], len(values)
    frames: list[list[Any]] = []
    for block, given, h in zip(blocks, divided(values, blocks, shared), cut.halves, strict=True):
        yielded += (next(own) for _ in range(len(block.results) - picked))
        known = dict(zip(h.forward.params, given, strict=True))
        known |= {slot: next(own) for slot in h.saved}
        frames.append([known[slot] for slot in cut.alone(h, shared)])
    dz = yield tuple(yielded)
    if not any(h.found for h in cut.halves):
        return (None,) * (1 + arity)
    seeds = [dz[i] for i in cut.halves[0].adjoints if i < picked]
    start = picked
    for frame, block, h in zip(frames, blocks, cut.halves, strict=True):
        frame += (dz[start + i - picked] for i in h.adjoints if i >= picked)
        start += len(block.results) - picked
    found = choose(
        index, *reads, *seeds, *(x for frame in frames for x in frame),
        blocks=cut.backward, shared=len(reads) + len(seeds), picked=len(cut.found),
    )  # fmt: skip
    at = dict(zip((*cut.found, *cut.places), found, strict=True))
    return (None, *(at.get(i) for i in range(arity)))


class ChoiceCut(NamedTuple):
    """The halves of blocks that are all performed.

    Attributes:
        halves: of each.
        forward: the forward half of each.
        backward: each from the shared operands in ``reads``, the adjoints of the picked floating
            results, what it reads alone, and the adjoints of its own floating results; to the
            adjoints of the shared operands in ``found``, then those of its own.
        reads: the positions of the shared operands that some backward half reads.
        found: the positions of those that have an adjoint.
        places: the positions of the operands, not shared, that have one.
    """

    halves: tuple[Halves, ...]
    forward: Blocks
    backward: Blocks
    reads: tuple[int, ...]
    found: tuple[int, ...]
    places: tuple[int, ...]

    def alone(self, h: Halves, shared: int) -> list[Slot]:
        """What of a frame belongs to one block only."""
        return [slot for slot in h.frame if slot not in h.forward.params[:shared]]


def _cut_choice(blocks: Blocks, shared: int, picked: int, wanted: tuple[int, ...]) -> ChoiceCut:
    halves: list[Halves] = []
    places: list[int] = []
    start = shared
    for b in blocks:
        own = range(start, start + len(b.params) - shared)
        mine = [i if i < shared else i - start + shared for i in wanted if i < shared or i in own]
        h = b.halves(tuple(mine), frozenset(b.params))
        halves.append(h)
        places += (i - shared + start for i in h.found if i >= shared)
        start = own.stop
    read = {slot: i for h in halves for i, slot in enumerate(h.forward.params[:shared])
            if slot in h.frame}  # fmt: skip
    reads = tuple(sorted(set(read.values())))
    found = tuple(sorted({i for h in halves for i in h.found if i < shared}))
    backward: list[Block] = []
    cut = ChoiceCut(tuple(halves), tuple(h.forward for h in halves), (), reads, found, ())
    for h in halves:
        params = h.forward.params
        seeds = h.backward.params[len(h.frame) :]
        count = sum(i < picked for i in h.adjoints)
        arrived = dict(zip(h.found, h.backward.results, strict=True))
        none = {i: zeros(*h.forward.kind(params[i])) for i in found}
        order = (*(params[i] for i in reads), *seeds[:count], *cut.alone(h, shared),
                 *seeds[count:])  # fmt: skip
        results = [arrived.get(i, none[i]) for i in found]
        results += [arrived[i] for i in h.found if i >= shared]
        kinds = h.backward.kinds
        backward.append(Block(order, h.backward.steps, tuple(results), kinds))
    return cut._replace(backward=tuple(backward), places=tuple(places))


def _choose_batch(
    perform: Any,
    size: int,
    mapped: tuple[bool, ...],
    index: Any,
    *values: Any,
    blocks: Blocks,
    shared: int,
    picked: int,
) -> tuple[Any, ...]:
    index, *whole = as_wanted((index, *values), (True,) * len(mapped), mapped, size)
    every = [b.batched(size, (True,) * len(b.params), (True,) * len(b.results))[0] for b in blocks]
    return choose(index, *whole, blocks=tuple(every), shared=shared, picked=picked)


_SWITCH = declared("switch", _switch_kernel, _switch_rule, _switch_batch)
_CHOOSE = declared("choose", _choose_kernel, _choose_rule, _choose_batch)
SWITCHES = tuple(_SWITCH.values())
CHOICES = tuple(_CHOOSE.values())
