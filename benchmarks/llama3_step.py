"""One training step of the example's Llama-3 beside the same step in PyTorch's eager mode.

Both start from the same parameters and data, in float32 with the same number of threads. They
must agree on the loss and on every gradient before they are timed. PyTorch uses its fused kernels
where it has them: attention, cross-entropy, AdamW.

    python -m benchmarks.llama3_step [--quick] [--json FILE]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

import lantern as ln
from benchmarks.harness import Clock, Contender, Workload, main, peer
from examples.llama3 import model
from examples.llama3.config import ModelConfig, TrainConfig
from examples.llama3.data import NO_TARGET, Batch
from examples.llama3.train import optimizer_of

Params = dict[str, Any]
SETTINGS = TrainConfig()


def batch_of(config: ModelConfig, size: int) -> Batch:
    """Random tokens; each sequence holds the end of one document and the beginning of the next."""
    rng = np.random.default_rng(0)
    shape = (size, config.context)
    tokens = rng.integers(config.vocab, size=shape)
    ends = rng.integers(1, config.context, size=(size, 1))
    segments = (np.arange(config.context) >= ends).astype(np.int64)
    targets = np.where(np.arange(config.context) == ends - 1, NO_TARGET, np.roll(tokens, -1, 1))
    return Batch(tokens, targets, segments)


def in_lantern(config: ModelConfig, params: Params, batch: Batch, native: bool) -> Contender:
    optimizer = optimizer_of(SETTINGS)
    state = optimizer.init(params)

    def differentiate(params: Params, *batch: Any) -> Any:
        return ln.value_and_grad(model.loss)(params, *batch, config)

    def update(gradient: Params, state: Any, params: Params) -> Any:
        updates, after = optimizer.update(gradient, state, params)
        return ln.optim.apply_updates(params, updates), after

    if native:
        differentiate = ln.compile(differentiate, backend="llvm")
        update = ln.compile(update, backend="llvm")

    def run(clock: Clock) -> Any:
        value, gradient = differentiate(params, *batch)
        clock.lap("gradient")
        update(gradient, state, params)
        clock.lap("optimizer")
        return [value, *ln.tree.leaves(gradient)]

    return Contender("compiled" if native else "lantern", run)


def in_torch(torch: Any, config: ModelConfig, params: Params, batch: Batch) -> Contender:
    weights = ln.tree.map(lambda p: torch.tensor(np.asarray(p)).requires_grad_(), params)
    leaves = ln.tree.leaves(weights)
    data = [torch.tensor(x) for x in batch]
    forward = torch_loss(torch, config)
    groups = [
        {"params": [p for p in leaves if p.ndim > 1], "weight_decay": SETTINGS.weight_decay},
        {"params": [p for p in leaves if p.ndim <= 1], "weight_decay": 0.0},
    ]
    betas = (SETTINGS.beta1, SETTINGS.beta2)
    optimizer = torch.optim.AdamW(groups, lr=SETTINGS.lr, betas=betas, fused=True)

    def run(clock: Clock) -> Any:
        optimizer.zero_grad(set_to_none=True)
        value = forward(weights, *data)
        value.backward()
        clock.lap("gradient")
        # Clipping works in place. Only the first run, from the same parameters, is compared.
        first = not optimizer.state
        result = [value.item(), *(p.grad.clone() for p in leaves)] if first else []
        torch.nn.utils.clip_grad_norm_(leaves, SETTINGS.clip)
        optimizer.step()
        clock.lap("optimizer")
        return result

    return Contender("PyTorch", run)


def torch_loss(torch: Any, config: ModelConfig) -> Callable[..., Any]:
    """The model of `examples/llama3/model.py`, line for line, on PyTorch's functions."""
    f = torch.nn.functional
    half = config.head_dim // 2
    frequencies = config.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(config.context)[:, None] * frequencies  # [T, C/2]
    cos, sin = torch.cos(angles).float(), torch.sin(angles).float()
    past = torch.ones(config.context, config.context, dtype=torch.bool).tril()  # [T, T]

    def heads(x: Any, count: int) -> Any:
        return x.unflatten(-1, (count, config.head_dim)).transpose(1, 2)  # [B, count, T, C]

    def turn(x: Any) -> Any:
        a, b = x[..., :half], x[..., half:]
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

    def norm(x: Any, gain: Any) -> Any:
        return f.rms_norm(x, (config.dim,), gain, eps=config.norm_eps)

    def loss(params: Params, tokens: Any, targets: Any, segments: Any) -> Any:
        mask = past & (segments[:, :, None] == segments[:, None, :])  # [B, T, T]
        x = f.embedding(tokens, params["embedding"])  # [B, T, D]
        for w in params["layers"]:
            h = norm(x, w["attention_norm"])
            q = turn(heads(f.linear(h, w["query"]), config.heads))
            k = turn(heads(f.linear(h, w["key"]), config.kv_heads))
            v = heads(f.linear(h, w["value"]), config.kv_heads)
            y = f.scaled_dot_product_attention(q, k, v, mask[:, None], enable_gqa=True)
            x = x + f.linear(y.transpose(1, 2).flatten(2), w["output"])
            h = norm(x, w["ffn_norm"])
            x = x + f.linear(f.silu(f.linear(h, w["gate"])) * f.linear(h, w["up"]), w["down"])
        output = params["embedding"] if config.tied else params["output"]
        logits = f.linear(norm(x, params["norm"]), output)
        return f.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=NO_TARGET)

    return loss


def workloads(quick: bool) -> Iterable[Workload]:
    """The model of `make demo`; with ``quick`` a smaller one."""
    torch = peer("torch")
    small: dict[str, Any] = {
        "dim": 48,
        "layers": 2,
        "heads": 4,
        "kv_heads": 2,
        "ffn": 96,
        "context": 32,
    }
    config = ModelConfig(vocab=256, **small) if quick else ModelConfig(vocab=SETTINGS.bpe_vocab)
    batch = batch_of(config, 2 if quick else SETTINGS.batch)
    params = model.init(ln.random.key(0), config)
    contenders = [in_lantern(config, params, batch, native=False)]
    if peer("llvmlite") and peer("scipy_openblas32"):
        contenders.append(in_lantern(config, params, batch, native=True))
    if torch:
        contenders.append(in_torch(torch, config, params, batch))
    yield Workload(
        f"a Llama-3 training step: {model.parameter_count(params):,} parameters, "
        f"{len(batch.tokens)} sequences of {config.context} tokens",
        contenders,
        batch.tokens.size,
        "token",
        rtol=1e-4,
        rounds=5 if quick else 9,
    )


if __name__ == "__main__":
    main(workloads, sys.argv[1:])
