"""`compile`: run a function once on Symbols, and from then on run the program that this wrote."""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from types import MethodType
from typing import TYPE_CHECKING, Any

import numpy as np

from lantern import tree
from lantern.control import box
from lantern.errors import ArgumentError, StagingError
from lantern.lengths import Length, Unsized, is_table, needing
from lantern.ragged import Empty
from lantern.staged import donation, options
from lantern.staged.bound import Bound
from lantern.staged.explain import explanation, warn_if_often
from lantern.staged.fingerprint import Fingerprint
from lantern.staged.given import Given, Taker, arrays, as_given, ndarray
from lantern.staged.insight import Insight
from lantern.staged.lengths import Argument, Kinds, opened
from lantern.staged.options import Arguments, Options, Which
from lantern.staged.specialization import Executable, Specialization, refuse_leaks
from lantern.syntax.calls import rewriting
from lantern.tensor import Tensor

if TYPE_CHECKING:
    from lantern.regions import Block
    from lantern.staged.tracing import Traced
    from staging.ir import Program
    from staging.pipeline import Pass

__all__ = ["compile"]

PyTree = Any
Array = np.ndarray[Any, Any]
Recorded = tuple["Block", list[Tensor], Any, Fingerprint]

# What the failures of programs (`staging.failures`) are, which are imported when there is one.
FAILURES = (
    ArithmeticError,
    AssertionError,
    IndexError,
    MemoryError,
    RuntimeError,
    np.linalg.LinAlgError,
)


