"""Regions: computations recorded once, closed and level-free, to be run, differentiated, batched
and compiled as often as they are used.

The body of a loop or a function that is outlined runs once under a `Recording`. What this keeps is
a `Block`: primitives *together with their rules*, not operations, so that a user's own derivative
survives. A tensor of an older prompt, or of a program around it, that the body touches becomes a
parameter; therefore a block can be run at any level, on arrays, on Symbols or on tensors that a
newer prompt differentiates.

`Block.halves` cuts a body where its innermost continuation is: the forward half runs to the end of
the body, the backward half unwinds. What the backward half reads of the forward one is their
*frame*, as ordinary values. Both halves are blocks again, so control flow is closed under
derivatives of any order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextvars import Token
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lantern import tree
from lantern.batch import Batch
from lantern.control import Primitive, Prompt, Reverse, box, evaluate
from lantern.convert import asarray
from lantern.errors import short_traceback
from lantern.places import at_place, place, recording
from lantern.primitives import elementwise as e
from lantern.primitives import indexing
from lantern.primitives import structure as s
from lantern.ragged import batched, is_unsized
from lantern.symbol import Symbol
from lantern.tensor import Tensor

if TYPE_CHECKING:
    from staging.ir import Block as IRBlock

Array = np.ndarray[Any, Any]
Kind = tuple[tuple[int, ...], Any]
"""The shape and dtype of a value."""


class Slot(NamedTuple):
    """A value of a block: a parameter, or what a step made."""

    number: int


class Step(NamedTuple):
    """A primitive that a block performs: its arguments are slots and constants."""

    primitive: Primitive
    args: tuple[Any, ...]
    static: dict[str, Any]
    results: tuple[Slot, ...]
    many: bool  # whether the primitive returns a tuple
    place: str


@dataclass(eq=False)
class Block:
    """A recorded computation.

    Attributes:
        params: its parameters.
        steps: what it performs, in order.
        results: slots and constants.
        kinds: shape and dtype of every slot, by number.
        lowered: how a program writes it; filled in by `lantern.staged`.
    """

    params: tuple[Slot, ...]
    steps: tuple[Step, ...]
    results: tuple[Any, ...]
    kinds: Sequence[Kind]
    lowered: tuple[IRBlock, list[Array]] | None = None
    cut: dict[Hashable, Any] = field(default_factory=dict)
    batches: dict[Hashable, tuple[Block, tuple[bool, ...]]] = field(default_factory=dict)

    @property
    def linear(self) -> bool:
        """Whether every rule in it is linear in the adjoint, so that forward mode may pass."""
        return all(step.primitive.linear for step in self.steps)

    @property
    def has_effect(self) -> bool:
        """Whether a step, or one of a block that a step performs, does more than compute."""
        inside = (x for step in self.steps for x in step.static.values())
        blocks = (b for x in inside for b in (x if isinstance(x, tuple) else (x,)))
        return any(step.primitive.effect for step in self.steps) or any(
            b.has_effect for b in blocks if isinstance(b, Block)
        )

    def kind(self, value: Any) -> Kind:
        """The shape and dtype of a slot or a constant."""
        if type(value) is Slot:
            return self.kinds[value.number]
        return value.shape, value.dtype

    def __call__(self, *values: Any) -> tuple[Any, ...]:
        """Perform the steps on values of any level, one for each parameter."""
        known: dict[Any, Any] = dict(zip(self.params, values, strict=True))
        for step in self.steps:
            given = (known[a] if type(a) is Slot else a for a in step.args)
            with at_place(step.place):
                out = step.primitive.perform(*given, **step.static)
            known.update(zip(step.results, out if step.many else (out,), strict=True))
        return tuple(known[r] if type(r) is Slot else r for r in self.results)

    def halves(
        self,
        wanted: tuple[int, ...],
        free: frozenset[Slot],
        arrived: tuple[int, ...] | None = None,
    ) -> Halves:
        """The forward and the backward half, for the adjoints of some parameters.

        Args:
            wanted: the positions of the parameters.
            free: parameters that the backward half can read at no cost; the others join the frame.
            arrived: the positions of the results that have an adjoint, where the backward half
                shall do with these; the forward half and the frame are the same for all.
        """
        key = wanted, free, arrived
        if key not in self.cut:
            if arrived is None:
                self.cut[key] = _halves(self, wanted, free)
            else:
                self.cut[key] = _fewer(self, wanted, self.halves(wanted, free), arrived)
        return self.cut[key]

    def kinds_in_batch(self, size: int, mapped: Sequence[bool]) -> list[Kind]:
        """The kinds of the parameters where some of them are batches."""
        return [
            (batched(size, shape) if m else shape, dtype)
            for (shape, dtype), m in zip(map(self.kind, self.params), mapped, strict=True)
        ]

    def steady(
        self, size: int, mapped: tuple[bool, ...], carried: int
    ) -> tuple[Block, tuple[bool, ...], tuple[bool, ...]]:
        """`batched`, for the body of a loop: what a mapped value flows into is mapped, the carry
        until nothing changes any more. Also gives which parameters are mapped then."""
        while True:
            block, many = self.batched(size, mapped, mapped[:carried])
            grown = (*many[:carried], *mapped[carried:])
            if grown == mapped:
                return block, mapped, many
            mapped = grown

    def batched(
        self, size: int, mapped: tuple[bool, ...], forced: tuple[bool, ...] = ()
    ) -> tuple[Block, tuple[bool, ...]]:
        """The block on batches of some parameters, the batch axis leading; and which of the results
        are batches: those that depend on one, and the first ones where ``forced`` says so."""
        key = size, mapped, forced
        if key not in self.batches:
            region, prompt = Recording(), Batch(size)
            params = [region.parameter(*kind) for kind in self.kinds_in_batch(size, mapped)]
            inside = [Tensor(x, prompt) if m else x for x, m in zip(params, mapped, strict=True)]
            with region:
                outs = self(*inside)
                many = tuple(
                    (i < len(forced) and forced[i]) or (type(y) is Tensor and y.prompt is prompt)
                    for i, y in enumerate(outs)
                )
                values = [prompt.unbatch(y) if m else y for y, m in zip(outs, many, strict=True)]
            self.batches[key] = region.block(values), many
        return self.batches[key]


def nested(step: Step) -> Iterator[Block]:
    """The blocks that a step performs."""
    for static in step.static.values():
        for block in static if type(static) is tuple else (static,):
            if type(block) is Block:
                yield block


def walk(block: Block) -> Iterator[Step]:
    """Every step of a block, and of the blocks in it."""
    for step in block.steps:
        yield step
        for inner in nested(step):
            yield from walk(inner)


class Recording(Prompt):
    """The prompt of a body while it is recorded: its tensors hold Symbols, which give the types.

    Attributes:
        captures: tensors from outside that the body touched; `block` makes parameters of them.
    """

    __slots__ = ("captured", "captures", "kinds", "params", "steps", "symbols", "tokens", "types")

    def __init__(self) -> None:
        from lantern.staged.lowerings import LOWERINGS  # when something is staged
        from lantern.staged.stage import Stage

        super().__init__()
        self.types = Stage(LOWERINGS)
        self.symbols: list[Symbol] = []
        self.kinds: list[Kind] = []
        self.params: list[Slot] = []
        self.steps: list[Step] = []
        self.captures: list[Tensor] = []
        self.captured: dict[int, Slot] = {}
        self.tokens: list[Token[Any]] = []

    def __repr__(self) -> str:
        return "a recorded region"

    def __enter__(self) -> Recording:
        """While a body is recorded, what it does with tensors from outside is part of it."""
        self.tokens.append(recording.set(self))
        return self

    def __exit__(self, *_: Any) -> None:
        recording.reset(self.tokens.pop())

    def parameter(self, shape: tuple[int, ...], dtype: Any) -> Tensor:
        """A tensor of this region: a new parameter of its block."""
        slot = self.slot(self.types.parameter(shape, np.dtype(dtype)))
        self.params.append(slot)
        return Tensor(self.symbols[slot.number], self, slot)

    def slot(self, symbol: Symbol) -> Slot:
        """A slot for a value of the region."""
        self.symbols.append(symbol)
        self.kinds.append((symbol.shape, symbol.dtype))
        return Slot(len(self.symbols) - 1)

    def handle(self, prim: Primitive, args: Sequence[Any], params: dict[str, Any]) -> Any:
        if (region := recording.get()) is not None and region.level > self.level:
            return region.handle(prim, args, params)
        refs = tuple(map(self.reference, args))
        values = [self.symbols[r.number] if type(r) is Slot else r for r in refs]
        return self.record(prim, refs, params, evaluate(prim, values, params))

    def record(
        self, prim: Primitive, refs: tuple[Any, ...], params: dict[str, Any], out: Any
    ) -> Any:
        """A step whose results are of the types of ``out``."""
        many = type(out) is tuple
        symbols = [self.types.symbol(y) for y in (out if many else (out,))]
        slots = tuple(map(self.slot, symbols))
        self.steps.append(Step(prim, refs, params, slots, many, place()))
        made = tuple(Tensor(y, self, slot) for y, slot in zip(symbols, slots, strict=True))
        return made if many else made[0]

    def reference(self, x: Any) -> Any:
        """How a step names an operand: a slot, or the constant itself."""
        if type(x) is Tensor:
            if x.prompt is self:
                return x.mark
            if x.prompt is None and type(x.value) is not Symbol:
                return x.value
            return self.capture(x)
        return self.capture(Tensor(x)) if type(x) is Symbol else x

    @staticmethod
    def key(x: Tensor) -> int:
        """What tells tensors from outside apart."""
        return id(x.value) if x.prompt is None else id(x)

    def capture(self, x: Tensor) -> Slot:
        """The parameter that stands for a tensor from outside."""
        key = self.key(x)
        if key not in self.captured:
            self.captures.append(x)  # which also keeps the id from being used again
            symbol = self.types.parameter(x.shape, x.dtype)
            self.captured[key] = self.slot(symbol)
        return self.captured[key]

    def block(
        self,
        results: Sequence[Any],
        first: int | None = None,
        captures: Sequence[Tensor] | None = None,
    ) -> Block:
        """What has been recorded: first the parameters up to ``first`` (all), then the captures
        (those given, among which are all of its own), then the other parameters. Without any given,
        only captures that something needs remain."""
        params = self.params
        results = tuple(self.reference(box(y)) for y in results)
        steps, reads = needed(self.steps, results)
        if captures is None:
            self.captures = [x for x in self.captures if self.capture(x) in reads]
        met = [self.capture(x) for x in (self.captures if captures is None else captures)]
        first = len(params) if first is None else first
        order = (*params[:first], *met, *params[first:])
        return Block(order, tuple(steps), results, tuple(self.kinds))


def recorded(
    f: Callable[..., Any], leaves: Sequence[Any]
) -> tuple[Recording, list[Tensor], tree.Structure]:
    """Run ``f`` on tensors of a new region in place of the Tensors among ``leaves``.

    Returns:
        The region, whose `block` is still to be made; the results' leaves, and their structure.
    """
    region = Recording()
    inside = [region.parameter(x.shape, x.dtype) if type(x) is Tensor else x for x in leaves]
    with short_traceback(), region:
        results, structure = tree.flatten(f(*inside))
        results = [asarray(y) for y in results]
        for y in results:
            region.reference(y)  # one from outside is captured
    return region, results, structure


def origin(x: Tensor) -> str:
    """The user's line that made a tensor of a region, for messages."""
    steps = x.prompt.steps if isinstance(x.prompt, Recording) else []
    made = next((step.place for step in steps if x.mark in step.results), "")
    return f" made at {made}" if made else ""


