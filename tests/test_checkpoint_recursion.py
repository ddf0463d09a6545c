"""checkpoint with a policy on recursion: calls at borders are kept, not a node of each call, and
the derivatives are the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import test_checkpoint_policies as policies
import test_recursive as cases
from control_flow import close
from hypothesis import given, settings
from hypothesis import strategies as st
from test_recursive_trees import LEFT, RIGHT, WORD, encoded, parameters

import lantern as ln
from lantern.errors import ArgumentError, LimitError, StagingError
from lantern.primitives.elementwise import sin

BACKENDS = ("interpreter", "llvm")
X = np.float64(1.3)
ROTATION = np.linalg.qr(np.random.default_rng(2).normal(size=(60, 60)))[0]


def kept(f: Callable[..., Any], policy: Any = "sqrt") -> Callable[..., Any]:
    return ln.checkpoint(f, policy=policy)


@ln.recursive
def chain(x: Any, n: Any) -> Any:
    """What is behind the call reads what is before it."""
    return ln.cond(n == 0, lambda: x, lambda: x * ln.sin(chain(x * 1.01, n - 1)) + 1.0)


@ln.recursive
def tail(x: Any, n: Any) -> Any:
    return ln.cond(n == 0, lambda: x, lambda: tail(ln.sin(x) + 0.1, n - 1))


@ln.recursive
def tree(x: Any, n: Any) -> Any:
    """A call whose argument is the result of another one."""
    return ln.cond(n == 0, lambda: ln.sin(x), lambda: tree(0.9 * tree(x + 0.1, n - 1), n - 1) + x)


@ln.recursive
def comb(x: Any, n: Any) -> Any:
    """A tree as deep as a chain, with a leaf at each call of it."""
    return ln.cond(n <= 0, lambda: ln.cos(x), lambda: ln.sin(comb(x, 0) + comb(x * 0.9, n - 1)))


@ln.recursive
def odd(x: Any, n: Any) -> Any:
    return ln.cond(n == 0, lambda: -x, lambda: ln.sin(even(x, n - 1)) * x)


@ln.recursive
def even(x: Any, n: Any) -> Any:
    return ln.cond(n == 0, lambda: x, lambda: odd(x * 0.9, n - 1))


SHAPES = (chain, tail, tree, comb, even)
each_shape = pytest.mark.parametrize("f", SHAPES, ids=lambda f: f.__name__)


@each_shape
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_as_without_a_policy(f: Any, data: Any) -> None:
    """To the last bit, but for the sign of a zero: what is replayed is what was computed."""
    n = data.draw(st.integers(0, 5 if f is tree else 40))
    policy = data.draw(st.sampled_from(["sqrt", 1, 100, 300, 10**6]))
    x = data.draw(st.floats(-2.0, 2.0))
    wanted = ln.value_and_grad(f)(np.float64(x), n)
    found = ln.value_and_grad(kept(f, policy))(np.float64(x), n)
    assert [*map(float, found)] == [*map(float, wanted)]


@st.composite
def trees(draw: Any) -> tuple[Any, Any]:
    """The children of each node of a tree, -1 where there are none: each node is a child of one
    before it, of one of the last few."""
    reach = draw(st.integers(1, 12))
    left, right = [-1], [-1]
    for node in range(1, draw(st.integers(1, 60))):
        free = [k for k in range(node) if -1 in (left[k], right[k])][-reach:]
        parent = draw(st.sampled_from(free))
        side = draw(st.sampled_from([s for s in (left, right) if s[parent] == -1]))
        side[parent] = node
        left.append(-1)
        right.append(-1)
    return ln.asarray(np.asarray(left)), ln.asarray(np.asarray(right))


@given(trees(), st.sampled_from(["sqrt", 1, 2000, 10**6]))
@settings(max_examples=25, deadline=None)
def test_trees_of_any_shape(tree: Any, policy: Any) -> None:
    """What flows down, up and sideways; a weight, and a number of each node, are captured."""
    left, right = tree
    values = np.linspace(-1.0, 1.0, len(left))

    def total(x: Any, w: Any, values: Any) -> Any:
        @ln.recursive
        def node(i: Any, x: Any) -> Any:
            def inner() -> Any:
                y = node(left[i], ln.sin(x + values[i]))
                return y + w * node(right[i], x * y)

            return ln.cond(i < 0, lambda: ln.cos(x), inner)

        return node(0, x)

    found, wanted = (
        ln.value_and_grad(f, argnums=(0, 1, 2))(X, np.float64(0.7), values)
        for f in (kept(total, policy), total)
    )
    close(found, wanted, 1e-12)


@each_shape
@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled(f: Any, backend: str) -> None:
    gradient = ln.compile(ln.value_and_grad(kept(f)), backend=backend)
    for n in (0, 1, 2, 3, 5, 12) if f is not tree else (0, 1, 6):
        close(gradient(X, n), ln.value_and_grad(f)(X, n))


@cases.each_program
def test_second_derivatives(program: Any) -> None:
    recursive, plain = cases.forms(program)
    close(cases.everything(kept(recursive))(X), cases.everything(plain)(X))


@pytest.mark.parametrize("program", [cases.fibonacci, cases.siblings])
@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_second_derivatives(program: Any, backend: str) -> None:
    recursive, plain = cases.forms(program)
    second = ln.compile(ln.grad(ln.grad(kept(recursive))), backend=backend)
    close(second(X), ln.grad(ln.grad(plain))(X))


@pytest.mark.parametrize("way", [lambda f: f, ln.compile], ids=["eager", "llvm"])
def test_a_tree_with_parameters(way: Any) -> None:
    """Weights and tables are captures: their adjoints add up over all segments."""
    p = parameters()
    wanted = ln.value_and_grad(encoded)(p, LEFT, RIGHT, WORD, 0)
    close(way(ln.value_and_grad(kept(encoded)))(p, LEFT, RIGHT, WORD, 0), wanted)


def test_batches() -> None:
    xs, ns = np.array([1.3, 0.2, -0.7]), np.array([5, 0, 9])
    wanted = ln.stack([ln.grad(comb)(x, n) for x, n in zip(xs, ns, strict=True)])
    close(ln.vmap(ln.grad(kept(comb)))(xs, ns), wanted)
    total = ln.grad(lambda xs: ln.sum(ln.vmap(kept(comb))(xs, ns)))
    close(total(xs), wanted)
    close(ln.compile(total)(xs), wanted)


def test_loops_in_a_recursion_have_no_policy_of_their_own() -> None:
    """The loop that calls is a part of the recursion, the other one of a call."""

    @ln.recursive
    def f(x: Any, n: Any) -> Any:
        y = ln.fori_loop(0, 3, lambda _, y: ln.sin(y) + x, x)
        go_on = lambda s: s[0] < n  # noqa: E731
        return ln.while_loop(go_on, lambda s: (s[0] + 1, s[1] + f(s[1] * 0.1, n - 1)), (0, y))[1]

    close(ln.grad(kept(f))(X, 4), ln.grad(f)(X, 4))


# What is kept, and how often calls are made -------------------------------------------------------


def peak(f: Callable[..., Any], n: int) -> float:
    """The memory of a gradient with respect to a large vector, in such vectors."""
    return policies.peak(lambda x: ln.sum(f(x, n)), 4000)


@pytest.mark.parametrize("f", [chain, tail, comb], ids=lambda f: f.__name__)
def test_a_path_keeps_its_root(f: Any) -> None:
    """Each border keeps an argument and a result; a call of the segment two vectors, and a way back
    that waits one. A call of `chain` or `comb` waits with a vector, as without any derivative."""
    n = 200
    waiting = 0 if f is tail else n
    assert peak(f, n) > n + waiting
    assert peak(kept(f), n) < waiting + 7 * np.sqrt(2 * n) + 12


def frames(f: Callable[..., Any], x: Any, n: int) -> int:
    """The bytes that a program takes for nodes and for calls that wait."""
    return ln.compile(ln.grad(f), cache=False).profile(x, n, machine=MACHINE).frames


MACHINE = ln.Machine(1e11, ((float("inf"), 1e10),), 1)


def test_what_native_code_keeps() -> None:
    """A call of `chain` waits with its argument and where to go on: 16 bytes. A call of `tail` does
    not wait at all."""
    n = 20_000
    assert frames(chain, X, n) > 40 * n
    assert frames(kept(chain), X, n) < 16 * n + 300 * np.sqrt(2 * n)
    assert frames(tail, X, n) > 24 * n
    assert frames(kept(tail), X, n) < 300 * np.sqrt(2 * n)
    assert frames(kept(tree), X, 15) < frames(tree, X, 15) / 10


def test_a_number_of_bytes_says_how_deep_the_first_segment_is() -> None:
    """As deep as nodes fit into half of the bytes; if these are all of them, none is a border."""
    n = 2_000
    wide, narrow = (frames(kept(tail, size), X, n) for size in ("1 MB", "8 kB"))
    assert 16 * n < wide < 10**6
    assert narrow < 20_000
    assert frames(kept(tree, "1 MB"), X, 16) < 10**6 < frames(tree, X, 16)


def test_a_call_that_waits_has_no_room_for_the_array_that_it_waits_for() -> None:
    """It lies where the array that is made of it does."""

    @ln.recursive
    def rows(x: Any, n: Any) -> Any:
        return ln.cond(n == 0, lambda: x, lambda: ln.tanh(ROTATION @ rows(x, n - 1)) * 1.1)

    n, x = 2_000, np.linspace(0.1, 1.0, 60)
    once = ln.compile(rows, cache=False)
    close(once(x, n), rows(x, n))
    assert once.profile(x, n, machine=MACHINE).frames < 40 * n
    total = lambda f: lambda x, n: ln.sum(f(x, n))  # noqa: E731
    assert frames(total(kept(rows)), x, n) < 40 * n + 8 * x.nbytes * np.sqrt(2 * n)
    close(ln.compile(ln.grad(total(kept(rows))))(x, n), ln.grad(total(rows))(x, n))


@pytest.mark.parametrize(("calls_of", "n", "most"), [(1, 100, 3), (2, 9, 2)])
def test_how_often_a_call_is_made(
    calls_of: int, n: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segments that meet one border are replayed twice, others once."""
    runs: list[int] = []
    primitive: Any = vars(sin)["primitive"]
    monkeypatch.setattr(primitive, "kernel", lambda x: runs.append(1) or np.sin(x))

    @ln.recursive
    def f(x: Any, n: Any) -> Any:
        return ln.cond(n == 0, lambda: x, lambda: ln.sin(sum(f(x, n - 1) for _ in range(calls_of))))

    ln.grad(f)(X, n)
    once = len(runs)
    runs.clear()
    ln.grad(kept(f))(X, n)
    assert once < len(runs) <= most * once


