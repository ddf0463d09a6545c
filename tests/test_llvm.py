"""The LLVM backend gives what the reference interpreter gives, for every operation and dtype."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import ir_cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_cases import Case

from backends.llvm import compile_program
from staging.interpret import interpret
from staging.verify import verify

Make = Callable[[np.random.Generator, tuple[int, ...]], Iterator[Case]]


@pytest.mark.parametrize(
    ("make", "least", "most"),
    [
        (ir_cases.elementwise, 0, 40),
        (ir_cases.structure, 1, 5),
        (ir_cases.along_axes, 1, 6),
        (ir_cases.products, 0, 5),
        (ir_cases.indexing, 1, 4),
    ],
)
@given(data=st.data())
@settings(max_examples=1, deadline=None, derandomize=True)
def test_operations_mean_what_the_interpreter_says(
    make: Make, least: int, most: int, data: st.DataObject
) -> None:
    rank = 1 if make is ir_cases.elementwise else 3
    shape = data.draw(st.tuples(*[st.integers(least, most)] * rank))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    cases = list(make(rng, shape))
    program, inputs = ir_cases.program(cases)
    found = compile_program(verify(program))(inputs)
    for case, a, b in zip(cases, found, interpret(program, inputs), strict=True):
        ir_cases.assert_close(case, a, b)
