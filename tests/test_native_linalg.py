"""Decompositions in the LLVM backend: what NumPy gives, in bounds, or an error."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from guarded import guarded_results

import lantern as ln
from backends.llvm import compile_program
from lantern import linalg
from staging.interpret import interpret
from staging.ir import Builder, Program, Type
from staging.linalg import KINDS, SQUARE

Array = np.ndarray[Any, Any]
SHAPES = [(4, 4), (1, 1), (2, 3, 3), (2, 0, 3, 3), (0, 0), (2, 0, 0), (6, 2), (3, 5, 4), (3, 0),
          (2, 5), (0, 3), (67, 67), (70, 33)]  # fmt: skip


def matrices(rng: np.random.Generator, kind: str, shape: tuple[int, ...], dtype: Any) -> Array:
    """Well conditioned matrices; symmetric and positive where a kind reads one triangle only."""
    x = rng.normal(size=shape)
    if kind in ("cholesky", "eigh", "eigvalsh"):
        x = x @ np.swapaxes(x, -1, -2) / max(1, shape[-1]) + np.diag(np.arange(1.0, shape[-1] + 1))
    elif kind in SQUARE:
        x = x + 2 * np.sqrt(shape[-1]) * np.eye(shape[-1])
    return x.astype(dtype)


def canonical(kind: str, results: list[Array]) -> list[Array]:
    """Results that do not depend on the signs of vectors, which are arbitrary."""
    if kind == "eigh":
        return [results[0], abs(results[1])]
    return [abs(results[0]), results[1], abs(results[2])] if kind == "svd" else results


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_decompositions_are_those_of_numpy_and_stay_in_bounds(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    b, inputs, kinds, results = Builder(), [], [], []
    for kind in KINDS:
        for shape in SHAPES:
            *lead, m, n = shape
            if (kind in SQUARE and m != n) or (kind in ("qr", "complete") and m < n):
                continue
            arrays = [matrices(rng, kind, shape, dtype)]
            if kind == "solve":
                arrays.append(rng.normal(size=(*lead, n, 2)).astype(dtype))
            params = [b.param(Type(np.dtype(dtype).name, a.shape)) for a in arrays]
            inputs += arrays
            made = b.emit_all("linalg", *params, kind=kind)
            kinds.append((kind, len(made)))
            results += made
    program = Program("all", b.block(*results))
    expected = interpret(program, inputs)
    with guarded_results() as guard:
        found = compile_program(program)([guard.copy(a) for a in inputs])
        for kind, count in kinds:
            pairs = [canonical(kind, [some.pop(0) for _ in range(count)])
                     for some in (found, expected)]  # fmt: skip
            for got, want in zip(*pairs, strict=True):
                assert got.dtype == want.dtype and got.shape == want.shape, kind
                scale = float(np.abs(want).max(initial=1))
                # Vectors are as uncertain as gaps between values are small.
                bound = (3e3 if kind in ("eigh", "svd") else 2e2) * np.finfo(dtype).eps * scale
                np.testing.assert_allclose(got, want, 0, bound, err_msg=kind)


def test_a_singular_matrix_has_determinant_zero() -> None:
    x = ln.asarray(np.stack([np.ones((3, 3)), np.eye(3), np.diag([2.0, -3.0, 1.0])]))
    sign, logarithm = ln.compile(linalg.slogdet, backend="llvm")(x)
    assert sign.tolist() == [0.0, 1.0, -1.0]
    np.testing.assert_allclose(np.asarray(logarithm), [-np.inf, 0.0, np.log(6)])


@pytest.mark.parametrize("backend", ["llvm", "interpreter"])
@pytest.mark.parametrize(
    ("f", "bad", "message"),
    [
        (linalg.inv, np.stack([np.eye(2), np.zeros((2, 2))]), r"inv: Singular.*number \(1,\)"),
        (lambda x: linalg.solve(x, x), np.zeros((2, 2)), "solve: Singular"),
        (linalg.cholesky, -np.eye(3), "not positive definite"),
        (linalg.svd, np.full((2, 2), np.nan), "svd: SVD did not converge"),
        (ln.grad(lambda x: linalg.slogdet(x)[1]), np.zeros((2, 2)), "Singular"),
    ],
)
def test_a_matrix_without_the_operation_is_an_error(
    f: Any, bad: Array, message: str, backend: str
) -> None:
    with pytest.raises(linalg.LinAlgError, match=message) as caught:
        ln.compile(lambda x: f(x), backend=backend)(bad)
    assert isinstance(caught.value, np.linalg.LinAlgError)
    assert re.search(r"\n  at .*test_native_linalg.py:\d+", str(caught.value))


def test_a_failure_leaves_the_program_usable() -> None:
    inverse = ln.compile(linalg.inv, backend="llvm")
    with pytest.raises(linalg.LinAlgError):
        inverse(np.zeros((2, 2)))
    assert inverse(2 * np.eye(2)).tolist() == [[0.5, 0.0], [0.0, 0.5]]
