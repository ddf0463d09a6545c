"""`vmap`: a function of one example becomes a function of a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import optree

from lantern import tree
from lantern.batch import Batch
from lantern.control import box, unbox
from lantern.convert import asarray
from lantern.errors import ArgumentTypeError, BatchingError, ShapeError, describe, short_traceback
from lantern.primitives.structure import permute
from lantern.syntax.calls import rewritten
from lantern.tensor import Tensor

__all__ = ["vmap"]

PyTree = Any
_REMEDY = (
    "What is not batched gets None in in_axes, or is closed over: keyword arguments are always "
    "batched along axis 0"
)


def vmap(
    f: Callable[..., PyTree],
    in_axes: PyTree = 0,
    out_axes: PyTree = 0,
    axis_size: int | None = None,
) -> Callable[..., PyTree]:
    """A function that applies ``f`` to every element of a batch, in one run of ``f``.

    Args:
        f: a function of one example; arguments and result are pytrees.
        in_axes: the axis of the batch in each array: an integer for all arguments, or a tuple with
            one entry for each positional argument: an integer, None for what is the same for every
            example, or a tree of those that is a prefix of the argument. Negative axes count from
            the end. Keyword arguments are batched along axis 0.
        out_axes: where the batch goes in the result: an integer, None for a leaf that is the same
            for every example, or a tree of those that is a prefix of the result.
        axis_size: the number of examples, which is otherwise that of the batched arguments.

    Returns:
        A function with the arguments of ``f``, an axis added to those that ``in_axes`` names.

    Raises:
        ShapeError: batched axes of different lengths or out of range; nothing is batched; or
            ``in_axes`` or ``out_axes`` is not a prefix.
        BatchingError: the result differs between examples where ``out_axes`` is None; or ``f``
            used a batched Tensor as one Python value.

    Example:
        >>> import lantern as ln
        >>> matrix, vectors = ln.asarray([[1.0, 2.0], [3.0, 4.0]]), ln.asarray([[1.0, 0.0]] * 3)
        >>> ln.vmap(ln.matmul, in_axes=(None, 0))(matrix, vectors).shape
        (3, 2)
        >>> print(ln.vmap(ln.grad(lambda x: x * x * x))(ln.asarray([1.0, 2.0])))
        [ 3. 12.]
    """

    @functools.wraps(f)
    def batched(*args: PyTree, **kwargs: PyTree) -> PyTree:
        axes = tuple(in_axes) if isinstance(in_axes, list) else in_axes
        if isinstance(axes, tuple) and len(axes) != len(args):
            raise ShapeError(
                f"vmap: in_axes has {len(axes)} entries for {len(args)} positional arguments"
            )
        places = [
            *_axis_of_each_leaf(axes, args, "in_axes", "positional arguments"),
            *_axis_of_each_leaf(0, kwargs, "in_axes", "keyword arguments"),
        ]
        everything: PyTree = (args, kwargs)
        leaves, structure = optree.tree_flatten(
            everything, none_is_leaf=True, namespace=tree.NAMESPACE
        )
        given = [
            x if axis is None or x is None else _array(x, everything, i)
            for i, (x, axis) in enumerate(zip(leaves, places, strict=True))
        ]
        size = _common_size(given, places, axis_size, everything)
        prompt = Batch(size)
        inside = [
            x if axis is None or x is None else Tensor(_moved(unbox(x), axis % x.ndim, 0), prompt)
            for x, axis in zip(given, places, strict=True)
        ]
        inner: PyTree = structure.unflatten(inside)
        with short_traceback():
            out = rewritten(f)(*inner[0], **inner[1])
        targets = _axis_of_each_leaf(out_axes, out, "out_axes", "result")
        results, structure = optree.tree_flatten(out, none_is_leaf=True, namespace=tree.NAMESPACE)
        return structure.unflatten(
            [_leave(prompt, y, axis) for y, axis in zip(results, targets, strict=True)]
        )

    return batched


def _axis_of_each_leaf(axes: PyTree, full: PyTree, name: str, what: str) -> list[int | None]:
    """The prefix ``axes`` spread over the leaves of ``full``; None counts as a leaf in both."""
    try:
        spread = optree.broadcast_prefix(axes, full, none_is_leaf=True, namespace=tree.NAMESPACE)
    except ValueError:
        raise ShapeError(
            f"vmap: {name} {axes} is not a prefix of the {what}, {tree.structure(full)}"
        ) from None
    for axis in spread:
        if axis is not None and (isinstance(axis, bool) or not isinstance(axis, int)):
            raise ArgumentTypeError(f"vmap: {name} holds {axis!r}; an axis is an integer or None")
    return spread


def _path(whole: PyTree, position: int) -> str:
    """How the user would write the leaf at a position of (args, kwargs)."""
    accessors = optree.tree_accessors(whole, none_is_leaf=True, namespace=tree.NAMESPACE)
    path = accessors[position]
    return path[1:].codify("args" if path[0].entry == 0 else "kwargs")


def _array(x: Any, whole: PyTree, position: int) -> Tensor:
    """A leaf that is to be batched, as a Tensor."""
    try:
        return asarray(x)
    except (TypeError, ValueError):
        raise BatchingError(
            f"vmap: {_path(whole, position)} is {describe(x)}, not an array. {_REMEDY}"
        ) from None


def _common_size(
    leaves: list[Any],
    axes: list[int | None],
    axis_size: int | None,
    whole: PyTree,
) -> int:
    """The number of examples, which every batched leaf agrees about."""
    sizes: dict[int, int] = {}
    for i, (x, axis) in enumerate(zip(leaves, axes, strict=True)):
        if axis is None or x is None:
            continue
        if not -x.ndim <= axis < x.ndim:
            raise ShapeError(
                f"vmap: {_path(whole, i)} is {describe(x)} and has no axis {axis}. {_REMEDY}"
            )
        sizes[i] = x.shape[axis]
    found = set(sizes.values()) | (set() if axis_size is None else {axis_size})
    if len(found) == 1:
        return found.pop()
    if not found:
        raise ShapeError(
            "vmap: nothing is batched: in_axes is None for every argument, and axis_size is not "
            "given"
        )
    lines = [
        f"  {_path(whole, i)}, {describe(leaves[i])}: axis {axes[i]} has length {n}"
        for i, n in sizes.items()
    ]
    if axis_size is not None:
        lines.append(f"  axis_size is {axis_size}")
    text = "\n".join(lines)
    raise ShapeError(f"vmap: the batched axes differ in length:\n{text}")


def _leave(prompt: Batch, y: Any, axis: int | None) -> Any:
    """A leaf of the result, outside the prompt: the batch at ``axis``."""
    if y is None:
        return None
    mine = type(y) is Tensor and y.prompt is prompt
    if axis is None:
        if mine:
            raise BatchingError(
                f"vmap: a result {describe(y)} differs between the {prompt.size} examples, and its "
                "out_axes is None"
            )
        return y
    value = prompt.unbatch(y if mine else asarray(y))
    rank = len(value.shape)
    if not -rank <= axis < rank:
        raise ShapeError(
            f"vmap: out_axes {axis} is out of range for a batch of results {describe(y)}, which "
            f"has {rank} axes"
        )
    return box(_moved(value, 0, axis % rank))


def _moved(x: Any, source: int, target: int) -> Any:
    """A value with one axis moved."""
    if source == target:
        return x
    axes = [a for a in range(len(x.shape)) if a != source]
    axes.insert(target, source)
    return permute(x, axes=tuple(axes))
