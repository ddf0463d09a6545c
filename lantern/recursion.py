"""Recursive functions: recorded once, and run on a stack of their own.

A call from outside records the function, and those that it calls, as a group (`lantern.groups`):
once for each combination of kinds of arguments. What the calls inside give is not known before, so
a function is recorded until that settles. A function that reads a tensor of the call around it, as
nested functions do, is handed that as one more argument.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np

from lantern import borders, tree
from lantern.activations import recurse
from lantern.agendas import by_agenda
from lantern.bodies import Recorded, grouped
from lantern.checkpoint_policies import applied, current_policy
from lantern.control import Prompt, box
from lantern.convert import asarray
from lantern.errors import ArgumentError, ArgumentTypeError, StagingError, describe
from lantern.groups import RECUR, Group, recur
from lantern.kinds import is_number
from lantern.primitives.effects import within_limit
from lantern.primitives.elementwise import add, less_equal
from lantern.probing import Gaps, Unfinished, gaps
from lantern.regions import Block, Kind, Recording, recorded
from lantern.symbol import is_known
from lantern.syntax.calls import rewritten
from lantern.tensor import Tensor
from lantern.traces import current_trace

__all__ = ["recursive"]

PyTree = Any
F = TypeVar("F", bound=Callable[..., Any])
ROUNDS = 8  # how often a function is recorded until its results settle
SPECIALISATIONS = 32  # of one function, for kinds of arguments


@overload
def recursive(f: F, *, limit: int | None = None) -> F: ...
@overload
def recursive(f: None = None, *, limit: int | None = None) -> Callable[[F], F]: ...
def recursive(f: Any = None, *, limit: int | None = None) -> Any:
    """A function that may call itself, or others that call it, to any depth.

    The calls do not use the stack of Python or of the machine, whether eager or compiled: their
    depth is bounded by memory alone. The function is differentiated in both modes, to any order;
    Tensors that it closes over are differentiated too. While it runs, which call is made is decided
    by `lantern.cond`, `lantern.switch` and loops: the body is recorded once, not run for each call.

    It may close over the arguments and values of a recursive function around it.

    Args:
        f: a function of pytrees. Numbers and arrays among its arguments are values; other leaves,
            which must be hashable, belong to the function: it is recorded for each. On some way it
            must return without calling itself, with results of the same structure, shapes and
            dtypes on every way. Left out, this is a decorator.
        limit: the most calls that may be made one inside of the other, where a call from outside is
            the first, and one at the end of another counts as inside of it. None: as many as memory
            holds. A tree of n nodes that is deeper than n has a cycle.

    Returns:
        A function with the arguments and the result of ``f``.

    Raises:
        LimitError: there are more calls than the limit says; or a call is inside of another one
            with the same arguments, so that it never ends.
        FrameMemoryError: no memory is left for the calls that wait.
        StagingError: it never returns without calling itself; or it calls itself with arguments of
            ever new shapes, dtypes or other leaves.
        ShapeError: the ways through it differ in structure, shape or dtype of their results.

    Example:
        >>> import lantern as ln
        >>> @ln.recursive
        ... def factorial(n):
        ...     return ln.cond(n < 2, lambda: 1, lambda: n * factorial(n - 1))
        >>> print(factorial(10))
        3628800
        >>> @ln.recursive
        ... def power(x, n):
        ...     return ln.cond(n == 0, lambda: 1.0, lambda: x * power(x, n - 1))
        >>> print(ln.grad(power)(2.0, 3))
        12.0
    """
    if f is None:
        return lambda f: recursive(f, limit=limit)
    if limit is not None and limit < 1:
        raise ArgumentError(f"recursive: limit is {limit}; expected at least 1")

    @functools.wraps(f)
    def called(*args: PyTree, **kwargs: PyTree) -> PyTree:
        leaves, structure = tree.flatten((args, kwargs))
        leaves = [asarray(x) if is_number(x) else box(x) for x in leaves]
        group = _recorder.get()
        if group is None or group.trace is not current_trace():
            return _outside(f, leaves, structure, limit)
        if current_policy() is not None:
            raise StagingError(
                "checkpoint: a recursive function has a policy inside of another call of the same "
                "recursion. Give the policy to what calls it from outside; it holds for all calls"
            )
        return group.call(f, leaves, structure)

    return called


def _outside(
    f: Callable[..., Any], leaves: list[Any], structure: tree.Structure, limit: int | None
) -> PyTree:
    """Record a group, and perform it: under a policy in segments; in a program by an agenda, where
    that is possible and saves something."""
    policy = current_policy()
    with applied(None):  # it is of the recursion, not of the loops in it
        group, captures, signature = recorded_group(f, leaves, structure, limit)
    arrays = [x for x in (*leaves, *first_depth(limit)) if type(x) is Tensor]
    if policy is not None:
        depth = borders.first_depth(policy, group)
        found = borders.recurse(*arrays, *captures, group=group, entry=0, depth=depth)
        return tree.unflatten(signature.structure, [box(y) for y in found])
    found = by_agenda(group, arrays, captures) if current_trace() is not None else None
    if found is None:
        found = recurse(*arrays, *captures, group=group, entry=0)
    return tree.unflatten(signature.structure, [box(y) for y in found])


def recorded_group(
    f: Callable[..., Any],
    leaves: list[Any],
    structure: tree.Structure,
    limit: int | None = None,
) -> tuple[Group, list[Tensor], Signature]:
    """The group of a function, which is its entry; what it captures, and what it gives. If it is
    limited, it takes how deep it is called behind the arrays among the leaves."""
    with _recording(limit) as recorder:
        entry = recorder.draft(f, leaves, structure)
        recorder.settle(entry)
        return recorder.group(entry)


def first_depth(limit: int | None) -> list[Tensor]:
    """How deep the first call is, if that is limited."""
    return [] if limit is None else [Tensor(np.int64(1))]


# Functions while they are recorded ----------------------------------------------------------------


class Signature(NamedTuple):
    """What is known of a function where it is called.

    Attributes:
        kinds: of its results.
        structure: of its results.
        hidden: the tensors of calls around it that it reads, which are arguments too.
    """

    kinds: tuple[Kind, ...]
    structure: tree.Structure
    hidden: tuple[Tensor, ...]

    def same(self, other: Signature | None) -> bool:
        """Whether a call written for the one does for the other."""
        if other is None or len(self.hidden) != len(other.hidden):
            return False
        alike = all(a is b for a, b in zip(self.hidden, other.hidden, strict=True))
        return alike and (self.kinds, self.structure) == (other.kinds, other.structure)


@dataclass(eq=False)
class Draft:
    """A function for certain arguments, while its group is recorded.

    Attributes:
        f: the user's.
        number: by which it is called.
        leaves: stand for the arguments.
        structure: theirs.
        limit: of the whole recursion.
        signature: what is known of it so far.
        region: what was recorded last, if nothing was left out of that.
        results: of that.
        uses: the functions that it called then, and what was known of them.
        busy: whether it is being recorded.
        depth: how many calls it is inside of, itself included, while it is recorded, if that is
            limited.
    """

    f: Callable[..., Any]
    number: int
    leaves: list[Any]
    structure: tree.Structure
    limit: int | None
    signature: Signature | None = None
    region: Recording | None = None
    results: list[Tensor] = field(default_factory=list[Tensor])
    uses: dict[Draft, Signature] = field(default_factory=dict["Draft", Signature])
    busy: bool = False
    depth: Tensor | None = None

    @property
    def name(self) -> str:
        """The name of the user's function."""
        return getattr(self.f, "__name__", type(self.f).__name__)

    def settled(self) -> bool:
        """Whether all that it calls is as it was when it was recorded."""
        known = (signature.same(used.signature) for used, signature in self.uses.items())
        return self.region is not None and all(known)

    def run(self, *xs: Any) -> PyTree:
        """The user's function on leaves, and on how deep it is called, if that is limited."""
        xs, rest = xs[: len(self.leaves)], xs[len(self.leaves) :]
        if self.limit is not None:
            (self.depth,) = rest
            within_limit(less_equal(self.depth, self.limit), message=f"{self.name} calls itself "
                         f"more than {self.limit} times, one call inside of the other")  # fmt: skip
        args, kwargs = tree.unflatten(self.structure, xs)
        return rewritten(self.f)(*args, **kwargs)


