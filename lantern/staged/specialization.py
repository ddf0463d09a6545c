"""A program for arguments of certain kinds, and whether a call may use it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np

from lantern.checks import checking
from lantern.errors import StagingError
from lantern.lengths import Length
from lantern.staged.donation import Graves
from lantern.staged.fingerprint import Fingerprint
from lantern.staged.given import Given, alike
from lantern.staged.lengths import Argument, Kinds, Pattern
from lantern.staged.options import Options
from lantern.symbol import Symbol
from lantern.syntax.calls import rewriting

PyTree = Any
Array = np.ndarray[Any, Any]
Executable = Callable[[list[Array]], list[Array]]
"""What runs a program on arrays."""


class Specialization:
    """A program for arguments of certain kinds, while what the function reads stays as it was.

    Attributes:
        traced: the program as it was written, before any pass, and what belongs to it.
        names: of the arguments' leaves, as they are written in the function.
        shown: what these were, for people.
        places: which of the leaves are arrays.
        arrays: the names of these.
        donated: the positions, among the latter, of those that are given away.
        donors: the positions of these among the leaves.
        graves: what is left of them.
        reads: what else the function read when it was traced.
        fingerprint: of that, as it was last.
        kinds: of the arguments' leaves, with a `Length` for what is known only when it runs.
        pattern: compares others with those, where there is such a length.
        execute: what runs the program; made when it is first called.
        run: the same for arrays of the right kinds, which are not looked at again.
    """

    def __init__(
        self, f: Callable[..., PyTree], name: str, given: Given, fingerprint: Fingerprint,
        chosen: Options, kinds: Kinds, lengths: Mapping[Length, Argument],
    ) -> None:  # fmt: skip
        from lantern.staged.tracing import argument_names, trace  # when something is compiled

        self.structure, self.kinds, self.statics = given.structure, kinds, given.statics
        self.pattern = Pattern(kinds) if lengths else None
        self.checked = given.checked
        self.fingerprint, self.reads = fingerprint, fingerprint.reads
        self.names, self.origins = argument_names(f, given.structure, given.leaves)
        self.shown = [
            repr(x) if kind is None else f"{kind[1]}{list(kind[0])}"
            for x, kind in zip(given.leaves, kinds, strict=True)
        ]
        self.places = found = [i for i, kind in enumerate(kinds) if kind is not None]
        self.arrays = [self.names[i] for i in found]
        self.donated = tuple(k for k, i in enumerate(found) if self.origins[i] in chosen.donate)
        watch = checking() if chosen.check_nans else nullcontext()
        with watch, rewriting(chosen.rewrite, f, kinds):
            self.traced = trace(
                given.bound(f), name, given.structure, given.leaves, kinds, self.names,
                fingerprint.arrays(), tuple(k for k in self.donated if given.leaves[found[k]].ndim),
            )  # fmt: skip
        self.donors = [found[k] for k in self.donated]
        self.graves = Graves([self.arrays[k] for k in self.donated], name)
        self.execute: Executable | None = None
        self.run: Executable | None = None

    def ready(self, execute: Executable) -> Executable:
        """Take what runs the program; returns ``run``."""
        self.execute = execute
        self.run = run = getattr(execute, "trusting", execute)  # of a backend that gains by it
        return run

    def argument(self, which: Argument) -> str:
        """What an argument is called."""
        name = self.names[self.origins.index(which)]
        return re.split(r"[.\[]", name, maxsplit=1)[0]

    def fits(self, given: Given) -> bool:
        """Whether arguments are of its kinds, and all else is as it was: quick, and false too often
        where that is only equal."""
        return (
            # Of calls that are put together alike it is one object, as a `Layout` keeps it.
            (self.structure is given.structure or self.structure == given.structure)
            and (
                self.kinds == given.kinds
                if self.pattern is None
                else self.pattern.admits(given.kinds)
            )
            and self.checked == given.checked
            and alike(self.statics, given.statics)
            and self.fingerprint.unchanged()
        )


def refuse_leaks(one: Specialization, after: Fingerprint) -> None:
    """Refuse a function that leaves values of its program where it finds them the next time.

    Raises:
        StagingError: it does; with the line that made the value.
    """
    for read, x in after.tensors():
        if x.prompt is None and type(x.value) is Symbol and x.value.stage is one.traced.stage:
            stage = x.value.stage
            raise StagingError(
                f"{read.path}, which {read.reader} reads, holds a value{stage.origin(x.value)} "
                "after the function has returned. It has leaked: it has no elements. A compiled "
                "function runs as Python only once, so it cannot fill lists or attributes; return "
                "the value instead"
            )