# What goes wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [lambda f: f, ln.compile], ids=["eager", "llvm"])
def test_a_limit_holds(way: Any) -> None:
    @ln.recursive(limit=9)
    def limited(x: Any, n: Any) -> Any:
        return ln.cond(n == 0, lambda: x, lambda: limited(ln.sin(x), n - 1))

    close(way(ln.grad(kept(limited)))(X, 8), ln.grad(tail_of(8))(X))
    with pytest.raises(LimitError, match="limited calls itself more than 9 times"):
        way(ln.grad(kept(limited)))(X, 9)


def tail_of(n: int) -> Callable[[Any], Any]:
    def f(x: Any) -> Any:
        for _ in range(n):
            x = ln.sin(x)
        return x

    return f


def test_policies_that_are_for_loops() -> None:
    with pytest.raises(ArgumentError, match=r'binomial is for loops.*"sqrt" or a number of bytes'):
        kept(chain, ln.checkpoint_policies.binomial(3))(X, 3)


def test_a_policy_inside_of_the_recursion() -> None:
    @ln.recursive
    def f(x: Any, n: Any) -> Any:
        return ln.cond(n == 0, lambda: x, lambda: kept(f)(ln.sin(x), n - 1))

    with pytest.raises(StagingError, match="Give the policy to what calls it from outside"):
        f(X, 3)

    def looped(x: Any, n: Any) -> Any:
        """A loop with a policy within a recursion is none of its business."""
        step = kept(lambda x: ln.fori_loop(0, 4, lambda i, x: ln.sin(x), x))
        return ln.cond(n == 0, lambda: x, lambda: recursive(step(x), n - 1))

    recursive = ln.recursive(looped)
    close(ln.grad(recursive)(X, 2), ln.grad(tail_of(8))(X))
