"""What the host does during one call of a program: it walks the blocks, and puts work on the
device; where the program decides something, it waits for the number and goes on accordingly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from backends.cuda.device import Device, Function, Span
from backends.cuda.lists import Rows
from backends.cuda.memory import Frame, Layout, is_placed, overwritable
from backends.cuda.module import Module
from backends.cuda.queue import Queue
from backends.cuda.steps import WORDS, Failing, Launch, reported
from staging.activations import Node
from staging.failures import BEYOND, failure
from staging.interpret import numpy_dtype
from staging.ir import NODE, Block, Op, Type, Value
from staging.lengths import sized
from staging.memory import Plan, Storage, plan_block

Array: TypeAlias = "np.ndarray[Any, Any]"
Place: TypeAlias = "Span | Rows | Node | Sequence[Any] | None"
Control: TypeAlias = "Callable[[Host, Scope, Op, Sequence[Any], Sequence[Any]], Sequence[Place]]"
MANY = 1 << 23  # launches that may fail, after which it is looked whether one did


class Scope(NamedTuple):
    """Where an operation stands: the plan of its block, and the memory that this works in."""

    plan: Plan
    frame: Frame


@dataclass(slots=True)
class Loaded:
    """A program that is compiled for a device.

    Attributes:
        name: of the program.
        device: where it runs.
        module: its kernels and steps.
        functions: the kernels by name.
        layout: where values lie in one range; None: each has a buffer of its own.
        plans: of operations that run by themselves, as blocks of one operation.
        launched: the kernels of launches.
        dead: for each operation of a block the values that nothing reads behind it.
    """

    name: str
    device: Device
    module: Module
    functions: Mapping[str, Function]
    layout: Layout | None
    launched: dict[Launch, Function] = field(default_factory=dict[Launch, Function])
    plans: dict[Op, tuple[Block, Plan]] = field(default_factory=dict[Op, "tuple[Block, Plan]"])
    dead: dict[Plan, list[list[Value]]] = field(default_factory=dict[Plan, "list[list[Value]]"])

    def function(self, launch: Launch) -> Function:
        """The kernel of a launch."""
        if launch not in self.launched:
            self.launched[launch] = self.functions[self.module.name(launch.kernel)]
        return self.launched[launch]

    def alone(self, op: Op) -> tuple[Block, Plan]:
        """An operation as a block, and its plan."""
        if op not in self.plans:
            block = Block(tuple(dict.fromkeys(op.inputs)), (op,), op.results)
            self.plans[op] = block, plan_block(block, {}, overwritable)
        return self.plans[op]

    def dying(self, plan: Plan) -> list[list[Value]]:
        """For each operation of a plan's block the values that lie where nothing is read later."""
        if plan not in self.dead:
            lying: dict[Storage, list[Value]] = {}
            for value, storage in plan.storages.items():
                lying.setdefault(storage, []).append(value)
            self.dead[plan] = [[v for s in ending for v in lying[s]] for ending in plan.ending]
        return self.dead[plan]


