"""Sums of nodes, adjoints that the same node got in two places.

Nobody says what the two hold before their sum is opened. So it lies in a node of its own: a head
whose bytes say `SUM`, which is no node's size, and the addresses of both. The first who opens it
makes a node of the sums, and leaves its address there. In a program that has such nodes nothing of
the region is given back early, for that node may be made within a step or call, and outlive it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from backends.llvm.activations import WORD
from backends.llvm.frames import is_single
from backends.llvm.inline import add_lists
from backends.llvm.room import places, reserved
from staging.ir import NODE, Block, Op, Type, Value
from staging.memory import plan_block

if TYPE_CHECKING:
    from backends.llvm.program import Entry

SUM = 1  # instead of a node's bytes
OPEN = 1  # instead of its path: the sum has been made
SIZE = 3 * WORD


def merge(entry: Entry, op: Op) -> None:
    """The sums of nodes, of arrays of them or of lists."""
    type, to = op.results[0].type, entry.pointer(op.results[0])
    entry.module.lists = max(entry.module.lists, 1)
    if type.is_list:
        given = [entry.let(f"load ptr, ptr {entry.pointer(v)}") for v in op.inputs]
        entry.do(f"store ptr {add_lists(entry, op, given, of_elements)}, ptr {to}")
        return
    with entry.loop(type.size) as i:
        pair = [at(entry, entry.pointer(v), i) for v in op.inputs]
        made = merged(entry, op, *(entry.let(f"load ptr, ptr {p}") for p in pair))
        entry.do(f"store ptr {made}, ptr {at(entry, to, i)}")


def of_elements(entry: Entry, op: Op, given: Sequence[str]) -> Sequence[str]:
    """The sums of what two lists of nodes, or of arrays of nodes, hold."""
    if is_single(op.results[0].type):
        return [merged(entry, op, *given)]
    entry.buffers |= zip((*op.inputs, *op.results), given, strict=True)
    merge(entry, op)
    return []


def at(entry: Entry, array: str, i: str | int) -> str:
    """The place of an element of an array of nodes, or of a word of a node."""
    return entry.let(f"getelementptr ptr, ptr {array}, i64 {i}")


def word(entry: Entry, node: str, i: int) -> str:
    """One of the two addresses that a sum has."""
    return entry.let(f"load ptr, ptr {at(entry, node, i)}")


def merged(entry: Entry, owner: Op, a: str, b: str) -> str:
    """The sum of two nodes, of which either may be null."""
    slot = entry.slot("ptr")
    empty, other = (entry.let(f"icmp eq ptr {node}, null") for node in (a, b))
    entry.do(f"store ptr {entry.let(f'select i1 {empty}, ptr {b}, ptr {a}')}, ptr {slot}")
    none = entry.let(f"or i1 {empty}, {other}")
    with entry.when(entry.let(f"xor i1 {none}, true")):
        entry.do(f"store ptr {pair(entry, owner, a, b)}, ptr {slot}")
    return entry.let(f"load ptr, ptr {slot}")


def pair(entry: Entry, owner: Op, a: str, b: str) -> str:
    """A node that stands for the sum of two."""
    node = reserved(entry, owner, SIZE)
    entry.do(f"store i64 {SUM << 32}, ptr {node}")
    for i, one in enumerate((a, b), 1):
        entry.do(f"store ptr {one}, ptr {at(entry, node, i)}")
    return node


def is_sum(entry: Entry, node: str) -> str:
    """Whether a node is a sum."""
    bytes = entry.let(f"load i32, ptr {entry.let(f'getelementptr i32, ptr {node}, i64 1')}")
    return entry.let(f"icmp eq i32 {bytes}, {SUM}")


def opened(entry: Entry, owner: Op, node: str, types: Sequence[Type]) -> str:
    """The node itself or, if it is a sum, one that holds the sums of values of these types."""
    slot = entry.slot("ptr")
    entry.do(f"store ptr {node}, ptr {slot}")
    with entry.when(is_sum(entry, node)):
        name, size = opener(entry, owner, tuple(types))
        arena, taken = entry.take(size)
        entry.call_outlined(name, [node, slot, arena])
        entry.arena.give(taken)
    return entry.let(f"load ptr, ptr {slot}")


def opener(entry: Entry, owner: Op, types: tuple[Type, ...]) -> tuple[str, int]:
    """The function that opens a sum of nodes that hold values of some types, and the bytes of the
    arena that it works in; it takes the node, and where to leave what is opened."""
    key = types, entry.module.threads
    if key not in entry.openers:
        inner = entry.inner(entry.module.threads)
        Opener(inner, owner, types).write()
        name = entry.defined("opened", inner, ["%node", "%to"])
        entry.openers[key] = name, inner.arena.size
    return entry.openers[key]


class Opener:
    """A function that opens a sum while it is written.

    Sums of sums are any number deep. What is left to add is the sum of a left and a right node; if
    the right one is a sum too, (l + (a + b)) becomes ((l + a) + b), and so the right one is added
    in the end, and the left one divided anew.

    Args:
        entry: where; one of its own.
        owner: the operation that fails if there is no memory.
        types: of the values.
    """

    def __init__(self, entry: Entry, owner: Op, types: Sequence[Type]) -> None:
        self.entry, self.owner, self.types = entry, owner, types
        *self.starts, self.size = places(types)
        self.left, self.right = entry.slot("ptr"), entry.slot("ptr")

    def write(self) -> None:
        """Write the function."""
        entry = self.entry
        with entry.when(self.done("%node")):
            entry.do(f"store ptr {word(entry, '%node', 1)}, ptr %to")
            entry.do("ret i32 0")
            entry.label(entry.fresh("unreached"))
        total = reserved(entry, self.owner, self.size)
        entry.do(f"call void @llvm.memset.p0.i64(ptr {total}, i8 0, i64 {self.size}, i1 false)")
        entry.do(f"store i64 {self.size << 32}, ptr {total}")
        for i, slot in enumerate((self.left, self.right), 1):
            entry.do(f"store ptr {word(entry, '%node', i)}, ptr {slot}")
        with entry.forever() as end:
            right = entry.let(f"load ptr, ptr {self.right}")
            more = self.unopened(right)
            with entry.when(more):
                self.turn(right)
            with entry.when(entry.let(f"xor i1 {more}, true")):
                self.add(total, right)
                self.divide()
            end(entry.let(f"icmp eq ptr {entry.let(f'load ptr, ptr {self.right}')}, null"))
        entry.do(f"store ptr {total}, ptr {at(entry, '%node', 1)}")
        entry.do(f"store i32 {OPEN}, ptr %node")
        entry.do(f"store ptr {total}, ptr %to")
        entry.do("ret i32 0")

    def done(self, node: str) -> str:
        """Whether a sum has been made."""
        entry = self.entry
        return entry.let(f"icmp eq i32 {entry.let(f'load i32, ptr {node}')}, {OPEN}")

    def unopened(self, node: str) -> str:
        """Whether a node is a sum that has not been made."""
        entry = self.entry
        left = entry.let(f"xor i1 {self.done(node)}, true")
        return entry.let(f"and i1 {is_sum(entry, node)}, {left}")

    def turn(self, right: str) -> None:
        """Of the right one, which is a sum, one goes to the left."""
        entry = self.entry
        left = entry.let(f"load ptr, ptr {self.left}")
        none = entry.let(f"icmp eq ptr {left}, null")
        first = word(entry, right, 1)
        entry.do(f"store ptr {first}, ptr {self.left}")
        with entry.when(entry.let(f"xor i1 {none}, true")):
            entry.do(f"store ptr {pair(entry, self.owner, left, first)}, ptr {self.left}")
        entry.do(f"store ptr {word(entry, right, 2)}, ptr {self.right}")

    def divide(self) -> None:
        """The right one has been added: what is left is the left one."""
        entry = self.entry
        entry.do(f"store ptr {entry.let(f'load ptr, ptr {self.left}')}, ptr {self.right}")
        entry.do(f"store ptr null, ptr {self.left}")

    def add(self, total: str, right: str) -> None:
        """Add a node that is no sum, or one that has been made."""
        entry = self.entry
        made = entry.slot("ptr")
        entry.do(f"store ptr {right}, ptr {made}")
        with entry.when(is_sum(entry, right)):
            entry.do(f"store ptr {word(entry, right, 1)}, ptr {made}")
        node = entry.let(f"load ptr, ptr {made}")
        params = [Value(t) for t in (*self.types, *self.types)]
        results = [Value(t) for t in self.types]
        count = len(self.types)
        ops = tuple(
            Op(self.operation(y.type), (a, b), (y,), {}, (), self.owner.place)
            for a, b, y in zip(params[:count], params[count:], results, strict=True)
        )
        block = Block(tuple(params), ops, tuple(results))
        here, there = (
            [entry.let(f"getelementptr i8, ptr {one}, i64 {start}") for start in self.starts]
            for one in (total, node)
        )
        plan = plan_block(block, {i: (i,) for i in range(count)})
        entry.run_block(block, plan, [*here, *there], here)

    def operation(self, type: Type) -> str:
        """What adds values of a type."""
        return {NODE: "merge", "bool": "or"}.get(type.dtype, "add")
