"""What is staged: known when the program runs, not while it is written."""

from __future__ import annotations

from typing import Any

import numpy as np

from lantern.batch import Batch
from lantern.errors import ArgumentTypeError, describe
from lantern.ops.logic import not_equal
from lantern.symbol import Symbol
from lantern.tensor import Tensor


def is_staged(x: Any) -> bool:
    """Whether Python cannot decide by a value: it is one of a program, or differs in a batch."""
    while type(x) is Tensor:
        if isinstance(x.prompt, Batch):
            return True
        x = x.value
    return type(x) is Symbol


def truth(x: Tensor, what: str) -> Tensor:
    """A staged value as the boolean that Python would make of it.

    Raises:
        ArgumentTypeError: it has axes.
    """
    if x.shape != ():
        raise ArgumentTypeError(
            f"{what} of {describe(x)}: only Tensors without axes are true or false; reduce it "
            "first, for example with ln.any or ln.all, or choose elements with ln.where"
        )
    return x if x.dtype.kind == "b" else not_equal(x, np.zeros((), x.dtype)[()])
