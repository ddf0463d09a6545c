"""Where values lie: which of them share memory, what a result may take over from a parameter, and
how much memory that needs.

Values that lie in one place, one after another, are a `Storage`. A storage is a parameter's memory,
or the memory that the caller gives for a result, or a range of the arena. An operation may write a
result over an operand when nothing reads the operand later and each of its elements is read before
or when the one at its place is written (`overwritable`). A parameter's memory is written only where
its owner gave it away: donated parameters of a program, the carry of a scan.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from staging.agenda import sums_in_place
from staging.ir import ITEMSIZE, Block, Op, Program, Type, Value, shared_blocks
from staging.ops import OPS

ALIGNMENT = 64

Owned = Mapping[int, Collection[int]]
Parts = Callable[[Op], int]
Over = Callable[[Op], Sequence[Collection[int]]]


@dataclass(slots=True, eq=False)
class Storage:
    """Memory that values of a block lie in, one after another.

    Attributes:
        bytes: how much; of tables, for a row.
        length: the number of the tables' length; 0 if none lies there.
        first: the operation that writes it first; -1 for a parameter.
        last: the last operation that reads or writes it; the number of operations for a result.
        param: the parameter whose memory it is, if it is one's.
        result: the result that lies there in the end, if one does.
    """

    bytes: int
    first: int
    last: int
    param: int | None = None
    result: int | None = None
    length: int = 0

    @classmethod
    def of(cls, type: Type, first: int, last: int, param: int | None = None) -> Storage:
        """A storage for a value of a type."""
        length = type.shape[0] if type.is_table else 0
        return cls(type.bytes, first, last, param, None, length)

    def holds(self, type: Type) -> bool:
        """Whether a value of a type takes as much memory."""
        return (self.bytes, self.length) == (type.bytes, type.shape[0] if type.is_table else 0)

    @property
    def in_arena(self) -> bool:
        """Whether it is neither a parameter's memory nor a result's, and its size is known."""
        return self.param is None and self.result is None and not self.length

    @property
    def in_region(self) -> bool:
        """Whether it is neither, and its size is known when the program runs."""
        return self.param is None and self.result is None and self.length != 0


@dataclass(slots=True, eq=False)
class Plan:
    """Where the values of a block lie.

    Attributes:
        storages: the storage of each value.
        starting: for each operation, the storages that it is the first to write.
        ending: for each operation, the storages that nothing reads after it.
        kept: for each result, the parameter in whose memory it lies, if it lies in one's.
        copied: the results that lie elsewhere, and are copied to their place in the end.
        nested: the plan of the block of each `scan`, and of each `call` without a kind.
        branches: the plans of the blocks of each `switch` and `while`.
        shared: whether several operations hold the block: then it works in a range of its own, for
            which it can be compiled once.
    """

    storages: dict[Value, Storage]
    starting: list[list[Storage]]
    ending: list[list[Storage]]
    kept: tuple[int | None, ...]
    copied: tuple[int, ...]
    nested: dict[Op, Plan]
    branches: dict[Op, list[Plan]]
    shared: bool = False


Shared = dict[Block, list[tuple[Owned, Plan]]]


def plan_program(program: Program, over: Over | None = None) -> Plan:
    """The plan of a program, whose results may take over the memory of donated parameters.

    Args:
        program: any program.
        over: over which operands a backend may write the results of an operation, if that is less
            than `overwritable`.

    Example:
        >>> from staging.text import parse_program
        >>> program = parse_program('''program @step(%p: float32[9] donated, %g: float32[9]) {
        ...   %q = sub(%p, %g): float32[9]
        ...   return (%q)
        ... }''')
        >>> plan_program(program).kept
        (0,)
    """
    results = range(len(program.block.results))
    shared: Shared = {block: [] for block in shared_blocks(program.block)}
    owned = dict.fromkeys(program.donated, results)
    return _Planner(program.block, owned, shared, over or overwritable).plan()


def plan_block(block: Block, owned: Owned, over: Over | None = None) -> Plan:
    """The plan of a block that stands alone.

    Args:
        block: any block.
        owned: the parameters whose memory may be written, and which results each may hold.
        over: as in `plan_program`.
    """
    shared: Shared = {one: [] for one in shared_blocks(block)}
    return _Planner(block, owned, shared, over or overwritable).plan()


def peak_memory(program: Program, parts: Parts | None = None) -> int:
    """The bytes of the arena that a program's intermediate values need, its parameters and results
    not included; what a kernel needs for itself while it runs is not, either.

    Args:
        program: an optimised program.
        parts: among how many parts a backend divides the steps of a `scan` without a carry; each
            works in a range of its own. None: it divides none.

    Example:
        >>> from staging.text import parse_program
        >>> peak_memory(parse_program('''program @p(%x: float32[256]) {
        ...   %a = exp(%x): float32[256]
        ...   %b = reduce(%a) {kind='sum', axes=(0,)}: float32[]
        ...   return (%b)
        ... }'''))
        1024
    """
    return _frame(program.block, plan_program(program), {}, parts or undivided)


def undivided(op: Op) -> int:
    """One part."""
    return 1


def _frame(block: Block, plan: Plan, frames: dict[Plan, int], parts: Parts) -> int:
    """The bytes of a range in which a block works."""
    if plan not in frames:
        arena = Arena()
        _lay(block, plan, arena, frames, parts)
        arena.pack()
        frames[plan] = arena.size
    return frames[plan]


def _lay(block: Block, plan: Plan, arena: Arena, frames: dict[Plan, int], parts: Parts) -> None:
    """Take and give the ranges of a block in the order in which it runs."""
    ranges: dict[Storage, Range] = {}
    for i, op in enumerate(block.ops):
        for storage in plan.starting[i]:
            if storage.in_arena:
                ranges[storage] = arena.take(storage.bytes)
        inner = plan.nested.get(op)
        plans = plan.branches.get(op, [inner] if inner else [])
        spare = [arena.take(v.type.bytes) for v in spares(op, plans[-1])] if plans else []
        for part, own in zip(op.blocks, plans, strict=False):
            count = parts(op) if op.name == "scan" else 1
            if own.shared or count > 1:
                inside = undivided if count > 1 else parts
                arena.give(arena.take(count * _frame(part, own, frames, inside)))
            else:
                _lay(part, own, arena, frames, parts)
        for taken in spare:
            arena.give(taken)
        for storage in plan.ending[i]:
            if storage.in_arena:
                arena.give(ranges[storage])


def spares(op: Op, plan: Plan) -> list[Value]:
    """The results of a loop that need a second buffer: the carries that a step cannot write over
    those of the step before."""
    return [op.results[k] for k, j in carries(op).items() if plan.kept[j] != j]


def carries(op: Op) -> dict[int, int]:
    """The results of a loop that are its last carry, and the number of each in the carry."""
    if op.name not in ("scan", "while"):
        return {}
    first = 1 if op.name == "while" else 0
    return {first + j: j for j in range(cast(int, op.attributes["carried"]))}


class _Planner:
    """The storages of one block while they are found.

    Args:
        block: any block.
        owned: the parameters whose memory may be written, and which results each may hold.
        shared: the blocks that several operations hold, with their plans once they are made, and
            what may be written over in each.
        over: over which operands the results of an operation may be written.
    """

    def __init__(self, block: Block, owned: Owned, shared: Shared, over: Over) -> None:
        self.block, self.owned, self.shared, self.overwritable = block, owned, shared, over
        self.end = len(block.ops)
        self.last: dict[Value, int] = {v: i for i, op in enumerate(block.ops) for v in op.inputs}
        self.last |= dict.fromkeys(block.results, self.end)
        self.storages: dict[Value, Storage] = {}
        self.nested: dict[Op, Plan] = {}
        self.branches: dict[Op, list[Plan]] = {}
        self.over = {op: over(op) for op in block.ops}
        self.goals = self.made_in_place()
        self.hopes = self.made_over()
        for i, param in enumerate(block.params):
            self.storages[param] = Storage.of(param.type, -1, self.last.get(param, -1), i)

    def made_in_place(self) -> dict[Value, int]:
        """For each value that becomes a result as it is, or in another shape, which."""
        makers = {v: op for op in self.block.ops for v in op.results}
        goals: dict[Value, int] = {}
        for k, value in enumerate(self.block.results):
            while value in makers and makers[value].name == "reshape":
                (value,) = makers[value].inputs
            goals.setdefault(value, k)
        return goals

    def made_over(self) -> dict[Value, int]:
        """For each value that such a one, in the end, is perhaps written over: which it is."""
        hopes = dict(self.goals)
        for i, op in reversed(list(enumerate(self.block.ops))):
            over = range(1) if op.name == "reshape" else ()
            for k, result in enumerate(op.results):
                for j in sorted(over or self.over[op][k]):
                    value = op.inputs[j]
                    if result in hopes and value not in hopes and self.last[value] <= i:
                        hopes[value] = hopes[result]
                        break
        return hopes

    def plan(self) -> Plan:
        for i, op in enumerate(self.block.ops):
            self.place(i, op)
        kept: list[int | None] = [None] * len(self.block.results)
        for value, k in self.goals.items():
            storage = self.storages[value]
            if storage.param is None:
                storage.result = k
                storage.param = self.unused(storage, k)
            elif self.may_hold(storage.param, k):
                storage.result = k
            kept[k] = storage.param if storage.result == k else None
        copied = tuple(k for k, v in enumerate(self.block.results) if self.storages[v].result != k)
        starting: list[list[Storage]] = [[] for _ in range(self.end)]
        ending: list[list[Storage]] = [[] for _ in range(self.end)]
        for storage in dict.fromkeys(self.storages.values()):
            if storage.first >= 0:
                starting[storage.first].append(storage)
            if 0 <= storage.last < self.end:
                ending[storage.last].append(storage)
        return Plan(
            self.storages, starting, ending, tuple(kept), copied, self.nested, self.branches
        )

    def may_hold(self, param: int, k: int) -> bool:
        """Whether a result may lie in a parameter's memory in the end."""
        fits = self.block.params[param].type == self.block.results[k].type
        return k in self.owned.get(param, ()) and fits

    def unused(self, storage: Storage, k: int) -> int | None:
        """A parameter that may hold a result and is not read any more when that is first written;
        its memory is taken."""
        for j, param in enumerate(self.block.params):
            there = self.storages[param]
            if there.last < storage.first and there.result is None and self.may_hold(j, k):
                there.result = k
                return j
        return None

    def place(self, i: int, op: Op) -> None:
        """Find storages for the results of an operation."""
        if op.name == "reshape":
            self.take(i, op.results[0], self.storages[op.inputs[0]])
            return
        if op.name == "scan":
            carried = cast(int, op.attributes["carried"])
            owned = {k: (k,) for k in range(carried)}
            self.nested[op] = self.inner(op.blocks[0], owned).plan()
        elif op.name == "call" and "kind" not in op.attributes:
            self.nested[op] = self.called(op.blocks[0], self.given(i, op))
        elif op.name == "while":
            owned = {k: (k,) for k in range(cast(int, op.attributes["carried"]))}
            self.branches[op] = [
                self.inner(block, {} if number == 0 else owned).plan()
                for number, block in enumerate(op.blocks)
            ]
        elif op.name in ("agenda", "unwind"):
            self.branches[op] = [
                self.inner(block, owned).plan()
                for block, owned in zip(op.blocks, sums_in_place(op), strict=True)
            ]
        elif op.name == "switch":
            self.branches[op] = [self.called(block, {}) for block in op.blocks]
        taken: set[Storage] = set()
        for k, result in enumerate(op.results):
            called = op in self.nested and op.name == "call"
            if called:
                inner = self.nested[op].kept[k]
                over = () if inner is None else (inner,)
            else:
                over = self.over[op][k]
            found = [
                s
                for j in over
                if (s := self.storages[op.inputs[j]]) not in taken
                and self.fits(i, op, s, result)
                and all(n in over for n, v in enumerate(op.inputs) if self.storages[v] is s)
            ]
            best = max(found, key=lambda s: s.param is not None, default=None)
            if not called and (best is None or best.param is None):
                best = self.released(i, result, best) or best
            taken.add(self.take(i, result, best or Storage.of(result.type, i, i)))

    def released(self, i: int, result: Value, best: Storage | None) -> Storage | None:
        """A parameter's memory that a result may take, where what it would else be written over was
        first written too early for that."""
        goal = self.goals.get(result)
        if goal is None or best is None:
            return None
        storages = [self.storages[p] for p in self.block.params]
        free = [s for j, s in enumerate(storages) if s.last < i and self.may_hold(j, goal)]
        return next((s for s in free if s.last >= best.first), None)

    def inner(self, block: Block, owned: Owned) -> _Planner:
        """A planner for a block inside."""
        return _Planner(block, owned, self.shared, self.overwritable)

    def called(self, block: Block, owned: Owned) -> Plan:
        """The plan of a called block. Of a shared one there are two at most: one for all calls that
        give at least what the first does, and one that writes over nothing."""
        if block not in self.shared:
            return self.inner(block, owned).plan()
        plans = self.shared[block]
        for given, plan in plans:
            if all(set(results) <= {*owned.get(j, ())} for j, results in given.items()):
                return plan
        given = {} if plans else {j: results for j, results in owned.items() if results}
        plan = self.inner(block, given).plan()
        plan.shared = True
        plans.append((given, plan))
        return plan

    def given(self, i: int, op: Op) -> Owned:
        """The operands that a called block may write results over."""
        return {
            j: [k for k, result in enumerate(op.results) if self.fits(i, op, storage, result)]
            for j, value in enumerate(op.inputs)
            if [self.storages[v] for v in op.inputs].count(storage := self.storages[value]) == 1
        }

    def fits(self, i: int, op: Op, storage: Storage, result: Value) -> bool:
        """Whether a result of an operation may lie where an operand did."""
        if storage.last > i or not storage.holds(result.type):
            return False
        if storage.param is None:
            return True
        goal = self.hopes.get(result)
        return goal is not None and self.may_hold(storage.param, goal)

    def take(self, i: int, value: Value, storage: Storage) -> Storage:
        """Let a value lie somewhere."""
        self.storages[value] = storage
        storage.last = max(i, storage.last, self.last.get(value, i))
        return storage


