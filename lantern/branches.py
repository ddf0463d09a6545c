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
from lantern.errors import ArgumentError, DTypeError, ShapeError, defined, describe
from lantern.primitives.structure import convert
from lantern.probing import Unfinished, stand_ins, together
from lantern.regions import Recording, origin, recorded, union
from lantern.symbol import is_known
from lantern.syntax.calls import rewritten
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
    branches = tuple(map(rewritten, (false_fun, true_fun)))
    names = [f"false_fun{defined(false_fun)}", f"true_fun{defined(true_fun)}"]
    return choose(pred, branches, operands, _alike("cond", names))


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
    names = [f"branch {i}{defined(f)}" for i, f in enumerate(branches)]
    return choose(index, tuple(map(rewritten, branches)), operands, _alike("switch", names))


Recorded = tuple[Recording, list[Tensor], tree.Structure]
"""A branch that has been recorded: its region, the leaves of its results, and their structure."""
Settle = Callable[[Sequence[Recorded]], tuple[Sequence[Sequence[Any]], tree.Structure]]


def choose(
    index: Tensor, branches: Sequence[Callable[..., PyTree]], operands: Any, settle: Settle
) -> PyTree:
    """Perform the branch that an index, or a boolean, names.

    Args:
        index: which one, clipped to what there is.
        branches: functions of the operands.
        operands: pytrees.
        settle: from the recorded branches to the leaves of the results of each, of the same shapes
            and dtypes, and their common structure.
    """
    known = undifferentiated(index)
    if is_known(known):
        return branches[min(max(int(known), 0), len(branches) - 1)](*operands)
    leaves, structure = tree.flatten(operands)
    leaves = [box(x) for x in leaves]

    def of_leaves(f: Callable[..., PyTree]) -> Callable[..., PyTree]:
        return lambda *xs: f(*tree.unflatten(structure, xs))

    tried: list[Recorded | Unfinished] = []
    for f in branches:
        try:
            tried.append(recorded(of_leaves(f), leaves))
        except Unfinished as signal:
            tried.append(signal)
    unfinished = [r for r in tried if isinstance(r, Unfinished)]
    finished = [r for r in tried if not isinstance(r, Unfinished)]
    if not finished:
        raise together(unfinished)
    recordings = [finished[0] if isinstance(r, Unfinished) else r for r in tried]
    results, structure = settle(recordings)
    if unfinished:
        return tree.unflatten(structure, stand_ins(together(unfinished), results[0]))
    captures = union([region for region, _, _ in recordings])
    blocks = tuple(
        region.block(some, captures=captures)
        for (region, _, _), some in zip(recordings, results, strict=True)
    )
    if not any(results) and not any(block.steps for block in blocks):
        return tree.unflatten(structure, [])
    arrays = [x for x in leaves if type(x) is Tensor]
    number = convert(index, dtype=np.dtype(np.int64))
    found = perform(number, *arrays, *captures, blocks=blocks)
    return tree.unflatten(structure, [box(y) for y in found])


def _alike(what: str, names: Sequence[str]) -> Settle:
    """Take results as they are, which have to be of the same types on all branches."""

    def settle(recordings: Sequence[Recorded]) -> tuple[list[list[Tensor]], tree.Structure]:
        _same_results(what, names, recordings)
        return [results for _, results, _ in recordings], recordings[0][2]

    return settle


def _same_results(what: str, names: Sequence[str], recordings: Sequence[Recorded]) -> None:
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
                one, two = (f"{describe(z)}{origin(z)}" for z in (x, y))
                raise ShapeError(
                    f"{what}: the result{path} of {names[0]} is {one} and that of {name} {two}; "
                    "branches return the same shapes and dtypes"
                )
