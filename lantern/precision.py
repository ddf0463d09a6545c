"""Mixed precision: parameters in float32, computation in a narrower dtype."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lantern import tree
from lantern.dtypes import bfloat16
from lantern.errors import ArgumentError, DTypeError
from lantern.kinds import convert_to
from lantern.promotion import is_floating
from lantern.syntax.calls import rewritten
from lantern.tensor import Tensor

__all__ = ["mixed_precision"]

PyTree = Any


def mixed_precision(
    f: Callable[..., PyTree],
    dtype: Any = bfloat16,
    *,
    argnums: int | Sequence[int] = 0,
    keep: Callable[[str], bool] | None = None,
) -> Callable[..., PyTree]:
    """The same function, computed in a narrow dtype; derivatives are in that of the arguments.

    The floating arrays among the chosen arguments are cast first, so what ``f`` makes of them is
    stored narrow: activations, keys and values. Products of matrices add up in float32;
    normalisation, softmax, attention, rotary embedding and cross-entropy compute in float32 and
    round their result, or give it in float32 (losses). `grad` of the result goes back through the
    casts: parameters, gradients and the optimiser's state stay float32.

    Args:
        f: a function of pytrees, such as a loss of parameters and data.
        dtype: bfloat16 or float16. The latter has a small range: scale the loss.
        argnums: which positional arguments to cast; the first, unless given.
        keep: which arrays not to cast, by their path in the argument as `tree.paths` writes it. A
            large table of embeddings is read by rows, and the matrix of `nn.linear_cross_entropy`
            in chunks: a copy of it would only take memory.

    Returns:
        A function with the arguments and results of ``f``.

    Raises:
        DTypeError: a dtype that is not narrow.
        ArgumentError: there is no such argument.

    Example:
        >>> import lantern as ln
        >>> half = ln.mixed_precision(lambda w, x: (w * x).astype(ln.float32), argnums=(0, 1))
        >>> value, slope = ln.value_and_grad(half)(ln.asarray(1.001), ln.asarray(2.0))
        >>> print(value, slope, slope.dtype)
        2.0 2.0 float32
    """
    narrow = np.dtype(dtype)
    if not is_floating(narrow) or narrow.itemsize != 2:
        raise DTypeError(f"mixed_precision: dtype {narrow}; expected bfloat16 or float16")
    chosen = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    def cast(x: Any) -> Any:
        wide = isinstance(x, (Tensor, np.ndarray)) and is_floating(x.dtype)
        return convert_to(Tensor(x) if isinstance(x, np.ndarray) else x, narrow) if wide else x

    def cast_all(argument: PyTree) -> PyTree:
        leaves, structure = tree.flatten(argument)
        kept = [keep is not None and keep(path) for path in tree.paths(argument)]
        cast_leaves = [x if k else cast(x) for x, k in zip(leaves, kept, strict=True)]
        return tree.unflatten(structure, cast_leaves)

    @functools.wraps(f)
    def narrowed(*args: PyTree, **kwargs: PyTree) -> PyTree:
        for i in chosen:
            if not -len(args) <= i < len(args):
                raise ArgumentError(f"mixed_precision: there is no positional argument {i}")
        places = {i % len(args) for i in chosen}
        given = (cast_all(a) if i in places else a for i, a in enumerate(args))
        return rewritten(f)(*given, **kwargs)

    return narrowed
