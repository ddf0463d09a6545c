"""What suspended rules hold, and how long: memory linear in the program, released unwinding."""

from __future__ import annotations

import gc
import inspect
import time
import tracemalloc
import weakref

import numpy as np

import lantern as ln
from lantern.control import Reverse
from lantern.declare import checked_rule


class Traced(np.ndarray):
    """An array whose life a weak reference can follow."""


def traced(n: int = 3) -> Traced:
    return np.arange(1.0, n + 1).view(Traced)


def test_long_chain_needs_no_recursion_and_memory_linear_in_it():
    def f(x, n):
        y = x
        for _ in range(n):
            y = y * 1.0000001
        return y

    def peak(n):
        tracemalloc.start()
        g = ln.grad(f)(ln.asarray(1.0, dtype=ln.float64), n)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert np.isclose(float(g), 1.0000001**n)
        return size

    small, large = peak(10_000), peak(20_000)
    assert large < 2.3 * small
    assert large < 1000 * 20_000, "bytes for each operation"


def test_million_operations():
    def f(x):
        y = x
        for _ in range(1_000_000):
            y = y + x
        return y

    start = time.perf_counter()
    g = ln.grad(f)(ln.asarray(1.0, dtype=ln.float64))
    assert float(g) == 1_000_001.0
    assert time.perf_counter() - start < 60


def test_suspended_rule_keeps_only_what_its_backward_half_reads():
    def rule(x, y):
        product = x * y
        dz = yield product + 1.0
        return dz * y, None

    x, y = traced(), traced()
    suspended = checked_rule(rule)(x, y)
    result = weakref.ref(next(suspended))
    refs = weakref.ref(x), weakref.ref(y)
    del x, y
    assert result() is None
    assert refs[0]() is None
    assert refs[1]() is not None
    kept = inspect.getgeneratorlocals(suspended)
    assert {name for name, v in kept.items() if v is not None} == {"y"}


def test_addition_keeps_neither_operands_nor_result():
    prompt = Reverse()
    a, b = prompt.variable(traced()), prompt.variable(traced())
    c = a + b
    refs = [weakref.ref(t.value) for t in (a, b, c)]
    del a, b, c
    assert [r() for r in refs] == [None] * 3
    assert len(prompt.stack) == 1


def test_what_a_continuation_holds_is_released_when_it_has_run():
    alive: list[int] = []
    refs: list[weakref.ref] = []

    def watch(x):
        dz = yield x
        alive.append(sum(r() is not None for r in refs))
        return dz

    watch = ln.custom_vjp(watch)

    def f(x):
        y = x
        for _ in range(4):
            y = watch(y)
            y = ln.sin(y)
            refs.append(weakref.ref(y.value))
        return ln.sum(y)

    gc.disable()
    try:
        ln.grad(f)(ln.asarray(traced()))
    finally:
        gc.enable()
    # sin keeps its operand: the results of steps 0 to 2, which go one after the other
    assert alive == sorted(alive, reverse=True)
    assert alive[-1] == 0
    assert not any(r() for r in refs)


def test_unused_continuation_is_released_in_its_turn():
    order: list[str] = []

    class Token:
        def __init__(self, name):
            self.name = name

        def __del__(self):
            order.append(self.name)

    def holding(name):
        def rule(x):
            token = Token(name)
            dz = yield x + 0.0
            order.append(f"ran {token.name}")
            return dz

        return ln.custom_vjp(rule)

    first, unused, last = holding("first"), holding("unused"), holding("last")

    def f(x):
        y = first(x)
        unused(y)
        return last(y)

    ln.grad(f)(1.0)
    assert order == ["ran last", "last", "unused", "ran first", "first"]


def test_nothing_is_left_for_the_collector():
    def f(x):
        return ln.sum(ln.sin(x) * x)

    x = ln.asarray(traced())
    gc.collect()
    gc.disable()
    try:
        for transform in (
            ln.grad(f),
            lambda x: ln.vjp(f, x)[1](ln.asarray(1.0, dtype=ln.float64)),
            lambda x: ln.jvp(f, (x,), (x,)),
            ln.vmap(ln.grad(lambda x: x * x)),
        ):
            transform(x)
            gc.collect()
            result = transform(x)
            refs = [weakref.ref(t) for t in ln.tree.leaves(result)]
            before = len(gc.get_objects())
            transform(x)
            assert len(gc.get_objects()) - before < 10
            del result
            assert not any(r() for r in refs)
    finally:
        gc.enable()
