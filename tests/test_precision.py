"""Mixed precision: what is narrow, what stays float32, and that a model learns the same."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import lantern as ln
from examples.llama3 import model
from examples.llama3 import step as training
from examples.llama3.config import ModelConfig
from lantern.errors import ArgumentError, DTypeError

CONFIG = ModelConfig(vocab=48, dim=32, layers=1, heads=4, kv_heads=2, ffn=64, context=24)


def test_gradients_have_the_dtype_of_the_parameters():
    seen = []

    def f(params, x):
        seen.append((params["w"].dtype, x.dtype))
        return ln.sum(ln.astype(x @ params["w"], ln.float32))

    params, x = {"w": ln.ones((3, 2)), "n": 4, "i": ln.arange(2)}, ln.ones((5, 3))
    g = ln.grad(lambda p, x: ln.mixed_precision(f, argnums=(0, -1))({**params, "w": p}, x))(
        params["w"], x
    )
    assert seen == [(ln.bfloat16, ln.bfloat16)]
    assert g.dtype == ln.float32
    np.testing.assert_array_equal(np.asarray(g), 5)
    ln.mixed_precision(f, ln.float16, keep=lambda path: path == "['n']")(params, x)
    assert seen[-1] == (ln.float16, ln.float32)


def test_what_is_kept_is_not_cast():
    params = {"table": ln.ones(2), "rest": [ln.ones(2), ln.arange(2)]}
    half = ln.mixed_precision(lambda p: p, keep=lambda path: path.startswith("['table']"))
    dtypes = ln.tree.map(lambda p: p.dtype.name, half(params))
    assert dtypes == {"table": "float32", "rest": ["bfloat16", "int64"]}


def test_errors():
    with pytest.raises(DTypeError, match="expected bfloat16 or float16"):
        ln.mixed_precision(ln.sin, ln.float32)
    with pytest.raises(ArgumentError, match="positional argument 1"):
        ln.mixed_precision(ln.sin, argnums=1)(ln.ones(2))


@functools.cache
def training_step(narrow: bool):
    """A step of a small Llama 3, with or without mixed precision, and its optimiser."""
    optimizer = ln.optim.adamw(4e-3)
    loss = training.narrow(model.loss) if narrow else model.loss

    @ln.compile
    def step(params, state, tokens, targets):
        value, gradient = ln.value_and_grad(loss)(params, tokens, targets, None, CONFIG)
        updates, state = optimizer.update(gradient, state, params)
        return value, ln.optim.apply_updates(params, updates), state

    return step, optimizer


def losses(seed: int, narrow: bool, steps: int = 40) -> np.ndarray:
    """Of learning one batch by heart, from the parameters of a seed."""
    step, optimizer = training_step(narrow)
    params = model.init(ln.random.key(seed), CONFIG)
    state = optimizer.init(params)
    text = np.random.default_rng(7).integers(0, CONFIG.vocab, (4, CONFIG.context + 1))
    found = []
    for _ in range(steps):
        value, params, state = step(params, state, text[:, :-1], text[:, 1:])
        found.append(float(value))
    assert all(p.dtype == ln.float32 for p in ln.tree.leaves(params))
    return np.asarray(found)


def test_a_model_learns_the_same_within_noise():
    """Noise is how much runs in float32 differ that start from other parameters: the losses in
    bfloat16 stay within half a standard deviation of it."""
    pytest.importorskip("llvmlite")
    runs = np.asarray([losses(seed, narrow=False) for seed in range(4)])
    narrow = losses(0, narrow=True)
    assert runs[0][-1] < runs[0][0] / 3  # it has learned something
    noise = np.std(runs, axis=0, ddof=1)
    apart = np.abs(narrow - runs[0])
    assert narrow[0] == pytest.approx(runs[0][0], rel=2e-3)
    assert np.mean(apart) < np.mean(noise) / 2