def union(regions: Sequence[Recording]) -> list[Tensor]:
    """What several bodies captured, each tensor once."""
    captures = [x for region in regions for x in region.captures]
    return list({Recording.key(x): x for x in captures}.values())


class Halves(NamedTuple):
    """A block cut at its innermost continuation.

    Attributes:
        forward: from the parameters to the results, and behind them ``saved``.
        backward: from ``frame``, then the adjoints of the floating results, to the adjoints of the
            parameters in ``found``.
        frame: what the backward half reads: slots of the block.
        saved: those of the frame that ``forward`` returns behind the results.
        adjoints: the positions of the results whose adjoints ``backward`` takes.
        found: the positions of the parameters whose adjoints ``backward`` returns.
    """

    forward: Block
    backward: Block
    frame: tuple[Slot, ...]
    saved: tuple[Slot, ...]
    adjoints: tuple[int, ...]
    found: tuple[int, ...]


def floating(kind: Kind) -> bool:
    """Whether values of a kind have derivatives."""
    return kind[1].kind not in "biu"


class _Unwound(NamedTuple):
    """A block that has been run there and back.

    Attributes:
        forward: the steps there.
        backward: the steps back.
        params: the slots of the parameters.
        results: slots and constants.
        seeds: the slots of the adjoints that it was sent back with.
        found: the positions of the parameters at which an adjoint arrived.
        made: those adjoints: slots and constants.
        kinds: shape and dtype of every slot.
    """

    forward: list[Step]
    backward: list[Step]
    params: tuple[Slot, ...]
    results: tuple[Any, ...]
    seeds: tuple[Slot, ...]
    found: tuple[int, ...]
    made: tuple[Any, ...]
    kinds: tuple[Kind, ...]


