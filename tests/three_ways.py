"""Running a function eagerly, by the reference interpreter and as native code, and comparing.

A function is staged once for both backends. LLVM takes longest, so tests put many cases into one
function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import lantern as ln
from backends.llvm import compile_program
from lantern.convert import asarray
from lantern.staged.tracing import Traced, trace
from lantern.tensor import Tensor
from staging.interpret import interpret
from staging.pipeline import optimise
from staging.verify import verify

Array = np.ndarray[Any, Any]


def traced(f: Callable[..., Any], *args: Any) -> tuple[Traced, list[Array]]:
    """What a function records, and the arrays that its program is given."""
    leaves, structure = ln.tree.flatten((args, {}))
    leaves = [asarray(x) if isinstance(x, (np.ndarray, float, int)) else x for x in leaves]
    kinds = [(x.shape, x.dtype) if type(x) is Tensor else None for x in leaves]
    names = [f"x{i}" for i in range(len(leaves))]
    found = trace(f, "cases", structure, leaves, kinds, names, {})
    arrays = [np.asarray(x.value, order="C") for x in leaves if type(x) is Tensor]
    return found, [*arrays, *found.captured]


def staged(f: Callable[..., Any], *args: Any) -> list[tuple[str, Any]]:
    """What each backend gives, in the structure of the results of ``f``."""
    recorded, arrays = traced(f, *args)
    native = compile_program(verify(optimise(recorded.program)))
    found = (("interpreter", interpret(recorded.program, arrays)), ("llvm", native(arrays)))
    return [(name, ln.tree.unflatten(recorded.structure, results)) for name, results in found]


def agree(f: Callable[..., Any], *args: Any, ulps: float = 0, exact: bool = False) -> None:
    """The three give the same structure, dtypes and shapes; integers and booleans to the bit.

    Args:
        f: a function of tensors.
        args: what it is called with.
        ulps: how far floats may be apart, in units in the last place.
        exact: whether that is of each element, signs of zeros included, and not relative to the
            largest of an array too: sums of terms of both signs are only as exact as the terms.
    """
    with np.errstate(all="ignore"):
        eager = f(*args)
        for backend, found in staged(f, *args):
            same(found, eager, ulps, backend, exact)


def same(got: Any, want: Any, ulps: float, what: str = "", exact: bool = False) -> None:
    """Two pytrees of arrays; see `agree`."""
    assert ln.tree.structure(got) == ln.tree.structure(want), what
    paths = ln.tree.paths(want)
    for a, b, path in zip(ln.tree.leaves(got), ln.tree.leaves(want), paths, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        where = f"{what} {path}"
        assert (a.dtype, a.shape) == (b.dtype, b.shape), where
        if b.dtype.kind in "biu":
            np.testing.assert_array_equal(a, b, where)
            continue
        limits = ln.finfo(b.dtype)
        eps, smallest = float(limits.eps), float(limits.smallest_normal)
        a, b = a.astype(np.float64), b.astype(np.float64)
        if exact:
            signs = np.where(np.isnan(b), False, np.signbit(a) != np.signbit(b))
            assert not signs.any(), where
            scale = smallest
        else:
            scale = float(np.max(np.abs(b), where=np.isfinite(b), initial=0)) / 16
        np.testing.assert_allclose(a, b, ulps * eps, scale * ulps * eps, True, where)
