"""Pytrees: nested tuples, lists, dicts, named tuples and registered dataclasses of Tensors.

They are those of the `optree` library.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import optree

from lantern.errors import ShapeError

C = TypeVar("C", bound=type)
NAMESPACE = "lantern"
PyTree: TypeAlias = Any
Structure: TypeAlias = optree.PyTreeSpec


def flatten(tree: PyTree) -> tuple[list[Any], Structure]:
    """The leaves of a tree and its structure.

    Example:
        >>> leaves, structure = flatten({"b": (1, 2), "a": 3})
        >>> leaves
        [3, 1, 2]
    """
    return optree.tree_flatten(tree, namespace=NAMESPACE)


def unflatten(structure: Structure, leaves: Any) -> PyTree:
    """The tree of a structure with these leaves.

    Example:
        >>> leaves, structure = flatten({"a": 3, "b": (1, 2)})
        >>> unflatten(structure, [x * 10 for x in leaves])
        {'a': 30, 'b': (10, 20)}
    """
    return structure.unflatten(leaves)


def leaves(tree: PyTree) -> list[Any]:
    """The leaves of a tree, in order.

    Example:
        >>> leaves([1, {"x": 2}])
        [1, 2]
    """
    return optree.tree_leaves(tree, namespace=NAMESPACE)


def structure(tree: PyTree) -> Structure:
    """The structure of a tree, without its leaves.

    Example:
        >>> structure([1, 2]) == structure([3, 4])
        True
    """
    return optree.tree_structure(tree, namespace=NAMESPACE)


def map(f: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """Apply ``f`` to corresponding leaves of trees of one structure.

    Raises:
        ShapeError: the trees differ in structure.

    Example:
        >>> map(lambda a, b: a + b, {"x": 1}, {"x": 2})
        {'x': 3}
    """
    try:
        return optree.tree_map(f, tree, *rest, namespace=NAMESPACE)
    except ValueError:  # of optree, or of f
        first = structure(tree)
        for other in rest:
            if not first.is_prefix(structure(other)):
                raise ShapeError(f"a tree is {structure(other)}, the first one {first}") from None
        raise


def paths(tree: PyTree) -> list[str]:
    """The path of every leaf as it would be written, ``['layers'][0]``: for messages and keys.

    Example:
        >>> paths({"w": [1, 2]})
        ["['w'][0]", "['w'][1]"]
    """
    accessors = optree.tree_accessors(tree, namespace=NAMESPACE)
    return [a.codify("") for a in accessors]


def dataclass(cls: C) -> C:
    """Class decorator: make a dataclass a pytree node whose fields are its children.

    A class that is not yet a dataclass becomes a frozen one.

    Fields declared with ``dataclasses.field(metadata={"static": True})`` belong to the structure
    instead.

    Example:
        >>> @dataclass
        ... class Point:
        ...     x: float
        ...     y: float
        >>> map(lambda v: 2 * v, Point(1.0, 2.0))
        Point(x=2.0, y=4.0)
    """
    if not dataclasses.is_dataclass(cls):
        return dataclass(cast(C, dataclasses.dataclass(frozen=True)(cls)))
    fields = dataclasses.fields(cls)
    dynamic = tuple(f.name for f in fields if not f.metadata.get("static"))
    static = tuple(f.name for f in fields if f.metadata.get("static"))

    def open_up(x: Any) -> Any:
        meta = tuple(getattr(x, n) for n in static)
        return tuple(getattr(x, n) for n in dynamic), meta, dynamic

    def close(meta: Any, children: Any) -> Any:
        new = object.__new__(cls)
        for n, v in zip(dynamic, children, strict=True):
            object.__setattr__(new, n, v)
        for n, v in zip(static, meta, strict=True):
            object.__setattr__(new, n, v)
        return new

    optree.register_pytree_node(
        cast(Any, cls), open_up, close, path_entry_type=optree.GetAttrEntry, namespace=NAMESPACE
    )
    return cast(C, cls)
