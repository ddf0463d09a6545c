"""How often the program of a row-wise function goes over its rows: once forward, once backward."""

from __future__ import annotations

import pytest

import lantern as ln
from staging.ir import Type
from staging.pipeline import optimise
from staging.text import parse_program

ROWS = Type("float32", (16, 100))
FUNCTIONS = {
    "softmax": lambda x: ln.softmax(x, axis=-1),
    "log_softmax": lambda x: ln.log_softmax(x, axis=-1),
    "logsumexp": lambda x: ln.logsumexp(x, axis=-1),
    "rms_norm": lambda x: ln.nn.rms_norm(x, ln.ones(100)),
    "layer_norm": ln.nn.layer_norm,
}


def kernels(f, *xs: ln.Tensor) -> list[str]:
    """The operations of a program that read all rows, but for gathers and scatters of a few."""
    block = optimise(parse_program(ln.compile(f).ir(*xs))).block
    return [
        op.name
        for op in block.ops
        if any(v.type == ROWS for v in op.inputs) and op.name not in ("gather", "scatter")
    ]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_loop_nest_each_way(name: str) -> None:
    f, x = FUNCTIONS[name], ln.ones(ROWS.shape)
    assert kernels(f, x) == ["call"]
    adjoint = f(x)
    assert kernels(lambda x, dz: ln.vjp(f, x)[1](dz), x, adjoint) == ["call"]
