"""Lowerings: there is one for every primitive, and what has no place in a program is refused."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from test_primitives import PRIMITIVES

import lantern as ln
from lantern.errors import StagingError
from lantern.staged.lowerings import LOWERINGS
from staging.text import parse_program, print_program

compile = functools.partial(ln.compile, backend="interpreter")


def test_every_primitive_is_lowered() -> None:
    assert not set(PRIMITIVES.values()) - set(LOWERINGS)


# What is not known while compiling ----------------------------------------------------------------


@pytest.mark.parametrize(
    "f",
    (
        lambda x: x if x[0] > 0 else -x,
        lambda x: float(x[0]),
        lambda x: x[0].item(),
        lambda x: x.tolist(),
        lambda x: np.asarray(x),
        lambda x: np.sin(np.asarray(x)),
        lambda x: ln.nonzero(x),
        lambda x: ln.unique_values(x),
        lambda x: x[x > 0],
        lambda x: ln.repeat(x, ln.astype(x, int)),
        lambda x: range(ln.astype(x, int)[0]),
        lambda x: f"{x[0]:.3f}",
        lambda x: ln.vmap(lambda v: float(ln.stop_gradient(v)))(x[None]),
        lambda x: ln.grad(lambda v: v * (1.0 if v > 0 else 2.0))(x[0]),
    ),
)
def test_reading_a_value_says_what_to_do(f) -> None:
    with pytest.raises((StagingError, ln.errors.BatchingError), match=r"(?s)ln\.where.*test_low"):
        compile(f, rewrite=False)(ln.asarray([1.0, 2.0]))


def test_a_tensor_shows_its_type_while_compiling() -> None:
    seen = []
    compile(lambda x: seen.append(f"{x!r}") or x)(ln.asarray([1.0, 2.0]))
    assert seen == ["Tensor(float32[2], known when it runs)"]


def test_programs_print_and_parse() -> None:
    program = compile(ln.grad(lambda x: ln.sum(ln.lgamma(x) * ln.logsumexp(x)))).ir(ln.ones(3))
    assert print_program(parse_program(program)) == program
