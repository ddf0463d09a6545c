"""Argument arguments of a compiled function are tables of any length.

An argument that is a container of columns, such as a tree with ``left``, ``right`` and ``word`` for
each of its nodes, is most often walked by index, and comes in another length each time. So its
program is written for every length, unless the function turns out to need it; then the argument is
*pinned*, and there is a program for each length.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import Any

import numpy as np

from lantern import tree
from lantern.lengths import Length, length
from lantern.staged.options import Arguments

Kind = tuple[tuple[Any, ...], np.dtype[Any]]
Kinds = list[Kind | None]
Argument = int | str


def opened(
    structure: tree.Structure,
    kinds: Sequence[Kind | None],
    named: Arguments,
    pinned: Container[Argument],
) -> tuple[Kinds, dict[Length, Argument]]:
    """Kinds with lengths in place of numbers, one for each argument and length in it.

    Args:
        structure: of (positional arguments, keyword arguments).
        kinds: of the leaves.
        named: the arguments that are said to be tables; others are if they look like it.
        pinned: arguments that are not.

    Returns:
        The kinds, and the argument that each length is of.
    """
    found: Kinds = []
    lengths: dict[Length, Argument] = {}
    for which, argument in arguments(structure):
        own = list(kinds[len(found) : len(found) + argument.num_leaves])
        if which not in pinned and (which in named or looks_like_columns(argument, own)):
            given = sorted({kind[0][0] for kind in own if kind and kind[0]})
            of = {n: length(-2 - len(lengths) - i) for i, n in enumerate(given)}
            lengths |= dict.fromkeys(of.values(), which)
            own = [k and (((of[k[0][0]], *k[0][1:]) if k[0] else ()), k[1]) for k in own]
        found += own
    return found, lengths


def arguments(structure: tree.Structure) -> Iterator[tuple[Argument, tree.Structure]]:
    """The position or the name of each argument, and its structure."""
    positional, keywords = structure.children()
    yield from enumerate(positional.children())
    yield from zip(keywords.entries(), keywords.children(), strict=True)


def looks_like_columns(argument: tree.Structure, kinds: Sequence[Kind | None]) -> bool:
    """Whether an argument is a container of arrays of one length, one of them of integers along
    that axis alone."""
    arrays = [kind for kind in kinds if kind and kind[0]]
    return (
        not argument.is_leaf()
        and len({shape[0] for shape, _ in arrays}) == 1
        and any(len(shape) == 1 and dtype.kind in "iu" for shape, dtype in arrays)
    )


def admits(opened: Sequence[Kind | None], kinds: Sequence[Kind | None]) -> bool:
    """Whether kinds are such ones, with a number for each length."""
    lengths: dict[Length, int] = {}
    for one, other in zip(opened, kinds, strict=True):
        if one is None or other is None:
            if one is not other:
                return False
            continue
        (shape, dtype), (sizes, found) = one, other
        if dtype != found or len(shape) != len(sizes):
            return False
        if shape and type(shape[0]) is Length:
            if lengths.setdefault(shape[0], sizes[0]) != sizes[0] or shape[1:] != sizes[1:]:
                return False
        elif shape != sizes:
            return False
    return True
