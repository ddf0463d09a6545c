"""The control core: one continuation for each primitive, resumed once, last in, first out."""

from __future__ import annotations

import contextlib
import functools
import gc
import inspect
import sys
import threading

import numpy as np
import pytest

import lantern as ln
from lantern.control import Primitive, bound, primitive, suspend
from lantern.declare import Deferred, declared_rule
from lantern.errors import RuleError
from lantern.primitives import elementwise as p
from lantern.testing import check_grads

# One shot ---------------------------------------------------------------------------------------


def test_rule_without_a_yield_is_refused_by_name():
    with pytest.raises(RuleError, match="rule forgetful has no yield"):

        @ln.custom_vjp
        def forgetful(x):
            return x


def test_rule_with_two_yields_is_refused_by_name():
    with pytest.raises(RuleError, match="rule eager has 2 yields"):

        @ln.custom_vjp
        def eager(x):
            dz = yield x
            dz = yield dz
            return dz


def test_yield_from_is_refused():
    with pytest.raises(RuleError, match=r"rule delegating.*yield from"):

        @ln.custom_vjp
        def delegating(x):
            return (yield from [x])


@pytest.mark.parametrize("block", ["with", "try", "for", "while"])
def test_yield_inside_a_block_is_refused(block):
    def in_with(x):
        with open("f"):
            dz = yield x
        return dz

    def in_try(x):
        try:
            dz = yield x
        finally:
            pass
        return dz

    def in_for(x):
        for _ in range(1):
            dz = yield x
        return dz

    def in_while(x):
        while True:
            dz = yield x
            return dz

    rule = {"with": in_with, "try": in_try, "for": in_for, "while": in_while}[block]
    with pytest.raises(RuleError, match=rf"rule in_{block}, line \d+: no yield inside `{block}`"):
        ln.custom_vjp(rule)


def unchecked(source: str):
    """A rule whose source cannot be found when it is declared: only running it tells."""
    namespace: dict = {}
    exec(source, namespace)
    return ln.custom_vjp(namespace["rule"])


def test_second_yield_is_refused_when_it_runs():
    twice = unchecked("def rule(x):\n    dz = yield x\n    dz = yield dz\n    return dz")
    assert float(twice(2.0)) == 2.0
    with pytest.raises(RuleError, match="rule rule yielded twice"):
        ln.grad(twice)(2.0)


def test_missing_yield_is_refused_when_it_runs():
    never = unchecked("def rule(x):\n    if False:\n        yield x\n    return x")
    with pytest.raises(RuleError, match="rule rule returned without a yield"):
        ln.grad(never)(2.0)


@pytest.mark.parametrize("transform", [ln.grad, lambda f: lambda x: ln.jvp(f, (x,), (1.0,))])
def test_wrong_number_of_adjoints_names_the_rule(transform):
    @ln.custom_vjp(linear=True)
    def generous(x):
        dz = yield x
        return dz, dz

    with pytest.raises(RuleError, match="rule generous returned 2 adjoints for 1 arguments"):
        transform(generous)(2.0)


def test_wrong_shape_of_an_adjoint_names_the_rule():
    @ln.custom_vjp
    def misshapen(x):
        dz = yield x
        return dz[:3]

    with pytest.raises(RuleError, match=r"rule misshapen .*\(3,\).*\(4,\)"):
        ln.grad(lambda x: ln.sum(misshapen(x)))(ln.asarray(np.ones(4)))


@pytest.mark.parametrize("wrong", [1.0, None, [1.0], {"a": 1}, "text"])
def test_yield_of_something_else_names_the_rule(wrong):
    @ln.custom_vjp
    def strange(x):
        dz = yield wrong
        return dz

    for run, x in ((strange, 1.0), (ln.grad(strange), 1.0), (ln.vmap(strange), [1.0, 2.0])):
        with pytest.raises(RuleError, match=r"rule strange yielded .*; expected a Tensor"):
            run(ln.asarray(x))


