"""Models in GGUF files, those of llama.cpp: settings, vocabulary and weights of few bits in one.

A file begins with counts, then settings (a name, a type, a value), then for each tensor its name,
shape, type and place; the tensors' bytes follow, aligned. All of it is read from a memory map, and
every length is compared with what is left of the file before it is believed. A row of a matrix is
a whole number of blocks, so rows can be permuted without looking into them.

The library `gguf` knows how blocks of each type are laid out. It is only imported for the types
that `quantise` has not, because importing it takes longer than reading a small model.
"""

from __future__ import annotations

import dataclasses
import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import lantern as ln
from examples.llama3 import quantise
from examples.llama3.config import ModelConfig, RopeScaling
from examples.llama3.files import Problem, mapped
from examples.llama3.model import rotary
from examples.llama3.quantise import Matrix
from examples.llama3.stored import MOST_DIMENSIONS, Names, Stored, half_rotated

Array = np.ndarray[Any, Any]

LENGTH = struct.Struct("<Q")
MAGIC, VERSIONS = b"GGUF", (2, 3)
ALIGNMENT = 32  # unless the file says otherwise
# The types of settings by number: scalars as `struct` writes them.
SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
CHUNK = 2**17  # numbers that are converted at once: they stay in the cache

# The types of tensors by number: name, numbers in a block, bytes of a block.
TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2),
    2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 8: ("Q8_0", 32, 34),
    12: ("Q4_K", 256, 144), 14: ("Q6_K", 256, 210),
}  # fmt: skip
BLOCKS = {name: (numbers, size) for name, numbers, size in TYPES.values()}
PLAIN = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16)}

NAMES = Names(
    {"embedding": "token_embd.weight", "norm": "output_norm.weight", "output": "output.weight"},
    "blk.",
    {
        "attention_norm": "attn_norm.weight", "query": "attn_q.weight", "key": "attn_k.weight",
        "value": "attn_v.weight", "output": "attn_output.weight", "ffn_norm": "ffn_norm.weight",
        "gate": "ffn_gate.weight", "up": "ffn_up.weight", "down": "ffn_down.weight",
    },
)  # fmt: skip
ROPE = "rope_freqs.weight"  # by how much each rotary frequency is divided


@dataclass(frozen=True)
class Raw:
    """A tensor as it lies in the file.

    Attributes:
        name: of the tensor.
        kind: the name of its type.
        shape: of the numbers that are meant, outermost axis first.
        rows: bytes, [rows, bytes of a row]; a view of the memory map.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    rows: Array


@dataclass(frozen=True)
class Gguf:
    """What a file says of itself, and its tensors.

    Attributes:
        path: the file.
        fields: the settings by name: numbers, texts, lists of them.
        tensors: by name.
    """

    path: Path
    fields: dict[str, Any]
    tensors: dict[str, Raw]

    def setting(self, name: str, kind: type, default: Any = None) -> Any:
        """A setting of the architecture: ``block_count`` is that of ``llama.block_count``.

        Raises:
            Problem: it is of another type, or absent and there is no default.
        """
        value = self.fields.get(f"llama.{name}", default)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            found = "has no setting" if value is None else f"has {value!r:.60} for"
            raise Problem(f"{self.path} {found} llama.{name}; expected {kind.__name__}")
        return value


class Cursor:
    """Reads from a memory map, and never past its end."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0

    def skip(self, size: int, what: str) -> int:
        """Go on by a number of bytes; where they begin."""
        start = self.at
        if size > len(self.data) - start:
            raise self.short(size, what)
        self.at += size
        return start

    def short(self, size: int, what: str) -> Problem:
        """What is said of a file that ends too early."""
        return Problem(
            f"{self.path} is truncated or damaged: {what} at offset {self.at} would take "
            f"{size:,} bytes, and {len(self.data) - self.at:,} are left"
        )

    def number(self, code: str, what: str) -> Any:
        """A scalar."""
        return struct.unpack_from(f"<{code}", self.data, self.skip(struct.calcsize(code), what))[0]

    def text(self, what: str) -> str:
        """A length and so many bytes of UTF-8."""
        return self.texts(1, what)[0]

    def texts(self, count: int, what: str) -> list[str]:
        """Several of these; a vocabulary has so many that they are not skipped one by one."""
        data, size, length, found = self.data, len(self.data), LENGTH.unpack_from, list[str]()
        for _ in range(count):
            start = self.at + LENGTH.size
            if start > size:
                raise self.short(LENGTH.size, what)
            end = start + length(data, self.at)[0]
            if end > size:
                raise self.short(end - self.at, what)
            try:
                found.append(str(data[start:end], "utf-8"))
            except UnicodeDecodeError as problem:
                raise Problem(
                    f"{self.path} is damaged: {what} at offset {start} is no text: {problem.reason}"
                ) from None
            self.at = end
        return found

    def value(self, what: str) -> Any:
        """A setting's value, after its type."""
        kind = self.number("I", what)
        if kind == STRING:
            return self.text(what)
        if kind != ARRAY:
            return self.number(self.scalar(kind, what), what)
        kind, count = self.number("I", what), self.number("Q", what)
        if kind == STRING:
            self.at = self.skip(8 * count, what)  # each has at least a length
            return self.texts(count, what)
        dtype = np.dtype(self.scalar(kind, what)).newbyteorder("<")
        start = self.skip(dtype.itemsize * count, what)
        return np.frombuffer(self.data, dtype, count, start).tolist()

    def scalar(self, kind: int, what: str) -> str:
        """How `struct` and NumPy write a type."""
        if kind not in SCALARS:
            raise Problem(
                f"{self.path}: {what} at offset {self.at} has the unknown type {kind}; the file is "
                "damaged, or of a newer version"
            )
        return SCALARS[kind]


