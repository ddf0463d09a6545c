"""How the arguments of calls are taken apart: as pytrees are, only quicker."""

from __future__ import annotations

import collections
import dataclasses
from operator import is_
from typing import Any, NamedTuple

import numpy as np
import pytest

import lantern as ln
from lantern import tree
from lantern.staged.given import Taker
from lantern.staged.layout import layout_of
from lantern.staged.options import Options


class Pair(NamedTuple):
    left: Any
    right: Any


@tree.dataclass
@dataclasses.dataclass(frozen=True)
class Point:
    x: Any


TREES = {
    "dict": {"b": 1.0, "a": [2.0, (3.0,)]},
    "one key": {"only": {"inner": 1.0}},
    "empty": ((), {}, [[]], 1.0),
    "named": Pair({"w": np.ones(2)}, [Pair(1, np.int64(2)), Pair(ln.ones(3), True)]),
    "keys": {(1, 2): 1.0, (1, 1): 2.0},
}


@pytest.mark.parametrize("name", TREES)
def test_leaves_come_in_the_order_of_pytrees(name: str) -> None:
    x = TREES[name]
    leaves, structure = tree.flatten(x)
    layout = layout_of(structure)
    assert layout is not None
    found = layout.leaves(x)
    assert found is not None and len(found) == len(leaves) and all(map(is_, found, leaves))
    for other in TREES.values():
        if other is not x:
            assert layout.leaves(other) is None


@pytest.mark.parametrize(
    "other",
    [
        {"a": 1.0, "c": 2.0},  # another key
        {"a": 1.0},  # one less
        {"a": 1.0, "b": (2.0,)},  # a container in the place of a leaf
        {"a": 1.0, "b": Point(2.0)},
        {"a": 1.0, "b": None},
        collections.OrderedDict(a=1.0, b=2.0),  # another class
    ],
)
def test_other_trees_are_left_to_pytrees(other: Any) -> None:
    layout = layout_of(tree.structure({"a": 1.0, "b": 2.0}))
    assert layout is not None and layout.leaves(other) is None


@pytest.mark.parametrize("x", [1.0, Point(1.0), (None, 1.0), collections.deque([1.0])])
def test_there_is_no_layout_of_other_containers(x: Any) -> None:
    assert layout_of(tree.structure(x)) is None


def test_calls_by_turns_are_taken_apart_rightly() -> None:
    taker = Taker(Options(backend="llvm"))
    for _ in range(2):
        for x in (*TREES.values(), Point(1.0), (None, 1.0)):
            given = taker.given((x,), {"more": 2.0})
            leaves, structure = tree.flatten(((x,), {"more": 2.0}))
            assert given.structure == structure
            assert len(given.leaves) == len(leaves)


def test_a_compiled_function_sees_that_its_arguments_are_put_together_otherwise() -> None:
    total = ln.compile(lambda x: sum(i * y for i, y in enumerate(tree.leaves(x), 1)))
    for x, want in (({"a": 1.0, "b": 10.0}, 21.0), ({"b": 10.0, "a": 1.0}, 21.0),
                    ({"a": 1.0, "c": 10.0}, 21.0), ([1.0, 10.0], 21.0),
                    ({"a": 1.0, "b": (10.0, 100.0)}, 321.0)):  # fmt: skip
        for _ in range(2):
            assert float(total(x)) == want
    assert total.specializations == 4
