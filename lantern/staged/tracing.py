"""`trace`: run a function once on Symbols, and keep the program that this wrote."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lantern import tree
from lantern.checks import checks
from lantern.convert import asarray
from lantern.errors import LanternError, StagingError, short_traceback
from lantern.lengths import given, is_table
from lantern.staged.checks import Checks
from lantern.staged.lowerings import LOWERINGS
from lantern.staged.stage import Stage
from lantern.symbol import Symbol, outside
from lantern.syntax.calls import rewritten
from lantern.tensor import Tensor
from lantern.traces import tracing
from staging.ir import Program

PyTree = Any
Array = np.ndarray[Any, Any]
Kind = tuple[tuple[int, ...], np.dtype[Any]]


@dataclass(frozen=True)
class Traced:
    """What a function wrote.

    Attributes:
        program: its parameters are the array arguments, and behind these what was captured.
        captured: the arrays that the function closed over.
        structure: of the results.
        stage: what wrote it.
    """

    program: Program
    captured: list[Any]
    structure: tree.Structure
    stage: Stage


def trace(
    f: Callable[..., PyTree],
    name: str,
    structure: tree.Structure,
    leaves: Sequence[Any],
    kinds: Sequence[Kind | None],
    names: Sequence[str],
    arrays: Mapping[int, Any],
    donated: tuple[int, ...] = (),
) -> Traced:
    """Run ``f`` on Symbols in place of the array arguments.

    Args:
        f: the function.
        name: its name.
        structure: of (positional arguments, keyword arguments).
        leaves: of these; those that are arrays are not read.
        kinds: shape and dtype of each leaf, None where it is static.
        names: of the leaves.
        arrays: the arrays, by id, that ``f`` reads besides.
        donated: the positions, among the arrays, of those that are given away.
    """
    stage = Stage(LOWERINGS)
    stage.checks = Checks() if checks.get() else None
    inside = [
        x if kind is None else Tensor(stage.parameter(*kind, hint))
        for x, kind, hint in zip(leaves, kinds, names, strict=True)
    ]
    for x, kind in zip(inside, kinds, strict=True):
        if kind is not None and is_table(kind[0]):
            given(x)
    args, kwargs = tree.unflatten(structure, inside)
    token = outside.set(arrays)
    try:
        with tracing() as writing, short_traceback():
            writing.written = stage.builder.ops
            out = rewritten(f)(*args, **kwargs)
        results, out_structure = tree.flatten(out)
        values = [result(stage, y, path) for y, path in zip(results, tree.paths(out), strict=True)]
    finally:
        outside.reset(token)
        stage.finished = True
    program = Program(re.sub(r"\W", "_", name).strip("_"), stage.builder.block(*values), donated)
    captured = [x if id(x) in arrays else np.asarray(x, order="C") for x in stage.captured]
    return Traced(program, captured, out_structure, stage)


def result(stage: Stage, y: Any, path: str) -> Any:
    """The value of a leaf of the results.

    Raises:
        StagingError: it is no array of this program.
    """
    try:
        x = asarray(y)
    except LanternError as problem:
        raise StagingError(
            f"the result{path} of the compiled function is {type(y).__name__} {y!r}; a program "
            "returns arrays and numbers"
        ) from problem
    if x.prompt is not None:
        raise StagingError(
            f"the result{path} of the compiled function belongs to {x.prompt}, which is going on "
            "outside of it; pass the Tensor that it comes from in as an argument"
        )
    if type(x.value) is Symbol and x.value.stage is not stage:
        raise StagingError(
            f"the result{path} of the compiled function is a value{x.value.stage.origin(x.value)} "
            "that has leaked out of another one, or out of an earlier call: it has no elements. "
            "Return it where it is made"
        )
    return stage.symbol(x.value).value


def argument_names(
    f: Callable[..., Any], structure: tree.Structure, leaves: Sequence[Any]
) -> tuple[list[str], list[int | str]]:
    """The leaves of the arguments as they are written inside ``f``, ``params['w']``; and of each
    the argument that it belongs to, by position or, where it was given so, by name."""
    paths = tree.paths(tree.unflatten(structure, leaves))
    try:
        params = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):  # a function of C, which does not tell
        params = []
    plain = [p.name for p in params if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    found = [named(path, plain) for path in paths]
    return [name for name, _ in found], [origin for _, origin in found]


def named(path: str, positional: Sequence[str]) -> tuple[str, int | str]:
    """A path from (args, kwargs) as an expression, and the argument.

    Example:
        >>> named("[0][1]['w']", ["x", "params"]), named("[1]['rate']", [])
        (("params['w']", 1), ('rate', 'rate'))
    """
    which, _, rest = path[1:].partition("]")
    first, _, rest = rest[1:].partition("]")
    if which == "1":
        name = first.strip("'\"")
        return name + rest, name
    position = int(first)
    name = positional[position] if position < len(positional) else f"args[{position}]"
    return name + rest, position
