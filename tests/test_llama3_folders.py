"""examples/llama3: models in folders of Hugging Face, whole, damaged, and beside transformers."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lantern as ln
from examples.llama3 import huggingface, safetensors_file, weights
from examples.llama3.config import ModelConfig, RopeScaling
from examples.llama3.files import Problem
from examples.llama3.model import Params, forward, rotary, shapes
from examples.llama3.stored import named, nested
from examples.llama3.templates import LLAMA3
from examples.llama3.tokenizer import Bytes
from tests import beside_transformers
from tests.memory_use import taking_less_than

CONFIG = ModelConfig(
    vocab=264, dim=8, layers=2, heads=2, kv_heads=1, ffn=6, context=48, rope_theta=1e4
)
CHAT = [
    {"role": "user", "content": "Is 12 even? "},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "And\n13?"},
]


def random_params(config: ModelConfig, seed: int = 0) -> Params:
    rng = np.random.default_rng(seed)
    drawn = {
        n: ln.asarray(0.3 * rng.normal(size=s).astype(np.float32)) for n, s in named(shapes(config))
    }
    return nested(drawn, config)


def written(
    folder: Path, config: ModelConfig = CONFIG, dtype: Any = ln.float32, shard: int = 10**9
) -> Params:
    """A model in a folder of Hugging Face."""
    params = random_params(config)
    huggingface.save(folder, params, config, Bytes(), dtype, shard)
    return params


def changed(path: Path, **more: Any) -> None:
    """Change settings in a JSON file; ... removes one."""
    values = {**json.loads(path.read_bytes()), **more}
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))


def tensors_changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite the tensors of a folder."""
    path = folder / huggingface.TENSORS
    arrays = {name: raw.numbers(raw.dtype) for name, raw in safetensors_file.read(path).items()}
    change(arrays)
    safetensors_file.write(path, arrays)


# What is written is read ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [ln.float32, ln.bfloat16, ln.float16])
@pytest.mark.parametrize(
    ("more", "shard"),
    [
        ({"tied": False}, 10**9),
        ({"rope_scaling": RopeScaling(4.0, 1.0, 4.0, 16), "head_width": 6}, 3000),
    ],
)
def test_a_model_comes_back(tmp_path: Path, more: dict[str, Any], shard: int, dtype: Any) -> None:
    config = ModelConfig(**{**vars(CONFIG), **more})
    params = written(tmp_path / "m", config, dtype, shard)
    files = sorted(p.name for p in (tmp_path / "m").glob("*.safetensors"))
    assert (len(files) > 1) == (shard < 10**9) == (tmp_path / "m" / huggingface.INDEX).exists()
    found = weights.load(tmp_path / "m")
    assert found.config == config
    for (name, x), (same, y) in zip(named(found.params), named(params), strict=True):
        assert name == same and x.dtype == ln.float32
        np.testing.assert_array_equal(x, ln.astype(ln.astype(y, dtype), ln.float32))


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    written(tmp_path / "m")  # an empty folder may be filled
    with pytest.raises(Problem, match=r"m exists already; remove it, or name another"):
        written(tmp_path / "m")
    params = random_params(CONFIG)
    params["norm"] = "no numbers"
    with pytest.raises(AttributeError):
        weights.save(tmp_path / "other", params, CONFIG, Bytes())
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_what_is_tied_is_found_out_from_the_tensors(tmp_path: Path) -> None:
    """As `transformers` does: two tables that differ are two, and one table is both."""
    tables: dict[str, Any] = {}

    def two_alike(arrays: dict[str, Any]) -> None:
        arrays["lm_head.weight"] = tables["embedding"] = arrays["model.embed_tokens.weight"]

    def two(arrays: dict[str, Any]) -> None:
        arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"] + 1

    written(tmp_path / "m")
    for change, tied in (
        (two_alike, True),
        (two, False),
        (lambda arrays: arrays.pop("model.embed_tokens.weight"), True),
    ):
        tensors_changed(tmp_path / "m", change)
        found = weights.load(tmp_path / "m")
        assert found.config.tied == tied == ("output" not in found.params)
        table = tables["embedding"] + (change not in (two_alike, two))
        np.testing.assert_array_equal(found.params["embedding"], table)
    changed(tmp_path / "m" / "config.json", tie_word_embeddings=False)
    with pytest.raises(Problem, match=r"has no tensor model\.embed_tokens\.weight"):
        weights.load(tmp_path / "m")


