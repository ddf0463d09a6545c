"""The options of `lantern.compile`, checked when a function is compiled, not when it is called."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from lantern.errors import ArgumentError, StagingError

Which = str | int | Iterable[str | int]


@dataclass(frozen=True)
class Arguments:
    """Some of the arguments of a function, by position and by name."""

    positions: frozenset[int] = frozenset()
    names: frozenset[str] = frozenset()

    def __contains__(self, which: int | str) -> bool:
        return which in self.positions or which in self.names

    def __bool__(self) -> bool:
        return bool(self.positions or self.names)


@dataclass(frozen=True)
class Options:
    """See `lantern.compile`; ``passes`` is None for those of the backend."""

    backend: str = "interpreter"
    donate: Arguments = Arguments()
    static: Arguments = Arguments()
    dynamic: Arguments = Arguments()
    passes: tuple[Any, ...] | None = None
    threads: int | None = None
    cache: str | None = None
    check_nans: bool = False
    rewrite: bool = True
    careful: bool = False


def arguments(f: Callable[..., Any], which: Which, option: str) -> Arguments:
    """The arguments that an option names.

    Raises:
        ArgumentError: the function has no such argument.
    """
    wanted = [which] if isinstance(which, (str, int)) else list(which)
    if not wanted:
        return Arguments()
    try:
        params = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):  # a function of C, which does not tell
        return Arguments(
            frozenset(w for w in wanted if isinstance(w, int)),
            frozenset(w for w in wanted if isinstance(w, str)),
        )
    plain = [p.name for p in params if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    names = {p.name for p in params if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    more = any(p.kind is p.VAR_POSITIONAL for p in params)
    others = any(p.kind is p.VAR_KEYWORD for p in params)
    positions, named = set[int](), set[str]()
    for w in wanted:
        if isinstance(w, str) and (w in names or w in plain or others):
            named |= {w} & names if w in plain else {w}
            positions |= {plain.index(w)} if w in plain else set()
        elif isinstance(w, int) and (0 <= w < len(plain) or (more and w >= 0)):
            positions.add(w)
            named |= {plain[w]} & names if w < len(plain) else set()
        else:
            shown = ", ".join(p.name for p in params)
            raise ArgumentError(f"compile({option}={w!r}): the function has arguments ({shown})")
    return Arguments(frozenset(positions), frozenset(named))


def checked(
    f: Callable[..., Any],
    backend: str | None,
    donate: Which,
    static: Which,
    dynamic: Which,
    passes: Iterable[Any] | None,
    threads: int | None,
    cache: str | os.PathLike[str] | bool,
    check_nans: bool,
    rewrite: bool,
    careful: bool,
) -> Options:
    """The options for a function.

    Raises:
        StagingError: there is no such backend.
        ArgumentError: another option is not what it should be.
    """
    from lantern.staged.executables import BACKENDS, default_backend
    from lantern.staged.store import default_folder

    backend = backend or default_backend()
    if backend not in BACKENDS:
        raise StagingError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")
    if threads is not None and threads < 1:
        raise ArgumentError(f"compile(threads={threads}): at least one thread is needed")
    given, kept = arguments(f, donate, "donate"), arguments(f, static, "static")
    tables = arguments(f, dynamic, "dynamic")
    for others, what in ((given, "donated"), (tables, "dynamic")):
        if both := (others.positions & kept.positions) or (others.names & kept.names):
            raise ArgumentError(f"compile: {sorted(both)} cannot be both {what} and static")
    folder = default_folder() if cache is True else None if cache is False else os.fspath(cache)
    chain = None if passes is None else tuple(passes)
    return Options(
        backend, given, kept, tables, chain, threads, folder, check_nans, rewrite, careful
    )
