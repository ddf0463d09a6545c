"""Products of matrices: the vendor's library for floats, tiles of our own for integers and where
what follows a product is worth more than the library's speed.

A `call` of kind "product" is a product and elementwise operations on its result. In one kernel of
our own (`backends.cuda.tiles`) the result never leaves the registers; with the library it is
written, and a second kernel reads it. Which takes less time is estimated for an H100 (`H100`), by
whatever takes longest, memory or arithmetic:

- the library multiplies at 80 % of the peak: for float16 and bfloat16 that is the tensor cores', a
  fifteenfold of what our tiles, in float32, could reach; they get half of theirs (`PER_TILE`), and
  every processor works on whole tiles, so that few tiles leave some idle;
- the second kernel moves each element of the result twice more, and its launch takes 2 µs even in a
  graph.

So our tiles win where there is little arithmetic per element: in float32 with an inner length below
about 100, whatever the size, as 4 m n 2 bytes of traffic are worth 0.8 · 2 m n k operations there;
and for all floats where a product is so small that a launch is most of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from backends.cuda import elementwise
from backends.cuda.device import Product
from backends.cuda.elements import Elements, is_long
from backends.cuda.expressions import cast, is_float, kind
from backends.cuda.steps import Copy, Fill, Gemm, Launch, Step
from backends.cuda.tiles import DOWN, Operand, Side, Tiles, launched, one_of, parts, plus, summed
from staging.ir import ITEMSIZE, Block, Op, Value
from staging.machine import ACCELERATORS

H100 = ACCELERATORS["h100"]
MEMORY = H100.bandwidth[-1][1]  # bytes a second
OF_LIBRARY = 0.8  # of the peak
PER_TILE = {64: 0.5, 32: 0.3, 16: 0.15}  # of the peak, by the edge: it grows with the registers
DEPTH = 16  # inner places that are staged at once


def matmul(op: Op) -> Sequence[Step]:
    """One product of matrices, or one for each place along the batch axes."""
    (out,), p = op.results, product(op)
    if not out.type.size:
        return ()
    if not p.k:
        return (Fill(out, 0),)
    if is_float(p.dtype):
        x, y = op.inputs
        return (Gemm(p, x, y, out),)
    return (tiled(p, (op,), op.results, op.results),)


def followed(op: Op) -> Sequence[Step]:
    """A `call` of kind "product"."""
    (block,) = op.blocks
    first = next(inner for inner in block.ops if inner.name == "matmul")
    p = product(first)
    if not p.batch * p.m * p.n:
        return ()
    outside = dict(zip(block.params, op.inputs, strict=True))
    if pays(p, block):
        return (tiled(p, block.ops, block.results, op.results, outside),)
    x, y = (outside[v] for v in first.inputs)
    if p.k and (total := added_to(block)):
        (out,) = op.results
        return (Copy(outside[total], out), Gemm(p._replace(add=True), x, y, out))
    (value,) = first.results
    places = dict(zip(block.results, op.results, strict=True))
    made = places.pop(value, Value(value.type, value.hint or "product"))
    others = tuple(inner for inner in block.ops if inner is not first)
    multiply = Gemm(p, x, y, made) if p.k else Fill(made, 0)
    finish = elementwise.launch(
        others, tuple(places), tuple(places.values()), {**outside, value: made}
    )
    return (multiply, *finish)


def product(op: Op) -> Product:
    """The sizes of a `matmul`."""
    x, (out,) = op.inputs[0].type, op.results
    *lead, m, n = out.type.shape
    turned = bool(op.attributes["transpose_x"]), bool(op.attributes["transpose_y"])
    k = x.shape[-2 if turned[0] else -1]
    return Product(prod(lead), m, n, k, *turned, x.dtype, out.type.dtype)


def added_to(block: Block) -> Value | None:
    """The parameter to which a product is added, if that is all that follows it. A sum of narrow
    floats is rounded after the product, which the library would not do."""
    if len(block.ops) != 2 or len(block.results) != 1:
        return None
    first, last = block.ops
    found = [v for v in last.inputs if v is not first.results[0]]
    if last.name != "add" or len(found) != 1 or found[0].type.dtype not in ("float32", "float64"):
        return None
    return found[0] if found[0] not in first.inputs else None


def overwritable(op: Op) -> Sequence[int]:
    """The operands of a `call` of kind "product" over which its result may be written: the sum to
    which the library adds a product. Tiles read what other blocks of threads write."""
    (block,) = op.blocks
    total = added_to(block)
    if total is None or pays(product(block.ops[0]), block):
        return ()
    return (block.params.index(total),)


def pays(p: Product, block: Block) -> bool:
    """Whether a product and what follows it take less time in one kernel of our own."""
    if not p.k:
        return False
    (value,) = (v for op in block.ops if op.name == "matmul" for v in op.results)
    size = p.batch * p.m * p.n
    matrices = p.batch * (p.m + p.n) * p.k * ITEMSIZE[p.dtype]
    between = size * ITEMSIZE[p.dtype]
    read = {v for op in block.ops if op.name != "matmul" for v in op.inputs}
    others = [v for v in (*block.params, *block.results) if v is not value]
    rest = sum(v.type.bytes for v in others if v in read or v in block.results)
    kept = between * (value in block.results)
    multiplied = by_library(p)
    apart = multiplied + (between + rest) / MEMORY + 2 * H100.start
    if added_to(block) is not None:  # which it is where it lies
        apart = max(multiplied, (matrices + 2 * between) / MEMORY) + H100.start
    together = max(seconds(p, edge(p)), (matrices + rest + kept) / MEMORY)
    return together + H100.start < apart


def by_library(p: Product) -> float:
    """How long the library takes to multiply, and to write the result."""
    size = p.batch * p.m * p.n
    moved = (p.batch * (p.m + p.n) * p.k + size) * ITEMSIZE[p.dtype]
    return max(2.0 * size * p.k / (OF_LIBRARY * H100.products[p.dtype]), moved / MEMORY)


def seconds(p: Product, edge: int) -> float:
    """How long our tiles of an edge take to multiply: every processor does whole ones."""
    rate = H100.double if summed(p.dtype) == "float64" else H100.flops
    tiles = p.batch * -(-p.m // edge) * -(-p.n // edge)
    each = 2.0 * edge * edge * p.k / (rate / H100.threads * PER_TILE[edge])
    return -(-tiles // H100.threads) * each


def edge(p: Product) -> int:
    """The edge of the tiles that take least time."""
    return min(PER_TILE, key=lambda size: seconds(p, size))


def tiled(
    p: Product,
    ops: Sequence[Op],
    made: Sequence[Value],
    results: Sequence[Value],
    outside: Mapping[Value, Value] | None = None,
) -> Launch:
    """A product and what follows it as one kernel of tiles.

    Args:
        p: the product.
        ops: the `matmul`, and elementwise operations on its result.
        made: what to store of what they make.
        results: where.
        outside: for parameters of a block, the values that they are given.
    """
    (multiply,) = (op for op in ops if op.name == "matmul")
    (value,) = multiply.results
    buffers = [v for op in ops for v in op.inputs]
    e = Elements(ops, outside, long=is_long([*buffers, *results]), apart=True)
    size, dtype = edge(p), summed(p.dtype)
    tiles = Tiles(e, dtype, Side.of(DOWN, size, dtype), DEPTH, bits=p.dtype == "bool")
    columns, depth = tiles.columns(size), min(DEPTH, p.k)
    high, wide = -(-p.m // size), -(-p.n // size)  # how many tiles
    tiles.shared("left", depth, size)
    tiles.shared("right", depth, size)
    _, along = tiles.thread()
    batch, tile_row, tile_column = parts(e, batch=p.batch, tile_row=high, tile_column=wide)
    top, side = tile_row.scaled(size), tile_column.scaled(size)
    x, y = (
        Operand(one_of(e, e.outside.get(v, v), batch.scaled(n * p.k)), p.dtype, n, p.k,
                e.index(first), turned, whole=n % size == 0)
        for v, n, first, turned in (
            (multiply.inputs[0], p.m, top, not p.transpose_x),
            (multiply.inputs[1], p.n, side, p.transpose_y),
        )
    )  # fmt: skip
    total = e.fresh("total")
    tiles.sums(total, columns)
    tiles.accumulate(total, x, y, columns, p.k)
    # What follows is done on neighbours at once, where a row has a whole number of them.
    count = columns.lanes if p.n % columns.lanes == 0 else 1
    matrix, first = batch.scaled(p.m * p.n), side + along.scaled(columns.lanes)
    groups = columns.each // count
    with tiles.rows_of_thread(), tiles.parts_of_thread(groups) as part:
        m = e.let("int", "m", plus(e.index(top), tiles.rows.place("down", "i")))
        group, _ = e.quotient(first + part.scaled(columns.apart if count > 1 else 1), count)
        n = e.let("int", f"n_{count}" if count > 1 else "n", e.index(group))
        with e.braces(f"if ({m} < {p.m} && {n} < {p.n // count})"), e.lanes(count) as lane:
            place = e.variable(m, p.m).scaled(p.n) + e.variable(n, p.n // count).scaled(count)
            element = cast(f"{total}[i][{e.index(part.scaled(count) + lane)}]", dtype, p.dtype)
            made_here = e.let(kind(p.dtype), value.hint or "product", element)
            e.know(value, matrix + place + lane, made_here)
            for source, target in zip(made, results, strict=True):
                e.store(target, matrix + place + lane, e.pull(source, matrix + place + lane))
    stem = "_".join(["matmul", elementwise.stem([op for op in ops if op is not multiply])])
    return launched(e, stem.rstrip("_"), p.batch * high * wide)
