"""Real programs mean the same whichever passes are left out, interpreted and as native code."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

import lantern as ln
from backends.llvm import compile_program
from examples.llama3 import model
from examples.llama3.config import ModelConfig
from staging.interpret import interpret
from staging.ir import Program
from staging.memory import plan_program
from staging.pipeline import DEFAULT, optimise
from staging.verify import verify

Made = tuple[Callable[..., Any], tuple[Any, ...]]
ALL = range(len(DEFAULT))


def network() -> Made:
    """The gradient of a small network."""

    def loss(w: ln.Tensor, v: ln.Tensor, x: ln.Tensor) -> ln.Tensor:
        hidden = ln.tanh(x @ w) * 1.0 + 0.0
        scores = ln.softmax(hidden @ ln.matrix_transpose(v), axis=-1)
        return ln.mean((scores - ln.mean(scores, axis=0)) ** 2)

    rng = np.random.default_rng(0)
    return ln.grad(loss, (0, 1)), tuple(rng.normal(size=s) for s in ((3, 4), (5, 4), (6, 3)))


def llama() -> Made:
    """A training step of a Llama with one layer: forward, backward, clipping, AdamW."""
    config = ModelConfig(vocab=24, dim=8, layers=1, heads=2, kv_heads=1, ffn=12, context=6)
    params = ln.tree.map(lambda p: ln.astype(p, ln.float64), model.init(ln.random.key(0), config))
    adamw = ln.optim.chain(ln.optim.clip_by_global_norm(1.0), ln.optim.adamw(1e-3))
    tokens = np.random.default_rng(0).integers(0, config.vocab, (2, config.context))

    def step(params: Any, state: Any, tokens: Any) -> Any:
        loss, grads = ln.value_and_grad(model.loss)(params, tokens, tokens, None, config)
        updates, state = adamw.update(grads, state, params)
        return loss, ln.optim.apply_updates(params, updates), state

    return step, (params, adamw.init(params), tokens)


def pictures() -> Made:
    """The gradient of a convolution with pooling."""

    def loss(w: ln.Tensor, x: ln.Tensor) -> ln.Tensor:
        return ln.sum(ln.max_pool2d(ln.relu(ln.conv2d(x, w)), 2) ** 2)

    rng = np.random.default_rng(0)
    return ln.grad(loss), (rng.normal(size=(3, 2, 3, 3)), rng.normal(size=(2, 2, 8, 8)))


def recurrence() -> Made:
    """The gradient of a loop, whose body has something in it that no step changes."""

    def loss(w: ln.Tensor, x: ln.Tensor) -> ln.Tensor:
        def body(h: ln.Tensor, x: ln.Tensor) -> Any:
            h = ln.tanh(h @ ln.exp(w) + x)
            return h, ln.sum(h)

        h, sums = ln.scan(body, ln.zeros(4, dtype=ln.float64), x)
        return ln.sum(h * h) + ln.sum(sums)

    rng = np.random.default_rng(0)
    return ln.grad(loss, (0, 1)), (rng.normal(size=(4, 4)), rng.normal(size=(5, 4)))


PROGRAMS = [network, llama, pictures, recurrence]


@cache
def traced(make: Callable[[], Made]) -> tuple[Program, list[Any], list[Any]]:
    """The program before any pass, its inputs, and its results."""
    f, args = make()
    found = ln.compile(f).traced(args, {})
    inputs = [*(np.asarray(x) for x in ln.tree.leaves(args)), *found.captured]
    return found.program, inputs, interpret(found.program, inputs)


def check(run: Callable[[list[Any]], list[Any]], make: Callable[[], Made]) -> None:
    _, inputs, expected = traced(make)
    for a, b in zip(run([np.array(x) for x in inputs]), expected, strict=True):
        np.testing.assert_allclose(a, b, 1e-9, 1e-11)


def without(program: Program, left_out: set[int]) -> Program:
    """The program after the passes that stay."""
    passes = tuple(p for i, p in enumerate(DEFAULT) if i not in left_out)
    return verify(optimise(program, passes))


def chosen(make: Callable[[], Made], count: int) -> list[set[int]]:
    """Some pairs of passes, others for each program."""
    rng = np.random.default_rng(PROGRAMS.index(make))
    return [set(rng.choice(len(ALL), 2, replace=False).tolist()) for _ in range(count)]


@pytest.mark.parametrize("make", PROGRAMS)
def test_the_interpreter_needs_no_pass(make: Callable[[], Made]) -> None:
    for left_out in [*({i} for i in ALL), set(ALL), *chosen(make, 6)]:
        program = without(traced(make)[0], left_out)
        check(lambda arrays, p=program: interpret(p, arrays), make)


@pytest.mark.parametrize("make", PROGRAMS)
@pytest.mark.parametrize("donated", [False, True])
def test_native_code_needs_no_pass(make: Callable[[], Made], donated: bool) -> None:
    program = traced(make)[0]
    if donated:
        program = dataclasses.replace(program, donated=tuple(range(len(program.block.params))))
    for left_out in [set(ALL), *chosen(make, 1)] if donated else [set(), *chosen(make, 1)]:
        check(compile_program(without(program, left_out)), make)


@pytest.mark.parametrize("make", PROGRAMS)
def test_every_pass_gives_a_well_formed_program(make: Callable[[], Made]) -> None:
    optimise(traced(make)[0], after=lambda name, program: verify(program))


def test_a_donated_training_step_allocates_nothing() -> None:
    program = traced(llama)[0]
    count = len(program.block.results) - 1  # all but the loss: parameters and moments
    program = dataclasses.replace(program, donated=tuple(range(count)))
    plan = plan_program(optimise(program))
    assert sorted(k for k in plan.kept if k is not None) == list(range(count))
    assert plan.copied == ()


def test_the_pipeline_shortens_programs() -> None:
    program = traced(network)[0]
    assert len(optimise(program).block.ops) < 0.8 * len(program.block.ops)
