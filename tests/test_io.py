"""Checkpoints: what is saved comes back, and what is damaged says so."""

from __future__ import annotations

import json
import os
import struct
from typing import NamedTuple

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import lantern as ln
from lantern import io, tree
from lantern.errors import CheckpointError

DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
DTYPES += ["float16", "bfloat16", "float32", "float64"]


class Pair(NamedTuple):
    left: object
    right: object


@tree.dataclass
class Layer:
    weight: object
    bias: object


def same(a, b):
    assert tree.structure(a) == tree.structure(b)
    for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (0, 2), (2, 1, 3)])
def test_every_dtype_and_shape(tmp_path, dtype, shape):
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(np.dtype(dtype))
    io.save(tmp_path / "a", {"x": ln.asarray(values)})
    same(io.load(tmp_path / "a"), {"x": ln.asarray(values)})


def arrays():
    return st.integers(-9, 9).map(lambda n: ln.asarray(np.float32(n)))


def trees():
    keys = st.text("ab.c0_", min_size=1, max_size=3)
    return st.recursive(
        arrays() | st.none(),
        lambda t: (
            st.lists(t, max_size=3)
            | st.dictionaries(keys, t, max_size=3)
            | st.tuples(t, t)
            | st.dictionaries(st.integers(0, 9), t, max_size=2)
        ),
        max_leaves=8,
    )


@settings(max_examples=50, deadline=None)
@given(value=trees())
def test_structure_comes_back(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("t") / "a"
    try:
        io.save(path, value)
    except CheckpointError as problem:  # {"a.b": …, "a": {"b": …}}
        assert "two leaves are named" in str(problem)
        return
    same(io.load(path), value)
    same(io.load(path, like=value), value)


def test_named_tuples_and_dataclasses(tmp_path):
    value = Pair(Layer(ln.asarray([1.0]), None), [3, 2.5, True])
    io.save(tmp_path / "a", value)
    same(io.load(tmp_path / "a", like=value), value)
    assert io.load(tmp_path / "a", like=value).right == [3, 2.5, True]
    plain = io.load(tmp_path / "a")
    assert plain["left"]["bias"] is None and plain["right"][0].item() == 3
    assert set(load_file(tmp_path / "a")) == {"left.weight", "right.0", "right.1", "right.2"}


def test_single_leaf_and_views(tmp_path):
    io.save(tmp_path / "a", ln.asarray(np.arange(6.0).reshape(2, 3).T))
    same(io.load(tmp_path / "a"), ln.asarray(np.arange(6.0).reshape(2, 3).T))
    io.save(tmp_path / "b", {"x": np.arange(3, dtype=">i4")})
    same(io.load(tmp_path / "b"), {"x": ln.asarray(np.arange(3, dtype="<i4"))})


def test_files_of_other_libraries(tmp_path):
    save_file({"layers.0.w": np.ones((2, 2), np.float32)}, tmp_path / "a")
    flat = io.load(tmp_path / "a")
    assert list(flat) == ["layers.0.w"]
    like = {"layers": [{"w": ln.asarray(np.zeros((2, 2), np.float32))}]}
    assert np.asarray(io.load(tmp_path / "a", like=like)["layers"][0]["w"]).sum() == 4


def test_metadata(tmp_path):
    io.save(tmp_path / "a", [1], metadata={"config": "{}"})
    assert io.metadata(tmp_path / "a") == {"config": "{}"}
    with pytest.raises(CheckpointError, match=r"reserved|not starting with"):
        io.save(tmp_path / "a", [1], metadata={"lantern.x": "1"})
    with pytest.raises(CheckpointError, match="expected text"):
        io.save(tmp_path / "a", [1], metadata={"n": 1})


LIKE = {
    "layers": [{"w": ln.asarray(np.ones((2, 3), np.float32))}],
    "b": ln.asarray(np.zeros(4, np.float32)),
}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    io.save(path, LIKE)
    return path


def zeros(*shape, dtype=np.float32):
    return ln.asarray(np.zeros(shape, dtype))


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"layers": LIKE["layers"]}, "not expected: b"),
        ({**LIKE, "c": zeros(1)}, "missing: c"),
        ({**LIKE, "b": zeros(5)}, r"b is float32\[4\]; expected float32\[5\]"),
        ({**LIKE, "b": zeros(4, dtype=np.float64)}, r"b is float32\[4\]; expected float64\[4\]"),
        ({**LIKE, "b": 1}, r"b is float32\[4\]; expected int64\[\]"),
        ({f"x{i}": zeros(1) for i in range(9)}, "missing: x0, .* and 4 more; not expected: b, lay"),
    ],
)
def test_a_tree_that_does_not_fit(saved, like, message):
    with pytest.raises(CheckpointError, match=message) as problem:
        io.load(saved, like=like)
    assert "model.safetensors" in str(problem.value)


