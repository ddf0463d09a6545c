"""`Compiled.bind`: the same results as without, and nothing kept that is given away."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lantern as ln
from lantern.errors import ArgumentError, DonatedError


def step(w: dict[str, Any], state: Any, x: Any) -> tuple[Any, Any]:
    return state + w["scale"] * x, ln.sum(w["offset"]) + x


PARAMS = {"scale": ln.asarray([2.0, 3.0]), "offset": ln.asarray(np.ones(4, np.float32))}


@pytest.mark.parametrize("backend", ["llvm", "interpreter"])
def test_bound_arguments_are_used(backend: str) -> None:
    bound = ln.compile(step, backend=backend).bind(PARAMS)
    for x in (ln.asarray([1.0, 2.0]), ln.asarray([4.0, 5.0]), ln.asarray(2.0)):
        state = ln.asarray([10.0, 20.0])
        for found, wanted in zip(bound(state, x), step(PARAMS, state, x), strict=True):
            assert np.array_equal(found, wanted)


def test_further_arguments_may_be_donated_again_and_again() -> None:
    bound = ln.compile(step, donate="state").bind(PARAMS)
    state = ln.zeros(2)
    where = None
    for i in range(4):
        before = state
        state, _ = bound(state, np.float32(i))
        with pytest.raises(DonatedError):
            np.asarray(before)
        address = state.value.ctypes.data
        assert where in (None, address)
        where = address
    assert np.array_equal(state, [12.0, 18.0])


def test_a_view_is_copied_once() -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    bound = ln.compile(lambda w, x: w @ x).bind(matrix.T)
    for x in (np.ones(2, np.float32), np.full(2, 3.0, np.float32)):
        assert np.array_equal(bound(x), matrix.T @ x)


def test_inside_transformations_and_programs_it_is_the_function() -> None:
    bound = ln.compile(lambda w, x: ln.sum(w * x * x)).bind(ln.asarray([1.0, 2.0]))
    assert np.array_equal(ln.grad(bound)(ln.asarray([3.0, 4.0])), [6.0, 16.0])
    assert float(ln.compile(lambda x: bound(x) + 1)(ln.asarray([3.0, 4.0]))) == 42.0


def test_statics_choose_the_program() -> None:
    bound = ln.compile(lambda w, x, kind: w * x if kind == "times" else w + x).bind(PARAMS["scale"])
    assert np.array_equal(bound(2.0, "times"), [4.0, 6.0])
    assert np.array_equal(bound(2.0, "plus"), [4.0, 5.0])


def test_says_what_cannot_be_bound() -> None:
    with pytest.raises(ArgumentError, match="donated argument"):
        ln.compile(step, donate="w").bind(PARAMS)
    with pytest.raises(ArgumentError, match="static arguments"):
        ln.compile(step, static="x").bind(PARAMS)