def _unwound(block: Block, wanted: tuple[int, ...], arrived: tuple[int, ...]) -> _Unwound:
    """Run a block to its end, and back with adjoints of some results. What it does there has the
    same slots each time."""
    region, prompt = Recording(), Reverse()
    params = [region.parameter(*block.kind(p)) for p in block.params]
    inside = [prompt.variable(x) if i in wanted else x for i, x in enumerate(params)]
    with region, prompt:
        outs = block(*inside)
        values = [y.value if type(y) is Tensor and y.prompt is prompt else y for y in outs]
        border = len(region.steps)
        seeds = [region.parameter(*block.kind(block.results[i])) for i in arrived]
        for i, seed in zip(arrived, seeds, strict=True):
            y = outs[i]
            if type(y) is Tensor and y.prompt is prompt:
                prompt.accumulate(y.mark, seed, RESULT)
        prompt.unwind()
    adjoints = {i: prompt.adjoint_of(inside[i]) for i in wanted}
    found = tuple(i for i in wanted if adjoints[i] is not None)
    return _Unwound(
        region.steps[:border],
        region.steps[border:],
        tuple(p.mark for p in params),
        tuple(region.reference(box(v)) for v in values),
        tuple(x.mark for x in seeds),
        found,
        tuple(region.reference(adjoints[i]) for i in found),
        tuple(region.kinds),
    )


