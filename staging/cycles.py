"""Calls inside of themselves: a call of a recursion with the arguments of one that waits for it
makes the same calls again, and so never ends.

One call is watched at a time, and those inside of it are compared with it. When they are twice as
deep as where it stands, the call there is watched instead (Brent's way to find cycles): so a cycle
is found before calls are a few times as deep as where it begins, at the cost of one comparison a
call. Where fewer than `FIRST` calls wait nothing is watched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

FIRST = 1000


class Watch:
    """The call that is watched.

    Attributes:
        depth: how many calls wait for those inside of it; 0 if there is none.
    """

    def __init__(self) -> None:
        self.depth, self.next = 0, FIRST
        self.function: Any = None
        self.args: Sequence[Any] = ()

    def repeats(self, function: Any, args: Sequence[Any], depth: int) -> bool:
        """Whether a call, for which so many others wait, is inside of itself."""
        if self.depth and function is self.function and alike(args, self.args):
            return True
        if depth > self.next:
            self.function, self.args, self.depth, self.next = function, args, depth, 2 * depth
        return False

    def end(self) -> None:
        """The call that is watched has given its results."""
        self.depth = 0


def alike(args: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether arguments are the same, bit for bit. Of arrays with axes, only the very same are."""
    return all(a is b or (is_number(a) and a.tobytes() == b.tobytes())
               for a, b in zip(args, others, strict=True))  # fmt: skip


def is_number(x: Any) -> bool:
    """Whether a value is a number in the memory of the host."""
    return isinstance(x, (np.ndarray, np.generic)) and x.ndim == 0
