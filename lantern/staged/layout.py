"""`Layout`: takes arguments apart that are put together as those of the last call were.

To ask the registry of pytrees about every node and every leaf takes several times as long as to see
that they are of the same classes as before, and have the same keys.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from optree import PyTreeKind

from lantern import tree
from lantern.kinds import ALL
from lantern.tensor import Tensor

PyTree = Any
KNOWN = frozenset([PyTreeKind.TUPLE, PyTreeKind.NAMEDTUPLE, PyTreeKind.LIST, PyTreeKind.DICT])
# Classes of which no container is one.
LEAVES = frozenset([Tensor, np.ndarray, bool, int, float, str, *(dtype.type for dtype in ALL)])


class Node(NamedTuple):
    """A container.

    Attributes:
        kind: its class.
        number: how many children it has.
        children: gives them, in the order of the tree's leaves; None of a sequence of them.
        inner: for each child the container that it is, None for a leaf; empty if all are leaves.
    """

    kind: type
    number: int
    children: Callable[[Any], Any] | None
    inner: tuple[Node | None, ...]


class Layout(NamedTuple):
    """How the trees of a structure are put together.

    Attributes:
        structure: of the trees.
        root: the outermost container.
    """

    structure: tree.Structure
    root: Node

    def leaves(self, x: PyTree) -> list[Any] | None:
        """The leaves of a tree; None if it is, or may be, of another structure.

        Example:
            >>> layout = layout_of(tree.structure({"b": (1.0, 2.0), "a": 3.0}))
            >>> layout.leaves({"a": 4.0, "b": (5.0, 6.0)}), layout.leaves({"a": 4.0, "b": 5.0})
            ([4.0, 5.0, 6.0], None)
        """
        found: list[Any] = []
        same = gather(x, self.root, found) and LEAVES.issuperset(map(type, found))
        return found if same else None


def layout_of(structure: tree.Structure) -> Layout | None:
    """The layout of a structure; None if there are other containers in it than dicts, lists, tuples
    and named tuples."""
    try:
        root = node(structure)
    except NotImplementedError:
        return None
    return Layout(structure, root) if root else None


def node(structure: tree.Structure) -> Node | None:
    """What is known of a container; None of a leaf.

    Raises:
        NotImplementedError: it is of another kind.
    """
    if structure.kind == PyTreeKind.LEAF:
        return None
    if structure.kind not in KNOWN or structure.type is None:
        raise NotImplementedError(structure.kind)
    inner = tuple(map(node, structure.children()))
    children = None
    if structure.kind == PyTreeKind.DICT:
        keys = structure.entries()
        children = itemgetter(*keys) if len(keys) > 1 else few(keys)
    return Node(structure.type, len(inner), children, inner if any(inner) else ())


def few(keys: list[Any]) -> Callable[[Any], list[Any]]:
    """What gets the values of one key or of none, where `itemgetter` would make no sequence."""
    return lambda x: [x[key] for key in keys]


def gather(x: Any, at: Node, found: list[Any]) -> bool:
    """Append the leaves of a tree; false if it is not put together so."""
    kind, number, children, inner = at
    if type(x) is not kind or len(x) != number:
        return False
    if children is not None:
        try:
            x = children(x)
        except KeyError:
            return False
    if not inner:
        found += x
        return True
    for child, below in zip(x, inner, strict=True):
        if below is None:
            found.append(child)
        elif not gather(child, below, found):
            return False
    return True
