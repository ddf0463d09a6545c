"""Folders of models as Meta publishes them, small and random, written without PyTorch."""

from __future__ import annotations

import base64
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from examples.llama3 import meta
from examples.llama3.config import ModelConfig, RopeScaling
from examples.llama3.model import shapes
from examples.llama3.stored import named

SHAPE = {
    "dim": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "multiple_of": 8,
    "ffn_dim_multiplier": 0.9, "norm_eps": 1e-5, "rope_theta": 1e4, "vocab_size": 512,
    "use_scaled_rope": True,
}  # fmt: skip
CONFIG = ModelConfig(
    vocab=512, dim=16, layers=2, heads=4, kv_heads=2, ffn=40, context=131_072, rope_theta=1e4,
    rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192), norm_eps=1e-5, tied=False,
)  # fmt: skip
STORAGES = {"float32": "Float", "float16": "Half", "float64": "Double", "bfloat16": "BFloat16"}


def text(value: str) -> bytes:
    """A pickle's instruction for a text."""
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def number(value: int) -> bytes:
    """A pickle's instruction for a number."""
    return b"J" + value.to_bytes(4, "little", signed=True)


def pickled(arrays: dict[str, Any]) -> bytes:
    """The pickle that `torch.save` writes for a dictionary of tensors, one storage each."""
    program = b"\x80\x02}("
    for key, (name, a) in enumerate(arrays.items()):
        strides = [s // a.itemsize for s in a.strides]
        program += (
            text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage")
            + b"ctorch\n%sStorage\n" % STORAGES[a.dtype.name].encode()
            + text(str(key)) + text("cpu") + number(a.size) + b"tQ" + number(0)
            + b"(" + b"".join(map(number, a.shape)) + b"t(" + b"".join(map(number, strides)) + b"t"
            + b"\x89ccollections\nOrderedDict\n)RtR"
        )  # fmt: skip
    return program + b"u."


def archive(path: Path, arrays: dict[str, Any], program: bytes | None = None) -> None:
    """A file as `torch.save` writes it."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("m/data.pkl", pickled(arrays) if program is None else program)
        file.writestr("m/byteorder", "little")
        for key, a in enumerate(arrays.values()):
            file.writestr(f"m/data/{key}", np.ascontiguousarray(a).tobytes())


def drawn(config: ModelConfig, dtype: Any = np.float32) -> dict[str, Any]:
    """Random tensors by Meta's names."""
    rng = np.random.default_rng(0)
    return {
        meta.NAMES.spelled(name): (0.3 * rng.normal(size=shape)).astype(dtype)
        for name, shape in named(shapes(config))
    }


def halves(arrays: dict[str, Any], columns: bool = False) -> list[dict[str, Any]]:
    """What each of two processors has."""
    found: list[dict[str, Any]] = [{}, {}]
    for name, a in arrays.items():
        by_inputs = "wo" in name or "w2" in name or (columns and "tok" in name)
        parts = [a, a] if a.ndim == 1 else np.split(a, 2, axis=int(by_inputs))
        for part, own in zip(parts, found, strict=True):
            own[name] = part.copy()
    return found


def written(folder: Path, shards: list[dict[str, Any]], **more: Any) -> Path:
    """A folder of Meta."""
    folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text(json.dumps({**SHAPE, **more}))
    lines = [b"%s %d" % (base64.b64encode(bytes([b])), b) for b in range(256)]
    (folder / "tokenizer.model").write_bytes(b"\n".join(lines))
    for i, arrays in enumerate(shards):
        archive(folder / f"consolidated.{i:02}.pth", arrays)
    return folder
