"""`eval_shape`: kinds of results without results."""

from __future__ import annotations

import numpy as np
import pytest

import lantern as ln
from lantern.errors import ArgumentError, ShapeError


def test_structure_shapes_and_dtypes() -> None:
    def f(params, x, flag=True):
        return {"y": params["w"] @ x if flag else x, "n": ln.argmax(x)}, [ln.sum(x, axis=0)]

    w, x = ln.ShapeDtype((2, 3), "float32"), ln.ShapeDtype([3, 4], ln.float64)
    got = ln.eval_shape(f, {"w": w}, x)
    want = f({"w": ln.zeros((2, 3))}, ln.zeros((3, 4), dtype="float64"))
    assert ln.tree.structure(got) == ln.tree.structure(want)
    for a, b in zip(ln.tree.leaves(got), ln.tree.leaves(want), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert ln.eval_shape(f, {"w": w}, x, flag=False)[0]["y"] == x


def test_nothing_is_computed() -> None:
    huge = ln.ShapeDtype((2**30, 2**12), "float32")
    gradient = ln.eval_shape(ln.grad(lambda a: ln.sum(a @ a.T)), huge)
    assert gradient == huge and gradient.size == 2**42 and gradient.ndim == 2


def test_errors_are_those_of_the_function() -> None:
    with pytest.raises(ShapeError, match=r"float32\[2, 3\]"):
        ln.eval_shape(ln.matmul, ln.ShapeDtype((2, 3), "float32"), np.ones((2, 3), np.float32))


def test_kinds_stand_for_arrays_only_where_nothing_runs() -> None:
    compiled = ln.compile(lambda x: x * 2.0, backend="interpreter")
    kind = ln.ShapeDtype((2,), "float32")
    assert "mul(" in compiled.ir(kind)
    with pytest.raises(ArgumentError, match="a call needs arrays"):
        compiled(kind)
    assert repr(kind) == "ShapeDtype(float32[2])" and len({kind, ln.ShapeDtype((2,), "f4")}) == 1
