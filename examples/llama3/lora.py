"""Low-rank adaptation: learn a small change of a matrix instead of the matrix.

*LoRA: Low-Rank Adaptation of Large Language Models* (Hu et al., arXiv 2106.09685), section 4.1: to
a frozen matrix W [N, W] is added B A, with A [R, W] and B [N, R] of a small rank R:

    h = W x + alpha/R B A x

A begins at random and B at zero, so that nothing is changed at first. The frozen matrix may be in
few bits. No derivative by it is computed, nor are moments of an optimiser kept for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import lantern as ln
from examples.llama3.files import Problem
from examples.llama3.model import Params
from examples.llama3.quantise import MATRICES, Matrix, dense, linear

Change = dict[str, ln.Tensor]  # of a matrix: "down" is A, "up" is B
Changes = list[dict[str, Change]]  # by layer, by matrix


@ln.tree.dataclass
@dataclass(frozen=True)
class Adapted:
    """A frozen matrix and what is added to it: a node of a pytree that `quantise.linear` takes."""

    frozen: Matrix
    down: ln.Tensor
    up: ln.Tensor
    scale: float = field(metadata={"static": True})

    def linear(self, x: ln.Tensor) -> ln.Tensor:
        """x (W + scale B A)ᵀ; [..., W] -> [..., N]."""
        change = ln.nn.linear(ln.nn.linear(x, self.down), self.up)
        return linear(x, self.frozen) + change * self.scale


def begin(key: ln.Tensor, params: Params, rank: int) -> Changes:
    """Changes of the matrices of all blocks, which change nothing yet.

    Args:
        key: a random key.
        params: of the model.
        rank: R.

    Raises:
        Problem: the rank is too large for a matrix.
    """

    def one(key: ln.Tensor, name: str, matrix: Matrix) -> Change:
        outputs, inputs = matrix.shape
        if rank > min(outputs, inputs):
            raise Problem(f"--lora is {rank}; the matrix {name!r} is only {outputs} by {inputs}")
        # As PyTorch draws the rows of its layers: uniform, of variance 1 / (3 W).
        bound = inputs**-0.5
        down = ln.random.uniform(key, (rank, inputs), ln.float32, -bound, bound)
        return {"down": down, "up": ln.zeros((outputs, rank))}

    keys = iter(ln.random.split(key, len(params["layers"]) * len(MATRICES)))
    return [
        {name: one(next(keys), name, layer[name]) for name in MATRICES}
        for layer in params["layers"]
    ]


def adapt(params: Params, changes: Changes, alpha: float) -> Params:
    """The parameters with adapted matrices in their places; nothing is copied."""

    def adapted(matrix: Matrix, change: Change) -> Adapted:
        return Adapted(matrix, change["down"], change["up"], alpha / change["down"].shape[0])

    return changed(params, changes, adapted)


def merge(params: Params, changes: Changes, alpha: float) -> Params:
    """The parameters with the changes added to the matrices, which are floats then."""

    def merged(matrix: Matrix, change: Change) -> ln.Tensor:
        scale = alpha / change["down"].shape[0]
        return dense(matrix) + scale * (change["up"] @ change["down"])

    return changed(params, changes, merged)


def changed(params: Params, changes: Changes, how: Callable[[Matrix, Change], Any]) -> Params:
    """The parameters with something made of each matrix and its change."""
    layers = [
        {**layer, **{name: how(layer[name], change) for name, change in matrices.items()}}
        for layer, matrices in zip(params["layers"], changes, strict=True)
    ]
    return {**params, "layers": layers}
