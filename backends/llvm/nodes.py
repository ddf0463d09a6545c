"""Nodes: what a call of a recursive function saves for the way back.

A node lies in the region of lists (`backends.llvm.lists`): the number of its path and its bytes,
then its values, each at a multiple of eight bytes. A null pointer is a node of zeros; so is one
whose bytes are not those that are expected of it. Sums of nodes are in `backends.llvm.merges`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from backends.llvm import merges
from backends.llvm.activations import WORD
from backends.llvm.code import Code
from backends.llvm.dtypes import literal, stored
from backends.llvm.room import places, reserved
from staging.ir import Op

if TYPE_CHECKING:
    from backends.llvm.program import Entry


def made(entry: Entry, owner: Op, op: Op, values: Sequence[str]) -> str:
    """A new node of the values at some addresses.

    Args:
        entry: what is written.
        owner: the operation that fails if there is no memory.
        op: the `pack`.
        values: where they lie.
    """
    *starts, size = places([v.type for v in op.inputs])
    node = reserved(entry, owner, size)
    head = size << 32 | cast(int, op.attributes["tag"])
    entry.do(f"store i64 {head}, ptr {node}")
    for value, address, start in zip(op.inputs, values, starts, strict=True):
        entry.copy(entry.let(f"getelementptr i8, ptr {node}, i64 {start}"), address, value.type)
    return node


def held(entry: Entry, op: Op, node: str, i: int) -> str:
    """The address of the ``i``-th value that an `unpack` reads of a node."""
    *starts, size = places([v.type for v in op.results])
    entry.module.lists = max(entry.module.lists, size)
    some = safe(entry, node)
    if entry.module.merges:
        some = merges.opened(entry, op, some, [v.type for v in op.results])
    bytes = entry.let(f"load i32, ptr {entry.let(f'getelementptr i32, ptr {some}, i64 1')}")
    same = entry.let(f"icmp eq i32 {bytes}, {size}")
    right = entry.let(f"select i1 {same}, ptr {some}, ptr @lantern.zeros")
    return entry.let(f"getelementptr i8, ptr {right}, i64 {starts[i]}")


def number(entry: Entry, node: str) -> str:
    """The number of a node's path."""
    some = entry.let(f"load i32, ptr {safe(entry, node)}")
    return entry.let(f"zext i32 {some} to i64")


def safe(entry: Entry, node: str) -> str:
    """A node that can be read."""
    entry.module.lists = max(entry.module.lists, WORD)
    null = entry.let(f"icmp eq ptr {node}, null")
    return entry.let(f"select i1 {null}, ptr @lantern.zeros, ptr {node}")


def constant(code: Code, op: Op) -> str:
    """A constant as memory holds it."""
    dtype = op.results[0].type.dtype
    if dtype == "node":
        return "null"
    return stored(code, dtype, literal(dtype, cast(float, op.attributes["value"])))


def pack(entry: Entry, op: Op) -> None:
    """Make a node."""
    entry.module.lists = max(entry.module.lists, 1)
    node = made(entry, op, op, [entry.pointer(v) for v in op.inputs])
    entry.do(f"store ptr {node}, ptr {entry.pointer(op.results[0])}")


def unpack(entry: Entry, op: Op) -> None:
    """Copy what a node holds."""
    node = entry.let(f"load ptr, ptr {entry.pointer(op.inputs[0])}")
    for i, value in enumerate(op.results):
        entry.copy(entry.pointer(value), held(entry, op, node, i), value.type)


def tag(entry: Entry, op: Op) -> None:
    """The number of a node's path."""
    node = entry.let(f"load ptr, ptr {entry.pointer(op.inputs[0])}")
    entry.do(f"store i64 {number(entry, node)}, ptr {entry.pointer(op.results[0])}")
