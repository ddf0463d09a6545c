"""The Llama-3 training step in JAX: one jitted function that takes over its state's memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import llama3_data as data
from benchmarks.llama3_data import RECIPE, Params, Shape
from benchmarks.worker import Clock, Job


def step(shape: str, bf16: bool = False) -> Job:
    """A step takes parameters and moments and returns the next ones. What is not computed in
    bfloat16 is computed in float32, also where a GPU would round to less by default."""
    s = data.SHAPES[shape]
    jax.config.update("jax_default_matmul_precision", "highest")
    wide = loss_of(s)

    def loss(params: Params, tokens: Any, targets: Any) -> Any:
        narrow = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params) if bf16 else params
        return wide(narrow, tokens, targets)

    @partial(jax.jit, donate_argnums=(0, 1))
    def learn(params: Params, state: Any, tokens: Any, targets: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(params, tokens, targets)
        norm = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(gradient)))
        gradient = jax.tree.map(lambda g: g * jnp.minimum(1.0, RECIPE.clip / norm), gradient)
        return value, *adamw(params, state, gradient)

    params = jax.tree.map(jnp.asarray, data.parameters(s))
    zeros = partial(jax.tree.map, jnp.zeros_like)
    now = [params, (jnp.zeros((), jnp.int32), zeros(params), zeros(params))]
    tokens, targets = map(jnp.asarray, data.tokens(s))

    def run(clock: Clock) -> float:
        value, now[0], now[1] = learn(now[0], now[1], tokens, targets)
        jax.block_until_ready(now)
        return float(value)

    def check() -> list[Any]:
        losses = [run(Clock())]
        moments = [np.array(m) for m in jax.tree.leaves(now[1][1])]
        losses += [run(Clock()) for _ in range(2)]
        return [np.asarray(losses), *moments]

    return Job(check, run)


def adamw(params: Params, state: Any, gradient: Params) -> Any:
    """The next parameters and the next state."""
    done, first, second = state
    b1, b2, done = RECIPE.beta1, RECIPE.beta2, done + 1
    first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, first, gradient)
    second = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, second, gradient)

    def moved(p: Any, m: Any, v: Any) -> Any:
        update = m / (1 - b1**done) / (jnp.sqrt(v / (1 - b2**done)) + RECIPE.eps)
        decay = RECIPE.weight_decay if p.ndim > 1 else 0.0
        return p - RECIPE.lr * (update + decay * p)

    return jax.tree.map(moved, params, first, second), (done, first, second)


def loss_of(s: Shape) -> Callable[..., Any]:
    """The model of ``examples/llama3/model.py``, line for line."""
    half = s.head_dim // 2
    frequencies = s.rope_theta ** (-np.arange(half) / half)
    angles = np.arange(s.context)[:, None] * frequencies  # [T, C/2]
    cos, sin = (f(angles).astype(np.float32)[:, None] for f in (np.cos, np.sin))  # [T, 1, C/2]

    def turn(x: Any) -> Any:
        a, b = x[..., :half], x[..., half:]
        turned = jnp.concatenate((a * cos - b * sin, b * cos + a * sin), axis=-1)
        return turned.astype(x.dtype)

    def norm(x: Any, gain: Any) -> Any:
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + s.norm_eps) * gain

    def heads(x: Any, count: int) -> Any:
        return x.reshape(*x.shape[:2], count, s.head_dim)  # [B, T, count, C]

    def loss(params: Params, tokens: Any, targets: Any) -> Any:
        x = params["embedding"][tokens]  # [B, T, D]
        for w in params["layers"]:
            h = norm(x, w["attention_norm"])
            q = turn(heads(h @ w["query"].T, s.heads))
            k = turn(heads(h @ w["key"].T, s.kv_heads))
            v = heads(h @ w["value"].T, s.kv_heads)
            y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
            x = x + y.reshape(*y.shape[:2], -1) @ w["output"].T
            h = norm(x, w["ffn_norm"])
            x = x + (jax.nn.silu(h @ w["gate"].T) * (h @ w["up"].T)) @ w["down"].T
        logits = (norm(x, params["norm"]) @ params["embedding"].T).astype(jnp.float32)
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - chosen)

    return loss
