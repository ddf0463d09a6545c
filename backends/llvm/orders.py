"""Operations along one axis in order: cumulate, argreduce, argsort."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TypeAlias, cast

from backends.llvm.affine import Affine
from backends.llvm.code import Code, variable
from backends.llvm.division import Division, along, count
from backends.llvm.dtypes import accumulator, is_float, register
from backends.llvm.dtypes import cast as convert
from backends.llvm.kernel import Kernel, written
from backends.llvm.moves import size
from backends.llvm.scalar import combine, compute, identity
from staging.ir import Op, Type, Value

Before: TypeAlias = Callable[[str, str], str]  # whether the later of two places goes first


@contextmanager
def lines(kernel: Kernel, shape: Sequence[int], axis: int) -> Generator[tuple[Affine, int, Affine]]:
    """Loops over all lines along an axis: a line's start, its stride, and its number."""
    inner = size(shape[axis + 1 :])
    with kernel.axis("o", size(shape[:axis])) as o, kernel.axis("i", inner) as i:
        yield o.scaled(inner * shape[axis]) + i, inner, o.scaled(inner) + i


def over_lines(x: Value, axis: int, each: int, threads: int) -> Division:
    """How lines are shared, where an element takes ``each`` nanoseconds."""
    outer, inner = size(x.type.shape[:axis]), size(x.type.shape[axis + 1 :])
    extent, name = max((outer, "o"), (inner, "i"))
    return along(name, count(x.type.size * each, extent, threads))


def cumulate(op: Op, threads: int) -> Kernel:
    """A running total in a register, line by line."""
    (x,), (out,) = op.inputs, op.results
    kind, dtype = str(op.attributes["kind"]), x.type.dtype
    wide = accumulator(dtype)
    axis = cast(int, op.attributes["axis"])

    def write(kernel: Kernel) -> None:
        total = kernel.slot(register(wide))
        with lines(kernel, x.type.shape, axis) as (start, stride, _):
            kernel.do(f"store {register(wide)} {identity(kind, wide)}, ptr {total}")
            reverse = bool(op.attributes["reverse"])
            with kernel.axis("t", x.type.shape[axis], reverse) as t:
                position = start + t.scaled(stride)
                before = kernel.let(f"load {register(wide)}, ptr {total}")
                after = combine(kernel, kind, wide, before, kernel.pull(x, position))
                kernel.do(f"store {register(wide)} {after}, ptr {total}")
                kernel.store(out, position, convert(kernel, after, wide, dtype))

    return written((), write, over_lines(x, axis, 1, threads))


def argreduce(op: Op, threads: int) -> Kernel:
    """The best value so far and its place, line by line; the first nan is best of all."""
    (x,), (out,) = op.inputs, op.results
    dtype, kind = x.type.dtype, register(x.type.dtype)
    largest = op.attributes["kind"] == "max"
    axis = cast(int, op.attributes["axis"])

    def write(kernel: Kernel) -> None:
        best, place = kernel.slot(kind), kernel.slot("i64")
        with lines(kernel, x.type.shape, axis) as (start, stride, number):
            kernel.do(f"store {kind} {kernel.pull(x, start)}, ptr {best}")
            kernel.do(f"store i64 0, ptr {place}")
            with kernel.axis("t", x.type.shape[axis]) as t:
                element = kernel.pull(x, start + t.scaled(stride))
                held = kernel.let(f"load {kind}, ptr {best}")
                pair = (held, element) if largest else (element, held)
                better = compute(kernel, "lt", dtype, *pair)
                if is_float(dtype):
                    new = kernel.let(f"fcmp uno {kind} {element}, {element}")
                    old = kernel.let(f"fcmp ord {kind} {held}, {held}")
                    first = kernel.let(f"and i1 {new}, {old}")
                    better = kernel.let(f"or i1 {better}, {first}")
                kept = kernel.let(f"select i1 {better}, {kind} {element}, {kind} {held}")
                kernel.do(f"store {kind} {kept}, ptr {best}")
                was, now = kernel.let(f"load i64, ptr {place}"), kernel.index(t)
                at = kernel.let(f"select i1 {better}, i64 {now}, i64 {was}")
                kernel.do(f"store i64 {at}, ptr {place}")
            kernel.store(out, number, kernel.let(f"load i64, ptr {place}"))

    return written((), write, over_lines(x, axis, 1, threads))


