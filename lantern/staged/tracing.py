"""`stage`: run a function once on Symbols, and keep the program that this wrote."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lantern import tree
from lantern.checks import checks
from lantern.convert import asarray
from lantern.regions import tracing
from lantern.staged.checks import Checks
from lantern.staged.lowerings import LOWERINGS
from lantern.staged.stage import Stage
from lantern.tensor import Tensor
from staging.ir import Program
from staging.verify import verify

PyTree = Any
Array = np.ndarray[Any, Any]


def stage(
    f: Callable[..., PyTree], leaves: list[Any], structure: Any
) -> tuple[Program, list[Array], Any]:
    """Run ``f`` on Symbols in place of the Tensors among the leaves of its arguments.

    Returns:
        The program; the arrays it closed over, its parameters after those of ``f``; the structure
        of its results.
    """
    writing = Stage(LOWERINGS)
    writing.checks = Checks() if checks.get() else None
    names = tree.paths(tree.unflatten(structure, leaves))
    inside = [
        Tensor(writing.parameter(x.shape, x.dtype, name)) if type(x) is Tensor else x
        for x, name in zip(leaves, names, strict=True)
    ]
    args, kwargs = tree.unflatten(structure, inside)
    with tracing():
        results, out_structure = tree.flatten(f(*args, **kwargs))
        values = [writing.symbol(asarray(y).value).value for y in results]
    name = getattr(f, "__name__", "").strip("<>") or "program"
    block = writing.builder.block(*values)
    return verify(Program(name, block)), writing.captured, out_structure
