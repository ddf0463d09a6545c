"""Products with a matrix of codes: one `call` of kind "contraction".

A matrix in few bits is multiplied group by group: the sum of a group's products is an integer,
which is scaled, and the scaled sums of a row are summed. Left to `staging.fusion` these are two
loop nests, with a number a group in memory between them. Inside one `call` a backend sees all of
it: what makes the codes and scales of what lies in memory, both sums, and what is done with the
last one, element by element.

That is done only where no sum of a group can overflow, however its terms are put together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from staging.fusion import FREE, outlined
from staging.ir import FLOATS, INTEGERS, ITEMSIZE, UNSIGNED, Block, Op, Program, Value
from staging.ops import OPS, integers
from staging.passes.rewrite import Nested, each_block

LONGEST = 32  # operations behind the last sum
LANES = 8  # the terms of a group are a multiple of it
ACCUMULATOR = "int32"  # of a group's products
CHEAP = frozenset(("cast", "negate", "add", "sub", "mul", "and", "or", "xor", "shl", "shr"))


def contract(program: Program) -> Program:
    """The program with each product with a matrix of codes as one `call`.

    Example:
        >>> from staging.text import parse_program
        >>> print(contract(parse_program('''program @p(%codes: int8[4, 2, 8], %x: int8[4, 2, 8]) {
        ...   %1 = cast(%codes) {dtype='int32'}: int32[4, 2, 8]
        ...   %2 = cast(%x) {dtype='int32'}: int32[4, 2, 8]
        ...   %3 = mul(%1, %2): int32[4, 2, 8]
        ...   %4 = reduce(%3) {kind='sum', axes=(2,)}: int32[4, 2]
        ...   %5 = cast(%4) {dtype='float32'}: float32[4, 2]
        ...   %6 = reduce(%5) {kind='sum', axes=(1,)}: float32[4]
        ...   return (%6)
        ... }''')).block.ops[0].attributes)
        {'kind': 'contraction'}
    """
    return program.with_block(each_block(program.block, lambda b, n: _Search(b, n).result()))


def sums_last_axis(op: Op) -> bool:
    """Whether an operation sums along the last axis, and no other."""
    if op.name != "reduce" or op.attributes["kind"] != "sum":
        return False
    x = op.inputs[0].type
    return x.size > 0 and integers(op.attributes, "axes") == (len(x.shape) - 1,)


def inner_sum(makers: dict[Value, Op], value: Value) -> Op | None:
    """The sum of integers that a value is a multiple of, place by place, if it is one's."""
    op = makers.get(value)
    if op is None:
        return None
    if sums_last_axis(op):
        return op if op.results[0].type.dtype == ACCUMULATOR else None
    if op.name == "cast" and value.type.dtype in FLOATS:
        return inner_sum(makers, op.inputs[0])
    if op.name in FREE and op.inputs and op.inputs[0].type.size == value.type.size:
        return inner_sum(makers, op.inputs[0]) if op.name in ("reshape", "broadcast") else None
    if op.name == "mul" and value.type.dtype in FLOATS:
        found = [inner_sum(makers, v) for v in op.inputs]
        return next((one for one in found if one is not None), None) if None in found else None
    return None


def magnitude(makers: dict[Value, Op], value: Value) -> int:
    """What no element of an integer value exceeds in size."""
    dtype = value.type.dtype
    bits = 8 * ITEMSIZE[dtype]
    most = 1 if dtype == "bool" else 2**bits - 1 if dtype in UNSIGNED else 2 ** (bits - 1)
    op = makers.get(value)
    if op is None or any(v.type.dtype not in INTEGERS for v in op.inputs):
        return most
    if op.name == "constant":
        return abs(int(cast(int, op.attributes["value"])))
    inside = [magnitude(makers, v) for v in op.inputs]
    if op.name == "mul":
        return inside[0] * inside[1]
    if op.name in ("add", "sub"):
        return sum(inside)
    if op.name == "and" and dtype in UNSIGNED:
        return min(inside)
    if op.name == "cast" and dtype in UNSIGNED and op.inputs[0].type.dtype not in UNSIGNED:
        return most
    return inside[0] if op.name in ("cast", "broadcast", "reshape", "slice", "shr") else most


