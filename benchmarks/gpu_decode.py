"""A Llama-3 network that writes: a token for each text of a batch at a time, with a cache of keys
and values of fixed length, in which each step writes one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import llama3_data as data
from benchmarks.llama3_data import Params, Shape
from benchmarks.worker import Clock, Job

Step = Callable[[Any, Any, Any], tuple[Any, Any]]


def job(step: Step, cache: Any, shape: Shape, tokens: int, finish: Callable[[Any], Any]) -> Job:
    """Write some tokens after the first one.

    Args:
        step: from the cache, tokens [B] and their position to logits [B, V] and the next cache.
        cache: empty.
        shape: of the network.
        tokens: how many a run writes.
        finish: the most probable tokens [B] of logits, on the host.
    """
    texts = data.tokens(shape)[0]  # [B, T]
    now = [cache]

    def run(clock: Clock) -> Any:
        chosen = texts[:, 0]
        for t in range(tokens):
            logits, now[0] = step(now[0], chosen, t)
            chosen = finish(logits)
        return chosen

    def check() -> list[Any]:
        """The logits behind a given text, so that no choice between equals counts."""
        logits: Any = None
        for t in range(tokens):
            logits, now[0] = step(now[0], texts[:, t], t)
        return [np.asarray(logits.cpu() if hasattr(logits, "cpu") else logits, np.float32)]

    return Job(check, run)


def empty(s: Shape) -> list[np.ndarray[Any, Any]]:
    """Keys and values of each layer [2, B, S, K, C], none of them written."""
    shape = 2, s.batch, s.context, s.kv_heads, s.head_dim
    return [np.zeros(shape, np.float32) for _ in range(s.layers)]


def waves(s: Shape) -> np.ndarray[Any, Any]:
    """Cosines and sines of RoPE by position [S, 2, C/2]."""
    half = s.head_dim // 2
    angles = np.arange(s.context)[:, None] * s.rope_theta ** (-np.arange(half) / half)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def in_lantern(shape: str, tokens: int, backend: str) -> Job:
    import lantern as ln

    s = data.SHAPES[shape]
    params = data.mapped(lambda p: ln.cuda.asarray(p, backend=backend), data.parameters(s))
    turns = ln.asarray(waves(s))

    def split(x: Any, count: int) -> Any:
        return ln.reshape(x, (s.batch, count, s.head_dim))

    def turn(x: Any, t: Any) -> Any:  # [B, H, C]
        a, b = ln.split(x, 2, axis=-1)
        cos, sin = turns[t, 0], turns[t, 1]
        return ln.concat([a * cos - b * sin, b * cos + a * sin], axis=-1)

    def forward(params: Params, cache: Any, chosen: Any, t: Any) -> Any:
        x = params["embedding"][chosen]  # [B, D]
        seen = ln.reshape(ln.arange(s.context) <= t, (1, 1, 1, s.context))
        new = []
        for w, past in zip(params["layers"], cache, strict=True):
            h = ln.nn.rms_norm(x, w["attention_norm"], s.norm_eps)
            q = turn(split(ln.nn.linear(h, w["query"]), s.heads), t)
            k = turn(split(ln.nn.linear(h, w["key"]), s.kv_heads), t)
            v = split(ln.nn.linear(h, w["value"]), s.kv_heads)
            past = past.at[:, :, t].set(ln.stack([k, v]))
            y = ln.nn.attention(q[:, None], past[0], past[1], mask=seen)
            x = x + ln.nn.linear(ln.reshape(y, (s.batch, -1)), w["output"])
            h = ln.nn.rms_norm(x, w["ffn_norm"], s.norm_eps)
            hidden = ln.silu(ln.nn.linear(h, w["gate"])) * ln.nn.linear(h, w["up"])
            x = x + ln.nn.linear(hidden, w["down"])
            new.append(past)
        x = ln.nn.rms_norm(x, params["norm"], s.norm_eps)
        return ln.nn.linear(x, params["embedding"]), new

    compiled = ln.compile(forward, backend=backend, donate="cache")

    def step(cache: Any, chosen: Any, t: int) -> Any:
        return compiled(params, cache, chosen, np.int64(t))

    choose = ln.compile(lambda logits: ln.argmax(logits, axis=-1), backend=backend)
    cache = [ln.asarray(x, copy=True) for x in empty(s)]
    return job(step, cache, s, tokens, lambda logits: np.asarray(choose(logits)))


def in_torch(shape: str, tokens: int, device: str, compiled: bool) -> Job:
    import torch
    import torch.nn.functional as f

    s = data.SHAPES[shape]
    params = data.mapped(lambda p: torch.asarray(p, device=device), data.parameters(s))
    turns = torch.asarray(waves(s), device=device)
    places = torch.arange(s.context, device=device)

    def turn(x: Any, t: Any) -> Any:
        a, b = x.chunk(2, dim=-1)
        cos, sin = turns[t].unbind(0)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    def forward(cache: Any, chosen: Any, t: Any) -> Any:
        x = f.embedding(chosen, params["embedding"])
        seen = (places <= t)[None, None, None]
        for w, past in zip(params["layers"], cache, strict=True):
            h = f.rms_norm(x, (s.dim,), w["attention_norm"], eps=s.norm_eps)
            q = turn(f.linear(h, w["query"]).unflatten(-1, (s.heads, -1)), t)
            k = turn(f.linear(h, w["key"]).unflatten(-1, (s.kv_heads, -1)), t)
            v = f.linear(h, w["value"]).unflatten(-1, (s.kv_heads, -1))
            past.index_copy_(2, t[None], torch.stack([k, v])[:, :, None])
            keys, values = past.transpose(2, 3)
            y = f.scaled_dot_product_attention(
                q[:, :, None], keys, values, attn_mask=seen, enable_gqa=s.heads != s.kv_heads
            )
            x = x + f.linear(y.flatten(1), w["output"])
            h = f.rms_norm(x, (s.dim,), w["ffn_norm"], eps=s.norm_eps)
            x = x + f.linear(f.silu(f.linear(h, w["gate"])) * f.linear(h, w["up"]), w["down"])
        x = f.rms_norm(x, (s.dim,), params["norm"], eps=s.norm_eps)
        return f.linear(x, params["embedding"])

    run: Any = torch.compile(forward, mode="reduce-overhead") if compiled else forward

    def step(cache: Any, chosen: Any, t: int) -> Any:
        position = torch.asarray(t, device=device)
        with torch.no_grad():
            return run(cache, torch.asarray(chosen, device=device), position), cache

    cache = [torch.asarray(x, device=device) for x in empty(s)]
    return job(step, cache, s, tokens, lambda logits: logits.argmax(-1).cpu().numpy())


def in_jax(shape: str, tokens: int) -> Job:
    import functools

    import jax
    import jax.numpy as jnp

    s = data.SHAPES[shape]
    jax.config.update("jax_default_matmul_precision", "highest")
    params = data.mapped(jnp.asarray, data.parameters(s))
    turns = jnp.asarray(waves(s))

    def norm(x: Any, gain: Any) -> Any:
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + s.norm_eps) * gain

    def turn(x: Any, t: Any) -> Any:
        a, b = jnp.split(x, 2, axis=-1)
        cos, sin = turns[t]
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    @functools.partial(jax.jit, donate_argnums=1)
    def forward(params: Params, cache: Any, chosen: Any, t: Any) -> Any:
        x = params["embedding"][chosen]
        seen = (jnp.arange(s.context) <= t)[None, None, None]
        new = []
        for w, past in zip(params["layers"], cache, strict=True):
            h = norm(x, w["attention_norm"])
            q = turn((h @ w["query"].T).reshape(s.batch, s.heads, -1), t)
            k = turn((h @ w["key"].T).reshape(s.batch, s.kv_heads, -1), t)
            v = (h @ w["value"].T).reshape(s.batch, s.kv_heads, -1)
            past = past.at[:, :, t].set(jnp.stack([k, v]))
            y = jax.nn.dot_product_attention(q[:, None], past[0], past[1], mask=seen)
            x = x + y.reshape(s.batch, -1) @ w["output"].T
            h = norm(x, w["ffn_norm"])
            x = x + (jax.nn.silu(h @ w["gate"].T) * (h @ w["up"].T)) @ w["down"].T
            new.append(past)
        return norm(x, params["norm"]) @ params["embedding"].T, new

    def step(cache: Any, chosen: Any, t: int) -> Any:
        return forward(params, cache, chosen, t)

    cache = [jnp.asarray(x) for x in empty(s)]
    return job(step, cache, s, tokens, lambda logits: np.asarray(logits.argmax(-1)))
