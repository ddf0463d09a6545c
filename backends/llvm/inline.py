"""Blocks of single values, written in line: what they compute stays in registers.

A value is *single* if it is one element, or one list: it fits a register. A block *fits* if all
that it makes is single, whatever loops and branches are in it; of arrays it reads elements only.
Such a block needs no kernel and no memory. The interface, for whatever writes the control flow
around it::

    fits(entry, block)                   whether a block can be written in line
    emit(entry, block, given)            write it; the values of its results
    emit_op(entry, op, given)            the same for one operation, and `fits_op`

``given`` holds, for each parameter or operand, a register of the type `frames.register_of`, and for
an array its address. What fails leaves by `Entry.leave_if`. Code goes where the entry stands; after
that the entry may stand in another basic block of the same function. State that loops change lies
in slots, which LLVM turns into registers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from backends.llvm.dtypes import load
from backends.llvm.frames import (
    Elements,
    Rows,
    element_of,
    is_single,
    load_single,
    register_of,
    returned,
    steps_of,
    store_single,
    types_of,
)
from backends.llvm.scalar import ELEMENTS, element
from backends.views import VIEWS
from staging.failures import BEYOND
from staging.ir import Block, Op, Type, Value, walk

if TYPE_CHECKING:
    from backends.llvm.program import Entry

SHORT = 1 << 16  # steps that go without a look for an interrupt
REPEATED = 64  # operations of a block that may be written wherever it is held


def fits(entry: Entry, block: Block) -> bool:
    """Whether a block can be written in line."""
    if block not in entry.fitting:
        made = [v for op in block.ops for v in op.results]
        entry.fitting[block] = all(is_single(v.type) for v in (*made, *block.results)) and all(
            fits_op(entry, op) for op in block.ops
        )
    return entry.fitting[block]


def fits_op(entry: Entry, op: Op) -> bool:
    """Whether an operation can be written in line. A loop whose length is known may stack elements
    in arrays; where those lie the entry must know."""
    if op.name not in EMIT:
        return False
    results = op.results
    if op.name == "scan":
        results = results[: cast(int, op.attributes["carried"])]
        if op.attributes["length"] == -1 and not all(is_single(p.type) for p in rows_of(op)):
            return False  # what lists hold is packed: an array in one may lie anywhere
    if op.name in REDUCING and op.inputs[0].type.size != 1:
        return False
    if op.name in ELEMENTS and any(v.type.is_list for v in op.inputs):
        return op.name == "add" and is_single(element_of(op.results[0].type))
    large = any(block in entry.repeated for block in op.blocks)
    return (
        all(is_single(v.type) for v in results)
        and not large
        and all(fits(entry, block) for block in op.blocks)
    )


def rows_of(op: Op) -> Sequence[Value]:
    """The parameters of a `scan`'s block that are elements of what it goes along."""
    carried, captured = (cast(int, op.attributes[k]) for k in ("carried", "captured"))
    return op.blocks[0].params[carried + captured :]


def emit(entry: Entry, block: Block, given: Sequence[str]) -> list[str]:
    """Write a block that fits; the registers of its results."""
    values = dict(zip(block.params, given, strict=True))
    for op in block.ops:
        results = emit_op(entry, op, [values[v] for v in op.inputs])
        values |= zip(op.results, results, strict=True)
    return [values[v] for v in block.results]


def emit_op(entry: Entry, op: Op, given: Sequence[str]) -> list[str]:
    """Write one operation that fits; the registers of its results, addresses of arrays."""
    return EMIT[op.name](entry, op, given)


def perform(entry: Entry, op: Op) -> None:
    """Write an operation that fits where values lie in memory."""
    given = [
        load_single(entry, v.type, entry.pointer(v)) if is_single(v.type) else entry.pointer(v)
        for v in op.inputs
    ]
    for value, made in zip(op.results, emit_op(entry, op, given), strict=True):
        if is_single(value.type):
            store_single(entry, value.type, made, entry.pointer(value))


def repeated(blocks: Sequence[Block]) -> frozenset[Block]:
    """Of the blocks that several operations hold those that are too large to be written in line at
    each."""
    return frozenset(b for b in blocks if sum(1 for _ in walk(b)) > REPEATED)


# One element --------------------------------------------------------------------------------------


def elementwise(entry: Entry, op: Op, given: Sequence[str]) -> list[str]:
    if op.results[0].type.is_list:
        return [add_lists(entry, op, given, emit_op)]
    return [element(entry, op, given)]


