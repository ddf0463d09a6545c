"""What a program does beside computing: it prints, or ends with an error."""

from __future__ import annotations

from typing import Any

import numpy as np

from lantern.control import Primitive, bound
from lantern.errors import AssertionFailedError, BatchingError, LimitError
from lantern.primitives.reductions import all_of

Batches = tuple[tuple[int, tuple[bool, ...]], ...]


def _show(*values: Any, format: str, batches: Batches) -> Any:
    if not batches:
        print(format.format(*map(np.asarray, values)))
    else:
        (size, mapped), *rest = batches
        for i in range(size):
            one = (v[i] if m else v for v, m in zip(values, mapped, strict=True))
            _show(*one, format=format, batches=tuple(rest))
    return np.bool_(False)


def _batch_show(
    perform: Any, size: int, mapped: tuple[bool, ...], *values: Any, format: str, batches: Batches
) -> Any:
    return perform(*values, format=format, batches=((size, mapped), *batches))


# Print values by ``format``, whose fields are numbered; one line for each element of a batch. The
# batches are those that are open, the outermost first: how many elements, and which values have an
# axis for them in front. The result, a boolean, means nothing.
show = bound(Primitive("print", _show, None, _batch_show, effect=True))


def _require(holds: Any, *, message: str) -> Any:
    if not holds:
        raise AssertionFailedError(message)
    return np.bool_(False)


def _batch_require(
    perform: Any, size: int, mapped: tuple[bool, ...], holds: Any, *, message: str
) -> Any:
    raise BatchingError(
        f"`assert` of a Tensor inside ln.vmap: it is {size} values, of which some may belong to "
        "branches that are not taken; check the results instead"
    )


# Stop with an error unless a boolean holds. The result means nothing.
require = bound(Primitive("require", _require, None, _batch_require, effect=True))


def _within_limit(holds: Any, *, message: str) -> Any:
    if not np.all(holds):
        raise LimitError(message)
    return np.bool_(False)


def _batch_within_limit(
    perform: Any, size: int, mapped: tuple[bool, ...], holds: Any, *, message: str
) -> Any:
    return perform(all_of(holds, axes=tuple(range(holds.ndim))), message=message)


# Stop with an error unless a boolean, or each of an array, holds: the limit of a recursion.
within_limit = bound(Primitive("limit", _within_limit, None, _batch_within_limit, effect=True))
