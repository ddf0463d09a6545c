"""Loop nests: elementwise operations and reductions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from backends.affine import Affine
from backends.llvm.division import COSTLY, FREE, WHOLE, Division, along, count, nanoseconds
from backends.llvm.dtypes import accumulator, cast, register
from backends.llvm.kernel import GRAIN, Kernel, written
from backends.llvm.scalar import combine, identity
from backends.llvm.target import vector_bits
from staging.ir import ITEMSIZE, Block, Op, Type, Value
from staging.ops import integers


def elementwise(
    ops: Sequence[Op], results: Sequence[Value], threads: int, apart: bool = False
) -> Kernel:
    """One loop over every element of results of one size; all are read before they are written,
    since a result may lie where an operand does, unless it is known to lie ``apart``."""
    type = results[0].type
    parts = count(nanoseconds(ops, results, type.size), type.size, threads, GRAIN)
    # An element that is computed by itself takes as long as a vector.
    lanes = lanes_of(ops) if apart and any(op.name in COSTLY for op in ops) else 0

    def write(kernel: Kernel) -> None:
        with kernel.each("i", type, lanes) as position:
            elements = [kernel.pull(value, position) for value in results]
            for value, element in zip(results, elements, strict=True):
                kernel.store(value, position, element)

    return written(ops, write, WHOLE if type.is_table else along("i", parts))


def lanes_of(ops: Sequence[Op]) -> int:
    """Elements of the widest dtype in a vector."""
    values = (v for op in ops for v in (*op.inputs, *op.results) if op.name not in FREE)
    return vector_bits() // 8 // max((ITEMSIZE[v.type.dtype] for v in values), default=8)


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring axes that are all kept or all reduced, as one axis."""

    name: str
    size: int
    stride: int
    reduced: bool


def groups(shape: Sequence[int], axes: Sequence[int]) -> list[Group]:
    """The axes of a reduction's input, neighbours of one kind merged; the last is innermost."""
    merged: list[Group] = []
    stride = 1
    for i in reversed(range(len(shape))):
        n, reduced = shape[i], i in axes
        if n == 1:
            continue
        if merged and merged[-1].reduced == reduced:
            last = merged.pop()
            merged.append(Group(last.name, last.size * n, last.stride, reduced))
        else:
            merged.append(Group(f"g{i}", n, stride, reduced))
        stride *= n
    return merged[::-1]


