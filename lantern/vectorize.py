"""`vmap`: a function of one example becomes a function of a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from lantern import tree
from lantern.batch import Batch
from lantern.control import unbox
from lantern.convert import asarray
from lantern.tensor import Tensor

__all__ = ["vmap"]


def vmap(f: Callable[..., Any]) -> Callable[..., Any]:
    """First slice: every leaf of every argument is batched along axis 0."""

    @functools.wraps(f)
    def batched(*args: Any) -> Any:
        leaves, structure = tree.flatten(args)
        tensors = [asarray(x) for x in leaves]
        prompt = Batch(tensors[0].shape[0])
        out = f(*tree.unflatten(structure, [Tensor(unbox(t), prompt) for t in tensors]))
        return tree.map(lambda y: _free(prompt.unbatch(y)), out)

    return batched


def _free(x: Any) -> Any:
    return x if type(x) is Tensor else Tensor(x)
