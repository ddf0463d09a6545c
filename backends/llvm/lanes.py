"""`Lanes`: a kernel that pulls several neighbouring elements at once, as one vector.

`Kernel` writes scalar loops, which LLVM turns into vectors. Here the vectors are written, where it
matters which sums they are: `Lanes.lanes` gives elements along a loop variable whose values are the
places of a vector. What does not depend on it is a scalar, repeated.
"""

from __future__ import annotations

import platform
from typing import cast

from backends.affine import Affine, Var, make
from backends.llvm.dtypes import address, is_float, literal, register
from backends.llvm.kernel import Kernel
from backends.llvm.scalar import short
from backends.llvm.target import has_half
from backends.views import VIEWS
from staging.ir import ITEMSIZE, UNSIGNED, Op, Value

FLOATING = {"add": "fadd", "sub": "fsub", "mul": "fmul contract"}
LANE = "lane"  # the name of the variable whose values are the places of a vector
INTEGER = {name: name for name in ("add", "sub", "mul", "and", "or", "xor")}


REGISTERS = {"x86_64": "x", "amd64": "x", "aarch64": "w", "arm64": "w"}  # of vectors
FAR = 1 << 16  # bytes of a buffer that may have to come from memory
LINE = 64  # bytes of a line of the cache
AHEAD = 2048  # bytes from what is read to what is asked for


class Apart(Exception):
    """The elements of a vector lie where no formula says that is known now."""


def vector(width: int, kind: str) -> str:
    """The LLVM type of a vector."""
    return f"<{width} x {kind}>"


