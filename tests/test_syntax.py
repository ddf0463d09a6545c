"""Python's own branches and loops over values of a compiled function.

Each program runs as plain Python on concrete values, and compiled: values, first and second
derivatives agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from control_flow import check_compiled

import lantern as ln

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


def expressions(x: Any, w: Any) -> Any:
    a = x[0] if 0 < x[0] < 2 else ln.exp(x[0]) if x[1] > 1 and x[2] > 3 else 0.0
    return a * ln.sum(w) + (x[1] or x[2])


PROGRAMS = (branch, one_sided, early, counted, broken, unrolled, expressions)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
def test_compiled_agrees_with_python(f: Callable[..., Any], backend: str) -> None:
    check_compiled(f, POINTS, W, backend, 1e-9)
