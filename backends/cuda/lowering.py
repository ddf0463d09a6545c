"""What becomes of each operation of the table that holds no control flow: the steps it takes.

`LOWERINGS` is the whole list. An operation that is not in it is control flow, or has no lowering,
which `lower` says.
"""

from __future__ import annotations

from collections.abc import Sequence

from backends.cuda import (
    attention,
    batches,
    elementwise,
    moves,
    orders,
    products,
    reductions,
    rows,
    scalars,
    scatter,
    sides,
    sorting,
)
from backends.cuda.steps import Decompose, Lowering, Step
from staging.ir import Op
from staging.ops import OPS


def nothing(op: Op) -> Sequence[Step]:
    """An operation whose result lies where its operand does."""
    return ()


def decomposed(op: Op) -> Sequence[Step]:
    """A decomposition of matrices, which the vendor's library computes."""
    return [Decompose(op)] if any(v.type.size for v in op.results) else []


LOWERINGS: dict[str, Lowering] = {
    **{name: elementwise.elementwise for name, spec in OPS.items() if spec.elementwise},
    "constant": elementwise.elementwise,
    "iota": elementwise.elementwise,
    "broadcast": elementwise.elementwise,
    "slice": elementwise.elementwise,
    "view": elementwise.elementwise,
    "transpose": moves.transpose,
    "concat": moves.concat,
    "pad": moves.pad,
    "fold": moves.fold,
    "gather": moves.gather,
    "scatter": scatter.scatter,
    "reshape": nothing,
    "reduce": reductions.reduce,
    "cumulate": orders.cumulate,
    "argreduce": orders.argreduce,
    "argsort": sorting.argsort,
    "matmul": products.matmul,
    "linalg": decomposed,
    "scan": scalars.scan,
}
CALLS: dict[str, Lowering] = {  # by the kind of a `call`
    "loop": rows.fused,
    "loops": sides.loops,
    "product": products.followed,
    "products": batches.batch,
    "attention": attention.attention,
    "attention_adjoint": attention.attention_adjoint,
}


def lower(op: Op) -> Sequence[Step]:
    """The steps of an operation, on its operands and results and on scratch of its own; none where
    the result has no elements, or is the operand in another shape.

    Raises:
        NotImplementedError: there is no lowering of it.
    """
    table = CALLS if op.name == "call" else LOWERINGS
    name = str(op.attributes["kind"]) if op.name == "call" else op.name
    if name not in table:
        # The table of operations may grow before this backend does; `compile` says so.
        raise NotImplementedError(f"{name} on a GPU\n  at {op.place}")
    return table[name](op)
