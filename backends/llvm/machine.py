"""A recursive program as one loop: a machine whose states are the parts of the functions' bodies.

A call of the group's functions writes what is read after it into the frame of its activation,
under the address to return to, and jumps; a return jumps to the address that lies on top. So the
native stack does not grow: frames lie one below the other, from the end of the region of lists
(`backends.llvm.lists`) down, and nodes, which outlive the calls that make them, at its beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from typing import TYPE_CHECKING, cast

from backends.llvm import inline, merges, nodes, sums
from backends.llvm.activations import (
    WORD,
    Body,
    Cut,
    Function,
    Line,
    Variable,
    callee_of,
    calls_of,
    fixed,
    functions_of,
    lodged,
    returned,
    size_of,
)
from backends.llvm.cycles import FIRST, RETURN, Watch
from backends.llvm.frames import is_pointer, is_single, load_single, makes_lists, store_single
from backends.llvm.frames import returned as reclaimed
from backends.llvm.parts import outline, wanted
from backends.llvm.places import Places
from backends.llvm.room import leave
from staging.ir import Block, Op, Type, Value, walk
from staging.memory import Range, plan_block

if TYPE_CHECKING:
    from backends.llvm.program import Entry


def recurse(entry: Entry, op: Op) -> None:
    """Call a function of the module that is the machine of a group, and leave with its error."""
    entry.module.lists = max(entry.module.lists, 1)
    inner = entry.inner(entry.module.threads)
    machine = Machine(inner, op)
    machine.write()
    name = entry.defined("recurse", inner, machine.parameters())
    pointer, taken = entry.take(inner.arena.size)
    before = entry.let("load i64, ptr %frames") if reclaims(entry, op) else ""
    entry.call_outlined(name, [*map(entry.pointer, (*op.inputs, *op.results)), pointer])
    if before:
        entry.do(f"store i64 {before}, ptr %frames")
    entry.arena.give(taken)


def reclaims(entry: Entry, op: Op) -> bool:
    """Whether nothing that an operation takes of the region outlives it."""
    return not (entry.module.merges or any(is_pointer(v.type) for v in op.results))


class Machine(Places):
    """The function for a `recurse` while it is written.

    Args:
        entry: where; one of its own.
        op: the operation.

    Attributes:
        lowest: holds where the lowest of all frames so far ends.
        floor: down to where in the region frames may reach.
        near: down to where they reach before anything is watched.
        top: where in the region they begin.
        cycles: finds calls inside of themselves.
        numbers: the sums that are numbers.
        waiting: the sums to which outer products are added together.
    """

    def __init__(self, entry: Entry, op: Op) -> None:
        self.op, self.functions = op, functions_of(op)
        self.start = self.functions[cast(int, op.attributes["entry"])]
        super().__init__(entry, self.start)
        self.lowest = entry.slot("ptr")
        self.floor, self.near, self.top = "", "", ""
        self.cycles = Watch(self, op, self.functions)
        self.numbers: dict[int, sums.Number] = {}
        self.waiting: dict[int, sums.Waiting] = {}

    def parameters(self) -> list[str]:
        """The names of what the function is given: arguments, captures, results and sums."""
        captured, results = cast(int, self.op.attributes["captured"]), len(self.start.outs)
        counts = {
            "p": len(self.op.inputs) - captured,
            "c": captured,
            "r": results,
            "s": len(self.op.results) - results,
        }
        return [f"%{letter}{i}" for letter, count in counts.items() for i in range(count)]

    def write(self) -> None:
        """Write the machine."""
        self.begin()
        for function in self.functions:
            self.write_function(function)
        self.dispatch()
        self.end()

    def begin(self) -> None:
        """Enter the first function, above nothing to return to."""
        entry, start = self.entry, self.start
        entry.leave_if(entry.let("icmp eq ptr %frames, null"), self.op, ["0", "0"])
        self.floor = entry.let("call i64 @lantern.floor(ptr %frames)")
        self.top = entry.let(f"load i64, ptr {self.over()}")
        near = entry.let(f"call i64 @llvm.usub.sat.i64(i64 {self.top}, i64 {FIRST})")
        self.near = entry.let(f"call i64 @llvm.umax.i64(i64 {near}, i64 {self.floor})")
        self.begin_sums()
        top = entry.let(f"getelementptr i8, ptr %frames, i64 {self.top}")
        bottom = entry.let(f"getelementptr i8, ptr {top}, i64 {-WORD}")
        self.check(bottom)
        entry.do(f"store ptr {bottom}, ptr {self.lowest}")
        entry.do(f"store i64 0, ptr {bottom}")
        entry.do(f"store ptr {bottom}, ptr {self.base}")
        self.cycles.begin(bottom)
        for i, param in enumerate(start.params):
            self.set(param, f"%p{i}" if param.lent else self.load(param, f"%p{i}"))
        for i, out in enumerate(start.outs):
            if out.lent:
                self.set(out, f"%r{i}")
        entry.do(f"br label %{self.label(start)}")

    def dispatch(self) -> None:
        """Go on behind the call whose number lies on top."""
        entry = self.entry
        entry.label("return")
        entry.loops = True
        frame = entry.let(f"load ptr, ptr {self.base}")
        address = entry.let(f"load i64, ptr {frame}")
        calls = " ".join(f"i64 {c.number}, label %after{c.number}"
                         for c in calls_of(self.functions))  # fmt: skip
        entry.do(f"switch i64 {address}, label %done [i64 {RETURN}, label %watched {calls}]")
        entry.label("watched")
        self.cycles.end()
        entry.do("br label %return")

    def end(self) -> None:
        """Give the memory of frames back, and results and sums."""
        entry = self.entry
        entry.label("done")
        entry.do(f"store i64 {self.top}, ptr {self.over()}")
        lowest = entry.let(f"load ptr, ptr {self.lowest}")
        entry.do(f"call void @lantern.touch(ptr %frames, ptr {lowest})")
        for i, out in enumerate(self.start.outs):
            if out.is_word:
                self.store(out, self.load(out, self.return_slot(i, out)), f"%r{i}")
        self.end_sums()
        entry.do("ret i32 0")

    # Functions.

    def label(self, function: Function) -> str:
        """Where a function begins."""
        return f"function{self.functions.index(function)}"

    def write_function(self, function: Function) -> None:
        """Write a function: where the user may interrupt it, and its frame must fit above what is
        taken of the region."""
        self.function = function
        entry = self.entry
        entry.label(self.label(function))
        entry.poll()
        if function.extent:
            bottom = self.below(function.extent)
            with self.deep(bottom):
                self.check(bottom)
                self.cycles.enter(function)
            lowest = entry.let(f"load ptr, ptr {self.lowest}")
            lower = entry.let(f"icmp ult ptr {bottom}, {lowest}")
            lowest = entry.let(f"select i1 {lower}, ptr {bottom}, ptr {lowest}")
            entry.do(f"store ptr {lowest}, ptr {self.lowest}")
        self.write_body(function.body, frozenset())

    @contextmanager
    def deep(self, bottom: str) -> Generator[None]:
        """What is done only where frames reach far, or into what is taken of the region."""
        with self.entry.when(self.entry.let(f"icmp ult ptr {bottom}, {self.least(self.near)}")):
            yield

    def least(self, part: str) -> str:
        """Down to where frames may reach, within a part of the region and above what is taken."""
        taken = self.entry.let("load i64, ptr %frames")
        least = self.entry.let(f"call i64 @llvm.umax.i64(i64 {taken}, i64 {part})")
        return self.entry.let(f"getelementptr i8, ptr %frames, i64 {least}")

    def check(self, bottom: str) -> None:
        """Leave if a frame would reach into what is taken of the region, or below its part of it:
        then, most likely, the calls do not end."""
        entry, lowest = self.entry, self.least(self.floor)
        with entry.when(entry.let(f"icmp ult ptr {bottom}, {lowest}")):
            entry.do(f"call void @lantern.touch(ptr %frames, ptr {lowest})")
            leave(entry, self.op, lowest)

    def write_body(self, body: Body, written: frozenset[Variable]) -> None:
        """Write a body and those behind it.

        Args:
            body: which.
            written: what the frame holds already.
        """
        entry, self.body = self.entry, body
        places = [*returned(body), *lodged(body)]
        self.direct |= {v: self.function.outs[i] for v, i in places}
        for number, cut in enumerate(body.cuts):
            self.write_part(body, number)
            if cut.waits:
                kept = [v for v in cut.kept if v.is_word or v.lent]
                for variable in kept:
                    if variable not in written:
                        value = self.load(variable, self.slot(variable))
                        self.store(variable, value, self.place(variable))
                written |= {*kept}
                self.call(cut)
            else:
                self.pack(cut.line)
        self.write_part(body, len(body.cuts))
        if body.branches:
            self.choose(body, written)
        elif body.instead:
            self.go_on(body, body.instead)
        else:
            self.give_back(body)
            entry.do("br label %return")

    def choose(self, body: Body, written: frozenset[Variable]) -> None:
        """Go on with one of the branches."""
        entry = self.entry
        index = entry.let(f"call i64 @llvm.smax.i64(i64 {self.value(body.results[0])}, i64 0)")
        labels = [entry.fresh("branch") for _ in body.branches]
        cases = " ".join(f"i64 {i}, label %{label}" for i, label in enumerate(labels[:-1]))
        entry.do(f"switch i64 {index}, label %{labels[-1]} [{cases}]")
        for label, branch in zip(labels, body.branches, strict=True):
            entry.label(label)
            self.write_body(branch, written)

    def call(self, cut: Cut) -> None:
        """Call a function and wait for it."""
        entry, line = self.entry, cut.line
        callee = self.callee(line)
        given = [self.value(v) if v.is_word else self.address(v) for v in line.inputs]
        outs = [None if v.is_word else self.address(v) for v in line.results]
        frame = self.below(cut.size)
        entry.do(f"store i64 {cut.number}, ptr {frame}")
        if self.reclaims(cut):
            taken = entry.let("load i64, ptr %frames")
            entry.do(f"store i64 {taken}, ptr {self.below(cut.size - WORD)}")
        self.enter(callee, given, outs)
        entry.do(f"store ptr {frame}, ptr {self.base}")
        entry.do(f"br label %{self.label(callee)}")
        entry.label(f"after{cut.number}")
        entry.do(f"store ptr {self.below(-cut.size)}, ptr {self.base}")
        if self.reclaims(cut):
            self.give_nodes_back(self.below(cut.size - WORD))
        for variable in cut.kept:
            if variable.is_word or variable.lent:
                self.set(variable, self.load(variable, self.place(variable)))
        for i, variable in enumerate(line.results):
            if variable.is_word:
                self.set(variable, self.load(variable, self.return_slot(i, variable)))

    def reclaims(self, cut: Cut) -> bool:
        """Whether what a call takes of the region is given back."""
        return cut.reclaims and not self.entry.module.merges

    def give_nodes_back(self, before: str) -> None:
        """Let the region be taken up to where an address says, and note how far it was."""
        entry = self.entry
        lowest = entry.let(f"load ptr, ptr {self.lowest}")
        entry.do(f"call void @lantern.touch(ptr %frames, ptr {lowest})")
        entry.do(f"store i64 {entry.let(f'load i64, ptr {before}')}, ptr %frames")

    def callee(self, line: Line) -> Function:
        """Which function a call is one of."""
        return self.functions[callee_of(line)]

    def enter(self, callee: Function, given: Sequence[str], outs: Sequence[str | None]) -> None:
        """Hand a function its arguments, and where its results shall lie."""
        for param, value in zip(callee.params, given, strict=True):
            self.set(param, value)
        for out, address in zip(callee.outs, outs, strict=True):
            if address is not None:
                self.set(out, address)

    def go_on(self, body: Body, line: Line) -> None:
        """A call whose results are those of its caller, which is done: the frame is the callee's.
        Arrays that lie in it move to its beginning."""
        entry, callee = self.entry, self.callee(line)
        moving: list[tuple[str, str, Type]] = []
        given: list[str] = []
        copies: list[Range] = []
        end = 0
        for i, (param, v) in enumerate(zip(callee.params, body.results, strict=True)):
            if param.is_word:
                given.append(self.value(v))
                continue
            end += size_of(param.type)
            address = self.address(v)
            stays = callee is self.function and v is self.function.params[i]
            if not stays and v.capture is None and not (v.line is not None and v.line.found):
                if v.lent:  # perhaps where another one moves to
                    own, taken = entry.take(fixed(v).type.bytes)
                    entry.copy(own, address, v.type)
                    copies.append(taken)
                    address = own
                moving.append((self.below(end), address, v.type))
                address = moving[-1][0]
            given.append(address)
        for to, start, type in moving:
            entry.copy(to, start, type)
        for taken in copies:
            entry.arena.give(taken)
        outs = [self.address(out) if out.lent else None for out in self.function.outs]
        self.enter(callee, given, outs)
        entry.do(f"br label %{self.label(callee)}")

    def pack(self, line: Line) -> None:
        """Make a node."""
        self.show_frame()
        made = nodes.made(self.entry, self.op, line.op, [self.address(v) for v in line.inputs])
        self.set(line.results[0], made)

    def give_back(self, body: Body) -> None:
        """Put results where the caller reads them, if they were not made there."""
        entry = self.entry
        for i, (variable, out) in enumerate(zip(body.results, self.function.outs, strict=True)):
            if variable.is_word:
                self.store(out, self.value(variable), self.return_slot(i, out))
            elif self.direct.get(variable) is not out:
                entry.copy(self.load(out, self.slot(out)), self.address(variable), out.type)

    # Parts.

    def write_part(self, body: Body, number: int) -> None:
        """Write the operations of a part."""
        lines = [x for x in body.parts[number] if x.sum is None or x.sum not in self.numbers]
        added = [x for x in body.parts[number] if x not in lines]
        made = wanted(body, number, added)
        held = [*dict.fromkeys(line.sum for line in lines if line.sum is not None)]
        block, read = outline(lines, made, {k: self.total(k).type for k in held})
        if block.ops:
            over = {
                made.index(y): read.index(x)
                for x, y in product(read, made)
                if x in self.direct and self.direct[x] is self.direct.get(y)
            }
            sources, targets = map(self.address, read), map(self.address, made)
            self.perform(block, [*sources], [*targets], held, over)
        for line in added:
            self.numbers[cast(int, line.sum)].add(self.value(line.inputs[0]))

    def perform(
        self,
        block: Block,
        sources: Sequence[str],
        targets: Sequence[str],
        held: Sequence[int],
        over: Mapping[int, int],
    ) -> None:
        """Write a block in line.

        Args:
            block: its last parameters are sums, its last results the same after it.
            sources: where its other parameters lie.
            targets: where its other results shall lie.
            held: the numbers of the sums.
            over: the results that shall lie where a parameter does.
        """
        entry = self.entry
        if inline.fits(entry, block):
            given = [
                load_single(entry, v.type, at) if is_single(v.type) else at
                for v, at in zip(block.params, sources, strict=True)
            ]
            for v, one, at in zip(block.results, inline.emit(entry, block, given), targets,
                                  strict=True):  # fmt: skip
                store_single(entry, v.type, one, at)
            return
        rows: Sequence[int] = ()
        if held:
            block, held, rows = sums.split(block, held, self.waiting)
            targets = [*targets, *(at for k in rows for at in self.waiting[k].places())]
        totals = [f"%s{k}" for k in held]
        owned = {len(sources) + i: (len(targets) + i,) for i in range(len(held))}
        plan = plan_block(block, owned | {j: (k,) for k, j in over.items()})
        aside = {k: entry.take(block.results[k].type.bytes)
                 for k, j in over.items() if plan.kept[k] != j}  # fmt: skip
        places = [aside[k][0] if k in aside else at for k, at in enumerate(targets)]
        if entry.module.merges or any(map(makes_lists, walk(block))):
            self.show_frame()
        with reclaimed(entry, block):
            entry.run_block(block, plan, [*sources, *totals], [*places, *totals])
        for k, (start, taken) in aside.items():
            entry.copy(targets[k], start, block.results[k].type)
            entry.arena.give(taken)
        for k in rows:
            self.waiting[k].written()

    # Sums.

    def total(self, k: int) -> Value:
        """The result that is a sum."""
        return self.op.results[len(self.start.outs) + k]

    def begin_sums(self) -> None:
        """Sums begin at zero."""
        entry = self.entry
        for k in range(len(self.op.results) - len(self.start.outs)):
            type = self.total(k).type
            if not type.shape:
                self.numbers[k] = sums.Number(entry, type)
                continue
            size = entry.bytes(type)
            entry.do(f"call void @llvm.memset.p0.i64(ptr %s{k}, i8 0, i64 {size}, i1 false)")
            if sums.waits(type):
                self.waiting[k] = sums.Waiting(entry, type, f"%s{k}")

    def end_sums(self) -> None:
        """Sums go where the results lie."""
        for k, number in self.numbers.items():
            number.end(f"%s{k}")
        for waiting in self.waiting.values():
            waiting.end()


RECURSION: dict[str, Callable[[Entry, Op], None]] = {
    "recurse": recurse,
    "pack": nodes.pack,
    "unpack": nodes.unpack,
    "merge": merges.merge,
    "tag": nodes.tag,
}