def argsort(op: Op, threads: int) -> Kernel:
    """A stable merge sort of places, line by line."""
    (x,), (out,) = op.inputs, op.results
    axis = cast(int, op.attributes["axis"])
    n = x.type.shape[axis]

    def write(kernel: Kernel) -> None:
        a, b = (kernel.temporary(Type("int64", (n,))) for _ in range(2))
        with lines(kernel, x.type.shape, axis) as (start, stride, _):
            with kernel.axis("t", n) as t:
                kernel.store(a, t, kernel.index(t))

            def before(second: str, first: str) -> str:
                """Whether what is later in the line goes before what is earlier."""
                p, q = (kernel.pull(x, start + variable(v, n).scaled(stride))
                        for v in (second, first))  # fmt: skip
                if op.attributes["descending"]:
                    p, q = q, p
                less = compute(kernel, "lt", x.type.dtype, p, q)
                if not is_float(x.type.dtype):
                    return less
                kind = register(x.type.dtype)
                number = kernel.let(f"fcmp ord {kind} {p}, {p}")
                nan = kernel.let(f"fcmp uno {kind} {q}, {q}")
                return kernel.let(f"or i1 {less}, {kernel.let(f'and i1 {number}, {nan}')}")

            source = merge_sort(kernel, kernel.pointer(a), kernel.pointer(b), n, before)
            with kernel.axis("t", n) as t:
                place = kernel.let(f"getelementptr i64, ptr {source}, i64 {kernel.index(t)}")
                kernel.store(out, start + t.scaled(stride), kernel.let(f"load i64, ptr {place}"))

    return written((), write, over_lines(x, axis, 8 * n.bit_length(), threads))


def merge_sort(code: Code, a: str, b: str, n: int, before: Before) -> str:
    """Sort the places in ``a``, with ``b`` to work in; gives the one of the two they end in.

    Each round merges neighbouring sorted runs, twice as long as in the last, from one into the
    other.
    """
    source, target = code.slot("ptr"), code.slot("ptr")
    code.do(f"store ptr {a}, ptr {source}")
    code.do(f"store ptr {b}, ptr {target}")
    with code.loop((n - 1).bit_length() if n > 1 else 0) as number:
        now, then = (code.let(f"load ptr, ptr {s}") for s in (source, target))
        merge_runs(code, now, then, n, code.let(f"shl i64 1, {number}"), before)
        code.do(f"store ptr {then}, ptr {source}")
        code.do(f"store ptr {now}, ptr {target}")
    return code.let(f"load ptr, ptr {source}")


def merge_runs(code: Code, source: str, target: str, n: int, width: str, before: Before) -> None:
    """Merge each two neighbouring sorted runs of ``width`` places, of ``n``."""
    left, right, low, high = (code.slot("i64") for _ in range(4))
    for slot in (left, low, right, high):
        code.do(f"store i64 0, ptr {slot}")
    with code.loop(n) as k:
        # At the end of a pair of runs, the next begins.
        done = code.let(f"icmp eq i64 {k}, {code.let(f'load i64, ptr {high}')}")
        with code.when(done):
            middle = clipped(code, k, width, n)
            code.do(f"store i64 {k}, ptr {left}")
            code.do(f"store i64 {middle}, ptr {right}")
            code.do(f"store i64 {middle}, ptr {low}")
            code.do(f"store i64 {clipped(code, middle, width, n)}, ptr {high}")
        i, j, middle, end = (code.let(f"load i64, ptr {s}") for s in (left, right, low, high))
        left_over = code.let(f"icmp uge i64 {i}, {middle}")
        right_over = code.let(f"icmp uge i64 {j}, {end}")
        # An exhausted run is read at a place that exists, and the answer is not used.
        places = [
            code.let(f"select i1 {over}, i64 {k}, i64 {at}")
            for over, at in ((right_over, j), (left_over, i))
        ]
        p, q = (
            code.let(f"load i64, ptr {code.let(f'getelementptr i64, ptr {source}, i64 {at}')}")
            for at in places
        )
        more = code.let(f"select i1 {right_over}, i1 false, i1 {before(p, q)}")
        second = code.let(f"select i1 {left_over}, i1 true, i1 {more}")
        chosen = code.let(f"select i1 {second}, i64 {p}, i64 {q}")
        code.do(f"store i64 {chosen}, ptr {code.let(f'getelementptr i64, ptr {target}, i64 {k}')}")
        step = code.let(f"zext i1 {second} to i64")
        code.do(f"store i64 {code.let(f'add i64 {j}, {step}')}, ptr {right}")
        other = code.let(f"xor i64 {step}, 1")
        code.do(f"store i64 {code.let(f'add i64 {i}, {other}')}, ptr {left}")


def clipped(code: Code, start: str, width: str, n: int) -> str:
    """``start + width``, at most ``n``."""
    return code.let(
        f"call i64 @llvm.umin.i64(i64 {code.let(f'add i64 {start}, {width}')}, i64 {n})"
    )