def overwritable(op: Op) -> list[Collection[int]]:
    """For each result of an operation the operands over which it may be written, if they end there:
    each of their elements is read before or when the one at its place is written."""
    count = len(op.results)
    if OPS[op.name].elementwise:
        size = ITEMSIZE[op.results[0].type.dtype]
        return [[j for j, v in enumerate(op.inputs) if ITEMSIZE[v.type.dtype] == size]]
    if op.name == "scatter":
        return [(0,)]
    if found := carries(op):
        first = 1 if op.attributes.get("length") == -1 else 0
        return [(first + found[k],) if k in found else () for k in range(count)]
    if op.name == "call" and op.attributes.get("kind") == "loop":
        rows, columns = (cast(int, op.attributes[key]) for key in ("rows", "columns"))
        return _overwritable_in_loop(op.blocks[0], rows * columns)
    if op.name == "call" and op.attributes.get("kind") == "product":
        return _overwritable_in_loop(op.blocks[0], op.results[0].type.size)
    return [()] * count


def _overwritable_in_loop(block: Block, size: int) -> list[Collection[int]]:
    """The parameters of a loop nest (or of a product and what follows it, where there is one pass)
    of which each element is last read in the pass over a row that writes a result, at its place;
    for each result."""
    makers = {v: op.name for op in block.ops for v in op.results}
    passes = passes_of(block)
    whole = [j for j, p in enumerate(block.params) if p.type.size == size]
    last = {j: _last_read(block, block.params[j], passes) for j in whole}
    over: list[Collection[int]] = []
    for result in block.results:
        if result.type.size != size or makers.get(result) in ("reduce", "matmul"):
            over.append(())
            continue
        width = ITEMSIZE[result.type.dtype]
        over.append([
            j for j, read in last.items()
            if read <= passes[result] and ITEMSIZE[block.params[j].type.dtype] == width
        ])  # fmt: skip
    return over


