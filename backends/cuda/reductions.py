"""Reductions: one value for each place of the axes that are kept, the *outputs*, from the elements
along those that are reduced.

Where the last axis is reduced, a *team* of neighbouring threads goes over the elements of an output
(`across`): a part of a warp, a warp, or a block where they are many. Where it is kept, neighbouring
threads have neighbouring outputs, and the threads above each other in a block share their elements
(`down`). Few outputs of many elements would leave most of a device idle: the elements are then cut
into chunks, each block leaves in scratch what its chunk comes to, and a second launch combines
those. All orders are fixed by the shapes, so that results are the same at every run and on every
device; float16 and bfloat16 are accumulated in float32. No kernel may lie over its operands.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from math import prod

from backends.affine import Affine
from backends.cuda.device import Grid
from backends.cuda.elements import THREADS, Elements, blocks, is_long
from backends.cuda.expressions import accumulator, cast, combine, identity, kind
from backends.cuda.steps import Launch, Step
from staging.fusion import runs
from staging.ir import ITEMSIZE, Op, Type, Value
from staging.ops import integers

WARP = 32
TOGETHER = 8  # reductions in one launch: what shared memory holds of them
WIDEST = 16  # bytes that a thread reads or writes at once
MANY = 1 << 16  # threads that keep a device busy
CHUNKS = 256  # at most, of the elements of an output
SHORT = 16 * WARP  # groups of neighbours up to which a warp goes over them, not a block


@dataclass(frozen=True, slots=True)
class Reduction:
    """What is reduced, and how.

    Attributes:
        kind: sum, prod, max or min.
        x: the operand; `ops` may make it.
        out: the result.
        axes: of the operand, neighbours that are all reduced or all kept merged: how long, and
            whether they are reduced.
        ops: operations that are done on the way.
        outside: for parameters of a nested block, the values that they are given.
    """

    kind: str
    x: Value
    out: Value
    axes: Sequence[tuple[int, bool]]
    ops: Sequence[Op] = ()
    outside: Mapping[Value, Value] = field(default_factory=dict[Value, Value])

    @property
    def wide(self) -> str:
        """The dtype that it accumulates in."""
        return accumulator(self.x.type.dtype)

    @property
    def outputs(self) -> int:
        """How many there are."""
        return prod(n for n, reduced in self.axes if not reduced)

    @property
    def length(self) -> int:
        """Elements for each."""
        return prod(n for n, reduced in self.axes if reduced)

    @property
    def long(self) -> bool:
        """Whether indices take 64 bits."""
        values = (self.x, self.out, *(v for op in self.ops for v in op.inputs))
        return is_long(values)

    def position(self, e: Elements, output: Affine, element: Affine) -> Affine:
        """Where in the operand an element of an output lies."""
        place, stride = Affine(), 1
        left = {False: output, True: element}
        count = {kind: sum(reduced == kind for _, reduced in self.axes) for kind in left}
        for n, reduced in reversed(self.axes):
            part, count[reduced] = left[reduced], count[reduced] - 1
            if count[reduced]:
                left[reduced], part = e.quotient(part, n)
            place, stride = place + part.scaled(stride), stride * n
        return place


def reduce(op: Op) -> Sequence[Step]:
    """A `reduce` that stands alone."""
    return single(op, ())


def single(
    op: Op, ops: Sequence[Op], outside: Mapping[Value, Value] | None = None
) -> Sequence[Step]:
    """A `reduce` whose operand is pulled through other operations."""
    return steps(reduction(op, ops, outside or {}))


def reduction(op: Op, ops: Sequence[Op], outside: Mapping[Value, Value]) -> Reduction:
    """What a `reduce` reduces."""
    axes = integers(op.attributes, "axes")
    merged = runs([(n, i in axes) for i, n in enumerate(op.inputs[0].type.shape)])
    name = str(op.attributes["kind"])
    return Reduction(name, op.inputs[0], op.results[0], merged, ops, outside)


def steps(r: Reduction) -> Sequence[Step]:
    """The launches of a reduction."""
    if not r.outputs:
        return ()
    if not r.length:
        return nothing(r)
    return across(r) if r.axes and r.axes[-1][1] else down([r])


def nothing(r: Reduction) -> Sequence[Step]:
    """What no elements come to, in every output."""
    e = Elements((), r.outside, r.long, apart=True)
    with e.grid_stride("i", r.outputs) as i:
        e.store(r.out, i, cast(identity(r.kind, r.wide), r.wide, r.out.type.dtype))
    return (e.launch(f"{r.kind}_of_nothing", blocks(r.outputs)),)


def across(r: Reduction) -> Sequence[Step]:
    """A team for each output, whose neighbouring threads take neighbouring elements."""
    lanes = lanes_of(r.axes[-1][0], [r.x, *(v for op in r.ops for v in op.inputs)])
    groups = r.length // lanes
    team = team_of(groups)
    chunks = Chunks.of(groups, 8 * team, MANY // (r.outputs * team))
    e, target = Elements(r.ops, r.outside, r.long, apart=True), chunks.target(r)
    row, guards = team_row(e, r.outputs, team)
    total = e.slot(kind(r.wide), "total", identity(r.kind, r.wide))
    with chunks.strided(e, f"threadIdx.x % {team}", team) as i, e.lanes(lanes) as k:
        e.do(f"{total} = {with_next(e, r, total, r.position(e, row, i.scaled(lanes) + k))};")
    team_totals(e, team, [(r.kind, r.wide, total)])
    with only(e, [*first_lane(team), *guards]):
        chunks.leave(e, r, target, row, total)
    grid = (-(-r.outputs * team // THREADS), chunks.count, 1)
    return (launched(e, f"{r.kind}_across", grid), *combined([r], [target]))


def down(together: Sequence[Reduction]) -> Sequence[Step]:
    """A thread for each output, or several above each other in a block, combined in the end.

    Args:
        together: reductions of the same axes, through the same operations, which one launch does.
    """
    if len(together) > TOGETHER:
        return (*down(together[:TOGETHER]), *down(together[TOGETHER:]))
    r = together[0]
    above = min(THREADS // min(WARP, ceiling(r.outputs)), ceiling(r.length))
    wide = THREADS // above
    tiles = -(-r.outputs // wide)
    chunks = Chunks.of(r.length, 64 * above, MANY // (tiles * THREADS))
    targets = [chunks.target(r) for r in together]
    e = Elements(r.ops, r.outside, any(r.long for r in together), apart=True)
    e.do(f"const {e.integer} column = {block(e)} * {wide} + threadIdx.x % {wide};")
    totals = [(r, e.slot(kind(r.wide), "total", identity(r.kind, r.wide))) for r in together]
    with e.braces(f"if (column < {r.outputs})"):
        column = e.variable("column", r.outputs)
        with chunks.strided(e, f"threadIdx.x / {wide}", above) as i:
            at = r.position(e, column, i)
            for each, total in totals:
                e.do(f"{total} = {with_next(e, each, total, at)};")
    for each, total in totals if above > 1 else ():
        block_totals(e, each, total, wide)
    with e.braces(f"if (threadIdx.x < {wide} && column < {r.outputs})"):
        for (each, total), target in zip(totals, targets, strict=True):
            chunks.leave(e, each, target, e.variable("column", r.outputs), total)
    stem = "_".join([*dict.fromkeys(r.kind for r in together), "down"])
    return (launched(e, stem, (tiles, chunks.count, 1)), *combined(together, targets))


def combined(together: Sequence[Reduction], targets: Sequence[Value]) -> Sequence[Step]:
    """What combines chunks, if there are any."""
    if targets[0] is together[0].out:
        return ()
    outputs, chunks = together[0].outputs, targets[0].type.shape[0]
    axes = runs([(chunks, True), (outputs, False)])
    rest = [
        Reduction(r.kind, target, r.out, axes, (), r.outside)
        for r, target in zip(together, targets, strict=True)
    ]
    return down(rest) if outputs > 1 else [step for r in rest for step in steps(r)]


def with_next(e: Elements, r: Reduction, total: str, at: Affine) -> str:
    """A total and one more element."""
    return combine(r.kind, r.wide, total, cast(e.pull(r.x, at), r.x.type.dtype, r.wide))


@dataclass(frozen=True, slots=True)
class Chunks:
    """Into how many chunks a length is cut, and how long they are but for the last; blocks go over
    them along y."""

    length: int
    size: int
    count: int

    @staticmethod
    def of(length: int, least: int, wanted: int) -> Chunks:
        """As many as are wanted, but none shorter than ``least``."""
        count = max(1, min(CHUNKS, wanted, length // least))
        size = -(-length // count)
        return Chunks(length, size, -(-length // size))

    def target(self, r: Reduction) -> Value:
        """Where totals go: to the result, or one for each chunk to scratch."""
        return r.out if self.count == 1 else Value(Type(r.wide, (self.count, r.outputs)), "partial")

    @contextmanager
    def strided(self, e: Elements, start: str, step: int) -> Generator[Affine]:
        """A loop over this block's chunk, whose steps a team shares."""
        end = str(self.length)
        if self.count > 1:
            first = e.let(e.integer, "first", f"{block(e, 'y')} * {self.size}")
            last = f"{first} + {self.size}"
            end = e.let(e.integer, "end", f"{last} < {self.length} ? {last} : {self.length}")
            start = f"{first} + {start}"
        name = e.fresh("i")
        with e.braces(f"for ({e.integer} {name} = {start}; {name} < {end}; {name} += {step})"):
            yield e.variable(name, self.length)

    def leave(self, e: Elements, r: Reduction, target: Value, output: Affine, total: str) -> None:
        """Write what an output, or this chunk of it, comes to."""
        chunk = e.variable("blockIdx.y", self.count)
        at = chunk.scaled(r.outputs) + output
        e.store(target, at, cast(total, r.wide, target.type.dtype))