def add_lists(
    entry: Entry,
    op: Op,
    given: Sequence[str],
    add: Callable[[Entry, Op, Sequence[str]], Sequence[str]],
) -> str:
    """The list of sums of what two lists hold, adjoints that the same list got in two places."""
    type = element_of(op.results[0].type)
    values = tuple(Value(type) for _ in range(3))
    inner = Op(op.name, values[:2], values[2:], {}, (), op.place)
    count = longer(entry, given)
    elements = Elements(entry, given, [type, type], False, count)
    rows = Rows(entry, op, [type], is_single(type), count)
    with entry.loop(count) as i:
        if is_single(type):
            rows.write(i, add(entry, inner, elements.read(i)))
        else:
            add(entry, inner, [*elements.places(i), *rows.places(i)])
    return rows.lists(count)[0]


def longer(entry: Entry, lists: Sequence[str]) -> str:
    """The number of elements of the longer of two lists."""
    counts = State(entry, [Type("int64")] * 2)
    counts.set(["0", "0"])
    for list_, slot in zip(lists, counts.slots, strict=True):
        with entry.when(entry.let(f"icmp ne ptr {list_}, null")):
            entry.do(f"store i64 {entry.let(f'load i64, ptr {list_}')}, ptr {slot}")
    a, b = counts.get()
    return entry.let(f"call i64 @llvm.smax.i64(i64 {a}, i64 {b})")


def view(entry: Entry, op: Op, given: Sequence[str]) -> list[str]:
    """The operand itself, or one element of it."""
    (x,) = op.inputs
    if is_single(x.type):
        return [given[0]]
    return [load(entry, x.type.dtype, given[0], str(VIEWS[op.name](op).offset))]


def same(entry: Entry, op: Op, given: Sequence[str]) -> list[str]:
    """The operand, which has one element."""
    return [given[0]]


def zero(entry: Entry, op: Op, given: Sequence[str]) -> list[str]:
    """The only position."""
    return ["0"]


def gather(entry: Entry, op: Op, given: Sequence[str]) -> list[str]:
    """An element of an array, inside its bounds."""
    x, at = op.inputs[0].type, ""
    for axis, (index, n) in enumerate(zip(given[1:], x.shape, strict=False)):
        bound = entry.length(n) if n < 0 else str(n)
        outside = entry.let(f"icmp uge i64 {index}, {bound}")
        entry.leave_if(outside, op, [index, str(axis)])
        at = entry.let(f"add i64 {entry.let(f'mul i64 {at}, {n}')}, {index}") if at else index
    if is_single(x):
        return [given[0]]
    return [load(entry, x.dtype, given[0], at)]


def require(entry: Entry, op: Op, given: Sequence[str]) -> list[str]:
    """Leave with an error unless the condition holds."""
    entry.leave_if(entry.let(f"xor i1 {given[0]}, true"), op)
    return []


def empty(entry: Entry, op: Op, given: Sequence[str]) -> list[str]:
    return ["null"]


def extent(entry: Entry, op: Op, given: Sequence[str]) -> list[str]:
    """How long tables are."""
    return [entry.length(cast(int, op.attributes["length"]))]


# Blocks -------------------------------------------------------------------------------------------


def call(entry: Entry, op: Op, given: Sequence[str]) -> list[str]:
    return emit(entry, op.blocks[0], given)


class State:
    """Single values that branches or steps of a loop set."""

    def __init__(self, entry: Entry, types: Sequence[Type]) -> None:
        self.entry, self.types = entry, types
        self.slots = [entry.slot(register_of(t)) for t in types]

    def set(self, values: Sequence[str]) -> None:
        for type, slot, value in zip(self.types, self.slots, values, strict=True):
            self.entry.do(f"store {register_of(type)} {value}, ptr {slot}")

    def get(self) -> list[str]:
        return [
            self.entry.let(f"load {register_of(type)}, ptr {slot}")
            for type, slot in zip(self.types, self.slots, strict=True)
        ]


def switch(entry: Entry, op: Op, given: Sequence[str]) -> list[str]:
    """The block that the index names."""
    index = clipped(entry, given[0], len(op.blocks))
    results = State(entry, types_of(op.results))
    for number, block in enumerate(op.blocks):
        with entry.when(entry.let(f"icmp eq i64 {index}, {number}")):
            results.set(emit(entry, block, given[1:]))
    return results.get()


