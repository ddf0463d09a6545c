"""A language of random programs with nested branches, loops and recursion, run in two ways.

A program is an expression over float variables of one shape and integer scalars. `Plain` runs it
with Python's own control flow on NumPy arrays, `Staged` with lantern's functional forms, both from
the same definition of what each form means. Every operation is holomorphic, so `Plain` also runs on
complex numbers: the imaginary part of f(x + ih·v)/h is the derivative along v to rounding, since no
difference of nearby numbers is taken (Squire and Trapp 1998).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

import lantern as ln

Floats = tuple[Any, ...]
Integers = tuple[Any, ...]


@dataclass(frozen=True)
class Node:
    """One expression: a form, its static choices and its parts, each under more variables."""

    form: str
    choice: Any = None
    parts: tuple[Node, ...] = ()

    def __repr__(self) -> str:
        inside = [repr(self.choice)] * (self.choice is not None) + [repr(p) for p in self.parts]
        return f"{self.form}({', '.join(inside)})"


def well(y: Any) -> Any:
    """The denominator 1 + y², away from zero for every real y."""
    return 1.0 + y * y


UNARY: dict[str, Callable[[Any, Any], Any]] = {  # of the library and the operand
    "sin": lambda lib, x: lib.sin(x),
    "tanh": lambda lib, x: lib.tanh(x),
    "bump": lambda lib, x: lib.exp(-x * x),
    "ratio": lambda lib, x: x / well(x),
}
BINARY: dict[str, Callable[[Any, Any], Any]] = {  # none squares what loops repeat
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": lambda x, y: x * y / well(0.5 * x),
    "divide": lambda x, y: x / well(y),
}

MARGIN = 1e-3
"""How far the two sides of a float comparison must be apart for a derivative to be meaningful."""


class Close(Exception):
    """A comparison of floats fell so close that a derivative beside it means nothing."""


class Forms:
    """What every form means, over a library's own control flow, which subclasses give."""

    lib: Any
    integer: Any
    number_of: Any
    positive: Any
    below: Any
    both: Any
    if_: Any
    switch: Any
    loop: Any
    over: Any
    recurse: Any

    def run(self, node: Node, xs: Floats, ks: Integers) -> Any:
        """The value of an expression, where ``xs`` and ``ks`` are the variables in scope."""
        return getattr(self, node.form)(node, xs, ks)

    def number(self, node: Node, xs: Floats, ks: Integers) -> Any:
        return xs[0] * 0.0 + node.choice

    def variable(self, node: Node, xs: Floats, ks: Integers) -> Any:
        return xs[node.choice % len(xs)]

    def counter(self, node: Node, xs: Floats, ks: Integers) -> Any:
        return xs[0] + 0.25 * self.number_of(ks[node.choice % len(ks)])

    def unary(self, node: Node, xs: Floats, ks: Integers) -> Any:
        return UNARY[node.choice](self.lib, self.run(node.parts[0], xs, ks))

    def binary(self, node: Node, xs: Floats, ks: Integers) -> Any:
        x, y = (self.run(p, xs, ks) for p in node.parts)
        return BINARY[node.choice](x, y)

    def branch(self, node: Node, xs: Floats, ks: Integers) -> Any:
        """``then if the sum of test > 0 else otherwise``."""
        test, then, otherwise = node.parts
        positive = self.positive(self.run(test, xs, ks))
        return self.if_(
            positive, lambda: self.run(then, xs, ks), lambda: self.run(otherwise, xs, ks)
        )

    def parity(self, node: Node, xs: Floats, ks: Integers) -> Any:
        """One of several expressions, by an integer modulo their number."""
        k = ks[node.choice % len(ks)]
        return self.switch(
            k % len(node.parts), [lambda p=p: self.run(p, xs, ks) for p in node.parts]
        )

    def while_(self, node: Node, xs: Floats, ks: Integers) -> Any:
        """Until ``choice`` iterations, or until the state's sum leaves a bound, whichever first."""
        init, body = node.parts
        limit, bound = node.choice

        def test(state: tuple[Any, Any]) -> Any:
            i, x = state
            return self.both(i < limit, lambda: self.below(x, bound))

        def step(state: tuple[Any, Any]) -> tuple[Any, Any]:
            i, x = state
            return i + 1, self.run(body, (*xs, x), (*ks, i))

        return self.loop(test, step, (self.integer(0), self.run(init, xs, ks)))[1]

    def scan(self, node: Node, xs: Floats, ks: Integers) -> Any:
        """A scan over multiples of the first variable; the last carry plus what steps returned."""
        init, body, out = node.parts
        rows = [xs[0] * (0.5 + 0.25 * t) for t in range(node.choice)]

        def step(c: Any, x: Any) -> tuple[Any, Any]:
            after = self.run(body, (*xs, c, x), ks)
            return after, self.run(out, (*xs, after, x), ks)

        return self.over(step, self.run(init, xs, ks), rows)

    def recursion(self, node: Node, xs: Floats, ks: Integers) -> Any:
        """f(k, s): a leaf at k ≤ 0, else of s, f(k - 1, down(s)) and perhaps f(k - 2, across)."""
        start, leaf, down, combine = node.parts
        depth, twice = node.choice
        k0 = self.integer(depth) if depth >= 0 else ks[-depth % len(ks)] % 4

        def body(f: Callable[[Any, Any], Any], k: Any, s: Any) -> Any:
            def deeper() -> Any:
                first = f(k - 1, self.run(down, (*xs, s), (*ks, k)))
                second = f(k - 2, s * 0.5) if twice else s
                return self.run(combine, (*xs, s, first, second), (*ks, k))

            return self.if_(k <= 0, lambda: self.run(leaf, (*xs, s), (*ks, k)), deeper)

        return self.recurse(body, k0, self.run(start, xs, ks))


