"""Room for nodes (`backends.llvm.nodes`) in the region of lists: how much one takes, and what
happens where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from backends.llvm.activations import WORD, size_of
from backends.llvm.lists import OVER
from staging.ir import Op, Type

if TYPE_CHECKING:
    from backends.llvm.program import Entry


def places(types: Sequence[Type]) -> list[int]:
    """Where values lie in a node, and where it ends."""
    found = [WORD]
    for type in types:
        if type.is_table:
            raise NotImplementedError(  # as of frames; see `backends.llvm.activations.fixed`
                f"a recursive function saves an array of any length for its derivative, {type}"
            )
        found.append(found[-1] + size_of(type))
    return found


def reserved(entry: Entry, owner: Op, size: int) -> str:
    """Room for a node of so many bytes; ``owner`` is the operation that fails if there is none."""
    node = entry.let(f"call ptr @lantern.node(ptr %frames, i64 {size})")
    with entry.when(entry.let(f"icmp eq ptr {node}, null")):
        over = entry.let(f"load i64, ptr {entry.let(f'getelementptr i8, ptr %frames, i64 {OVER}')}")
        leave(entry, owner, entry.let(f"getelementptr i8, ptr %frames, i64 {over}"))
    return node


def leave(entry: Entry, owner: Op, lowest: str) -> None:
    """Leave for lack of memory, saying how much is taken by what is saved, and by calls that wait,
    whose frames reach down to an address."""
    saved = entry.let("load i64, ptr %frames")
    waiting = entry.let(f"call i64 @lantern.waiting(ptr %frames, ptr {lowest})")
    entry.leave_if("true", owner, [saved, waiting])