def passes_of(block: Block) -> dict[Value, int]:
    """In which pass over a row each value of a loop nest can be made: one more for each reduction
    along the row before it."""
    passes: dict[Value, int] = dict.fromkeys(block.params, 0)
    for op in block.ops:
        ready = max((passes[v] for v in op.inputs), default=0)
        passes |= dict.fromkeys(op.results, ready + is_along(op))
    return passes


def is_along(op: Op) -> bool:
    """Whether an operation reduces along rows, as opposed to columns."""
    if op.name != "reduce":
        return False
    shape = op.inputs[0].type.shape
    long = [i for i, n in enumerate(shape) if n != 1]
    return not long or long[-1] in cast("tuple[int, ...]", op.attributes["axes"])


def _last_read(block: Block, param: Value, passes: Mapping[Value, int]) -> float:
    """The last pass that reads a parameter, by way of what is computed again in each pass;
    infinite where it is read at other places than those that are written."""
    alike = {param}
    latest = max((passes[v] for v in block.results if v is param), default=-1)
    for op in block.ops:
        if alike.isdisjoint(op.inputs):
            continue
        if op.name == "reduce":
            latest = max(latest, passes[op.results[0]] - is_along(op))
        elif OPS[op.name].elementwise or op.name == "reshape":
            alike.update(op.results)
            latest = max((latest, *(passes[v] for v in op.results if v in block.results)))
        else:
            return float("inf")
    return latest


