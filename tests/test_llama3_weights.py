"""examples/llama3: models in files of others, whole, damaged, and beside transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lantern as ln
from examples.llama3 import gguf_file, huggingface, weights
from examples.llama3.config import ModelConfig, RopeScaling
from examples.llama3.files import Problem
from examples.llama3.model import Params, rotary, shapes
from examples.llama3.quantise import Quantised, dense
from examples.llama3.stored import assemble, named, nested
from examples.llama3.weights import Loaded
from tests.beside_transformers import check_beside, twin_of
from tests.memory_use import taking_less_than

CONFIG = ModelConfig(
    vocab=5, dim=32, layers=2, heads=2, kv_heads=1, ffn=64, context=48, rope_theta=1e4
)
MIXED = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")
ROUNDED = {"Q8_0": 1e-2, "Q4_0": 0.2, "Q4_1": 0.1, "F16": 1e-3, "BF16": 1e-2, "F32": 0.0}


def interleaved(x: Any, heads: int) -> Any:
    """Rows in GGUF's and Meta's order, as transformers' own scripts permute them."""
    return x.reshape(heads, 2, -1, x.shape[1]).swapaxes(1, 2).reshape(x.shape)


def write_gguf(
    path: Path, config: ModelConfig, values: Params, kinds: Any = MIXED, **more: Any
) -> dict[str, str]:
    """Write a model with the library `gguf`, matrices in several types; which has which."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, more.pop("architecture", "llama"))
    writer.add_block_count(config.layers)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.dim)
    writer.add_feed_forward_length(config.ffn)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    for name, value in more.items():
        writer.add_string(f"llama.{name}", value)
    used: dict[str, str] = {}
    for i, (name, value) in enumerate(named(values)):
        value = np.asarray(value)
        last = name.split(".")[-1]
        if last in ("query", "key"):
            value = interleaved(value, config.heads if last == "query" else config.kv_heads)
        used[name] = "F32" if value.ndim == 1 else kinds[i % len(kinds)]
        kind = gguf.GGMLQuantizationType[used[name]]
        spelled = gguf_file.NAMES.spelled(name)
        writer.add_tensor(spelled, gguf.quants.quantize(value, kind), raw_dtype=kind)
    if config.rope_scaling:
        plain = rotary(ModelConfig(**{**vars(config), "rope_scaling": None}))
        factors = np.asarray(plain / rotary(config), np.float32)
        writer.add_tensor(gguf_file.ROPE, factors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return used


def random_values(config: ModelConfig, seed: int = 0) -> Params:
    rng = np.random.default_rng(seed)
    drawn = {n: rng.normal(size=s).astype(np.float32) for n, s in named(shapes(config))}
    return nested(drawn, config)


def read_gguf(path: Path, keep: bool = False) -> tuple[Params, ModelConfig]:
    file = gguf_file.read(path)
    config = gguf_file.config_of(file)
    found = gguf_file.stored(file, config, keep)
    return assemble(config, found, gguf_file.NAMES, path, ln.float32), config


# GGUF -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {"tied": False},
        {"kv_heads": 2, "layers": 1, "head_width": 64},
        {"rope_scaling": RopeScaling(factor=32.0), "kv_heads": 2},
    ],
)
def test_gguf_comes_back_as_it_was_quantised(tmp_path: Path, more: dict[str, Any]) -> None:
    config = ModelConfig(**{**vars(CONFIG), **more})
    values = random_values(config)
    kinds = write_gguf(tmp_path / "m.gguf", config, values)
    for keep in (False, True):
        found, shape = read_gguf(tmp_path / "m.gguf", keep)
        for name in ("rope_theta", "norm_eps"):
            assert getattr(shape, name) == pytest.approx(getattr(config, name))
        assert {**vars(shape), "norm_eps": 0, "rope_theta": 0} == {
            **vars(config), "norm_eps": 0, "rope_theta": 0,
        }  # fmt: skip
        for (name, x), (same, y) in zip(named(found), named(values), strict=True):
            assert name == same
            assert isinstance(x, Quantised) == (keep and kinds[name][0] == "Q")
            error = np.abs(np.asarray(dense(x)) - y).max()
            assert error <= ROUNDED[kinds[name]] * np.abs(y).max(), (name, kinds[name])


def scales_of_q4_k(packed: Any) -> tuple[list[int], list[int]]:
    """`get_scale_min_k4` of ggml: 8 scales and 8 minima of 6 bits in 12 bytes."""
    scales, minima = [], []
    for j in range(8):
        if j < 4:
            scales.append(packed[j] & 63)
            minima.append(packed[j + 4] & 63)
        else:
            scales.append((packed[j + 4] & 15) | (packed[j - 4] >> 6 << 4))
            minima.append((packed[j + 4] >> 4) | (packed[j] >> 6 << 4))
    return scales, minima


def q4_k(block: bytes) -> list[float]:
    """`dequantize_row_q4_K` of ggml, number by number."""
    d, low = np.frombuffer(block[:4], "<f2").astype(float)
    scales, minima = scales_of_q4_k(block[4:16])
    found = []
    for j in range(8):
        codes = block[16 + 32 * (j // 2) : 48 + 32 * (j // 2)]
        found += [d * scales[j] * (c >> 4 if j % 2 else c & 15) - low * minima[j] for c in codes]
    return found


def q6_k(block: bytes) -> list[float]:
    """`dequantize_row_q6_K` of ggml, number by number."""
    scales, d = np.frombuffer(block[192:208], np.int8), np.frombuffer(block[208:], "<f2")[0]
    found = [0.0] * 256
    for half in range(2):
        low, high = block[64 * half :][:64], block[128 + 32 * half :][:32]
        for i in range(32):
            for k in range(4):
                four = low[i + 32 * (k % 2)] >> (4 * (k // 2)) & 15
                code = four | (high[i] >> (2 * k) & 3) << 4
                scale = int(scales[8 * half + i // 16 + 2 * k])
                found[128 * half + 32 * k + i] = float(d) * scale * (code - 32)
    return found


@pytest.mark.parametrize(("kind", "reference"), [("Q4_K", q4_k), ("Q6_K", q6_k)])
def test_blocks_of_256_mean_what_ggml_says(kind: str, reference: Any) -> None:
    pytest.importorskip("gguf")
    rng = np.random.default_rng(0)
    _, size = gguf_file.BLOCKS[kind]
    rows = rng.integers(0, 256, (3, 2, size), np.uint8)
    for at in {"Q4_K": (0, 2), "Q6_K": (208,)}[kind]:  # scales that are not infinite
        rows[:, :, at : at + 2] = np.full((3, 2, 1), 0.1, "<f2").view(np.uint8)
    found = gguf_file.floats(rows.reshape(3, -1), kind, np.float32)
    expected = [[x for block in row for x in reference(block.tobytes())] for row in rows]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["layers"][1].pop("up"), r"has no tensor blk\.1\.ffn_up\.weight"),
        (
            lambda v: v["layers"][0].update(gate=v["layers"][0]["gate"][:-1]),
            r"blk\.0\.ffn_gate\.weight is \(63, 32\); expected \(64, 32\)",
        ),
        (
            lambda v: v["layers"].append(v["layers"][0]),
            r"has the tensor blk\.2\.attn_norm\.weight, which a Llama with 2 layers",
        ),
    ],
)
def test_a_tensor_missing_misshapen_or_extra_is_named(
    tmp_path: Path, change: Any, message: str
) -> None:
    values = random_values(CONFIG)
    change(values)
    write_gguf(tmp_path / "m.gguf", CONFIG, values, ("F32",))
    with pytest.raises(Problem, match=message):
        read_gguf(tmp_path / "m.gguf")


def test_other_models_are_refused_by_name(tmp_path: Path) -> None:
    for more, message in (
        ({"architecture": "mamba"}, r"a model of the kind 'mamba', not a llama"),
        ({"rope.scaling.type": "yarn"}, r"rope scaling is of the unknown type 'yarn'"),
    ):
        write_gguf(tmp_path / "m.gguf", CONFIG, random_values(CONFIG), **more)
        with pytest.raises(Problem, match=message):
            read_gguf(tmp_path / "m.gguf")
    (tmp_path / "m.gguf").write_bytes(b"GGML")
    with pytest.raises(Problem, match="is no GGUF file"):
        read_gguf(tmp_path / "m.gguf")
    for path in (tmp_path / "absent.gguf", tmp_path):
        with pytest.raises(Problem, match=path.name):
            weights.load(path)


def test_a_few_numbers_do_not_make_many_tensors(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path, numbers = tmp_path / "m.gguf", np.ones(1000, np.float32)
    writer = gguf.GGUFWriter(path, "llama")
    for name in ("first", "second"):
        writer.add_tensor(name, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    data = bytearray(path.read_bytes())
    at = data.index(b"second") + len(b"second") + 4 + 8 + 4  # dimensions, one of them, the type
    assert int.from_bytes(data[at : at + 8], "little") >= numbers.nbytes
    data[at : at + 8] = bytes(8)  # it lies where the first one does
    path.write_bytes(data[: -numbers.nbytes])
    with pytest.raises(Problem, match=r"is damaged: its .* bytes make tensors of 8,000"):
        gguf_file.read(path)


# Damage -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small GGUF file."""
    path = tmp_path_factory.mktemp("whole") / "m.gguf"
    write_gguf(path, CONFIG, random_values(CONFIG))
    return path.read_bytes()


