"""checkpoint with a policy: loops that keep less have the same derivatives, of every kind."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import cache
from math import comb
from typing import Any

import numpy as np
import pytest
from control_flow import check_batches, check_compiled, close
from hypothesis import given
from hypothesis import strategies as st

import lantern as ln
from lantern.errors import ArgumentError, ArgumentTypeError, LimitError
from lantern.primitives.elementwise import sin
from lantern.regions import Recording
from lantern.revolve import split
from lantern.unbounded import parameters

POLICIES = ("sqrt", *map(ln.checkpoint_policies.binomial, (1, 3)))
W = ln.asarray(np.random.default_rng(0).normal(size=(2, 3)))
ROWS = np.random.default_rng(1).normal(size=(11, 3))
POINTS = (np.array([1.0, 0.4, -0.3]), np.array([0.2, -0.5, 0.1]), np.array([9.0, 9.0, 9.0]))


def recurrent(x: Any, w: Any) -> Any:
    """The carry holds a number; captures, stacked operands and results have derivatives."""

    def step(s: Any, row: Any) -> Any:
        x, n = s
        x = ln.tanh(x + row * w[0] + n * 0.1)
        return (x, n + 1), (ln.sum(x * x), n)

    (x, n), (ys, _) = ln.scan(step, (x, 0), w[1] * ROWS)
    return ln.sum(x) * n + ln.sum(ys * ys)


def backwards(x: Any, w: Any) -> Any:
    x, ys = ln.scan(lambda x, row: (ln.sin(x + row) * w[0], x * row), x, ROWS, reverse=True)
    return ln.sum(x) + ln.sum(ys[2:5] * w[1])


def mapped(x: Any, w: Any) -> Any:
    return ln.sum(ln.map(lambda row: ln.sin(ln.sum(row * x)) * w[0, 1], ROWS))


def until_large(x: Any, w: Any) -> Any:
    """The points take 3 to 17 steps and none."""
    going = lambda s: ln.sum(s[0] * s[0]) < 8  # noqa: E731
    x, n = ln.while_loop(going, lambda s: (s[0] * 1.2 + ln.sin(w[0]) ** 2, s[1] + 1), (x, 0))
    return ln.sum(x * w) + n


def drawn(x: Any, w: Any) -> Any:
    """The state holds a random key and a boolean."""

    def step(s: Any) -> Any:
        x, key, up, n = s
        key, now = ln.random.split(key)
        noise = ln.random.uniform(now, (3,), dtype=ln.float64)
        x = ln.where(up, x * 1.1, x * w[0]) + 0.1 * ln.sin(noise * x)
        return x, key, ~up, n + 1

    x, *_ = ln.while_loop(lambda s: s[3] < 9, step, (x, ln.random.key(0), True, 0))
    return ln.sum(x)


def nested(x: Any, w: Any) -> Any:
    """A loop within a scan, both with the policy."""

    def step(x: Any, row: Any) -> Any:
        y = ln.while_loop(lambda y: ln.sum(y * y) < 4, lambda y: y * 1.3 + ln.sin(row * w[0]), x)
        return y * 0.4, ln.sum(y)

    x, ys = ln.scan(step, x, ROWS[:5])
    return ln.sum(x) + ln.sum(ys * ys)


def branching(x: Any, w: Any) -> Any:
    def body(i: Any, x: Any) -> Any:
        return ln.cond(x[0] > x[1], lambda: x * ln.exp(-x * 0.1), lambda: x * x + w[0])[::-1]

    return ln.sum(ln.fori_loop(0, 6, body, x * 0.3))


SMALL = (recurrent, backwards, mapped, until_large, nested, branching)
PROGRAMS = (*SMALL, drawn)


@pytest.mark.parametrize("policy", POLICIES[::2], ids=str)
class TestDerivatives:
    @pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
    def test_as_without_a_policy(self, f: Callable[..., Any], policy: Any) -> None:
        kept = ln.checkpoint(f, policy=policy)
        for x in POINTS:
            found, wanted = (ln.value_and_grad(g, argnums=(0, 1))(x, W) for g in (kept, f))
            close(found, wanted, 1e-9)

    def test_compiled_with_random_numbers(self, policy: Any) -> None:
        gradient = ln.grad(ln.checkpoint(drawn, policy=policy), argnums=(0, 1))
        close(ln.compile(gradient)(POINTS[0], W), gradient(POINTS[0], W), 1e-9)

    @pytest.mark.parametrize("f", SMALL, ids=lambda f: f.__name__)
    def test_compiled_and_to_second_order(self, f: Callable[..., Any], policy: Any) -> None:
        check_compiled(ln.checkpoint(f, policy=policy), POINTS[:1], W, "llvm", 1e-9)


@pytest.mark.parametrize("policy", POLICIES[::2], ids=str)
def test_interpreted(policy: Any) -> None:
    check_compiled(ln.checkpoint(nested, policy=policy), POINTS[:1], W, "interpreter", 1e-9)


@pytest.mark.parametrize("policy", POLICIES[::2], ids=str)
@pytest.mark.parametrize("f", [recurrent, until_large, nested], ids=lambda f: f.__name__)
def test_of_a_batch(f: Callable[..., Any], policy: Any) -> None:
    check_batches(ln.checkpoint(f, policy=policy), POINTS, W, 1e-9)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_against_finite_differences(policy: Any) -> None:
    """Along a direction: of the value, and of the gradient."""
    f = ln.checkpoint(lambda x: recurrent(x, W), policy=policy)
    gradient = ln.compile(ln.value_and_grad(f))
    curvature = ln.compile(lambda x, v: ln.grad(lambda x: ln.sum(ln.grad(f)(x) * v))(x))
    x, v, h = POINTS[0], POINTS[1], 1e-6
    (above, slope_above), (below, slope_below) = gradient(x + h * v), gradient(x - h * v)
    close(ln.sum(gradient(x)[1] * v), (above - below) / (2 * h), 1e-6)
    close(curvature(x, v), (slope_above - slope_below) / (2 * h), 1e-6)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("steps", [0, 1, 2, 12])
def test_few_steps(steps: int, policy: Any) -> None:
    def scanned(x: Any) -> Any:
        x, ys = ln.scan(lambda x, row: (ln.sin(x + row), x), x, np.ones((steps, 3)))
        return ln.sum(x) + ln.sum(ys * ys)

    def looped(x: Any) -> Any:
        return ln.sum(
            ln.while_loop(lambda s: s[1] < steps, lambda s: (ln.sin(s[0]), s[1] + 1), (x, 0))[0]
        )

    for f in (scanned, looped):
        gradient = ln.grad(ln.checkpoint(f, policy=policy))
        for found in (gradient, ln.compile(gradient, backend="interpreter"), ln.compile(gradient)):
            close(found(POINTS[0]), ln.grad(f)(POINTS[0]))


@cache
def fewest_runs(distance: int, slots: int) -> int:
    """The fewest steps to run on when a number of steps is reversed with so many states."""
    if distance <= 1:
        return 0
    if slots == 1:
        return distance * (distance - 1) // 2
    return min(
        m + fewest_runs(distance - m, slots - 1) + fewest_runs(m, slots)
        for m in range(1, distance)
    )  # fmt: skip


@cache
def splits() -> Callable[[int, int], int]:
    """`split` as a function of numbers."""
    region = Recording()
    distance, slots = parameters(region, [((), np.dtype(np.int64))] * 2)
    with region:
        block = region.block([split(distance, slots)])
    return lambda *numbers: int(block(*map(np.int64, numbers))[0])


@given(st.integers(2, 60), st.integers(2, 7))
def test_a_split_is_the_best_one(distance: int, slots: int) -> None:
    m = splits()(distance, slots)
    assert 1 <= m < distance
    runs = m + fewest_runs(distance - m, slots - 1) + fewest_runs(m, slots)
    assert runs == fewest_runs(distance, slots)


@given(st.integers(2, 10**9), st.integers(4, 1000))
def test_a_split_of_many_steps(distance: int, slots: int) -> None:
    """Both parts can be reversed in as few runs as the whole: all of them stay small."""
    m, r = splits()(distance, slots), 0
    while comb(slots + r, r) < distance:
        r += 1
    assert 1 <= m <= comb(slots + r - 1, r - 1)
    assert 1 <= distance - m <= comb(slots - 1 + r, r)


@pytest.mark.parametrize("looped", [False, True])
@pytest.mark.parametrize("slots", [1, 3, 5, 50])
def test_steps_run_no_more_often_than_they_must(slots: int, looped: bool) -> None:
    runs: list[int] = []

    @ln.custom_vjp
    def step(x: Any) -> Any:
        runs.append(1)
        dz = yield ln.sin(x)
        return dz * ln.cos(x)

    def counted(steps: int) -> int:
        @ln.checkpoint(policy=ln.checkpoint_policies.binomial(slots))
        def f(x: Any) -> Any:
            if not looped:
                return ln.fori_loop(0, steps, lambda i, x: step(x), x)
            going = lambda s: s[1] < steps  # noqa: E731
            return ln.while_loop(going, lambda s: (step(s[0]), s[1] + 1), (x, 0))[0]

        runs.clear()
        ln.grad(f)(np.float64(0.5))
        return len(runs)

    recorded = counted(2) - 2 - fewest_runs(2, slots)  # the body, as often as it is recorded
    for steps in (9, 40):
        assert counted(steps) - recorded == steps + fewest_runs(steps, slots)


def peak(f: Callable[..., Any], size: int = 2000) -> float:
    """The memory of a gradient with respect to a large vector, in such vectors."""
    x = np.ones(size)
    gradient = ln.grad(f)
    gradient(x)
    tracemalloc.start()
    gradient(x)
    highest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return highest / x.nbytes


@pytest.mark.parametrize("looped", [False, True])
def test_little_is_kept(looped: bool) -> None:
    """Without a policy one vector a step, with one two for each of √n, or a fixed number."""

    def of(steps: int) -> Callable[..., Any]:
        going = lambda s: s[1] < steps  # noqa: E731

        def f(x: Any) -> Any:
            if not looped:
                return ln.sum(ln.fori_loop(0, steps, lambda i, x: ln.sin(x), x))
            return ln.sum(ln.while_loop(going, lambda s: (ln.sin(s[0]), s[1] + 1), (x, 0))[0])

        return f

    def with_policy(policy: Any) -> list[float]:
        return [peak(ln.checkpoint(of(steps), policy=policy)) for steps in (100, 400)]

    assert peak(of(400)) > 400
    few, many = with_policy("sqrt")
    assert many < 2 * np.sqrt(2 * 400) + 12
    few, many = with_policy(ln.checkpoint_policies.binomial(3))
    assert many < 1.1 * few < 40


@pytest.mark.parametrize("f", SMALL, ids=lambda f: f.__name__)
@pytest.mark.parametrize("size", [10**6, 800])
def test_within_a_budget(f: Callable[..., Any], size: int) -> None:
    kept = ln.checkpoint(f, policy=size)
    for gradient in (lambda f: ln.grad(f, argnums=(0, 1)), lambda f: ln.compile(ln.hessian(f))):
        close(gradient(kept)(POINTS[0], W), ln.compile(gradient(f))(POINTS[0], W), 1e-9)


MACHINE = ln.Machine(1e11, ((float("inf"), 1e10),), 1)
X = np.full(500, 0.1)


def looped(x: Any) -> Any:
    """400 steps that save 4,000 bytes each."""
    going = lambda s: s[1] < 400  # noqa: E731
    return ln.sum(ln.while_loop(going, lambda s: (ln.sin(s[0]), s[1] + 1), (x, 0))[0])


def scanned(x: Any) -> Any:
    return ln.sum(ln.fori_loop(0, 400, lambda i, x: ln.sin(x), x))


@pytest.mark.parametrize("f", [looped, scanned], ids=lambda f: f.__name__)
def test_what_native_code_keeps(f: Callable[..., Any]) -> None:
    """The room of lists doubles; in the arena lie a few vectors beside what a loop keeps."""

    def kept(policy: Any) -> int:
        gradient = ln.compile(ln.grad(ln.checkpoint(f, policy=policy)), cache=False)
        close(gradient(X), ln.grad(f)(X), 1e-9)
        profile = gradient.profile(X, machine=MACHINE)
        return profile.frames + profile.cost.workspace

    few = 6 * X.nbytes
    assert 400 * X.nbytes <= kept(None) <= 2 * 400 * X.nbytes + few
    assert kept("sqrt") <= 2 * 2 * 29 * X.nbytes + few
    assert kept(ln.checkpoint_policies.binomial(5)) <= 5 * X.nbytes + few
    for size in (10**6, 200_000, 50_000):
        assert kept(size) <= size + few


@pytest.mark.parametrize("f", [looped, scanned], ids=lambda f: f.__name__)
def test_a_smaller_budget_takes_more_runs(
    f: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    primitive: Any = vars(sin)["primitive"]
    monkeypatch.setattr(primitive, "kernel", lambda x: runs.append(1) or np.sin(x))

    def counted(size: Any) -> int:
        runs.clear()
        ln.grad(ln.checkpoint(f, policy=size))(X)
        return len(runs)

    all_fit, some, few = map(counted, ("1GB", "500 kB", "25 kB"))
    assert all_fit == 400 < some < few


def test_a_budget_that_is_too_small_says_so() -> None:
    f = ln.checkpoint(scanned, policy="5 kB")
    with pytest.raises(ArgumentError, match=r"budget of 5000 bytes.*give 8008 or more"):
        ln.grad(f)(X)


def test_sizes_as_people_write_them() -> None:
    sizes = {"64MB": 64 * 10**6, "1.5 kb": 1500, "2GiB": 2 * 2**30, "7": 7, 12: 12, "3B": 3}
    assert {k: ln.checkpoint_policies.budget(k).bytes for k in sizes} == sizes
    for wrong in ("MB", "4XB", True, -1):
        with pytest.raises(ArgumentError, match="no number of bytes"):
            ln.checkpoint_policies.budget(wrong)  # type: ignore[arg-type]


def test_a_checkpoint_within_keeps_the_policy_for_its_second_run() -> None:
    """The second run records what the first one recorded."""

    def f(x: Any) -> Any:
        inner = ln.checkpoint(lambda x: ln.fori_loop(0, 5, lambda i, x: ln.sin(x * W[0]), x))
        return ln.sum(inner(x) * x)

    close(ln.grad(ln.checkpoint(f, policy="sqrt"))(POINTS[0]), ln.grad(f)(POINTS[0]))


def test_a_decorator_and_its_errors() -> None:
    @ln.checkpoint(policy=ln.checkpoint_policies.sqrt())
    def f(x: Any) -> Any:
        """Of x."""
        return ln.fori_loop(0, 5, lambda i, x: ln.sin(x), x)

    assert f.__doc__ == "Of x."
    for wrong in ("square", "MB"):
        with pytest.raises(ArgumentError, match="expected None"):
            ln.checkpoint(f, policy=wrong)
    with pytest.raises(ArgumentTypeError, match="expected None"):
        ln.checkpoint(f, policy=1.5)
    for slots in (0, 2.0, True):
        with pytest.raises(ArgumentError, match="slots is"):
            ln.checkpoint_policies.binomial(slots)  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_a_limit_holds_as_without_a_policy(policy: Any) -> None:
    def f(x: Any, limit: int) -> Any:
        going = lambda s: s[1] < 5  # noqa: E731
        return ln.while_loop(going, lambda s: (ln.sin(s[0]), s[1] + 1), (x, 0), limit=limit)[0]

    kept = ln.checkpoint(f, policy=policy)
    for run in (kept, ln.compile(kept, backend="interpreter", static="limit")):
        close(run(0.5, limit=5), f(0.5, 5), 1e-6)
        with pytest.raises(LimitError, match="still holds after 4 steps"):
            run(0.5, limit=4)
    close(ln.grad(kept)(0.5, 5), ln.grad(f)(0.5, 5), 1e-6)