def test_any_callable_is_a_thunk_and_a_list_is_a_tuple():
    @ln.custom_vjp(linear=True)
    def product(x, y):
        dz = yield x * y
        return [functools.partial(ln.multiply, dz, y), Thunk(dz * x)]

    class Thunk:
        def __init__(self, value):
            self.value = value

        def __call__(self):
            return self.value

    check_grads(product, (2.0, 3.0))
    check_grads(lambda x: ln.vmap(product, in_axes=(0, None))(x, x[0]), (np.asarray([2.0, 3.0]),))


# Laziness ---------------------------------------------------------------------------------------


def counted() -> tuple:
    """A product whose rule and adjoints count how often they run."""
    counts = {"forward": 0, "backward": 0, "left": 0, "right": 0}

    def kernel(x, y):
        counts["forward"] += 1
        return x * y

    @primitive(kernel, batch=p.elementwise)
    def product(x, y):
        counts["forward"] += 1
        dz = yield x * y
        counts["backward"] += 1

        def left():
            counts["left"] += 1
            return dz * y

        def right():
            counts["right"] += 1
            return dz * x

        return left, right

    return product, counts


def test_adjoints_nobody_needs_are_never_computed():
    product, counts = counted()
    assert float(ln.grad(lambda x: product(x, 3.0))(2.0)) == 3.0
    assert counts == {"forward": 1, "backward": 1, "left": 1, "right": 0}


def test_rule_whose_result_is_unused_is_never_resumed():
    product, counts = counted()

    def f(x):
        product(x, x)
        return x * 2.0

    assert float(ln.grad(f)(2.0)) == 2.0
    assert counts == {"forward": 1, "backward": 0, "left": 0, "right": 0}


def test_outside_grad_only_the_kernel_runs():
    product, counts = counted()
    product(ln.asarray(2.0), 3.0)
    assert counts == {"forward": 1, "backward": 0, "left": 0, "right": 0}


def test_constants_inside_grad_are_not_differentiated():
    product, counts = counted()

    def f(x, c):
        return x * product(product(c, c), c)

    ln.grad(f)(2.0, ln.asarray(3.0))
    assert counts["backward"] == 0


def test_stop_gradient_ends_the_backward_half():
    product, counts = counted()
    g = ln.grad(lambda x: ln.stop_gradient(product(x, x)) * x)(3.0)
    assert float(g) == 9.0
    assert counts["backward"] == 0


def test_unused_part_of_several_results_arrives_as_zeros():
    @ln.custom_vjp
    def both(x):
        dz, dw = yield ln.sin(x), ln.cos(x)
        return dz * ln.cos(x) - dw * ln.sin(x)

    assert np.isclose(float(ln.grad(lambda x: both(x)[0])(0.3)), np.cos(0.3))
    assert np.isclose(float(ln.grad(lambda x: both(x)[1])(0.3)), -np.sin(0.3))
    assert float(ln.grad(lambda x: (both(x), x)[1])(0.3)) == 1.0


# Exceptions -------------------------------------------------------------------------------------


def frames_of(error: BaseException) -> list[str]:
    names, trace = [], error.__traceback__
    while trace is not None:
        names.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    return names


@pytest.mark.parametrize(
    "transform",
    [
        ln.grad,
        ln.value_and_grad,
        ln.vmap,
        ln.checkpoint,
        lambda f: lambda x: ln.vjp(f, x),
        lambda f: lambda x: ln.jvp(f, (x,), (x,)),
        ln.jacfwd,
        ln.jacrev,
        lambda f: lambda x: ln.hvp(f, (x,), (x,)),
    ],
)
def test_users_exception_keeps_a_short_traceback_that_ends_in_its_line(transform):
    def users_function(x):
        y = x
        for _ in range(100):
            y = ln.sin(y)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        transform(users_function)(ln.asarray(np.ones(2)))
    frames = frames_of(caught.value)
    assert frames[-1] == "users_function"
    assert len(frames) <= 10


def test_error_of_an_operation_ends_in_the_users_line():
    def users_function(x):
        return ln.sum(x + ln.asarray(np.ones(5)))

    with pytest.raises(ln.errors.ShapeError, match="users_function") as caught:
        ln.grad(users_function)(ln.asarray(np.ones(2)))
    assert len(frames_of(caught.value)) <= 8


