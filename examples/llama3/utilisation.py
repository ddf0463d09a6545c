"""How much of a machine's arithmetic training uses: MFU, model FLOPs utilisation (section 3.3).

It is the arithmetic that the model needs, for the tokens that it saw in a second, over the most
that the machine can do: what is computed again (``--checkpoint``) is time lost, not work done.
"""

from __future__ import annotations

import functools
import time
from typing import NamedTuple

import numpy as np

from examples.llama3.config import ModelConfig
from examples.llama3.machine import with_threads
from lantern.carbon import Account, entries

WIDTH, REPEATS = 768, 6  # of the product that measures the machine


def matrix_parameters(config: ModelConfig) -> int:
    """The parameters that every token is multiplied by: not gains, nor a table that is looked up.

    Example:
        >>> c = ModelConfig(vocab=10, dim=4, layers=2, heads=2, kv_heads=1, ffn=8)
        >>> matrix_parameters(c) == 10 * 4 + 2 * (2 * 4 * 4 + 2 * 2 * 4 + 3 * 8 * 4)
        True
    """
    q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    block = config.dim * (2 * q + 2 * kv + 3 * config.ffn)
    return config.layers * block + config.vocab * config.dim


def flops_per_token(config: ModelConfig, length: int) -> int:
    """What a token of a sequence of some length takes, forward and backward: 6 N + 12 L H C T.

    That is how PaLM counts (arXiv 2204.02311, appendix B): a multiplication and an addition for
    each parameter, and twice that backward; and those of attention, of which a position's view is
    not halved for being causal.
    """
    attention = config.layers * config.heads * config.head_dim * length
    return 6 * matrix_parameters(config) + 12 * attention


@functools.cache
def peak_flops(threads: int) -> float:
    """The most that this machine does in a second with so many threads: the best of some products
    of float32 matrices (sgemm of NumPy's BLAS)."""
    a = np.random.default_rng(0).standard_normal((WIDTH, WIDTH), np.float32)
    out, times = np.empty_like(a), []
    with with_threads(threads):
        for _ in range(REPEATS):
            start = time.perf_counter()
            np.matmul(a, a, out=out)
            times.append(time.perf_counter() - start)
    return 2 * WIDTH**3 / min(times)


class Use(NamedTuple):
    """What a step used.

    Attributes:
        mfu: the share of the machine's arithmetic.
        watts: of the machine, at the last sample; None where nothing is measured.
        grams: of CO2 equivalents that the electricity of the run has emitted so far, earlier
            sittings included; None where nothing is measured.
    """

    mfu: float
    watts: float | None
    grams: float | None


class Gauge:
    """What a run uses of its machine, step by step.

    Args:
        config: of the model.
        threads: that it is trained with.
        account: where its energy is counted; None: nowhere.
    """

    def __init__(self, config: ModelConfig, threads: int, account: Account | None) -> None:
        self.config, self.account, self.peak = config, account, peak_flops(threads)
        self.before = 0.0
        self.watts: float | None = None
        if account is not None:  # what is counted as "experimentation" was another run
            counted = [e for e in entries(account.path) if e.phase in ("data", "training")]
            self.before = sum(e.operational for e in counted) - account.read().grams
            self.last = account.read()

    def read(self, tokens: int, length: int, seconds: float) -> Use:
        """What a step of so many tokens, in sequences of a length, used."""
        mfu = tokens * flops_per_token(self.config, length) / seconds / self.peak
        if self.account is None:
            return Use(mfu, None, None)
        now = self.account.read()
        if now.seconds > self.last.seconds:
            self.watts, self.last = now.since(self.last).watts, now
        return Use(mfu, self.watts, self.before + now.grams if now.source else None)
