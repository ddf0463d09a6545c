"""The array API standard, version 2024.12, beside its reference implementation array_api_strict.

Random calls go to both: where the reference accepts them, lantern gives the same dtype, shape and
values; where the standard asks for an error, both raise. What the reference cannot show (special
values that NumPy treats otherwise, devices, signatures) stands below, from the standard's text.
"""

from __future__ import annotations

import inspect
import math
import operator
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from beside_standard import (
    ALL,
    FLOATS,
    INTEGERS,
    LIMITS,
    NUMBERS,
    SIGNED,
    any_axis,
    arrays,
    elements,
    lean,
    operands,
    refused,
    same,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.array_api import make_strategies_namespace

import lantern as ln
from lantern.testing import strategies as some

strict = pytest.importorskip("array_api_strict")
pytestmark = pytest.mark.peer


@pytest.fixture(autouse=True, scope="module")
def version() -> Iterator[None]:
    """The reference speaks 2024.12; NumPy's warnings about overflow and NaN are not the subject."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        with strict.ArrayAPIStrictFlags(api_version="2024.12"):
            yield


# Elementwise functions and operators --------------------------------------------------------------

EXACT = "abs ceil floor trunc round negative positive sign square isfinite isinf isnan"
ROUNDED = (
    "acos acosh asin asinh atan atanh cos cosh exp expm1 log log1p log2 log10 sin sinh tan tanh"
)
UNARY = {
    **dict.fromkeys(EXACT.split(), NUMBERS),
    **dict.fromkeys([*ROUNDED.split(), "reciprocal", "signbit", "sqrt"], FLOATS),
    "bitwise_invert": (*INTEGERS, "bool"),
    "logical_not": ("bool",),
}
BINARY = {
    **dict.fromkeys(["add", "subtract", "multiply", "maximum", "minimum"], NUMBERS),
    **dict.fromkeys(["less", "less_equal", "greater", "greater_equal"], NUMBERS),
    **dict.fromkeys(["equal", "not_equal"], ALL),
    **dict.fromkeys(["atan2", "copysign", "divide", "hypot", "logaddexp", "nextafter"], FLOATS),
    **dict.fromkeys(["bitwise_and", "bitwise_or", "bitwise_xor"], (*INTEGERS, "bool")),
    **dict.fromkeys(["logical_and", "logical_or", "logical_xor"], ("bool",)),
}
OPERATORS = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "bitwise_and": operator.and_,
    "bitwise_or": operator.or_,
    "bitwise_xor": operator.xor,
    "equal": operator.eq,
    "not_equal": operator.ne,
    "less": operator.lt,
    "less_equal": operator.le,
    "greater": operator.gt,
    "greater_equal": operator.ge,
}


@pytest.mark.parametrize("name", UNARY)
@lean
@given(st.data())
def test_unary(name: str, data: st.DataObject) -> None:
    x = data.draw(arrays(UNARY[name]))
    same(name, x, tolerance=1e-5 if name in ROUNDED.split() else 0)


@pytest.mark.parametrize("name", BINARY)
@lean
@given(st.data())
def test_binary(name: str, data: st.DataObject) -> None:
    x, y = data.draw(operands(BINARY[name]))
    tolerance = 1e-5 if name in ("atan2", "hypot", "logaddexp") else 0
    same(name, x, y, tolerance=tolerance)
    if name in OPERATORS:
        same(OPERATORS[name], x, y)


@settings(max_examples=100)
@given(operands(NUMBERS, small=True))
def test_division_powers_and_shifts(xy: list[Any]) -> None:
    x, y = xy
    if np.all(np.asarray(y) != 0):
        for name, f in (("floor_divide", operator.floordiv), ("remainder", operator.mod)):
            same(name, x, y)
            same(f, x, y)
    y = np.abs(y)[...] if isinstance(y, np.ndarray) else abs(y)
    same("pow", x, y, tolerance=1e-5)
    same(operator.pow, x, y, tolerance=1e-5)
    if np.asarray(x).dtype.kind in "iu" and np.asarray(y).dtype.kind in "iu":
        for name, f in (
            ("bitwise_left_shift", operator.lshift),
            ("bitwise_right_shift", operator.rshift),
        ):
            same(name, x, y)
            same(f, x, y)


@lean
@given(st.data())
def test_clip_and_where(data: st.DataObject) -> None:
    x, low, high = data.draw(operands(NUMBERS, 3))
    number = elements(x.dtype.name)
    bounds = {"min": data.draw(st.none() | number | st.just(low))}
    bounds["max"] = data.draw(st.none() | number | st.just(high))
    if all(v is None or isinstance(v, (int, float)) or v.dtype == x.dtype for v in bounds.values()):
        same("clip", x, **bounds)
    same("where", x != 0, low, high)
    same("where", x != 0, low, data.draw(elements(low.dtype.name)))


# x, y and the result, where the standard names one and NumPy's `//` and `**` do not always give it.
NAMED = {
    "floor_divide": "inf 2 inf, inf -2 -inf, -inf 2 -inf, -inf -2 inf, inf inf nan, 1 inf 0, "
    "1 -inf -0, -1 inf -0, -1 -inf 0, 0 -1 -0, -0 -1 0, 1 0 inf, 1 -0 -inf, 0 0 nan",
    "pow": "-inf .5 inf, -0 .5 0, nan 0 1, 1 nan 1, -1 inf 1, -0 3 -0, -0 -3 -inf, -inf 3 -inf, "
    "-inf -3 -0, -inf 2 inf, .5 inf 0, 2 -inf 0, -8 .3 nan, 0 -2.5 inf",
    "remainder": "inf 2 nan, 5 inf 5, 5 -inf -inf, -5 inf inf, -5 -inf -5, 0 -1 -0, -0 1 0, "
    "5 0 nan, nan 1 nan",
}


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("shape", [(), (2,)])
def test_special_values(name: str, shape: tuple[int, ...]) -> None:
    f = getattr(ln, name)
    op = {"floor_divide": operator.floordiv, "pow": operator.pow, "remainder": operator.mod}[name]
    for case in NAMED[name].split(", "):
        x, y, wanted = map(float, case.split())
        a, b = (ln.full(shape, v, dtype=ln.float64) for v in (x, y))
        for out in (f(a, b), f(a, y), f(x, b), op(a, b), op(a, y), op(x, b)):
            found = float(out if shape == () else out[1])
            assert math.isnan(wanted) if math.isnan(found) else found == wanted, case
            assert math.isnan(wanted) or math.copysign(1, found) == math.copysign(1, wanted)


def test_in_place_operators_rebind() -> None:
    x = y = ln.asarray([1, 2], dtype=ln.int8)
    x += ln.asarray(1, dtype=ln.int8)
    x <<= 1
    assert x.dtype == ln.int8 and x.tolist() == [4, 6] and y.tolist() == [1, 2]
    with pytest.raises(TypeError, match=r"\.at\["):
        y[0] = 3


# Reductions, sorting, searching, sets -------------------------------------------------------------

REDUCTIONS = "sum prod max min mean var std any all count_nonzero argmax argmin"


@pytest.mark.parametrize("name", REDUCTIONS.split())
@lean
@given(st.data())
def test_reduction(name: str, data: st.DataObject) -> None:
    floating = name in ("mean", "var", "std")
    wide = ALL if name in ("any", "all", "count_nonzero") else NUMBERS
    if name in ("sum", "prod"):  # the default float is another there
        wide = ("float64", *INTEGERS)
    shape = some.shapes(1, 3, 1, 3) if floating or name.startswith("arg") else None
    x = data.draw(arrays(FLOATS if floating else wide, shape, small=name not in ("max", "min")))
    assume(name not in ("max", "min") or not np.any(np.isnan(x)))
    kw: dict[str, Any] = {"axis": any_axis(x, data.draw), "keepdims": data.draw(st.booleans())}
    if name.startswith("arg"):
        kw["axis"] = data.draw(st.none() | st.integers(-x.ndim, x.ndim - 1))
    if name in ("sum", "prod") and data.draw(st.booleans()):
        kw["dtype"] = np.dtype(data.draw(st.sampled_from(NUMBERS)))
    if name in ("var", "std"):
        kw["correction"] = data.draw(st.sampled_from([0, 0.0, 0.5]))
    same(name, x, tolerance=1e-4 if floating else 1e-9, **kw)


@lean
@given(st.data())
def test_cumulative(data: st.DataObject) -> None:
    x = data.draw(arrays(("float64", *INTEGERS), some.shapes(1, 3, 0, 3), small=True))
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    kw: dict[str, Any] = {"axis": axis, "include_initial": data.draw(st.booleans())}
    if data.draw(st.booleans()):
        kw["dtype"] = np.dtype(data.draw(st.sampled_from(NUMBERS)))
    for name in ("cumulative_sum", "cumulative_prod"):
        same(name, x, tolerance=1e-6, **kw)
    shape = tuple(2 if i == axis % x.ndim else n for i, n in enumerate(x.shape))
    more = {k: data.draw(arrays([x.dtype.name], shape, small=True)) for k in ("prepend", "append")}
    n = data.draw(st.integers(1, 3))
    same("diff", x, axis=axis, n=n)
    same("diff", x, axis=axis, n=n, **more)


@settings(max_examples=60)
@given(st.data())
def test_sorting_searching_and_sets(data: st.DataObject) -> None:
    x = data.draw(arrays(NUMBERS, some.shapes(1, 3, 0, 4)))
    assume(not np.any(np.isnan(x)))
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    for name in ("sort", "argsort"):
        same(name, x, axis=axis, descending=data.draw(st.booleans()), stable=True)
    line = x.reshape(-1)
    side = data.draw(st.sampled_from(["left", "right"]))
    values = data.draw(arrays([x.dtype.name]))
    assume(not np.any(np.isnan(values)))
    same("searchsorted", np.sort(line), values, side=side)
    same("searchsorted", line, values, side=side, sorter=np.argsort(line))


@settings(max_examples=60)
@given(arrays())
def test_sets(x: np.ndarray) -> None:
    for name in ("unique_all", "unique_counts", "unique_inverse", "unique_values"):
        same(name, x)
    if x.ndim:
        same("nonzero", x)
    else:
        refused(Exception, lambda: ln.nonzero(ln.asarray(x)))


# Manipulation, indexing, creation -----------------------------------------------------------------


@settings(max_examples=60)
@given(st.data())
def test_manipulation(data: st.DataObject) -> None:
    x = data.draw(arrays(shape=some.shapes(1, 3, 0, 3)))
    n, draw = x.ndim, data.draw
    order = tuple(draw(st.permutations(range(n))))
    axis, some_axes = order[0], order[: draw(st.integers(1, n))]
    same("permute_dims", x, order)
    same("moveaxis", x, some_axes, tuple(a - n for a in sorted(some_axes)))
    same("flip", x, axis=any_axis(x, draw))
    same("roll", x, draw(st.integers(-9, 9)), axis=draw(st.sampled_from([None, axis])))
    same("roll", x, tuple(3 - a for a in some_axes), axis=some_axes)
    same("reshape", x, draw(st.sampled_from([(-1,), (x.size, 1), (1, -1), x.shape[::-1]])))
    same("tile", x, tuple(draw(st.lists(st.integers(0, 2), max_size=n + 1))))
    times = draw(st.integers(0, 3) | arrays(SIGNED, (x.shape[axis],), small=True).map(abs))
    same("repeat", x, times, axis=axis)
    same("unstack", x, axis=axis)
    same("stack", [x, x], axis=draw(st.integers(-n - 1, n)))
    same("concat", [x, x[::2]], axis=0)
    same("concat", (x, x.reshape(-1)[:2]), axis=None)
    same("broadcast_to", x, (2, *x.shape))
    same("broadcast_arrays", x, x[..., :1])
    same(
        "meshgrid",
        x.reshape(-1)[:2],
        x.reshape(-1)[:3],
        indexing=draw(st.sampled_from(["xy", "ij"])),
    )
    same("tril", x, k=draw(st.integers()))
    same("triu", x, k=draw(st.integers()))
    places = np.array(draw(st.lists(st.integers(0, max(x.shape[axis] - 1, 0)), max_size=4)), int)
    if x.shape[axis]:
        same("take", x, places, axis=axis)
        index = np.resize(places, tuple(4 if i == axis else m for i, m in enumerate(x.shape)))
        same("take_along_axis", x, index, axis=axis)
    wide = draw(st.integers(-2 * n - 2, 2 * n + 2))
    if -n - 1 <= wide <= n:
        same("expand_dims", x, axis=wide)
    else:
        refused(IndexError, lambda: ln.expand_dims(ln.asarray(x), axis=wide))
    if x.shape[axis] == 1:
        same("squeeze", x, axis)
    else:
        refused(ValueError, lambda: ln.squeeze(ln.asarray(x), axis))


@settings(max_examples=80)
@given(st.data())
def test_indexing(data: st.DataObject) -> None:
    x = data.draw(arrays())
    xps = make_strategies_namespace(ln)
    key = data.draw(xps.indices(x.shape, allow_newaxis=True))
    same(operator.getitem, x, key)
    mask = data.draw(arrays(["bool"], st.sampled_from([x.shape, (), x.shape[:1]]) | some.shapes()))
    if mask.ndim <= x.ndim and all(a in (0, b) for a, b in zip(mask.shape, x.shape, strict=False)):
        same(operator.getitem, x, mask)
    else:
        refused(IndexError, lambda: ln.asarray(x)[ln.asarray(mask)])


@settings(max_examples=60)
@given(st.data())
def test_creation(data: st.DataObject) -> None:
    x, draw = data.draw(arrays()), data.draw
    dtype = np.dtype(draw(st.sampled_from(ALL)))
    number = draw(elements(dtype.name))
    for name in ("zeros", "ones"):
        same(name, x.shape, dtype=dtype)
        same(f"{name}_like", x, dtype=draw(st.sampled_from([None, dtype])))
    same("full", x.shape, number, dtype=dtype)
    same("full_like", x, number, dtype=dtype)
    same(
        "asarray",
        x,
        dtype=draw(st.sampled_from([None, dtype])),
        copy=draw(st.sampled_from([None, True])),
    )
    same("asarray", [[number], [number]], dtype=dtype)
    same("astype", np.nan_to_num(x) % 9 if x.dtype.kind == "f" else x, dtype)
    rows, columns, k = (
        draw(st.integers(0, 4)),
        draw(st.none() | st.integers(0, 4)),
        draw(st.integers()),
    )
    same("eye", rows, columns, k=k, dtype=np.dtype(draw(st.sampled_from(NUMBERS))))


@settings(max_examples=100)
@given(st.data())
def test_ranges(data: st.DataObject) -> None:
    draw, dtype = data.draw, data.draw(st.sampled_from(INTEGERS))
    d, low, high = getattr(ln, dtype), LIMITS[dtype].min, LIMITS[dtype].max
    start, num, endpoint = (
        draw(st.integers(low, high)),
        draw(st.integers(1, 20)),
        draw(st.booleans()),
    )
    step = draw(st.integers(-((start - low) // num), (high - start) // num))
    stop = start + step * num
    line = ln.linspace(start, stop, num + endpoint, dtype=d, endpoint=endpoint)
    wanted = [start + step * i for i in range(num + endpoint)]
    assert line.dtype == d and line.tolist() == wanted, "integers to the ends of their dtype"
    if step:
        assert ln.arange(start, stop, step, dtype=d).tolist() == wanted[:num]
    a, b = (draw(st.floats(-1e6, 1e6, width=32)) for _ in range(2))
    line = ln.linspace(a, b, num + 1)
    assert line.dtype == ln.float32 and float(line[0]) == a and float(line[-1]) == b
    assert ln.all(ln.linspace(a, b, num, endpoint=False) == line[:-1])


# Linear algebra -----------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.data())
def test_products(data: st.DataObject) -> None:
    a, b = data.draw(operands(NUMBERS, small=True))
    a, b = (v if isinstance(v, np.ndarray) else np.asarray(v, "int64") for v in (a, b))
    assume(a.dtype.kind == b.dtype.kind)
    near = {"tolerance": 1e-4}
    for space in ("", "linalg."):
        same(f"{space}matmul", a, b, **near)
        same(f"{space}matrix_transpose", a)
        if a.ndim and b.ndim:
            same(f"{space}vecdot", a, b, **near)
            axes = data.draw(st.integers(0, min(a.ndim, b.ndim)))
            same(f"{space}tensordot", a, b, axes=axes, **near)
    same(operator.matmul, a, b, **near)
    same("linalg.outer", a.reshape(-1), b.reshape(-1), **near)
    if a.ndim == b.ndim == 2:
        same("linalg.diagonal", a, offset=data.draw(st.integers(-500, 500)))
        if a.dtype.kind != "f":
            same("linalg.trace", a, offset=data.draw(st.integers(-2, 2)))


@settings(max_examples=40)
@given(st.data())
def test_matrices(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(FLOATS))
    stack, n, m = (
        data.draw(some.shapes(0, 2, 0, 2)),
        *data.draw(st.tuples(*[st.integers(0, 3)] * 2)),
    )
    x = data.draw(arrays([dtype], (*stack, n, m), small=True))
    gram = x @ np.swapaxes(x, -1, -2) + np.eye(n, dtype=dtype)
    near = {"tolerance": 1e-2 if dtype == "float32" else 1e-6}
    for name in ("cholesky", "det", "slogdet", "inv", "eigvalsh"):
        same(f"linalg.{name}", gram, **near)
    same("linalg.solve", gram, data.draw(arrays(FLOATS, (n,), small=True)), **near)
    same("linalg.matrix_power", gram, data.draw(st.integers(0, 3)), tolerance=1e-2)
    same("linalg.svdvals", x, **near)
    keep = {"keepdims": data.draw(st.booleans())}
    order = data.draw(st.sampled_from(["fro", "nuc", 1, 2, math.inf]))
    same("linalg.matrix_norm", x, ord=order, **keep, **near)
    if x.size:
        order = data.draw(st.sampled_from([0, 1, 2, 3, -1, math.inf, -math.inf]))
        same("linalg.vector_norm", x, ord=order, axis=any_axis(x, data.draw), **keep, **near)
        same("linalg.pinv", gram, **near)
        same("linalg.matrix_rank", gram)
    for name, fields in (("qr", "QR"), ("svd", ("U", "S", "Vh"))):
        out = getattr(ln.linalg, name)(ln.asarray(x))
        wanted = getattr(strict.linalg, name)(strict.asarray(x))
        assert out._fields == tuple(fields)
        assert [v.shape for v in out] == [v.shape for v in wanted]


# Dtypes, devices, signatures ----------------------------------------------------------------------


@pytest.mark.parametrize("a", ALL)
def test_pairs_of_dtypes(a: str) -> None:
    for b in ALL:
        check_pair(a, b)


def check_pair(a: str, b: str) -> None:
    same("result_type", np.dtype(a), np.dtype(b))
    same("result_type", np.ones(2, a), np.dtype(b))
    same("result_type", np.dtype(a), True if a == "bool" else 1)
    here = getattr(ln, a)
    kinds = ("bool", "signed integer", "unsigned integer", "integral", "real floating", "numeric")
    for kind in (*kinds, "complex floating", kinds[:2], np.dtype(b), (np.dtype(b), "bool")):
        same("isdtype", np.dtype(a), kind)
    assert (here == getattr(ln, b)) == (a == b)
    if np.can_cast(a, b) and np.dtype(a).kind == np.dtype(b).kind:
        assert ln.can_cast(here, getattr(ln, b)) is True
    fields = ("bits", "min", "max") + (("eps", "smallest_normal") if a in FLOATS else ())
    if a != "bool":
        info = (ln.finfo if a in FLOATS else ln.iinfo)(here)
        wanted = (strict.finfo if a in FLOATS else strict.iinfo)(getattr(strict, a))
        for f in fields:
            assert getattr(info, f) == getattr(wanted, f)
            assert type(getattr(info, f)) is type(getattr(wanted, f))
        assert info.dtype == here


def test_devices_and_exchange() -> None:
    info = ln.__array_namespace_info__()
    (cpu,) = info.devices()
    x = ln.asarray([1.0, 2.0])
    assert x.device == cpu == info.default_device() and x.to_device(cpu).device == cpu
    for device in (None, cpu):
        for made in (
            ln.arange(2, device=device),
            ln.asarray(x, device=device),
            ln.astype(x, ln.int8, device=device),
            ln.empty(2, device=device),
            ln.empty_like(x, device=device),
            ln.eye(2, device=device),
            ln.from_dlpack(np.ones(2), device=device, copy=True),
            ln.full(2, 1, device=device),
            ln.full_like(x, 1, device=device),
            ln.linspace(0, 1, 2, device=device),
            ln.ones_like(x, device=device),
            ln.zeros_like(x, device=device),
        ):
            assert made.device == cpu
    refused(ValueError, lambda: ln.ones(2, device="elsewhere"))
    for kw in ({}, {"max_version": (1, 0)}, {"dl_device": (1, 0)}, {"copy": True}):
        assert type(x.__dlpack__(**kw)).__name__ == "PyCapsule"
    assert x.__array_namespace__(api_version="2024.12") is ln
    refused(ValueError, lambda: x.__array_namespace__(api_version="2020.10"))
    assert set(info.dtypes()) == set(ALL)
    assert set(info.dtypes(kind=("bool", "real floating"))) == {"bool", *FLOATS}
    assert isinstance(info.capabilities()["max dimensions"], int)


def parameters(f: Callable[..., Any]) -> list[tuple[str, Any]]:
    return [(p.name, p.kind) for p in inspect.signature(f).parameters.values()]


ABSENT = {"conj", "real", "imag", "eig", "eigvals"}  # complex numbers


@pytest.mark.parametrize("space", ["", "linalg"])
def test_names_and_signatures(space: str) -> None:
    """Positional-only, keyword-only, and every argument's name; lantern may take more of them."""
    reference = getattr(strict, space) if space else strict
    module = getattr(ln, space) if space else ln
    for name in set(reference.__all__) - ABSENT:
        f = getattr(reference, name)
        if not inspect.isfunction(f) or "array_api_strict_flags" in name:
            continue
        found = dict(parameters(getattr(module, name)))
        for parameter, kind in parameters(f):
            assert found.get(parameter) == kind, f"{name}({parameter})"


def test_methods() -> None:
    x = ln.ones((2, 2))
    for name, _ in inspect.getmembers(strict._array_object.Array, inspect.isfunction):
        if name.startswith("__") and not name.startswith(("__i", "__init", "__buffer")):
            assert callable(getattr(x, name)), name
    assert parameters(x.__dlpack__) == parameters(strict.ones(1).__dlpack__)
    assert parameters(x.__array_namespace__) == parameters(strict.ones(1).__array_namespace__)
    assert x.mT.shape == x.T.shape == x.shape and x.ndim == 2 and x.size == 4


@settings(max_examples=20)
@given(make_strategies_namespace(ln).arrays(ln.float32, (2, 3)))
def test_hypothesis_makes_tensors(x: Any) -> None:
    """The consortium's suite builds its arrays this way."""
    assert isinstance(x, ln.Tensor) and x.shape == (2, 3) and x.dtype == ln.float32