class Failure(Exception):
    pass


@pytest.mark.parametrize("half", ["forward", "backward", "thunk"])
def test_exception_in_a_rule_closes_the_suspended_ones_last_in_first_out(half):
    closed: list[int] = []

    class Token:
        def __init__(self, number):
            self.number = number

        def __del__(self):
            closed.append(self.number)

    @ln.custom_vjp
    def holding(x, *, number):
        token = Token(number)
        dz = yield x * 2.0
        assert token
        return dz * 2.0

    @ln.custom_vjp
    def failing(x):
        if half == "forward":
            raise Failure
        dz = yield x

        def thunk():
            raise Failure

        if half == "backward":
            raise Failure
        assert dz is not None
        return thunk

    def f(x):
        for number in range(3):
            x = holding(x, number=number)
        return failing(x)

    gc.disable()
    try:
        with pytest.raises(Failure) as caught:
            ln.grad(f)(1.0)
        assert closed == [2, 1, 0], "closed although the traceback still holds every frame"
        assert caught.value.__traceback__ is not None
    finally:
        gc.enable()
    assert float(ln.grad(lambda x: holding(x, number=7))(1.0)) == 2.0


def test_exception_caught_inside_leaves_the_rest_right():
    def f(x):
        with contextlib.suppress(ln.errors.ShapeError):
            ln.sin(x) + np.ones((3, 3))
        return ln.sum(ln.sin(x))

    x = np.linspace(0.0, 1.0, 2)
    np.testing.assert_allclose(ln.grad(f)(x), np.cos(x))


def test_pullback_that_failed_runs_again():
    @ln.custom_vjp
    def fussy(x):
        dz = yield x * 3.0
        if float(dz) < 0:
            raise Failure
        return dz * 3.0

    _, pullback = ln.vjp(fussy, 1.0)
    with pytest.raises(Failure):
        pullback(-1.0)
    assert float(pullback(2.0)[0]) == 6.0


def test_collectors_threshold_is_restored_after_an_exception():
    before = gc.get_threshold()
    with pytest.raises(ZeroDivisionError):
        ln.grad(lambda x: 1 // 0)(1.0)
    assert gc.get_threshold() == before


# Threads and re-entrancy ------------------------------------------------------------------------


def in_threads(work, count: int = 6) -> None:
    """Run ``work(k)`` in threads that switch often; raise what they raise."""
    problems: list[BaseException] = []

    def guarded(k):
        try:
            work(k)
        except BaseException as problem:
            problems.append(problem)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=guarded, args=(k,)) for k in range(count)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        sys.setswitchinterval(interval)
    if problems:
        raise problems[0]


def test_threads_differentiate_at_once():
    threshold = gc.get_threshold()

    def work(k):
        for i in range(20):
            x = 0.1 * k + 0.01 * i
            g = ln.grad(ln.grad(lambda x: ln.sin(x) * x))(np.float64(x))
            assert np.isclose(float(g), 2 * np.cos(x) - x * np.sin(x))
            v = ln.vmap(ln.grad(lambda x: x * x * x))(np.full(3, x))
            np.testing.assert_allclose(v, 3 * x * x)

    in_threads(work)
    assert gc.get_threshold() == threshold


def test_threads_share_one_prompt():
    weights = np.linspace(1.0, 2.0, 6)

    def f(x):
        parts = [None] * 6

        def work(k):
            y = x * weights[k]
            for _ in range(200):
                y = y + x * weights[k]
            parts[k] = y

        in_threads(work)
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    assert np.isclose(float(ln.grad(f)(np.float64(2.0))), 201 * weights.sum())


def test_grad_inside_a_rule():
    @ln.custom_vjp
    def newton_like(x):
        slope = ln.grad(lambda v: v * v * v)(x)
        dz = yield slope
        return dz * ln.grad(ln.grad(lambda v: v * v * v))(x)

    assert float(ln.grad(newton_like)(2.0)) == 12.0
    assert float(ln.grad(ln.grad(newton_like))(2.0)) == 6.0


