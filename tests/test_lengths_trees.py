"""Recursion over trees of any size: compiled once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

import lantern as ln
from lantern.errors import IndexRangeError

BACKENDS = ("interpreter", "llvm")
SIZES = (1, 2, 5, 20)


class Tree(NamedTuple):
    """Nodes as columns: children, or -1 and a word; a class, and which node is the root."""

    left: Any
    right: Any
    word: Any
    label: Any
    root: Any


def random_tree(leaves: int) -> Tree:
    rng = np.random.default_rng(leaves)
    left, right, word = [-1] * leaves, [-1] * leaves, [*rng.integers(0, 7, leaves)]
    row = [*range(leaves)]
    while len(row) > 1:
        k = int(rng.integers(len(row) - 1))
        left.append(row[k])
        right.append(row[k + 1])
        word.append(0)
        row[k : k + 2] = [len(left) - 1]
    columns = (left, right, word, rng.integers(0, 3, len(left)))
    left, right, word, label = (np.asarray(x, np.int64) for x in columns)
    return Tree(left, right, word, label, row[0])


def parameters() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shapes = {"words": (7, 4), "w": (8, 4), "u": (4, 3)}
    return {name: 0.4 * rng.normal(size=shape) for name, shape in shapes.items()}


def leaf(params: dict[str, Any], word: Any) -> Any:
    return ln.tanh(params["words"][word])


def combine(params: dict[str, Any], a: Any, b: Any) -> Any:
    return ln.tanh(ln.concat([a, b]) @ params["w"])


def loss(h: Any, label: Any, params: dict[str, Any]) -> Any:
    scores = h @ params["u"]
    return ln.log(ln.sum(ln.exp(scores))) - scores[label]


def staged(params: dict[str, Any], tree: Tree) -> Any:
    """The loss at the root, by recursion of the program."""

    @ln.recursive
    def node(i: Any) -> Any:
        return ln.cond(
            tree.left[i] < 0,
            lambda: leaf(params, tree.word[i]),
            lambda: combine(params, node(tree.left[i]), node(tree.right[i])),
        )

    return loss(node(tree.root), tree.label[tree.root], params)


def by_hand(params: dict[str, Any], tree: Tree) -> Any:
    """The same by recursion of Python."""

    def node(i: int) -> Any:
        if tree.left[i] < 0:
            return leaf(params, int(tree.word[i]))
        return combine(params, node(int(tree.left[i])), node(int(tree.right[i])))

    return loss(node(int(tree.root)), int(tree.label[tree.root]), params)


def close(a: Any, b: Any) -> None:
    for x, y in zip(ln.tree.leaves(a), ln.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_program_for_all_trees(backend: str) -> None:
    params = parameters()
    compiled = ln.compile(ln.value_and_grad(staged), backend=backend)
    for n in SIZES:
        tree = random_tree(n)
        wanted = ln.value_and_grad(lambda p, tree=tree: by_hand(p, tree))(params)
        close(compiled(params, tree), wanted)
    assert compiled.specializations == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tree_that_is_none(backend: str) -> None:
    """Children that there are not, and a root that there is not."""
    compiled = ln.compile(ln.grad(staged), backend=backend)
    tree = random_tree(5)
    for bad, index in (
        (tree._replace(left=np.where(tree.left >= 0, 99, tree.left)), 99),
        (tree._replace(root=9), 9),
        (tree._replace(word=tree.word + 50), r"5\d"),
    ):
        with pytest.raises(IndexRangeError, match=f"index {index} is out of range") as found:
            compiled(parameters(), bad)
        assert "test_lengths_trees.py" in found.value.place
    close(compiled(parameters(), tree), ln.grad(lambda p: by_hand(p, tree))(parameters()))


def of_column(x: Any, w: Any, tree: Tree) -> Any:
    """A recursion whose nodes have values of their own."""

    @ln.recursive
    def node(i: Any) -> Any:
        def inner() -> Any:
            left, right = tree.left[i], tree.right[i]
            return ln.tanh(x[i] + node(left) * w + node(right) * ln.sin(x[right]))

        return ln.cond(tree.left[i] < 0, lambda: ln.tanh(x[i] * w), inner)

    return ln.sum(node(tree.root) ** 2)


def of_column_by_hand(x: Any, w: Any, tree: Tree) -> Any:
    def node(i: int) -> Any:
        left, right = int(tree.left[i]), int(tree.right[i])
        if left < 0:
            return ln.tanh(x[i] * w)
        return ln.tanh(x[i] + node(left) * w + node(right) * ln.sin(x[right]))

    return ln.sum(node(int(tree.root)) ** 2)


@pytest.mark.parametrize("shape", [(), (3,)], ids=["numbers", "rows"])
@pytest.mark.parametrize("backend", [None, *BACKENDS])
def test_derivatives_of_columns(backend: str | None, shape: tuple[int, ...]) -> None:
    """Gradients are columns too; to second order, and forwards; eager (None) and compiled."""

    def everything(f: Any, nodes: tuple[Tree, Any], w: Any) -> Any:
        tree, x = nodes

        def slopes(x: Any, w: Any) -> Any:
            a, b = ln.grad(f, argnums=(0, 1))(x, w, tree)
            return ln.sum(ln.sin(a[-1])) + ln.sum(b * b)

        tangents = ln.jvp(lambda x, w: f(x, w, tree), (x, w), (x, w))
        return (
            ln.value_and_grad(f, argnums=(0, 1))(x, w, tree),
            ln.grad(slopes, argnums=(0, 1))(x, w),
            tangents,
        )

    def staged(nodes: tuple[Tree, Any], w: Any) -> Any:
        return everything(of_column, nodes, w)

    run: Any = ln.compile(staged, backend=backend) if backend else staged
    w = ln.asarray(np.full(shape, 0.7))
    for n in SIZES:
        x = np.random.default_rng(n).normal(size=(2 * n - 1, *shape))
        nodes = ln.tree.map(ln.asarray, (random_tree(n), x))
        close(run(nodes, w), everything(of_column_by_hand, nodes, w))
    assert backend is None or run.specializations == 1


@ln.compile
def encode(tree: Tree, params: dict[str, Any]) -> Any:
    """Plain Python: recursion, a branch, an early return."""

    def node(i: Any) -> Any:
        if tree.left[i] < 0:
            return leaf(params, tree.word[i])
        return combine(params, node(tree.left[i]), node(tree.right[i]))

    return node(tree.root)


@pytest.mark.parametrize("backend", BACKENDS)
def test_plain_python_is_compiled_once(backend: str) -> None:
    def of_tree(params: dict[str, Any], tree: Tree) -> Any:
        return loss(encode(tree, params), tree.label[tree.root], params)

    compiled = ln.compile(ln.value_and_grad(of_tree), backend=backend)
    params = parameters()
    for n in SIZES:
        tree = random_tree(n)
        wanted = ln.value_and_grad(lambda p, tree=tree: by_hand(p, tree))(params)
        close(compiled(params, tree), wanted)
        close(encode(tree, params), encode.f(ln.tree.map(ln.asarray, tree), params))
    assert compiled.specializations == encode.specializations == 1