# Teams.


def team_of(groups: int) -> int:
    """How many threads share an output of so many groups of neighbours: a power of two."""
    return THREADS if groups > SHORT else min(WARP, ceiling(-(-groups // 2)))


def launched(
    e: Elements, stem: str, grid: Grid, threads: int = THREADS, dynamic: int = 0
) -> Launch:
    """The kernel that has been written, which may take all registers of a multiprocessor."""
    launch = e.launch(stem, grid, threads)
    return replace(launch, kernel=replace(launch.kernel, dynamic=dynamic, resident=1))


def block(e: Elements, axis: str = "x") -> str:
    """The number of this block, for places."""
    return f"{'' if e.integer == 'int' else '(long long)'}blockIdx.{axis}"


def rows_at_once(team: int) -> int:
    """How many teams a block has: a team larger than a warp is one."""
    return THREADS // team if team <= WARP else 1


def team_row(
    e: Elements, rows: int, team: int, first: str = "", leave: str = "return"
) -> tuple[Affine, list[str]]:
    """The row of this thread's team, and what has to hold where that is read or written.

    All threads of a warp go on, if one does: those of a team that is too many are given the last
    row.

    Args:
        e: the kernel.
        rows: how many there are.
        team: threads of a team.
        first: the row of the block's first team; if not that of its number.
        leave: what teams do that are too many.
    """
    each = rows_at_once(team)
    number = first or (block(e) if each == 1 else f"{block(e)} * {each}")
    number = number if each == 1 else f"{number} + threadIdx.x / {team}"
    if team < WARP and rows % (WARP // team):
        slot = e.let(e.integer, "slot", number)
        row = e.let(e.integer, "row", f"{slot} < {rows} ? {slot} : {rows - 1}")
        return e.variable(row, rows), [f"{slot} < {rows}"]
    row = e.let(e.integer, "row", number)
    if rows % each:
        e.do(f"if ({row} >= {rows}) {leave};")
    return e.variable(row, rows), []


def first_lane(team: int) -> list[str]:
    """What holds in the first thread of each team."""
    return [f"threadIdx.x % {team} == 0"] if team > 1 else []


@contextmanager
def only(e: Elements, conditions: Sequence[str]) -> Generator[None]:
    """Lines for where conditions hold, if there are any."""
    with e.braces(f"if ({' && '.join(conditions)})") if conditions else nullcontext():
        yield


def team_totals(e: Elements, team: int, totals: Sequence[tuple[str, str, str]]) -> None:
    """Combine what the threads of a team have, in each of them: totals of a kind and dtype, by
    name. It is the same in all, as it is combined in the same pairs."""
    for total in totals:
        exchange(e, min(team, WARP), *total)
    if team <= WARP or not totals:
        return
    warps, shared = team // WARP, [e.fresh(f"{name}_warps") for _, _, name in totals]
    for (_, dtype, _), held in zip(totals, shared, strict=True):
        e.do(f"__shared__ {kind(dtype)} {held}[{warps}];")
    with e.braces(f"if (threadIdx.x % {WARP} == 0)"):
        for (_, _, name), held in zip(totals, shared, strict=True):
            e.do(f"{held}[threadIdx.x / {WARP}] = {name};")
    e.do("__syncthreads();")
    for (how, dtype, name), held in zip(totals, shared, strict=True):
        e.do(f"{name} = {held}[threadIdx.x % {warps}];")
        exchange(e, warps, how, dtype, name)


def exchange(e: Elements, threads: int, how: str, dtype: str, total: str) -> None:
    """Combine a total with those of neighbours, so many in a warp."""
    if threads == 1:
        return
    e.do("#pragma unroll")
    with e.braces(f"for (int apart = {threads // 2}; apart > 0; apart /= 2)"):
        other = e.let(kind(dtype), "other", f"__shfl_xor_sync(0xffffffffu, {total}, apart)")
        e.do(f"{total} = {combine(how, dtype, total, other)};")


def block_totals(e: Elements, r: Reduction, total: str, wide: int) -> None:
    """Combine what the threads of a block that stand above each other have, in the lowest."""
    shared = e.fresh(f"{total}s")
    e.do(f"__shared__ {kind(r.wide)} {shared}[{THREADS}];")
    e.do(f"{shared}[threadIdx.x] = {total};")
    e.do("__syncthreads();")
    with e.braces(f"for (int apart = {THREADS // 2}; apart >= {wide}; apart /= 2)"):
        with e.braces("if (threadIdx.x < apart)"):
            both = combine(r.kind, r.wide, total, f"{shared}[threadIdx.x + apart]")
            e.do(f"{total} = {both};")
            e.do(f"{shared}[threadIdx.x] = {total};")
        e.do("__syncthreads();")


def ceiling(n: int) -> int:
    """The least power of two that is not below."""
    return 1 << max(0, n - 1).bit_length()


def lanes_of(length: int, values: Sequence[Value]) -> int:
    """How many neighbours are read at once: what fills `WIDEST` bytes and divides the length."""
    lanes = WIDEST // max(ITEMSIZE[v.type.dtype] for v in values)
    while length % lanes:
        lanes //= 2
    return lanes
