"""Operations along one axis in order: cumulate, argreduce, argsort."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TypeAlias, cast

from backends.affine import Affine
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
    """A running total: in a register along the last axis, else a row of them, so that the innermost
    loop is contiguous."""
    (x,), (out,) = op.inputs, op.results
    kind, dtype = str(op.attributes["kind"]), x.type.dtype
    wide = accumulator(dtype)
    axis, reverse = cast(int, op.attributes["axis"]), bool(op.attributes["reverse"])
    outer, n, inner = (size(part) for part in thirds(x.type.shape, axis))
    first = identity(kind, wide)

    def write_register(kernel: Kernel) -> None:
        total = kernel.slot(register(wide))
        with kernel.axis("o", outer) as o:
            kernel.do(f"store {register(wide)} {first}, ptr {total}")
            with kernel.axis("t", n, reverse) as t:
                position = o.scaled(n) + t
                before = kernel.let(f"load {register(wide)}, ptr {total}")
                after = combine(kernel, kind, wide, before, kernel.pull(x, position))
                kernel.do(f"store {register(wide)} {after}, ptr {total}")
                kernel.store(out, position, convert(kernel, after, wide, dtype))

    def write_rows(kernel: Kernel) -> None:
        totals = kernel.temporary(Type(wide, (inner,)))
        with kernel.axis("o", outer) as o:
            with kernel.axis("i", inner) as i:
                kernel.store(totals, i, first)
            with kernel.axis("t", n, reverse) as t, kernel.axis("i", inner) as i:
                position = (o.scaled(n) + t).scaled(inner) + i
                after = combine(
                    kernel, kind, wide, kernel.load(totals, i), kernel.pull(x, position)
                )
                kernel.store(totals, i, after)
                kernel.store(out, position, convert(kernel, after, wide, dtype))

    write = write_register if inner == 1 else write_rows
    return written((), write, over_lines(x, axis, 1, threads))


def thirds(shape: Sequence[int], axis: int) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """The axes before, that axis, and the axes behind."""
    return shape[:axis], shape[axis : axis + 1], shape[axis + 1 :]


def argreduce(op: Op, threads: int) -> Kernel:
    """Along the last axis, the best of a line and then the first place that has it, in two loops
    that are vectorised; else a row of best values and their places. A nan is best of all."""
    (x,), (out,) = op.inputs, op.results
    dtype, kind = x.type.dtype, register(x.type.dtype)
    name = str(op.attributes["kind"])
    axis = cast(int, op.attributes["axis"])
    outer, n, inner = (size(part) for part in thirds(x.type.shape, axis))

    def is_nan(kernel: Kernel, value: str) -> str:
        return kernel.let(f"fcmp uno {kind} {value}, {value}")

    def write_line(kernel: Kernel) -> None:
        best, place = kernel.slot(kind), kernel.slot("i64")
        with kernel.axis("o", outer) as o:
            kernel.do(f"store {kind} {identity(name, dtype)}, ptr {best}")
            with kernel.axis("t", n) as t:
                held = kernel.let(f"load {kind}, ptr {best}")
                element = kernel.pull(x, o.scaled(n) + t)
                kernel.do(f"store {kind} {combine(kernel, name, dtype, held, element)}, ptr {best}")
            held = kernel.let(f"load {kind}, ptr {best}")
            missing = is_nan(kernel, held) if is_float(dtype) else ""
            kernel.do(f"store i64 {n - 1}, ptr {place}")
            with kernel.axis("t", n) as t:
                element = kernel.pull(x, o.scaled(n) + t)
                found = compute(kernel, "eq", dtype, element, held)
                if is_float(dtype):
                    other = kernel.let(f"and i1 {missing}, {is_nan(kernel, element)}")
                    found = kernel.let(f"or i1 {found}, {other}")
                here = kernel.let(f"select i1 {found}, i64 {kernel.index(t)}, i64 {n - 1}")
                was = kernel.let(f"load i64, ptr {place}")
                now = kernel.let(f"call i64 @llvm.umin.i64(i64 {was}, i64 {here})")
                kernel.do(f"store i64 {now}, ptr {place}")
            kernel.store(out, o, kernel.let(f"load i64, ptr {place}"))

    def write_rows(kernel: Kernel) -> None:
        best = kernel.temporary(Type(dtype, (inner,)))
        with kernel.axis("o", outer) as o:
            with kernel.axis("i", inner) as i:
                kernel.store(best, i, kernel.pull(x, o.scaled(n * inner) + i))
                kernel.store(out, o.scaled(inner) + i, "0")
            with kernel.axis("t", n) as t, kernel.axis("i", inner) as i:
                element = kernel.pull(x, (o.scaled(n) + t).scaled(inner) + i)
                held = kernel.load(best, i)
                pair = (held, element) if name == "max" else (element, held)
                better = compute(kernel, "lt", dtype, *pair)
                if is_float(dtype):
                    known = kernel.let(f"fcmp ord {kind} {held}, {held}")
                    new = kernel.let(f"and i1 {is_nan(kernel, element)}, {known}")
                    better = kernel.let(f"or i1 {better}, {new}")
                kept = kernel.let(f"select i1 {better}, {kind} {element}, {kind} {held}")
                kernel.store(best, i, kept)
                was, now = kernel.load(out, o.scaled(inner) + i), kernel.index(t)
                at = kernel.let(f"select i1 {better}, i64 {now}, i64 {was}")
                kernel.store(out, o.scaled(inner) + i, at)

    write = write_line if inner == 1 else write_rows
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
