"""How all calls of a recursion are found before anything is computed, and given rows.

They wait in a queue of *records* at the end of the lists' region: which function and path a call
takes, its root, the call that it is inside of, its level and row, the calls inside, its arguments,
and what control gives. Then rows are given out, those of one path and level side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backends.llvm import inline
from backends.llvm.frames import is_single, load_single, store_single
from backends.llvm.tables import (
    CALLS,
    COLUMNS,
    COUNT,
    FUNCTION,
    INSIDE,
    LEVEL,
    LEVELS,
    MEMBERS,
    OUTSIDE,
    PATH,
    QUEUE,
    ROOT,
    ROW,
    STARTS,
    STRIDE,
    Tables,
    Writer,
)
from staging.agenda import FEW, Agenda
from staging.ir import Block, Op, Value

if TYPE_CHECKING:
    from backends.llvm.program import Entry

CHUNK = 256  # records for which room is made at once


@dataclass(frozen=True)
class Layout:
    """Where things lie in the records of an agenda, in bytes.

    Attributes:
        args: the first argument of a call.
        given: the first value that control gives.
        size: a whole record.
    """

    args: int
    given: int
    size: int

    @staticmethod
    def of(agenda: Agenda, controls: Sequence[Block]) -> Layout:
        """The layout for all functions; each value takes whole words."""
        inside = max((len(way.calls) for way in agenda.ways), default=0)
        args = 8 * (INSIDE + inside)
        own = [c.params[:n] for c, n in zip(controls, agenda.args, strict=True)]
        given = args + max(sum(map(words, some)) for some in own)
        size = given + max(sum(map(words, c.results[1:])) for c in controls)
        return Layout(args, given, -(-size // 16) * 16)


def words(value: Value) -> int:
    """The bytes of a value in whole words."""
    return -(-value.type.bytes // 8) * 8


def places(start: int, values: Sequence[Value]) -> list[int]:
    """Where values lie one after another, from a place on."""
    found: list[int] = []
    for value in values:
        found.append(start)
        start += words(value)
    return found


class Expansion(Writer):
    """How all calls are found, and given rows."""

    def __init__(self, entry: Entry, op: Op) -> None:
        super().__init__(entry, op)
        agenda = self.agenda
        self.arity = agenda.args[agenda.entry]
        self.controls = op.blocks[: len(agenda.args)]
        self.layout = Layout.of(agenda, self.controls)
        self.captures = agenda.captured(op.inputs[self.arity :])
        self.shared = [some[0] for some in self.captures]
        self.own = [
            self.array([*map(entry.pointer, some)]) if len(some) > 1 else ""
            for some in self.captures
        ]
        self.lengths = self.lengths_of_roots()
        self.number, self.room = entry.slot("i64"), entry.slot("i64")
        self.counted = entry.slot(f"[{len(agenda.paths)} x i64]")

    def record(self, queue: str, i: str) -> str:
        """The address of a record."""
        return self.entry.offset(queue, i, self.layout.size)

    def expanded(self) -> tuple[str, str]:
        """Find all calls: the queue and how many there are."""
        entry, agenda = self.entry, self.agenda
        first = -(-agenda.roots // CHUNK) * CHUNK
        queue = self.reserve(first * self.layout.size)
        entry.do(f"store i64 {first}, ptr {self.room}")
        entry.do(f"store i64 {agenda.roots}, ptr {self.number}")
        self.clear(self.counted, 8 * len(agenda.paths))
        params = self.controls[agenda.entry].params[: self.arity]
        with entry.loop(agenda.roots) as root:
            record = self.record(queue, root)
            self.begin(record, str(agenda.entry), root, "null")
            homes = places(self.layout.args, params)
            for value, param, place in zip(self.op.inputs, params, homes, strict=False):
                source = entry.offset(entry.pointer(value), root, param.type.bytes)
                self.copy(self.at(record, place), source, param.type.bytes)
        i = entry.slot("i64")
        entry.do(f"store i64 0, ptr {i}")
        with entry.forever() as leave:
            entry.poll()
            now = entry.let(f"load i64, ptr {i}")
            leave(entry.let(f"icmp sge i64 {now}, {entry.let(f'load i64, ptr {self.number}')}"))
            self.make_room()
            self.look(queue, now)
            self.visit(queue, self.record(queue, now))
            entry.do(f"store i64 {self.add(now, 1)}, ptr {i}")
        return queue, entry.let(f"load i64, ptr {self.number}")

    def begin(self, record: str, function: str, root: str, outside: str) -> None:
        """The first words of a call."""
        for number, value in ((FUNCTION, function), (ROOT, root), (LEVEL, "0")):
            self.store(value, record, number)
        self.store(outside, record, OUTSIDE, "ptr")

    def make_room(self) -> None:
        """Room behind the queue for the calls inside one."""
        entry = self.entry
        most = max(len(way.calls) for way in self.agenda.ways)
        count, room = (entry.let(f"load i64, ptr {slot}") for slot in (self.number, self.room))
        with entry.when(entry.let(f"icmp sgt i64 {self.add(count, most)}, {room}")):
            more = -(-most // CHUNK) * CHUNK if most else CHUNK
            self.reserve(more * self.layout.size)
            entry.do(f"store i64 {self.add(room, more)}, ptr {self.room}")

    def look(self, queue: str, i: str) -> None:
        """Leave with an error if a call is inside another one with the same arguments; now and
        then."""
        entry = self.entry
        power = entry.let(f"and i64 {i}, {self.add(i, -1)}")
        due = entry.let(f"and i1 {entry.let(f'icmp eq i64 {power}, 0')}, "
                        f"{entry.let(f'icmp sge i64 {i}, {FEW}')}")  # fmt: skip
        with entry.when(due):
            here, outer = self.record(queue, i), entry.slot("ptr")
            entry.do(f"store ptr {self.load(here, OUTSIDE, 'ptr')}, ptr {outer}")
            function = self.load(here, FUNCTION)
            with entry.forever() as leave:
                there = entry.let(f"load ptr, ptr {outer}")
                leave(entry.let(f"icmp eq ptr {there}, null"))
                same = entry.let(f"icmp eq i64 {self.load(there, FUNCTION)}, {function}")
                for word in range(self.layout.args // 8, self.layout.given // 8):
                    equal = entry.let(
                        f"icmp eq i64 {self.load(there, word)}, {self.load(here, word)}"
                    )
                    same = entry.let(f"and i1 {same}, {equal}")
                entry.leave_if(same, self.op)
                entry.do(f"store ptr {self.load(there, OUTSIDE, 'ptr')}, ptr {outer}")

    def visit(self, queue: str, record: str) -> None:
        """Let control look at a call, and put the calls inside behind the queue."""
        function = self.load(record, FUNCTION)
        for k, control in enumerate(self.controls):
            with self.choose(function, k):
                self.control(record, control, self.agenda.args[k])
        path = self.load(record, PATH)
        count = self.load(self.counted, path)
        self.store(self.add(count, 1), self.counted, path)
        for p, way in enumerate(self.agenda.ways):
            if not way.calls:
                continue
            with self.choose(path, p):
                values = self.controls[way.function].results[1:]
                homes = places(self.layout.given, values)
                root = self.load(record, ROOT)
                for number, call in enumerate(way.calls):
                    made = self.entry.let(f"load i64, ptr {self.number}")
                    inner = self.record(queue, made)
                    self.begin(inner, str(call.function), root, record)
                    self.store(inner, record, INSIDE + number, "ptr")
                    params = self.controls[call.function].params[: len(call.args)]
                    targets = places(self.layout.args, params)
                    for place, k in zip(targets, call.args, strict=True):
                        self.copy(
                            self.at(inner, place), self.at(record, homes[k]), words(values[k])
                        )
                    self.entry.do(f"store i64 {self.add(made, 1)}, ptr {self.number}")

    def control(self, record: str, block: Block, arity: int) -> None:
        """The path of a call, and what else control gives."""
        entry = self.entry
        sources = [self.at(record, n) for n in places(self.layout.args, block.params[:arity])]
        root = self.load(record, ROOT)
        for value, own in zip(self.shared, self.own, strict=True):
            sources.append(self.load(own, root, "ptr") if own else entry.pointer(value))
        homes = [8 * PATH, *places(self.layout.given, block.results[1:])]
        targets = [self.at(record, n) for n in homes]
        if self.lengths:
            self.apart(block, [*sources, *targets], root)
            return
        if not inline.fits(entry, block):
            taken = entry.let("load i64, ptr %frames")  # the queue grows behind what control needs
            entry.run_block(block, self.plans[block], sources, targets)
            entry.do(f"store i64 {taken}, ptr %frames")
            return
        given = [
            load_single(entry, p.type, at) if is_single(p.type) else at
            for p, at in zip(block.params, sources, strict=True)
        ]
        found = inline.emit(entry, block, given)
        for value, x, target in zip(block.results, found, targets, strict=True):
            store_single(entry, value.type, x, target)

    def lengths_of_roots(self) -> str:
        """Where roots have tables of their own: for each root how long the tables are that control
        reads, as an array of what the environment has for all."""
        entry, roots = self.entry, self.agenda.roots
        tables = [some for some in self.captures if some[0].type.is_table]
        if all(len(some) == 1 for some in tables):
            return ""
        self.width = max(-1 - some[0].type.shape[0] for some in tables)
        array = entry.slot(f"[{roots * self.width} x i64]")
        for some in tables:
            place = -2 - some[0].type.shape[0]
            for root in range(roots):
                number = some[root if len(some) > 1 else 0].type.shape[0]
                self.store(entry.length(number), array, root * self.width + place)
        return array

    def apart(self, block: Block, given: Sequence[str], root: str) -> None:
        """Control as a function of its own, which is told how long the tables of a root are. If it
        fails, the third word of the error says for which root, from 1."""
        entry = self.entry
        self.store(self.add(root, 1), "%error", 2)
        lengths = self.word(self.lengths, entry.let(f"mul i64 {root}, {self.width}"))
        before = entry.let("load i64, ptr %frames")
        entry.call_shared(block, self.plans[block], given, lengths)
        entry.do(f"store i64 {before}, ptr %frames")
        self.store(0, "%error", 2)

    def tables(self) -> tuple[Tables, str]:
        """Find all calls and give them rows: the tables, and their handle."""
        queue, number = self.expanded()
        entry, agenda = self.entry, self.agenda
        top = entry.slot("i64")
        entry.do(f"store i64 0, ptr {top}")
        with entry.loop(number, reverse=True) as i:  # a call stands behind the one it is inside of
            record = self.record(queue, i)
            level, outside = self.load(record, LEVEL), self.load(record, OUTSIDE, "ptr")
            highest = entry.let(f"load i64, ptr {top}")
            highest = entry.let(f"call i64 @llvm.smax.i64(i64 {highest}, i64 {level})")
            entry.do(f"store i64 {highest}, ptr {top}")
            with entry.when(entry.let(f"icmp ne ptr {outside}, null")):
                other = self.load(outside, LEVEL)
                least = self.add(level, 1)
                other = entry.let(f"call i64 @llvm.smax.i64(i64 {other}, i64 {least})")
                self.store(other, outside, LEVEL)
        levels = self.add(entry.let(f"load i64, ptr {top}"), 1)
        tables = Tables(number, levels, queue)
        handle = self.reserve(8 * self.words_of(len(agenda.paths)))
        self.store(number, handle, CALLS)
        self.store(levels, handle, LEVELS)
        self.store(queue, handle, QUEUE, "ptr")
        self.store(self.layout.size, handle, STRIDE)
        width = self.add(levels, 2)
        for p in range(len(agenda.paths)):
            count = self.load(self.counted, p)
            tables.counts.append(count)
            tables.reaches.append(self.reach(count))
            size = entry.let(f"shl i64 {width}, 3")
            tables.starts.append(self.reserve(size))
            self.clear(tables.starts[p], size)
            tables.members.append(self.reserve(entry.let(f"shl i64 {self.add(count, 1)}, 3")))
            tables.columns.append(self.new_columns(p, count))
            home = self.words_of(p)
            self.store(count, handle, home + COUNT)
            self.store(tables.starts[p], handle, home + STARTS, "ptr")
            self.store(tables.members[p], handle, home + MEMBERS, "ptr")
            for c, pointer in enumerate(tables.columns[p]):
                self.store(pointer, handle, home + COLUMNS + c, "ptr")
        self.give_rows(tables)
        self.fill_given(tables)
        return tables, handle

    def give_rows(self, tables: Tables) -> None:
        """Count the calls of each path and level, two places ahead; when each has taken a row, the
        number where its level starts stands one place ahead of where the next level's does."""
        entry = self.entry
        starts = self.array(tables.starts)
        members = self.array(tables.members)
        with entry.loop(tables.calls) as i:
            record = self.record(tables.queue, i)
            own = self.load(starts, self.load(record, PATH), "ptr")
            place = self.add(self.load(record, LEVEL), 2)
            self.store(self.add(self.load(own, place), 1), own, place)
        for own in tables.starts:
            with entry.loop(tables.levels) as level:
                place = self.add(level, 2)
                total = self.add(self.load(own, place), self.load(own, self.add(level, 1)))
                self.store(total, own, place)
        with entry.loop(tables.calls) as i:
            record = self.record(tables.queue, i)
            path = self.load(record, PATH)
            own = self.load(starts, path, "ptr")
            place = self.add(self.load(record, LEVEL), 1)
            row = self.load(own, place)
            self.store(self.add(row, 1), own, place)
            self.store(row, record, ROW)
            self.store(record, self.load(members, path, "ptr"), row, "ptr")

    def fill_given(self, tables: Tables) -> None:
        """The columns that hold what control gives."""
        for p, way in enumerate(self.agenda.ways):
            values = self.controls[way.function].results[1:]
            homes = places(self.layout.given, values)
            if not way.given:
                continue
            with self.entry.loop(tables.counts[p]) as row:
                record = self.load(tables.members[p], row, "ptr")
                for column, k in way.given:
                    size = values[k].type.bytes
                    to = self.entry.offset(tables.columns[p][column], row, size)
                    self.copy(to, self.at(record, homes[k]), size)
            self.fill(tables, p, [column for column, _ in way.given])

    def fill(self, tables: Tables, p: int, columns: Sequence[int]) -> None:
        """Copies of the first row in those that no call has, as far as a unit may reach."""
        types = self.agenda.columns(p)
        count, reach = tables.counts[p], tables.reaches[p]
        some = self.entry.let(f"icmp sgt i64 {count}, 0")
        with self.entry.when(some), self.range(count, self.add(count, reach)) as row:
            for c in columns:
                size = types[c].bytes
                to = self.entry.offset(tables.columns[p][c], row, size)
                self.copy(to, tables.columns[p][c], size)