def test_old_and_new_ways_to_say_the_same(tmp_path: Path) -> None:
    scaling = RopeScaling(4.0, 1.0, 4.0, 16)
    config = ModelConfig(**{**vars(CONFIG), "rope_theta": 5e5, "rope_scaling": scaling})
    written(tmp_path / "m", config)
    file = tmp_path / "m" / "config.json"
    rope = json.loads(file.read_bytes())["rope_scaling"]
    kept = {k: v for k, v in rope.items() if k != "rope_type"}
    for more in (
        {},
        {"rope_scaling": {"type": "llama3", **kept}, "head_dim": None},
        {
            "rope_scaling": ..., "rope_theta": ...,
            "rope_parameters": {"rope_theta": 5e5, **rope, "factor": 4},
        },
        {"model_type": ..., "hidden_act": ..., "attention_bias": ..., "dtype": "float32"},
    ):  # fmt: skip
        changed(file, **more)
        assert weights.load(tmp_path / "m").config == config
    changed(file, rope_parameters={"rope_type": "default"}, rms_norm_eps=..., num_key_value_heads=1)
    found = huggingface.config_of(tmp_path / "m")
    assert (found.rope_theta, found.rope_scaling, found.norm_eps) == (1e4, None, 1e-6)


def test_computed_tensors_of_old_checkpoints_are_passed_over(tmp_path: Path) -> None:
    written(tmp_path / "m")
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    tensors_changed(tmp_path / "m", lambda arrays: arrays.update({name: np.ones(2, np.float32)}))
    assert weights.load(tmp_path / "m").config == CONFIG


def test_what_ends_a_reply_is_gathered(tmp_path: Path) -> None:
    written(tmp_path / "m")
    words, names = Bytes(), Bytes().specials
    found = weights.load(tmp_path / "m").tokenizer
    assert (found.bos, found.eos) == (words.bos, words.eos)
    assert found.ends == {words.eos, names["<|eom_id|>"], names["<|eot_id|>"]}
    # Older folders have the names elsewhere, or only numbers.
    (tmp_path / "m" / "tokenizer_config.json").write_text("{}")
    (tmp_path / "m" / "special_tokens_map.json").write_text(
        json.dumps({"bos_token": {"content": "<|begin_of_text|>"}, "eos_token": "<|eot_id|>"})
    )
    found = weights.load(tmp_path / "m").tokenizer
    assert (found.bos, found.eos) == (words.bos, names["<|eot_id|>"])
    (tmp_path / "m" / "special_tokens_map.json").unlink()
    (tmp_path / "m" / "generation_config.json").unlink()
    assert weights.load(tmp_path / "m").tokenizer.ends == {words.eos}
    changed(tmp_path / "m" / "config.json", eos_token_id=7)
    with pytest.raises(Problem, match="has no special token ''"):
        weights.load(tmp_path / "m")


