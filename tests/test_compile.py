"""Compiled functions: the same results, and a new program when something that they read changes."""

from __future__ import annotations

import numpy as np
import pytest

import lantern as ln
from lantern.errors import StagingError
from lantern.staged.compiled import compile


def wave(x: ln.Tensor) -> ln.Tensor:
    return x * ln.sin(x) + ln.where(x < 0.5, x, 2.0)


@pytest.mark.parametrize("transform", [lambda f: f, ln.vmap, lambda f: ln.vmap(ln.grad(f))])
def test_compiled_functions_agree_with_eager_ones(transform) -> None:
    x = ln.asarray([0.3, 0.7, 1.1])
    f = transform(wave)
    np.testing.assert_allclose(np.asarray(compile(f)(x)), np.asarray(f(x)), rtol=1e-6)


def test_the_program_names_the_users_line() -> None:
    line = wave.__code__.co_firstlineno + 1
    assert f"test_compile.py:{line}" in compile(wave).ir(ln.asarray([1.0]))


def test_a_changed_closure_is_not_missed() -> None:
    rate = 2.0
    table = [ln.asarray([1.0, 2.0])]

    def scaled(x: ln.Tensor) -> ln.Tensor:
        return x * rate + table[0]

    compiled = compile(scaled)
    x = ln.asarray([1.0, 1.0])
    assert compiled(x).tolist() == [3.0, 4.0]
    rate = 3.0
    assert compiled(x).tolist() == [4.0, 5.0]
    table[0] = ln.asarray([10.0, 20.0])
    assert compiled(x).tolist() == [13.0, 23.0]


def test_compiled_functions_nest() -> None:
    inner = compile(wave)
    x = ln.asarray([0.3, 0.7])
    outer = compile(lambda v: inner(v) * v)
    np.testing.assert_allclose(np.asarray(outer(x)), np.asarray(wave(x) * x), rtol=1e-6)


def test_a_transformation_of_a_compiled_function_says_what_to_do() -> None:
    with pytest.raises(StagingError, match=r"ln\.compile\(ln\.grad"):
        ln.grad(compile(lambda x: x * x))(1.0)


def test_a_leaked_value_is_refused() -> None:
    leaked: list[ln.Tensor] = []

    def leaky(x: ln.Tensor) -> ln.Tensor:
        leaked.append(x)
        return x * leaked[0]

    compiled = compile(leaky)
    compiled(ln.asarray([1.0]))
    with pytest.raises(StagingError, match="leaked"):
        compiled(ln.asarray([1.0, 2.0]))