def reduction(ops: Sequence[Op], op: Op, threads: int) -> Kernel:
    """One `reduce` whose input is pulled through ``ops``.

    Where the last axis is reduced, a register accumulates, which the vectoriser widens to several;
    where it is kept, rows are accumulated in memory, so that the innermost loop is contiguous.

    Parts share what is kept, where there is enough of it; else each part reduces its share, and the
    partial results are combined in the order of the parts.
    """
    (x,), (out,) = op.inputs, op.results
    kind, dtype = str(op.attributes["kind"]), x.type.dtype
    wide = accumulator(dtype)
    parts = groups(x.type.shape, integers(op.attributes, "axes"))
    inner = parts[-1] if parts and not parts[-1].reduced else None
    kept = [g for g in parts if not g.reduced and g is not inner]
    reduced = [g for g in parts if g.reduced]
    work = nanoseconds(ops, [x, out], x.type.size)
    many = [g for g in kept if g.size >= 2 * threads] or [
        g for g in parts if g is inner and g.size >= 4 * GRAIN * threads
    ]
    shared = (many or reduced[:1] or parts)[:1]
    division = WHOLE
    for group in shared:
        division = along(group.name, count(work, group.size, threads))
    partial = bool(division.parts > 1 and shared[0].reduced)

    def nested(kernel: Kernel, stack: ExitStack, some: Sequence[Group], at: Affine) -> Affine:
        for group in some:
            at = at + stack.enter_context(kernel.axis(group.name, group.size)).scaled(group.stride)
        return at

    def to_output(kernel: Kernel, stack: ExitStack) -> tuple[Affine, Affine]:
        """Loops over what is kept, but for the innermost: positions in the input and the output."""
        at, place = Affine(), Affine()
        for group in kept:
            step = stack.enter_context(kernel.axis(group.name, group.size))
            at = at + step.scaled(group.stride)
            place = place.scaled(group.size) + step
        return at, place.scaled(inner.size if inner else 1)

    def write_register(kernel: Kernel) -> None:
        total = kernel.slot(register(wide))
        sums = partial_sums(kernel, [(op, out.type.size)])[op] if partial else out
        with ExitStack() as outer:
            at, place = to_output(kernel, outer)
            kernel.do(f"store {register(wide)} {identity(kind, wide)}, ptr {total}")
            with ExitStack() as stack:
                position = nested(kernel, stack, reduced, at)
                element = kernel.pull(x, position)
                before = kernel.let(f"load {register(wide)}, ptr {total}")
                after = combine(kernel, kind, wide, before, element)
                kernel.do(f"store {register(wide)} {after}, ptr {total}")
            result = kernel.let(f"load {register(wide)}, ptr {total}")
            if partial:
                kernel.store(sums, place, result)
            else:
                kernel.store(out, place, cast(kernel, result, wide, dtype))

    def write_rows(kernel: Kernel) -> None:
        assert inner is not None
        if partial:
            rows = partial_sums(kernel, [(op, out.type.size)])[op]
        else:
            rows = out if wide == dtype else kernel.temporary(Type(wide, (inner.size,)))
        with ExitStack() as outer:
            at, place = to_output(kernel, outer)
            start = place if partial or rows is out else Affine()
            with kernel.axis(inner.name, inner.size) as i:
                kernel.store(rows, start + i, identity(kind, wide))
            with ExitStack() as stack:
                base = nested(kernel, stack, reduced, at)
                i = stack.enter_context(kernel.axis(inner.name, inner.size))
                element = kernel.pull(x, base + i)
                before = kernel.load(rows, start + i)
                kernel.store(rows, start + i, combine(kernel, kind, wide, before, element))
            if rows is not out and not partial:
                with kernel.axis(inner.name, inner.size) as i:
                    sum_ = kernel.load(rows, i)
                    kernel.store(out, place + i, cast(kernel, sum_, wide, dtype))

    return written(ops, write_rows if inner else write_register, division)


def partial_sums(kernel: Kernel, reductions: Sequence[tuple[Op, int]]) -> dict[Op, Value]:
    """A buffer for what each part has reduced of each of some reductions, with a number of
    elements; another kernel combines them when all parts are done."""
    held: dict[Op, Value] = {}
    for op, size in reductions:
        wide = accumulator(op.results[0].type.dtype)
        held[op] = kernel.temporary(Type(wide, (size,)))

    def combined(after: Kernel) -> None:
        for n, (op, size) in enumerate(reductions):
            (out,), kind = op.results, str(op.attributes["kind"])
            wide, buffer = held[op].type.dtype, held[op]
            with after.axis(f"c{n}", size) as c:
                total = after.load(buffer, c)
                for part in range(1, kernel.division.parts):
                    other = after.load(buffer, c + Affine(part * buffer.type.shape[1]))
                    total = combine(after, kind, wide, total, other)
                after.store(out, c, cast(after, total, wide, out.type.dtype))

    kernel.following = written((), combined)
    return held


def fused(block: Block, rows: int, columns: int, threads: int, apart: bool) -> Kernel:
    """The nest of a `call` of kind "loop" (`staging.fusion`); ``apart``: whether no result lies
    where an operand does."""
    reductions = [op for op in block.ops if op.name == "reduce"]
    if not reductions and len({v.type.size for v in block.results}) == 1:
        return elementwise(block.ops, block.results, threads, apart)
    if len(reductions) == 1 and block.results == reductions[0].results:
        return reduction(
            [op for op in block.ops if op is not reductions[0]], reductions[0], threads
        )
    return Rows(block, rows, columns, threads).kernel()


