"""Argument arguments of a compiled function are tables of any length.

A container of columns, such as a tree with ``left``, ``right`` and ``word`` for each of its nodes,
is most often walked by index, and comes in another length each time. So the program for an argument
that is one, or that holds such, is written for every length, unless the function turns out to need
it; then the argument is *pinned*, and there is a program for each length.
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
    donated: Arguments,
) -> tuple[Kinds, dict[Length, Argument]]:
    """Kinds with lengths in place of numbers.

    Args:
        structure: of (positional arguments, keyword arguments).
        kinds: of the leaves.
        named: the arguments that are said to be tables; others are if they look like it.
        pinned: arguments that are not.
        donated: arguments whose memory results take over: such a state does not look like a table,
            which is read by index, even if its columns are of one length.

    Returns:
        The kinds, and the argument that each length is of.
    """
    found = list(kinds)
    lengths: dict[Length, Argument] = {}
    first = 0
    for which, argument in arguments(structure):
        places = range(first, first + argument.num_leaves)
        first = places.stop
        if which in pinned or (which in donated and which not in named):
            continue
        for group in together(argument, places, kinds, which in named):
            lengths[of := length(-2 - len(lengths))] = which
            for i in group:
                if kind := kinds[i]:
                    found[i] = ((of, *kind[0][1:]), kind[1])
    return found, lengths


def together(
    part: tree.Structure, places: range, kinds: Sequence[Kind | None], named: bool
) -> Iterator[list[int]]:
    """The places of arrays of one length, for each container of such; or for each array.

    Containers that look alike in a list are items of it: their lengths do not belong together,
    though they may be equal now.
    """
    arrays = [i for i in places if (kind := kinds[i]) and kind[0]]
    children = part.children()
    items = part.type in (list, tuple) and len(children) > 1 and not children[0].is_leaf()
    if items and all(child == children[0] for child in children[1:]):
        equal = False
    else:
        equal = len({shape(kinds[i])[0] for i in arrays}) == 1
    if equal and (named or (children and any(is_column(kinds[i]) for i in arrays))):
        yield arrays
    elif not equal:
        for child in children:
            own, places = places[: child.num_leaves], places[child.num_leaves :]
            yield from together(child, own, kinds, named)


def shape(kind: Kind | None) -> tuple[Any, ...]:
    return kind[0] if kind else ()


def is_column(kind: Kind | None) -> bool:
    """Whether a kind is that of integers along one axis."""
    return kind is not None and len(kind[0]) == 1 and kind[1].kind in "iu"


def arguments(structure: tree.Structure) -> Iterator[tuple[Argument, tree.Structure]]:
    """The position or the name of each argument, and its structure."""
    positional, keywords = structure.children()
    yield from enumerate(positional.children())
    yield from zip(keywords.entries(), keywords.children(), strict=True)


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
