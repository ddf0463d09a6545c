"""Calls inside of themselves, found while the machine of a recursion runs: see `staging.cycles`.

A call is watched when its frame lies deeper than any before it was to be. The numbers that are its
arguments are noted, and the address that it returns to is changed, so that its end is seen. All of
that lies in memory: it takes no registers from calls that are not so deep.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from backends.llvm.activations import WORD, Function
from backends.llvm.frames import is_pointer
from staging.failures import BEYOND
from staging.ir import Op

if TYPE_CHECKING:
    from backends.llvm.places import Places

FIRST = 1 << 20  # the bytes of frames below which nothing is watched
RETURN = -1  # the address that a call returns to that is watched
WHICH, NEXT, FRAME, ADDRESS, ARGS = range(5)  # the words that are kept


class Watch:
    """What is known of the call that is watched, while the machine is written: the number of its
    function, 0 for none; where a frame lies whose call is watched instead; its own frame; the
    address that it returns to; its arguments.

    Args:
        places: those of the machine.
        op: what fails.
        functions: those of the machine.
    """

    def __init__(self, places: Places, op: Op, functions: Sequence[Function]) -> None:
        self.places, self.entry, self.op = places, places.entry, op
        self.numbers = {f: n for n, f in enumerate(functions, 1) if watchable(f)}
        most = max((len(f.params) for f in self.numbers), default=0)
        self.range = places.entry.arena.keep((ARGS + most) * WORD)
        self.top = ""

    def word(self, i: int) -> str:
        """The place of a word."""
        at = f"getelementptr i8, ptr %arena, i64 <{self.range.number}>"
        return self.entry.let(f"getelementptr i64, ptr {self.entry.let(at)}, i64 {i}")

    def load(self, i: int, kind: str = "i64") -> str:
        """What a word holds."""
        return self.entry.let(f"load {kind}, ptr {self.word(i)}")

    def store(self, i: int, value: str, kind: str = "i64") -> None:
        """Let a word hold something."""
        self.entry.do(f"store {kind} {value}, ptr {self.word(i)}")

    def begin(self, top: str) -> None:
        """Nothing is watched; frames begin at the top."""
        self.top = top
        self.store(WHICH, "0")
        self.store(NEXT, self.entry.let(f"getelementptr i8, ptr {top}, i64 {-FIRST}"), "ptr")

    def enter(self, function: Function) -> None:
        """At the beginning of a function: look whether this call is inside of itself."""
        if function not in self.numbers:
            return
        entry, places, number = self.entry, self.places, self.numbers[function]
        values = [self.bits(places.kind(p), places.value(p)) for p in function.params]
        with entry.when(entry.let(f"icmp eq i64 {self.load(WHICH)}, {number}")):
            self.compare(values)
        base = entry.let(f"load ptr, ptr {places.base}")
        with entry.when(entry.let(f"icmp ult ptr {base}, {self.load(NEXT, 'ptr')}")):
            self.watch(number, base, values)

    def bits(self, kind: str, value: str) -> tuple[str, str]:
        """A number as an integer, and the type of that."""
        same = {"double": "i64", "float": "i32", "half": "i16", "bfloat": "i16"}.get(kind)
        if same is None:
            return kind, value
        return same, self.entry.let(f"bitcast {kind} {value} to {same}")

    def compare(self, values: Sequence[tuple[str, str]]) -> None:
        """Leave if all arguments are those of the call that is watched."""
        entry, same = self.entry, "true"
        for i, (kind, value) in enumerate(values, ARGS):
            equal = entry.let(f"icmp eq {kind} {self.load(i, kind)}, {value}")
            same = entry.let(f"and i1 {same}, {equal}")
        entry.leave_if(same, self.op, ["0", str(BEYOND)])

    def watch(self, number: int, base: str, values: Sequence[tuple[str, str]]) -> None:
        """Watch this call instead of the one before it; the next one when frames are twice as
        deep."""
        entry = self.entry
        with entry.when(entry.let(f"icmp ne i64 {self.load(WHICH)}, 0")):
            self.forget()
        self.store(WHICH, str(number))
        for i, (kind, value) in enumerate(values, ARGS):
            self.store(i, value, kind)
        self.store(FRAME, base, "ptr")
        self.store(ADDRESS, entry.let(f"load i64, ptr {base}"))
        entry.do(f"store i64 {RETURN}, ptr {base}")
        ends = [entry.let(f"ptrtoint ptr {p} to i64") for p in (base, self.top)]
        depth = entry.let(f"sub i64 {ends[0]}, {ends[1]}")
        self.store(NEXT, entry.let(f"getelementptr i8, ptr {base}, i64 {depth}"), "ptr")

    def forget(self) -> None:
        """The call that was watched returns to where it was called."""
        frame = self.load(FRAME, "ptr")
        self.entry.do(f"store i64 {self.load(ADDRESS)}, ptr {frame}")

    def end(self) -> None:
        """The call that was watched has given its results."""
        self.forget()
        self.store(WHICH, "0")


def watchable(function: Function) -> bool:
    """Whether all arguments are numbers, and there are some."""
    params = function.params
    return bool(params) and all(p.is_word and not is_pointer(p.type) for p in params)
