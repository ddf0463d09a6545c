"""Tensors in files: named, not read yet, and put together to the parameters of a model.

Each format lists what a checkpoint holds as `Stored` tensors by the model's own names, such as
``layers.0.query``. What they must be is known from the configuration, so anything missing, extra or
of another shape is found before anything is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import lantern as ln
from examples.llama3.config import ModelConfig
from examples.llama3.files import Problem
from examples.llama3.model import Params, shapes
from examples.llama3.quantise import Matrix

Array = np.ndarray[Any, Any]

MOST_DIMENSIONS = 4  # of a tensor in a file
READERS = 4  # threads; reading waits for the disk, converting for the memory


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Attributes:
        name: what the file calls it.
        file: where it is.
        shape: of the numbers that are meant.
        bytes: that it takes in the file.
        read: gives it in a dtype.
    """

    name: str
    file: Path
    shape: tuple[int, ...]
    bytes: int
    read: Callable[[Any], Matrix]


@dataclass(frozen=True)
class Plain:
    """A tensor of plain numbers, as it lies in a file.

    Attributes:
        file: where it is.
        name: of the tensor.
        dtype: of its numbers.
        shape: of them.
        data: their bytes; a view of the memory map.
    """

    file: Path
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    data: memoryview

    def numbers(self, dtype: Any) -> Array:
        """The numbers, copied, in a dtype."""
        return np.frombuffer(self.data, self.dtype).reshape(self.shape).astype(dtype)

    def stored(self) -> Stored:
        """The same, for `assemble`."""
        return Stored(
            self.name, self.file, self.shape, len(self.data),
            lambda dtype: ln.asarray(self.numbers(dtype), copy=False),
        )  # fmt: skip


@dataclass(frozen=True)
class Names:
    """What a format calls the parameters.

    Attributes:
        ends: those that are no part of a block, in full.
        prefix: before the number of a block.
        block: after the number of the block.
    """

    ends: dict[str, str]
    prefix: str
    block: dict[str, str]

    def spelled(self, name: str) -> str:
        """The format's name for one of the model's.

        Example:
            >>> Names({}, "blk.", {"query": "attn_q.weight"}).spelled("layers.3.query")
            'blk.3.attn_q.weight'
        """
        *layer, last = name.split(".")
        return f"{self.prefix}{layer[1]}.{self.block[last]}" if layer else self.ends[last]

    def own(self, spelled: str) -> str:
        """The inverse of `spelled`; a name that means no parameter is given back.

        Example:
            >>> Names({}, "blk.", {"query": "attn_q.weight"}).own("blk.3.attn_q.weight")
            'layers.3.query'
        """
        for name, known in self.ends.items():
            if spelled == known:
                return name
        number = spelled.removeprefix(self.prefix).partition(".")[0]
        if re.fullmatch("0|[1-9][0-9]*", number):
            for name, known in self.block.items():
                if spelled == f"{self.prefix}{number}.{known}":
                    return f"layers.{number}.{name}"
        return spelled


def assemble(
    config: ModelConfig,
    found: Mapping[str, Stored],
    names: Names,
    where: Path,
    dtype: Any,
    console: Any = None,
) -> Params:
    """Read the parameters of a model.

    Args:
        config: what they must be.
        found: the tensors that there are, by the model's names; a name that the model has not is
            the file's own.
        names: what the format calls them, for messages.
        where: the file or folder, for messages.
        dtype: of the parameters.
        console: where to show progress; None: nowhere.

    Raises:
        Problem: a tensor is missing, not expected, or of another shape.
    """
    config.check()
    if config.layers > len(found):  # before as many names are written as a damaged file asks for
        raise Problem(f"{where} has {len(found)} tensors, too few for {config.layers} layers")
    wanted = dict(named(shapes(config)))
    for name, shape in wanted.items():
        if name not in found:
            raise Problem(f"{where} has no tensor {names.spelled(name)}; expected one of {shape}")
        tensor = found[name]
        if tensor.shape != shape:
            raise Problem(
                f"{tensor.file}: the tensor {tensor.name} is {tensor.shape}; expected {shape}"
            )
    for name, tensor in found.items():
        if name not in wanted:
            tied = " and tied embeddings" if config.tied else ""
            raise Problem(
                f"{tensor.file} has the tensor {tensor.name:.60}, which a Llama with "
                f"{config.layers} layers{tied} has not"
            )
    total = sum(found[name].bytes for name in wanted)
    with progress(console, where.name, total) as advance, ThreadPoolExecutor(READERS) as pool:

        def read(name: str) -> Matrix:
            array = found[name].read(dtype)
            advance(found[name].bytes)
            return array

        values = dict(zip(wanted, pool.map(read, wanted), strict=True))
    return nested(values, config)


def named(tree: Params) -> Iterator[tuple[str, Any]]:
    """The leaves of the parameters, or of their shapes, with names such as ``layers.0.query``."""
    for name, value in tree.items():
        if name != "layers":
            yield name, value
    for i, layer in enumerate(tree["layers"]):
        for name, value in layer.items():
            yield f"layers.{i}.{name}", value


def nested(values: Mapping[str, Any], config: ModelConfig) -> Params:
    """The inverse of `named`."""
    tree: Params = {"layers": [{} for _ in range(config.layers)]}
    for name, value in values.items():
        *layer, last = name.split(".")
        place = tree["layers"][int(layer[1])] if layer else tree
        place[last] = value
    return tree


def half_rotated(rows: Array, heads: int) -> Array:
    """Rows in the order of rotary pairs (i, i + C/2), from that of pairs (2i, 2i + 1), which Meta's
    files and GGUF's have.

    Example:
        >>> half_rotated(np.arange(8)[:, None], 2)[:, 0]
        array([0, 2, 1, 3, 4, 6, 5, 7])
    """
    pairs = rows.reshape(heads, -1, 2, rows.shape[1])  # [H, C/2, 2, W]
    return np.ascontiguousarray(np.swapaxes(pairs, 1, 2)).reshape(rows.shape)


def interleaved(rows: Array, heads: int) -> Array:
    """The inverse of `half_rotated`.

    Example:
        >>> interleaved(np.array([0, 2, 1, 3, 4, 6, 5, 7])[:, None], 2)[:, 0]
        array([0, 1, 2, 3, 4, 5, 6, 7])
    """
    pairs = rows.reshape(heads, 2, -1, rows.shape[1])  # [H, 2, C/2, W]
    return np.ascontiguousarray(np.swapaxes(pairs, 1, 2)).reshape(rows.shape)


@contextmanager
def progress(console: Any, name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar over bytes on a terminal; gives a function that tells how many more are done."""
    if console is None or not console.is_terminal:
        yield lambda done: None
        return
    # What loads in a moment need not import this.
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), DownloadColumn(),
               TransferSpeedColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name, total=total)
        yield lambda done: bar.advance(task, done)
