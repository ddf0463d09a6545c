"""Elementwise operations and loop nests of nothing else: a thread a few neighbouring elements,
until the grid is through.

All that a thread reads of an element's place it reads before it writes there, so a result may lie
over an operand that is read place by place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from backends.affine import Affine
from backends.cuda.device import ALIGNED
from backends.cuda.elements import THREADS, Elements, blocks, is_long
from backends.cuda.steps import Step
from staging.fusion import FREE
from staging.ir import ITEMSIZE, Op, Value
from staging.ops import OPS

WIDTH = ALIGNED  # the bytes that a thread reads or writes at once, at most
FEW = 24  # operations of which several neighbours at once fit into registers, however wide inside
LARGE = 1 << 15  # elements from which on what no vector fills is done apart


def elementwise(op: Op) -> Sequence[Step]:
    """One elementwise operation, or view or constant that has to lie in memory."""
    return launch((op,), op.results, op.results)


def fused(op: Op) -> Sequence[Step]:
    """A `call` of kind "loop" without reductions, whose results are of one size."""
    (block,) = op.blocks
    outside = dict(zip(block.params, op.inputs, strict=True))
    return launch(block.ops, block.results, op.results, outside)


def is_elementwise(op: Op) -> bool:
    """Whether a `call` of kind "loop" is one for `fused`."""
    (block,) = op.blocks
    reduces = any(inner.name == "reduce" for inner in block.ops)
    return not reduces and len({v.type.size for v in block.results}) == 1


def launch(
    ops: Sequence[Op],
    made: Sequence[Value],
    results: Sequence[Value],
    outside: Mapping[Value, Value] | None = None,
) -> Sequence[Step]:
    """One launch for every element of what operations make, all of one size, into results."""
    type = results[0].type
    if not type.size:
        return ()
    buffers = [v for op in ops for v in op.inputs] + list(results)
    e = Elements(ops, outside, long=is_long(buffers))
    if type.is_table:
        with e.grid_stride("i", f"{e.length(type.shape[0])} * {type.size}") as i:
            write(e, made, results, i)
        return (e.launch(name(ops), lambda n: blocks(n[type.shape[0]] * type.size)),)
    inner = {v for op in ops for v in op.results} if len(ops) <= FEW else set[Value]()
    count = lanes([*(v for v in buffers if v not in inner), *made], type.size)
    left = type.size % count
    if left and type.size < LARGE:
        count, left = 1, 0
    with e.grid_stride("i", type.size // count) as i, e.lanes(count) as k:
        write(e, made, results, i.scaled(count) + k)
    if left:
        thread = e.let("int", "left", f"blockIdx.x * {THREADS} + threadIdx.x")
        with e.braces(f"if ({thread} < {left})"):
            write(e, made, results, e.variable(thread, left) + Affine(type.size - left))
    return (e.launch(name(ops), blocks(type.size // count)),)


def write(e: Elements, made: Sequence[Value], results: Sequence[Value], at: Affine) -> None:
    """The lines for one place: what is made there, all of which is read before any is written."""
    elements = [e.pull(value, at) for value in made]
    for value, element in zip(results, elements, strict=True):
        e.store(value, at, element)


def lanes(values: Iterable[Value], size: int) -> int:
    """How many neighbours of the widest full value fill `WIDTH` bytes."""
    return WIDTH // max(ITEMSIZE[v.type.dtype] for v in values if v.type.size == size)


def name(ops: Sequence[Op]) -> str:
    """What a kernel of nothing else is called; ``exp`` itself is a function."""
    return stem(ops) if "_" in stem(ops) else f"{stem(ops)}_each"


def stem(ops: Sequence[Op]) -> str:
    """What a kernel is called: after the first few operations that compute something."""
    names = dict.fromkeys(op.name for op in ops if OPS[op.name].elementwise)
    names = names or dict.fromkeys(op.name for op in ops if op.name in FREE)
    return "_".join(list(names)[:4])
