"""What the host does for a program on a device: control flow, memory and errors, with kernels that
are the operations of the reference interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
from cuda_standin import executable
from hypothesis import given, settings
from hypothesis import strategies as st
from random_control import Node
from recursive_programs import Draw
from test_random_control import cases, slope_of, total

import lantern as ln
from lantern.convert import asarray
from lantern.staged.tracing import trace
from lantern.tensor import Tensor
from staging.interpret import interpret
from staging.ir import Program
from staging.pipeline import optimise
from staging.verify import verify


def traced(f: Any, *args: Any) -> tuple[Program, list[Any]]:
    """The program of a function, and the arrays that it is given."""
    leaves, structure = ln.tree.flatten((args, {}))
    leaves = [asarray(x) for x in leaves]
    names = [f"x{i}" for i in range(len(leaves))]
    kinds = [(x.shape, x.dtype) for x in leaves]
    found = trace(f, "f", structure, leaves, kinds, names, {})
    arrays = [np.asarray(x.value, order="C") for x in leaves if type(x) is Tensor]
    return verify(optimise(found.program)), [*arrays, *found.captured]


def agree(program: Program, arrays: list[Any]) -> None:
    """The device gives what the interpreter gives, in one range of memory and in many."""
    want = interpret(program, arrays)
    for apart in (True, False):
        found = executable(program, apart)([x.copy() for x in arrays])
        for a, b in zip(found, want, strict=True):
            np.testing.assert_allclose(np.asarray(a), b, 1e-12, 1e-12)


@settings(max_examples=8)
@given(cases(depth=2))
def test_random_control_flow(case: tuple[Node, np.ndarray, np.ndarray, int]) -> None:
    node, x, v, k = case

    def everything(x: Any, w: Any) -> Any:
        first = ln.value_and_grad(total(node, k), argnums=(0, 1))(x, w)
        return first, ln.grad(slope_of(node, v, k), argnums=(0, 1))(x, w)

    agree(*traced(everything, *x))


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_random_recursion(seed: int, fuel: int) -> None:
    draw = Draw(seed)
    program = verify(draw.program())
    agree(program, draw.inputs(fuel))
