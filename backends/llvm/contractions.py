"""A `call` of kind "contraction" (`staging.passes.contractions`): a product with a matrix of codes.

One loop over the rows of the matrix, which threads share. Codes are read as they lie, and become
integers in registers. Of a group's products neighbours are summed, and then vectors of such sums:
scaled as they are, and summed over the groups. Only at the end of a row are the places of a vector
summed. So what stands behind the sum of a group is done on parts of it, which is right, since that
is linear in it, and no part can overflow.

Several products with one matrix, for several positions of a text, share what is read of it.
"""

from __future__ import annotations

from contextlib import suppress

from backends.affine import Affine, Var
from backends.llvm.code import variable
from backends.llvm.division import Division, along, count
from backends.llvm.kernel import Kernel, Splits, finished
from backends.llvm.lanes import LANE, Apart, Lanes, vector
from backends.views import VIEWS
from staging.ir import Block, Op, Value
from staging.passes.contractions import inner_sum

WIDEST = 16  # products that are summed in pairs at once
FLAT = 8  # terms at once of a sum that has no groups
AT_ONCE = 4  # groups of a row, or rows of results, whose sums do not wait for each other
EACH = 0.02  # nanoseconds of a product
# How many times earlier than other work it is divided, as each thread always reads the same rows of
# the matrix, and what all read is little.
EAGER = 5


def contraction(block: Block, threads: int) -> Kernel:
    """The kernel of a contraction."""
    (result,) = block.results
    columns = result.type.shape[-1]
    terms = max(op.inputs[0].type.size for op in block.ops if op.name == "reduce")
    work = EACH * terms + 0.06 * sum(v.type.bytes for v in block.params)
    division = along("n", count(work, columns, threads, 16, EAGER))
    return finished(lambda splits: Contraction(block, splits, division), Contraction.write)