@dataclass(slots=True, eq=False)
class Range:
    """A range of an arena, and when it is in use: from one moment until before another."""

    number: int
    bytes: int
    since: int
    until: int = -1
    start: int = -1


@dataclass(slots=True)
class Arena:
    """One block of memory, in which ranges are taken and given back, and laid out in the end, when
    it is known for how long each is used: the largest first, each where it fits most tightly.

    Example:
        >>> arena = Arena()
        >>> a, b = arena.take(10), arena.take(100)
        >>> arena.give(a)
        >>> c = arena.take(64)
        >>> arena.give(b), arena.give(c)
        (None, None)
        >>> arena.pack()
        >>> arena.size, a.start == c.start
        (192, True)
    """

    ranges: list[Range] = field(default_factory=list[Range])
    clock: int = 0
    size: int = 0

    def take(self, size: int) -> Range:
        """A range of at least so many bytes, aligned, from now on."""
        rounded = -(-size // ALIGNMENT) * ALIGNMENT
        self.ranges.append(Range(len(self.ranges), rounded, self.clock))
        self.clock += 1
        return self.ranges[-1]

    def keep(self, size: int) -> Range:
        """A range that is in use from the beginning to the end."""
        taken = self.take(size)
        taken.since = -1
        return taken

    def give(self, taken: Range) -> None:
        """Take a range back."""
        taken.until = self.clock
        self.clock += 1

    def pack(self) -> None:
        """Lay out the ranges: their ``start``, and the ``size`` of the whole."""
        self.size = 0
        placed: list[Range] = []
        for taken in self.ranges:
            taken.until = taken.until if taken.until >= 0 else self.clock
        for one in sorted(self.ranges, key=lambda r: (-r.bytes, r.since)):
            beside = [r for r in placed if r.since < one.until and one.since < r.until]
            one.start = _tightest(sorted(beside, key=lambda r: r.start), one.bytes)
            self.size = max(self.size, one.start + one.bytes)
            placed.append(one)


def _tightest(beside: Sequence[Range], size: int) -> int:
    """The start of the smallest hole between ranges that takes so many bytes; or after all."""
    best, least, end = -1, -1, 0
    for other in beside:
        hole = other.start - end
        if hole >= size and (best < 0 or hole < least):
            best, least = end, hole
        end = max(end, other.start + other.bytes)
    return best if best >= 0 else end
