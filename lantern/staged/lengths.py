"""Argument arguments of a compiled function are tables of any length.

An argument that is a container of columns, such as a tree with ``left``, ``right`` and ``word`` for
each of its nodes, is most often walked by index, and comes in another length each time. So its
program is written for every length, unless the function turns out to need it; then the argument is
*pinned*, and there is a program for each length.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lantern import tree
from lantern.lengths import Length, is_table, length
from lantern.staged.options import Arguments

Kind = tuple[tuple[Any, ...], np.dtype[Any]]
Kinds = list[Kind | None]
Argument = int | str
KEPT = 1024  # lengths that are remembered


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
        The kinds, and the argument that each length is of. Those of a list of containers are
        lengths of their own for each of these.
    """
    found: Kinds = []
    lengths: dict[Length, Argument] = {}
    for which, argument in arguments(structure):
        for item in items(argument):
            own = list(kinds[len(found) : len(found) + item.num_leaves])
            if which not in pinned and (which in named or looks_like_columns(item, own)):
                given = sorted({kind[0][0] for kind in own if kind and kind[0]})
                of = {n: length(-2 - len(lengths) - i) for i, n in enumerate(given)}
                lengths |= dict.fromkeys(of.values(), which)
                own = [k and (((of[k[0][0]], *k[0][1:]) if k[0] else ()), k[1]) for k in own]
            found += own
    return found, lengths


def items(argument: tree.Structure) -> list[tree.Structure]:
    """The items of a list of containers, whose lengths are independent; else the argument itself.

    Example:
        >>> [item.num_leaves for item in items(tree.structure([{"a": 1, "b": 2}, {"a": 3}]))]
        [2, 1]
    """
    inside = argument.children() if argument.type in (list, tuple) else []
    return inside if inside and not any(x.is_leaf() for x in inside) else [argument]


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


class Pattern:
    """Kinds in which lengths stand, to be compared with kinds of numbers.

    Args:
        kinds: from `opened`.
    """

    def __init__(self, kinds: Kinds) -> None:
        self.kinds = kinds
        firsts = {
            kind[0][0]: i for i, kind in reversed([*enumerate(kinds)]) if kind and is_table(kind[0])
        }
        self.lengths, self.places = [*firsts], [*firsts.values()]
        self.met: dict[tuple[Any, ...], Kinds] = {}

    def admits(self, kinds: Kinds) -> bool:
        """Whether kinds are such ones, with a number for each length."""
        numbers = tuple([kind[0][:1] if (kind := kinds[i]) else () for i in self.places])
        if not all(numbers):
            return False
        if numbers not in self.met:
            if len(self.met) >= KEPT:
                self.met.clear()
            self.met[numbers] = self.filled(dict(zip(self.lengths, numbers, strict=True)))
        return self.met[numbers] == kinds

    def filled(self, numbers: Mapping[Length, tuple[Any, ...]]) -> Kinds:
        """The kinds for certain lengths."""
        return [
            ((*numbers[kind[0][0]], *kind[0][1:]), kind[1]) if kind and is_table(kind[0]) else kind
            for kind in self.kinds
        ]