class Contraction(Lanes):
    """The kernel of a contraction while it is written."""

    def __init__(self, block: Block, splits: Splits, division: Division) -> None:
        super().__init__(block.ops, splits, division)
        (self.result,) = block.results
        self.totals = [
            op for op in block.ops if op.name == "reduce" and op.results[0].type.dtype == "float32"
        ]

    def write(self) -> None:
        """All rows, and for each all positions."""
        columns = self.result.type.shape[-1]
        positions = self.result.type.size // columns
        together = most(positions, AT_ONCE)
        with self.axis("n", columns) as n, self.axis("m", positions // together) as m:
            rows = [(m.scaled(together) + Affine(i)).scaled(columns) + n for i in range(together)]
            for op in self.totals:
                sums = self.nested(op, rows) if self.inner(op) else self.flat(op, rows)
                for row, element in zip(rows, sums, strict=True):
                    self.memo[op.results[0], row] = element
            for row in rows:
                self.store(self.result, row, self.pull(self.result, row))

    def inner(self, total: Op) -> Op | None:
        """The sums over groups that a sum is of."""
        return inner_sum(self.makers, total.inputs[0])

    def nested(self, total: Op, rows: list[Affine]) -> list[str]:
        """Sums over groups, for several rows of results."""
        inner = self.inner(total)
        assert inner is not None
        groups, terms = total.inputs[0].type.shape[-1], inner.inputs[0].type.shape[-1]
        width = most(terms, WIDEST, power=True)
        kind, half = vector(width // 2, "float"), width // 2
        apart = most(groups, AT_ONCE // len(rows))
        slots = [[self.slot(kind) for _ in range(apart)] for _ in rows]
        for slot in (s for some in slots for s in some):
            self.do(f"store {kind} zeroinitializer, ptr {slot}")
        with self.loop(groups // apart) as g:
            for k in range(apart):
                group = variable(g, groups // apart).scaled(apart) + Affine(k)
                for row, some in zip(rows, slots, strict=True):
                    at = row.scaled(groups) + group
                    part = self.group(inner, at, terms, width)
                    scaled = self.linear(total.inputs[0], at, inner.results[0], part, half)
                    self.more(kind, some[k], scaled)
        return [self.total(self.added(some, kind), half, "float") for some in slots]

    def group(self, inner: Op, at: Affine, terms: int, width: int) -> str:
        """The products of a group, summed as far as to a vector."""
        total = ""
        lane = Var(LANE, width)
        for first in range(0, terms, width):
            position = at.scaled(terms) + Affine(first, ((lane, 1),))
            part = self.halved(inner.inputs[0], position, lane)
            kind = vector(width // 2, "i32")
            total = self.let(f"add {kind} {total}, {part}") if total else part
        return total

    def halved(self, value: Value, position: Affine, lane: Var) -> str:
        """The sums of neighbours; of a sum, those of each of its terms."""
        op = self.makers.get(value)
        kind = vector(lane.extent // 2, "i32")
        if op is not None and op.name == "add":
            x, y = (self.halved(v, position, lane) for v in op.inputs)
            return self.let(f"add {kind} {x}, {y}")
        if op is not None and op.name in VIEWS:
            with suppress(Apart):
                through = self.through(VIEWS[op.name](op), position)
                if lane in dict(through.terms):
                    return self.halved(op.inputs[0], through, lane)
        if op is not None and op.name == "reshape":
            return self.halved(op.inputs[0], position, lane)
        return self.pairs(self.lanes(value, position, lane), lane.extent, "i32")

    def linear(self, value: Value, at: Affine, inner: Value, part: str, width: int) -> str:
        """What a multiple of the sum of a group is of a part of that."""
        if value is inner:
            return part
        op = self.makers[value]
        kind = vector(width, "float")
        if op.name == "mul":
            within = [inner_sum(self.makers, v) is not None for v in op.inputs]
            x = self.linear(op.inputs[within.index(True)], at, inner, part, width)
            factor = self.splat("float", self.pull(op.inputs[within.index(False)], at), width)
            return self.let(f"fmul contract {kind} {x}, {factor}")
        x = self.linear(op.inputs[0], at, inner, part, width)
        if op.name != "cast" or op.inputs[0].type.dtype == "float32":
            return x
        return self.converted(x, op.inputs[0].type.dtype, "float32", width)

    def flat(self, total: Op, rows: list[Affine]) -> list[str]:
        """Sums of terms that come from no groups, for several rows of results."""
        (x,) = total.inputs
        terms = x.type.shape[-1]
        whole, kind = terms // FLAT, vector(FLAT, "float")
        slots = [self.slot(kind) for _ in rows]
        for slot in slots:
            self.do(f"store {kind} zeroinitializer, ptr {slot}")
        lane = Var(LANE, FLAT)
        if whole:
            with self.loop(whole) as g:
                start = variable(g, whole).scaled(FLAT) + Affine(0, ((lane, 1),))
                for row, slot in zip(rows, slots, strict=True):
                    self.more(kind, slot, self.lanes(x, row.scaled(terms) + start, lane))
        sums = [self.total(self.added([slot], kind), FLAT, "float") for slot in slots]
        for k in range(whole * FLAT, terms):
            for i, row in enumerate(rows):
                term = self.pull(x, row.scaled(terms) + Affine(k))
                sums[i] = self.let(f"fadd reassoc contract float {sums[i]}, {term}")
        return sums

    def more(self, kind: str, slot: str, term: str) -> None:
        """Add to what lies in a slot."""
        before = self.let(f"load {kind}, ptr {slot}")
        after = self.let(f"fadd reassoc contract {kind} {before}, {term}")
        self.do(f"store {kind} {after}, ptr {slot}")

    def added(self, slots: list[str], kind: str) -> str:
        """The sum of what lies in slots."""
        first, *others = (self.let(f"load {kind}, ptr {slot}") for slot in slots)
        for other in others:
            first = self.let(f"fadd reassoc contract {kind} {first}, {other}")
        return first


def most(n: int, limit: int, power: bool = False) -> int:
    """The largest divisor of a number up to a limit; a power of two, if it shall be one."""
    fitting = [k for k in range(1, max(limit, 1) + 1) if n % k == 0]
    return max(k for k in fitting if not power or k & (k - 1) == 0)
