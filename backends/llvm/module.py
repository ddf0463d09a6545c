"""`Module`: what a program became."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from staging.ir import Op


@dataclass(slots=True)
class Module:
    """What a program became, before it is compiled.

    Attributes:
        source: LLVM IR; the entry is ``@run``.
        brief: functions that are not worth optimising unless a loop calls them.
        arena: the bytes that a call works in.
        kept: for each result, the donated parameter in whose memory it lies, if it lies in one's.
        fallible: the operations that may fail: the entry returns the place in this list plus 1.
        shown: the operations that print: the entry calls back with the place in this list.
        threads: how many threads the work is divided for; which of a pool's runs what is left open,
            and the results are the same with fewer threads, or none.
        parallel: whether any work is divided.
        lists: the bytes of the largest element that a loop reads of a list; 0 if there is no list.
        merges: whether there are sums of nodes.
        loops: whether a loop looks whether the user interrupts it.
        exports: the names that can be looked up once it is compiled.
        alignment: where the arena begins is a multiple of this.
    """

    source: str = ""
    brief: frozenset[str] = frozenset()
    arena: int = 0
    kept: tuple[int | None, ...] = ()
    fallible: list[Op] = field(default_factory=list)
    shown: list[Op] = field(default_factory=list)
    threads: int = 1
    parallel: bool = False
    lists: int = 0
    merges: bool = False
    loops: bool = False
    exports: tuple[str, ...] = ("run",)
    alignment: int = 1

    @property
    def imports(self) -> list[str]:
        """The functions of BLAS and LAPACK that it declares."""
        return re.findall(r"declare \w+ @(scipy_\w+)", self.source)