class Recorder:
    """A group of functions while they are recorded."""

    def __init__(self, missing: Gaps, limit: int | None) -> None:
        self.missing, self.limit = missing.functions, limit
        self.first = first_depth(limit)
        self.level = next(Prompt.levels)
        self.drafts: dict[Hashable, Draft] = {}
        self.current: list[Draft] = []
        self.trace = current_trace()

    def draft(self, f: Callable[..., Any], leaves: list[Any], structure: tree.Structure) -> Draft:
        """The function for arguments of these kinds.

        Raises:
            StagingError: there are too many kinds already.
        """
        shown = tuple((x.shape, x.dtype) if type(x) is Tensor else x for x in leaves)
        key = (f, structure, shown)
        try:
            found = self.drafts.get(key)
        except TypeError:
            bad = next(x for x in leaves if type(x) is not Tensor and not _hashable(x))
            raise ArgumentTypeError(
                f"recursive: an argument is {describe(bad)}, no array and not hashable; close "
                "over it, or pass arrays"
            ) from None
        if found is None:
            found = self.drafts[key] = Draft(f, len(self.drafts), leaves, structure, self.limit)
            alike = [d for d in self.drafts.values() if d.f is f]
            if len(alike) > SPECIALISATIONS:
                kinds = "; ".join(
                    ", ".join(map(describe, d.leaves)) for d in (alike[0], alike[1], alike[-1])
                )
                raise StagingError(
                    f"{found.name} calls itself with arguments of ever new kinds: {kinds}; pass "
                    "arrays whose shapes and dtypes stay"
                )
        return found

    def call(self, f: Callable[..., Any], leaves: list[Any], structure: tree.Structure) -> PyTree:
        """A call inside of the group."""
        draft = self.draft(f, leaves, structure)
        if not draft.busy and not draft.settled():
            self.record(draft)
        if draft.signature is None:
            raise Unfinished(frozenset([draft]))
        self.current[-1].uses[draft] = draft.signature
        kinds, out_structure, hidden = draft.signature
        given = (*leaves, *self.deeper(), *hidden)
        arrays = [_bare(x) for x in given if type(x) is Tensor]
        out = recur(*arrays, function=draft.number, kinds=kinds, cut=None)
        return tree.unflatten(out_structure, [box(y) for y in out])

    def deeper(self) -> list[Tensor]:
        """One more than how deep the function that is being recorded is called, if that is
        limited."""
        return [box(add(self.current[-1].depth, 1))] if self.first else []

    def record(self, draft: Draft) -> None:
        """Record a function until what its own calls give is what it gives; or once, if something
        had to be left out because of another function."""
        before = len(self.missing)
        for _ in range(ROUNDS):
            del self.missing[before:]
            uses = dict[Draft, Signature]()
            draft.uses, draft.busy, draft.region = uses, True, None
            self.current.append(draft)
            try:
                region, results, structure = recorded(draft.run, [*draft.leaves, *self.first])
            except Unfinished as signal:
                others = signal.functions - {draft}
                if not others:
                    raise StagingError(
                        f"{draft.name} never returns without calling itself; let one branch of a "
                        "cond, switch or loop give a result without a call"
                    ) from None
                raise Unfinished(others) from None
            finally:
                draft.busy = False
                self.current.pop()
            region.block(results)  # which leaves the captures that something needs
            hidden = tuple(x for x in region.captures if self.inside(x))
            kinds = tuple((y.shape, y.dtype) for y in results)
            found = Signature(kinds, structure, hidden)
            missing = self.missing[before:]
            alike = found.same(draft.signature) or draft not in uses
            draft.signature = found
            if not missing and alike:
                draft.region, draft.results = region, results
                return
            if missing and all(other is not draft for other in missing):
                return
        raise StagingError(
            f"the results of {draft.name} take new shapes or dtypes whenever they are derived from "
            "what it gave before; they must be the same on every way through it"
        )

    def settle(self, entry: Draft) -> None:
        """Record the entry until everything that it reaches fits together."""
        for _ in range(ROUNDS):
            self.record(entry)
            if all(draft.settled() for draft in self.reached(entry)):
                return
        raise StagingError(f"{entry.name}: the functions that it calls do not settle")

    def reached(self, entry: Draft) -> list[Draft]:
        """The functions that an entry calls, itself first."""
        found = [entry]
        for draft in found:
            found += (used for used in draft.uses if used not in found)
        return found

    def group(self, entry: Draft) -> tuple[Group, list[Tensor], Signature]:
        """The group, what it captures, and what the entry gives."""
        drafts = self.reached(entry)
        numbers = {draft.number: k for k, draft in enumerate(drafts)}
        functions = [self.function(draft, numbers) for draft in drafts]
        assert entry.signature is not None
        return *grouped(functions, self.level), entry.signature

    def function(self, draft: Draft, numbers: dict[int, int]) -> Recorded:
        """What was recorded of a function, with the numbers of those that it calls."""
        assert draft.region is not None and draft.signature is not None
        block = renumbered(draft.region.block(draft.results), numbers)
        count = sum(type(x) is Tensor for x in draft.leaves) + len(self.first)
        return Recorded(draft.name, block, count, draft.region.captures, draft.signature.kinds)

    def inside(self, x: Tensor) -> bool:
        """Whether a tensor is of a function of this group."""
        return x.prompt is not None and x.prompt.level > self.level


def renumbered(block: Block, numbers: dict[int, int]) -> Block:
    """A block that calls the functions by other numbers."""

    def changed(value: Any) -> Any:
        if type(value) is Block:
            return renumbered(value, numbers)
        if type(value) is tuple and any(type(v) is Block for v in value):
            return tuple(map(changed, value))
        return value

    steps = []
    for step in block.steps:
        static = {key: changed(value) for key, value in step.static.items()}
        if step.primitive is RECUR:
            static["function"] = numbers[static["function"]]
        steps.append(step._replace(static=static))
    return Block(block.params, tuple(steps), block.results, block.kinds)


def _bare(x: Any) -> Any:
    """A constant as its array."""
    return x.value if type(x) is Tensor and is_known(x) else x


def _hashable(x: Any) -> bool:
    try:
        hash(x)
    except TypeError:
        return False
    return True


_recorder: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


@contextmanager
def _recording(limit: int | None) -> Iterator[Recorder]:
    """A context in which calls of recursive functions join a new group."""
    missing = Gaps()
    recorder = Recorder(missing, limit)
    tokens = _recorder.set(recorder), gaps.set(missing)
    try:
        yield recorder
    finally:
        _recorder.reset(tokens[0])
        gaps.reset(tokens[1])
