"""Activations: how the bodies of recursive functions are cut at their calls, and what an activation
keeps while it waits for one.

What is kept lies in a frame, at places below the frame's beginning that are known now. A value is
kept only if it is read later: constants, captures and what is read out of a node are found again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, cast

from backends.llvm.frames import is_pointer
from staging import recursion
from staging.ir import Op, Type
from staging.passes.dead import has_effect

Variables: TypeAlias = "dict[Variable, None]"  # a set in order

CUTS = ("recur", "pack")  # what stands between the parts of a body
FOUND = ("constant", "unpack", "tag")  # what is never kept
REPEATS = ("broadcast", "reshape", "iota")  # nor are these, if what they repeat is not
WORD = 8  # the bytes of anything that is not an array, in a frame or a node


def size_of(type: Type) -> int:
    """The bytes that a value takes in a frame or a node."""
    return WORD if type.shape[:1] in ((), (-1,)) else -(-type.bytes // WORD) * WORD


@dataclass(slots=True, eq=False, repr=False)
class Variable:
    """What a value is, in whichever block it is read.

    Attributes:
        line: the operation that makes it; None for what an activation is given.
        capture: which capture of the group it is, if it is one.
        lent: whether it is an array whose place only the caller knows.
    """

    type: Type
    line: Line | None = None
    capture: int | None = None
    lent: bool = False

    @property
    def is_word(self) -> bool:
        """Whether it is a number, a list or a node, and no array."""
        return self.type.shape[:1] in ((), (-1,))

    @property
    def bytes(self) -> int:
        """What it takes in a frame: itself, or the address of what is lent."""
        return WORD if self.lent else size_of(self.type)


@dataclass(slots=True, eq=False, repr=False)
class Line:
    """An operation on variables.

    Attributes:
        found: whether its results are made again wherever they are read.
        sum: the sum of the group that it adds to, if it does: all of a value, or rows where indices
            say.
    """

    op: Op
    inputs: tuple[Variable, ...]
    results: tuple[Variable, ...] = ()
    found: bool = False
    sum: int | None = None


@dataclass(slots=True, eq=False)
class Cut:
    """A call, or the making of a node, between two parts of a body.

    Attributes:
        kept: the variables that are read after it, but for its own results.
        size: the bytes of the frame while it waits for a call.
        number: the address to return to, for a call.
        reclaims: whether nothing outlives a call that it takes of the region.
    """

    line: Line
    kept: list[Variable] = field(default_factory=list["Variable"])
    size: int = 0
    number: int = 0
    reclaims: bool = False

    @property
    def waits(self) -> bool:
        """Whether it is a call."""
        return self.line.op.name == "recur"


@dataclass(slots=True, eq=False)
class Body:
    """A body: parts with cuts between, then a choice, a return, or a call instead of one.

    Attributes:
        parts: the operations of each part.
        cuts: what follows each part but the last.
        results: what it returns, or the index and what it hands on; the arguments of the last call.
        instead: the call whose results it would return.
        given: the variables that it is handed and reads.
        places: how far below the frame's beginning each variable ends that has a place there.
    """

    results: list[Variable]
    branches: list[Body]
    parts: list[list[Line]] = field(default_factory=list["list[Line]"])
    cuts: list[Cut] = field(default_factory=list["Cut"])
    instead: Line | None = None
    given: Variables = field(default_factory=dict["Variable", None])
    places: dict[Variable, int] = field(default_factory=dict["Variable", int])


@dataclass(slots=True, eq=False)
class Function:
    """A function of a group.

    Attributes:
        params: what it is given.
        outs: its results; where those that are arrays shall lie is handed over.
        extent: the most bytes of its frame.
    """

    name: str
    params: list[Variable]
    outs: list[Variable]
    body: Body
    extent: int = 0


def functions_of(op: Op) -> list[Function]:
    """The functions of a `recurse`, cut, and with the places in their frames."""
    captured = cast(int, op.attributes["captured"])
    given = op.inputs[len(op.inputs) - captured :]
    captures = [Variable(v.type, capture=i) for i, v in enumerate(given)]
    read = recursion.functions_of(op)
    reclaiming = reclaimed(read, recursion.listed(op.attributes, "sums"))
    functions = [_function(f, captures, reclaiming) for f in read]
    area = max((moved(b) for f in functions for b in bodies(f.body)), default=0)
    for number, cut in enumerate(calls_of(functions), 1):
        cut.number = number
    for function in functions:
        Layout(function, area).lay(function.body, {})
    return functions


def fixed(variable: Variable) -> Variable:
    """A variable whose bytes are known now.

    Raises:
        NotImplementedError: it is an array of any length.
    """
    if variable.type.is_table:
        place = variable.line.op.place if variable.line else "an unknown line"
        raise NotImplementedError(  # frames are laid out now, lengths are known when it runs
            f"a recursive function keeps an array of any length, {variable.type}\n  at {place}"
        )
    return variable


def bodies(body: Body) -> Iterator[Body]:
    """A body and those that it chooses from."""
    yield body
    for branch in body.branches:
        yield from bodies(branch)


def calls_of(functions: Iterable[Function]) -> list[Cut]:
    """The calls that something waits for."""
    return [c for f in functions for b in bodies(f.body) for c in b.cuts if c.waits]


def reclaimed(functions: Sequence[recursion.Function], sums: Sequence[Type]) -> frozenset[int]:
    """The functions that make nodes, by number, of which none outlives a call."""
    if any(map(is_pointer, sums)):
        return frozenset()
    return frozenset(
        k
        for k, f in enumerate(functions)
        if not any(map(is_pointer, f.results))
        and any(
            op.name not in ("recur", *FOUND) and any(is_pointer(v.type) for v in op.results)
            for body in f.body.all()
            for op in body.block.ops
        )
    )


def _function(
    function: recursion.Function, captures: Sequence[Variable], reclaiming: frozenset[int]
) -> Function:
    """Read a function."""
    params, outs = [Variable(t) for t in function.args], [Variable(t) for t in function.results]
    for variable in (*params, *outs):
        variable.lent = not variable.is_word
    body = _body(function.body, params, captures, reclaiming)
    find_given(body, {v: None for v in outs if v.lent})
    return Function(function.name, params, outs, body)


def _body(
    body: recursion.Body,
    given: Sequence[Variable],
    captures: Sequence[Variable],
    reclaiming: frozenset[int],
) -> Body:
    """Read a body and those that it chooses from."""
    block = body.block
    of = dict(zip(block.params, (*given, *captures), strict=True))
    lines: list[Line] = []
    for op in block.ops:
        line = Line(op, tuple(of[v] for v in op.inputs))
        line.results = tuple(Variable(v.type, line) for v in op.results)
        of |= zip(op.results, line.results, strict=True)
        lines.append(line)
    results = [of[v] for v in block.results]
    mark_found(lines, results)
    for added, value, indices in body.parts(results):
        lines = with_sum(lines, added.sum, (value, *indices))
    read = Body(results[: len(results) - body.added], [])
    read.branches = [_body(branch, results[1:], captures, reclaiming) for branch in body.branches]
    split(read, lines, reclaiming)
    return read


def with_sum(lines: list[Line], number: int, added: tuple[Variable, ...]) -> list[Line]:
    """The lines with one that adds to a sum, as soon as what it adds is there."""
    behind = 0
    for variable in roots(added):
        if variable.line in lines:
            behind = max(behind, lines.index(variable.line) + 1)
    place = added[0].line.op.place if added[0].line else ""
    op = Op("scatter", (), (), {"kind": "sum"}, (), place) if added[1:] else Op("add", (), ())
    return [*lines[:behind], Line(op, added, sum=number), *lines[behind:]]


def mark_found(lines: Sequence[Line], results: Sequence[Variable]) -> None:
    """Mark what is made again where it is read: constants, what a node holds, and arrays of
    constants that only operations read."""
    pinned = {v for line in lines if line.op.name in CUTS for v in line.inputs} | {*results}
    for line in lines:
        repeats = line.op.name in REPEATS and not line.results[0].is_word
        line.found = line.op.name in FOUND or (
            repeats
            and pinned.isdisjoint(line.results)
            and all(v.line is not None and v.line.found for v in line.inputs)
        )


def roots(variables: Iterable[Variable]) -> Variables:
    """What must be kept to have some variables later."""
    found: Variables = {}
    for variable in variables:
        if variable.line is not None and variable.line.found:
            found |= roots(variable.line.inputs)
        elif variable.capture is None:
            found[variable] = None
    return found


def ends_in_call(body: Body, lines: Sequence[Line], reclaiming: frozenset[int]) -> bool:
    """Whether a body returns what its last call does, and does nothing after it, nor gives memory
    back."""
    for line in () if body.branches else reversed(lines):
        if line.op.name == "recur":
            return tuple(body.results) == line.results and callee_of(line) not in reclaiming
        if line.op.name in CUTS or stays(line):
            return False
    return False


def callee_of(line: Line) -> int:
    """The number of the function that is called."""
    return cast(int, line.op.attributes["function"])


def stays(line: Line) -> bool:
    """Whether a line does more than make its results."""
    return line.sum is not None or has_effect(line.op)


def split(body: Body, lines: Sequence[Line], reclaiming: frozenset[int]) -> None:
    """Divide the lines of a body among its parts, each as late as nothing more is kept for it."""
    cuts = [line for line in lines if line.op.name in CUTS]
    if ends_in_call(body, lines, reclaiming):
        body.instead = cuts.pop()
        body.results = [*body.instead.inputs]
    end = len(cuts)
    first: dict[Variable, int] = {}
    latest: dict[Variable, int] = {}

    def use(variables: Iterable[Variable], when: int) -> None:
        for v in roots(variables):
            first[v], latest[v] = min(when, first.get(v, end)), max(when, latest.get(v, 0))

    use(body.results, end)
    body.parts = [[] for _ in range(end + 1)]
    now = end
    for line in reversed(lines):
        if line in cuts:
            now -= 1
            use(line.inputs, now)
        elif line is not body.instead and not line.found:
            wanted = min((first[v] for v in line.results if v in first), default=-1)
            if wanted < 0 and not stays(line):
                continue
            if stays(line) or any(latest.get(v, -1) < wanted for v in roots(line.inputs)):
                wanted = now
            body.parts[wanted].insert(0, line)
            use(line.inputs, wanted)
    body.cuts = [
        Cut(line, reclaims=line.op.name == "recur" and callee_of(line) in reclaiming)
        for line in cuts
    ]


def find_given(body: Body, outs: Variables) -> None:
    """What each body is handed and reads, and what is kept at each cut."""
    for branch in body.branches:
        find_given(branch, outs)
    ending = [*body.results[:1]] if body.branches else body.results
    live = roots(ending)
    live |= handed_on(body) if body.branches else outs
    for number, part in reversed(list(enumerate(body.parts))):
        for line in reversed(part):
            live = without(live, line.results) | roots(line.inputs)
        if number > 0:
            cut = body.cuts[number - 1]
            live = without(live, cut.line.results)
            cut.kept = [*live]
            live |= roots(cut.line.inputs)
    body.given = live


def without(live: Variables, made: Iterable[Variable]) -> Variables:
    """What is left of some variables."""
    gone = set(made)
    return {v: None for v in live if v not in gone}


def handed_on(body: Body) -> Variables:
    """What the bodies that a body chooses from read of what it has."""
    found: Variables = {}
    for branch in body.branches:
        found |= branch.given
    return found


def moved(body: Body) -> int:
    """The bytes of the arrays that a call in place of a return hands over."""
    return sum(size_of(v.type) for v in body.results if not v.is_word) if body.instead else 0


class Layout:
    """The places in the frames of one function.

    Args:
        function: whose ``extent``, and whose bodies' ``places``, are found.
        area: the bytes at the beginning of every frame for the arrays that a call in place of a
            return hands over.
    """

    def __init__(self, function: Function, area: int) -> None:
        self.function, self.area = function, area
        function.extent = area

    def lay(self, body: Body, taken: dict[Variable, int]) -> None:
        """Find the places of a body and of those behind it, beside those that are taken."""
        taken = dict(taken)
        body.places |= taken
        direct = {v for v, _ in [*returned(body), *lodged(body)]}
        for number, part in enumerate(body.parts):
            cut = body.cuts[number] if number < len(body.cuts) else None
            later = self.after(body, number)
            made = [v for line in part for v in line.results if v in later and v not in direct]
            self.take(body, [v for v in made if not v.is_word], taken)
            if cut is None:
                break
            self.drop(taken, later)
            if cut.waits:
                self.take(body, [v for v in cut.kept if v.is_word or v.lent], taken)
                given = [v for v in cut.line.results if v not in direct]
                self.take(body, [v for v in given if not v.is_word], taken)
                # Above the address to return to stands how much of the region is taken.
                cut.size = max([self.area, *taken.values()]) + (1 + cut.reclaims) * WORD
                self.function.extent = max(self.function.extent, cut.size)
            self.drop(taken, {*cut.kept, *cut.line.results})
        for branch in body.branches:
            self.lay(branch, {v: at for v, at in taken.items() if v in branch.given})

    def after(self, body: Body, number: int) -> set[Variable]:
        """What is read after a part, by the cut that follows it or later."""
        if number < len(body.cuts):
            cut = body.cuts[number]
            return {*cut.kept, *roots(cut.line.inputs)}
        if body.branches:
            return {*handed_on(body)}
        return {*roots(body.results)} if body.instead else set()

    def take(self, body: Body, variables: Iterable[Variable], taken: dict[Variable, int]) -> None:
        """A place for each variable that has none, the first that is free."""
        for variable in variables:
            if variable in taken:
                continue
            at = self.area
            variable = variable if variable.lent else fixed(variable)
            for other, end in sorted(taken.items(), key=lambda item: item[1]):
                if end - other.bytes - at >= variable.bytes:
                    break
                at = max(at, end)
            taken[variable] = body.places[variable] = at + variable.bytes
            self.function.extent = max(self.function.extent, at + variable.bytes)

    def drop(self, taken: dict[Variable, int], live: set[Variable]) -> None:
        """Give back the places of what is not read any more."""
        for variable in [v for v in taken if v not in live]:
            del taken[variable]


def returned(body: Body) -> list[tuple[Variable, int]]:
    """The arrays that a body makes right where it returns them, and as which results: those that
    are made after its last call."""
    if body.branches or body.instead:
        return []
    calls = [i for i, cut in enumerate(body.cuts) if cut.waits]
    last = body.parts[calls[-1] + 1 if calls else 0 :]
    made = {v for part in last for line in part for v in line.results if not v.is_word}
    found = {v: i for i, v in reversed(list(enumerate(body.results))) if v in made}
    return [*found.items()]


def lodged(body: Body) -> list[tuple[Variable, int]]:
    """The arrays that the last call of a body gives which lie meanwhile where the body returns
    another array, or the same one, and as which result that is. Nothing reads them after the part
    that makes the other one. So a call that waits need not have room for them."""
    calls = [i for i, cut in enumerate(body.cuts) if cut.waits]
    if not calls or body.branches or body.instead:
        return []
    direct = dict(returned(body))
    found: list[tuple[Variable, int]] = []
    for variable in body.cuts[calls[-1]].line.results:
        last = last_read(body, variable)
        for i, result in enumerate(body.results):
            takes_over = direct.get(result) == i and last <= made_in(body, result)
            fits = result.type == variable.type and i not in {at for _, at in found}
            if not variable.is_word and fits and (takes_over or result is variable):
                found.append((variable, i))
                break
    return found


def made_in(body: Body, variable: Variable) -> int:
    """The number of the part that makes a variable."""
    return next(n for n, part in enumerate(body.parts) for x in part if variable in x.results)


def last_read(body: Body, variable: Variable) -> int:
    """The number of the last part that reads a variable, or behind which a cut does; of one that is
    a result, one more than there are."""
    read = [
        n for n, part in enumerate(body.parts) for line in part if variable in roots(line.inputs)
    ]
    read += [n + 1 for n, cut in enumerate(body.cuts) if variable in roots(cut.line.inputs)]
    return max([*read, *(len(body.parts) for v in body.results if v is variable)], default=0)
