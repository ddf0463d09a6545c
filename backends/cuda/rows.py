"""Loop nests with reductions: softmax, normalisations, losses, forward and backward.

A team of threads takes a row through all its passes, in one launch. What several passes want is
kept in registers, each thread having the same columns in every pass; in shared memory, where a row
is too long for those; or read and computed again. Reductions along columns stay in registers too,
from row to row: each team leaves in scratch what its rows come to, and a second launch combines the
teams. Where there are no registers for that, they are launches of their own, which read what was
reduced along rows from scratch.

A few rows too long for a block are cut into chunks, with a launch for each pass. Orders are fixed
by the shapes, so that results are the same at every run. Results may lie over operands where a nest
reduces nothing, nowhere else.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from backends.affine import Affine
from backends.cuda import elementwise
from backends.cuda.elements import THREADS, Elements, identifier, is_long
from backends.cuda.expressions import NOUNS, cast, combine, identity, kind
from backends.cuda.nests import Nest
from backends.cuda.plans import Plan, in_shared, planned, wide_of
from backends.cuda.reductions import (
    MANY,
    WARP,
    Chunks,
    Reduction,
    block,
    combined,
    down,
    first_lane,
    lanes_of,
    launched,
    only,
    reduction,
    rows_at_once,
    single,
    team_row,
    team_totals,
)
from backends.cuda.steps import Step
from staging.fusion import runs
from staging.ir import Op, Type, Value
from staging.ops import OPS

TEAMS = 264  # blocks that stay on a device together while columns are reduced
FILLING = 64  # blocks that are taken in any case, if there are rows
ROWS = 4  # rows of a team, where there are so many


def fused(op: Op) -> Sequence[Step]:
    """A loop nest that fusion made."""
    if elementwise.is_elementwise(op):
        return elementwise.fused(op)
    nest = Nest(op)
    reductions = [*nest.along, *nest.down]
    if len(reductions) == 1 and nest.block.results == reductions[0].results:
        return single(reductions[0], nest.without(reductions), outside=nest.outside)
    plan = planned(nest)
    return long_rows(nest) if plan is None else whole_rows(nest, plan)


def in_memory(nest: Nest, wanted: Sequence[Op]) -> dict[Value, Value]:
    """Where the results of some reductions of rows lie: scratch, unless they are results."""
    return {
        v: nest.outside.get(v) or Value(v.type, v.hint or "along")
        for op in wanted
        for v in op.results
    }


# Whole rows.


def whole_rows(nest: Nest, plan: Plan) -> Sequence[Step]:
    """A launch for all passes, and those for reductions of columns."""
    here = nest.down if plan.kept == "registers" else []
    read = {} if here else in_memory(nest, nest.above(nest.down))
    each = rows_at_once(plan.team)
    blocks = -(-nest.rows // each)
    if here:
        blocks = min(blocks, max(FILLING, min(TEAMS, nest.rows // (each * ROWS))))
    writer = Writer(nest, plan, read, blocks if here else 0)
    launches: list[Step] = [writer.launch(blocks)]
    if here:
        partial = [writer.partial[op] for op in nest.down]
        return (*launches, *combined(sums_of(nest, (), nest.outside), partial))
    return (*launches, *columns(nest, nest.outside | read))


def columns(nest: Nest, outside: dict[Value, Value]) -> Sequence[Step]:
    """The reductions of columns in launches of their own, where those of rows are done."""
    found = sums_of(nest, nest.without([*nest.along, *nest.down]), outside)
    return down(found) if found else ()


def sums_of(nest: Nest, ops: Sequence[Op], outside: dict[Value, Value]) -> list[Reduction]:
    """The reductions of columns."""
    return [reduction(op, ops, outside) for op in nest.down]


class Writer:
    """A kernel that takes each row through all passes, while it is written.

    Args:
        nest: what it does.
        plan: how.
        read: the row values that other launches read, and where they lie.
        blocks: how many blocks stay from row to row, for the reductions of columns that they do;
            0: there is a block for every few rows.
    """

    def __init__(self, nest: Nest, plan: Plan, read: dict[Value, Value], blocks: int) -> None:
        self.nest, self.plan, self.blocks = nest, plan, blocks
        self.read = read
        long = is_long([*nest.block.params, *nest.block.results])
        self.e = Elements(nest.ops, nest.outside | read, long, apart=nest.reduces)
        self.row, self.guards = Affine(), list[str]()
        self.arrays: dict[Value, str] = {}
        self.sums: dict[Op, str] = {}
        self.partial: dict[Op, Value] = {}
        self.dynamic = 0

    def launch(self, blocks: int) -> Step:
        """The whole kernel."""
        e, nest = self.e, self.nest
        self.declare_kept()
        if self.blocks:
            self.declare_sums()
            each, first = rows_at_once(self.plan.team), e.fresh("first")
            start = block(e) if each == 1 else f"{block(e)} * {each}"
            step = f"{first} += {self.blocks * each}"
            head = f"{e.integer} {first} = {start}; {first} < {nest.rows}; {step}"
            with e.braces(f"for ({head})"):
                self.write_row(first, "break")
                if self.plan.team > WARP and self.barriers() == 1:
                    e.do("__syncthreads();  // until here, what warps left is read")
            self.leave_sums()
        else:
            self.write_row("", "return")
        return launched(e, stem(nest), (blocks, 1, 1), self.plan.threads, self.dynamic)

    def declare_kept(self) -> None:
        """Room for what is kept."""
        e, plan = self.e, self.plan
        places, bytes = in_shared(self.nest)
        if plan.kept == "shared":
            e.do("extern __shared__ __align__(16) unsigned char shared[];")
            self.dynamic = bytes
        for value in self.nest.kept if plan.kept != "nowhere" else ():
            dtype, name = kind(value.type.dtype), e.fresh(f"{name_of(self.nest, value)}_kept")
            self.arrays[value] = name
            if plan.kept == "registers":
                e.do(f"{dtype} {name}[{plan.items * plan.lanes}];")
            else:
                e.do(f"{dtype}* const {name} = ({dtype}*)(shared + {places[value]});")

    def declare_sums(self) -> None:
        """Registers for what columns come to."""
        e, plan = self.e, self.plan
        for op in self.nest.down:
            wide, elements = wide_of(op), plan.items * plan.lanes
            name = e.fresh(f"column_{op.attributes['kind']}")
            self.sums[op] = name
            e.do(f"{kind(wide)} {name}[{elements}];")
            e.do("#pragma unroll")
            with e.braces(f"for (int i = 0; i < {elements}; ++i)"):
                e.do(f"{name}[i] = {identity(str(op.attributes['kind']), wide)};")

    def leave_sums(self) -> None:
        """Write what this team's rows come to in each column."""
        e, nest, plan = self.e, self.nest, self.plan
        teams = self.blocks * rows_at_once(plan.team)
        each = rows_at_once(plan.team)
        number = block(e) if each == 1 else f"{block(e)} * {each} + threadIdx.x / {plan.team}"
        team = e.variable(e.let(e.integer, "team", number), teams)
        with self.over_columns([]) as (column, at):
            for op, name in self.sums.items():
                shape = (teams, nest.columns)
                self.partial[op] = partial = Value(Type(wide_of(op), shape), "partial")
                e.store(partial, team.scaled(nest.columns) + column, f"{name}[{at}]")

    def barriers(self) -> int:
        """How many passes over a row end in a barrier."""
        return sum(bool(self.nest.along_in(n)) for n in range(self.nest.count))

    def write_row(self, first: str, leave: str) -> None:
        """All passes over a row."""
        e, nest, team = self.e, self.nest, self.plan.team
        row, guards = team_row(e, nest.rows, team, first, leave)
        for number in range(nest.count):
            self.write_pass(number, row, guards)
        values = dict.fromkeys((*nest.row_results, *self.read))
        if values:
            elements = [e.pull(v, row) for v in values]
            with only(e, [*first_lane(team), *guards]):
                for value, element in zip(values, elements, strict=True):
                    e.store(value, row, element)

    def write_pass(self, number: int, row: Affine, guards: Sequence[str]) -> None:
        """One pass over a row: what can be written and reduced once those before it are done."""
        e, nest = self.e, self.nest
        for value in nest.row_values(number):
            e.pull(value, row)
        totals = {
            op: e.slot(kind(wide_of(op)), f"row_{op.attributes['kind']}", start_of(op))
            for op in nest.along_in(number)
        }
        if nest.wanted(number):
            with self.over_columns(guards) as (column, at):
                self.write_columns(number, row.scaled(nest.columns) + column, at, totals)
        named = [(str(op.attributes["kind"]), wide_of(op), name) for op, name in totals.items()]
        team_totals(e, self.plan.team, named)
        for op, name in totals.items():
            (out,) = op.results
            narrow = cast(name, wide_of(op), out.type.dtype)
            e.know(
                out, row, name if narrow == name else e.let(kind(out.type.dtype), "along", narrow)
            )

    def write_columns(self, number: int, place: Affine, at: str, totals: dict[Op, str]) -> None:
        """What a pass does with one element."""
        e, nest = self.e, self.nest
        for value, name in self.arrays.items():
            if nest.kept[value].first < number <= nest.kept[value].last:
                e.know(value, place, f"{name}[{at}]")
        write_stored(e, nest.stored(number), place)
        for op, name in totals.items():
            e.do(f"{name} = {with_next(e, op, name, place)};")
        for op in nest.down_in(number) if self.sums else ():
            name = f"{self.sums[op]}[{at}]"
            e.do(f"{name} = {with_next(e, op, name, place)};")
        new = {v: e.pull(v, place) for v in self.arrays if nest.kept[v].first == number}
        for value, element in new.items():  # last, for it may lie where something was read
            e.do(f"{self.arrays[value]}[{at}] = {element};")

    @contextmanager
    def over_columns(self, guards: Sequence[str]) -> Generator[tuple[Affine, str]]:
        """A loop over this thread's columns: a column, and where in its row what is kept of it is;
        unrolled where that is in registers."""
        e, plan = self.e, self.plan
        lane = "threadIdx.x" if plan.team == plan.threads else f"threadIdx.x % {plan.team}"
        group = e.fresh("group")
        if not (plan.kept == "registers" and (self.arrays or self.sums)):
            head = f"int {group} = {lane}; {group} < {plan.groups}; {group} += {plan.team}"
            with e.braces(f"for ({head})"), only(e, guards):
                number = e.variable(group, plan.groups)
                with e.lanes(plan.lanes) as k:
                    yield number.scaled(plan.lanes) + k, e.index(k.scaled(plan.groups) + number)
            return
        with self.unrolled() as i:
            start = f"{e.index(i.scaled(plan.team))} + {lane}" if plan.items > 1 else lane
            e.do(f"const int {group} = {start};")
            inside = [f"{group} < {plan.groups}"] if plan.items * plan.team > plan.groups else []
            with only(e, [*inside, *guards]):
                number = e.variable(group, plan.groups)
                with e.lanes(plan.lanes) as k:
                    yield number.scaled(plan.lanes) + k, e.index(i.scaled(plan.lanes) + k)

    @contextmanager
    def unrolled(self) -> Generator[Affine]:
        """A loop over the groups of a thread."""
        e, count = self.e, self.plan.items
        if count == 1:
            yield Affine()
            return
        name = e.fresh("i")
        e.do("#pragma unroll")
        with e.braces(f"for (int {name} = 0; {name} < {count}; ++{name})"):
            yield e.variable(name, count)