def clipped(entry: Entry, index: str, count: int) -> str:
    """An index among so many."""
    index = entry.let(f"call i64 @llvm.smax.i64(i64 {index}, i64 0)")
    return entry.let(f"call i64 @llvm.smin.i64(i64 {index}, i64 {count - 1})")


def while_(entry: Entry, op: Op, given: Sequence[str]) -> list[str]:
    """The second block, while the first one holds."""
    test, body = op.blocks
    carried = cast(int, op.attributes["carried"])
    start, fixed = given[:carried], given[carried:]
    rows = Rows(entry, op, types_of(body.results[carried:]), packed=True)
    state = State(entry, [Type("int64"), *types_of(body.params[:carried])])
    state.set(["0", *start])
    with entry.forever() as leave:
        i, *now = state.get()
        (holds,) = emit(entry, test, [*now, *fixed])
        leave(entry.let(f"xor i1 {holds}, true"))
        entry.poll()
        within_limit(entry, op, i)
        with returned(entry, body):
            outs = emit(entry, body, [*now, *fixed])
        rows.write(i, outs[carried:])
        state.set([entry.let(f"add nuw nsw i64 {i}, 1"), *outs[:carried]])
    count, *last = state.get()
    return [count, *last, *rows.lists(count)]


@contextmanager
def steps_in_order(entry: Entry, length: int, extent: str, reverse: bool) -> Generator[str]:
    """The steps of a `scan`. Where many of them are known to come, it looks for an interrupt now
    and then: in between nothing keeps LLVM from vectorising."""
    if length < 0:
        with entry.loop(extent, reverse) as i:
            entry.poll()
            yield i
    elif length <= SHORT:
        with entry.loop(length, reverse) as i:
            yield i
    else:
        with entry.loop(-(-length // SHORT)) as part:
            entry.poll()
            start = entry.let(f"mul nuw nsw i64 {part}, {SHORT}")
            rest = entry.let(f"sub nuw nsw i64 {length}, {start}")
            with entry.loop(entry.let(f"call i64 @llvm.smin.i64(i64 {rest}, i64 {SHORT})")) as k:
                i = entry.let(f"add nuw nsw i64 {start}, {k}")
                yield entry.let(f"sub nuw nsw i64 {length - 1}, {i}") if reverse else i


def within_limit(entry: Entry, op: Op, i: str) -> None:
    """Leave if as many steps as a loop may make have been made."""
    if "limit" in op.attributes:
        limit = str(op.attributes["limit"])
        entry.leave_if(entry.let(f"icmp eq i64 {i}, {limit}"), op, [limit, str(BEYOND)])


def scan(entry: Entry, op: Op, given: Sequence[str]) -> list[str]:
    """The block for each element, of arrays or of lists."""
    (block,) = op.blocks
    length, carried, captured = (
        cast(int, op.attributes[k]) for k in ("length", "carried", "captured")
    )
    if length == 1:  # then what it goes along is single
        return emit(entry, block, given)
    reverse, extent = bool(op.attributes["reverse"]), str(length)
    if length == -1:
        extent, *given = given
    elif length < -1:
        extent = entry.length(length)
    inner = carried + captured
    ends = [entry.pointer(v) for v in op.results[carried:]] if length != -1 else []
    elements, rows = steps_of(entry, op, extent, given[inner:], ends, packed=True)
    state = State(entry, types_of(block.params[:carried]))
    state.set(given[:carried])
    with steps_in_order(entry, length, extent, reverse) as i:
        steps = elements.read(i)
        with returned(entry, block):
            outs = emit(entry, block, [*state.get(), *given[carried:inner], *steps])
        rows.write(i, outs[carried:])
        state.set(outs[:carried])
    return [*state.get(), *rows.lists(extent)]


REDUCING = ("reduce", "cumulate", "argreduce", "argsort")  # in line where there is one element
EMIT: dict[str, Callable[[Entry, Op, Sequence[str]], list[str]]] = {
    **dict.fromkeys(ELEMENTS, elementwise),
    **dict.fromkeys(VIEWS, view),
    **dict.fromkeys(("reshape", "reduce", "cumulate"), same),
    **dict.fromkeys(("iota", "argreduce", "argsort"), zero),
    "gather": gather,
    "require": require,
    "empty": empty,
    "extent": extent,
    "call": call,
    "switch": switch,
    "while": while_,
    "scan": scan,
}
