"""Loop nests: elementwise operations and reductions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from backends.llvm.affine import Affine
from backends.llvm.dtypes import accumulator, cast, register
from backends.llvm.kernel import Kernel, written
from backends.llvm.scalar import combine, identity
from staging.ir import Op, Type, Value


def elementwise(ops: Sequence[Op], results: Sequence[Value]) -> Kernel:
    """One loop over every element of results of one size."""

    def write(kernel: Kernel) -> None:
        with kernel.axis("i", results[0].type.size) as position:
            for value in results:
                kernel.store(value, position, kernel.pull(value, position))

    return written(ops, write)


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


def reduction(ops: Sequence[Op], op: Op) -> Kernel:
    """One `reduce` whose input is pulled through ``ops``.

    Where the last axis is reduced, a register accumulates, which the vectoriser widens to several;
    where it is kept, rows are accumulated in memory, so that the innermost loop is contiguous.
    """
    (x,), (out,) = op.inputs, op.results
    kind, dtype = str(op.attributes["kind"]), x.type.dtype
    wide = accumulator(dtype)
    axes = op.attributes["axes"]
    assert isinstance(axes, tuple)
    parts = groups(x.type.shape, axes)  # type: ignore[arg-type]
    inner = parts[-1] if parts and not parts[-1].reduced else None
    kept = [g for g in parts if not g.reduced and g is not inner]
    reduced = [g for g in parts if g.reduced]

    def along(kernel: Kernel, stack: ExitStack, some: Sequence[Group], at: Affine) -> Affine:
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
        with ExitStack() as outer:
            at, place = to_output(kernel, outer)
            kernel.do(f"store {register(wide)} {identity(kind, wide)}, ptr {total}")
            with ExitStack() as stack:
                position = along(kernel, stack, reduced, at)
                element = kernel.pull(x, position)
                before = kernel.let(f"load {register(wide)}, ptr {total}")
                after = combine(kernel, kind, wide, before, element)
                kernel.do(f"store {register(wide)} {after}, ptr {total}")
            result = kernel.let(f"load {register(wide)}, ptr {total}")
            kernel.store(out, place, cast(kernel, result, wide, dtype))

    def write_rows(kernel: Kernel) -> None:
        assert inner is not None
        rows = out if wide == dtype else kernel.temporary(Type(wide, (inner.size,)))
        with ExitStack() as outer:
            at, place = to_output(kernel, outer)
            start = place if rows is out else Affine()
            with kernel.axis(inner.name, inner.size) as i:
                kernel.store(rows, start + i, identity(kind, wide))
            with ExitStack() as stack:
                base = along(kernel, stack, reduced, at)
                i = stack.enter_context(kernel.axis(inner.name, inner.size))
                element = kernel.pull(x, base + i)
                before = kernel.load(rows, start + i)
                kernel.store(rows, start + i, combine(kernel, kind, wide, before, element))
            if rows is not out:
                with kernel.axis(inner.name, inner.size) as i:
                    sum_ = kernel.load(rows, i)
                    kernel.store(out, place + i, cast(kernel, sum_, wide, dtype))

    return written(ops, write_rows if inner else write_register)