def write_stored(e: Elements, values: Sequence[Value], place: Affine) -> None:
    """Write an element of some results; all are read before, as one may lie over an operand."""
    elements = [e.pull(value, place) for value in values]
    for value, element in zip(values, elements, strict=True):
        e.store(value, place, element)


def with_next(e: Elements, op: Op, total: str, place: Affine) -> str:
    """A total of a reduction and one more element."""
    (x,) = op.inputs
    element = cast(e.pull(x, place), x.type.dtype, wide_of(op))
    return combine(str(op.attributes["kind"]), wide_of(op), total, element)


def name_of(nest: Nest, value: Value) -> str:
    """A value's name, or what it is."""
    op, hint = nest.makers.get(value), nest.outside.get(value, value).hint
    return identifier(hint) or (NOUNS[op.name] if op and op.name in NOUNS else "x")


def start_of(op: Op) -> str:
    """What a reduction starts from."""
    return identity(str(op.attributes["kind"]), wide_of(op))


def stem(nest: Nest) -> str:
    """What a kernel is called: after the first few things that it does."""
    names = [str(op.attributes.get("kind", op.name)) for op in nest.ops
             if op.name == "reduce" or OPS[op.name].elementwise]  # fmt: skip
    return "_".join(["rows", *list(dict.fromkeys(names))[:4]])


