"""The functions of the LLVM backend, measured in units in the last place (ulp) of the result."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from backends.llvm import compile_program
from backends.llvm.double import DOUBLE
from staging.ir import Builder, Program, Type

Array = np.ndarray[Any, Any]
COUNT = 1 << 17
REFERENCES = {
    "exp": np.exp, "log": np.log, "log1p": np.log1p, "expm1": np.expm1, "sin": np.sin,
    "cos": np.cos, "tanh": np.tanh, "sqrt": np.sqrt, "pow": np.power, "atan2": np.arctan2,
}  # fmt: skip


def native(name: str, *arrays: Array) -> Array:
    """One elementwise operation, compiled."""
    b = Builder()
    params = [b.param(Type(a.dtype.name, a.shape)) for a in arrays]
    return compile_program(Program(name, b.block(b.emit(name, *params))))(arrays)[0]


def ulps(found: Array, exact: Array) -> float:
    """The largest distance, in places of the nearest float of the result's dtype."""
    with np.errstate(all="ignore"):
        near = exact.astype(found.dtype)
        distance = np.abs(found.astype(exact.dtype) - exact) / np.spacing(np.abs(near))
    same = (found == near) | (np.isnan(found) & np.isnan(near))
    return float(np.max(np.where(same, 0, np.nan_to_num(distance, nan=math.inf))))


def every_kind_of_float() -> Array:
    """Floats evenly over all bit patterns, and evenly over the ranges where functions bend."""
    patterns = np.linspace(0, 2**32 - 1, COUNT).astype(np.uint32).view(np.float32)
    patterns[np.isnan(patterns)] = math.nan  # a quiet one, that converts without a warning
    near, far = np.linspace(-4, 4, COUNT), np.linspace(-110, 110, COUNT)
    return np.concatenate([patterns, near.astype(np.float32), far.astype(np.float32)])


@pytest.mark.parametrize("name", ["exp", "log", "log1p", "expm1", "sin", "cos", "tanh", "sqrt"])
def test_functions_of_float32_are_within_two_places(name: str) -> None:
    x = every_kind_of_float()
    with np.errstate(all="ignore"):
        exact = REFERENCES[name](x.astype(np.float64))
    assert ulps(native(name, x), exact) <= 2


def test_the_error_function_is_within_two_places() -> None:
    x = every_kind_of_float()[::7]
    exact = np.asarray([math.erf(v) for v in x.astype(np.float64)])
    assert ulps(native("erf", x), exact) <= 2


@pytest.mark.parametrize("name", ["pow", "atan2"])
def test_functions_of_two_float32_are_within_two_places(name: str) -> None:
    rng = np.random.default_rng(0)
    patterns = every_kind_of_float()[:COUNT]
    special = np.asarray([0, 1, math.inf, math.nan, 0.5, 2, 3, 1e30, 1e-42, 3.5], np.float32)
    grid = np.meshgrid(*[np.concatenate([special, -special])] * 2)
    x = [patterns, rng.random(COUNT) * 10, 1 + rng.normal(size=COUNT) * 0.01, grid[0].ravel()]
    y = [rng.permutation(patterns), rng.normal(size=COUNT) * 20, rng.normal(size=COUNT) * 2000,
         grid[1].ravel()]  # fmt: skip
    a, b = (np.concatenate(v).astype(np.float32) for v in (x, y))
    with np.errstate(all="ignore"):
        exact = REFERENCES[name](a.astype(np.float64), b.astype(np.float64))
    found = native(name, a, b)
    assert ulps(found, exact) <= 2
    zero = exact == 0
    np.testing.assert_array_equal(np.signbit(found[zero]), np.signbit(exact[zero]))


@pytest.mark.parametrize("name", sorted(DOUBLE))
def test_functions_of_float64_are_within_two_places(name: str) -> None:
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 2**64, COUNT, dtype=np.uint64).view(np.float64)
    parts = [patterns[~np.isnan(patterns)], np.exp(rng.uniform(-745, 709, COUNT))]
    parts += [rng.uniform(-size, size, COUNT) for size in (1e-9, 1e-3, 1, 2.5, 40, 745, 1e6, 2e9)]
    parts.append(np.arange(COUNT) * (np.pi / 2))  # where sine or cosine is nearly 0
    edges = [0, 1, math.inf, math.nan, 5e-324, 2.0**-1022, 709.7, 709.8, 745.1, 745.2, 1e308]
    x = np.concatenate([*parts, 1 + parts[2], edges, np.negative(edges)])
    with np.errstate(all="ignore"):
        exact = REFERENCES[name](x.astype(np.longdouble))
    assert ulps(native(name, x), exact) <= 2


@pytest.mark.parametrize("name", ["sin", "tanh", "erf", "expm1", "log1p", "sqrt"])
def test_odd_functions_keep_the_sign_of_zero(name: str) -> None:
    for dtype in (np.float32, np.float64):
        y = native(name, np.asarray([-0.0, 0.0], dtype))
        assert np.signbit(y).tolist() == [True, False]


def every_float(name: str) -> float:
    """The largest distance over all 2³² floats, by ``python tests/test_mathematics.py``."""
    worst = 0.0
    for start in range(0, 2**32, 2**24):
        x = np.arange(start, start + 2**24, dtype=np.uint64).astype(np.uint32).view(np.float32)
        x = x[~np.isnan(x)]
        if not x.size:
            continue
        with np.errstate(all="ignore"):
            exact = REFERENCES[name](x.astype(np.float64))
            worst = max(worst, ulps(native(name, x), exact))
    return worst


if __name__ == "__main__":
    for function in ("exp", "expm1", "log", "log1p", "tanh", "sin", "cos", "sqrt"):
        print(f"{function:6} {every_float(function):.3f}", flush=True)