def _halves(block: Block, wanted: tuple[int, ...], free: frozenset[Slot]) -> Halves:
    adjoints = tuple(i for i, r in enumerate(block.results) if floating(block.kind(r)))
    run = _unwound(block, wanted, adjoints)
    backward, reads = needed(run.backward, run.made)
    again = dict(zip(run.params, block.params, strict=True))
    open_ = {slot for slot, p in again.items() if p in free}
    frame = reads - set(run.seeds)
    backward, frame = recomputed(run.forward, backward, frame, open_, run.kinds)
    ordered = tuple(sorted(frame))
    saved = tuple(slot for slot in ordered if slot not in open_)
    results = (*run.results, *saved)
    kept, _ = needed(run.forward, results)
    return Halves(
        Block(run.params, tuple(kept), results, run.kinds),
        Block((*ordered, *run.seeds), tuple(backward), run.made, run.kinds),
        ordered,
        saved,
        adjoints,
        run.found,
    )


def _fewer(block: Block, wanted: tuple[int, ...], h: Halves, arrived: tuple[int, ...]) -> Halves:
    """The halves of a block with a backward half for the adjoints of some results only. It reads
    less of the same frame, and computes again what the whole one does."""
    run = _unwound(block, wanted, arrived)
    forward = {slot for step in run.forward for slot in step.results}
    again = [step for step in h.backward.steps if not forward.isdisjoint(step.results)]
    steps, _ = needed([*again, *run.backward], run.made)
    backward = Block((*h.frame, *run.seeds), tuple(steps), run.made, run.kinds)
    return h._replace(backward=backward, adjoints=arrived, found=run.found)