HEAD = 1600  # bytes before the names of the tensors end: most settings and lengths lie there


@settings(max_examples=120, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, HEAD), st.binary(min_size=1, max_size=8)), max_size=3),
    kept=st.none() | st.integers(0, 6000),
)
def test_a_damaged_gguf_file_is_read_or_refused_within_its_size(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, edits: Any, kept: int | None
) -> None:
    data = bytearray(whole)
    for at, new in edits:
        data[at : at + len(new)] = new
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(data[:kept])
    with taking_less_than(40 * len(whole)):
        try:
            read_gguf(path)
        except Problem as problem:
            assert str(path) in str(problem) or "--" in str(problem)


# SmolLM2 ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2() -> Loaded:
    try:
        return weights.load(weights.smollm2())
    except Problem as problem:
        pytest.skip(str(problem))


def raw_smollm2(config: ModelConfig) -> dict[str, Any]:
    """SmolLM2's tensors as the library `gguf` dequantises them, permuted as transformers does."""
    gguf = pytest.importorskip("gguf")
    tensors = gguf_file.read(weights.smollm2()).tensors
    found = {}
    for name, shape in named(shapes(config)):
        t = tensors[gguf_file.NAMES.spelled(name)]
        x = gguf.quants.dequantize(t.rows, gguf.GGMLQuantizationType[t.kind]).reshape(shape)
        heads = {"query": config.heads, "key": config.kv_heads}.get(name.split(".")[-1])
        if heads:  # `LlamaTensorProcessor` of transformers
            x = x.reshape(heads, x.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(x.shape)
        found[huggingface.NAMES.spelled(name)] = x
    return found


# What transformers 5.24 writes in 200 tokens, taking the likeliest each time.
TEXT = """Paris, the City of Light, has a rich and storied history that spans centuries. The \
city's origins are deeply rooted in ancient civilizations, with evidence of the Phoenicians' \
trade routes and the Romans' architectural marvels. The ancient Greeks, who built the Parthenon, \
are believed to have been inspired by the Phoenicians' seafaring prowess.

The Romans, who ruled the city from 51 BC to 509 AD, left a lasting legacy. They built the \
Colosseum, the Pantheon, and the Roman Forum, which still stands today as a testament to their \
architectural prowess. The Roman Empire's grandeur is reflected in the city's architecture, with \
iconic landmarks like the Colosseum and the Roman Forum.

The French, who ruled the city from 14th to 18th centuries, added a new dimension to Paris. They \
built the Belle Époque, a period of artistic and cultural innovation, and Paris became a major"""


@pytest.mark.peer
def test_smollm2_beside_transformers(smollm2: Loaded) -> None:
    """Each token of a text is the likeliest after those before it, for both: greedy text is it."""
    config = smollm2.config
    twin = twin_of(config, raw_smollm2(config))
    chat = [{"role": "user", "content": "Tell me about the history of Paris."}]
    prompt = smollm2.template.render(chat, smollm2.tokenizer)
    text = smollm2.tokenizer.encode(TEXT)
    assert len(text) == 200
    tokens = np.array([[*prompt, *text]])
    for logits in check_beside(twin, smollm2.params, config, tokens, learned=8):
        assert logits[0, len(prompt) - 1 :].argmax(-1).tolist() == text
