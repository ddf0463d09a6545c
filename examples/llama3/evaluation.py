"""Validation: what the network makes of text that it has not learnt from, in bits per byte."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import lantern as ln
from examples.llama3.config import Config, Settings
from examples.llama3.data import NO_TARGET, Batch, Corpus, Known, Windows, bits_per_byte
from examples.llama3.model import Params, loss
from examples.llama3.step import Objective, quiet_overflow

Loss = Callable[[Params, Batch], float]


def loss_of(config: Settings, loss: Objective = loss) -> Loss:
    """The function from parameters and a batch to the loss."""

    def measure(params: Params, tokens: Any, targets: Any, segments: Any) -> ln.Tensor:
        return loss(params, tokens, targets, segments, config.model)

    if not config.train.eager:
        measure = ln.compile(measure, threads=config.train.threads or None)
    return lambda params, batch: float(measure(params, *batch))


def validation_batches(corpus: Corpus, config: Config) -> list[Batch]:
    """The held-out sequences that every validation measures."""
    windows = Windows(corpus, config.model.context, None)
    return windows.spread(config.train.validation_sequences, config.train.batch)


def validate(loss_on: Loss, params: Params, batches: Sequence[Batch], data: Known) -> float:
    """The mean loss on held-out text, in bits for each byte of it."""
    nats = 0.0
    with quiet_overflow():
        for batch in batches:
            nats += loss_on(params, batch) * int(np.sum(batch.targets != NO_TARGET))
    return bits_per_byte(nats, batches, data)
