"""The Llama-3 training step in PyTorch, with its fused kernels: attention, cross-entropy, AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as f

from benchmarks import llama3_data as data
from benchmarks.llama3_data import RECIPE, Params, Shape
from benchmarks.worker import Clock, Job


def step(shape: str, compiled: bool, threads: int, bf16: bool = False, device: str = "cpu") -> Job:
    """A step overwrites parameters and moments."""
    torch.set_num_threads(threads)
    s = data.SHAPES[shape]
    params = data.mapped(
        lambda p: torch.from_numpy(p).to(device).requires_grad_(), data.parameters(s)
    )
    leaves = data.leaves(params)
    tokens, targets = (torch.from_numpy(x).to(device) for x in data.tokens(s))
    forward = loss_of(s, device)
    if compiled:
        forward = torch.compile(forward)
    groups = [
        {"params": [p for p in leaves if p.ndim > 1], "weight_decay": RECIPE.weight_decay},
        {"params": [p for p in leaves if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=RECIPE.lr, betas=(RECIPE.beta1, RECIPE.beta2), eps=RECIPE.eps, fused=True
    )

    def run(clock: Clock) -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            value = forward(params, tokens, targets)
        value.backward()
        torch.nn.utils.clip_grad_norm_(leaves, RECIPE.clip)
        optimizer.step()
        return value.item()

    def check() -> list[Any]:
        losses = [run(Clock())]
        moments = [optimizer.state[p]["exp_avg"].cpu().numpy().copy() for p in leaves]
        losses += [run(Clock()) for _ in range(2)]
        return [np.asarray(losses), *moments]

    return Job(check, run)


def loss_of(s: Shape, device: str = "cpu") -> Callable[..., Any]:
    """The model of ``examples/llama3/model.py``, line for line, on PyTorch's functions."""
    half = s.head_dim // 2
    frequencies = s.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(s.context)[:, None] * frequencies  # [T, C/2]
    cos, sin = (wave(angles).float().to(device) for wave in (torch.cos, torch.sin))

    def heads(x: Any, count: int) -> Any:
        return x.unflatten(-1, (count, s.head_dim)).transpose(1, 2)  # [B, count, T, C]

    def turn(x: Any) -> Any:
        a, b = x[..., :half], x[..., half:]
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

    def norm(x: Any, gain: Any) -> Any:
        return f.rms_norm(x, (s.dim,), gain, eps=s.norm_eps)

    def loss(params: Params, tokens: Any, targets: Any) -> Any:
        x = f.embedding(tokens, params["embedding"])  # [B, T, D]
        for w in params["layers"]:
            h = norm(x, w["attention_norm"])
            q = turn(heads(f.linear(h, w["query"]), s.heads))
            k = turn(heads(f.linear(h, w["key"]), s.kv_heads))
            v = heads(f.linear(h, w["value"]), s.kv_heads)
            y = f.scaled_dot_product_attention(
                q, k, v, is_causal=True, enable_gqa=s.heads != s.kv_heads
            )
            x = x + f.linear(y.transpose(1, 2).flatten(2), w["output"])
            h = norm(x, w["ffn_norm"])
            x = x + f.linear(f.silu(f.linear(h, w["gate"])) * f.linear(h, w["up"]), w["down"])
        logits = f.linear(norm(x, params["norm"]), params["embedding"])
        return f.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)

    return loss
