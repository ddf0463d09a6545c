"""The operation `linalg`: loops over a stack of matrices, each handed to LAPACK.

LAPACK stores matrices by columns, so a matrix stored by rows is its transpose there. Where the
routine of the transpose gives the same numbers it is called on it as it lies: a Cholesky factor by
rows is the other one by columns, and QR is LQ. Otherwise the copy that the routine destroys anyway
is written transposed, and is what NumPy gives LAPACK, so that signs of eigenvectors agree.
"""

from __future__ import annotations

from collections.abc import Callable

from backends.affine import Affine
from backends.llvm.division import along, count
from backends.llvm.dtypes import memory
from backends.llvm.kernel import Kernel, written
from backends.llvm.moves import size
from backends.llvm.scalar import compute
from staging.ir import Op, Type, Value

# Of each routine how many arguments it takes, all by address, and how many of them are words.
ROUTINES = {"gesv": (8, 0), "getrf": (6, 0), "potrf": (5, 1), "gelqf": (8, 0), "orglq": (9, 0),
            "syevd": (11, 2), "gesdd": (14, 1)}  # fmt: skip
NAMES = [f"scipy_{letter}{routine}_" for letter in "sd" for routine in ROUTINES]
BLOCK = 64  # columns that a blocked routine treats at once, at most


def declarations() -> list[str]:
    """The prototypes of the routines; Fortran takes the lengths of words after everything else."""
    return [
        f"declare void @{name}({', '.join(['ptr'] * count + ['i64'] * words)})"
        for name, (count, words) in zip(NAMES, [*ROUTINES.values()] * 2, strict=True)
    ]


