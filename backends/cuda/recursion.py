"""Recursion: the host loops over the calls, which wait on a stack of its own, as in the reference
interpreter; what they compute, and keep in nodes, lies on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from backends.cuda.host import Control, Host, Place, Scope
from staging.activations import Node, merge, opened, run_recurse
from staging.ir import Op, Type


class Calls:
    """What performs a recursion (`staging.activations.Work`) on a device. Every value that a call
    makes has memory of its own, for it may wait, or be kept, for any time.

    Args:
        host: the call of the program.
        given: the operands of the recursion, whose memory others write over when it is done.
    """

    def __init__(self, host: Host, given: Sequence[Any] = ()) -> None:
        self.host = host
        self.outside = {id(x) for x in given}
        self.copies: dict[int, Any] = {}

    def run(self, op: Op, arrays: list[Any]) -> Sequence[Any]:
        if op.name == "pack":
            return (Node(cast(int, op.attributes["tag"]), tuple(map(self.kept, arrays))),)
        return self.host.alone(op, arrays)

    def kept(self, place: Any) -> Any:
        """A value where it stays: an operand is copied, once."""
        if id(place) not in self.outside:
            return place
        if id(place) not in self.copies:
            self.copies[id(place)] = self.host.kept(place)
        return self.copies[id(place)]

    def zeros(self, type: Type) -> Any:
        return self.host.zeros(type)

    def read(self, array: Any) -> int:
        return self.host.read(array)

    def add(self, total: Any, value: Any, indices: Sequence[Any], types: Sequence[Type]) -> Any:
        module = self.host.loaded.module
        adding = module.scatters[(*types,)] if indices else module.adders[types[0]]
        self.host.into(adding, [total, value, *indices], total)
        return total


def recurse(
    host: Host, scope: Scope, op: Op, given: Sequence[Any], targets: Sequence[Any]
) -> Sequence[Place]:
    """The entry's results, then the sums."""
    return run_recurse(op, [*given], Calls(host, given))


def unpack(
    host: Host, scope: Scope, op: Op, given: Sequence[Any], targets: Sequence[Any]
) -> Sequence[Place]:
    """The values of a node: where they lie in it, or the sums of several."""
    return opened(given[0], [v.type for v in op.results], Calls(host))


def merge_(
    host: Host, scope: Scope, op: Op, given: Sequence[Any], targets: Sequence[Any]
) -> Sequence[Place]:
    """A node for the sums of two."""
    return (merge(*given),)


RECURSION: Mapping[str, Control] = {"recurse": recurse, "unpack": unpack, "merge": merge_}
