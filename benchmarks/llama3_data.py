"""What the contenders of the Llama rows share, in plain NumPy: shapes, parameters, tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Params = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """The shape of a network and of a batch; names as in ``examples.llama3.config``."""

    vocab: int
    dim: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    context: int = 256
    batch: int = 4
    rope_theta: float = 500_000.0
    norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


@dataclass(frozen=True)
class Recipe:
    """AdamW with clipping; matrices decay, gains do not."""

    lr: float = 3e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0


RECIPE = Recipe()
SHAPES = {
    "A": Shape(vocab=32_000, dim=288, layers=6, heads=6, kv_heads=6, ffn=768),
    "A, 24 layers": Shape(vocab=32_000, dim=288, layers=24, heads=6, kv_heads=6, ffn=768),
    "B": Shape(vocab=512, dim=64, layers=5, heads=8, kv_heads=4, ffn=172),
    "G": Shape(vocab=32_000, dim=1024, layers=16, heads=16, kv_heads=8, ffn=2816, context=1024,
               batch=8),
    "SmolLM2-135M": Shape(vocab=49_152, dim=576, layers=30, heads=9, kv_heads=3, ffn=1536, batch=1,
                          rope_theta=100_000.0),
    "tiny": Shape(vocab=128, dim=32, layers=2, heads=4, kv_heads=2, ffn=48, context=16, batch=2),
}  # fmt: skip


def parameters(shape: Shape) -> Params:
    """Initial parameters, drawn as the example draws them."""
    rng = np.random.default_rng(0)
    d, c = shape.dim, shape.head_dim
    small = 0.02 / (2 * shape.layers) ** 0.5

    def matrix(outputs: int, inputs: int, std: float = 0.02) -> np.ndarray[Any, Any]:
        return (rng.standard_normal((outputs, inputs), np.float32) * np.float32(std)).copy()

    def block() -> Params:
        return {
            "attention_norm": np.ones(d, np.float32),
            "query": matrix(shape.heads * c, d),
            "key": matrix(shape.kv_heads * c, d),
            "value": matrix(shape.kv_heads * c, d),
            "output": matrix(d, shape.heads * c, small),
            "ffn_norm": np.ones(d, np.float32),
            "gate": matrix(shape.ffn, d),
            "up": matrix(shape.ffn, d),
            "down": matrix(d, shape.ffn, small),
        }

    return {
        "embedding": matrix(shape.vocab, d),
        "layers": [block() for _ in range(shape.layers)],
        "norm": np.ones(d, np.float32),
    }


def tokens(shape: Shape) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A batch of random tokens and those that follow each, [B, T]."""
    rng = np.random.default_rng(1)
    text = rng.integers(shape.vocab, size=(shape.batch, shape.context + 1))
    return text[:, :-1].copy(), text[:, 1:].copy()


def flops(shape: Shape) -> int:
    """Floating point operations of the products of matrices in a training step, causal attention
    in full: twice the multiplications forward, and twice that backward."""
    d, c = shape.dim, shape.head_dim
    block = 2 * d * shape.heads * c + 2 * d * shape.kv_heads * c + 3 * d * shape.ffn
    attention = 2 * shape.context * shape.heads * c
    per_token = shape.layers * (block + attention) + d * shape.vocab
    return 6 * per_token * shape.batch * shape.context


def leaves(tree: Any) -> list[Any]:
    """The arrays of nested dicts and lists, keys in alphabetical order."""
    if isinstance(tree, dict):
        return [x for key in sorted(tree) for x in leaves(tree[key])]
    if isinstance(tree, list):
        return [x for part in tree for x in leaves(part)]
    return [tree]


def mapped(function: Any, tree: Any) -> Any:
    """Nested dicts and lists with the function of each array in its place."""
    if isinstance(tree, dict):
        return {key: mapped(function, part) for key, part in tree.items()}
    if isinstance(tree, list):
        return [mapped(function, part) for part in tree]
    return function(tree)