def test_program_that_suspends_itself():
    def steps(x):
        y = x
        while True:
            y = ln.sin(y)
            yield y

    def f(x):
        left, right = steps(x), steps(x)
        next(left)
        next(right)
        total = next(left) * next(right)
        left.close()
        return total

    x = 0.7
    s = np.sin(np.sin(x))
    expected = 2 * s * np.cos(np.sin(x)) * np.cos(x)
    assert np.isclose(float(ln.grad(f)(np.float64(x))), expected)


def test_grad_inside_a_users_generator_interleaves():
    def gradients():
        for k in range(3):
            yield ln.grad(lambda x, k=k: x * x * k)(np.float64(3.0))

    def f(x):
        total = x
        for g in gradients():
            total = total * g + x
        return total

    assert float(ln.grad(f)(np.float64(1.0))) == ((1 * 0 + 1) * 6 + 1) * 12 + 1


def test_rule_that_closes_over_a_tensor_under_differentiation_is_refused():
    def f(x):
        @ln.custom_vjp(linear=True)
        def scaled(y):
            dz = yield y * x
            return dz * x

        return scaled(x * 2.0)

    for g in (f, ln.checkpoint(f)):
        for derivative in (ln.grad, lambda g: lambda x: ln.jvp(g, (x,), (1.0,))):
            with pytest.raises(RuleError, match="rule scaled closes over a Tensor"):
                derivative(g)(3.0)


def test_rule_none_of_whose_arguments_is_under_differentiation_may_not_close_over_one():
    def scaled(x):
        @ln.custom_vjp(linear=True)
        def by_x(y):
            dz = yield y * x
            return dz * x

        return by_x(2.0)

    for derivative in (ln.grad, lambda g: lambda x: ln.jvp(g, (x,), (1.0,))):
        for f in (scaled, lambda x: ln.sum(ln.vmap(scaled)(ln.stack([x, x])))):
            with pytest.raises(RuleError, match="rule by_x closes over a Tensor"):
                derivative(f)(3.0)
    assert ln.vmap(scaled)(ln.arange(3)).tolist() == [0, 2, 4]
    assert float(ln.grad(lambda x: x * scaled(ln.stop_gradient(x)))(3.0)) == 6.0


def test_an_array_given_by_name_is_an_argument_of_its_rule():
    @ln.custom_vjp
    def product(a, b=5.0, k=2):
        dz = yield a * b * k
        return dz * b * k, dz * a * k

    assert float(ln.grad(lambda x: product(2.0, b=x))(3.0)) == 4.0
    assert float(ln.grad(lambda x: product(2.0, b=x, k=3))(3.0)) == 6.0
    assert float(ln.grad(lambda x: product(b=x, a=x))(3.0)) == 12.0
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'a'"):
        product(b=ln.asarray(3.0))


# The table of primitives ------------------------------------------------------------------------


def test_primitive_is_reachable_from_its_function():
    assert isinstance(p.add.primitive, Primitive)
    again = bound(Primitive("named", None, None))
    assert again.__name__ == "named"


def test_a_rule_of_lantern_is_checked_when_it_first_runs() -> None:
    def twice(x):
        dz = yield x
        yield dz

    with pytest.raises(RuleError, match="rule twice has 2 yields"):
        declared_rule(twice)
    twice.__module__ = "lantern.primitives.some"
    declared = declared_rule(twice)
    assert isinstance(declared, Deferred)
    assert list(inspect.signature(declared).parameters) == ["x"]
    doubtful = Primitive("twice", None, declared)
    with pytest.raises(RuleError, match="rule twice has 2 yields"):
        suspend(doubtful, [np.float64(1)], {})


def test_a_rule_of_lantern_forgets_what_its_backward_half_does_not_read() -> None:
    def scaled(x, y):
        z = x * y
        dz = yield z
        return None, dz * x

    scaled.__module__ = "lantern.primitives.some"
    prim = Primitive("scaled", None, declared_rule(scaled))
    rest, out = suspend(prim, [np.float64(2), np.float64(3)], {})
    assert out == 6
    assert rest.gi_frame.f_locals == {"x": 2.0, "y": None, "z": None}
    assert not isinstance(prim.rule, Deferred)  # found once