# What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"model_type": "mistral"}, "model_type 'mistral'.*: attention within a sliding window"),
        ({"model_type": "qwen2"}, "model_type 'qwen2'.*: biases of the queries, keys and values"),
        ({"model_type": "aria"}, r"model_type 'aria', which is no 'llama' .* not$"),
        ({"architectures": ["LlamaForTokenClassification"]}, "is of a LlamaForTokenClass"),
        ({"hidden_act": "gelu"}, "has gelu for hidden_act; .* has not another activation"),
        ({"attention_bias": True}, "has True for attention_bias; .* biases in attention"),
        ({"mlp_bias": True}, "has True for mlp_bias; .* biases in the feed"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq.* for quantization_config"),
        ({"is_causal": False}, "has False for is_causal; .* attention to what comes later"),
        ({"layer_types": ["sliding_attention"]}, "sliding_attention among its layer_types"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling are of the type 'yarn'"),
        ({"rope_scaling": {"type": "llama3"}}, "has no setting factor; expected float"),
        ({"rope_parameters": {"full_attention": {}}}, "rope_parameters have 'full_.* for all lay"),
        ({"rope_scaling": [8]}, r"has \[8\] for rope_scaling; expected dict"),
        ({"hidden_size": "8"}, "has 8 for hidden_size; expected int"),
        ({"hidden_size": 2**60}, "for hidden_size; expected int"),
        ({"num_attention_heads": 0}, "m/config.json: --heads is 0; it must be at least 1"),
        ({"num_hidden_layers": 10**9}, r"too few for 1000000000 layers"),
        ({"num_hidden_layers": 3}, r"has no tensor model\.layers\.2\.input_layernorm\.weight"),
        ({"num_hidden_layers": 1}, r"has the tensor model\.layers\.1\..*with 1 layers"),
        ({"head_dim": 6}, r"layers\.0\.self_attn\.q_proj\.weight is \(8, 8\); expected \(12, 8\)"),
        ({"vocab_size": 99}, r"model\.embed_tokens\.weight is \(264, 8\); expected \(99, 8\)"),
    ],
)  # fmt: skip
def test_a_setting_that_llama_has_not_is_named(
    tmp_path: Path, more: dict[str, Any], said: str
) -> None:
    written(tmp_path / "m")
    changed(tmp_path / "m" / "config.json", **more)
    with pytest.raises(Problem, match=said):
        weights.load(tmp_path / "m")


def test_files_that_are_missing_are_named(tmp_path: Path) -> None:
    written(tmp_path / "m", shard=3000)
    index = tmp_path / "m" / huggingface.INDEX
    map_of = json.loads(index.read_bytes())["weight_map"]
    norm = map_of["model.norm.weight"]
    for weight_map, said in (
        ({**map_of, "model.norm.weight": "../m/" + norm}, r"has \.\./m/model.*; expected a file's"),
        ({**map_of, "x": norm}, rf"{norm} has no tensor x, which model.safetensors.index"),
        ([], "has .* for weight_map; expected dict"),
    ):
        changed(index, weight_map=weight_map)
        with pytest.raises(Problem, match=said):
            weights.load(tmp_path / "m")
    changed(index, weight_map=map_of)
    shutil.copy(tmp_path / "m" / norm, tmp_path / "m" / "again.safetensors")
    changed(index, weight_map={**map_of, "model.norm.weight": "again.safetensors"})
    with pytest.raises(Problem, match=r"both .*again.* have a tensor model"):
        weights.load(tmp_path / "m")
    (tmp_path / "m" / "again.safetensors").unlink()
    with pytest.raises(Problem, match=r"cannot read .*again\.safetensors"):
        weights.load(tmp_path / "m")
    index.unlink()
    (tmp_path / "m" / huggingface.PICKLE).touch()
    with pytest.raises(Problem, match=r"has pytorch_model\.bin, which can run any code"):
        weights.load(tmp_path / "m")


# Damage ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model in several files."""
    folder = tmp_path_factory.mktemp("whole") / "m"
    written(folder, shard=9000)
    weights.load(folder)  # what this imports takes memory, too
    return folder


def loads_or_says_why_not(folder: Path) -> None:
    """What is read takes no more memory than the files warrant; what is wrong is named."""
    size = sum(path.stat().st_size for path in folder.iterdir())
    with taking_less_than(20 * size):
        try:
            weights.load(folder)
        except Problem as problem:
            assert str(folder) in str(problem)