RESULT = Primitive("a result", None, None)  # what seeds an adjoint


def slots(values: Iterable[Any]) -> set[Slot]:
    """The slots among slots and constants."""
    return {v for v in values if type(v) is Slot}


def needed(steps: Sequence[Step], results: Sequence[Any]) -> tuple[list[Step], set[Slot]]:
    """The steps that the results come from or that have an effect, and the slots that none of these
    makes."""
    reads = slots(results)
    kept: list[Step] = []
    for step in reversed(steps):
        if step.primitive.effect or not reads.isdisjoint(step.results):
            reads.difference_update(step.results)
            reads |= slots(step.args)
            kept.append(step)
    return kept[::-1], reads


def primitives_of(*performers: Any) -> frozenset[Primitive]:
    """The primitives behind functions that perform them."""
    return frozenset(f.primitive for f in performers)


LOADS = primitives_of(indexing.gather, indexing.static_slice)
VIEWS = primitives_of(s.reshape, s.broadcast_to, s.permute, s.flip, s.cast, s.convert)
CHEAP = VIEWS | primitives_of(
    e.add, e.subtract, e.multiply, e.divide, e.negative, e.absolute, e.where, e.maximum, e.minimum,
    e.exp, e.sigmoid, e.sigmoid_tail, e.sigmoid_of, e.tanh, e.sqrt, e.log, e.equal, e.not_equal,
    e.less, e.less_equal, e.greater, e.greater_equal, e.logical_and, e.logical_or, e.logical_not,
)  # fmt: skip


FEW = 8  # steps on numbers that are made again rather than one of them saved


def recomputed(
    forward: Sequence[Step],
    backward: list[Step],
    frame: set[Slot],
    free: set[Slot],
    kinds: Sequence[Kind],
) -> tuple[list[Step], set[Slot]]:
    """A smaller frame: what one elementwise step makes from the rest of the frame is made again,
    and a number what a few steps on numbers make from there.

    A view, a conversion, and what is loaded from something free, is also made again from something
    that takes its place in the frame, if that is no larger.
    """
    frame, numbers = set(frame), _Numbers(forward, kinds)

    def size(slot: Slot) -> int:
        return bytes_of(kinds[slot.number])

    for step in reversed(forward):
        loads = step.primitive in LOADS and slots(step.args[:1]) <= free
        if not (loads or step.primitive in CHEAP) or step.results[0] not in frame:
            continue
        (slot,) = step.results
        missing = slots(step.args) - frame - free
        moves = (loads or step.primitive in VIEWS) and sum(map(size, missing)) <= size(slot)
        if missing and not (moves or numbers.made_from(slot, frame | free)):
            continue
        frame.remove(slot)
        frame |= slots(step.args)
        backward = [step, *backward]
    return backward, frame


class _Numbers:
    """What cheap steps on single numbers make, and of what."""

    def __init__(self, steps: Sequence[Step], kinds: Sequence[Kind]) -> None:
        self.makers = {
            step.results[0]: step
            for step in steps
            if step.primitive in CHEAP and kinds[step.results[0].number][0] == ()
        }

    def made_from(self, slot: Slot, given: set[Slot]) -> bool:
        """Whether at most `FEW` such steps make a number from what is given."""
        steps: set[Slot] = set()
        open_ = [slot]
        while open_:
            some = open_.pop()
            if some in steps or (some in given and some != slot):
                continue
            if some not in self.makers or len(steps) == FEW:
                return False
            steps.add(some)
            open_ += [a for a in self.makers[some].args if type(a) is Slot]
        return True


def bytes_of(kind: Kind) -> int:
    """The bytes of a value; of one that has no size of its own, none."""
    shape, dtype = kind
    return 0 if is_unsized(shape, dtype) else math.prod(shape) * dtype.itemsize
