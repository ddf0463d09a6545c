"""examples/llama3: models from one format to another, and to llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lantern as ln
from examples.llama3 import checkpoint, weights
from examples.llama3.__main__ import main
from examples.llama3.config import Config, ModelConfig, RopeScaling, TrainConfig
from examples.llama3.files import Problem
from examples.llama3.model import Params, forward, init
from examples.llama3.quantise import dense, quantised
from examples.llama3.step import begin
from examples.llama3.stored import named
from examples.llama3.tokenizer import BytePairs, Bytes, Tokenizer

CONFIG = ModelConfig(
    vocab=300, dim=64, layers=2, heads=4, kv_heads=2, ffn=32, context=64, rope_theta=1e4
)
TEXTS = ["the loop of the loop, and 12 loops; don't\n\n  wait", "a loop in the loop"] * 3
ROUNDED = {"q8_0": 5e-3, ln.float16: 5e-4, ln.bfloat16: 5e-3, ln.float32: 0.0}


@pytest.fixture(scope="module")
def learned() -> Tokenizer:
    pytest.importorskip("tokenizers")
    return BytePairs.train(TEXTS, 280)


def drawn(config: ModelConfig) -> Params:
    return ln.tree.map(lambda x: 10 * x, init(ln.random.key(0), config))


@pytest.mark.parametrize("dtype", [ln.float32, ln.float16, ln.bfloat16, "q8_0"])
def test_a_gguf_file_comes_back(tmp_path: Path, learned: Tokenizer, dtype: Any) -> None:
    pytest.importorskip("gguf")
    scaling = RopeScaling(4.0, original=32) if dtype == ln.float32 else None
    more = {"rope_scaling": scaling, "tied": dtype != "q8_0", "norm_eps": 2.0**-20}
    config = ModelConfig(**{**vars(CONFIG), **more})
    params = drawn(config)
    weights.save(tmp_path / "m.gguf", params, config, learned, dtype)
    found = weights.load(tmp_path / "m.gguf")
    assert found.config == config
    for (name, x), (same, y) in zip(named(found.params), named(params), strict=True):
        error = ROUNDED[dtype] if x.ndim == 2 else 0.0
        assert name == same and float(ln.max(ln.abs(x - y))) <= error * float(ln.max(ln.abs(y)))
    again = found.tokenizer
    assert again.specials.items() >= learned.specials.items()
    assert (again.bos, again.eos, again.begins) == (learned.bos, learned.eos, True)
    assert again.encode(TEXTS[0] + "été") == learned.encode(TEXTS[0] + "été")
    assert found.template.stops(again) == found.template.stops(learned)


def test_matrices_in_few_bits_are_written_as_floats(tmp_path: Path, learned: Tokenizer) -> None:
    few = quantised(drawn(CONFIG), 8)
    weights.save(tmp_path / "m", few, CONFIG, learned)
    found = dict(named(weights.load(tmp_path / "m").params))
    for name, x in named(few):
        np.testing.assert_array_equal(found[name], dense(x))


def test_what_gguf_cannot_say_is_refused(tmp_path: Path, learned: BytePairs) -> None:
    pytest.importorskip("gguf")
    path, params = tmp_path / "m.gguf", drawn(CONFIG)
    spaced = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    data = {**learned.data, "pre_tokenizer": spaced}
    other = BytePairs(data, "<|begin_of_text|>", "<|end_of_text|>")
    scaled = ModelConfig(**{**vars(CONFIG), "rope_scaling": RopeScaling(8.0, 2.0)})
    narrow = ModelConfig(**{**vars(CONFIG), "ffn": 33})
    for config, words, said in (
        (CONFIG, other, "no name for how the tokenizer splits text"),
        (scaled, learned, "from 1 to 4 turns, and this model from 2 to 4"),
        (CONFIG, Bytes(), "this one leaves them alone"),
        (narrow, learned, r"blk\.0\.ffn_down\.weight has rows of 33 numbers, which Q8_0"),
    ):
        values = params if config is not narrow else drawn(narrow)
        with pytest.raises(Problem, match=said):
            weights.save(path, values, config, words, "q8_0")
    assert not any(tmp_path.iterdir())


def test_splits_have_the_names_of_gguf() -> None:
    """Of what Hugging Face's files say of Llama 3's and SmolLM2's tokenizers."""
    from examples.llama3 import bytelevel, gguf_write

    letters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    digits = {"type": "Digits", "individual_digits": True}
    llama = {
        "type": "Split", "pattern": {"Regex": bytelevel.SPLIT}, "behavior": "Isolated",
        "invert": False,
    }  # fmt: skip
    for name, steps, whole in (
        ("smollm", [digits, {**letters, "use_regex": True}], False),
        ("llama-bpe", [llama, {**letters, "use_regex": False}], True),
        ("gpt-2", [letters], False),
    ):
        data = {
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "model": {"ignore_merges": whole},
        }
        assert gguf_write.split_of(data, Bytes()) == name


# The command ------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, learned: Tokenizer) -> Path:
    """The folder of a run."""
    config = Config(CONFIG, TrainConfig())
    (tmp_path / "run").mkdir()
    checkpoint.save(tmp_path / "run", begin(config), config, {})
    learned.save(tmp_path / "run" / checkpoint.TOKENIZER)
    return tmp_path / "run"


def test_from_a_run_to_every_format(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gguf")
    folder, file, back = (str(tmp_path / name) for name in ("folder", "m.gguf", "back"))
    for source, target in ((str(run), folder), (folder, file), (file, back)):
        assert main(["convert", source, target, "--dtype", "f32"]) == 0
        assert "56,384 parameters in f32, 0.2" in capsys.readouterr().out
    first, last = weights.load(run), weights.load(Path(back))
    assert first.config == ModelConfig(**{**vars(last.config), "norm_eps": first.config.norm_eps})
    values = dict(named(last.params))
    assert values.keys() == dict(named(first.params)).keys()
    for name, x in named(first.params):
        np.testing.assert_array_equal(x, values[name])
    for more, said in (
        ([folder], f"error: {folder} exists already; remove it, or name another"),
        ([back + "2", "--dtype", "q8_0"], "q8_0 is for .gguf files"),
    ):
        assert main(["convert", str(run), *more]) == 1
        assert said in capsys.readouterr().err


@pytest.mark.peer
def test_llama_cpp_runs_it(tmp_path: Path, learned: Tokenizer) -> None:
    """llama.cpp's probabilities after a text are those of the model here, and so are its tokens."""
    pytest.importorskip("gguf")
    xllamacpp: Any = pytest.importorskip("xllamacpp")
    config = ModelConfig(**{**vars(CONFIG), "rope_scaling": RopeScaling(4.0), "kv_heads": 1})
    path, params = tmp_path / "m.gguf", drawn(config)
    weights.save(path, params, config, learned)
    how = xllamacpp.CommonParams()
    how.model.path, how.n_ctx, how.n_parallel, how.verbosity = str(path), 64, 1, 0
    server = xllamacpp.Server(how)
    text = TEXTS[0] + " été"
    tokens = learned.begin(text)
    answer = server.handle_completions({"prompt": text, "n_predict": 1, "n_probs": 5})
    assert answer["usage"]["prompt_tokens"] == len(tokens)
    logits = np.asarray(forward(params, ln.asarray([tokens]), config))[0, -1].astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum())
    likely = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    assert [x["id"] for x in likely] == np.argsort(-expected)[:5].tolist()
    for x in likely:
        assert x["logprob"] == pytest.approx(
            expected[x["id"]], abs=5e-3, rel=1e-3
        )  # its cache is float16
