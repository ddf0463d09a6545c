"""The tables of a recursion by an agenda (`staging.agenda`), and the units that compute in them.

A column is one array; a unit works right in the columns, from the row where a level begins. If its
block has more rows than are left of the level, it computes some of the next level as well: that is
written over when their turn comes, and on the way back it only gives the same again.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from backends.llvm.code import LONG, Code
from backends.llvm.gemm.ahead import packed_ahead
from staging.agenda import CHAIN, Agenda, Units
from staging.ir import Block, Op, Type, Value

if TYPE_CHECKING:
    from backends.llvm.program import Entry

# The words of a record; the calls inside, the arguments and what control gives stand behind them.
FUNCTION, PATH, ROOT, OUTSIDE, LEVEL, ROW, INSIDE = range(7)
# The words of a handle; behind them stand those of each path, and the addresses of its columns.
CALLS, LEVELS, QUEUE, STRIDE, TABLES = range(5)
COUNT, STARTS, MEMBERS, COLUMNS = range(4)
MANY = 32  # rows that are worth two threads


class Move(NamedTuple):
    """What passes between a row of a path and a call inside.

    Attributes:
        call: which call.
        result: which of its results.
        column: the column of the path; -1 where it has none, and zeros pass.
        bytes: how many.
    """

    call: int
    result: int
    column: int
    bytes: int


@dataclass
class Tables:
    """The tables while code for them is written: for each path the number of its calls, where the
    rows of each level start, the calls in the order of their rows, the columns, and how many rows
    behind those of its calls units may compute in."""

    calls: str
    levels: str
    queue: str
    counts: list[str] = field(default_factory=list[str])
    reaches: list[str] = field(default_factory=list[str])
    starts: list[str] = field(default_factory=list[str])
    members: list[str] = field(default_factory=list[str])
    columns: list[list[str]] = field(default_factory=list[list[str]])


class Words:
    """What reads, writes and moves words in memory.

    Args:
        code: what is written.
    """

    def __init__(self, code: Code) -> None:
        self.code = code

    def word(self, pointer: str, number: int | str) -> str:
        """The address of a word."""
        return self.code.let(f"getelementptr i64, ptr {pointer}, i64 {number}")

    def load(self, pointer: str, number: int | str, type: str = "i64") -> str:
        return self.code.let(f"load {type}, ptr {self.word(pointer, number)}")

    def store(self, value: str | int, pointer: str, number: int | str, type: str = "i64") -> None:
        self.code.do(f"store {type} {value}, ptr {self.word(pointer, number)}")

    def add(self, x: str | int, y: str | int) -> str:
        return self.code.let(f"add i64 {x}, {y}")

    def at(self, pointer: str, offset: int) -> str:
        """An address so many bytes behind another."""
        return self.code.let(f"getelementptr i8, ptr {pointer}, i64 {offset}")

    def copy(self, to: str, source: str, size: int) -> None:
        self.code.do(
            f"call void @llvm.memcpy.p0.p0.i64(ptr {to}, ptr {source}, i64 {size}, i1 false)"
        )

    def clear(self, pointer: str, size: str | int) -> None:
        self.code.do(f"call void @llvm.memset.p0.i64(ptr {pointer}, i8 0, i64 {size}, i1 false)")

    @contextmanager
    def range(self, start: str, end: str) -> Generator[str]:
        """A loop from one number up to before another."""
        with self.code.loop(self.code.let(f"sub i64 {end}, {start}")) as i:
            yield self.add(start, i)

    @contextmanager
    def choose(self, number: str, i: int) -> Generator[None]:
        """What runs where a number is ``i``."""
        with self.code.when(self.code.let(f"icmp eq i64 {number}, {i}")):
            yield


class Writer(Words):
    """What both operations are written with.

    Args:
        entry: what is written.
        op: the operation.
    """

    def __init__(self, entry: Entry, op: Op) -> None:
        super().__init__(entry)
        self.entry, self.op, self.agenda = entry, op, Agenda.of(op.attributes)
        entry.module.lists = max(entry.module.lists, 1)
        self.plans = dict(zip(op.blocks, entry.branches[op], strict=True))

    def reserve(self, size: str | int) -> str:
        """A piece of the region; leaves with an error if there is none."""
        made = self.entry.let(f"call ptr @lantern.reserve(ptr %frames, i64 {size})")
        self.entry.leave_if(self.entry.let(f"icmp eq ptr {made}, null"), self.op, ("1",))
        return made

    def array(self, pointers: Sequence[str]) -> str:
        """Pointers as an array, to pick one when this runs."""
        array = self.entry.slot(f"[{len(pointers)} x ptr]")
        for i, pointer in enumerate(pointers):
            self.store(pointer, array, i, "ptr")
        return array

    # Tables.

    def words_of(self, path: int) -> int:
        """Where the words of a path stand in a handle."""
        paths = self.agenda.there or self.agenda.paths
        return TABLES + sum(COLUMNS + len(p.columns) for p in paths[:path])

    def height(self, count: str) -> str:
        """The rows of a table: those that fill up included."""
        return self.add(count, self.agenda.most)

    def reach(self, count: str) -> str:
        """How many rows behind the last call's units may compute in."""
        entry, (least, *others) = self.entry, self.agenda.steps
        at = entry.slot("i64")
        entry.do(f"store i64 0, ptr {at}")
        with entry.forever() as leave:  # as the units that run over all rows
            row = entry.let(f"load i64, ptr {at}")
            left = entry.let(f"sub i64 {count}, {row}")
            leave(entry.let(f"icmp sle i64 {left}, 0"))
            entry.do(f"store i64 {self.add(row, self.size(left, self.agenda.sizes))}, ptr {at}")
        over = entry.let(f"sub i64 {entry.let(f'load i64, ptr {at}')}, {count}")
        chains = max(least - 1, *(n // 2 for n in others))  # from the end of any level
        return entry.let(f"call i64 @llvm.smax.i64(i64 {over}, i64 {chains})")

    def new_columns(self, path: int, count: str) -> list[str]:
        """The columns that a path has here."""
        entry = self.entry
        height = self.height(count)
        own = [Type(*c).bytes for c in self.agenda.paths[path].columns]
        sizes = [entry.let(f"and i64 {self.add(entry.let(f'mul i64 {height}, {n}'), 63)}, -64")
                 for n in own]  # fmt: skip
        total = "64"
        for size in sizes:
            total = self.add(total, size)
        at = self.reserve(total)
        bits = entry.let(f"ptrtoint ptr {at} to i64")
        at = entry.let(f"inttoptr i64 {entry.let(f'and i64 {self.add(bits, 63)}, -64')} to ptr")
        columns: list[str] = []
        for size in sizes:
            columns.append(at)
            at = entry.let(f"getelementptr i8, ptr {at}, i64 {size}")
        return columns

    def size(self, left: str, sizes: Sequence[int]) -> str:
        """For how many rows the block is that goes on where so many are left: for the most that are
        at least half used."""
        best = str(sizes[0])
        for n in sizes[1:]:
            used = self.entry.let(f"icmp sgt i64 {left}, {n // 2}")
            best = self.entry.let(f"select i1 {used}, i64 {n}, i64 {best}")
        return best

    # Units.

    def perform(
        self, blocks: Units, tables: Tables, p: int, u: int, start: str, end: str,
        captures: Sequence[str], sums: Sequence[str],
    ) -> None:  # fmt: skip
        """A unit over some rows of its path."""
        entry, unit = self.entry, self.agenda.paths[p].units[u]
        types = self.agenda.columns(p)
        at = entry.slot("i64")
        entry.do(f"store i64 {start}, ptr {at}")
        with entry.forever() as leave:
            row = entry.let(f"load i64, ptr {at}")
            left = entry.let(f"sub i64 {end}, {row}")
            leave(entry.let(f"icmp sle i64 {left}, 0"))
            size = self.size(left, self.agenda.rows(u))
            entry.do(f"store i64 {self.add(row, size)}, ptr {at}")
            for n, block in zip(self.agenda.rows(u), blocks[p, u], strict=True):
                with self.choose(size, n):
                    reads, writes = (
                        [entry.offset(tables.columns[p][c], row, types[c].bytes) for c in some]
                        for some in (unit.reads, unit.writes)
                    )
                    given = [*reads, *(captures[i] for i in unit.captures)]
                    self.run(block, given, writes, [sums[i] for i in unit.sums])

    def run(
        self, block: Block, given: Sequence[str], writes: Sequence[str], sums: Sequence[str]
    ) -> None:
        """A block whose last parameters and results are sums, which grow where they lie."""
        plan = self.plans[block]
        spare: dict[int, Value] = {}
        for k in range(len(sums)):
            if plan.kept[len(writes) + k] != len(given) + k:
                spare[k] = Value(block.results[len(writes) + k].type)
                self.entry.allocate(spare[k])
        targets = [self.entry.pointer(spare[k]) if k in spare else s for k, s in enumerate(sums)]
        self.entry.run_block(block, plan, [*given, *sums], [*writes, *targets])
        for k, value in spare.items():
            self.entry.copy(sums[k], targets[k], value.type)
            self.entry.release(value)

    def everywhere(
        self, blocks: Units, tables: Tables, u: int, captures: Sequence[str], sums: Sequence[str]
    ) -> None:
        """A unit of every path over all rows."""
        for p in range(len(self.agenda.paths)):
            if (p, u) in blocks:
                self.perform(blocks, tables, p, u, "0", tables.counts[p], captures, sums)

    def levels(self, blocks: Units, tables: Tables, captures: Sequence[str], back: bool) -> None:
        """The chains level by level: upwards, or on the way back downwards."""
        ends = self.ends(tables)
        with self.packed(blocks, captures), self.entry.loop(tables.levels, reverse=back) as level:
            self.entry.poll()
            for p in range(len(self.agenda.paths)):
                moved = self.moved(p, back)
                if not moved and (p, CHAIN) not in blocks:
                    continue
                start = self.load(tables.starts[p], level)
                end = self.load(tables.starts[p], self.add(level, 1))
                with self.entry.when(self.entry.let(f"icmp sgt i64 {end}, {start}")):
                    if not back:
                        self.exchange(tables, p, start, end, ends, back, moved)
                    if (p, CHAIN) in blocks:
                        self.perform(blocks, tables, p, CHAIN, start, end, captures, [])
                    if back:
                        self.exchange(tables, p, start, end, ends, back, moved)

    @contextmanager
    def packed(self, blocks: Units, captures: Sequence[str]) -> Generator[None]:
        """A context in which the matrices lie packed that chains multiply by."""
        with ExitStack() as contexts:
            for (p, u), some in blocks.items():
                unit = self.agenda.paths[p].units[u]
                for block in some if u == CHAIN else ():
                    given = (captures[i] for i in unit.captures)
                    fixed = zip(block.params[len(unit.reads) :], given, strict=False)
                    contexts.enter_context(packed_ahead(self.entry, block, fixed))
            yield

    def ends(self, tables: Tables) -> list[str]:
        """For each result of a function an array of where its columns begin, by path."""
        most = max(len(path.ends) for path in self.agenda.paths)
        arrays: list[str] = []
        for k in range(most):
            array = self.entry.slot(f"[{len(self.agenda.paths)} x ptr]")
            for p, path in enumerate(self.agenda.paths):
                if k < len(path.ends) and path.ends[k] >= 0:
                    self.store(tables.columns[p][path.ends[k]], array, p, "ptr")
            arrays.append(array)
        return arrays

    def moved(self, p: int, back: bool) -> list[Move]:
        """What passes between a path and the calls inside. Adjoints that a path does not have are
        zero on the way back."""
        path, types = self.agenda.paths[p], self.agenda.columns(p)
        found = [Move(x.call, x.result, x.column, types[x.column].bytes) for x in path.links]
        linked = {(x.call, x.result) for x in path.links}
        for number, call in enumerate(self.agenda.ways[p].calls if back else ()):
            ways = enumerate(self.agenda.ways)
            inner = next(q for q, way in ways if way.function == call.function)
            for k, end in enumerate(self.agenda.paths[inner].ends):
                if end >= 0 and (number, k) not in linked:
                    found.append(Move(number, k, -1, self.agenda.columns(inner)[end].bytes))
        return sorted(found)

    def exchange(
        self, tables: Tables, p: int, start: str, end: str, ends: Sequence[str], back: bool,
        moved: Sequence[Move],
    ) -> None:  # fmt: skip
        """Read the results of the calls inside, or write their adjoints, row by row; where there
        are many rows, threads share them."""
        threads = self.entry.module.threads
        mine = {x.column: tables.columns[p][x.column] for x in moved if x.column >= 0}
        there = {x.result: ends[x.result] for x in moved}
        name = self.entry.function("exchange", "void", *exchanging(moved, [*mine], [*there], back))
        given = [f"ptr {x}" for x in (tables.members[p], *mine.values(), *there.values())]
        count = self.entry.let(f"sub i64 {end}, {start}")
        many = self.entry.let(f"icmp sge i64 {count}, {MANY if threads > 1 else LONG}")
        share = self.entry.let(f"sdiv i64 {self.add(count, threads - 1)}, {threads}")
        length = self.entry.let(f"select i1 {many}, i64 {share}, i64 {count}")
        words = [f"i64 {x}" for x in (start, end, length)]
        with self.entry.when(many):
            self.entry.parallel(name, [*given, *words], threads)
        with self.entry.when(self.entry.let(f"xor i1 {many}, true")):
            self.entry.parallel(name, [*given, *words], 1)


def exchanging(
    moved: Sequence[Move], mine: Sequence[int], there: Sequence[int], back: bool
) -> tuple[str, str]:
    """The parameters and the body of a function that exchanges some rows of a path with the calls
    inside.

    Args:
        moved: what is exchanged.
        mine: the columns of the path, which the function is given in this order.
        there: the results of the calls; for each it is given where their columns begin, by path.
        back: whether adjoints go to the calls.
    """
    writer = Words(code := Code())
    names = ["members", *(f"c{c}" for c in mine), *(f"r{k}" for k in there)]
    place = code.let("mul i64 %part, %length")
    first = writer.add("%start", place)
    last = code.let(f"call i64 @llvm.smin.i64(i64 {writer.add(first, '%length')}, i64 %end)")
    with writer.range(first, last) as row:
        record = writer.load("%members", row, "ptr")
        for call, some in groupby(moved, key=attrgetter("call")):
            inner = writer.load(record, INSIDE + call, "ptr")
            path, other = writer.load(inner, PATH), writer.load(inner, ROW)
            for x in some:
                base = writer.load(f"%r{x.result}", path, "ptr")
                far = code.offset(base, other, x.bytes)
                if x.column < 0:
                    writer.clear(far, x.bytes)
                    continue
                near = code.offset(f"%c{x.column}", row, x.bytes)
                writer.copy(*((far, near) if back else (near, far)), x.bytes)
    code.do("ret void")
    params = [*(f"ptr %{name}" for name in names), "i64 %start, i64 %end, i64 %length, i64 %part"]
    return ", ".join(params), code.body()