class Host:
    """One call of a program.

    Args:
        loaded: the program.
        queue: takes the work.
        lengths: of its tables, by number.
        controls: what performs operations that are not lowered, by name.
    """

    def __init__(
        self, loaded: Loaded, queue: Queue, lengths: Mapping[int, int],
        controls: Mapping[str, Control],
    ) -> None:  # fmt: skip
        self.loaded, self.queue, self.lengths = loaded, queue, lengths
        self.controls = controls
        self.failing: list[Op] = []  # of each launch that may fail, in order
        self.checked = 0  # how many of them did not
        self.saved = 0  # bytes of lists

    # Blocks and operations.

    def block(
        self, block: Block, scope: Scope, sources: Sequence[Place], targets: Sequence[Span | None]
    ) -> list[Place]:
        """Run a block.

        Args:
            block: its operations.
            scope: its plan, and the memory that it works in.
            sources: where its parameters lie.
            targets: where its results shall lie that are arrays; None: in new memory.

        Returns:
            Where its results lie: those that the plan keeps in a parameter's memory lie there.
        """
        plan, frame = scope
        ends: list[Any] = [
            frame.fresh(v.type) if target is None and is_placed(v.type) else target
            for v, target in zip(block.results, targets, strict=True)
        ]
        spans: dict[Storage, Any] = {}
        for storage in plan.storages.values():
            if storage.param is not None:
                spans[storage] = sources[storage.param]
            elif storage.result is not None:
                spans[storage] = ends[storage.result]
        values: dict[Value, Place] = dict(zip(block.params, sources, strict=True))
        for op, dying in zip(block.ops, self.loaded.dying(plan), strict=True):
            for v in op.results:
                storage = plan.storages[v]
                if storage not in spans:
                    spans[storage] = frame.room(storage, v.type) if is_placed(v.type) else None
            given = [values[v] for v in op.inputs]
            places = [spans[plan.storages[v]] for v in op.results]
            values |= zip(op.results, self.perform(op, scope, given, places), strict=True)
            for v in dying:
                values.pop(v, None)
                spans.pop(plan.storages[v], None)
        for k, v in enumerate(block.results):
            if is_placed(v.type):
                end = ends[k] if k in plan.copied else spans[plan.storages[v]]
                self.copy(end, values[v])
                ends[k] = end
            else:
                ends[k] = values[v]
        return ends

    def perform(
        self, op: Op, scope: Scope, given: Sequence[Any], targets: Sequence[Any]
    ) -> Sequence[Place]:
        """Perform an operation: its steps, or what the host does for it."""
        steps = self.loaded.module.steps.get(op)
        if steps is None:
            return self.controls[op.name](self, scope, op, given, targets)
        places: dict[Value, Span] = dict(zip(op.inputs, given, strict=True))
        places |= zip(op.results, targets, strict=True)
        for v in self.loaded.module.scratch[op]:
            places[v] = scope.frame.room((scope.plan, v), v.type)
        for step in steps:
            self.queue.step(self, op, step, places)
        return targets

    def alone(self, op: Op, given: Sequence[Place]) -> list[Place]:
        """Perform an operation by itself, with results in new memory."""
        block, plan = self.loaded.alone(op)
        sources = dict(zip(op.inputs, given, strict=True))
        scope = Scope(plan, self.frame.alone(block, plan))
        return self.block(
            block, scope, [sources[v] for v in block.params], [None] * len(op.results)
        )

    @cached_property
    def frame(self) -> Frame:
        """What takes new memory."""
        loaded = self.loaded
        return Frame(loaded.device, loaded.layout, None, self.lengths, loaded.name)

    def into(self, op: Op, given: Sequence[Span], target: Span) -> None:
        """Perform an operation of the host's own, which has one result, to a place; that may be
        the place of the first operand."""
        _, plan = self.loaded.alone(op)
        self.perform(op, Scope(plan, replace(self.frame, layout=None)), given, [target])

    # Numbers and memory.

    def copy(self, target: Span, source: Any) -> None:
        """Copy a value, unless it lies there already."""
        if target.bytes and target.address != source.address:
            self.queue.copy(target, source)

    def kept(self, place: Any) -> Any:
        """A copy of a value that stays when the memory of its block is used again."""
        if not isinstance(place, Span):
            return place
        span = self.frame.fresh(Type("uint8", (place.bytes,)))
        self.copy(span, place)
        return span

    def write(self, target: Span, number: int, dtype: str = "int64") -> None:
        """Put a number on the device."""
        self.queue.to_device(target, np.asarray(number, numpy_dtype(dtype)))

    def fetch(self, span: Span, type: Type) -> Array:
        """An array's elements, once they are computed; raises if something failed before."""
        array = np.empty(sized(type.shape, self.lengths), numpy_dtype(type.dtype))
        if array.nbytes:
            self.queue.to_host(span, array)
        self.check()
        return array

    def read(self, span: Span, dtype: str = "int64") -> int:
        """A number that decides what is done next."""
        return int(self.fetch(span, Type(dtype)))

    def zeros(self, type: Type) -> Any:
        """What is read behind the end of a list, and of a node that holds nothing."""
        if type.is_list:
            return ()
        if type.dtype == NODE:
            return [self.zeros(Type(NODE, type.shape[1:]))] * type.shape[0] if type.shape else None
        span = self.frame.fresh(type)
        self.clear(span)
        return span

    def clear(self, span: Span) -> None:
        """Set every byte to 0."""
        if span.bytes:
            self.queue.fill(span, 0)

    # Errors.

    @cached_property
    def words(self) -> Span:
        """Where kernels report errors."""
        span = self.frame.fresh(Type("uint64", (WORDS,)))
        self.queue.fill(span, 255)
        return span

    def number(self, failing: Failing) -> int:
        """The number of a launch that may fail."""
        if len(self.failing) == MANY:  # numbers have 24 bits
            self.check()
            self.failing.clear()
            self.checked = 0
        self.failing.append(failing.op)
        return len(self.failing)

    def check(self) -> None:
        """Raise what the first launch reported that failed."""
        if len(self.failing) == self.checked:
            return
        words = np.empty(WORDS, np.uint64)
        self.queue.join()
        self.queue.device.to_host(self.words, words)
        found = reported([int(word) for word in words])
        if found is not None:
            number, index, axis = found
            op = self.failing[number - 1]
            if op.name == "while":
                raise failure(op, index, BEYOND)
            raise failure(op, index, axis, sized(op.inputs[0].type.shape, self.lengths))
        self.checked = len(self.failing)
