"""Checkpoints: pytrees of Tensors in safetensors files, written whole or not at all.

A file holds named arrays and text, and nothing that runs when it is read. The name of an array is
its path in the tree, parts joined by dots (``layers.0.weight``), as other libraries write and read
it. The file's text metadata holds, besides the caller's, the shape of the tree and checksums: of
each array, and of the text itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optree
from safetensors import SafetensorError, TensorSpec, safe_open, serialize_file

from lantern import tree
from lantern.errors import CheckpointError, describe
from lantern.tensor import Tensor

__all__ = ["TrainingState", "load", "metadata", "save"]

PyTree = Any
_OWN = "lantern."  # metadata keys of this module start with this
_TREE, _SUMS, _TEXT = _OWN + "tree", _OWN + "crc32", _OWN + "text.crc32"


class TrainingState(NamedTuple):
    """All that a training run needs to go on as if it had never stopped.

    Attributes:
        params: the parameters, a pytree of Tensors.
        optimizer: the state of the optimiser.
        step: how many steps are done.
        position: where the data stands: an int, or a pytree of ints and Tensors.
        key: the random key.

    Example:
        >>> import lantern as ln, os, tempfile
        >>> optimizer = ln.optim.sgd(0.1, momentum=0.9)
        >>> params = {"w": ln.asarray([1.0, 2.0])}
        >>> state = TrainingState(params, optimizer.init(params), 7, 1024, ln.random.key(0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "last.safetensors")
        ...     save(path, state)
        ...     print(load(path, like=state).step)
        7
    """

    params: PyTree
    optimizer: PyTree
    step: int
    position: PyTree
    key: PyTree


def save(
    path: str | os.PathLike[str], tree: PyTree, *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a pytree to a safetensors file, replacing what was there in one atomic step.

    The bytes go to a temporary file in the same folder, reach the disk, and then take the name
    ``path``. A crash at any moment leaves the old file or the new one, never a part.

    Args:
        path: the file.
        tree: a pytree of Tensors, NumPy arrays and Python numbers.
        metadata: text to keep with it; keys that start with ``lantern.`` are reserved.

    Raises:
        CheckpointError: a leaf is not an array, two leaves have one name, or the file cannot be
            written.

    Example:
        >>> import lantern as ln, os, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "a.safetensors")
        ...     save(path, {"w": ln.asarray([1.0, 2.0]), "n": (1, None)})
        ...     print(load(path))
        {'n': (Tensor(1, dtype=int64), None), 'w': Tensor([1., 2.], dtype=float32)}
    """
    text = dict(metadata or {})
    for key, value in text.items():
        if not isinstance(key, str) or not isinstance(value, str) or key.startswith(_OWN):
            raise CheckpointError(
                f"save to {path}: metadata {key!r}: {value!r}; expected text keys, not starting "
                f"with {_OWN!r}, and text values"
            )
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, leaf in _named_leaves(tree, path):
        if name in arrays:
            raise CheckpointError(f"save to {path}: two leaves are named {name!r}; rename one")
        arrays[name] = _array(leaf, name, path)
    text[_TREE] = json.dumps(_outline(tree, iter(arrays), path))
    text[_SUMS] = json.dumps({name: _checksum(a) for name, a in arrays.items()})
    text[_TEXT] = _text_checksum(text)
    specs = {
        name: TensorSpec(
            dtype=a.dtype.name, shape=a.shape, data_ptr=a.ctypes.data, data_len=a.nbytes
        )
        for name, a in arrays.items()
    }
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        serialize_file(specs, os.fspath(temporary), metadata=text)
        _to_disk(temporary)
        os.replace(temporary, path)
        if os.name == "posix":
            _to_disk(path.parent)
    except (SafetensorError, OSError) as problem:
        raise CheckpointError(f"save to {path}: {problem}") from None
    finally:
        with contextlib.suppress(OSError):  # it is gone when all went well
            temporary.unlink()


def load(path: str | os.PathLike[str], like: PyTree = None) -> PyTree:
    """Read a pytree from a safetensors file.

    Args:
        path: the file.
        like: a pytree of the structure, shapes and dtypes expected. Python numbers among its leaves
            come back as Python numbers.

    Returns:
        A pytree of Tensors of the structure of ``like``. Without ``like``, the tree that was
        saved, in which named tuples and dataclasses have become dicts; from a file of another
        library, a dict from names to Tensors.

    Raises:
        CheckpointError: the file is missing, truncated or damaged; or, with ``like``, a tensor is
            missing, not expected, or of another shape or dtype. The message names file and tensor.

    Example:
        >>> import lantern as ln, os, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "a.safetensors")
        ...     save(path, {"w": ln.asarray([1.0, 2.0])})
        ...     load(path, like={"w": ln.zeros(3)})
        Traceback (most recent call last):
            ...
        lantern.errors.CheckpointError: load ...: w is float32[2]; expected float32[3]
          at ...
    """
    arrays, text = _read(path)
    if like is not None:
        return _fill(like, arrays, path)
    if _TREE not in text:
        return {name: Tensor(a[()]) for name, a in arrays.items()}
    try:
        return _rebuild(json.loads(text[_TREE]), arrays)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"load {path}: its outline of the tree is damaged") from None


def metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The caller's text in a checkpoint.

    Args:
        path: the file.

    Raises:
        CheckpointError: the file is missing or its header is damaged.

    Example:
        >>> import os, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "a.safetensors")
        ...     save(path, [1.0], metadata={"model": "tiny"})
        ...     print(metadata(path))
        {'model': 'tiny'}
    """
    try:
        with safe_open(os.fspath(path), framework="np") as file:
            text = file.metadata() or {}
    except (SafetensorError, OSError) as problem:
        raise CheckpointError(f"load {path}: {problem}") from None
    _check_text(text, path)
    return {key: value for key, value in text.items() if not key.startswith(_OWN)}


def _named_leaves(values: PyTree, path: Any) -> list[tuple[str, Any]]:
    """The leaves of a tree with their names in a file."""
    accessors, leaves, _ = optree.tree_flatten_with_accessor(values, namespace=tree.NAMESPACE)
    return [(".".join(map(_part, a)) or "leaf", x) for a, x in zip(accessors, leaves, strict=True)]


def _part(entry: Any) -> str:
    return str(entry.field if isinstance(entry, optree.NamedTupleEntry) else entry.entry)


def _array(leaf: Any, name: str, path: Any) -> np.ndarray[Any, Any]:
    if not isinstance(leaf, (Tensor, np.ndarray, np.generic, bool, int, float)):
        raise CheckpointError(
            f"save to {path}: {name} is {describe(leaf)}; expected an array or a number"
        )
    array = np.asarray(leaf, order="C")
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise CheckpointError(f"save to {path}: {name} is {describe(array)}; expected numbers")
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _checksum(array: np.ndarray[Any, Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _outline(value: PyTree, names: Any, path: Any) -> Any:
    """The tree as JSON: names in the place of leaves, null for None."""
    if value is None:
        return None
    if optree.tree_is_leaf(value, namespace=tree.NAMESPACE):
        return next(names)
    children, _, entries, _ = optree.tree_flatten_one_level(value, namespace=tree.NAMESPACE)
    parts = [_outline(child, names, path) for child in children]
    if type(value) in (list, tuple):
        return {type(value).__name__: parts}
    keys = getattr(value, "_fields", entries)
    if not all(type(k) in (str, int) for k in keys):
        raise CheckpointError(f"save to {path}: dict keys {list(keys)}; expected str or int")
    return {"dict": [[k, part] for k, part in zip(keys, parts, strict=True)]}


def _rebuild(outline: Any, arrays: dict[str, Any]) -> PyTree:
    if outline is None:
        return None
    if isinstance(outline, str):
        return Tensor(arrays[outline][()])
    ((kind, parts),) = outline.items()
    if kind == "dict":
        return {k: _rebuild(part, arrays) for k, part in parts}
    return {"list": list, "tuple": tuple}[kind](_rebuild(part, arrays) for part in parts)


def _fill(like: PyTree, arrays: dict[str, Any], path: Any) -> PyTree:
    expected = _named_leaves(like, path)
    names = [name for name, _ in expected]
    missing = [name for name in names if name not in arrays]
    extra = sorted(set(arrays) - set(names))
    if missing or extra:
        found = [
            f"{what}: {', '.join(some[:5])}{f' and {len(some) - 5} more' if len(some) > 5 else ''}"
            for what, some in (("missing", missing), ("not expected", extra))
            if some
        ]
        raise CheckpointError(f"load {path}: tensors {'; '.join(found)}")
    filled = []
    for name, leaf in expected:
        a, number = arrays[name], isinstance(leaf, (bool, int, float))
        shape, dtype = ((), np.asarray(leaf).dtype) if number else (leaf.shape, leaf.dtype)
        if a.shape != tuple(shape) or a.dtype != dtype:
            raise CheckpointError(
                f"load {path}: {name} is {describe(a)}; expected {dtype}{list(shape)}"
            )
        filled.append(a.item() if number else Tensor(a[()]))
    return tree.unflatten(tree.structure(like), filled)


def _read(path: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """The arrays and the text of a file, its header and checksums verified."""
    try:
        with safe_open(os.fspath(path), framework="np") as file:
            text = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (SafetensorError, OSError, TypeError) as problem:
        raise CheckpointError(f"load {path}: {problem}") from None
    _check_text(text, path)
    if _SUMS in text:
        try:
            sums = {name: json.loads(text[_SUMS])[name] for name in arrays}
        except (ValueError, KeyError, TypeError):
            raise CheckpointError(f"load {path}: its checksums are damaged") from None
        for name, array in arrays.items():
            if _checksum(array) != sums[name]:
                raise CheckpointError(
                    f"load {path}: the bytes of {name} do not match their checksum; "
                    "the file is damaged"
                )
    return arrays, text


def _check_text(text: Mapping[str, str], path: Any) -> None:
    """Refuse text that is not what was written; files of other libraries have no checksum of it."""
    if _TEXT in text and text[_TEXT] != _text_checksum(text):
        raise CheckpointError(
            f"load {path}: the text in its header does not match its checksum; the file is damaged"
        )


def _text_checksum(text: Mapping[str, str]) -> str:
    own = sorted((key, value) for key, value in text.items() if key != _TEXT)
    return f"{zlib.crc32(json.dumps(own).encode()):08x}"


def _to_disk(path: Path) -> None:
    """Wait until the file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
