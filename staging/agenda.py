"""The agenda of a recursion: equal work of independent calls together, as wide operations.

Two operations perform it. `agenda` finds all calls first, which takes their integers only, and then
computes with many of them at once; `unwind` goes the same way back. A *path* is one way through a
function, from its parameters to its results. Each value that a path keeps is a *column* of its
table, with a row for each call that takes the path. What a path computes is cut in three *units*:
what waits for nothing; the *chain*, which waits for the calls inside and is waited for; and what
nobody waits for. The first and the last run over all rows at once, the chain level by level, a
level being one more than those of the calls inside.

A unit is a block for each of some numbers of rows. A table ends with rows that no call has, which
fill the last block up: copies of the first row, and on the way back zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

from staging.ir import Attributes, Block, IRError, Op, Type, Value

Types: TypeAlias = tuple[Type, ...]
V = TypeVar("V")

HANDLE = Type("int8", (-1,))  # of the tables, which pass from the way there to the way back
CHAIN = 1  # the place of the chain among the units of a path
FEW = 2**12  # calls from which it is looked whether one is inside itself


class Call(NamedTuple):
    """A call inside a path.

    Attributes:
        function: which is called.
        args: with which of the values that control gives.
    """

    function: int
    args: tuple[int, ...]


class Way(NamedTuple):
    """What control finds out about a call that takes a path.

    Attributes:
        function: the function whose path it is.
        calls: those inside.
        given: columns, and which of the values that control gives each holds.
    """

    function: int
    calls: tuple[Call, ...]
    given: tuple[tuple[int, int], ...]


class Link(NamedTuple):
    """A column that holds a result of a call inside; on the way back, its adjoint."""

    column: int
    call: int
    result: int


class Unit(NamedTuple):
    """A part of what a path computes, from columns and captures, which every row reads, to columns
    and sums over all rows. An empty one has no blocks."""

    reads: tuple[int, ...]
    captures: tuple[int, ...]
    writes: tuple[int, ...]
    sums: tuple[int, ...]

    @property
    def empty(self) -> bool:
        """Whether nothing is left to compute."""
        return not (self.writes or self.sums)


class Path(NamedTuple):
    """The table of a path, and what is computed in it.

    Attributes:
        columns: their dtypes and shapes.
        links: to the calls inside.
        ends: the column of each result, or of its adjoint; -1 where there is none.
        units: what waits for nothing, the chain, and what nobody waits for.
    """

    columns: tuple[tuple[str, tuple[int, ...]], ...]
    links: tuple[Link, ...]
    ends: tuple[int, ...]
    units: tuple[Unit, Unit, Unit]


Units: TypeAlias = dict[tuple[int, int], Sequence[Block]]


class Agenda(NamedTuple):
    """What an `agenda` or an `unwind` does, read from its attributes.

    Attributes:
        roots: the number of calls from outside.
        entry: the function that they call.
        args: how many arguments each function has.
        mapped: for each capture whether there is one for each root.
        ways: for each path what control knows about it.
        there: for `unwind`, the paths of the `agenda`; columns are numbered on from theirs.
        paths: the tables.
        sizes: for how many rows units have a block that run over all rows, ascending.
        steps: for how many rows chains have.
    """

    roots: int
    entry: int
    args: tuple[int, ...]
    mapped: tuple[bool, ...]
    ways: tuple[Way, ...]
    there: tuple[Path, ...]
    paths: tuple[Path, ...]
    sizes: tuple[int, ...]
    steps: tuple[int, ...]

    @staticmethod
    def of(attributes: Attributes) -> Agenda:
        """The agenda that attributes describe."""
        values = (_READ.get(k, lambda x: x)(attributes[k]) for k in Agenda._fields)
        return Agenda(*cast(Any, values))

    def captured(self, operands: Sequence[V]) -> list[list[V]]:
        """The operands for each capture: one, or one for each root."""
        rest = iter(operands)
        return [[next(rest) for _ in range(self.roots if m else 1)] for m in self.mapped]

    def rows(self, u: int) -> tuple[int, ...]:
        """For how many rows the units at a place of each path have a block."""
        return self.steps if u == CHAIN else self.sizes

    @property
    def most(self) -> int:
        """The most rows that a block has."""
        return max(*self.sizes, *self.steps)

    def columns(self, number: int) -> list[Type]:
        """The types of an element of each column of a path, those of the way there first."""
        known = (*(self.there[number].columns if self.there else ()), *self.paths[number].columns)
        return [Type(dtype, shape) for dtype, shape in known]

    def blocks(self, blocks: Sequence[Block], control: bool) -> Units:
        """The blocks of each unit, by the numbers of its path and of its place there; those of
        control stand before them."""
        found: Units = {}
        rest = list(blocks[len(self.args) if control else 0 :])
        for p, path in enumerate(self.paths):
            for u, unit in enumerate(path.units):
                if not unit.empty:
                    count = len(self.rows(u))
                    found[p, u], rest = rest[:count], rest[count:]
        if rest:
            raise IRError("there are more blocks than units")
        return found


def _path(p: Any) -> Path:
    columns, links, ends, units = p
    before, chain, after = (Unit(*u) for u in units)
    return Path(columns, tuple(Link(*x) for x in links), ends, (before, chain, after))


def _paths(paths: Any) -> tuple[Path, ...]:
    return tuple(map(_path, paths))


def _ways(ways: Any) -> tuple[Way, ...]:
    return tuple(Way(f, tuple(Call(*c) for c in calls), given) for f, calls, given in ways)


_READ: dict[str, Callable[[Any], Any]] = {"ways": _ways, "there": _paths, "paths": _paths}


def captured(op: Op) -> list[list[Value]]:
    """The operands of an `agenda` for each capture."""
    agenda = Agenda.of(op.attributes)
    return agenda.captured(op.inputs[agenda.args[agenda.entry] :])


def sums_in_place(op: Op) -> list[dict[int, tuple[int, ...]]]:
    """For each block of an operation which of its parameters, the sums, it may write over, and
    which result each may hold."""
    agenda = Agenda.of(op.attributes)
    control = len(agenda.args) if op.name == "agenda" else 0
    found: list[dict[int, tuple[int, ...]]] = [{} for _ in range(control)]
    for p, u in agenda.blocks(op.blocks, control > 0):
        unit = agenda.paths[p].units[u]
        first, count = len(unit.reads) + len(unit.captures), len(unit.writes)
        own = {first + k: (count + k,) for k in range(len(unit.sums))}
        found += [own] * len(agenda.rows(u))
    return found


def fewest(op: Op) -> list[bool]:
    """For each block of an operation whether it is control, or that of a unit for the fewest
    calls at once."""
    agenda = Agenda.of(op.attributes)
    control = len(agenda.args) if op.name == "agenda" else 0
    found = [True] * control
    for _, u in agenda.blocks(op.blocks, control > 0):
        found += [True] + [False] * (len(agenda.rows(u)) - 1)
    return found


# Types ------------------------------------------------------------------------------------------


def _alike(t: Type, other: Type) -> bool:
    """Whether types are the same, but that tables may be of different length."""
    tables = t.is_table and other.is_table
    return t == other or (tables and (t.dtype, t.shape[1:]) == (other.dtype, other.shape[1:]))


def _rows(size: int, t: Type) -> Type:
    return Type(t.dtype, (size, *t.shape))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise IRError(message)


def infer_agenda(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    """The arguments of the roots, stacked; the captures → the results of the roots, stacked; the
    handle."""
    agenda = Agenda.of(attributes)
    count = agenda.args[agenda.entry]
    size = sum(agenda.roots if m else 1 for m in agenda.mapped)
    _require(len(inputs) == count + size, "takes other inputs")
    _require(all(t.shape[:1] == (agenda.roots,) for t in inputs[:count]), "arguments are stacked")
    given = agenda.captured(inputs[count:])
    _require(all(_alike(t, some[0]) for some in given for t in some), "captures of roots differ")
    own = tuple(some[0] for some in given)
    for control, n in zip(blocks, agenda.args, strict=False):
        params = tuple(v.type for v in control.params)
        _require(params[n:] == own, "control takes the arguments and all captures")
        _require(control.results[0].type == Type("int64"), "control first gives the path")
    _check_units(agenda, blocks, own, (), control=True)
    ends = {
        tuple(agenda.columns(p)[c] for c in agenda.paths[p].ends)
        for p, way in enumerate(agenda.ways)
        if way.function == agenda.entry
    }
    _require(len(ends) == 1, "the paths of a function differ in their results")
    return (*(_rows(agenda.roots, t) for t in ends.pop()), HANDLE)


def infer_unwind(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    """The handle, the adjoints of the floating results of the roots, the captures → the sums."""
    agenda = Agenda.of(attributes)
    adjoints = adjoints_of(agenda)
    _require(inputs[0] == HANDLE, "takes a handle first")
    _require(inputs[1 : 1 + len(adjoints)] == tuple(_rows(agenda.roots, t) for t in adjoints),
             "takes the adjoints of the results")  # fmt: skip
    captures = inputs[1 + len(adjoints) :]
    sums: dict[int, Type] = {}
    for (p, u), some in agenda.blocks(blocks, control=False).items():
        unit = agenda.paths[p].units[u]
        sums |= zip(unit.sums, (v.type for v in some[0].results[len(unit.writes) :]), strict=True)
    types = tuple(sums[i] for i in range(len(sums)))
    _check_units(agenda, blocks, captures, types, control=False)
    return types


def adjoints_of(agenda: Agenda) -> list[Type]:
    """The types of the adjoints of a root's results, one for each that is floating."""
    number = next(p for p, way in enumerate(agenda.ways) if way.function == agenda.entry)
    columns = agenda.columns(number)
    return [columns[c] for c in agenda.paths[number].ends if c >= 0]


def _check_units(
    agenda: Agenda, blocks: tuple[Block, ...], captures: Types, sums: Types, control: bool
) -> None:
    for (p, u), some in agenda.blocks(blocks, control).items():
        unit, columns = agenda.paths[p].units[u], agenda.columns(p)
        for size, block in zip(agenda.rows(u), some, strict=True):
            added = [sums[i] for i in unit.sums]
            params = [*(_rows(size, columns[c]) for c in unit.reads),
                      *(captures[i] for i in unit.captures), *added]  # fmt: skip
            results = [*(_rows(size, columns[c]) for c in unit.writes), *added]
            _require([v.type for v in block.params] == params, f"path {p} unit {u}: parameters")
            _require([v.type for v in block.results] == results, f"path {p} unit {u}: results")
