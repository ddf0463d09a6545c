"""Loops over single values, which native code keeps in registers: against eager loops, to the
second derivative; and how much their steps save for the way back."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from control_flow import check_compiled, close

import lantern as ln
from backends.llvm import lists
from lantern.errors import ArgumentError, FrameMemoryError, IndexRangeError, LimitError
from lantern.testing import check_grads

BACKENDS = ("interpreter", "llvm")
POINTS = (np.float64(0.3), np.float64(0.8), np.float64(1.7))
W = ln.asarray([0.7, -0.4, 1.3], dtype=ln.float64)


def logistic(x: Any, w: Any) -> Any:
    """Steps enough for several segments; a captured number."""
    r = 2.5 + w[0]
    start = (ln.sin(x) ** 2, 0)
    return ln.while_loop(lambda s: s[1] < 60, lambda s: (r * s[0] * (1 - s[0]), s[1] + 1), start)[0]


def newton(x: Any, w: Any) -> Any:
    """The number of steps depends on the data."""
    a = x * x + 2 + w[2]
    return ln.while_loop(lambda y: ln.abs(y * y - a) > 1e-9, lambda y: (y + a / y) / 2, x + 1)


def never(x: Any, w: Any) -> Any:
    return ln.while_loop(lambda y: y > 9.0, lambda y: y * w[1], x) * 3 + w[0]


def nested(x: Any, w: Any) -> Any:
    """A loop in a loop: as many steps as the number of the outer one, from none."""

    def outer(s: Any) -> Any:
        y, i = s

        def inner(t: Any) -> Any:
            return ln.sin(t[0] * w[0]) + t[0] * 0.5, t[1] + 1

        y, _ = ln.while_loop(lambda t: t[1] < i, inner, (y, 0))
        return y * 1.2 + 0.1, i + 1

    return ln.while_loop(lambda s: s[1] < 7, outer, (x, 0))[0]


def branching(x: Any, w: Any) -> Any:
    """One of three branches, by a number and by data."""

    def body(s: Any) -> Any:
        y, i = s
        y = ln.switch(i % 3, [lambda y: y * w[0], lambda y: y + ln.exp(w[1]), ln.cos], y)
        return ln.cond(y > 1.0, lambda: y / 2 + w[2], lambda: y * y), i + 1

    return ln.while_loop(lambda s: s[1] < 11, body, (x, 0))[0]


def indexing(x: Any, w: Any) -> Any:
    """Elements of an array, whose adjoint is one: the way back is not over single values."""

    def body(s: Any) -> Any:
        y, i, odd = s
        return ln.where(odd, y * w[i % 3], y + w[(i * 2) % 3] ** 2), i + 1, ~odd

    return ln.while_loop(lambda s: s[1] < 9, body, (x, 0, False))[0]


def mixed(x: Any, w: Any) -> Any:
    """Numbers of different widths in a state; what is saved of a step has no gaps."""

    def body(s: Any) -> Any:
        y, z, i, up = s
        z = ln.where(up, z * ln.astype(y, ln.float32), ln.sin(z))
        return ln.sin(y) * w[0] + ln.astype(z, ln.float64), z, i + 1, (y > 0.5) ^ up

    start = (x, ln.astype(x, ln.float32), ln.asarray(0, dtype=ln.int8), False)
    y, z, *_ = ln.while_loop(lambda s: s[2] < 8, body, start)
    return y + ln.astype(z, ln.float64)


def scanning(x: Any, w: Any) -> Any:
    """Scans over arrays and over numbers in a loop, and a loop in a scan."""

    def body(s: Any) -> Any:
        y, i = s
        y, parts = ln.scan(lambda c, v: (ln.tanh(c + v), c * v), y, w)
        return ln.fori_loop(0, 3, lambda k, c: c + 0.1 * k * parts[1], y), i + 1

    def grown(c: Any, v: Any) -> Any:
        return ln.while_loop(lambda t: t < 2.0, lambda t: t * t + v * v, c + v * v), c

    y, _ = ln.while_loop(lambda s: s[1] < 4, body, (x, 0))
    return ln.scan(grown, y, w)[0]


def loop_in_branch_in_loop(x: Any, w: Any) -> Any:
    def body(s: Any) -> Any:
        y, i = s

        def grown() -> Any:
            return ln.while_loop(lambda t: t < 4.0, lambda t: t * 1.7 + w[2] ** 2, y)

        return ln.cond(y < 1.5, grown, lambda: y * w[0] * 0.3), i + 1

    return ln.while_loop(lambda s: s[1] < 5, body, (x, 0))[0]


def derivative_inside(x: Any, w: Any) -> Any:
    """A loop whose steps differentiate a loop: what that saves is free again after each."""

    def inner(y: Any) -> Any:
        return ln.while_loop(lambda t: t < 3.0, lambda t: t * t + w[2] ** 2, y)

    def body(s: Any) -> Any:
        y, i = s
        return y * 0.9 + 0.1 * ln.tanh(ln.grad(inner)(y)), i + 1

    return ln.while_loop(lambda s: s[1] < 20, body, (x, 0))[0]


PROGRAMS = (
    logistic, newton, never, nested, branching, indexing, mixed, scanning, loop_in_branch_in_loop,
    derivative_inside,
)  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
def test_compiled_agrees_with_eager(f: Callable[..., Any], backend: str) -> None:
    single = 1e-3 if f is mixed else 1e-8
    check_compiled(f, POINTS, W, backend, single)


@pytest.mark.parametrize("f", [f for f in PROGRAMS if f is not mixed], ids=lambda f: f.__name__)
def test_eager_agrees_with_differences(f: Callable[..., Any]) -> None:
    check_grads(f, (np.float64(0.43), W), order=2, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("f", [newton, nested], ids=lambda f: f.__name__)
def test_derivatives_of_a_compiled_function(f: Callable[..., Any]) -> None:
    """What its steps save lives for as long as one program runs: the way back begins anew."""
    x = np.float64(0.43)
    close(ln.grad(ln.compile(f), argnums=(0, 1))(x, W), ln.grad(f, argnums=(0, 1))(x, W), 1e-8)

    def slope(f: Callable[..., Any]) -> Callable[..., Any]:
        return ln.grad(lambda x: ln.grad(f)(x, W) ** 2)

    close(slope(ln.compile(f))(x), slope(f)(x), 1e-8)


@pytest.mark.parametrize("dtype", [ln.float64, ln.float32, ln.float16, ln.bfloat16])
def test_each_floating_dtype(dtype: Any) -> None:
    def f(x: Any, a: Any) -> Any:
        return ln.while_loop(lambda s: s[1] < 6, lambda s: (ln.sin(s[0]) * a, s[1] + 1), (x, 0))[0]

    both = ln.value_and_grad(f, argnums=(0, 1))
    given = ln.asarray(0.7, dtype=dtype), ln.asarray(1.1, dtype=dtype)
    tolerance = 64 * float(ln.finfo(dtype).eps)
    native = ln.compile(both, backend="llvm")(*given)
    assert {x.dtype.name for x in ln.tree.leaves(native)} == {np.dtype(dtype).name}

    def widened(tree: Any) -> Any:
        return ln.tree.map(lambda x: np.asarray(x).astype(np.float64), tree)

    close(widened(native), widened(both(*given)), tolerance)
    close(widened(native), widened(ln.compile(both, backend="interpreter")(*given)), tolerance)


@pytest.mark.parametrize(
    "dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
)
def test_each_integer_dtype_and_booleans(dtype: str) -> None:
    """Integers wrap as NumPy's do; the loop counts them, and whether each was odd."""

    def f(x: Any) -> Any:
        def body(s: Any) -> Any:
            x, odd, i = s
            x = ln.where(x % 2 == 1, x * 3 + 1, x // 2)
            return x, odd ^ (x % 2 == 1), i + 1

        return ln.while_loop(lambda s: (s[0] != 1) & (s[2] < 50), body, (x, True, 0))

    for start in (1, 3, 5, 12):
        given = ln.asarray(start, dtype=dtype)
        wanted = [np.asarray(x) for x in f(given)]
        for backend in BACKENDS:
            found = [np.asarray(x) for x in ln.compile(f, backend=backend)(given)]
            assert [(x.dtype, x.item()) for x in found] == [(x.dtype, x.item()) for x in wanted]


def test_an_index_outside_is_an_error_at_its_line() -> None:
    def f(w: Any, n: Any) -> Any:
        return ln.while_loop(
            lambda s: s[1] < n,
            lambda s: (s[0] + w[s[1]], s[1] + 1),
            (w[0] * 0, 0),
        )[0]

    native = ln.compile(f)
    assert float(native(W, 3)) == pytest.approx(float(ln.sum(W)))
    with pytest.raises(IndexRangeError, match=r"index 3 is out of range for axis 0 of 3") as found:
        native(W, 4)
    assert "test_scalar_loops.py" in str(found.value)
    assert float(native(W, 2)) == pytest.approx(0.3)


def long(x: Any) -> Any:
    for _ in range(80):
        x = ln.sin(x) * 1.01
    return x


class TestMaps:
    """Of single values: vectorised, and divided among threads."""

    def test_parts_agree_with_the_whole(self) -> None:
        x = np.random.default_rng(0).uniform(-1, 1, 150_001)

        def f(x: Any, w: Any, n: Any) -> Any:
            return ln.map(lambda v: ln.exp(v * w[n]) + ln.sin(v) * w[0], x)

        whole = ln.compile(f, threads=1)
        parts = ln.compile(f, threads=2)
        assert "@lantern.parallel(" in parts.source(x, W, 2)
        close(parts(x, W, 2), whole(x, W, 2))
        close(parts(x, W, 2), np.exp(x * 1.3) + np.sin(x) * 0.7)
        with pytest.raises(IndexRangeError, match="index 3 is out of range"):
            parts(x, W, 3)

    def test_from_the_end_in_blocks(self) -> None:
        """More steps than are made without a look for an interrupt, and no multiple of it."""
        x = np.random.default_rng(0).uniform(-1, 1, 150_001)

        def f(x: Any) -> Any:
            return ln.scan(lambda c, v: (c * 0.5 + v, c), x[0] * 0, x, reverse=True)

        last, before = ln.compile(f)(x)
        wanted = np.zeros(len(x) + 1)
        for i in reversed(range(len(x))):
            wanted[i] = wanted[i + 1] * 0.5 + x[i]
        close((last, before), (wanted[0], wanted[1:]))


class TestInLine:
    """What such loops become."""

    def test_no_kernel_is_called(self) -> None:
        for f in (logistic, newton, nested, branching, never):
            source = ln.compile(ln.value_and_grad(f)).source(np.float64(0.3), W)
            assert re.findall(r"define internal \w+ @f\d+\.\S+\(", source) == []

    @pytest.mark.parametrize(
        ("f", "bytes"),
        [
            (lambda x: ln.while_loop(lambda x: x < 9, lambda x: 2 * x, x), []),
            (lambda x: ln.while_loop(lambda x: x < 9, lambda x: x * x, x), [8]),
            (lambda x: ln.while_loop(lambda x: x < 9, ln.exp, x), [8]),
            # Of x, 1 - x² is made again, and which branch it was.
            (lambda x: ln.while_loop(lambda x: x < 9, lambda x: x * (1 - x * x) + 2 * x, x), [8]),
            (
                lambda x: ln.while_loop(
                    lambda x: x < 9, lambda x: ln.cond(x > 3, lambda: x * x, lambda: x + 1), x
                ),
                [8],
            ),
        ],
    )
    def test_a_step_saves_what_the_way_back_reads(self, f: Any, bytes: list[int]) -> None:
        source = ln.compile(ln.grad(f)).source(np.float64(2.0))
        calls = re.findall(r"call ptr @lantern\.grow\(.*, i64 (\d+)\)", source)
        assert [int(n) for n in calls if n != "%stride"] == bytes

    def test_what_nothing_reads_is_not_saved(self) -> None:
        """The derivative with respect to a needs each x, the other one only a."""

        def f(x: Any, a: Any) -> Any:
            return ln.while_loop(lambda x: x < 9, lambda x: x * a, x)

        both = ln.grad(f, argnums=(0, 1))
        one = ln.compile(lambda x, a: both(x, a)[0])
        assert "@lantern.grow(" in ln.compile(both).source(np.float64(2.0), np.float64(1.5))
        assert "@lantern.grow(" not in one.source(np.float64(2.0), np.float64(1.5))
        assert float(one(2.0, 1.5)) == pytest.approx(1.5**4)

    def test_a_large_block_that_is_held_often_is_written_once(self) -> None:
        layer = ln.outline(long)
        f = ln.compile(lambda x: layer(layer(layer(x))))
        assert f.source(0.5).count("call double @lantern.sin.f64(") < 2 * 80
        assert float(f(0.5)) == pytest.approx(float(long(long(long(0.5)))))


class TestFrames:
    """The memory that steps save in."""

    @pytest.fixture
    def small(self, monkeypatch: pytest.MonkeyPatch) -> int:
        monkeypatch.setattr(lists, "limit", lambda: 1 << 16)
        return 1 << 16

    @staticmethod
    def steps(x: Any, n: Any) -> Any:
        return ln.while_loop(lambda s: s[1] < n, lambda s: (ln.sin(s[0]) * 1.5, s[1] + 1), (x, 0))[
            0
        ]

    def test_all_of_it_is_used_and_then_says_how_much(self, small: int) -> None:
        native = ln.compile(ln.grad(self.steps), cache=False)
        most = (small - 1024) // 8
        close(native(np.float64(0.5), most), ln.grad(self.steps)(np.float64(0.5), most))
        with pytest.raises(FrameMemoryError, match=r"it has saved 6\d.\d kB, and all .* 65.5 kB"):
            native(np.float64(0.5), most + 200)
        with pytest.raises(FrameMemoryError, match=r"(?s)ln.checkpoint.*test_scalar_loops.py"):
            native(np.float64(0.5), 10**6)
        close(native(np.float64(0.5), 100), ln.grad(self.steps)(np.float64(0.5), 100))

    def test_it_is_free_after_a_step_that_needs_it_no_more(self, small: int) -> None:
        def f(x: Any) -> Any:
            def body(s: Any) -> Any:
                return s[0] * 0.9 + 0.01 * ln.grad(self.steps)(s[0], 900), s[1] + 1

            return ln.while_loop(lambda s: s[1] < 20, body, (x, 0))[0]

        close(ln.compile(f, cache=False)(np.float64(0.5)), f(np.float64(0.5)))

    def test_arrays_are_saved_beside_numbers(self, small: int) -> None:
        def f(x: Any, n: Any) -> Any:
            def body(s: Any) -> Any:
                x, y, i = s
                return ln.sin(x) * y, ln.cos(y), i + 1

            x, y, _ = ln.while_loop(lambda s: s[2] < n, body, (x, ln.asarray(0.5), 0))
            return ln.sum(x) * y

        native = ln.compile(ln.grad(f), cache=False)
        x = ln.asarray([0.3, 0.4, 0.5])
        close(native(x, 30), ln.grad(f)(x, 30))
        with pytest.raises(FrameMemoryError, match="while"):
            native(x, 10**6)


class TestLimit:
    """A bound on the number of steps."""

    @staticmethod
    def doubled(x: Any) -> Any:
        return ln.while_loop(lambda x: ln.sum(x) < 100.0, lambda x: x * 2.0, x, limit=7)

    @pytest.mark.parametrize("transform", [lambda f: f, ln.grad, ln.vmap, ln.value_and_grad])
    @pytest.mark.parametrize("run", ["eager", *BACKENDS])
    def test_one_step_more_is_an_error(self, run: str, transform: Any) -> None:
        f = transform(self.doubled)
        f = f if run == "eager" else ln.compile(f, backend=run)
        batch = (lambda x: ln.asarray([x, 90.0])) if transform is ln.vmap else lambda x: x
        f(batch(0.8))  # reaches 102.4 in 7 steps
        with pytest.raises(LimitError, match="still holds after 7 steps") as found:
            f(batch(0.7))
        assert "test_scalar_loops.py" in found.value.place

    def test_of_arrays(self) -> None:
        native = ln.compile(self.doubled)
        close(native(ln.asarray([0.5, 0.5])), ln.asarray([64.0, 64.0]))
        with pytest.raises(LimitError, match="after 7 steps"):
            native(ln.asarray([0.4, 0.3]))

    def test_none_and_no_step(self) -> None:
        def once(n: int, limit: int) -> Any:
            return ln.while_loop(lambda i: i < n, lambda i: i + 1, 0, limit=limit)

        assert int(once(0, 0)) == 0 and int(once(3, 3)) == 3
        with pytest.raises(LimitError):
            once(1, 0)
        with pytest.raises(ArgumentError, match="limit -1"):
            once(1, -1)
