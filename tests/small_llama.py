"""Small Llamas for tests of what writes, and few programs for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import lantern as ln
from examples.llama3 import cache, decode, serve
from examples.llama3.config import ModelConfig
from examples.llama3.model import Params, init


@contextmanager
def few_programs(chunk: int, smallest: int) -> Iterator[None]:
    """A context with few sizes of chunks and memories, each of which takes a program."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "CHUNKS", (1, chunk))
        patch.setattr(serve, "CHUNK", chunk)
        patch.setattr(cache, "SMALLEST", smallest)
        yield


def lively(config: ModelConfig, seed: int = 3) -> Params:
    """The parameters of a random model that is not indifferent."""
    return ln.tree.map(lambda p: 4 * p, init(ln.random.key(seed), config))
