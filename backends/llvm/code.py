"""`Code`: the text of one LLVM function, written line by line."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from backends.affine import Affine, Var

LONG = 1 << 40  # what no length reaches


# What every function that performs a block of a program is given, beside its operands.
ENVIRONMENT = ("%error", "%show", "%pool", "%frames", "%lengths", "%stop")


class Code:
    """The body of a function: lines, fresh names, loops, and slots for what a loop changes.

    ``memo`` holds what has been computed and may be read where the next line stands: what is
    written in a loop's body leaves it with the loop. ``loops`` is whether there is a loop that may
    take long by itself.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.slots: list[str] = []
        self.rooms: dict[str, int] = {}
        self.count = 0
        self.block = "entry"
        self.memo: ChainMap[Any, str] = ChainMap()
        self.loops = False

    def fresh(self, stem: str = "v") -> str:
        """A name that the function does not have yet, without its sign."""
        self.count += 1
        return f"{stem}{self.count}"

    def let(self, text: str) -> str:
        """Name the result of an instruction."""
        name = "%" + self.fresh()
        self.lines.append(f"  {name} = {text}")
        return name

    def do(self, text: str) -> None:
        """An instruction without a result."""
        self.lines.append("  " + text)

    def slot(self, type: str) -> str:
        """A place on the stack; optimisation turns it into a register."""
        name = "%" + self.fresh("slot")
        self.slots.append(f"  {name} = alloca {type}")
        return name

    def room(self, name: str, words: int) -> str:
        """A place on the stack for so many ``i64``, the same each time that it is asked for by this
        name: for what is written there and read soon."""
        self.rooms[name] = max(words, self.rooms.get(name, 0))
        return f"%room.{name}"

    def label(self, name: str) -> None:
        """Start a basic block."""
        self.lines.append(f"{name}:")
        self.block = name

    @contextmanager
    def when(self, condition: str) -> Generator[None]:
        """Instructions that run only where an ``i1`` is true."""
        name = self.fresh("when")
        self.do(f"br i1 {condition}, label %{name}, label %{name}.end")
        self.label(name)
        self.memo = self.memo.new_child()
        yield
        self.memo = self.memo.parents
        self.do(f"br label %{name}.end")
        self.label(name + ".end")

    @contextmanager
    def loop(self, extent: int | str, reverse: bool = False, brief: bool = False) -> Generator[str]:
        """A loop over 0 … extent - 1, known now or an ``i64``; gives the name of the index. A brief
        one takes no time beside what it calls, or has few steps."""
        self.loops |= not brief
        name = self.fresh("loop")
        index = f"%{name}.i"
        if isinstance(extent, int):
            enter, last = ("true" if extent > 0 else "false"), str(extent - 1)
        else:
            enter = self.let(f"icmp sgt i64 {extent}, 0")
            last = self.let(f"sub i64 {extent}, 1") if reverse else ""
        before = self.block
        self.do(f"br i1 {enter}, label %{name}, label %{name}.end")
        self.label(name)
        self.do(f"{index} = phi i64 [ 0, %{before} ], [ {index}.next, %{name}.latch ]")
        self.memo = self.memo.new_child()
        yield self.let(f"sub nuw nsw i64 {last}, {index}") if reverse else index
        self.memo = self.memo.parents
        self.do(f"br label %{name}.latch")
        self.label(f"{name}.latch")
        self.do(f"{index}.next = add nuw nsw i64 {index}, 1")
        done = self.let(f"icmp uge i64 {index}.next, {extent}")
        self.do(f"br i1 {done}, label %{name}.end, label %{name}")
        self.label(f"{name}.end")

    @contextmanager
    def forever(self, brief: bool = False) -> Generator[Callable[[str], None]]:
        """A loop that ends where an ``i1`` that is handed to what this gives is true."""
        self.loops |= not brief
        name = self.fresh("loop")
        self.do(f"br label %{name}")
        self.label(name)
        self.memo = self.memo.new_child()

        def leave(condition: str) -> None:
            on = self.fresh(name)
            self.do(f"br i1 {condition}, label %{name}.end, label %{on}")
            self.label(on)

        yield leave
        self.memo = self.memo.parents
        self.do(f"br label %{name}")
        self.label(f"{name}.end")

    def share(self, extent: int, parts: int, grain: int = 1) -> tuple[str, str]:
        """Where the share of ``%part`` in 0 … extent - 1 begins, and how long it is; it begins at a
        multiple of the grain where that leaves something for each part."""
        length = -(-extent // parts)
        if extent >= 2 * grain * parts:
            length = -(-length // grain) * grain
        start = self.let(f"mul i64 %part, {length}")
        rest = self.let(f"sub i64 {extent}, {start}")
        return start, self.let(f"call i64 @llvm.smin.i64(i64 {rest}, i64 {length})")

    def offset(self, pointer: str, index: str, size: int) -> str:
        """The ``index``-th part of ``size`` bytes."""
        at = self.let(f"mul i64 {index}, {size}")
        return self.let(f"getelementptr i8, ptr {pointer}, i64 {at}")

    def index(self, position: Affine) -> str:
        """A position as an ``i64``."""
        if position in self.memo:
            return self.memo[position]
        total = "" if position.terms else str(position.const)
        for var, factor in position.terms:
            term = var.name if factor == 1 else self.let(f"mul nsw i64 {var.name}, {factor}")
            total = self.let(f"add nsw i64 {total}, {term}") if total else term
        if position.terms and position.const:
            total = self.let(f"add nsw i64 {total}, {position.const}")
        self.memo[position] = total
        return total

    def quotient(self, position: Affine, n: int) -> tuple[Affine, Affine]:
        """Quotient and remainder of a position, by division at run time where nothing else helps.

        Raises:
            SplitAxis: splitting a loop spares the division.
        """
        found = position.divided(n)
        if found is not None:
            return found
        key = (position, n)
        if key not in self.memo:
            at = self.index(position)
            high = self.let(f"udiv i64 {at}, {n}")
            self.memo[key] = high
            self.memo[high] = self.let(f"urem i64 {at}, {n}")
        high = self.memo[key]
        most = position.bounds()[1] // n + 1
        return variable(high, most), variable(self.memo[high], n)

    def body(self) -> str:
        """The text between the function's braces."""
        rooms = [f"  %room.{name} = alloca [{n} x i64]" for name, n in self.rooms.items()]
        return "\n".join(["entry:", *rooms, *self.slots, *self.lines])


def variable(name: str, extent: int) -> Affine:
    """A position that is one run-time value."""
    return Affine(0, ((Var(name, extent), 1),)) if extent > 1 else Affine()