class _Search:
    """The contractions of one block while they are found."""

    def __init__(self, block: Block, nested: Nested) -> None:
        self.block, self.nested = block, nested
        self.makers = {v: op for op in block.ops for v in op.results}
        self.places = {op: i for i, op in enumerate(block.ops)}
        self.readers: dict[Value, list[Op]] = {}
        for op in block.ops:
            for value in op.inputs:
                self.readers.setdefault(value, []).append(op)

    def result(self) -> Block:
        """The block, each contraction at the place of the last operation that it takes."""
        calls: dict[Op, Op] = {}
        taken: set[Op] = set()
        for op in self.block.ops:
            if op not in taken and self.is_total(op, op.results) and self.is_nested(op):
                last, through = self.grown(op, taken)
                inside = self.absorbed(last, through)
                taken |= self.unread(inside, last)
                calls[last] = outlined(inside, last.results, {"kind": "contraction"}, last.place)
        ops: list[Op] = []
        for op in self.block.ops:
            if op in calls:
                ops.append(calls[op])
            elif op not in taken:
                blocks = (
                    op.blocks if "kind" in op.attributes else tuple(map(self.nested, op.blocks))
                )
                ops.append(Op(op.name, op.inputs, op.results, op.attributes, blocks, op.place))
        return Block(self.block.params, tuple(ops), self.block.results)

    def is_total(self, op: Op, like: Sequence[Value]) -> bool:
        """Whether an operation gives sums of floats along rows, as many as a value has elements."""
        return (
            sums_last_axis(op)
            and op.results[0].type.dtype == "float32"
            and op.results[0].type.shape[-1:] == like[0].type.shape[-1:] != ()
            and op.results[0].type.size == like[0].type.size
        )

    def is_nested(self, op: Op) -> bool:
        """Whether those are sums of multiples of sums of integers, which do not overflow."""
        inner = inner_sum(self.makers, op.inputs[0])
        if inner is None:
            return False
        terms = inner.inputs[0]
        length = terms.type.shape[-1]
        return length % LANES == 0 and length * magnitude(self.makers, terms) < 2**31

    def grown(self, total: Op, taken: set[Op]) -> tuple[Op, set[Op]]:
        """The operations behind a sum, as far as one value comes of them; the last of them, and
        all."""
        made, ops, best = {*total.results}, [total], 1
        for op in self.block.ops[self.places[total] + 1 :]:
            if made.isdisjoint(op.inputs):
                continue
            same = op.results[0].type.size == total.results[0].type.size
            fits = OPS[op.name].elementwise or op.name == "reshape"
            if not (same and fits) or op in taken or len(ops) == LONGEST:
                break
            ops.append(op)
            made.update(op.results)
            if op.name != "reshape" and self.leaving(ops) == [*op.results]:
                best = len(ops)
        return ops[best - 1], set(ops[:best])

    def leaving(self, ops: Sequence[Op]) -> list[Value]:
        """The results of some operations that others read."""
        inside = set(ops)
        return [
            v for op in ops for v in op.results
            if v in self.block.results or not inside.issuperset(self.readers.get(v, ()))
        ]  # fmt: skip

    def unread(self, inside: Sequence[Op], last: Op) -> set[Op]:
        """The operations of a contraction that nothing else comes of."""
        gone = {last}
        for op in reversed(inside):
            needed = not {*op.results}.isdisjoint(self.block.results)
            if not needed and all(gone.issuperset(self.readers[v]) for v in op.results):
                gone.add(op)
        return gone

    def absorbed(self, last: Op, through: set[Op]) -> list[Op]:
        """All operations of a contraction, in order: those behind the sums, the sums, and what
        makes their terms as long as that reads no more than it would as a value."""
        found: set[Op] = set()

        def visit(value: Value, full: int, inner: Op | None) -> None:
            op = self.makers.get(value)
            if op is None or op in found:
                return
            total = full == 0 and self.is_total(op, last.results)
            if not (op in through or total or op is inner or self.is_view(op)
                    or (full and self.is_cheap(op, full))):  # fmt: skip
                return
            found.add(op)
            if total:
                inner = inner_sum(self.makers, op.inputs[0]) if self.is_nested(op) else None
            within = op.inputs[0].type.size if op.name == "reduce" else full
            for v in op.inputs:
                visit(v, within, inner)

        visit(last.results[0], 0, None)
        return [op for op in self.block.ops if op in found]

    def is_view(self, op: Op) -> bool:
        """Whether an operation costs nothing where it is read."""
        return op.name in FREE and op.name != "iota"

    def is_cheap(self, op: Op, full: int) -> bool:
        """Whether a term is better computed again than read."""
        if op.name not in CHEAP or any(v.type.dtype == "bool" for v in op.inputs):
            return False
        dtypes = {v.type.dtype for v in (*op.inputs, *op.results)}
        if op.name == "cast":
            (x,), (y,) = op.inputs, op.results
            if y.type.dtype not in ("float32", *INTEGERS) or x.type.dtype == "float64":
                return False
            if x.type.dtype in FLOATS and y.type.dtype in INTEGERS:
                return False
        elif not dtypes <= {"float32", *INTEGERS}:
            return False
        size = op.results[0].type
        read = sum(v.type.bytes for v in set(op.inputs) if not self.is_constant(v))
        return size.size == full or size.bytes > read

    def is_constant(self, value: Value) -> bool:
        """Whether all elements are one number that is known."""
        op = self.makers.get(value)
        if op is None or op.name not in FREE:
            return False
        return op.name == "constant" or (op.name == "broadcast" and self.is_constant(op.inputs[0]))
