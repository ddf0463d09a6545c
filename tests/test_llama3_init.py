"""examples/llama3: training that begins with any model that can be loaded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

import lantern as ln
from examples.llama3 import checkpoint, huggingface, weights
from examples.llama3.__main__ import main
from examples.llama3.commands import finetune, train
from examples.llama3.config import ModelConfig, RopeScaling
from examples.llama3.model import init
from examples.llama3.progress import LOG, read_log
from examples.llama3.stored import named
from examples.llama3.tokenizer import BytePairs, Tokenizer
from tests import meta_folders

LINES = "".join(f"line {k}: the square of {k} is {k * k}\n" for k in range(60))
CONFIG = ModelConfig(
    vocab=300, dim=32, layers=2, heads=4, kv_heads=2, ffn=32, context=64, tied=False,
    rope_scaling=RopeScaling(4.0, original=16),
)  # fmt: skip
FEW = ["--eager", "--batch", "2", "--steps", "3", "--validation-sequences", "2"]
LESS = ["--valid-fraction", "0.2", "--context", "24"]


@pytest.fixture
def words() -> Tokenizer:
    return BytePairs.train([LINES], 290)


@pytest.fixture
def text(tmp_path: Path) -> str:
    for k in range(5):
        (tmp_path / f"text{k}.txt").write_text(LINES[100 * k : 100 * k + 700])
    return str(tmp_path / "text")


def texts(text: str) -> list[str]:
    return ["--data", *(f"{text}{k}.txt" for k in range(5))]


def of_a_run(folder: Path, words: Tokenizer, text: str) -> Path:
    """One that `train` left."""
    shape = ["--dim", "16", "--layers", "1", "--heads", "2", "--kv-heads", "1", "--ffn", "16"]
    learn = ["--bpe-vocab", "280", *texts(text), *FEW, *LESS]
    assert main(["train", "--run", str(folder / "run"), *shape, *learn]) == 0
    return folder / "run"


def of_fine_tuning(folder: Path, words: Tokenizer, text: str) -> Path:
    """A run that `finetune` left."""
    chats, roles = folder / "chats.jsonl", ("user", "assistant")
    said = [[{"role": r, "content": f"{r[0]} {k}"} for r in roles] for k in range(20)]
    chats.write_text("\n".join(json.dumps({"messages": messages}) for messages in said))
    more = ["--model", str(in_safetensors(folder, words, text)), "--data", str(chats), *FEW]
    questions = ["--questions", "0", "--row", "48", "--lr", "1e-2"]
    assert main(["finetune", "--run", str(folder / "tuned"), *more, *questions]) == 0
    return folder / "tuned"


def in_safetensors(folder: Path, words: Tokenizer, text: str) -> Path:
    """A folder of Hugging Face, in several files."""
    params = init(ln.random.key(1), CONFIG)
    huggingface.save(folder / "theirs", params, CONFIG, words, ln.bfloat16, shard=10_000)
    assert len(list((folder / "theirs").glob("*.safetensors"))) > 2
    return folder / "theirs"


def in_gguf(folder: Path, words: Tokenizer, text: str) -> Path:
    """A GGUF file, quantised."""
    pytest.importorskip("gguf")
    weights.save(folder / "m.gguf", init(ln.random.key(1), CONFIG), CONFIG, words, "q8_0")
    return folder / "m.gguf"


def of_meta(folder: Path, words: Tokenizer, text: str) -> Path:
    """A folder of Meta, in two files."""
    parts = meta_folders.halves(meta_folders.drawn(meta_folders.CONFIG))
    return meta_folders.written(folder / "meta", parts)


@pytest.mark.parametrize(
    "source", [of_a_run, of_fine_tuning, in_safetensors, in_gguf, of_meta],
    ids=lambda source: source.__name__,
)  # fmt: skip
def test_training_begins_with_it_and_goes_on(
    source: Callable[[Path, Tokenizer, str], Path], words: Tokenizer, text: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for command in (train, finetune):
        monkeypatch.setattr(command, "accounted", lambda *_: nullcontext(None))
    path, run = source(tmp_path, words, text), tmp_path / "new"
    model = weights.load(path)
    begin = ["train", "--run", str(run), "--init", str(path), *texts(text), *FEW, *LESS]
    assert main([*begin, "--stop-at", "1"]) == 0
    assert checkpoint.load_settings(checkpoint.newest(run))[0].model == dataclasses.replace(
        model.config, context=24
    )
    first = dict(named(checkpoint.load_params(checkpoint.path_of(run, 0))))
    for name, value in named(model.params):
        np.testing.assert_array_equal(first[name], value, err_msg=name)
    assert main(["train", "--run", str(run), "--resume"]) == 0
    assert [r.step for r in read_log(run / LOG)] == [1, 2, 3]
    after = weights.load(run)
    assert not np.array_equal(after.params["embedding"], model.params["embedding"])
    sample = "line 3: été\n"
    assert after.tokenizer.encode(sample) == model.tokenizer.encode(sample)
    assert after.tokenizer.specials == model.tokenizer.specials
    assert (after.tokenizer.bos, after.tokenizer.eos) == (model.tokenizer.bos, model.tokenizer.eos)
    assert main(["generate", "--model", str(run), "--prompt", "line", "--tokens", "3"]) == 0
    assert "error" not in capsys.readouterr().err