class Stack:
    """A kernel over a stack of matrices while it is written."""

    def __init__(self, kernel: Kernel, op: Op) -> None:
        self.kernel, self.op = kernel, op
        self.inputs, self.outputs = op.inputs, op.results
        *lead, self.m, self.n = op.inputs[0].type.shape
        self.count = size(lead)
        self.dtype = op.inputs[0].type.dtype
        self.number = Affine()  # of the matrix, inside the loop over them

    def work(self, length: int, dtype: str | None = None) -> Value:
        """A buffer that is used for one matrix after another."""
        return self.kernel.temporary(Type(dtype or self.dtype, (max(1, length),)))

    def start(self, value: Value) -> Affine:
        """Where the matrix of an input or output begins."""
        return self.number.scaled(value.type.size // self.count)

    def pointer(self, value: Value) -> str:
        """The address of the matrix of an input or output, or of a buffer."""
        pointer = self.kernel.pointer(value)
        if value not in (*self.inputs, *self.outputs):
            return pointer
        kind, at = memory(value.type.dtype), self.kernel.index(self.start(value))
        return self.kernel.let(f"getelementptr {kind}, ptr {pointer}, i64 {at}")

    def turned_in(self, source: Value, to: Value, rows: int, columns: int) -> None:
        """Copy a matrix of an input into a buffer, transposed."""
        kernel = self.kernel
        with kernel.axis(f"n{columns}", columns) as j, kernel.axis(f"n{rows}", rows) as i:
            element = kernel.pull(source, self.start(source) + i.scaled(columns) + j)
            kernel.store(to, j.scaled(rows) + i, element)

    def turned_out(self, source: Value, to: Value, rows: int, columns: int) -> None:
        """Copy a buffer into a matrix of an output, transposed."""
        kernel = self.kernel
        with kernel.axis(f"n{rows}", rows) as i, kernel.axis(f"n{columns}", columns) as j:
            element = kernel.load(source, j.scaled(rows) + i)
            kernel.store(to, self.start(to) + i.scaled(columns) + j, element)

    def call(self, routine: str, *arguments: str | int | Value) -> str:
        """Call a routine; words and integers are passed by address. Gives what it reports."""
        kernel = self.kernel
        given: list[str] = []
        words = 0
        for argument in (*arguments, 0):
            if isinstance(argument, Value):
                given.append(self.pointer(argument))
                continue
            kind = "i32" if isinstance(argument, int) else "i8"
            words += kind == "i8"
            number = argument if isinstance(argument, int) else ord(argument)
            given.append(kernel.slot(kind))
            kernel.do(f"store {kind} {number}, ptr {given[-1]}")
        info = given[-1]
        shown = ", ".join([f"ptr {v}" for v in given] + ["i64 1"] * words)
        name = f"scipy_{'s' if self.dtype == 'float32' else 'd'}{routine}_"
        kernel.do(f"call void @{name}({shown})")
        return kernel.let(f"load i32, ptr {info}")

    def refuse(self, info: str) -> None:
        """Leave with an error if a routine reports one."""
        kernel = self.kernel
        bad = kernel.let(f"icmp ne i32 {info}, 0")
        kernel.fail_if(bad, kernel.let(f"sext i32 {info} to i64"), kernel.index(self.number))


def decomposition(op: Op, threads: int) -> Kernel:
    """The kernel of one `linalg`; the matrices of a stack are divided among threads."""
    write_one = KINDS[str(op.attributes["kind"])]

    def write(kernel: Kernel) -> None:
        kernel.fallible = True
        if all(v.type.size == 0 for v in op.results):
            return
        stack = Stack(kernel, op)
        with kernel.axis("b", stack.count) as stack.number:
            write_one(stack)

    *lead, m, n = op.inputs[0].type.shape
    work = size(lead) * (200 + m * n * min(m, n))  # about a nanosecond for each few operations
    return written((), write, along("b", count(work, size(lead), threads)))


def solve(s: Stack) -> None:
    n = s.n
    a, pivots, (x,) = s.work(n * n), s.work(n, "int32"), s.outputs
    k = x.type.shape[-1]
    b = s.work(n * k)
    s.turned_in(s.inputs[0], a, n, n)
    if len(s.inputs) == 2:
        s.turned_in(s.inputs[1], b, n, k)
    else:
        unit(s, b)
    s.refuse(s.call("gesv", n, k, a, n, pivots, b, n))
    s.turned_out(b, x, n, k)


def unit(s: Stack, b: Value) -> None:
    """Fill a buffer with the unit matrix."""
    kernel = s.kernel
    with kernel.axis("u", s.n * s.n) as at:
        kernel.store(b, at, "0.0")
    with kernel.axis("d", s.n) as i:
        kernel.store(b, i.scaled(s.n + 1), "1.0")


def slogdet(s: Stack) -> None:
    kernel, n, dtype = s.kernel, s.n, s.dtype
    a, pivots = s.work(n * n), s.work(n, "int32")
    kind = memory(dtype)
    sign, total = kernel.slot(kind), kernel.slot(kind)
    kernel.do(f"store {kind} 1.0, ptr {sign}")
    kernel.do(f"store {kind} 0.0, ptr {total}")
    singular = "false"
    if n:
        s.turned_in(s.inputs[0], a, n, n)
        singular = kernel.let(f"icmp ne i32 {s.call('getrf', n, n, a, n, pivots)}, 0")
        with kernel.axis("d", n) as i:
            element = kernel.load(a, i.scaled(n + 1))
            row = kernel.let(f"trunc i64 {kernel.index(i + Affine(1))} to i32")
            swapped = kernel.let(f"icmp ne i32 {kernel.load(pivots, i)}, {row}")
            negative = kernel.let(f"fcmp olt {kind} {element}, 0.0")
            turned = kernel.let(f"xor i1 {swapped}, {negative}")
            was = kernel.let(f"load {kind}, ptr {sign}")
            other = kernel.let(f"fneg {kind} {was}")
            now = kernel.let(f"select i1 {turned}, {kind} {other}, {kind} {was}")
            kernel.do(f"store {kind} {now}, ptr {sign}")
            opposite = kernel.let(f"fneg {kind} {element}")
            distance = kernel.let(f"select i1 {negative}, {kind} {opposite}, {kind} {element}")
            logarithm = compute(kernel, "log", dtype, distance)
            before = kernel.let(f"load {kind}, ptr {total}")
            kernel.do(f"store {kind} {kernel.let(f'fadd {kind} {before}, {logarithm}')}, "
                      f"ptr {total}")  # fmt: skip
        with kernel.when(singular):
            kernel.do(f"store {kind} 0.0, ptr {sign}")
            kernel.do(f"store {kind} 0x{0xFFF << 52:016X}, ptr {total}")
    for slot, out in zip((sign, total), s.outputs, strict=True):
        kernel.store(out, s.start(out), kernel.let(f"load {kind}, ptr {slot}"))


def triangle(s: Stack, source: Callable[[Affine], str], out: Value, lower: bool) -> None:
    """Copy one triangle of a square matrix by rows, and fill the other with zeros."""
    kernel, n = s.kernel, out.type.shape[-1]
    kind = memory(s.dtype)
    with kernel.axis("ti", n) as i, kernel.axis("tj", n) as j:
        at = i.scaled(n) + j
        relation = "ule" if lower else "uge"
        kept = kernel.let(f"icmp {relation} i64 {kernel.index(j)}, {kernel.index(i)}")
        element = kernel.let(f"select i1 {kept}, {kind} {source(at)}, {kind} 0.0")
        kernel.store(out, s.start(out) + at, element)


def cholesky(s: Stack) -> None:
    (a,), (out,) = s.inputs, s.outputs
    triangle(s, lambda at: s.kernel.pull(a, s.start(a) + at), out, lower=True)
    s.refuse(s.call("potrf", "U", s.n, out, s.n))


def orthogonal(s: Stack, out: Value, lead: int, r: Value | None) -> None:
    """QR of a matrix that lies in ``out`` by rows of length ``lead``: the LQ of its transpose."""
    m, n = s.m, s.n
    tau, length = s.work(n), max(1, m, n) * BLOCK
    work = s.work(length)
    s.call("gelqf", n, m, out, lead, tau, work, length)
    if r is not None:  # L by columns is R by rows
        triangle(s, lambda at: s.kernel.load(out, s.start(out) + at), r, lower=False)
    s.call("orglq", lead, m, n, out, lead, tau, work, length)


def qr(s: Stack) -> None:
    (a,), (q, r) = s.inputs, s.outputs
    kernel = s.kernel
    with kernel.axis("c", s.m * s.n) as at:
        kernel.store(q, s.start(q) + at, kernel.pull(a, s.start(a) + at))
    orthogonal(s, q, s.n, r)


def complete(s: Stack) -> None:
    (a,), (q,) = s.inputs, s.outputs
    kernel = s.kernel
    with kernel.axis("ci", s.m) as i, kernel.axis("cj", s.n) as j:
        element = kernel.pull(a, s.start(a) + i.scaled(s.n) + j)
        kernel.store(q, s.start(q) + i.scaled(s.m) + j, element)
    orthogonal(s, q, s.m, None)


def eigh(s: Stack) -> None:
    n, (w, *vectors) = s.n, s.outputs
    a = s.work(n * n)
    length = 1 + (6 + BLOCK) * n + (2 * n * n if vectors else 0)
    integers = 3 + 5 * n if vectors else 1
    work, whole = s.work(length), s.work(integers, "int32")
    s.turned_in(s.inputs[0], a, n, n)
    job = "V" if vectors else "N"
    s.refuse(s.call("syevd", job, "L", n, a, n, w, work, length, whole, integers))
    for v in vectors:
        s.turned_out(a, v, n, n)


def svd(s: Stack) -> None:
    m, n, k = s.m, s.n, min(s.m, s.n)
    vectors = len(s.outputs) > 1
    a = s.work(m * n)
    u, vh = (s.work(length if vectors else 1) for length in (m * k, k * n))
    singular = s.outputs[1 if vectors else 0]
    length = (4 * k * k if vectors else 0) + 10 * k + BLOCK * (m + n) + max(m, n)
    work, whole = s.work(length), s.work(8 * k, "int32")
    s.turned_in(s.inputs[0], a, m, n)
    job = "S" if vectors else "N"
    s.refuse(s.call("gesdd", job, m, n, a, m, singular, u, m, vh, k, work, length, whole))
    if vectors:
        s.turned_out(u, s.outputs[0], m, k)
        s.turned_out(vh, s.outputs[2], k, n)


KINDS: dict[str, Callable[[Stack], None]] = {
    "solve": solve,
    "inv": solve,
    "slogdet": slogdet,
    "cholesky": cholesky,
    "qr": qr,
    "complete": complete,
    "eigh": eigh,
    "eigvalsh": eigh,
    "svd": svd,
    "svdvals": svd,
}
