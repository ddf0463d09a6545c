"""Python's own branches and loops over values of a compiled function.

Each program runs as plain Python on concrete values, and compiled: values, first and second
derivatives agree.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from control_flow import check_compiled, close

import lantern as ln
from lantern import checkpoint_policies as policies
from lantern.errors import UnrolledWarning

BACKENDS = ("interpreter", "llvm")
W = ln.asarray(np.random.default_rng(0).normal(size=(2, 3)))
POINTS = (np.array([1.0, 0.4, -0.3]), np.array([-0.2, -0.5, 0.1]), np.array([3.0, 2.0, 4.0]))


def branch(x: Any, w: Any) -> Any:
    y = ln.sin(x)
    if x[0] > 0:
        y = y * w[0]
    elif x[1] < -1 or not x[2] > 0:
        y = y + 3
    return ln.sum(y * y)


def one_sided(x: Any, w: Any) -> Any:
    total = 0
    if ln.sum(x) > 1:
        scaled = x * 2.0
        total = ln.sum(scaled * w)
    return total + x[0]


def early(x: Any, w: Any) -> Any:
    if x[0] > 2:
        return ln.sum(x * w)
    y = x + w[1]
    if x[0] > 0.5:
        y = y * 2
        if y[1] > 0:
            return ln.sum(y) * x[0]
    return ln.sum(y * x)


def counted(x: Any, w: Any) -> Any:
    n = 0
    s = 0.0
    while s < 8:
        s = s + ln.sum(x * x) + 0.1
        n += 1
    return s * ln.sum(w) + n


def broken(x: Any, w: Any) -> Any:
    n = 0
    while True:
        x = ln.tanh(x * w[0]) + 0.9 * x
        n += 1
        if n >= 7:
            break
        if ln.sum(x) > 2:
            x = x * 0.3
            continue
        x = x + 0.1
        if x[0] > 1.5:
            return ln.sum(x) * 5.0
    else:
        x = x * 100.0
    return ln.sum(x * x) + n


def unrolled(x: Any, w: Any) -> Any:
    for i in range(4):
        x = x * 1.2 + i
        if x[2] > 5:
            break
    else:
        return ln.sum(x)
    return ln.sum(x * w)


def ranges(x: Any, w: Any) -> Any:
    n = ln.astype(abs(x[0]) * 3, ln.int64)
    for i in range(n):
        for j in range(i, 0, -1):
            x = x * 0.9 + w[0] * j
            if x[1] > 3:
                break
        else:
            x = x + 0.2
    return ln.sum(x * x) + n


def rows(x: Any, w: Any) -> Any:
    total = last = 0.0
    for i, (row, factor) in enumerate(zip(w, x, strict=False)):
        if factor < 0:
            continue
        total = total + ln.sum(row) * factor + i
        last = factor
    for row in w:
        for v in row:
            total = total + last * ln.sin(v)
    return total


def found(x: Any, w: Any) -> Any:
    for i, v in enumerate(x):
        if v < 0.3:
            return v * ln.sum(w) * (i + 1)
        y = v
    return y * 3.0


def appended(x: Any, w: Any) -> Any:
    """Objects change, so the loop is one of Python, unrolled; its conditions are not."""
    parts: list[Any] = []
    for i, v in enumerate(x):
        parts.append(v * w[1, i] if v > 0 else v)
        if i == 1:
            break
    return ln.sum(ln.stack(parts) ** 2)


def helper(v: Any, scale: Any = 2.0) -> Any:
    if v > 0.2:
        return v * scale
    return ln.cos(v)


def called(x: Any, w: Any) -> Any:
    """Functions that are called, also by transformations, are rewritten too."""

    def inner(v: Any) -> Any:
        return helper(v) if v < 2 else v

    y = ln.scan(lambda c, v: (inner(c) + v, helper(c, 0.5)), x[0], x)
    z = ln.vmap(inner)(x)
    return y[0] + ln.sum(y[1]) + ln.grad(helper)(x[1]) + ln.sum(z * w[0]) + sum(map(helper, x))


def expressions(x: Any, w: Any) -> Any:
    a = x[0] if 0 < x[0] < 2 else ln.exp(x[0]) if x[1] > 1 and x[2] > 3 else 0.0
    inside = x[0] in w[0] or x[1] in (0.4, x[0]) or not x[2] < 1
    return a * ln.sum(w) + (x[1] or x[2]) + max(x[0], 0.5, x[2]) * (2.0 if inside else w[0, 0])


PROGRAMS = (
    branch, one_sided, early, counted, broken, unrolled, ranges, rows, found, appended, called,
    expressions,
)  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
def test_compiled_agrees_with_python(f: Callable[..., Any], backend: str) -> None:
    plain = f if f is not called else called_plainly
    check_compiled(f, POINTS, W, backend, 1e-9, plain)


def called_plainly(x: Any, w: Any) -> Any:
    """`called` without what Python cannot run eagerly: a batch that branches."""
    carry, results = x[0], []
    for v in x:
        results.append(helper(carry, 0.5))
        carry = (helper(carry) if carry < 2 else carry) + v
    z = ln.stack([helper(v) if v < 2 else v for v in x])
    total = carry + ln.sum(ln.stack(results)) + ln.sum(z * w[0]) + sum(map(helper, x))
    return total + ln.grad(helper)(x[1])


@pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
def test_batches(f: Callable[..., Any]) -> None:
    """Each element of a batch goes its own way."""
    gradient = ln.grad(f, argnums=(0, 1))
    rows = [ln.compile(gradient, backend="interpreter")(x, W) for x in POINTS]
    batched = ln.compile(ln.vmap(gradient, in_axes=(0, None)), backend="interpreter")
    close(batched(np.stack(POINTS), W), [ln.stack([row[i] for row in rows]) for i in (0, 1)], 1e-9)


def long(x: Any) -> Any:
    n, total = 0, 0.0
    while n < 60 and x < 1e9:
        x = ln.sin(x) * 1.01 + 0.1
        n += 1
        for v in ln.stack([x, x * 2]):
            total = total + ln.cos(v) * 0.01
        if total < -5:
            break
    for i in range(ln.astype(x * 20, ln.int64)):
        total = total + ln.sin(x * i)
    return total


@pytest.mark.parametrize("policy", ("sqrt", "binomial", "budget"))
def test_loops_of_python_keep_what_a_policy_says(policy: str) -> None:
    chosen = {"sqrt": "sqrt", "binomial": policies.binomial(5), "budget": policies.budget("4k")}
    kept = ln.checkpoint(long, policy=chosen[policy])
    texts = [ln.compile(ln.grad(f), backend="interpreter").ir(0.3) for f in (kept, long)]
    assert texts[0] != texts[1]
    x = np.float64(0.3)
    close(ln.compile(ln.value_and_grad(kept))(x), ln.value_and_grad(long)(x))


def test_loops_of_the_program_are_written_once() -> None:
    """However many steps they take."""
    texts = [
        ln.compile(rows, backend="interpreter").ir(np.ones(n), np.ones((n, 4))) for n in (3, 9)
    ]
    assert [text.count("scan(") for text in texts] == [3, 3]
    assert len(texts[0].splitlines()) == len(texts[1].splitlines())
    assert "while(" in ln.compile(found, backend="interpreter").ir(POINTS[0], W)


def test_the_first_step_may_differ(capsys: pytest.CaptureFixture[str]) -> None:
    def f(x: Any) -> Any:
        first = True
        while True:
            ln.debug.print("at {}", x)
            if first:
                y = x * 0
            first = False
            y = y + x
            x = x * 2
            if x > 8:
                break
        return y

    assert float(ln.compile(f)(3.0)) == 9.0
    assert capsys.readouterr().out == "at 3.0\nat 6.0\n"


def test_a_step_is_written_once(capsys: pytest.CaptureFixture[str]) -> None:
    def f(x: Any) -> Any:
        while True:
            ln.debug.print("at {}", x)
            x = x * 2
            if x > 8:
                return x

    compiled = ln.compile(f)
    assert float(compiled(3.0)) == 12.0
    assert capsys.readouterr().out == "at 3.0\nat 6.0\n"
    assert compiled.ir(3.0).count("print(") == 1


def test_a_loop_over_numbers_says_that_it_is_unrolled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lantern.staged.stage.LARGE", 50)

    def decay(x: Any, steps: Any) -> Any:
        i = 0
        while i < steps:
            x, i = x * 0.9 - 0.1, i + 1
        return x

    with pytest.warns(UnrolledWarning, match=r"(?s)program has 50 operations.*test_syntax.py"):
        ln.compile(lambda x: decay(x, 60))(1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ln.compile(decay)(1.0, 60)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_rule_calls_is_rewritten(backend: str) -> None:
    def halved(x: Any) -> Any:
        while x > 1:
            x = x / 2
        return x

    @ln.custom_vjp
    def scaled(x: Any) -> Any:
        dz = yield halved(x)
        return dz * halved(x) / x

    close(ln.compile(ln.value_and_grad(scaled), backend=backend)(5.0), (0.625, 0.125), 1e-6)
    close(ln.value_and_grad(scaled)(5.0), (0.625, 0.125), 1e-6)