class Compiled(Insight):
    """A function that runs as a program; see `compile`."""

    def __init__(
        self, f: Callable[..., PyTree], chosen: Options, kinds: Kinds | None = None
    ) -> None:
        self.f, self.options = f, chosen
        self.kinds = kinds  # of all arguments, where they are known before
        self.given = Taker(chosen).given
        self.taken = as_given if chosen.backend.startswith("cuda") else arrays
        self.recent: list[Specialization] = []
        self.known: dict[Hashable, Specialization] = {}
        self.pinned: dict[tree.Structure, dict[Argument, str]] = {}
        self.closed: set[tree.Structure] = set()
        self.history: list[Specialization] = []
        self.executables: dict[bytes, Executable] = {}
        self.blocks: dict[Hashable, Recorded] = {}
        self.natives: dict[Block, Callable[..., tuple[Any, ...]]] = {}
        self.lock = threading.RLock()
        self.__name__ = getattr(f, "__name__", type(f).__name__)
        functools.update_wrapper(self, f)

    def __repr__(self) -> str:
        return f"<compiled {self.__name__}, {self.specializations} specializations>"

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __call__(self, *args: PyTree, **kwargs: PyTree) -> PyTree:
        given = self.given(args, kwargs)
        if given.inside:
            return self.inside(given)
        one = self.specialize(given)
        return self.perform(one, one.run or one.ready(self.executable(one)), given)

    def bind(self, *args: PyTree) -> Bound:
        """The function with its first arguments fixed, which then cost a call nothing: they are
        taken apart once. Such are the parameters of a model that writes text.

        What is put into their containers later is not seen; nor are changes of variables that the
        function reads, as long as the arguments that are left are of the same kinds as before.

        Args:
            *args: the first arguments.

        Returns:
            A function of the arguments that are left.

        Raises:
            ArgumentError: one of them is donated, or the function has static arguments.

        Example:
            >>> import lantern as ln
            >>> scaled = ln.compile(lambda w, x: w["scale"] * x).bind({"scale": ln.asarray(2.0)})
            >>> print(scaled(ln.asarray([1.0, 3.0])))
            [2. 6.]
        """
        return Bound(self, args)

    def perform(self, one: Specialization, execute: Executable, given: Given) -> PyTree:
        """Run the program of a specialization."""
        if len(given.values) < len(one.arrays):
            raise ArgumentError(f"{self.__name__}: a call needs arrays, not ShapeDtype")
        try:
            if one.donated:
                results = self.donate(one, execute, given)
            else:
                results = execute(self.taken((*given.values, *one.traced.captured)))
        except FAILURES as problem:
            from lantern.staged.failures import eager

            raise eager(problem) from None
        return tree.unflatten(
            one.traced.structure,
            [Tensor(y if y.ndim or type(y) is not ndarray else y[()]) for y in results],
        )

    def inside(self, given: Given) -> PyTree:
        """A call inside another compiled function, or of a derivative or a batch.

        In a program that is being written the function is a block, written once. Elsewhere the
        derivative or batch is taken of a recorded block, and what it needs of that is compiled.
        """
        from lantern import blocks, loops
        from lantern.traces import current_trace

        if current_trace() is not None:
            f = given.bound(self.f)
            args, kwargs = tree.unflatten(given.structure, given.leaves)
            with rewriting(self.options.rewrite, self.f, given.kinds):
                return loops.outline(f)(*args, **kwargs)
        kinds = self.constant_tables(given)
        try:
            recorded = self.recorded(given, kinds)
        except Exception:
            if kinds is given.kinds:
                raise
            self.closed.add(given.structure)  # the function needs a length: it is one for each
            recorded = self.recorded(given, given.kinds)
        block, captures, structure, _ = recorded
        arrays = [x for x in given.leaves if type(x) is Tensor]
        results = blocks.call(block, *arrays, *captures, run=self.native)
        return tree.unflatten(structure, [box(y) for y in results])

    def constant_tables(self, given: Given) -> Kinds:
        """The kinds of arguments with lengths for tables, where these are constants of a derivative
        outside of the program."""
        from lantern.agendas import prompts_of
        from lantern.batch import Batch

        if given.structure in self.closed or any(
            type(p) is Batch for x in given.leaves for p in prompts_of(x)
        ):
            return given.kinds
        kinds, lengths = opened(given.structure, given.kinds, self.options.dynamic, (), Arguments())
        held = any(
            x.prompt is not None
            for x, kind in zip(given.leaves, kinds, strict=True)
            if kind and is_table(kind[0])
        )
        return kinds if lengths and not held else given.kinds

    def recorded(self, given: Given, kinds: Kinds) -> Recorded:
        """The function of arguments of some kinds as a block, recorded if there is none yet."""
        from lantern import loops
        from lantern.traces import tracing

        fingerprint = Fingerprint(self.f, *given.statics)
        key = given.structure, tuple(kinds), given.places, fingerprint.key
        if key not in self.blocks:
            if len(self.blocks) >= RECENT:  # which may close over what is gone
                self.blocks.clear()
                self.natives.clear()
            leaves = [
                Tensor(Empty(*kind)) if kind and is_table(kind[0]) else x
                for x, kind in zip(given.leaves, kinds, strict=True)
            ]
            with (
                tracing(),
                rewriting(self.options.rewrite, self.f, kinds),
                needing(frozenset()) as needs,
            ):
                recorded = loops.record(given.bound(self.f), leaves, given.structure)
            if needs.met:
                raise needs.met[0]
            after = Fingerprint(self.f, *given.statics)
            self.blocks[key] = self.blocks[(*key[:-1], after.key)] = (*recorded, after)
        return self.blocks[key]

    def native(self, block: Block) -> Callable[..., tuple[Any, ...]]:
        """A block, or a half or a batch of one, as a compiled function of arrays."""
        if block not in self.natives:

            def perform(*values: Tensor) -> tuple[Any, ...]:
                return tuple(map(box, block(*values)))

            perform.__name__ = self.__name__
            none = Arguments()
            plain = replace(self.options, donate=none, static=none, dynamic=none)
            kinds: Kinds = [block.kind(p) for p in block.params]
            tables = any(is_table(kind[0]) for kind in kinds if kind)
            compiled = Compiled(perform, plain, kinds if tables else None)
            self.natives[block] = lambda *xs: tuple(y.value for y in compiled(*map(Tensor, xs)))
        return self.natives[block]

    def specialize(self, given: Given, open: bool = True) -> Specialization:
        """The specialization for arguments like these, traced if there is none yet.

        Args:
            given: the arguments.
            open: whether it may be one for arguments of several lengths.
        """
        for one in self.recent:
            if (open or one.pattern is None) and one.fits(given):
                return one
        with self.lock:
            fingerprint = Fingerprint(self.f, *given.statics)
            one = None
            while one is None:
                one = self.attempt(given, fingerprint, open)
            one.statics = given.statics
            self.recent = [one, *(other for other in self.recent if other is not one)][:RECENT]
            return one

    def attempt(self, given: Given, fingerprint: Fingerprint, open: bool) -> Specialization | None:
        """The specialization, traced if there is none yet; None if there can be none for every
        length of some arguments, which are pinned then."""
        pinned = self.pinned.setdefault(given.structure, {})
        kinds, lengths = given.kinds, {}
        if self.kinds is not None:
            kinds = self.kinds
            lengths = {kind[0][0]: 0 for kind in kinds if kind and is_table(kind[0])}
        elif open:
            chosen = self.options
            kinds, lengths = opened(given.structure, kinds, chosen.dynamic, pinned, chosen.donate)
        key = given.structure, tuple(kinds), given.places, given.checked, fingerprint.key
        if key in self.known:
            self.known[key].fingerprint = fingerprint
            return self.known[key]
        named = frozenset(n for n, which in lengths.items() if which in self.options.dynamic)
        with needing(named) as needs:
            try:
                one = Specialization(
                    self.f, self.__name__, given, fingerprint, self.options, kinds, lengths
                )
            except Exception:
                if not self.pin(pinned, lengths, needs.met):
                    raise
                return None
        if needs.met:
            if not self.pin(pinned, lengths, needs.met):
                raise needs.met[0]
            return None
        # What the function itself changes, such as a count of its runs, is no change.
        one.fingerprint = Fingerprint(self.f, *given.statics)
        refuse_leaks(one, one.fingerprint)
        self.known[key] = self.known[(*key[:-1], one.fingerprint.key)] = one
        self.history.append(one)
        return one

    def pin(
        self, pinned: dict[Argument, str], lengths: Mapping[Length, Argument], met: list[Unsized]
    ) -> bool:
        """Pin the arguments whose lengths are needed, all of them where no error says which.
        Returns whether there were any; those that an option names stay as they are."""
        places = {problem.length: problem.place for problem in met} or dict.fromkeys(lengths, "")
        found = {lengths[n]: place for n, place in places.items() if n in lengths}
        if self.kinds is not None:
            return False
        found = {which: at for which, at in found.items() if which not in self.options.dynamic}
        pinned |= found
        return bool(found)

    def executable(self, one: Specialization) -> Executable:
        """What runs a program; the same for programs of the same text."""
        from lantern.staged.executables import executable

        with self.lock:
            program = one.traced.program
            text = str(program)
            key = hashlib.sha256(text.encode()).digest()
            if key not in self.executables:
                self.executables[key] = executable(program, text, self.options)
                warn_if_often(self.__name__, self.history)
            return self.executables[key]

    def donate(self, one: Specialization, execute: Executable, given: Given) -> list[Array]:
        """Run a program that may write over some arguments; their Tensors are dead afterwards."""
        values, captured = given.values, one.traced.captured
        donors = [given.leaves[i] for i in one.donors]
        for k, x in zip(one.donated, donors, strict=True):
            if type(x) is not Tensor:
                values[k] = np.array(x)
        donation.check(one.traced.program.donated, values, one.arrays, captured)
        try:
            return execute(self.taken((*values, *captured)))
        finally:
            one.graves.bury(donors)

    # What there is to see.

    @property
    def specializations(self) -> int:
        """How many times the function has been traced and kept."""
        return len(self.history)

    def explain(self) -> str:
        """Why the function was compiled the last time: what differs from the most similar earlier
        time: an argument's shape, dtype or structure, a static value, or a variable that the
        function, or one that it calls, reads."""
        if not self.history:
            return f"{self.__name__} has not been called yet"
        last = self.history[-1]
        found = [explanation(self.__name__, last, self.history[:-1])]
        for which, place in self.pinned.get(last.structure, {}).items():
            name = last.argument(which)
            where = f", which is needed at {place}" if place else ""
            found.append(f"  there is a program for each length of {name}{where}")
        return "\n".join(found)

    def outside(self, args: tuple[PyTree, ...], kwargs: dict[str, PyTree]) -> Given:
        """Arguments, or `ShapeDtype` in place of these, of what is not a call."""
        given = self.given(args, kwargs)
        if given.inside:
            raise StagingError(
                f"{self.__name__}: an argument belongs to a transformation that is going on; to "
                "look at the program, give arrays, or ln.ShapeDtype(shape, dtype)"
            )
        return given

    def traced(self, args: tuple[PyTree, ...], kwargs: dict[str, PyTree]) -> Traced:
        """The program for some arguments, or `ShapeDtype` in place of these."""
        return self.specialize(self.outside(args, kwargs)).traced

    def program(self, *args: PyTree, **kwargs: PyTree) -> Program:
        """The program for these arguments, before any pass."""
        return self.traced(args, kwargs).program

    def ir(self, *args: PyTree, stage: str = "traced", **kwargs: PyTree) -> str:
        """The program for these arguments, as text.

        Args:
            *args: the arguments, or `ShapeDtype` in place of arrays.
            stage: ``"traced"``, as it was written; the name of a pass, after that; or
                ``"optimised"``, after all of them.
            **kwargs: more arguments.
        """
        from lantern.staged.executables import stages

        program = self.program(*args, **kwargs)
        found = stages(program, self.options) if stage != "traced" else {"traced": program}
        if stage not in found:
            raise ArgumentError(f"ir(stage={stage!r}): there are traced, {', '.join(found)}")
        return str(found[stage])

    def source(self, *args: PyTree, **kwargs: PyTree) -> str:
        """The LLVM IR that the program for these arguments becomes, or the CUDA C++."""
        from lantern.staged.executables import native_source

        return native_source(self.program(*args, **kwargs), self.options, assembly=False)

    def asm(self, *args: PyTree, **kwargs: PyTree) -> str:
        """The machine code, for this CPU, of the program for these arguments."""
        from lantern.staged.executables import native_source

        return native_source(self.program(*args, **kwargs), self.options, assembly=True)


