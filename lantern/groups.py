"""Groups: recursive functions recorded once, closed and level-free, as `lantern.regions.Block` is.

A function's body is a tree of blocks: each hands on what its branches read, and says which of them
goes on; a leaf gives the results. Functions call each other by the primitive `recur`, at the top of
these blocks and nowhere else. What all calls read alike is captured by the group; what they all add
to, a sum, is a result of the group. Captures and sums are each other's duals: the adjoint of a
capture is the sum of what every call has for it.

What a call saves for its way back is a `node`: values, nodes of its own calls among them, and the
path that it took. `pack` makes nodes, `unpack` opens them, and these too are each other's duals:
the adjoint of a node is a node of adjoints. So the halves of a group are groups again.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lantern.blocks import at_positions
from lantern.control import Primitive, bound, discrete
from lantern.declare import declared_rule
from lantern.errors import BatchingError, StagingError
from lantern.places import recording, writing
from lantern.ragged import NODE, Empty, Node, zeros
from lantern.regions import Block, Kind, floating

NODE_KIND: Kind = ((), NODE)
V = TypeVar("V")


class Added(NamedTuple):
    """What a leaf adds to a sum.

    Attributes:
        sum: its number.
        indices: how many index arrays stand behind the value among the block's results; with none,
            the value has the kind of the sum, else it has rows for places along so many first axes.
    """

    sum: int
    indices: int


@dataclass(eq=False)
class Body:
    """A node of a function's tree.

    Attributes:
        block: from what it is given, and the captures; to the number of a branch, clipped, and what
            every branch is given, or at a leaf to the function's results and what it adds.
        branches: of which one goes on; none at a leaf.
        adds: what a leaf adds.
    """

    block: Block
    branches: tuple[Body, ...] = ()
    adds: tuple[Added, ...] = ()

    def all(self) -> Iterator[Body]:
        """The node, and those below it, each before its branches."""
        yield self
        for branch in self.branches:
            yield from branch.all()

    def paths(self) -> Iterator[tuple[Body, ...]]:
        """The ways to the leaves."""
        if not self.branches:
            yield (self,)
        for branch in self.branches:
            yield from ((self, *path) for path in branch.paths())

    def parts(self, values: Sequence[V]) -> tuple[Sequence[V], list[tuple[Added, V, list[V]]]]:
        """A leaf's results, and what it adds: to which sum, the value and its indices."""
        count = len(values) - sum(1 + a.indices for a in self.adds)
        rest = iter(values[count:])
        added = [(a, next(rest), [next(rest) for _ in range(a.indices)]) for a in self.adds]
        return values[:count], added


class Function(NamedTuple):
    """A function of a group: its name, the kinds of its arguments and results, and its tree."""

    name: str
    args: tuple[Kind, ...]
    results: tuple[Kind, ...]
    body: Body


@dataclass(eq=False)
class Group:
    """Functions that call each other.

    Attributes:
        functions: by number.
        captures: the kinds of what every call reads.
        sums: the kinds of what calls add up.
        cut: its halves, once they are made, and how a program writes it.
    """

    functions: tuple[Function, ...]
    captures: tuple[Kind, ...]
    sums: tuple[Kind, ...] = ()
    cut: dict[Hashable, Any] = field(default_factory=dict[Hashable, Any])

    @property
    def linear(self) -> bool:
        """Whether every rule in it is linear in the adjoint, so that forward mode may pass."""
        return all(b.block.linear for f in self.functions for b in f.body.all())


class Cut(NamedTuple):
    """What becomes of a call in the two halves of a group.

    Attributes:
        found: the positions of the arguments whose adjoints the function's backward half gives.
        kinds: their kinds.
    """

    found: tuple[int, ...]
    kinds: tuple[Kind, ...]


# Calls --------------------------------------------------------------------------------------------


def _recur_kernel(*args: Any, function: int, kinds: Sequence[Kind], cut: Cut | None) -> Any:
    """A call on constants alone, which no operand leads to the program that it belongs to."""
    static = {"function": function, "kinds": kinds, "cut": cut}
    region = recording.get()
    if region is not None:
        made = tuple(region.types.parameter(*kind) for kind in kinds)
        return region.record(RECUR, args, static, made)
    return writing.get().perform(RECUR, args, static)


def _recur_rule(
    *args: Any,
    function: int,
    kinds: Sequence[Kind],
    cut: Cut | None,
    wanted: tuple[int, ...] | None = None,
) -> Any:
    """Also yields a number whose adjoint means nothing, but that it comes: calls that add to a sum
    have a way back although nobody may want their results."""
    if cut is None:
        raise StagingError(
            "a recursive function differentiates itself: it calls itself inside of ln.grad, "
            "ln.jvp or the like. Differentiate the whole recursion from outside"
        )
    *outs, node = recur(*args, function=function, kinds=(*kinds, NODE_KIND), cut=None)
    arity, floats = len(args), [i for i, kind in enumerate(kinds) if floating(kind)]
    dz = yield (*outs, np.float32(0))
    seeds = (dz[i] for i in floats)
    found = recur(node, *seeds, function=function, kinds=cut.kinds, cut=None)
    return at_positions(arity, cut.found, found)


def _recur_batch(*_: Any, **static: Any) -> Any:
    raise BatchingError(
        "a recursive function calls itself inside of ln.vmap. Let it call itself for one element "
        "at a time, in ln.map or a loop, or use ln.vmap outside of the whole recursion"
    )


RECUR = Primitive(
    "recur", _recur_kernel, declared_rule(_recur_rule), _recur_batch, selective=True, effect=True
)
# A call of ``function`` of the group that is being recorded or written, with results of ``kinds``.
# ``cut`` is there while the halves are made.
recur = bound(RECUR)


# Nodes --------------------------------------------------------------------------------------------


def _pack_rule(*values: Any, tag: int) -> Any:
    arity, kinds = len(values), [(x.shape, x.dtype) for x in values]
    dz = yield pack(*values, tag=tag)
    floats = [i for i in range(arity) if floating(kinds[i])]
    return at_positions(arity, floats, unpack(dz, kinds=tuple(kinds[i] for i in floats), tag=tag))


def _unpack_kernel(node: Any, *, kinds: Sequence[Kind], tag: int) -> tuple[Any, ...]:
    if type(node) is Empty:
        return tuple(zeros(*kind) for kind in kinds)
    return node.opened(kinds)


def _unpack_rule(node: Any, *, kinds: Sequence[Kind], tag: int) -> Any:
    floats = [i for i, kind in enumerate(kinds) if floating(kind)]
    dz = yield unpack(node, kinds=kinds, tag=tag)
    return (pack(*(dz[i] for i in floats), tag=tag),)


def _node_batch(*_: Any, **static: Any) -> Any:
    raise BatchingError(
        "what a recursive call saved is opened for one element of a batch at a time"
    )


PACK = Primitive("pack", lambda *values, tag: Node(tag, values), declared_rule(_pack_rule),
                 _node_batch)  # fmt: skip
UNPACK = Primitive("unpack", _unpack_kernel, declared_rule(_unpack_rule), _node_batch)
# ``pack(*values, tag)`` is a node; ``unpack(node, kinds, tag)`` its values again; ``tag`` its tag.
pack, unpack = bound(PACK), bound(UNPACK)
tag = discrete(
    "tag", lambda node: np.int64(0 if type(node) is Empty else node.tag), batch=_node_batch
)
