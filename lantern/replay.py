"""`replay`: perform a block, keep what it was given, and run it again on the way back.

`call` cuts a block at its innermost continuation and keeps the frame between the halves. `replay`
lets both halves run on the way back, one behind the other, as one block: nothing of the inside is
kept. That block is replayed in its turn when it is differentiated, and so on for every order.

What `lantern.segments` and `lantern.revolve` make of loops is written with this one primitive.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from lantern.batch import told_apart
from lantern.blocks import at_positions, declared, frame_of, wanted_floats
from lantern.regions import Block, Recording, Slot


def replay(block: Block, *values: Any, like: Block | None = None) -> tuple[Any, ...]:
    """Perform a block whose insides are computed again, instead of kept, by the backward half.

    Args:
        block: what to perform.
        *values: one for each parameter, of any level.
        like: a block with the same results that is differentiated in place of this one, where that
            takes less memory.
    """
    linear = block.linear and (like is None or like.linear)
    return _REPLAY[linear](*values, block=block, like=like)


class Gradient(NamedTuple):
    """Both halves of a block, as one.

    Attributes:
        block: from the values of some parameters, then the adjoints of the floating results, to the
            adjoints of the parameters in ``found``.
        reads: the positions of those parameters.
        adjoints: the positions of the floating results.
        found: the positions of the parameters that have an adjoint.
    """

    block: Block
    reads: tuple[int, ...]
    adjoints: tuple[int, ...]
    found: tuple[int, ...]


def gradient(block: Block, wanted: tuple[int, ...]) -> Gradient:
    """The forward half of a block and the backward half behind it; made once."""
    key = "gradient", wanted
    if key not in block.cut:
        block.cut[key] = _gradient(block, wanted)
    return block.cut[key]


def _gradient(block: Block, wanted: tuple[int, ...]) -> Gradient:
    h = block.halves(wanted, frozenset(block.params))
    region = Recording()
    params = [region.parameter(*block.kind(p)) for p in block.params]
    seeds = [region.parameter(*block.kind(block.results[i])) for i in h.adjoints]
    with region:
        outs = h.forward(*params)
        frame = frame_of(h, dict(zip(h.forward.params, params, strict=True)), outs)
        whole = region.block(h.backward(*frame, *seeds))
    own = whole.params[: len(params)]
    reads = tuple(i for i, p in enumerate(own) if p in slots_read(whole))
    order = (*(own[i] for i in reads), *whole.params[len(params) :])
    return Gradient(
        Block(order, whole.steps, whole.results, whole.kinds), reads, h.adjoints, h.found
    )


def slots_read(block: Block) -> set[Slot]:
    """The slots that some step or result reads."""
    steps = (a for step in block.steps for a in step.args)
    return {a for a in (*steps, *block.results) if type(a) is Slot}


def _replay_rule(
    *values: Any, block: Block, like: Block | None, wanted: tuple[int, ...] | None = None
) -> Any:
    back = gradient(block if like is None else like, wanted_floats(block, wanted))
    outs = replay(block, *values, like=like)
    given, arity = [values[i] for i in back.reads], len(values)
    dz = yield outs
    if not back.found:
        return (None,) * arity
    found = replay(back.block, *given, *(dz[i] for i in back.adjoints))
    return at_positions(arity, back.found, found)


def _replay_kernel(*values: Any, block: Block, like: Block | None) -> tuple[Any, ...]:
    return block(*values)


def _replay_batch(
    perform: Any,
    size: int,
    mapped: tuple[bool, ...],
    *values: Any,
    block: Block,
    like: Block | None,
) -> tuple[Any, ...]:
    batched, many = block.batched(size, mapped)
    if like is not None:
        other = like.batched(size, mapped)[1]
        many = tuple(a or b for a, b in zip(many, other, strict=True))
        batched, like = block.batched(size, mapped, many)[0], like.batched(size, mapped, many)[0]
    return told_apart(replay(batched, *values, like=like), many)


_REPLAY = declared("replay", _replay_kernel, _replay_rule, _replay_batch)
REPLAYS = tuple(_REPLAY.values())
