"""Tensors in safetensors files: a header in JSON, then their numbers, and nothing that runs.

A file begins with the length of its header, which tells for each tensor its type, shape and place
among the bytes that follow. These are read from a memory map. Tensors must lie side by side and
fill the file, as the format's authors demand, so that no two of them claim the same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from examples.llama3.files import LARGEST, Problem, mapped, write_atomically
from examples.llama3.stored import MOST_DIMENSIONS, Plain

Array = np.ndarray[Any, Any]

PREFIX = 8  # bytes that hold the length of the header
ABOUT = "__metadata__"  # text, in the header beside the tensors
KINDS = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}  # fmt: skip


def read(path: Path) -> dict[str, Plain]:
    """The tensors of a file by name; their numbers are not read yet.

    Raises:
        Problem: it cannot be read, is truncated or damaged, or has a tensor of an unknown type.
    """
    data = memoryview(mapped(path))
    size = int.from_bytes(data[:PREFIX], "little")
    if size > len(data) - PREFIX:
        raise Problem(
            f"{path} is truncated, or no safetensors file: its header would take {size:,} bytes, "
            f"and the file has {len(data):,}"
        )
    found: dict[str, Plain] = {}
    numbers, end = data[PREFIX + size :], 0
    for name, kind, shape, places in sorted(
        header(path, data[PREFIX : PREFIX + size]), key=lambda entry: entry[-1]
    ):
        what = f"the tensor {name:.60} of type {kind} and shape {shape}"
        if places != (end, end + math.prod(shape) * KINDS[kind].itemsize):
            raise Problem(
                f"{path} is damaged: {what} lies at bytes {places[0]} to {places[1]}, and the one "
                f"before it ends at {end}"
            )
        begin, end = places
        if end > len(numbers):
            raise Problem(
                f"{path} is truncated: {what} ends at byte {end:,} of the numbers, of which there "
                f"are {len(numbers):,}"
            )
        found[name] = Plain(path, name, KINDS[kind], shape, numbers[begin:end])
    if end < len(numbers):
        raise Problem(f"{path} is damaged: {len(numbers) - end:,} of its bytes are of no tensor")
    return found


def header(path: Path, text: memoryview) -> list[tuple[str, str, tuple[int, ...], tuple[int, int]]]:
    """What the header says of each tensor: name, type, shape, and where it begins and ends.

    Raises:
        Problem: it is malformed, or a type is unknown.
    """
    try:
        entries = json.loads(bytes(text), object_pairs_hook=unique)
    except (ValueError, RecursionError) as problem:
        raise Problem(f"{path} is damaged, or no safetensors file: its header: {problem}") from None
    if not isinstance(entries, dict):
        raise Problem(f"{path} is damaged: its header is {type(entries).__name__}, not an object")
    entries.pop(ABOUT, None)
    found: list[tuple[str, str, tuple[int, ...], tuple[int, int]]] = []
    for name, about in entries.items():
        kind, shape, places = fields(about)
        if not (isinstance(kind, str) and lengths(shape) and lengths(places) and len(places) == 2):
            raise Problem(f"{path} is damaged: its header has {about!s:.60} for {name:.60}")
        if kind not in KINDS:
            raise Problem(
                f"{path}: the tensor {name:.60} is of type {kind:.20}; this program reads "
                f"{', '.join(KINDS)}"
            )
        found.append((name, kind, tuple(shape), (places[0], places[1])))
    return found


def fields(about: Any) -> list[Any]:
    """What the header says of a tensor, in order; None stands for what it does not say."""
    keys = ("dtype", "shape", "data_offsets")
    return [about.get(key) if isinstance(about, dict) else None for key in keys]


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object in JSON, if no name is given twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands in it twice")
    return found


def lengths(value: Any) -> bool:
    """Whether a value is a short list of lengths."""
    return (
        isinstance(value, list)
        and len(value) <= MOST_DIMENSIONS
        and all(type(n) is int and 0 <= n <= LARGEST for n in value)
    )


def write(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays to a file, whole or not at all.

    Raises:
        Problem: it cannot be written, for instance to a full disk.
    """
    # What only reads need not import it.
    from safetensors import SafetensorError, TensorSpec, serialize_file

    held = {name: np.ascontiguousarray(a, a.dtype.newbyteorder("<")) for name, a in arrays.items()}
    specs = {
        name: TensorSpec(
            dtype=a.dtype.name, shape=a.shape, data_ptr=a.ctypes.data, data_len=a.nbytes
        )
        for name, a in held.items()
    }
    # Other programs look here for who wrote it: only "pt" is taken for a checkpoint by all.
    try:
        write_atomically(path, lambda p: serialize_file(specs, str(p), metadata={"format": "pt"}))
    except SafetensorError as problem:
        raise Problem(f"cannot write {path}: {problem}") from None
