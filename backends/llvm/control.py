"""Operations that hold blocks, and those with effects: how the entry performs them.

A loop writes its body once and gives it pointers: to the carry, to what is captured, and to the
elements of what is stacked, of this step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from backends.llvm import agenda, machine, moves, nests, products
from backends.llvm.code import ENVIRONMENT, Code
from backends.llvm.contractions import contraction
from backends.llvm.division import block_nanoseconds, count
from backends.llvm.dtypes import memory
from backends.llvm.frames import (
    Elements,
    Rows,
    Stacked,
    is_pointer,
    is_single,
    load_single,
    makes_lists,
    makes_tables,
    returned,
    steps_of,
    store_single,
    types_of,
)
from backends.llvm.gemm.ahead import packed_ahead
from backends.llvm.inline import add_lists, clipped, emit, fits, within_limit
from backends.llvm.threads import CODE
from staging.ir import Op, Value, walk
from staging.memory import spares

if TYPE_CHECKING:
    from backends.llvm.program import Entry

LASTING = 100_000  # nanoseconds of a step beside which what leads from one to the next is nothing


def call(entry: Entry, op: Op) -> None:
    """The block in line, one function for all that share it, or one loop nest for it."""
    (block,) = op.blocks
    sources, targets = ([*map(entry.pointer, values)] for values in (op.inputs, op.results))
    if "kind" not in op.attributes:
        entry.perform(block, entry.plans[op], sources, targets)
        return
    inside = dict(zip((*block.params, *block.results), (*sources, *targets), strict=True))
    entry.buffers |= inside
    inner = Op("call", block.params, block.results, op.attributes, (), op.place)
    if op.attributes["kind"] == "product":
        products.followed(entry, inner, block)
    elif op.attributes["kind"] == "contraction":
        entry.run_kernel(inner, contraction(block, entry.module.threads))
    else:
        rows, columns = (cast(int, op.attributes[k]) for k in ("rows", "columns"))
        apart = set(sources).isdisjoint(targets)
        nest = nests.fused(block, rows, columns, entry.module.threads, apart)
        entry.run_kernel(inner, nest)
    for value in inside:
        del entry.buffers[value]


class Carry:
    """The carry of a loop while it runs. What a step cannot write in place goes back and forth
    between two buffers.

    Args:
        entry: what is written.
        op: the loop.
        results: the last carry; its memory is one of the two buffers.
        start: the first carry.
        twice: which of them need a second buffer.
        flips: whether an odd number of steps is made, so that the last is in the results; None if
            that is not known: then `finish` copies.
    """

    def __init__(
        self,
        entry: Entry,
        op: Op,
        results: Sequence[Value],
        start: Sequence[Value],
        twice: Sequence[Value],
        flips: bool | None,
    ) -> None:
        self.entry, self.results, self.flips = entry, results, flips
        self.others = {v: Value(v.type) for v in twice}
        for other in self.others.values():
            entry.allocate(other, op.place)
        self.now: list[str] = []
        self.then: list[str] = []
        for value, given in zip(results, start, strict=True):
            other = self.others.get(value, value)
            first, second = (other, value) if flips else (value, other)
            if entry.pointer(first) != entry.pointer(given):
                entry.copy(entry.pointer(first), entry.pointer(given), value.type)
            self.now.append(entry.pointer(first))
            self.then.append(entry.pointer(second))
        self.slots = {
            i: (entry.slot("ptr"), entry.slot("ptr"))
            for i, (a, b) in enumerate(zip(self.now, self.then, strict=True))
            if a != b
        }
        for i, pair in self.slots.items():
            for slot, pointer in zip(pair, (self.now[i], self.then[i]), strict=True):
                entry.do(f"store ptr {pointer}, ptr {slot}")

    def step(self) -> tuple[list[str], list[str]]:
        """Within the loop: where this step reads the carry, and where it writes it."""
        now, then = list(self.now), list(self.then)
        for i, pair in self.slots.items():
            now[i], then[i] = (self.entry.let(f"load ptr, ptr {slot}") for slot in pair)
        return now, then

    def advance(self, now: Sequence[str], then: Sequence[str]) -> None:
        """At the end of a step."""
        for i, pair in self.slots.items():
            for slot, pointer in zip(pair, (then[i], now[i]), strict=True):
                self.entry.do(f"store ptr {pointer}, ptr {slot}")

    def finish(self) -> None:
        """Behind the loop."""
        for i, (slot, _) in self.slots.items() if self.flips is None else ():
            last = self.entry.let(f"load ptr, ptr {slot}")
            value = self.results[i]
            target = self.entry.pointer(value)
            with self.entry.when(self.entry.let(f"icmp ne ptr {last}, {target}")):
                self.entry.copy(target, last, value.type)
        for other in self.others.values():
            self.entry.release(other)


def scan(entry: Entry, op: Op) -> None:
    """A loop around the block, of a length that is known now or only when it runs."""
    parts = parts_of_map(op, entry.module.threads)
    if parts > 1:
        divided_map(entry, op, parts)
        return
    (block,) = op.blocks
    plan = entry.plans[op]
    length, carried, captured = (
        cast(int, op.attributes[k]) for k in ("length", "carried", "captured")
    )
    inputs, extent, flips = op.inputs, length, length % 2 == 1
    if length == -1:
        extent = entry.let(f"load i64, ptr {entry.pointer(op.inputs[0])}")
        inputs, flips = op.inputs[1:], None
    elif length < -1:
        extent, flips = entry.length(length), None
    inner = carried + captured
    fixed, rows, ends = inputs[carried:inner], inputs[inner:], op.results[carried:]
    read = loaded(entry, rows) if length == -1 else [*map(entry.pointer, rows)]
    elements, made = steps_of(entry, op, str(extent), read, [*map(entry.pointer, ends)], False)
    carry = Carry(entry, op, op.results[:carried], inputs[:carried], spares(op, plan), flips)
    kept = [*map(entry.pointer, fixed)]
    stays = zip(block.params[carried:inner], kept, strict=True)
    reverse, brief = bool(op.attributes["reverse"]), block_nanoseconds(block) >= LASTING
    with packed_ahead(entry, block, stays), entry.loop(extent, reverse, brief) as i:
        entry.poll()
        now, then = carry.step()
        sources = [*now, *kept, *aligned(entry, elements, i)]
        targets = [*then, *made.places(i)]
        with returned(entry, block):
            entry.run_block(block, plan, sources, targets)
        carry.advance(now, then)
    carry.finish()
    if length == -1:
        ended(entry, ends, made.lists(str(extent)))


def while_(entry: Entry, op: Op) -> None:
    """The second block, while the first one holds."""
    test, body = op.blocks
    plans = entry.branches[op]
    carried = cast(int, op.attributes["carried"])
    fixed = [entry.pointer(v) for v in op.inputs[carried:]]
    count, ends = op.results[0], op.results[1 + carried :]
    rows = Rows(entry, op, types_of(body.results[carried:]), packed=False)
    carry = Carry(
        entry, op, op.results[1 : 1 + carried], op.inputs[:carried], spares(op, plans[1]), None
    )
    holds, steps = entry.slot("i8"), entry.slot("i64")
    entry.do(f"store i64 0, ptr {steps}")
    with entry.forever() as leave:
        now, then = carry.step()
        entry.run_block(test, plans[0], [*now, *fixed], [holds])
        leave(entry.let(f"icmp eq i8 {entry.let(f'load i8, ptr {holds}')}, 0"))
        entry.poll()
        i = entry.let(f"load i64, ptr {steps}")
        within_limit(entry, op, i)
        targets = [*then, *rows.places(i)]
        with returned(entry, body):
            entry.run_block(body, plans[1], [*now, *fixed], targets)
        entry.do(f"store i64 {entry.let(f'add i64 {i}, 1')}, ptr {steps}")
        carry.advance(now, then)
    carry.finish()
    made = entry.let(f"load i64, ptr {steps}")
    entry.do(f"store i64 {made}, ptr {entry.pointer(count)}")
    ended(entry, ends, rows.lists(made))


def ended(entry: Entry, ends: Sequence[Value], lists: Sequence[str]) -> None:
    """Write the lists of a loop to where those values lie."""
    for value, made in zip(ends, lists, strict=True):
        entry.do(f"store ptr {made}, ptr {entry.pointer(value)}")


def loaded(entry: Entry, lists: Sequence[Value]) -> list[str]:
    """The pointers that lists are."""
    return [entry.let(f"load ptr, ptr {entry.pointer(v)}") for v in lists]


def aligned(entry: Entry, elements: Elements | Stacked, i: str) -> list[str]:
    """Where kernels may read the elements of a step: rows of single values are without gaps."""
    places = elements.places(i)
    for k, type in enumerate(elements.types):
        if isinstance(elements, Elements) and is_single(type):
            value = load_single(entry, type, places[k], 1)
            places[k] = entry.slot("ptr" if is_pointer(type) else memory(type.dtype))
            store_single(entry, type, value, places[k])
    return places


def empty(entry: Entry, op: Op) -> None:
    """No list at all, or a table of zeros."""
    (out,) = op.results
    size = entry.bytes(out.type)
    entry.do(f"call void @llvm.memset.p0.i64(ptr {entry.pointer(out)}, i8 0, i64 {size}, i1 false)")


def switch(entry: Entry, op: Op) -> None:
    """The block that the index names."""
    index = entry.let(f"load i64, ptr {entry.pointer(op.inputs[0])}")
    index = clipped(entry, index, len(op.blocks))
    sources, targets = ([*map(entry.pointer, vs)] for vs in (op.inputs[1:], op.results))
    for number, (block, plan) in enumerate(zip(op.blocks, entry.branches[op], strict=True)):
        with entry.when(entry.let(f"icmp eq i64 {index}, {number}")):
            entry.perform(block, plan, sources, targets)


def parts_of_map(op: Op, threads: int) -> int:
    """Among how many parts the iterations of a `scan` are divided: of one without a carry whose
    iterations are enough to keep that many threads busy, and can go at the same time."""
    if op.name != "scan":
        return 1
    (block,) = op.blocks
    length = cast(int, op.attributes["length"])
    if op.attributes["carried"] or length < 0 or any(map(goes_alone, walk(block))):
        return 1
    parts = count(length * block_nanoseconds(block), length, threads)
    rounds = -(-length // threads)
    return parts if length >= 0.75 * rounds * threads else 1


def add(entry: Entry, op: Op) -> None:
    """The sum of two lists of arrays; other sums are loop nests."""

    def of_elements(entry: Entry, inner: Op, places: Sequence[str]) -> list[str]:
        entry.buffers |= zip((*inner.inputs, *inner.results), places, strict=True)
        entry.run_op(inner)
        return []

    made = add_lists(entry, op, loaded(entry, op.inputs), of_elements)
    entry.do(f"store ptr {made}, ptr {entry.pointer(op.results[0])}")


def goes_alone(op: Op) -> bool:
    """Whether an operation shows something, which goes in order, or uses the memory of lists, as
    nodes that are opened may."""
    uses = any(v.type.is_list for v in (*op.inputs, *op.results)) or makes_tables(op)
    return op.name in ("print", "unpack") or makes_lists(op) or uses


def divided_map(entry: Entry, op: Op, parts: int) -> None:
    """Each part runs its share of the iterations, in a range of the arena of its own."""
    values = [*op.inputs, *op.results]
    name, size = part_of_map(entry, op, parts)
    part = Code()
    own = part.offset("%arena", "%part", size)
    known = {"%pool": "null", "%frames": "null"}
    words = [*(f"%a{n}" for n in range(len(values))), own]
    words += [known.get(name, name) for name in ENVIRONMENT]
    given = ", ".join(f"ptr {word}" for word in words)
    failed = part.let(f"call i32 @{name}({given}, i64 %part)")
    to = part.let(f"getelementptr i64, ptr %error, i64 {CODE}")
    part.do(f"store i64 {part.let(f'zext i32 {failed} to i64')}, ptr {to}")
    part.do(f"ret i1 {part.let(f'icmp ne i32 {failed}, 0')}")
    names = [*(f"%a{n}" for n in range(len(values))), "%arena", "%show", "%lengths", "%stop"]
    params = ", ".join(f"ptr {name}" for name in (*names, "%error"))
    each = entry.function("map", "i1", f"{params}, i64 %part", part.body())
    pointer, taken = entry.take(parts * size)
    shared = (pointer, "%show", "%lengths", "%stop")
    pointers = [f"ptr {p}" for p in (*map(entry.pointer, values), *shared)]
    failed = entry.parallel(each, pointers, parts, fallible=True)
    entry.arena.give(taken)
    with entry.when(str(failed)):
        code = entry.let(f"load i64, ptr {entry.let(f'getelementptr i64, ptr %error, i64 {CODE}')}")
        entry.do(f"ret i32 {entry.let(f'trunc i64 {code} to i32')}")
        entry.label(entry.fresh("unreached"))


def part_of_map(entry: Entry, op: Op, parts: int) -> tuple[str, int]:
    """The function that runs one part's share of the iterations of a map, one after another, up to
    one that fails; and the bytes that it works in."""
    (block,) = op.blocks
    length, captured = (cast(int, op.attributes[k]) for k in ("length", "captured"))
    values, count = [*op.inputs, *op.results], len(op.inputs)
    names = [f"%a{n}" for n in range(len(values))]
    inner, size = entry.inner(1), 0
    rows = Stacked(inner, names[captured:count], types_of(block.params[captured:]))
    ends = Stacked(inner, names[count:], types_of(block.results))
    start, share = inner.share(length, parts)
    if fits(entry, block):
        fixed = [
            load_single(inner, v.type, name) if is_single(v.type) else name
            for v, name in zip(values[:captured], names, strict=False)
        ]
        with inner.loop(share) as k:
            i = inner.let(f"add nuw nsw i64 {start}, {k}")
            ends.write(i, emit(inner, block, [*fixed, *rows.read(i)]))
    else:
        step, size = entry.outlined(block, entry.plans[op], 1)
        with inner.loop(share) as k:
            inner.poll()
            i = inner.let(f"add nuw nsw i64 {start}, {k}")
            given = [*names[:captured], *rows.places(i), *ends.places(i), "%arena"]
            inner.call_outlined(step, given)
    entry.module.loops = True
    inner.do("ret i32 0")
    params = ", ".join(f"ptr {word}" for word in (*names, "%arena", *ENVIRONMENT))
    return entry.function("part", "i32", f"{params}, i64 %part", inner.laid_out()), size


def scatter(entry: Entry, op: Op) -> None:
    """Into a copy of the operand, or into the operand where the result lies there."""
    in_place = entry.pointer(op.inputs[0]) == entry.pointer(op.results[0])
    entry.run_kernel(op, moves.scatter(op, entry.module.threads, in_place))


def show(entry: Entry, op: Op) -> None:
    """Call back with the addresses of what is shown."""
    entry.module.shown.append(op)
    array = entry.slot(f"[{max(1, len(op.inputs))} x ptr]")
    for i, value in enumerate(op.inputs):
        at = entry.let(f"getelementptr ptr, ptr {array}, i64 {i}")
        entry.do(f"store ptr {entry.pointer(value)}, ptr {at}")
    entry.do(f"call void %show(i32 {len(entry.module.shown) - 1}, ptr {array})")


def require(entry: Entry, op: Op) -> None:
    """Leave with an error unless the condition holds."""
    condition = entry.let(f"load i8, ptr {entry.pointer(op.inputs[0])}")
    entry.leave_if(entry.let(f"icmp eq i8 {condition}, 0"), op)


CONTROL: dict[str, Callable[[Entry, Op], None]] = {
    "matmul": products.matmul,
    "call": call,
    "scan": scan,
    "switch": switch,
    "while": while_,
    "empty": empty,
    "scatter": scatter,
    "print": show,
    "require": require,
    **machine.RECURSION,
    **agenda.RECURSION,
}