# Long rows.


def long_rows(nest: Nest) -> Sequence[Step]:
    """A launch for each pass, on rows in chunks, and those that combine the chunks; then what is
    computed from what the rows came to, and the reductions of columns."""
    lanes = lanes_of(nest.columns, nest.sources() or nest.block.results)
    chunks = Chunks.of(nest.columns // lanes, 4 * THREADS, MANY // (nest.rows * THREADS))
    read = in_memory(nest, nest.along)
    outside = nest.outside | read
    launches = [
        step
        for number in range(nest.count)
        for step in long_pass(nest, number, chunks, lanes, outside)
    ]
    ops = nest.without([*nest.along, *nest.down])
    small = [v for v in nest.row_results if v not in read]
    if small:
        launches += elementwise.launch(ops, small, [nest.outside[v] for v in small], outside)
    return (*launches, *columns(nest, outside))


def long_pass(
    nest: Nest, number: int, chunks: Chunks, lanes: int, outside: dict[Value, Value]
) -> Sequence[Step]:
    """One pass over long rows."""
    stored, along = nest.stored(number), nest.along_in(number)
    if not stored and not along:
        return ()
    ops = nest.without([*nest.along, *nest.down])
    long = is_long([*nest.block.params, *nest.block.results])
    e = Elements(ops, outside, long, apart=nest.reduces)
    axes = runs([(nest.rows, False), (nest.columns, True)])
    reductions = [
        Reduction(str(op.attributes["kind"]), op.inputs[0], op.results[0], axes, ops, outside)
        for op in along
    ]
    row = e.variable(e.let(e.integer, "row", block(e)), nest.rows)
    for value in nest.row_values(number):
        e.pull(value, row)
    totals = [e.slot(kind(r.wide), f"row_{r.kind}", identity(r.kind, r.wide)) for r in reductions]
    with chunks.strided(e, "threadIdx.x", THREADS) as group, e.lanes(lanes) as k:
        place = row.scaled(nest.columns) + group.scaled(lanes) + k
        write_stored(e, stored, place)
        for op, total in zip(along, totals, strict=True):
            e.do(f"{total} = {with_next(e, op, total, place)};")
    targets = [(r, chunks.target(r), total) for r, total in zip(reductions, totals, strict=True)]
    if targets:
        team_totals(e, THREADS, [(r.kind, r.wide, total) for r, _, total in targets])
        with only(e, first_lane(THREADS)):
            for r, target, total in targets:
                chunks.leave(e, r, target, row, total)
    launches = [launched(e, stem(nest), (nest.rows, chunks.count, 1))]
    return (*launches, *(step for r, target, _ in targets for step in combined([r], [target])))