class Lanes(Kernel):
    """A kernel with vectors."""

    def splat(self, kind: str, element: str, width: int) -> str:
        """A vector of one element, repeated."""
        type = vector(width, kind)
        one = self.let(f"insertelement {type} poison, {kind} {element}, i64 0")
        return self.let(
            f"shufflevector {type} {one}, {type} poison, <{width} x i32> zeroinitializer"
        )

    def lanes(self, value: Value, position: Affine, lane: Var) -> str:
        """Elements of a value, from a position where the variable ``lane`` is 0 on."""
        key = (value, position, lane)
        if key not in self.memo:
            try:
                self.memo[key] = self.made(value, position, lane)
            except Apart:
                kind, factor = register(value.type.dtype), dict(position.terms)[lane]
                base = without(position, lane)
                places = [base + Affine(i * factor) for i in range(lane.extent)]
                self.memo[key] = self.gathered(kind, [self.pull(value, at) for at in places])
        return self.memo[key]

    def quotient(self, position: Affine, n: int) -> tuple[Affine, Affine]:
        if any(var.name == LANE for var, _ in position.terms) and position.divided(n) is None:
            raise Apart
        return super().quotient(position, n)

    def gathered(self, kind: str, elements: list[str]) -> str:
        """A vector of elements."""
        found, type = "poison", vector(len(elements), kind)
        for i, element in enumerate(elements):
            found = self.let(f"insertelement {type} {found}, {kind} {element}, i64 {i}")
        return found

    def made(self, value: Value, position: Affine, lane: Var) -> str:
        kind = register(value.type.dtype)
        factor = dict(position.terms).get(lane, 0)
        if not factor:
            return self.splat(kind, self.pull(value, position), lane.extent)
        op = self.makers.get(value)
        if op is None:
            return self.loaded(value, position, lane, factor)
        if op.name in VIEWS:
            through = self.through(VIEWS[op.name](op), position)
            return self.lanes(op.inputs[0], through, lane)
        if op.name == "reshape":
            return self.lanes(op.inputs[0], position, lane)
        return self.computed(op, [self.lanes(v, position, lane) for v in op.inputs], lane.extent)

    def loaded(self, value: Value, position: Affine, lane: Var, factor: int) -> str:
        """Elements of a buffer: neighbours at once, others one by one."""
        dtype, width, base = value.type.dtype, lane.extent, without(position, lane)
        kind = register(dtype)
        if factor != 1 or dtype in ("bool", "bfloat16") or (dtype == "float16" and not has_half()):
            places = [base + Affine(i * factor) for i in range(width)]
            return self.gathered(kind, [self.load(value, at) for at in places])
        held = "half" if dtype == "float16" else kind
        at = address(self, dtype, self.pointer(value), self.index(base))
        if value.type.bytes >= FAR and base.const * ITEMSIZE[dtype] % LINE == 0:
            self.prefetch(at)
        raw = self.let(f"load {vector(width, held)}, ptr {at}, align {ITEMSIZE[dtype]}")
        if held == kind:
            return raw
        return self.let(f"fpext {vector(width, held)} {raw} to {vector(width, kind)}")

    def prefetch(self, at: str) -> None:
        """Ask for what will be read some steps later."""
        later = self.let(f"getelementptr i8, ptr {at}, i64 {AHEAD}")
        self.do(f"call void @llvm.prefetch.p0(ptr {later}, i32 0, i32 3, i32 1)")

    def computed(self, op: Op, operands: list[str], width: int) -> str:
        """Elements that an operation gives of those of its inputs."""
        dtype = op.results[0].type.dtype
        kind = vector(width, register(dtype))
        if op.name == "constant":
            number = literal(dtype, cast(float, op.attributes["value"]))
            return self.splat(register(dtype), number, width)
        source = op.inputs[0].type.dtype
        if op.name == "cast":
            return self.converted(operands[0], source, dtype, width)
        if op.name == "negate":
            verb = "fneg" if is_float(dtype) else "sub"
            zero = "" if is_float(dtype) else "zeroinitializer, "
            return self.let(f"{verb} {kind} {zero}{operands[0]}")
        if op.name in ("shl", "shr"):
            return self.shifted(op.name, dtype, operands, width)
        table = FLOATING if is_float(dtype) else INTEGER
        return self.let(f"{table[op.name]} {kind} {operands[0]}, {operands[1]}")

    def converted(self, x: str, source: str, to: str, width: int) -> str:
        """Integers as wider ones or floats; floats as they are."""
        a, b = register(source), register(to)
        if a == b:
            return x
        unsigned = source in UNSIGNED or source == "bool"
        if is_float(to):
            verb = "uitofp" if unsigned else "sitofp"
        else:
            verb = "trunc" if int(a[1:]) > int(b[1:]) else "zext" if unsigned else "sext"
        made = self.let(f"{verb} {vector(width, a)} {x} to {vector(width, b)}")
        return self.held_wide(vector(width, b), made) if (verb, b) == ("zext", "i16") else made

    def held_wide(self, kind: str, x: str) -> str:
        """A vector of bytes that were made wider, as LLVM shall leave them: it would rather mask
        and shift bytes, and make both results wider, which are more instructions, not fewer."""
        name = REGISTERS.get(platform.machine().lower())
        return self.let(f'call {kind} asm "", "={name},0"({kind} {x})') if name else x

    def shifted(self, name: str, dtype: str, operands: list[str], width: int) -> str:
        """Shifts; by the width or more they give 0, or the sign."""
        x, by = operands
        kind, bits = vector(width, register(dtype)), 8 * ITEMSIZE[dtype]
        signed = name == "shr" and dtype not in UNSIGNED
        most = self.splat(register(dtype), str(bits - 1), width)
        inside = self.let(f"icmp ule {kind} {by}, {most}")
        bools = vector(width, "i1")
        kept = self.let(f"select {bools} {inside}, {kind} {by}, {kind} {most}")
        verb = "shl" if name == "shl" else "ashr" if signed else "lshr"
        made = self.let(f"{verb} {kind} {x}, {kept}")
        if signed:
            return made
        return self.let(f"select {bools} {inside}, {kind} {made}, {kind} zeroinitializer")

    def pairs(self, x: str, width: int, kind: str) -> str:
        """The sums of neighbours: half as many. Products of narrow integers are then one
        instruction with their sums, on many CPUs."""
        halves = [
            self.let(
                f"shufflevector {vector(width, kind)} {x}, {vector(width, kind)} poison, "
                f"<{width // 2} x i32> <{', '.join(f'i32 {i}' for i in range(first, width, 2))}>"
            )
            for first in (0, 1)
        ]
        return self.let(f"add {vector(width // 2, kind)} {halves[0]}, {halves[1]}")

    def total(self, x: str, width: int, kind: str) -> str:
        """The sum of a vector of floats."""
        name = f"llvm.vector.reduce.fadd.v{width}{short(kind)}"
        return self.let(
            f"call reassoc {kind} @{name}({kind} {literal('float32', -0.0)}, "
            f"{vector(width, kind)} {x})"
        )


def without(position: Affine, lane: Var) -> Affine:
    """A position where a variable is 0."""
    return make(position.const, {v: c for v, c in position.terms if v is not lane})