class Plain(Forms):
    """Python's own control flow on NumPy arrays, real or complex."""

    lib = np

    @staticmethod
    def integer(k: int) -> Any:
        return k

    @staticmethod
    def number_of(k: Any) -> float:
        return float(k)

    @staticmethod
    def below(x: Any, bound: float) -> bool:
        total = float(np.sum(np.real(x)))
        if abs(total - bound) < MARGIN:
            raise Close
        return total < bound

    def positive(self, x: Any) -> bool:
        return not self.below(x, 0.0)

    @staticmethod
    def both(a: Any, b: Callable[[], Any]) -> Any:
        return a and b()

    @staticmethod
    def if_(test: Any, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
        return then() if test else otherwise()

    @staticmethod
    def switch(k: Any, branches: Sequence[Callable[[], Any]]) -> Any:
        return branches[k]()

    @staticmethod
    def loop(test: Callable[[Any], Any], step: Callable[[Any], Any], state: Any) -> Any:
        while test(state):
            state = step(state)
        return state

    @staticmethod
    def over(step: Callable[[Any, Any], Any], carry: Any, rows: list[Any]) -> Any:
        total = carry * 0.0
        for row in rows:
            carry, y = step(carry, row)
            total = total + y
        return carry + total

    @staticmethod
    def recurse(body: Callable[..., Any], k: Any, s: Any) -> Any:
        def f(k: Any, s: Any) -> Any:
            return body(f, k, s)

        return f(k, s)


class Staged(Forms):
    """lantern's functional forms, which eager code, staged code and derivatives share."""

    lib = ln

    @staticmethod
    def integer(k: int) -> Any:
        return ln.asarray(k, dtype=ln.int64)

    @staticmethod
    def number_of(k: Any) -> Any:
        return ln.astype(k, ln.float64)

    @staticmethod
    def below(x: Any, bound: float) -> Any:
        return ln.sum(x) < bound

    @staticmethod
    def positive(x: Any) -> Any:
        return ln.sum(x) > 0.0

    @staticmethod
    def both(a: Any, b: Callable[[], Any]) -> Any:
        return ln.logical_and(a, b())

    @staticmethod
    def if_(test: Any, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
        return ln.cond(test, then, otherwise)

    @staticmethod
    def switch(k: Any, branches: Sequence[Callable[[], Any]]) -> Any:
        return ln.switch(k, branches)

    @staticmethod
    def loop(test: Callable[[Any], Any], step: Callable[[Any], Any], state: Any) -> Any:
        return ln.while_loop(test, step, state)

    @staticmethod
    def over(step: Callable[[Any, Any], Any], carry: Any, rows: list[Any]) -> Any:
        if not rows:
            return carry
        carry, ys = ln.scan(step, carry, ln.stack(rows))
        return carry + ln.sum(ys, axis=0)

    @staticmethod
    def recurse(body: Callable[..., Any], k: Any, s: Any) -> Any:
        @ln.recursive
        def f(k: Any, s: Any) -> Any:
            return body(f, k, s)

        return f(k, s)


LEAVES = st.one_of(
    st.builds(Node, st.just("variable"), st.integers(0, 5)),
    st.builds(Node, st.just("variable"), st.integers(0, 5)),
    st.builds(Node, st.just("counter"), st.integers(0, 3)),
    st.builds(Node, st.just("number"), st.sampled_from([0.3, -0.7, 1.1])),
)


def grown(inner: st.SearchStrategy[Node], forms: Sequence[str]) -> st.SearchStrategy[Node]:
    """Expressions one level above ``inner``."""
    every = {
        "unary": (st.sampled_from(sorted(UNARY)), 1),
        "binary": (st.sampled_from(sorted(BINARY)), 2),
        "branch": (st.none(), 3),
        "parity": (st.integers(0, 3), 3),
        "while_": (st.tuples(st.integers(0, 3), st.sampled_from([0.4, 1.6, 50.0])), 2),
        "scan": (st.integers(0, 3), 3),
        "recursion": (st.tuples(st.integers(-2, 3), st.booleans()), 4),
    }
    return st.one_of(
        *(
            st.builds(Node, st.just(f), every[f][0], st.tuples(*[inner] * every[f][1]))
            for f in forms
        )
    )


ARITHMETIC = ("unary", "binary", "binary")
CONTROL = ("branch", "parity", "while_", "scan", "recursion")


def programs(depth: int) -> st.SearchStrategy[Node]:
    """Expressions in which forms of control flow nest up to ``depth`` times."""
    simple = LEAVES | grown(LEAVES, ARITHMETIC)
    level = simple
    for _ in range(depth):
        level = grown(simple | level, CONTROL)
    return st.builds(lambda a, b: Node("binary", "add", (a, b)), level, level)


def along(node: Node, x: np.ndarray, v: np.ndarray, k: int) -> float:
    """The derivative of the program's sum at ``x`` along ``v``, by a complex step."""
    step = 1e-30
    out = Plain().run(node, (x[0] + 1j * step * v[0], x[1] + 1j * step * v[1]), (k,))
    return float(np.sum(np.imag(out)) / step)