EDITS = st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=8)), max_size=3)


@settings(max_examples=50, deadline=None)
@given(
    name=st.sampled_from(["config.json", "model.safetensors.index.json", "1", "1", "1"]),
    edits=EDITS,
    kept=st.none() | st.integers(0, 6000),
)
def test_a_damaged_folder_is_read_or_refused_within_its_size(
    whole: Path, name: str, edits: list[tuple[int, bytes]], kept: int | None
) -> None:
    path = whole / name if name != "1" else min(whole.glob("*.safetensors"))
    intact = path.read_bytes()
    data = bytearray(intact)
    for at, new in edits:
        at %= len(data)
        data[at : at + len(new)] = new
    try:
        path.write_bytes(data[:kept])
        loads_or_says_why_not(whole)
    finally:
        path.write_bytes(intact)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
    | st.sampled_from([0, 1, 2, 8, 10**400, "llama3", "default", "llama", "silu"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["rope_type", "rope_theta", *huggingface.ROPE.values()]), inner, max_size=5
    ),
    max_leaves=8,
)  # fmt: skip
KEYS = st.sampled_from(
    [known for known, _ in huggingface.SETTINGS.values()] + list(huggingface.FIXED)
    + ["rope_scaling", "rope_parameters", "rope_theta", "head_dim", "num_key_value_heads"]
    + ["model_type", "architectures", "eos_token_id", "bos_token_id"]
)  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(KEYS | st.text(max_size=8), JSON, max_size=3))
def test_a_config_that_no_test_has_seen_loads_or_says_why_not(
    whole: Path, more: dict[str, Any]
) -> None:
    path = whole / "config.json"
    intact = path.read_bytes()
    try:
        changed(path, **more)
        loads_or_says_why_not(whole)
    finally:
        path.write_bytes(intact)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', "lies at bytes 0 to 4"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}', "before it ends at 0"),
        (b'{"a": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}}', "a of type F32 and "),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', "4 of its bytes are of"),
        (b'{"a": {"dtype": "I8", "shape": [8], "data_offsets": [0, 8]}}', "a is of type I8; this"),
        (b'{"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}', "has .* for a"),
        (b'{"a": {}, "a": {}}', "a name stands in it twice"),
        (b"[" * 9999, "its header: "),
        (b"[]", "its header is list"),
    ],
)
def test_a_header_is_checked(tmp_path: Path, header: bytes, said: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(Problem, match=said):
        safetensors_file.read(path)


LENGTHS = st.integers(0, 4) | st.sampled_from([2**31, 2**62, 10**30])


@settings(max_examples=100, deadline=None)
@given(
    tensors=st.lists(
        st.tuples(st.sampled_from(["F64", "F32", "F16", "BF16"]), st.lists(LENGTHS, max_size=5)),
        max_size=4,
    ),
    moved=st.sampled_from([0, 0, 0, 1, -4]),
    more=st.sampled_from([0, 0, 0, 4]),
    data=st.data(),
)
def test_a_header_is_believed_only_where_it_describes_the_file(
    tmp_path_factory: pytest.TempPathFactory, tensors: Any, moved: int, more: int, data: Any
) -> None:
    entries, end = {}, 0
    for i, (kind, shape) in enumerate(tensors):
        begin, end = end, end + math.prod(shape) * safetensors_file.KINDS[kind].itemsize
        entries[str(i)] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    if entries:
        places = entries[data.draw(st.sampled_from([*entries]))]["data_offsets"]
        places[data.draw(st.integers(0, 1))] += moved
    text = json.dumps(dict(data.draw(st.permutations([*entries.items()])))).encode()
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(min(end, 1000) + more))
    honest = not (entries and moved) and not more and end <= 1000
    if not honest or any(len(shape) > 4 or max(shape, default=0) > 2**53 for _, shape in tensors):
        with pytest.raises(Problem, match=r"any\.safetensors"):
            safetensors_file.read(path)
    else:
        found = safetensors_file.read(path)
        assert {name: (raw.shape, len(raw.data)) for name, raw in found.items()} == {
            name: (tuple(about["shape"]), about["data_offsets"][1] - about["data_offsets"][0])
            for name, about in entries.items()
        }


