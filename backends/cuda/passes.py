"""The pipeline for a GPU: that of `staging.pipeline` with a few passes more.

A product that the vendor's library computes writes its result; what follows it is then better fused
with its other neighbours than with the product alone. More is computed again instead of being read,
as bytes cost more than arithmetic. In the end, alike loops become one.
"""

from __future__ import annotations

from collections.abc import Sequence

from backends.cuda.batches import batch_products
from backends.cuda.merging import merge
from backends.cuda.products import added_to, pays, product
from backends.cuda.readers import join_readers
from staging.ir import Op, Program, Value
from staging.passes.common import share_common
from staging.passes.crossing import cross_calls
from staging.passes.dead import remove_dead
from staging.passes.hoist import hoist
from staging.passes.recompute import recompute
from staging.passes.rewrite import Rebuilt, rewrite
from staging.passes.simplify import simplify
from staging.passes.tiled import opened
from staging.pipeline import UNOPENED, Pass

# Instructions of a CPU an element, as `staging.cost` counts them, that take a GPU less time than to
# write it and read it twice: 12 bytes of float32 are as long as some 120 instructions of an H100.
CHEAP = 100


def leave_to_library(program: Program) -> Program:
    """The program with each `call` of kind "product" opened that the library had better compute.

    Example:
        >>> from staging.text import parse_program
        >>> text = '''program @p(%x: float32[512, 512], %y: float32[512, 512]) {
        ...   %z = call(%x, %y) {kind='product'} block(%a: float32[512, 512],
        ...   %b: float32[512, 512]) {
        ...     %c = matmul(%a, %b) {transpose_x=false, transpose_y=false}: float32[512, 512]
        ...     %d = tanh(%c): float32[512, 512]
        ...     return (%d)
        ...   }: float32[512, 512]
        ...   return (%z)
        ... }'''
        >>> [op.name for op in leave_to_library(parse_program(text)).block.ops]
        ['matmul', 'tanh']
    """
    return rewrite(program, _opened)


def _opened(out: Rebuilt, op: Op, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
    if op.attributes.get("kind") != "product":
        return None
    (block,) = op.blocks
    first = next(inner for inner in block.ops if inner.name == "matmul")
    if pays(product(first), block) or added_to(block) is not None:
        return None
    return opened(out, block, inputs)


def recompute_more(program: Program) -> Program:
    """`recompute`, where a value costs its bytes three times and an instruction next to nothing;
    and what made the value for others only is gone from where it was."""
    return remove_dead(recompute(program, CHEAP, narrower=True))


def hoist_launches(program: Program) -> Program:
    """`hoist` of what fusion has left alone: whatever it computes, it is a launch in each step."""
    return share_common(hoist(program, lambda op, moved: is_launch(op)))


def is_launch(op: Op) -> bool:
    """Whether an operation computes an array. (A loop over single numbers is one launch.)"""
    return op.name != "reshape" and op.results[0].type.size > 1


TURNED, LAST, FUSED = (
    next(i for i, one in enumerate(UNOPENED) if one.name == name) + 1
    for name in ("turned", "products", "fused")
)
PASSES: tuple[Pass, ...] = (
    *UNOPENED[:TURNED],
    Pass("crossed", cross_calls),
    Pass("simplify crossed", simplify),
    *UNOPENED[TURNED:LAST],
    Pass("library", leave_to_library),
    *UNOPENED[LAST:FUSED],
    Pass("launches hoisted", hoist_launches),
    *(
        one._replace(run=recompute_more) if one.run is recompute else one
        for one in UNOPENED[FUSED:]
    ),
    Pass("readers", join_readers),
    Pass("batched", batch_products),
    Pass("merged", merge),
)