def damaged_header(data):
    return data[:8] + b"#" + data[9:]


def moved_offset(data):
    """A header whose offsets do not fit the shapes."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["b"]["data_offsets"][1] += 4
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def flipped_bit(data):
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: b"",
        lambda d: d[:5],
        lambda d: d[:40],
        lambda d: d[:-1],
        lambda d: d + b"\0",
        lambda d: b"\xff" * 8 + d[8:],
        lambda d: b"not a checkpoint at all, but some text",
        damaged_header,
        moved_offset,
        flipped_bit,
    ],
)
@pytest.mark.parametrize("like", [None, LIKE])
def test_damaged_files(saved, damage, like):
    saved.write_bytes(damage(saved.read_bytes()))
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        io.load(saved, like=like)


def test_flipped_bit_names_the_tensor(saved):
    saved.write_bytes(flipped_bit(saved.read_bytes()))
    with pytest.raises(CheckpointError, match=r"the bytes of layers\.0\.w"):
        io.load(saved)


@pytest.mark.parametrize("key", ["lantern.tree", "lantern.crc32"])
@pytest.mark.parametrize("text", ["{", '{"dict": 3}', '"nothing"', "[]", "7"])
def test_damaged_own_metadata(saved, key, text):
    (length,) = struct.unpack("<Q", saved.read_bytes()[:8])
    data = saved.read_bytes()
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"][key] = text
    new = json.dumps(header).encode()
    saved.write_bytes(struct.pack("<Q", len(new)) + new + data[8 + length :])
    with pytest.raises(CheckpointError, match="damaged"):
        io.load(saved)


@given(st.data())
def test_no_flipped_bit_changes_what_is_read(tmp_path_factory, data):
    """Anywhere in a file: of arrays, of the caller's text, or of what describes them."""
    path = tmp_path_factory.mktemp("flipped") / "model.safetensors"
    about = {"config": json.dumps({"lr": 0.002, "steps": 100}), "data": "abc"}
    io.save(path, LIKE, metadata=about)
    content = bytearray(path.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    try:
        same(io.load(path, like=LIKE), LIKE)
        found = io.metadata(path)
    except CheckpointError as problem:
        assert "model.safetensors" in str(problem)
    else:  # it hit the name of a checksum, or space
        assert {key: found[key] for key in about} == about


def test_missing_file(tmp_path):
    for read in (io.load, io.metadata):
        with pytest.raises(CheckpointError, match="nowhere"):
            read(tmp_path / "nowhere")
    with pytest.raises(CheckpointError):
        io.load(tmp_path)
    with pytest.raises(CheckpointError, match="nofolder"):
        io.save(tmp_path / "nofolder" / "a", [1])


def test_leaves_that_cannot_be_saved(tmp_path):
    for leaf, name in (
        ("text", "str"),
        (np.array(["a"]), "U1"),
        (1j, "complex"),
        (object(), "obj"),
    ):
        with pytest.raises(CheckpointError, match=name):
            io.save(tmp_path / "a", {"x": leaf})
    with pytest.raises(CheckpointError, match="expected str or int"):
        io.save(tmp_path / "a", {(1, 2): 1.0})
    assert os.listdir(tmp_path) == []


def test_a_failed_write_keeps_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()

    def full(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CheckpointError, match="no space left"):
        io.save(saved, {"b": zeros(1)})
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_nothing_is_left_beside_the_file(saved):
    io.save(saved, {"b": zeros(1)})
    assert os.listdir(saved.parent) == [saved.name]
    same(io.load(saved), {"b": zeros(1)})


def test_bfloat16_bits(tmp_path):
    bits = np.arange(0, 2**16, 7, dtype=np.uint16).view(ml_dtypes.bfloat16)
    io.save(tmp_path / "a", bits)
    assert np.asarray(io.load(tmp_path / "a")).tobytes() == bits.tobytes()
