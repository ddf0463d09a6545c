"""Where values lie on the device: what `staging.memory` plans, laid out in one range, or, so that
each access beyond a value is seen, every storage in a buffer of its own.

A block works in a *frame*: a range that its own storages, its kernels' scratch and the blocks
inside share, each while it is in use. A block that several operations hold has one frame, laid out
once and put at another place for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from backends.cuda import merging, products
from backends.cuda.device import Buffer, Device, Span
from staging import memory
from staging.ir import NODE, Block, Op, Type, Value
from staging.memory import Arena, Plan, Range, Storage, spares

Taker: TypeAlias = "Storage | tuple[Plan, Value] | tuple[Plan, Op, int]"
Scratch: TypeAlias = Callable[[Op], Sequence[Value]]


def overwritable(op: Op) -> Sequence[Collection[int]]:
    """For each result the operands over which parallel threads may write it: those of which a
    thread reads the element before it writes the one at its place. Products and reductions read
    elements that other threads write."""
    if op.name == "call" and op.attributes.get("kind") == "loops":
        return merging.overwritable(op)
    if op.name == "call" and op.attributes.get("kind") == "products":
        return [()] * len(op.results)
    if op.name == "call" and op.attributes.get("kind") == "product":
        return [products.overwritable(op)] * len(op.results)
    if op.name == "call" and any(inner.name == "reduce" for inner in op.blocks[0].ops):
        return [()] * len(op.results)
    return memory.overwritable(op)


def is_placed(type: Type) -> bool:
    """Whether a value is an array, which lies on the device; lists and nodes are the host's."""
    return not type.is_list and type.dtype != NODE


@dataclass(slots=True)
class Layout:
    """Where everything starts that a program takes memory for.

    Attributes:
        scratch: the values that an operation's kernels work with.
        ranges: relative to the frame: of a storage; of scratch, and of the second buffer of a
            carry, by its value; of the frame of a block inside, by its operation and number; both
            in a plan, as one block may have several.
        frames: how many bytes the blocks of a plan work in.
    """

    scratch: Scratch
    ranges: dict[Taker, Range] = field(default_factory=dict[Taker, Range])
    frames: dict[Plan, int] = field(default_factory=dict[Plan, int])

    def frame(self, block: Block, plan: Plan) -> int:
        """The bytes that a block works in; it is laid out when that is first asked."""
        if plan not in self.frames:
            arena = Arena()
            self.lay(block, plan, arena)
            arena.pack()
            self.frames[plan] = arena.size
        return self.frames[plan]

    def lay(self, block: Block, plan: Plan, arena: Arena) -> None:
        """Take and give ranges in the order in which a block runs."""
        for i, op in enumerate(block.ops):
            for storage in plan.starting[i]:
                if storage.in_arena:
                    self.ranges[storage] = arena.take(storage.bytes)
            inner = plan.nested.get(op)
            plans = plan.branches.get(op, [inner] if inner else [])
            own = [*(spares(op, plans[-1]) if plans else ()), *self.scratch(op)]
            own = [v for v in own if is_placed(v.type) and not v.type.is_table]
            for value in own:
                self.ranges[plan, value] = arena.take(value.type.bytes)
            for number, (part, its) in enumerate(zip(op.blocks, plans, strict=False)):
                if its.shared or op.name in ("agenda", "unwind"):
                    taken = arena.take(self.frame(part, its))
                    self.ranges[plan, op, number] = taken
                    arena.give(taken)
                else:
                    self.lay(part, its, arena)
            for value in own:
                arena.give(self.ranges[plan, value])
            for storage in plan.ending[i]:
                if storage.in_arena:
                    arena.give(self.ranges[storage])


@dataclass(frozen=True, slots=True)
class Frame:
    """The memory that a block works in while it runs.

    Attributes:
        device: where it is.
        layout: what lies where; None: everything is a buffer of its own.
        base: the range; None with no layout.
        lengths: of tables, by number.
        name: of the program, for who asks what memory is for.
    """

    device: Device
    layout: Layout | None
    base: Span | None
    lengths: Mapping[int, int]
    name: str

    def room(self, taker: Taker, type: Type) -> Span:
        """The place of a value of a type, as it was laid out; of a table, a new one."""
        if type.is_table or self.layout is None or self.base is None:
            return self.fresh(type)
        return self.base.part(self.layout.ranges[taker].start, type.bytes)

    def fresh(self, type: Type, what: str = "values") -> Span:
        """A buffer for a value of a type, which is so and so called where memory runs out."""
        return self.taken(self.bytes(type), what)

    def taken(self, bytes: int, what: str) -> Span:
        """A buffer.

        Raises:
            MemoryError: there is no more; says who holds what.
        """
        return whole(self.device.empty(bytes, f"{what} of {self.name}"))

    def bytes(self, type: Type) -> int:
        """How long a value of a type is."""
        return type.bytes * (self.lengths[type.shape[0]] if type.is_table else 1)

    def inner(self, plan: Plan, op: Op, number: int) -> Frame:
        """The frame of a block of an operation."""
        if self.layout is None or self.base is None:
            return self
        taken = self.layout.ranges.get((plan, op, number))
        if taken is None:
            return self
        return replace(self, base=self.base.part(taken.start, taken.bytes))

    def alone(self, block: Block, plan: Plan) -> Frame:
        """A new frame, for a block that runs by itself."""
        if self.layout is None:
            return self
        base = self.taken(self.layout.frame(block, plan), "intermediate values")
        return replace(self, base=base)


def whole(buffer: Buffer) -> Span:
    """All of a buffer."""
    return Span(buffer, 0, buffer.bytes)