def needed(block: Block) -> list[Op]:
    """The operations that the results of a block without effects come from."""
    wanted = set(block.results)
    ops: list[Op] = []
    for op in reversed(block.ops):
        if not wanted.isdisjoint(op.results):
            wanted.update(op.inputs)
            ops.append(op)
    return ops[::-1]


class Rows:
    """A loop over rows that goes over each row several times: once before each reduction along it
    whose result is wanted in the next pass.

    Values of a row are computed again in each pass, or where that is costly kept in a buffer of one
    row. Reductions along columns accumulate in their results, row after row.

    Parts share the rows, and those of a reduction along columns are combined at the end; or they
    share the columns, where there are few rows and nothing is reduced along them.
    """

    def __init__(self, block: Block, rows: int, columns: int, threads: int) -> None:
        self.block, self.rows, self.columns = block, rows, columns
        self.along: list[Op] = []  # reductions of a row
        self.down: list[Op] = []  # reductions of columns
        self.passes: dict[Value, int] = {}
        self.ops = needed(block)
        for op in self.ops:
            self.classify(op)
        self.division = self.divided(threads)

    def divided(self, threads: int) -> Division:
        """How the work is shared."""
        work = nanoseconds(self.ops, self.block.results, self.rows * self.columns)
        small = any(self.is_row(v) for v in self.block.results)
        if self.rows >= 2 * threads or self.along or small:
            return along("o", count(work, self.rows, threads))
        return along("c", count(work, self.columns, threads, GRAIN))

    def classify(self, op: Op) -> None:
        (out,) = op.results
        ready = max((self.passes.get(v, 0) for v in op.inputs), default=0)
        if op.name == "reduce":
            parts = groups(op.inputs[0].type.shape, integers(op.attributes, "axes"))
            (self.along if parts[-1].reduced else self.down).append(op)
            ready += parts[-1].reduced
        self.passes[out] = ready

    def kernel(self) -> Kernel:
        """The kernel of this nest."""
        inner = [op for op in self.ops if op.name != "reduce"]
        return written(inner, self.write, self.division)

    def write(self, kernel: Kernel) -> None:
        totals = {op: kernel.slot(register(self.wide(op))) for op in self.along}
        partial = "o" in self.division.axes
        if partial and self.down:
            sums = partial_sums(kernel, [(op, self.columns) for op in self.down])
        else:
            sums = {op: self.column_buffer(kernel, op) for op in self.down}
        for op, buffer in sums.items():
            with kernel.axis("c", self.columns) as c:
                kernel.store(buffer, c, identity(str(op.attributes["kind"]), self.wide(op)))
        small = [v for v in self.block.results if self.is_row(v)]
        with kernel.axis("o", self.rows) as o:
            kernel.held = {}
            for number in range(max(self.passes.values(), default=0) + 1):
                self.write_pass(kernel, o, number, totals, sums)
            for value in small:
                kernel.store(value, o, kernel.pull(value, o))
        for op, buffer in sums.items():
            (out,) = op.results
            if buffer is not out and not partial:
                with kernel.axis("c", self.columns) as c:
                    total = kernel.load(buffer, c)
                    kernel.store(out, c, cast(kernel, total, self.wide(op), out.type.dtype))

    def write_pass(
        self,
        kernel: Kernel,
        o: Affine,
        number: int,
        totals: dict[Op, str],
        sums: dict[Op, Value],
    ) -> None:
        """One pass over a row: what can be stored and accumulated once the passes before it are
        done."""
        along = [op for op in self.along if self.passes[op.results[0]] == number + 1]
        down = [op for op in self.down if self.passes[op.results[0]] == number]
        stored = [
            v for v in self.block.results
            if self.passes[v] == number and not self.is_row(v) and self.is_made(v)
        ]  # fmt: skip
        kept = self.worth_keeping(number, stored)
        for op in along:
            kind = register(self.wide(op))
            first = identity(str(op.attributes["kind"]), self.wide(op))
            kernel.do(f"store {kind} {first}, ptr {totals[op]}")
        if along or down or stored:
            buffers = {v: kernel.temporary(Type(v.type.dtype, (self.columns,))) for v in kept}
            start = o.scaled(self.columns)
            with kernel.axis("c", self.columns) as c:
                position = start + c
                # All is read before anything is written: a result may lie where an operand does.
                elements = [kernel.pull(value, position) for value in stored]
                rows = {value: kernel.pull(value, position) for value in buffers}
                for op in (*along, *down):
                    kernel.pull(op.inputs[0], position)
                for value, element in zip(stored, elements, strict=True):
                    kernel.store(value, position, element)
                for value, buffer in buffers.items():
                    kernel.store(buffer, c, rows[value])
                for op in along:
                    self.accumulate(kernel, op, position, totals[op])
                for op in down:
                    (x,) = op.inputs
                    element = kernel.pull(x, position)
                    before = kernel.load(sums[op], c)
                    after = combine(kernel, str(op.attributes["kind"]), self.wide(op), before,
                                    element)  # fmt: skip
                    kernel.store(sums[op], c, after)
            kernel.held |= {v: (b, start.scaled(-1)) for v, b in buffers.items()}
            kernel.held |= {v: (v, Affine()) for v in stored}
        for op in along:
            (out,) = op.results
            total = kernel.let(f"load {register(self.wide(op))}, ptr {totals[op]}")
            kernel.memo[out, o] = cast(kernel, total, self.wide(op), out.type.dtype)

    def accumulate(self, kernel: Kernel, op: Op, position: Affine, slot: str) -> None:
        """Take an element into a total."""
        wide = self.wide(op)
        element = kernel.pull(op.inputs[0], position)
        before = kernel.let(f"load {register(wide)}, ptr {slot}")
        after = combine(kernel, str(op.attributes["kind"]), wide, before, element)
        kernel.do(f"store {register(wide)} {after}, ptr {slot}")

    def worth_keeping(self, number: int, stored: Sequence[Value]) -> list[Value]:
        """Costly values of this pass that a later pass reads, and that are not stored anyway."""
        later = [op for op in self.ops if self.passes[op.results[0]] > number]
        read = {v for op in later for v in op.inputs if op not in self.along or
                self.passes[op.results[0]] > number + 1}  # fmt: skip
        made = {op.results[0]: op for op in self.ops}
        return [
            v for v, op in made.items()
            if v in read and v not in stored and self.passes[v] == number
            and v.type.size == self.rows * self.columns and not self.is_row(v)
            and op.name != "reduce" and self.cost(v, made, number)
        ]  # fmt: skip

    def cost(self, value: Value, made: dict[Value, Op], number: int) -> bool:
        """Whether a value takes a costly operation of its own pass."""
        op = made.get(value)
        if op is None or op.name == "reduce" or self.passes[value] != number:
            return False
        if op.name in COSTLY and value.type.size == self.rows * self.columns:
            return True
        return any(self.cost(v, made, number) for v in op.inputs)

    def is_row(self, value: Value) -> bool:
        """Whether a value has one element a row."""
        return value.type.size == self.rows and self.columns > 1

    def is_made(self, value: Value) -> bool:
        """Whether a value is stored element by element, not accumulated along columns."""
        return all(value is not op.results[0] for op in self.down)

    def wide(self, op: Op) -> str:
        """The dtype that a reduction accumulates in."""
        return accumulator(op.results[0].type.dtype)

    def column_buffer(self, kernel: Kernel, op: Op) -> Value:
        """Where a reduction of columns accumulates: its result, if that is wide enough."""
        (out,) = op.results
        wide = self.wide(op)
        return out if wide == out.type.dtype else kernel.temporary(Type(wide, (self.columns,)))
