"""Where the values of recursive functions lie while their machine runs.

Numbers and addresses are held in slots, which LLVM turns into registers, and in the frame where a
call would change those. An array lies in the frame of the activation that makes it, or right where
it is to be returned; functions are handed its address. What can be found again is looked up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.llvm import nodes
from backends.llvm.activations import Function, Line, Variable
from backends.llvm.dtypes import memory
from backends.llvm.frames import is_pointer
from backends.llvm.lists import OVER

if TYPE_CHECKING:
    from backends.llvm.program import Entry


class Places:
    """The places of variables in the body that is written.

    Args:
        entry: what is written.
        function: the first one.

    Attributes:
        function: which is written.
        body: of that.
        base: holds where the frame of the activation that runs begins; it lies below.
        slots: what holds each number and address.
        returns: what holds the results that are numbers, by their place and type.
        direct: the arrays that lie where they, or others in their place, are returned, and as which
            result.
    """

    def __init__(self, entry: Entry, function: Function) -> None:
        self.entry, self.function, self.body = entry, function, function.body
        self.base = entry.slot("ptr")
        self.slots: dict[Variable, str] = {}
        self.returns: dict[tuple[int, str], str] = {}
        self.direct: dict[Variable, Variable] = {}

    def kind(self, variable: Variable) -> str:
        """The LLVM type of a number or address."""
        pointer = variable.lent or is_pointer(variable.type)
        return "ptr" if pointer else memory(variable.type.dtype)

    def slot(self, variable: Variable) -> str:
        """What holds a number or address."""
        if variable not in self.slots:
            self.slots[variable] = self.entry.slot(self.kind(variable))
        return self.slots[variable]

    def return_slot(self, i: int, out: Variable) -> str:
        """What holds a function's ``i``-th result."""
        key = i, self.kind(out)
        if key not in self.returns:
            self.returns[key] = self.entry.slot(key[1])
        return self.returns[key]

    def load(self, variable: Variable, pointer: str) -> str:
        """A number or address."""
        return self.entry.let(f"load {self.kind(variable)}, ptr {pointer}")

    def store(self, variable: Variable, value: str, pointer: str) -> None:
        """Write a number or address."""
        self.entry.do(f"store {self.kind(variable)} {value}, ptr {pointer}")

    def set(self, variable: Variable, value: str) -> None:
        """Let a variable be a number or address."""
        self.store(variable, value, self.slot(variable))

    def place(self, variable: Variable) -> str:
        """The place of a variable in the frame."""
        return self.below(self.body.places[variable])

    def below(self, distance: int) -> str:
        """A place in the frame."""
        base = self.entry.let(f"load ptr, ptr {self.base}")
        return self.entry.let(f"getelementptr i8, ptr {base}, i64 {-distance}")

    def address(self, variable: Variable) -> str:
        """Where a variable's value lies."""
        if variable.capture is not None:
            return f"%c{variable.capture}"
        line = variable.line
        if line is not None and line.found:
            return self.found(variable, line)
        if variable in self.direct:
            return self.load(self.direct[variable], self.slot(self.direct[variable]))
        if variable.lent:
            return self.load(variable, self.slot(variable))
        return self.slot(variable) if variable.is_word else self.place(variable)

    def found(self, variable: Variable, line: Line) -> str:
        """The address of what is not kept: what a node holds, its number, or a constant."""
        if line.op.name == "unpack":
            if self.entry.module.merges:
                self.show_frame()
            node = self.value(line.inputs[0])
            return nodes.held(self.entry, line.op, node, line.results.index(variable))
        slot = self.slot(variable)
        if line.op.name == "tag":
            value = nodes.number(self.entry, self.value(line.inputs[0]))
        else:
            value = nodes.constant(self.entry, line.op)
        self.store(variable, value, slot)
        return slot

    def value(self, variable: Variable) -> str:
        """A number, as memory holds it."""
        return self.load(variable, self.address(variable))

    def show_frame(self) -> None:
        """Tell the region up to where it may be taken."""
        bottom = self.below(self.function.extent)
        ends = [self.entry.let(f"ptrtoint ptr {p} to i64") for p in (bottom, "%frames")]
        size = self.entry.let(f"sub i64 {ends[0]}, {ends[1]}")
        self.entry.do(f"store i64 {size}, ptr {self.over()}")

    def over(self) -> str:
        """Where the region says up to where it may be taken."""
        return self.entry.let(f"getelementptr i8, ptr %frames, i64 {OVER}")
