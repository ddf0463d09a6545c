"""How the entry performs recursion by an agenda (`staging.agenda`): `agenda` and `unwind`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.llvm.expansion import Expansion
from backends.llvm.tables import (
    CALLS,
    COLUMNS,
    COUNT,
    LEVELS,
    MEMBERS,
    PATH,
    QUEUE,
    ROW,
    STARTS,
    STRIDE,
    Tables,
    Writer,
)
from staging.agenda import CHAIN, adjoints_of
from staging.ir import Op, Type

if TYPE_CHECKING:
    from backends.llvm.program import Entry


def agenda(entry: Entry, op: Op) -> None:
    """Find all calls, then compute: what waits for nothing, the chains upwards, what nobody waits
    for."""
    writer = Expansion(entry, op)
    tables, handle = writer.tables()
    form = writer.agenda
    blocks = form.blocks(op.blocks, control=True)
    captures = [entry.pointer(v) for v in writer.shared]
    writer.everywhere(blocks, tables, 0, captures, [])
    for p, path in enumerate(form.paths):
        if (p, CHAIN) in blocks:
            writer.fill(tables, p, path.units[0].writes)
    writer.levels(blocks, tables, captures, back=False)
    for p, path in enumerate(form.paths):
        late = {link.column for link in path.links} | set(path.units[CHAIN].writes)
        writer.fill(tables, p, sorted(late))
    writer.everywhere(blocks, tables, 2, captures, [])
    ends = writer.ends(tables)
    with entry.loop(form.roots) as root:
        record = writer.record(tables.queue, root)
        path, row = writer.load(record, PATH), writer.load(record, ROW)
        for k, value in enumerate(op.results[:-1]):
            size = value.type.bytes // form.roots
            source = entry.offset(writer.load(ends[k], path, "ptr"), row, size)
            writer.copy(entry.offset(entry.pointer(value), root, size), source, size)
    entry.do(f"store ptr {handle}, ptr {entry.pointer(op.results[-1])}")


def unwind(entry: Entry, op: Op) -> None:
    """From the adjoints of the results the same way back; what is summed grows in the results."""
    writer = Writer(entry, op)
    form = writer.agenda
    handle = entry.let(f"load ptr, ptr {entry.pointer(op.inputs[0])}")
    calls, levels = writer.load(handle, CALLS), writer.load(handle, LEVELS)
    tables = Tables(calls, levels, writer.load(handle, QUEUE, "ptr"))
    for p, path in enumerate(form.paths):
        home = writer.words_of(p)
        tables.counts.append(writer.load(handle, home + COUNT))
        tables.reaches.append(writer.reach(tables.counts[p]))
        tables.starts.append(writer.load(handle, home + STARTS, "ptr"))
        tables.members.append(writer.load(handle, home + MEMBERS, "ptr"))
        known = [writer.load(handle, home + COLUMNS + c, "ptr")
                 for c in range(len(form.there[p].columns))]  # fmt: skip
        new = writer.new_columns(p, tables.counts[p])
        tables.columns.append([*known, *new])
        for pointer, column in zip(new, path.columns, strict=True):
            # The adjoints are zero where no call is; all else is written.
            size = Type(*column).bytes
            start = entry.offset(pointer, tables.counts[p], size)
            writer.clear(start, entry.let(f"mul i64 {tables.reaches[p]}, {size}"))
    count = len(adjoints_of(form))
    seeds, captures = op.inputs[1 : 1 + count], [entry.pointer(v) for v in op.inputs[1 + count :]]
    entrance = next(p for p, way in enumerate(form.ways) if way.function == form.entry)
    floating = [k for k, c in enumerate(form.paths[entrance].ends) if c >= 0]
    ends, stride = writer.ends(tables), writer.load(handle, STRIDE)
    with entry.loop(form.roots) as root:
        place = entry.let(f"mul i64 {root}, {stride}")
        record = entry.let(f"getelementptr i8, ptr {tables.queue}, i64 {place}")
        path, row = writer.load(record, PATH), writer.load(record, ROW)
        for k, value in zip(floating, seeds, strict=True):
            size = value.type.bytes // form.roots
            to = entry.offset(writer.load(ends[k], path, "ptr"), row, size)
            writer.copy(to, entry.offset(entry.pointer(value), root, size), size)
    blocks = form.blocks(op.blocks, control=False)
    sums = [entry.pointer(v) for v in op.results]
    for value, pointer in zip(op.results, sums, strict=True):
        writer.clear(pointer, value.type.bytes)
    writer.everywhere(blocks, tables, 0, captures, sums)
    writer.levels(blocks, tables, captures, back=True)
    writer.everywhere(blocks, tables, 2, captures, sums)


RECURSION = {"agenda": agenda, "unwind": unwind}