# Beside transformers --------------------------------------------------------------------------


def drawn(seed: int) -> ModelConfig:
    """A shape: every ratio of heads, heads of their own width, tied or not, rope scaled or not."""
    rng = np.random.default_rng(seed)
    kv, shared = (int(n) for n in rng.integers(1, 4, 2))
    return ModelConfig(
        vocab=int(rng.integers(263, 300)), layers=int(rng.integers(1, 3)), heads=kv * shared,
        dim=2 * kv * shared * int(rng.integers(2, 6)), kv_heads=kv,
        head_width=2 * int(rng.integers(1, 9)) if seed % 3 else 0, ffn=int(rng.integers(1, 50)),
        context=64, rope_theta=float(rng.choice([1e4, 5e5])), norm_eps=1e-6, tied=bool(seed % 2),
        rope_scaling=RopeScaling(4.0, 1.0, 4.0, 16) if seed % 4 else None,
    )  # fmt: skip


@pytest.mark.peer
@pytest.mark.parametrize("seed", range(10))
def test_folders_of_transformers_are_read_and_written(tmp_path: Path, seed: int) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    config = drawn(seed)
    dtype = (torch.float32, torch.bfloat16, torch.float16)[seed % 3]
    torch.manual_seed(seed)
    asked = beside_transformers.config_of(config)
    asked.initializer_range = 0.2
    transformers.LlamaForCausalLM(asked).to(dtype).save_pretrained(
        tmp_path / "theirs", max_shard_size="30KB" if seed % 2 else "1GB"
    )
    twin = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "theirs", dtype=torch.float32
    )
    huggingface.save_for_transformers(Bytes(), tmp_path / "theirs")
    found = weights.load(tmp_path / "theirs")
    assert {**vars(found.config), "head_width": config.head_width} == vars(config)

    start = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        text = twin.generate(start, do_sample=False, max_new_tokens=12, eos_token_id=None)
    tokens = text.numpy()
    logits, _ = beside_transformers.check_beside(
        twin, found.params, found.config, tokens, compiled=seed == 0
    )
    assert (logits[0, 3:].argmax(-1) == tokens[0, 4:]).all()  # so greedy text is the same

    weights.save(tmp_path / "ours", found.params, found.config, found.tokenizer)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert again.dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(again(text).logits, twin(text).logits)
    assert again.generation_config.eos_token_id == sorted(found.tokenizer.ends)


