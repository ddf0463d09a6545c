"""The operation `linalg`: what each kind of decomposition gives, and what it means on NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from staging.failures import failure
from staging.ir import Op, Type

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
Types: TypeAlias = tuple[Type, ...]

SQUARE = ("solve", "inv", "slogdet", "cholesky", "eigh", "eigvalsh")
KINDS = (*SQUARE, "qr", "complete", "svd", "svdvals")


def types_of(kind: str, inputs: Types) -> Types:
    """The types of the results for stacks of matrices (..., m, n).

    Raises:
        ValueError: the inputs do not fit.
    """
    a = inputs[0]
    *lead, m, n = a.shape
    k = min(m, n)

    def stack(*shape: int) -> Type:
        return Type(a.dtype, (*lead, *shape))

    if kind in SQUARE and m != n:
        raise ValueError("takes square matrices")
    if kind in ("qr", "complete") and m < n:
        raise ValueError("takes matrices with no more columns than rows")
    if kind == "solve":
        if len(inputs) != 2 or inputs[1] != stack(n, inputs[1].shape[-1]):
            raise ValueError("takes right sides of the same dtype, batch axes and rows")
        return (inputs[1],)
    if len(inputs) != 1:
        raise ValueError("takes one input")
    given: dict[str, Callable[[], Types]] = {
        "inv": lambda: (a,),
        "slogdet": lambda: (stack(), stack()),
        "cholesky": lambda: (a,),
        "eigh": lambda: (stack(n), a),
        "eigvalsh": lambda: (stack(n),),
        "qr": lambda: (a, stack(n, n)),
        "complete": lambda: (stack(m, m),),
        "svd": lambda: (stack(m, k), stack(k), stack(k, n)),
        "svdvals": lambda: (stack(k),),
    }
    return given[kind]()


def complete(a: Array) -> Any:
    return np.linalg.qr(a, mode="complete")[0]


def svd(a: Array) -> Any:
    return np.linalg.svd(a, full_matrices=False)


def svdvals(a: Array) -> Any:
    return np.linalg.svd(a, compute_uv=False)


ROUTINES: dict[str, Callable[..., Any]] = {
    "solve": np.linalg.solve,
    "inv": np.linalg.inv,
    "slogdet": np.linalg.slogdet,
    "cholesky": np.linalg.cholesky,
    "eigh": np.linalg.eigh,
    "eigvalsh": np.linalg.eigvalsh,
    "qr": np.linalg.qr,
    "complete": complete,
    "svd": svd,
    "svdvals": svdvals,
}


def decompose(op: Op, arrays: list[Array]) -> tuple[Array, ...]:
    """The results of the operation.

    Raises:
        MatrixFailure: a matrix cannot be decomposed; names the first of the stack.
    """
    routine = ROUTINES[str(op.attributes["kind"])]
    try:
        results = routine(*arrays)
    except np.linalg.LinAlgError:
        for number, place in enumerate(np.ndindex(arrays[0].shape[:-2])):
            try:
                routine(*(a[place] for a in arrays))
            except np.linalg.LinAlgError:
                raise failure(op, 0, number) from None
        raise
    return tuple(results) if len(op.results) > 1 else (results,)