RECENT = 8  # specializations that a call is compared with at first sight


def compile(
    f: Callable[..., PyTree] | None = None,
    *,
    backend: str | None = None,
    donate: Which = (),
    static: Which = (),
    dynamic: Which = (),
    passes: Iterable[Pass] | None = None,
    threads: int | None = None,
    cache: str | os.PathLike[str] | bool = True,
    check_nans: bool = False,
    rewrite: bool = True,
    careful: bool = False,
) -> Any:
    """Compile a function: run it once on symbols, then run what it wrote down.

    Tensors, NumPy arrays and numbers among the arguments are inputs of the program, and so are the
    Tensors and arrays that ``f`` closes over. Everything else is static: with another value of it,
    the function is compiled again, and also where a variable changes that ``f``, or a function that
    it calls, reads. What ``f`` does besides computing arrays, such as printing, happens only then.

    Args:
        f: a function of pytrees; without it, `compile` is a decorator with options.
        backend: ``"llvm"``, native code for this CPU, the default; ``"cuda"``, an NVIDIA GPU, on
            which results stay until NumPy or eager code asks for their elements;
            ``"cuda-emulated"``, the same kernels on the CPU, slowly, for tests; ``"interpreter"``,
            the reference, which runs on NumPy.
        donate: arguments, by name or position, whose memory results may take over. Their Tensors
            cannot be used afterwards.
        static: arguments that are not inputs, whatever they are.
        dynamic: arguments whose arrays may have any length along their first axis, so that one
            program serves for all; to need the length is an error then. A container with a column
            of integers, such as a tree as arrays of indices, is compiled so by itself, and again
            for each length if ``f`` needs that; one that is donated is not.
        passes: what improves the program before the backend gets it; by default
            ``staging.pipeline.DEFAULT``.
        threads: how many threads to divide the work among; by default one for each core, or one
            where there is too little to divide.
        cache: the folder where programs are kept for later processes; True is the user's cache
            folder, False none.
        check_nans: whether the program checks, as inside `lantern.debug.check_nans`.
        rewrite: whether ``if``, ``while``, ``for``, ``and`` and so on may depend on values of the
            program, in ``f`` and in functions of yours that it calls.
        careful: whether to wait for a GPU after each operation, so that what fails there is
            reported at your line; slow.

    Returns:
        A function with the arguments and results of ``f``. Of it, ``ir(*args)`` shows the program,
        ``source(*args)`` and ``asm(*args)`` what it becomes, ``explain()`` why it was compiled the
        last time, and ``specializations`` is how many times that was; ``bind(*args)`` fixes its
        first arguments.

    Raises:
        StagingError: ``f`` needs the elements of an array to go on, or uses what cannot be
            compiled.
        ArgumentError: an option names an argument that ``f`` does not have.
        DonatedError: an argument cannot be donated, as something else holds its memory.

    Example:
        >>> import lantern as ln
        >>> slope = ln.compile(ln.grad(lambda x: ln.sum(x * x)))
        >>> print(slope(ln.asarray([1.0, 2.0])))
        [2. 4.]
    """
    if f is None:
        return functools.partial(
            compile, backend=backend, donate=donate, static=static, dynamic=dynamic, passes=passes,
            threads=threads, cache=cache, check_nans=check_nans, rewrite=rewrite,
            careful=careful,
        )  # fmt: skip
    chosen = options.checked(
        f, backend, donate, static, dynamic, passes, threads, cache, check_nans, rewrite, careful
    )
    return Compiled(f, chosen)
