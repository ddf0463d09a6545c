"""Recursion: groups of functions that call each other, as the operation `recurse` holds them.

A function's body is a tree of blocks. The block of a leaf gives the function's results, and behind
them what it adds to some of the group's sums: arrays, or rows and the indices where they are added.
That of an inner node gives which branch goes on, an int64 that is clipped, and then what every
branch is given. Each block takes what it is given, and then all that the group captures. Blocks of
a tree call functions of the group by `recur`.

A `node` is what a call saves for the way back: values, nodes of its own calls among them, under the
number of the path that it took through the tree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar, cast

from staging.ir import Attributes, Block, IRError, Literal, Op, Type, Value

Types = tuple[Type, ...]
V = TypeVar("V")


class Added(NamedTuple):
    """What a leaf adds to a sum.

    Attributes:
        sum: its number.
        indices: how many index arrays there are behind the value; with none, the value is of the
            type of the sum, else it has rows for places along so many first axes, as in `scatter`.
    """

    sum: int
    indices: int


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """A node of a function's tree.

    Attributes:
        block: from what it is given and the captures; see above.
        branches: of which one goes on; none at a leaf.
        adds: at a leaf, what its block gives behind the results.
    """

    block: Block
    branches: tuple[Body, ...]
    adds: tuple[Added, ...]

    def all(self) -> Iterator[Body]:
        """The node, and those below it, each before its branches."""
        yield self
        for branch in self.branches:
            yield from branch.all()

    @property
    def added(self) -> int:
        """How many of the block's results are what it adds to sums."""
        return sum(1 + a.indices for a in self.adds)

    def parts(self, values: Sequence[V]) -> list[tuple[Added, V, Sequence[V]]]:
        """What it adds, the value, and the indices, among its block's results."""
        rest = iter(values[len(values) - self.added :])
        return [(a, next(rest), [next(rest) for _ in range(a.indices)]) for a in self.adds]


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """A function of a group.

    Attributes:
        name: of the user's function, for messages.
        args: the types of its arguments.
        results: the types of its results.
        body: the root of its tree.
    """

    name: str
    args: Types
    results: Types
    body: Body


def functions_of(op: Op) -> tuple[Function, ...]:
    """The functions of a `recurse`."""
    return _functions(op.attributes, op.blocks)


def described(types: Sequence[Type]) -> Literal:
    """Types as an attribute."""
    return tuple((t.dtype, t.shape) for t in types)


def listed(attributes: Attributes, key: str) -> Types:
    """The types that an attribute describes."""
    pairs = cast("tuple[tuple[str, tuple[int, ...]], ...]", attributes[key])
    return tuple(Type(dtype, shape) for dtype, shape in pairs)


def _functions(attributes: Attributes, blocks: Sequence[Block]) -> tuple[Function, ...]:
    rest = iter(blocks)
    found: list[Function] = []
    for entry in cast("tuple[tuple[str, int, int, Literal], ...]", attributes["functions"]):
        name, args, results, tree = entry
        body = _body(tree, rest)
        leaf = next(b for b in body.all() if not b.branches)
        given, made = _types(body.block.params), _types(leaf.block.results)
        found.append(Function(name, given[:args], made[:results], body))
    if next(rest, None) is not None:
        raise IRError("there are more blocks than the trees of the functions have")
    return tuple(found)


def _body(tree: Literal, rest: Iterator[Block]) -> Body:
    """The tree of a function: of an inner node the trees of its branches, of a leaf two numbers, as
    in `Added`, for each that it adds."""
    block = next(rest, None)
    if block is None or not isinstance(tree, tuple):
        raise IRError("the trees of the functions have more blocks than there are")
    if tree and isinstance(tree[0], tuple):
        return Body(block, tuple(_body(branch, rest) for branch in tree), ())
    numbers = iter(cast("tuple[int, ...]", tree))
    return Body(block, (), tuple(Added(k, next(numbers)) for k in numbers))


def _types(values: Sequence[Value]) -> Types:
    return tuple(v.type for v in values)


# What fits together -------------------------------------------------------------------------------


def types_of_recurse(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    """The results of a `recurse`: those of its entry, then the sums.

    Raises:
        IRError: the blocks do not fit together.
    """
    functions = _functions(attributes, blocks)
    entry, captured = (cast(int, attributes[k]) for k in ("entry", "captured"))
    sums = listed(attributes, "sums")
    captures = inputs[len(inputs) - captured :]
    _require(0 <= entry < len(functions), "there is no such entry")
    _require(inputs == functions[entry].args + captures, "the entry takes other arguments")
    for function in functions:
        _check_body(function, function.body, function.args, captures, sums)
        for body in function.body.all():
            _check_calls(body.block, functions)
    return functions[entry].results + sums


def _check_body(function: Function, body: Body, given: Types, captures: Types, sums: Types) -> None:
    results = _types(body.block.results)
    _require(not any(t.is_table for t in (*given, *results)), "tables are captures or sums")
    _require(_types(body.block.params) == given + captures, f"a block of {function.name} takes "
             "other values than it is given")  # fmt: skip
    if body.branches:
        _require(results[:1] == (Type("int64"),), "a branch is chosen by an int64")
        for branch in body.branches:
            _check_body(function, branch, results[1:], captures, sums)
        return
    made = results[: len(results) - body.added]
    _require(made == function.results, f"the ways through {function.name} differ in their results")
    for added, value, indices in body.parts(results):
        _require(0 <= added.sum < len(sums), "there is no such sum")
        total, places = sums[added.sum], indices[0].shape if indices else ()
        fits = value == Type(total.dtype, places + total.shape[len(indices) :])
        fits = fits and all(t == Type("int64", places) for t in indices)
        _require(fits, f"a way through {function.name} adds {value} to a sum of {total}")


def _check_calls(block: Block, functions: tuple[Function, ...]) -> None:
    for op in block.ops:
        _require(
            op.name == "recurse" or not any(map(_calls, op.blocks)),
            f"a recur stands inside of a {op.name}",
        )
        if op.name == "recur":
            k = cast(int, op.attributes["function"])
            _require(0 <= k < len(functions), f"a recur calls function {k}, which there is not")
            fits = _types(op.inputs) == functions[k].args
            fits = fits and _types(op.results) == functions[k].results
            _require(fits, f"a recur of {functions[k].name} has other arguments or results")


def _calls(block: Block) -> bool:
    """Whether a block calls functions of the group around it."""
    return any(
        op.name == "recur" or (op.name != "recurse" and any(map(_calls, op.blocks)))
        for op in block.ops
    )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise IRError(message)