LLAMA3_ROPE = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.peer
@pytest.mark.parametrize(
    "more",
    [
        {"head_dim": None, "num_key_value_heads": None, "rms_norm_eps": ..., "rope_theta": ...},
        {"max_position_embeddings": ..., "intermediate_size": ..., "vocab_size": ...},
        {"num_hidden_layers": ..., "hidden_size": ..., "num_attention_heads": ..., "head_dim": ...},
        {"tie_word_embeddings": ..., "rope_scaling": {"rope_type": "default"}, "rope_theta": 77},
        {"rope_scaling": {"type": "llama3", **LLAMA3_ROPE, "rope_theta": 9.0}},
        {"rope_scaling": {"rope_type": "llama3", **LLAMA3_ROPE, "factor": 3},
         "original_max_position_embeddings": 24},
        {"rope_parameters": {"rope_type": "llama3", **LLAMA3_ROPE, "rope_theta": 1e5,
                             "original_max_position_embeddings": 16}, "rope_theta": ...},
        {"rope_parameters": {"rope_theta": 1e5}, "rope_scaling": None, "rope_theta": 3.0},
    ],
)  # fmt: skip
def test_settings_mean_what_transformers_takes_them_to_mean(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    written(tmp_path / "m")
    changed(tmp_path / "m" / "config.json", **more)
    ours = huggingface.config_of(tmp_path / "m")
    theirs = transformers.AutoConfig.from_pretrained(tmp_path / "m")
    for name, (known, _) in huggingface.SETTINGS.items():
        assert getattr(ours, name) == getattr(theirs, known), name
    assert (ours.kv_heads, ours.head_dim) == (theirs.num_key_value_heads, theirs.head_dim)
    turns = LlamaRotaryEmbedding(theirs).inv_freq.numpy()
    np.testing.assert_allclose(rotary(ours), turns, rtol=1e-5)


# Settings that stand in folders of others, with values that this program refuses, too.
WILD: dict[str, list[Any]] = {
    "attention_bias": [True, False], "mlp_bias": [True, False], "is_causal": [True, False],
    "rope_theta": [1e4, 500000, ..., "1e4"],
    "rope_scaling": [
        None, ..., {"type": "linear", "factor": 2.0}, {"type": "dynamic", "factor": 2.0},
        {"rope_type": "yarn", "factor": 4.0}, {"rope_type": "longrope", "long_factor": [2.0]},
        {"type": "llama3", **LLAMA3_ROPE, "original_max_position_embeddings": 16}, {"factor": 2.0},
    ],
    "rope_parameters": [
        ..., {"rope_type": "default", "rope_theta": 9.0}, {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    ],
    "hidden_act": ["silu", "gelu", "swish", ...], "sliding_window": [None, 2, 4096],
    "layer_types": [None, ["full_attention"] * CONFIG.layers, ["sliding_attention"]],
    "partial_rotary_factor": [1.0, 0.5, None], "pretraining_tp": [1, 2, 4],
    "quantization_config": [None, {"quant_method": "awq", "bits": 4}],
    "torch_dtype": ["float32", "bfloat16", "float16", None], "head_dim": [None, ..., 2],
    "model_type": ["llama", "mistral", "qwen2", "gemma"], "attention_dropout": [0.0, 0.1],
    "architectures": [["LlamaForCausalLM"], None, ..., ["LlamaModel"]], "logits_scaling": [2.0],
    "rms_norm_eps": [1e-5, ...], "use_cache": [True, False], "no_rope_layers": [[1, 0]],
}  # fmt: skip


@pytest.mark.peer
@pytest.mark.parametrize("seed", range(6))
def test_wild_settings_agree_with_transformers_or_are_refused_by_name(
    tmp_path: Path, seed: int
) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    written(tmp_path / "m")
    config = tmp_path / "m" / "config.json"
    usual, rng, tokens = config.read_bytes(), np.random.default_rng(seed), np.arange(24)[None]
    agreed = 0
    for _ in range(20):
        names = rng.choice(list(WILD), 3, replace=False).tolist()
        more = {name: WILD[name][rng.integers(len(WILD[name]))] for name in names}
        config.write_bytes(usual)
        changed(config, **more)
        try:
            ours = weights.load(tmp_path / "m")
        except Problem as problem:
            shown = [*names, "LlamaModel", "q_proj"]  # a head's width misshapes this tensor
            assert any(name in str(problem) for name in shown), (more, problem)
            continue
        theirs = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / "m", dtype=torch.float32
        )
        with torch.no_grad():
            want = theirs(torch.from_numpy(tokens)).logits.numpy()
        got = np.asarray(forward(ours.params, tokens, ours.config))
        np.testing.assert_allclose(got, want, atol=1e-4, err_msg=str(more))
        agreed += 1
    assert 0 < agreed < 20


@pytest.mark.peer
def test_a_tokenizer_written_here_is_one_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    written(tmp_path / "m")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    ours = Bytes()
    assert theirs.encode("été 12") == ours.begin("été 12")
    assert theirs.decode(ours.encode("été 12")) == "été 12"
    chat = theirs.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    assert chat == LLAMA3.render(CHAT, ours)