def read(path: Path) -> Gguf:
    """What a file says of itself; the numbers of its tensors are not read yet.

    Raises:
        Problem: it cannot be read, is no GGUF file, is truncated, or has a tensor of an unknown
            type.
    """
    data = mapped(path)
    if data[:4] != MAGIC:
        raise Problem(f"{path} is no GGUF file: it begins with {data[:4]!r}")
    cursor = Cursor(data, path)
    cursor.skip(4, "the magic")
    version = cursor.number("I", "the version")
    if version not in VERSIONS:
        raise Problem(f"{path} is GGUF of version {version}; this program reads {VERSIONS}")
    tensors, settings = cursor.number("Q", "the counts"), cursor.number("Q", "the counts")
    fields: dict[str, Any] = {}
    for _ in range(settings):
        name = cursor.text("a setting's name")
        fields[name] = cursor.value(f"the setting {name:.60}")
    places = [place(cursor) for _ in range(tensors)]
    alignment = fields.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or not 0 < alignment <= len(data):
        raise Problem(f"{path} is damaged: its alignment is {alignment!r:.60}")
    start = -(-cursor.at // alignment) * alignment
    found: dict[str, Raw] = {}
    for name, shape, kind, offset in places:
        if name in found:
            raise Problem(f"{path} is damaged: it has two tensors {name:.60}")
        found[name] = raw(cursor, name, shape, kind, start + offset)
    total = sum(tensor.rows.size for tensor in found.values())
    if total > len(data):
        raise Problem(f"{path} is damaged: its {len(data):,} bytes make tensors of {total:,}")
    return Gguf(path, fields, found)


def place(cursor: Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """A tensor's name, shape, the number of its type and its offset."""
    name = cursor.text("a tensor's name")
    what = f"the tensor {name:.60}"
    dimensions = cursor.number("I", what)
    if dimensions > MOST_DIMENSIONS:
        raise Problem(f"{cursor.path} is damaged: {what} has {dimensions} dimensions")
    shape = tuple(cursor.number("Q", what) for _ in range(dimensions))
    return name, shape[::-1], cursor.number("I", what), cursor.number("Q", what)


def raw(cursor: Cursor, name: str, shape: tuple[int, ...], kind: int, start: int) -> Raw:
    """A tensor, when its bytes are in the file."""
    if kind not in TYPES:
        known = ", ".join(name for name, _, _ in TYPES.values())
        raise Problem(
            f"{cursor.path}: the tensor {name:.60} is of the GGUF type {kind}; this program reads "
            f"{known}"
        )
    spelled, numbers, bytes_of_block = TYPES[kind]
    width = shape[-1] if shape else 1
    if width % numbers:
        raise Problem(
            f"{cursor.path} is damaged: {name:.60} has rows of {width} numbers, no blocks of "
            f"{numbers}"
        )
    size = math.prod(shape) // numbers * bytes_of_block
    cursor.at = start
    cursor.skip(size, f"the tensor {name:.60} of shape {shape}")
    rows = np.frombuffer(cursor.data, np.uint8, size, start)
    return Raw(name, spelled, shape, rows.reshape(-1, max(1, width // numbers * bytes_of_block)))


def config_of(file: Gguf) -> ModelConfig:
    """The shape of the network.

    Raises:
        Problem: it is no Llama, or one with something that this program's model has not.
    """
    architecture = file.fields.get("general.architecture")
    if architecture != "llama":
        raise Problem(f"{file.path} holds a model of the kind {architecture!r:.60}, not a llama")
    if file.setting("expert_count", int, 0):
        raise Problem(f"{file.path} holds a mixture of experts, which this program has not")
    scaling = file.fields.get("llama.rope.scaling.type", "none")
    if scaling != "none":
        raise Problem(f"{file.path}: its rope scaling is of the unknown type {scaling!r:.60}")
    dim, heads = file.setting("embedding_length", int), file.setting("attention.head_count", int)
    width = file.setting("attention.key_length", int, 0)
    for name in ("attention.value_length", "rope.dimension_count"):
        other = file.setting(name, int, width)
        if other not in (width, 0) and other * heads != dim:
            raise Problem(
                f"{file.path}: llama.{name} is {other}, and heads have "
                f"{width or dim / max(1, heads):g} numbers"
            )
    table = file.tensors.get(NAMES.ends["embedding"])
    config = ModelConfig(
        vocab=table.shape[0] if table and table.shape else 0,
        dim=dim,
        layers=file.setting("block_count", int),
        heads=heads,
        kv_heads=file.setting("attention.head_count_kv", int, heads),
        head_width=0 if width * heads == dim else width,
        ffn=file.setting("feed_forward_length", int),
        context=file.setting("context_length", int),
        rope_theta=file.setting("rope.freq_base", float, 10_000.0),
        norm_eps=file.setting("attention.layer_norm_rms_epsilon", float),
        tied=NAMES.ends["output"] not in file.tensors,
    )
    config.check()
    return dataclasses.replace(config, rope_scaling=scaling_of(file, config))


def scaling_of(file: Gguf, config: ModelConfig) -> RopeScaling | None:
    """The scaling behind the factors of the rotary frequencies, which are all that a file has.

    Every Llama 3 was first trained on 8,192 tokens, unless the file says otherwise, and has the
    same bounds; factors that these do not explain are refused.
    """
    if ROPE not in file.tensors:
        return None
    tensor = file.tensors[ROPE]
    if tensor.shape != (config.head_dim // 2,):
        raise Problem(f"{file.path}: {ROPE} is {tensor.shape}; expected {(config.head_dim // 2,)}")
    factors = floats(tensor.rows, tensor.kind, ln.float32)[0]
    original = file.setting("rope.scaling.original_context_length", int, RopeScaling.original)
    scaling = RopeScaling(factor=float(factors.max()), original=original)
    scaling.check()
    plain = rotary(config)
    expected = np.asarray(plain / rotary(dataclasses.replace(config, rope_scaling=scaling)))
    if not np.allclose(factors, expected, rtol=1e-3):
        raise Problem(f"{file.path}: {ROPE} holds factors other than those of Llama 3's scaling")
    return scaling


def stored(file: Gguf, config: ModelConfig, keep: bool) -> dict[str, Stored]:
    """The tensors by the model's names.

    Args:
        file: where they are.
        config: the shape of the network.
        keep: leave matrices quantised whose type `quantise` knows.
    """
    heads = {"query": config.heads, "key": config.kv_heads}
    found: dict[str, Stored] = {}
    for tensor in file.tensors.values():
        if tensor.name == ROPE:
            continue
        name = NAMES.own(tensor.name)
        turned = heads.get(name.rpartition(".")[2], 0)

        def read(dtype: Any, tensor: Raw = tensor, turned: int = turned) -> Matrix:
            rows = half_rotated(tensor.rows, turned) if turned else tensor.rows
            if keep and tensor.kind in quantise.BLOCKS:
                return quantise.from_gguf(rows, tensor.kind)
            numbers = floats(rows, tensor.kind, dtype).reshape(tensor.shape)
            return ln.asarray(numbers, copy=False)

        found[name] = Stored(tensor.name, file.path, tensor.shape, tensor.rows.size, read)
    return found


def floats(rows: Array, kind: str, dtype: Any) -> Array:
    """The numbers that rows of bytes mean, [N, W]."""
    if kind in PLAIN:
        return np.ascontiguousarray(rows).view(PLAIN[kind]).astype(dtype)
    numbers, size = BLOCKS[kind]
    found = np.empty((rows.shape[0], rows.shape[1] // size * numbers), dtype)
    step = max(1, CHUNK // found.shape[1])
    for i in range(0, rows.shape[0], step):
        found[i : i + step] = unpacked(rows[i : i + step], kind)
    return found


def unpacked(rows: Array, kind: str) -> Array:
    """The same, of a few rows of blocks, as float32."""
    if kind in quantise.BLOCKS:
        return np.asarray(quantise.dense(quantise.from_gguf(rows, kind)))
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    return dequantize(rows, GGMLQuantizationType[kind])
