"""Calls that go to lantern and to the reference implementation of the array API standard alike."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, settings
from hypothesis import strategies as st

import lantern as ln
from lantern.testing import strategies as some

strict = pytest.importorskip("array_api_strict")

FLOATS = ("float32", "float64")
SIGNED = ("int8", "int16", "int32", "int64")
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
INTEGERS = SIGNED + UNSIGNED
NUMBERS = FLOATS + INTEGERS
ALL = (*NUMBERS, "bool")
KINDS = [("bool",), SIGNED, UNSIGNED, FLOATS]  # dtypes that the standard promotes
LIMITS = {d: ln.iinfo(getattr(ln, d)) for d in INTEGERS}
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.0, 1e30, -1e-30, math.inf, -math.inf, math.nan]


def there(x: Any, module: Any) -> Any:
    """NumPy arrays as arrays of ``module``, NumPy dtypes as its dtypes, in nested sequences too."""
    if isinstance(x, np.ndarray):
        return module.asarray(x.copy())
    if isinstance(x, np.dtype):
        return getattr(module, x.name)
    return type(x)(there(v, module) for v in x) if type(x) in (list, tuple) else x


def back(x: Any) -> Any:
    """Results as NumPy arrays, and dtypes as names."""
    if isinstance(x, (ln.Tensor, strict._array_object.Array)):
        return np.asarray(x)
    if isinstance(x, (list, tuple)):
        return [back(v) for v in x]
    return str(x).split(".")[-1] if type(x).__name__ == "DType" or isinstance(x, np.dtype) else x


def named(name: str | Callable[..., Any], module: Any) -> Callable[..., Any]:
    return operator.attrgetter(name)(module) if isinstance(name, str) else name


def call(f: Callable[..., Any], module: Any, args: Any, kw: Any) -> Any:
    return back(
        f(*(there(v, module) for v in args), **{k: there(v, module) for k, v in kw.items()})
    )


def equal(a: Any, b: Any, tolerance: float) -> bool:
    if isinstance(a, list):
        return len(a) == len(b) and all(equal(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if not isinstance(a, np.ndarray):
        return type(a) is type(b) and a == b
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if tolerance:
        return np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def same(name: Any, *args: Any, tolerance: float = 0.0, **kw: Any) -> None:
    """Both sides agree. What the reference refuses is lantern's own affair."""
    reference = named(name, strict)
    try:
        wanted = call(reference, strict, args, kw)
    except Exception:
        return
    found = call(named(name, ln), ln, args, kw)
    assert equal(wanted, found, tolerance), f"{name}: {found!r}, expected {wanted!r}"


def refused(error: type[Exception], f: Callable[[], Any]) -> None:
    with pytest.raises(error):
        f()


def elements(dtype: str, small: bool = False) -> st.SearchStrategy[Any]:
    """Python numbers that the dtype holds; small ones are finite and survive sums and products."""
    if dtype == "bool":
        return st.booleans()
    if dtype in INTEGERS:
        low, high = LIMITS[dtype].min, LIMITS[dtype].max
        few = st.integers(max(low, -4), 4)
        return few if small else few | st.sampled_from([low, high])
    if small:
        return st.integers(-16, 16).map(lambda n: n / 4)
    width = 32 if dtype == "float32" else 64
    usual = st.floats(-9, 9, width=width, allow_subnormal=False)
    return usual | st.sampled_from([float(np.dtype(dtype).type(v)) for v in SPECIAL])


@st.composite
def arrays(draw: Any, dtypes: Any = ALL, shape: Any = None, small: bool = False) -> np.ndarray:
    dtype = draw(st.sampled_from(dtypes))
    if not isinstance(shape, tuple):
        shape = draw(some.shapes(min_side=0, max_side=3) if shape is None else shape)
    n = math.prod(shape)
    values = draw(st.lists(elements(dtype, small), min_size=n, max_size=n))
    return np.array(values, dtype).reshape(shape)


@st.composite
def operands(draw: Any, dtypes: Any, count: int = 2, small: bool = False) -> list[Any]:
    """Arrays that promote and broadcast; one of them may be a Python number."""
    kind = [d for d in draw(st.sampled_from(KINDS)) if d in dtypes]
    assume(kind)
    xs = [draw(arrays(kind, s, small)) for s in draw(some.broadcastable_shapes(count, min_side=0))]
    at = draw(st.sampled_from([None, *range(count)]))
    if at is not None and count == 2:
        xs[at] = draw(elements(xs[1 - at].dtype.name, small))
    return xs


def any_axis(x: np.ndarray, draw: Any) -> Any:
    one = st.integers(-x.ndim, x.ndim - 1) if x.ndim else st.none()
    many = some.axes(x.ndim) if x.ndim else st.just(())
    return draw(st.none() | one | many)


lean = settings(max_examples=20)
