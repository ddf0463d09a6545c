"""Loops over lists (`backends.llvm.lists`): a step finds its row by a base and a distance that stay
the same for as long as rows lie in one segment, so that there is one comparison a step.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from backends.llvm import lists
from backends.llvm.dtypes import loaded as from_memory
from backends.llvm.dtypes import memory, register
from backends.llvm.dtypes import stored as to_memory
from backends.llvm.lists import SEGMENT
from staging.ir import ITEMSIZE, NODE, POINTER, Block, Op, Type, Value, walk

if TYPE_CHECKING:
    from backends.llvm.program import Entry


def is_single(type: Type) -> bool:
    """Whether a value fits a register: one element, one list, one node."""
    return type.size == 1 and not type.is_table and (not type.is_list or type.shape[0] == -1)


def element_of(type: Type) -> Type:
    """The type of an element of a list."""
    return Type(type.dtype, type.shape[1:])


def is_pointer(type: Type) -> bool:
    """Whether a single value is a pointer."""
    return type.is_list or type.dtype == NODE


def register_of(type: Type) -> str:
    """The LLVM type of a single value in a register."""
    return "ptr" if is_pointer(type) else register(type.dtype)


def load_single(entry: Entry, type: Type, pointer: str, align: int | None = None) -> str:
    """A single value from memory."""
    if is_pointer(type):
        return entry.let(f"load ptr, ptr {pointer}, align {align or 8}")
    kind = memory(type.dtype)
    raw = entry.let(f"load {kind}, ptr {pointer}, align {align or ITEMSIZE[type.dtype]}")
    return from_memory(entry, type.dtype, raw)


def store_single(
    entry: Entry, type: Type, value: str, pointer: str, align: int | None = None
) -> None:
    """A single value to memory."""
    if is_pointer(type):
        entry.do(f"store ptr {value}, ptr {pointer}, align {align or 8}")
        return
    raw = to_memory(entry, type.dtype, value)
    entry.do(f"store {memory(type.dtype)} {raw}, ptr {pointer}, "
             f"align {align or ITEMSIZE[type.dtype]}")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """How what one step gives to the lists of a loop lies together: large items first."""

    columns: tuple[int, ...]
    stride: int


def row_of(types: Sequence[Type], packed: bool) -> Row:
    """The row of elements of these types: without gaps if it is packed, else so that each lies at a
    multiple of its items' bytes."""
    items = [POINTER if t.is_list else ITEMSIZE[t.dtype] for t in types]
    columns, end = [0] * len(types), 0
    for k in sorted(range(len(types)), key=lambda k: -items[k]):
        columns[k] = end
        end += types[k].bytes
    whole = 1 if packed else max(items, default=1)
    return Row(tuple(columns), max(-(-end // whole) * whole, 1))


class Rows:
    """The rows that a loop writes while it runs; in the end they are its lists.

    Args:
        entry: what is written.
        op: the loop.
        lists: those of its results that are lists.
        types: the types of their elements.
        packed: whether rows are without gaps.
        extent: how many rows there will be, if that is known before.
    """

    def __init__(
        self, entry: Entry, op: Op, types: Sequence[Type], packed: bool, extent: str | None = None
    ) -> None:
        self.entry, self.op, self.types = entry, op, types
        self.row = row_of(types, packed)
        self.extent = extent
        if not types:
            return
        entry.module.lists = max(entry.module.lists, 1)
        self.last, self.bound = entry.slot("ptr"), entry.slot("i64")
        self.base = entry.slot("ptr")
        entry.do(f"store ptr null, ptr {self.last}")
        entry.do(f"store i64 0, ptr {self.bound}")
        if extent is not None:
            with entry.when(entry.let(f"icmp sgt i64 {extent}, 0")):
                self.begin("segment", "0", f"i64 {extent}, ")

    def begin(self, function: str, i: str, rows: str) -> None:
        """Begin a segment at row ``i``."""
        entry = self.entry
        before = entry.let(f"load ptr, ptr {self.last}")
        made = entry.let(f"call ptr @lantern.{function}(ptr %frames, ptr {before}, i64 {i}, "
                         f"{rows}i64 {self.row.stride})")  # fmt: skip
        self.leave_if(entry.let(f"icmp eq ptr {made}, null"), self.extent or i)
        end = entry.let(f"getelementptr i64, ptr {made}, i64 2")
        entry.do(f"store i64 {entry.let(f'load i64, ptr {end}')}, ptr {self.bound}")
        skipped = entry.let(f"mul i64 {i}, {-self.row.stride}")
        data = entry.let(f"getelementptr i8, ptr {made}, i64 {SEGMENT}")
        base = entry.let(f"getelementptr i8, ptr {data}, i64 {skipped}")
        entry.do(f"store ptr {base}, ptr {self.base}")
        entry.do(f"store ptr {made}, ptr {self.last}")

    def leave_if(self, full: str, i: str) -> None:
        """Leave, saying how much this loop and all loops have saved, where no memory is left."""
        bytes = self.entry.let(f"mul i64 {i}, {self.row.stride}")
        self.entry.leave_if(full, self.op, [bytes, str(lists.limit())])

    def places(self, i: str) -> list[str]:
        """Where each element of row ``i`` is to be written; rows are written in order."""
        if not self.types:
            return []
        entry = self.entry
        if self.extent is None:
            bound = entry.let(f"load i64, ptr {self.bound}")
            with entry.when(entry.let(f"icmp eq i64 {i}, {bound}")):
                self.begin("grow", i, "")
        start = entry.offset(entry.let(f"load ptr, ptr {self.base}"), i, self.row.stride)
        return [entry.let(f"getelementptr i8, ptr {start}, i64 {c}") for c in self.row.columns]

    def write(self, i: str, elements: Sequence[str]) -> None:
        """Write row ``i`` of single elements."""
        places = self.places(i)
        for type, element, place in zip(self.types, elements, places, strict=True):
            store_single(self.entry, type, element, place, 1)

    def lists(self, count: str) -> list[str]:
        """Behind the loop: the lists."""
        entry, made = self.entry, list[str]()
        for column in self.row.columns if self.types else ():
            last = entry.let(f"load ptr, ptr {self.last}")
            list_ = entry.let(f"call ptr @lantern.close(ptr %frames, ptr {last}, i64 {count}, "
                              f"i64 {self.row.stride}, i64 {column})")  # fmt: skip
            none = entry.let(f"icmp eq ptr {list_}, null")
            some = entry.let(f"icmp sgt i64 {count}, 0")
            self.leave_if(entry.let(f"and i1 {none}, {some}"), count)
            made.append(list_)
        return made


class Elements:
    """The elements of lists that a loop reads, all at the same number, one after another.

    Args:
        entry: what is written.
        lists: pointers.
        types: the types of their elements.
        reverse: whether it goes from the last to the first.
        extent: how many steps it makes.
    """

    def __init__(
        self, entry: Entry, lists: Sequence[str], types: Sequence[Type], reverse: bool, extent: str
    ) -> None:
        self.entry, self.held, self.types, self.reverse = entry, lists, types, reverse
        entry.module.lists = max([entry.module.lists, *(t.bytes for t in types)])
        self.bases = [entry.slot("ptr") for _ in types]
        self.steps = [entry.slot("i64") for _ in types]
        self.bound = entry.slot("i64")
        entry.do(f"store i64 {extent if reverse else 0}, ptr {self.bound}")

    def places(self, i: str) -> list[str]:
        """Where element ``i`` of each list lies; zeros where that is behind its end."""
        if not self.types:
            return []
        entry = self.entry
        bound = entry.let(f"load i64, ptr {self.bound}")
        with entry.when(entry.let(f"icmp {'slt' if self.reverse else 'sge'} i64 {i}, {bound}")):
            self.turn(i)
        places: list[str] = []
        for base, step in zip(self.bases, self.steps, strict=True):
            start = entry.let(f"load ptr, ptr {base}")
            offset = entry.let(f"mul i64 {i}, {entry.let(f'load i64, ptr {step}')}")
            places.append(entry.let(f"getelementptr i8, ptr {start}, i64 {offset}"))
        return places

    def turn(self, i: str) -> None:
        """Find the segments that element ``i`` lies in, and up to where all of them go."""
        entry, result = self.entry, "{ ptr, i64, i64 }"
        name, nearest = ("below", "smax") if self.reverse else ("above", "smin")
        bound = ""
        for list_, base, step in zip(self.held, self.bases, self.steps, strict=True):
            found = entry.let(f"call {result} @lantern.{name}(ptr {list_}, i64 {i})")
            start, distance, end = (
                entry.let(f"extractvalue {result} {found}, {k}") for k in range(3)
            )
            entry.do(f"store ptr {start}, ptr {base}")
            entry.do(f"store i64 {distance}, ptr {step}")
            call = f"call i64 @llvm.{nearest}.i64(i64 {bound}, i64 {end})"
            bound = entry.let(call) if bound else end
        entry.do(f"store i64 {bound}, ptr {self.bound}")

    def read(self, i: str) -> list[str]:
        """Element ``i`` of each list of single elements."""
        places = self.places(i)
        return [load_single(self.entry, t, p, 1) for t, p in zip(self.types, places, strict=True)]


class Stacked:
    """What lies in arrays, an element a step."""

    def __init__(self, entry: Entry, arrays: Sequence[str], types: Sequence[Type]) -> None:
        self.entry, self.arrays, self.types = entry, arrays, types

    def places(self, i: str) -> list[str]:
        """The address of element ``i`` of each."""
        return [
            self.entry.offset(array, i, type.bytes)
            for array, type in zip(self.arrays, self.types, strict=True)
        ]

    def read(self, i: str) -> list[str]:
        """Element ``i`` of each, if it is single, else its address."""
        pairs = zip(self.types, self.places(i), strict=True)
        return [
            load_single(self.entry, type, place) if is_single(type) else place
            for type, place in pairs
        ]

    def write(self, i: str, elements: Sequence[str]) -> None:
        """Write element ``i`` of each."""
        for type, made, place in zip(self.types, elements, self.places(i), strict=True):
            store_single(self.entry, type, made, place)

    def lists(self, count: str) -> list[str]:
        """The arrays."""
        return [*self.arrays]


def steps_of(
    entry: Entry, op: Op, extent: str, read: Sequence[str], written: Sequence[str], packed: bool
) -> tuple[Elements | Stacked, Rows | Stacked]:
    """What the steps of a `scan` read and write.

    Args:
        entry: what is written.
        op: the loop.
        extent: how many steps it makes.
        read: the lists, or the addresses of the arrays, that it goes along.
        written: the addresses of the arrays that it stacks.
        packed: whether rows of lists are without gaps.
    """
    (block,) = op.blocks
    carried = cast(int, op.attributes["carried"])
    types = types_of(block.params[len(block.params) - len(read) :])
    ends = types_of(block.results[carried:])
    if op.attributes["length"] != -1:
        return Stacked(entry, read, types), Stacked(entry, written, ends)
    reverse = bool(op.attributes["reverse"])
    return Elements(entry, read, types, reverse, extent), Rows(entry, op, ends, packed, extent)


def types_of(values: Sequence[Value]) -> list[Type]:
    return [v.type for v in values]


@contextmanager
def returned(entry: Entry, block: Block) -> Generator[None]:
    """What a step's own lists, nodes and tables took is free again at its end, unless a list or a
    node outlives it."""
    own = any(makes_lists(op) or makes_tables(op) for op in walk(block))
    if not own or entry.module.merges or any(is_pointer(v.type) for v in block.results):
        yield
        return
    entry.module.lists = max(entry.module.lists, 1)  # a table may turn out to need no memory
    taken = entry.let("load i64, ptr %frames")
    yield
    entry.do(f"store i64 {taken}, ptr %frames")


def makes_lists(op: Op) -> bool:
    """Whether an operation makes lists or nodes."""
    lists = op.name in ("while", "scan") and any(v.type.shape[:1] == (-1,) for v in op.results)
    return lists or op.name in ("recurse", "pack", "merge", "agenda", "unwind")


def makes_tables(op: Op) -> bool:
    """Whether an operation may take memory for tables."""
    return any(v.type.is_table for v in op.results)
