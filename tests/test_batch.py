"""Recursion by an agenda: `ln.batch` of recursive functions, and recursions with products."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lantern as ln
from lantern.errors import (
    ArgumentError,
    IndexRangeError,
    LimitError,
    ShapeError,
    UnbatchedWarning,
)

BACKENDS = ("interpreter", "llvm")
H, E, C, WORDS = 6, 5, 3, 11


class Tree(NamedTuple):
    """A binary tree in arrays; a leaf has no left child."""

    left: Any
    right: Any
    word: Any
    label: Any
    root: Any


def tree(rng: np.random.Generator, leaves: int) -> Tree:
    """A random tree, its nodes in random order."""
    rows: list[list[int]] = []

    def node(n: int) -> int:
        rows.append([-1, -1, int(rng.integers(WORDS)), int(rng.integers(C))])
        i = len(rows) - 1
        if n > 1:
            k = int(rng.integers(1, n))
            rows[i][0], rows[i][1] = node(k), node(n - k)
        return i

    root = node(leaves)
    order = rng.permutation(len(rows))
    place = np.argsort(order)
    columns = np.asarray(rows)[order].T
    left, right = (np.where(c < 0, -1, place[c]) for c in columns[:2])
    return Tree(left, right, columns[2], columns[3], place[root])


def trees(seed: int, *sizes: int) -> list[Tree]:
    rng = np.random.default_rng(seed)
    return [tree(rng, n) for n in sizes]


def weights(*shapes: tuple[int, ...], seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [ln.asarray(rng.normal(size=shape) * 0.5) for shape in shapes]


def tree_lstm(params: list[Any], t: Tree) -> Any:
    """The sum of a loss at every node of a binary TreeLSTM."""
    words, w_leaf, w_inner, b_inner, w_out = params

    def loss(h: Any, label: Any) -> Any:
        scores = h @ w_out
        return ln.logsumexp(scores) - scores[label]

    @ln.recursive
    def node(i: Any) -> Any:
        def leaf() -> Any:
            c, gate = ln.split(words[t.word[i]] @ w_leaf, 2)
            h = ln.sigmoid(gate) * ln.tanh(c)
            return c, h, loss(h, t.label[i])

        def inner() -> Any:
            (lc, lh, ll), (rc, rh, rl) = node(t.left[i]), node(t.right[i])
            u, a, x, y, o = ln.split(ln.concat([lh, rh]) @ w_inner + b_inner, 5)
            c = ln.sigmoid(a) * ln.tanh(u) + ln.sigmoid(x) * lc + ln.sigmoid(y) * rc
            h = ln.sigmoid(o) * ln.tanh(c)
            return c, h, ll + rl + loss(h, t.label[i])

        return ln.cond(t.left[i] < 0, leaf, inner)

    return node(t.root)[2]


LSTM = ((WORDS, E), (E, 2 * H), (2 * H, 5 * H), (5 * H,), (H, C))


def alternating(params: list[Any], t: Tree) -> Any:
    """Two functions with weights of their own that call each other."""
    words, a, b = params

    def of(mine: Any, other: Callable[[], Any]) -> Any:
        @ln.recursive
        def node(i: Any) -> Any:
            def inner() -> Any:
                left, right = other()(t.left[i]), node(t.right[i])
                return ln.tanh(mine @ ln.concat([left, right]))

            return ln.cond(t.left[i] < 0, lambda: words[t.word[i]], inner)

        return node

    even = of(a, lambda: odd)
    odd = of(b, lambda: even)
    return even(t.root)


def last_state(params: list[Any], sequence: dict[str, Any]) -> Any:
    """A recurrent network over a sequence, from its end."""
    words, w, v = params

    @ln.recursive
    def upto(i: Any) -> Any:
        def step() -> Any:
            return ln.tanh(w @ upto(i - 1) + v @ words[sequence["word"][i]])

        return ln.cond(i < 0, lambda: ln.zeros(H, dtype=ln.float64), step)

    return upto(sequence["last"])


def sequences(seed: int, *sizes: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [{"word": rng.integers(0, WORDS, n), "last": np.int64(n - 1)} for n in sizes]


def deep_paths(params: list[Any], t: Tree) -> Any:
    """Branches in branches, one call or none, and a result that a call gives straight on."""
    words, w = params

    @ln.recursive
    def node(i: Any) -> Any:
        def inner() -> Any:
            def both() -> Any:
                return ln.tanh(w @ (node(t.left[i]) + node(t.right[i])))

            return ln.cond(t.label[i] == 0, lambda: node(t.left[i]), both)

        return ln.cond(t.left[i] < 0, lambda: ln.sin(words[t.word[i]]), inner)

    return node(t.root) * 2.0


def judged(params: list[Any], t: Tree) -> Any:
    """Much that follows a branch with calls in it."""
    words, w = params

    @ln.recursive
    def node(i: Any) -> Any:
        def inner() -> Any:
            return ln.tanh(w @ (node(t.left[i]) + node(t.right[i])))

        x = ln.cond(t.left[i] < 0, lambda: words[t.word[i]], inner)
        for _ in range(12):
            x = ln.sin(x + words[t.label[i]])
        return x

    return node(t.root)


CASES: dict[str, tuple[Any, list[Any], Callable[..., list[Any]]]] = {
    "tree_lstm": (tree_lstm, weights(*LSTM), trees),
    "alternating": (alternating, weights((WORDS, E), (E, 2 * E), (E, 2 * E)), trees),
    "sequences": (last_state, weights((WORDS, E), (H, H), (H, E)), sequences),
    "judged": (judged, weights((WORDS, E), (E, E)), trees),
    "deep_paths": (deep_paths, weights((WORDS, E), (E, E)), trees),
}


def together(f: Any) -> Any:
    """A number from what a batch gives, and its gradients."""

    def total(params: Any, items: Any) -> Any:
        out = ln.batch(f)(params, items)
        return sum(k * ln.sum(ln.sin(y)) for k, y in enumerate(ln.unstack(out), 1))

    return ln.value_and_grad(total)


def close(a: Any, b: Any, tolerance: float = 1e-10) -> None:
    for x, y in zip(ln.tree.leaves(a), ln.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_batch_gives_what_items_give_one_by_one(case: str, backend: str) -> None:
    f, params, make = CASES[case]
    compiled = ln.compile(together(f), backend=backend, cache=False)
    for seed, sizes in enumerate([(5, 1, 9, 4), (1, 2, 3, 40), (7, 6, 5, 4)]):
        items = make(seed, *sizes)
        close(compiled(params, items), together(f)(params, items))
    assert compiled.specializations == 1
    assert "agenda(" in compiled.ir(params, make(0, 5, 1, 9, 4))


@pytest.mark.parametrize("case", ["tree_lstm", "deep_paths"])
def test_many_items_run_in_wider_blocks(case: str) -> None:
    f, params, make = CASES[case]
    compiled = ln.compile(together(f), cache=False, threads=2)
    for seed, sizes in enumerate([[1] * 20, [*range(1, 21)], [40, *[1] * 19]]):
        items = make(seed, *sizes)
        close(compiled(params, items), together(f)(params, items))
    assert "float64[240, " in compiled.ir(params, items)


@functools.cache
def compiled_once(case: str) -> Any:
    return ln.compile(together(CASES[case][0]), cache=False)


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(["alternating", "deep_paths"]), st.integers(0, 2**16),
       st.tuples(*[st.integers(1, 70)] * 3))  # fmt: skip
def test_any_items_give_what_they_give_one_by_one(
    case: str, seed: int, sizes: tuple[int, ...]
) -> None:
    f, params, make = CASES[case]
    items = make(seed, *sizes)
    close(compiled_once(case)(params, items), together(f)(params, items))
    assert compiled_once(case).specializations == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_recursion_with_products_goes_by_an_agenda(backend: str) -> None:
    params = weights(*LSTM)
    compiled = ln.compile(ln.value_and_grad(tree_lstm), backend=backend, cache=False)
    for t in trees(3, 1, 8, 30):
        close(compiled(params, t), ln.value_and_grad(tree_lstm)(params, ln.tree.map(ln.asarray, t)))
    assert compiled.specializations == 1
    assert "unwind(" in compiled.ir(params, trees(3, 2)[0])


def test_derivatives_of_the_way_back() -> None:
    params, t = weights(*LSTM), trees(4, 5)[0]
    t = ln.tree.map(ln.asarray, t)
    direction = weights(*LSTM, seed=1)

    def slope(params: Any) -> Any:
        return ln.grad(lambda p: tree_lstm(p, t))(params)

    def along(slope: Any) -> Any:
        def f(params: Any) -> Any:
            found = slope(params)
            return sum(ln.sum(x * d) for x, d in zip(found, direction, strict=True))

        return f

    moved = [
        [p + step * d for p, d in zip(params, direction, strict=True)] for step in (1e-5, -1e-5)
    ]
    above, below = map(slope, moved)
    expected = [(a - b) / 2e-5 for a, b in zip(above, below, strict=True)]
    for inner in (ln.compile(slope, cache=False), slope):
        close(ln.compile(ln.grad(along(inner)), cache=False)(params), expected, 1e-7)
    close(ln.grad(along(ln.compile(slope, cache=False)))(params), expected, 1e-7)


def test_a_gradient_for_each_item() -> None:
    params, items = weights(*LSTM), trees(5, 3, 1, 6)
    each = ln.batch(ln.grad(tree_lstm))
    with pytest.warns(UnbatchedWarning):
        found = ln.compile(each, dynamic="t", cache=False)(params, items)
    close(found, each(params, items))


def test_conditions_that_depend_on_what_calls_compute_go_one_by_one() -> None:
    def halved(w: Any, item: dict[str, Any]) -> Any:
        @ln.recursive
        def smaller(x: Any) -> Any:
            return ln.cond(ln.sum(x) > 1.0, lambda: smaller(ln.tanh(w @ x)), lambda: x)

        return smaller(item["x"])

    (w,) = weights((H, H))
    items = [{"x": 2.0 * ln.ones(H, dtype=ln.float64)}, {"x": ln.zeros(H, dtype=ln.float64)}]

    def total(w: Any, items: Any) -> Any:
        return ln.sum(ln.batch(halved)(w, items))

    with pytest.warns(UnbatchedWarning, match="halved takes one item after the other: smaller has"):
        found = ln.compile(ln.value_and_grad(total), cache=False)(0.1 * w, items)
    close(found, ln.value_and_grad(total)(0.1 * w, items))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cycle_is_an_error(backend: str) -> None:
    params, (good, bad) = weights(*LSTM), trees(6, 4, 4)
    left = bad.left.copy()
    left[np.flatnonzero(left >= 0)[0]] = bad.root
    compiled = ln.compile(together(tree_lstm), backend=backend, dynamic="items", cache=False)
    with pytest.raises(LimitError, match="a cycle"):
        compiled(params, [good, bad._replace(left=left)])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("column", "value"), [("left", 99), ("right", -99), ("word", WORDS)])
def test_an_index_out_of_range_is_an_error(column: str, value: int, backend: str) -> None:
    params, (good, bad) = weights(*LSTM), trees(7, 6, 9)
    wrong = getattr(bad, column).copy()
    wrong[np.flatnonzero(bad.left >= 0 if column != "word" else bad.left < 0)[0]] = value
    compiled = ln.compile(together(tree_lstm), backend=backend, dynamic="items", cache=False)
    rows = WORDS if column == "word" else len(wrong)
    with pytest.raises(IndexRangeError, match=f"is out of range for axis 0 of {rows}"):
        compiled(params, [good, bad._replace(**{column: wrong})])


def test_what_is_no_list_of_items_is_refused() -> None:
    params, items = weights(*LSTM), trees(8, 2, 3)
    for run in (ln.batch(tree_lstm), ln.compile(ln.batch(tree_lstm))):
        with pytest.raises(ArgumentError, match="expected equally many, not 0"):
            run(params, [])
    with pytest.raises(ArgumentError, match="expected a list of items"):
        ln.batch(tree_lstm)(params, items[0].left)
    with pytest.raises(ArgumentError, match="in_axes"):
        ln.batch(tree_lstm, in_axes=(None, None))(params, items)
    with pytest.raises(ShapeError, match="item 1"):
        ln.compile(ln.batch(lambda t: t["a"]))([{"a": 1.0}, {"b": 1.0}])


def test_a_loop_over_an_item_without_recursion_goes_one_by_one() -> None:
    def total(params: Any, item: dict[str, Any]) -> Any:
        def step(state: Any) -> Any:
            i, h = state
            return i + 1, ln.tanh(params[0] @ h + params[1][item["word"][i]])

        start = (ln.asarray(0), ln.zeros(E, dtype=ln.float64))
        return ln.while_loop(lambda state: state[0] <= item["last"], step, start)[1]

    params, items = weights((E, E), (WORDS, E)), sequences(9, 3, 7)
    f = together(total)
    with pytest.warns(UnbatchedWarning, match="a loop or branch without a call"):
        found = ln.compile(f, cache=False)(params, items)
    close(found, f(params, items))


# Sequences ----------------------------------------------------------------------------------------


def sentences(seed: int, *lengths: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [{"words": rng.integers(WORDS, size=n)} for n in lengths]


def plain_rnn(params: list[Any], s: Any) -> Any:
    words, w, u = params
    h = ln.zeros(H, dtype=ln.float64)
    for word in s["words"]:
        h = ln.tanh(words[word] @ w + h @ u)
    return h


def both_ways(params: list[Any], s: Any) -> Any:
    """A scan from each end, with a carry of two arrays and of a number that counts."""
    words, w, u = params

    def step(carry: Any, word: Any) -> Any:
        h, c, n = carry
        z = words[word] @ w + h @ u
        c = ln.sigmoid(z) * c + ln.tanh(z)
        return (ln.tanh(c), c, n + 1), None

    zero = ln.zeros(H, dtype=ln.float64)
    (a, _, n), _ = ln.scan(step, (zero, zero, 0), s["words"])
    (b, c, _), _ = ln.scan(step, (zero, zero + 1, 0), s["words"], reverse=True)
    return ln.concat([a, b, c * ln.astype(n, ln.float64)])


def with_branches(params: list[Any], s: Any) -> Any:
    words, w, u = params
    h = ln.ones(H, dtype=ln.float64)
    for word in s["words"]:
        h = ln.sin(h @ u) if word % 3 == 0 else h * 0.5 + words[word] @ w
    return h


@pytest.mark.parametrize("f", [plain_rnn, both_ways, with_branches])
@pytest.mark.parametrize("backend", BACKENDS)
def test_loops_along_sequences_take_part(f: Callable[..., Any], backend: str) -> None:
    """A warning would be an error: no item goes alone."""
    params = weights((WORDS, E), (E, H), (H, H))

    def loss(params: list[Any], items: list[Any]) -> Any:
        return ln.sum(ln.sin(ln.batch(f)(params, items)))

    gradient = ln.compile(ln.value_and_grad(loss), backend=backend, dynamic="items")
    for seed, lengths in enumerate([(3, 7, 1), (2, 0, 12)]):
        items = sentences(seed, *lengths)
        value, slopes = gradient(params, items)
        wanted, expected = ln.value_and_grad(loss)(params, items)  # eager: one by one
        np.testing.assert_allclose(float(value), float(wanted), rtol=1e-12)
        for a, b in zip(slopes, expected, strict=True):
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-10, atol=1e-12)
    assert gradient.specializations == 1
    assert "agenda" in str(gradient.ir(params, items))


def test_a_loop_that_stacks_results_goes_one_by_one() -> None:
    def states(params: list[Any], s: Any) -> Any:
        words, w, u = params
        return ln.scan(
            lambda h, word: (ln.tanh(words[word] @ w + h @ u), h[0]),
            ln.zeros(H, dtype=ln.float64), s["words"],
        )  # fmt: skip

    params, items = weights((WORDS, E), (E, H), (H, H)), sentences(0, 4, 4)
    with pytest.warns(UnbatchedWarning, match="one item after the other"):
        ln.compile(ln.batch(states))(params, items)
