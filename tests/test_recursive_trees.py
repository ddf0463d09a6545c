"""Recursive functions over trees and other data: captured tables and weights, pytrees, loops that
call, keys; depth, what is saved, and what goes wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from control_flow import close

import lantern as ln
from lantern.errors import (
    ArgumentError,
    ArgumentTypeError,
    BatchingError,
    FrameMemoryError,
    IndexRangeError,
    LimitError,
    ShapeError,
    StagingError,
)
from staging.ir import walk
from staging.text import parse_program

WAYS = {"eager": lambda f: f, "interpreter": lambda f: ln.compile(f, backend="interpreter"),
        "llvm": ln.compile}  # fmt: skip
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)

# A binary tree: (0 (1 (3 4)) 2), leaves with words.
LEFT, RIGHT, WORD = (
    ln.asarray(x) for x in ([1, 3, -1, -1, -1], [2, 4, -1, -1, -1], [0, 0, 3, 1, 3])
)
SIZE = 3


def parameters(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    shapes = {"emb": (5, SIZE), "w": (2 * SIZE, 2 * SIZE), "b": (2 * SIZE,), "u": (2, SIZE)}
    return {name: ln.asarray(0.6 * rng.normal(size=shape)) for name, shape in shapes.items()}


def leaf(p: Any, word: Any) -> Any:
    c = p["emb"][word]
    return {"h": ln.tanh(c), "c": c}, ln.sum(c * p["u"][0])


def combine(p: Any, left: Any, right: Any) -> Any:
    """A cell with two gates, and a loss at each node."""
    (a, of_a), (b, of_b) = left, right
    z = ln.concat([a["h"], b["h"]]) @ p["w"] + p["b"]
    gate, new = ln.sigmoid(z[:SIZE]), ln.tanh(z[SIZE:])
    c = gate * (a["c"] + b["c"]) + (1 - gate) * new
    return {"h": ln.tanh(c), "c": c}, of_a + of_b + ln.sum(c * p["u"][1]) ** 2


def encoded(p: Any, left: Any, right: Any, word: Any, root: Any) -> Any:
    """Plain closures over the tables and the parameters."""

    @ln.recursive
    def node(i: Any) -> Any:
        return ln.cond(
            left[i] < 0,
            lambda: leaf(p, word[i]),
            lambda: combine(p, node(left[i]), node(right[i])),
        )

    state, loss = node(root)
    return loss + ln.sum(state["h"])


def by_python(p: Any, left: Any, right: Any, word: Any, root: Any) -> Any:
    def node(i: int) -> Any:
        if left[i] < 0:
            return leaf(p, word[i])
        return combine(p, node(int(left[i])), node(int(right[i])))

    state, loss = node(root)
    return loss + ln.sum(state["h"])


@each_way
def test_a_tree_with_parameters(way: Any) -> None:
    p = parameters()
    wanted = ln.value_and_grad(by_python)(p, LEFT, RIGHT, WORD, 0)
    close(way(ln.value_and_grad(encoded))(p, LEFT, RIGHT, WORD, 0), wanted)


@each_way
def test_second_derivatives_of_a_tree(way: Any) -> None:
    p, v = parameters(), parameters(1)

    def along(f: Any) -> Any:
        def slope(p: Any) -> Any:
            g = ln.grad(f)(p, LEFT, RIGHT, WORD, 0)
            return sum(ln.sum(g[k] * v[k]) for k in g)

        return ln.grad(slope)

    close(way(along(encoded))(p), along(by_python)(p))


def test_one_program_does_for_all_trees_of_a_size() -> None:
    compiled = ln.compile(ln.value_and_grad(encoded))
    p = parameters()
    chain = (ln.asarray([1, 3, -1, -1, -1]), ln.asarray([2, 4, -1, -1, -1]))
    other = (ln.asarray([1, -1, 3, -1, -1]), ln.asarray([2, -1, 4, -1, -1]))
    for left, right in (chain, other):
        wanted = ln.value_and_grad(by_python)(p, left, right, WORD, 0)
        close(compiled(p, left, right, WORD, 0), wanted)
    assert len(compiled.executables) == 1


# Trees of any arity: the children of node i are KIDS[FIRST[i] : FIRST[i] + COUNT[i]].
COUNT, FIRST = ln.asarray([2, 3, 0, 0, 1, 0, 0]), ln.asarray([0, 2, 5, 5, 5, 6, 6])
KIDS = ln.asarray([1, 2, 3, 4, 5, 6])
VALUES = ln.asarray(np.linspace(0.1, 1.9, 7))


def by_while(values: Any, w: Any) -> Any:
    """A loop that calls, and which need not run once, is a way to end."""

    @ln.recursive
    def node(i: Any) -> Any:
        def body(s: Any) -> Any:
            k, total = s
            return k + 1, total + w * node(KIDS[FIRST[i] + k]) ** 2

        return ln.while_loop(lambda s: s[0] < COUNT[i], body, (0, values[i]))[1]

    return node(0)


def by_fori(values: Any, w: Any) -> Any:
    @ln.recursive
    def node(i: Any) -> Any:
        def body(k: Any, total: Any) -> Any:
            return ln.cond(
                k < COUNT[i], lambda: total + w * node(KIDS[FIRST[i] + k]) ** 2, lambda: total
            )

        return ln.fori_loop(0, 3, body, values[i])

    return node(0)


def by_scan(values: Any, w: Any) -> Any:
    """The results of the calls are stacked."""

    @ln.recursive
    def node(i: Any) -> Any:
        def step(total: Any, k: Any) -> Any:
            y = ln.cond(
                k < COUNT[i], lambda: w * node(KIDS[FIRST[i] + k]) ** 2, lambda: 0.0 * values[i]
            )
            return total + y, y

        total, ys = ln.scan(step, values[i], ln.arange(3))
        return 0.5 * (total + values[i]) + 0.5 * ln.sum(ys)

    return node(0)


def children(values: Any, w: Any) -> Any:
    def node(i: int) -> Any:
        total = values[i]
        for k in range(int(COUNT[i])):
            total = total + w * node(int(KIDS[FIRST[i] + k])) ** 2
        return total

    return node(0)


@each_way
@pytest.mark.parametrize("f", (by_while, by_fori, by_scan), ids=lambda f: f.__name__)
def test_loops_that_call(f: Any, way: Any) -> None:
    w = ln.asarray(np.float64(0.7))
    wanted = ln.value_and_grad(children, argnums=(0, 1))(VALUES, w)
    close(way(ln.value_and_grad(f, argnums=(0, 1)))(VALUES, w), wanted)
    second = ln.grad(lambda w: ln.sum(ln.grad(children)(VALUES, w)))
    close(ln.grad(lambda w: ln.sum(ln.grad(f)(VALUES, w)))(w), second(w))


@each_way
def test_keys_booleans_and_static_arguments(way: Any) -> None:
    @ln.recursive
    def walk(x: Any, key: Any, up: Any, name: str, n: Any) -> Any:
        first, second = ln.random.split(key)
        noise = ln.random.normal(first, ())
        step = getattr(ln, name)(x) + ln.where(up, noise, -noise)
        return ln.cond(n == 0, lambda: (x, key), lambda: walk(step, second, ~up, name, n - 1))

    def plain(x: Any, key: Any) -> Any:
        up = True
        for _ in range(3):
            first, key = ln.random.split(key)
            noise = ln.random.normal(first, ())
            x, up = ln.sin(x) + (noise if up else -noise), not up
        return x, key

    x, key = ln.asarray(np.float32(0.3)), ln.random.key(7)
    close(way(lambda x, key: walk(x, key, True, "sin", 3))(x, key), plain(x, key), 1e-6)
    slope = ln.grad(lambda x: walk(x, key, True, "sin", 3)[0])
    close(way(slope)(x), ln.grad(lambda x: plain(x, key)[0])(x), 1e-5)


@each_way
def test_a_limited_loop_that_calls(way: Any) -> None:
    @ln.recursive
    def f(x: Any, n: Any) -> Any:
        def body(s: Any) -> Any:
            return s[0] + 1, s[1] + f(s[1] * 0.5, n - 1)

        return ln.while_loop(lambda s: s[0] < n, body, (0, x), limit=3)[1]

    def plain(x: Any, n: int) -> Any:
        for _ in range(n):
            x = x + plain(x * 0.5, n - 1)
        return x

    x = ln.asarray(np.float64(0.5))
    close(way(ln.grad(f))(x, 3), ln.grad(plain)(x, 3))
    with pytest.raises(LimitError, match="condition still holds after 3 steps"):
        way(f)(x, 4)


def test_batches_of_branches_that_call() -> None:
    """An element that is not meant to call would never end."""

    @ln.recursive
    def down(x: Any, n: Any) -> Any:
        return ln.cond(n == 0, lambda: ln.sin(x), lambda: x * down(x, n - 1))

    def f(x: Any, n: Any) -> Any:
        return ln.cond(n < 0, lambda: x, lambda: down(x, n))

    xs, ns = ln.asarray([1.0, 2.0, 3.0]), ln.asarray([1, -3, 2])
    wanted = ln.stack([ln.grad(f)(x, n) for x, n in zip(xs, ns, strict=True)])
    close(ln.vmap(ln.grad(f))(xs, ns), wanted, 1e-6)
    close(ln.compile(ln.vmap(ln.grad(f)))(xs, ns), wanted, 1e-6)


def test_jacobians_add_up_what_several_ways_back_save() -> None:
    @ln.recursive
    def power(x: Any, n: Any) -> Any:
        return ln.cond(n == 0, lambda: ln.sin(x), lambda: x * power(x, n - 1))

    def program(power: Any) -> Any:
        return lambda x: power(ln.sum(x), 2) * x * power(x[0], 1)

    x = ln.asarray(np.array([0.4, 1.1]))
    f = program(power)
    g = program(lambda x, n: x**n * ln.sin(x))
    close(ln.hessian(lambda x: ln.sum(f(x)))(x), ln.hessian(lambda x: ln.sum(g(x)))(x))
    twice = ln.jacobian(ln.jacobian(g))(x)
    close(ln.jacobian(ln.jacobian(f))(x), twice)
    close(ln.compile(ln.jacobian(ln.jacobian(f)), backend="interpreter")(x), twice)
    close(ln.compile(ln.jacobian(ln.jacobian(f)))(x), twice)


# Depth, and what is saved -------------------------------------------------------------------------


@ln.recursive
def chain(x: Any, n: Any) -> Any:
    return ln.cond(n == 0, lambda: x, lambda: ln.sin(chain(x, n - 1)) + 1.0)


def test_depth_does_not_use_the_stack_of_python() -> None:
    depth = 20_000
    x = np.float64(0.5)
    value, slope = x, 1.0
    for _ in range(depth):
        value, slope = np.sin(value) + 1.0, slope * np.cos(value)
    close(ln.value_and_grad(chain)(ln.asarray(x), depth), (value, slope))


def test_native_code_goes_a_million_deep() -> None:
    depth = 1_000_000
    x = ln.asarray(np.float64(0.5))
    value, slope = ln.compile(ln.value_and_grad(chain))(x, depth)
    close(value, 1.934563210752024)
    assert np.abs(slope) < 1e-10


def saved(f: Any, *args: Any) -> list[list[str]]:
    """The types of what the nodes of a program hold, for each way through its functions."""
    program = parse_program(ln.compile(f).ir(*args))
    packs = (op for op in walk(program.block) if op.name == "pack")
    return [sorted(str(v.type) for v in op.inputs) for op in packs]


def test_a_node_holds_what_the_way_back_reads() -> None:
    """Of the sine its argument; the nodes of the calls; of rows of tables their numbers only."""

    def product(table: Any) -> Any:
        @ln.recursive
        def node(i: Any) -> Any:
            return ln.cond(
                LEFT[i] < 0,
                lambda: table[WORD[i]] ** 2,
                lambda: node(LEFT[i]) * node(RIGHT[i]),
            )

        return ln.sum(node(0))

    assert saved(ln.grad(chain), ln.asarray(0.5), 3) == [["float32[]", "node[]"], []]
    inner, outer = saved(ln.grad(product), parameters()["emb"])
    assert inner == ["float64[3]", "float64[3]", "node[]", "node[]"]
    assert outer == ["int64[]"]


# What goes wrong ----------------------------------------------------------------------------------


class TestErrors:
    def test_it_never_returns(self) -> None:
        @ln.recursive
        def f(n: Any) -> Any:
            return ln.cond(n > 0, lambda: f(n - 1), lambda: f(n + 1))

        with pytest.raises(StagingError, match="f never returns without calling itself"):
            f(3)

        @ln.recursive
        def g(n: Any) -> Any:
            return h(n) + 1

        @ln.recursive
        def h(n: Any) -> Any:
            return g(n) * 2

        with pytest.raises(StagingError, match="never returns"):
            g(3)

    def test_it_branches_in_python(self) -> None:
        """Which only `ln.compile` rewrites."""

        @ln.recursive
        def f(x: Any, n: Any) -> Any:
            return x if n == 0 else f(ln.sin(x), n - 1)

        with pytest.raises(
            StagingError, match=r"a recursive function.* is recorded.* ln.compile `if`"
        ):
            f(1.0, 3)
        close(ln.compile(f)(1.0, 2), np.sin(np.sin(1.0)), 1e-6)

    def test_results_differ(self) -> None:
        @ln.recursive
        def f(x: Any, n: Any) -> Any:
            return ln.cond(n == 0, lambda: x, lambda: (f(x, n - 1), n))

        with pytest.raises(ShapeError, match="branches return the same structure"):
            f(1.0, 3)

        @ln.recursive
        def g(x: Any, n: Any) -> Any:
            return ln.cond(n == 0, lambda: x, lambda: ln.concat([g(x, n - 1), x]))

        wanted = (
            r"false_fun \(.*\) is float64\[4\] made at .*trees.py:\d+ and that of true_fun "
            r"\(.*trees.py:\d+\) float64\[2\]"
        )
        with pytest.raises(ShapeError, match=wanted):
            g(ln.asarray(np.ones(2)), 3)

    def test_arguments_grow_without_end(self) -> None:
        @ln.recursive
        def f(x: Any, n: Any) -> Any:
            return ln.cond(n == 0, lambda: 0.0, lambda: f(ln.concat([x, x]), n - 1))

        with pytest.raises(StagingError, match=r"ever new kinds: float32\[1\].*float32\[2\]"):
            f(ln.asarray([1.0]), 3)

    def test_an_argument_that_is_no_array(self) -> None:
        with pytest.raises(ArgumentTypeError, match="no array and not hashable"):
            ln.recursive(lambda x, s: x)(1.0, bytearray(b"a"))

    @each_way
    def test_a_limit(self, way: Any) -> None:
        @ln.recursive(limit=5)
        def f(x: Any, n: Any) -> Any:
            return ln.cond(n == 0, lambda: x, lambda: ln.sin(f(x, n - 1)))

        for g in (f, ln.grad(f)):
            way(g)(1.0, 4)
            with pytest.raises(LimitError, match="f calls itself more than 5 times"):
                way(g)(1.0, 5)
        with pytest.raises(ArgumentError, match="limit is 0"):
            ln.recursive(f, limit=0)

    def test_memory_ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A recursion that does not end, eagerly."""
        monkeypatch.setattr("lantern.activations.MEMORY", 2**20)
        with pytest.raises(FrameMemoryError, match=r"\d+ calls .* limit, ln.recursive"):
            ln.grad(chain)(1.0, -1)
        close(chain(1.0, 1), 1.0 + np.sin(np.float32(1.0)), 1e-6)

    @each_way
    def test_a_tree_with_a_cycle(self, way: Any) -> None:
        """No node is its own ancestor in a tree as deep as it has nodes."""
        left = ln.asarray([1, 0, -1])

        def depth(left: Any) -> Any:
            @ln.recursive(limit=3)
            def node(i: Any) -> Any:
                return ln.cond(left[i] < 0, lambda: 0, lambda: node(left[i]) + 1)

            return node(0)

        assert way(depth)(ln.asarray([1, 2, -1])) == 2
        with pytest.raises(LimitError, match="node calls itself more than 3 times"):
            way(depth)(left)

    @each_way
    def test_a_call_inside_of_itself(self, way: Any) -> None:
        """Which is found without a limit, also by a derivative."""
        left, right = [1, 3, -1, 0, -1], ln.asarray([2, 4, -1, 2, -1])
        x = ln.asarray(np.arange(5.0))

        def total(left: Any, x: Any) -> Any:
            @ln.recursive
            def node(i: Any) -> Any:
                return ln.cond(
                    left[i] < 0,
                    lambda: x[i],
                    lambda: ln.sin(node(left[i])) + node(right[i]),
                )

            return node(0)

        for f in (total, ln.grad(total, argnums=1)):
            with pytest.raises(
                LimitError, match="node: a call is inside another one with the same"
            ):
                way(f)(ln.asarray(left), x)

    @each_way
    def test_the_same_call_twice_is_none_inside_of_itself(self, way: Any) -> None:
        """Far down in a chain that is walked twice, from as deep as it is itself."""
        depth = 70_000 if way is ln.compile else 1500
        after = np.append(np.arange(1, depth), -1)

        def twice(after: Any) -> Any:
            @ln.recursive
            def node(i: Any) -> Any:
                return ln.cond(after[i] < 0, lambda: 1.0, lambda: 1.0 + 0.5 * node(after[i]))

            @ln.recursive
            def root(n: Any) -> Any:
                return ln.cond(n == 0, lambda: node(0) + node(0), lambda: root(n - 1) + 0.0)

            return root(depth)

        close(way(twice)(ln.asarray(after)), 4.0, 1e-6)

    @each_way
    def test_an_index_out_of_range(self, way: Any) -> None:
        with pytest.raises(IndexRangeError, match="out of range for axis 0 of"):
            way(encoded)(parameters(), LEFT.at[3].set(9), RIGHT, WORD, 0)

    def test_printing_in_a_batch(self) -> None:
        @ln.recursive
        def f(x: Any, n: Any) -> Any:
            ln.debug.print("{}", x)
            return ln.cond(n == 0, lambda: x, lambda: f(x, n - 1))

        with pytest.raises(BatchingError, match=r"prints inside of ln.vmap, at .*trees.py"):
            ln.vmap(f)(ln.asarray([1.0, 2.0]), ln.asarray([1, 2]))

    def test_it_differentiates_itself(self) -> None:
        @ln.recursive
        def f(x: Any, n: Any) -> Any:
            return ln.cond(n == 0, lambda: x, lambda: ln.grad(lambda x: f(x, n - 1) ** 2)(x))

        with pytest.raises(StagingError, match="differentiates itself"):
            f(1.0, 3)
