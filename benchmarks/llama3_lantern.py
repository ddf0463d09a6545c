"""The Llama-3 training step in lantern: that of ``examples/llama3``."""

from __future__ import annotations

from typing import Any

import numpy as np

import lantern as ln
from benchmarks import llama3_data as data
from benchmarks.llama3_data import RECIPE, Params, Shape
from benchmarks.worker import Clock, Job
from examples.llama3 import model
from examples.llama3.config import ModelConfig


def optimizer() -> ln.optim.Optimizer:
    """Clipping by global norm, then AdamW, as in ``examples/llama3/train.py``."""
    adamw = ln.optim.adamw(
        RECIPE.lr,
        b1=RECIPE.beta1,
        b2=RECIPE.beta2,
        eps=RECIPE.eps,
        weight_decay=RECIPE.weight_decay,
        mask=lambda params: ln.tree.map(lambda p: p.ndim > 1, params),
    )
    return ln.optim.chain(ln.optim.clip_by_global_norm(RECIPE.clip), adamw)


def step(shape: str, compiled: bool, bf16: bool = False, backend: str | None = None) -> Job:
    """A step takes parameters and moments and returns the next ones, compiled in their place."""
    s = data.SHAPES[shape]
    config = config_of(s)
    update = optimizer()
    loss = ln.mixed_precision(model.loss) if bf16 else model.loss

    def learn(params: Params, state: Any, tokens: Any, targets: Any) -> Any:
        value, gradient = ln.value_and_grad(loss)(params, tokens, targets, None, config)
        updates, state = update.update(gradient, state, params)
        return value, ln.optim.apply_updates(params, updates), state

    if compiled:
        learn = ln.compile(learn, donate=("params", "state"), backend=backend)
    params = data.mapped(lambda p: ln.asarray(p, copy=True), data.parameters(s))
    now = [params, update.init(params)]
    tokens, targets = data.tokens(s)

    def run(clock: Clock) -> float:
        value, now[0], now[1] = learn(now[0], now[1], tokens, targets)
        return float(value)

    def check() -> list[Any]:
        losses = [run(Clock())]
        moments = [np.array(m) for m in ln.tree.leaves(now[1][1].first)]
        losses += [run(Clock()) for _ in range(2)]
        return [np.asarray(losses), *moments]

    return Job(check, run)


def config_of(s: Shape) -> ModelConfig:
    """The example's settings for this shape."""
    return ModelConfig(
        vocab=s.vocab,
        dim=s.dim,
        layers=s.layers,
        heads=s.heads,
        kv_heads=s.kv_heads,
        ffn=s.ffn,
        context=s.context,
        rope_theta=s.rope_theta,
        norm_eps=s.norm_eps,
    )
