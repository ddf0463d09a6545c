"""Branches: which of several functions runs is decided by a value.

Where the value is known the branch is a branch of Python. Where it is not, because a program is
being written or because it differs within a batch, every branch is recorded (`lantern.regions`),
and a primitive performs the one that is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lantern import tree
from lantern.checkpoint import undifferentiated
from lantern.choices import switch as perform
from lantern.control import box
from lantern.convert import asarray
from lantern.errors import ArgumentError, DTypeError, ShapeError, describe
from lantern.primitives.structure import convert
from lantern.regions import Recording, recorded, union
from lantern.symbol import is_known
from lantern.tensor import Tensor

__all__ = ["cond", "switch"]

PyTree = Any


def cond(
    pred: Any,
    true_fun: Callable[..., PyTree],
    false_fun: Callable[..., PyTree],
    *operands: PyTree,
) -> PyTree:
    """``true_fun(*operands)`` if ``pred`` holds, else ``false_fun(*operands)``; only one runs.

    Derivatives are those of the branch that ran. Under `lantern.vmap` with a ``pred`` that differs
    within the batch both run, and each element takes results and derivatives from its own.

    Args:
        pred: a boolean, shape ().
        true_fun: a function of the operands.
        false_fun: one with results of the same structure, shapes and dtypes.
        *operands: pytrees. Tensors that the functions close over are differentiated too.

    Raises:
        ShapeError: the results differ in structure, shape or dtype.
        DTypeError: ``pred`` is not a boolean of shape ().

    Example:
        >>> import lantern as ln
        >>> root = lambda x: ln.cond(x > 0, ln.sqrt, lambda x: 0.0 * x, x)
        >>> print(root(4.0), ln.grad(root)(4.0), ln.grad(root)(0.0))
        2.0 0.25 0.0
    """
    pred = asarray(pred)
    if pred.shape != () or pred.dtype.kind != "b":
        raise DTypeError(f"cond: pred is {describe(pred)}; expected bool[]")
    return _choose("cond", ("false_fun", "true_fun"), pred, (false_fun, true_fun), operands)


def switch(index: Any, branches: Sequence[Callable[..., PyTree]], *operands: PyTree) -> PyTree:
    """``branches[index](*operands)``; only that branch runs.

    Args:
        index: an integer, shape (). One below 0 counts as 0, one too large as the last.
        branches: functions of the operands, with results of one structure, shapes and dtypes.
        *operands: pytrees. Tensors that the functions close over are differentiated too.

    Raises:
        ShapeError: the results differ in structure, shape or dtype.
        DTypeError: ``index`` is not an integer of shape ().
        ArgumentError: there is no branch.

    Example:
        >>> import lantern as ln
        >>> print(ln.switch(1, [ln.sin, ln.exp, ln.cos], 0.0))
        1.0
    """
    index = asarray(index)
    if index.shape != () or index.dtype.kind not in "iu":
        raise DTypeError(f"switch: index is {describe(index)}; expected an integer of shape ()")
    if not branches:
        raise ArgumentError("switch: there are no branches")
    names = [f"branch {i}" for i in range(len(branches))]
    return _choose("switch", names, index, branches, operands)


def _choose(
    what: str,
    names: Sequence[str],
    index: Tensor,
    branches: Sequence[Callable[..., PyTree]],
    operands: Any,
) -> PyTree:
    known = undifferentiated(index)
    if is_known(known):
        return branches[min(max(int(known), 0), len(branches) - 1)](*operands)
    leaves, structure = tree.flatten(operands)
    leaves = [box(x) for x in leaves]

    def of_leaves(f: Callable[..., PyTree]) -> Callable[..., PyTree]:
        return lambda *xs: f(*tree.unflatten(structure, xs))

    recordings = [recorded(of_leaves(f), leaves) for f in branches]
    _same_results(what, names, recordings)
    captures = union([region for region, _, _ in recordings])
    blocks = tuple(region.block(results, captures=captures) for region, results, _ in recordings)
    arrays = [x for x in leaves if type(x) is Tensor]
    number = convert(index, dtype=np.dtype(np.int64))
    found = perform(number, *arrays, *captures, blocks=blocks)
    return tree.unflatten(recordings[0][2], [box(y) for y in found])


def _same_results(
    what: str, names: Sequence[str], recordings: Sequence[tuple[Recording, list[Tensor], Any]]
) -> None:
    """Raise unless all branches have results of the same types."""
    _, first, structure = recordings[0]
    for name, (_, results, other) in zip(names[1:], recordings[1:], strict=True):
        if other != structure:
            raise ShapeError(
                f"{what}: {names[0]} returns {structure} and {name} {other}; branches "
                "return the same structure"
            )
        for path, x, y in zip(
            tree.paths(tree.unflatten(structure, first)), first, results, strict=True
        ):
            if x.shape != y.shape or x.dtype != y.dtype:
                raise ShapeError(
                    f"{what}: the result{path} of {names[0]} is {describe(x)} and that of {name} "
                    f"{describe(y)}; branches return the same shapes and dtypes"
                )
