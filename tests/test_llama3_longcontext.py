"""examples/llama3: weights of another run, longer contexts, needles in haystacks."""

from __future__ import annotations

import doctest
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import lantern as ln
from examples.llama3 import __main__ as program
from examples.llama3 import checkpoint, longcontext, needle
from examples.llama3 import tokenizer as tokens
from examples.llama3.config import ModelConfig, RopeScaling
from examples.llama3.files import Problem
from examples.llama3.longcontext import lengthen
from examples.llama3.model import forward, init
from examples.llama3.needle import Fact, ask, prompt
from examples.llama3.progress import LOG, read_log
from examples.llama3.tokenizer import Bytes
from examples.llama3.train import train
from examples.llama3.weights import load

MODEL: dict[str, Any] = {
    "dim": 16, "layers": 1, "heads": 2, "kv_heads": 1, "ffn": 16, "context": 16,
}  # fmt: skip
HOW: dict[str, Any] = {
    "batch": 2, "steps": 3, "eager": True, "validation_sequences": 2, "valid_fraction": 0.2,
}  # fmt: skip


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run of a tiny model, and the settings of its data."""
    folder = tmp_path_factory.mktemp("base")
    data = folder / "pairs.jsonl"
    needle.write_text(data, 40, 60)
    about = {**HOW, "data": (str(data),)}
    train(MODEL, {**about, "tokenizer": "bytes"}, folder / "run", quiet())
    return folder / "run", about


# Weights of another run -----------------------------------------------------------------------


def test_a_run_begins_with_the_weights_of_another_and_goes_on(
    base: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    run, about = base
    more = {**about, "init": str(run), "rope_scaling_factor": 4.0}
    stopped = train({"context": 64}, more, tmp_path / "run", quiet(), stop_at=1)
    first = checkpoint.load_params(checkpoint.path_of(tmp_path / "run", 0))
    for a, b in zip(ln.tree.leaves(load(run).params), ln.tree.leaves(first), strict=True):
        np.testing.assert_array_equal(a, b)
    shape = stopped.config.model
    assert shape.context == 64 and shape.rope_scaling == RopeScaling(4.0, original=16)
    assert (shape.dim, shape.layers, shape.vocab) == (16, 1, load(run).config.vocab)
    resumed = train({}, {"init": str(run)}, tmp_path / "run", quiet(), resume=True)
    assert resumed.finished and len(read_log(tmp_path / "run" / LOG)) == 3
    assert load(tmp_path / "run").config == shape


def test_what_does_not_fit_the_weights_is_refused(
    base: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    run, about = base
    with pytest.raises(Problem, match=r"--dim 32 is not the shape of .*, which has 16"):
        train({"dim": 32}, {**about, "init": str(run)}, tmp_path / "run", quiet())
    with pytest.raises(Problem, match="is no model"):
        train({}, {**about, "init": str(tmp_path)}, tmp_path / "run", quiet())
    with pytest.raises(Problem, match="for a model that --init names"):
        train({}, {**about, "rope_scaling_factor": 2.0}, tmp_path / "run", quiet())


# Stages -------------------------------------------------------------------------------------------


def test_stages_follow_each_other_and_are_not_done_twice(
    base: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    run, about = base
    first = next(iter(lengthen(run, 48, about, tmp_path, quiet())))
    assert first.context == 32 and first.found is None
    before = checkpoint.newest(first.run).stat().st_mtime_ns
    stages = list(lengthen(run, 48, about, tmp_path, quiet(), kind="pair"))
    assert [s.context for s in stages] == [32, 48]
    assert checkpoint.newest(first.run).stat().st_mtime_ns == before
    assert stages[0]._replace(found=None) == first
    assert stages[1].before == stages[0].after  # the second begins with what the first has made
    scalings = [load(s.run).config.rope_scaling for s in stages]
    assert scalings == [RopeScaling(3.0, original=16)] * 2  # for the longest, from the start
    assert all(s.found is not None and 0 <= s.found <= 1 for s in stages)
    with pytest.raises(Problem, match="not longer than the 16"):
        list(lengthen(run, 16, about, tmp_path, quiet()))
    with pytest.raises(Problem, match=r"other settings: --lr 0\.5"):
        list(lengthen(run, 48, {**about, "lr": 0.5}, tmp_path, quiet()))


# Needles ------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.integers(40, 200), st.floats(0, 1), st.integers(0, 10), st.booleans(), st.data())
def test_a_prompt_hides_its_needle_where_it_should(
    length: int, depth: float, seed: int, hidden: bool, data: st.DataObject
) -> None:
    words, rng = Bytes(), np.random.default_rng(seed)
    fact = Fact(" It is <Q7>.", " What? It is", " <Q7>.")
    hay = np.frombuffer(("abcdefghij" * 40).encode(), np.uint8).astype(np.int64)
    found = prompt(rng, words, fact, hay, length, depth, hidden)
    assert len(found.tokens) == length and found.tokens[0] == words.bos
    text = words.decode(found.tokens)
    assert text.endswith(fact.question + fact.answer) and found.answer == len(fact.answer)
    body = text[: -len(fact.question + fact.answer)]
    assert body.count(fact.statement) == hidden
    if hidden:
        room = length - 1 - len(fact.statement + fact.question + fact.answer)
        assert body.index(fact.statement) == round(depth * room)
    with pytest.raises(Problem, match="takes -"):
        prompt(rng, words, fact, hay, 20, depth)
    with pytest.raises(Problem, match="give more text"):
        prompt(rng, words, fact, hay, 1000, depth)


def test_an_answer_is_what_greedy_writing_gives() -> None:
    """The most likely tokens, read at once, are those of `forward` place by place."""
    config = ModelConfig(vocab=31, **MODEL)
    params = init(ln.random.key(3), config)
    tokens = np.random.default_rng(0).integers(0, 31, (3, 12))
    expected = np.asarray(forward(params, tokens, config)).argmax(-1)[:, 12 - 4 - 1 : 11]
    for eager in (True, False):
        found = needle.answers(params, config, 4, eager, 1)(tokens)
        np.testing.assert_array_equal(found, expected)


def test_who_finds_is_told_from_who_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that looks a pair up is right, and only where the pair is there; one that always
    says the same is right as often without."""
    words = Bytes()

    def reader(looks: bool) -> Any:
        def answers(params: Any, config: Any, last: int, eager: Any, threads: Any) -> Any:
            def likely(rows: np.ndarray) -> np.ndarray:
                best = rows[:, -last:].copy()
                for k, row in enumerate(rows):
                    text = words.decode(row.tolist())
                    found = re.findall(rf" {text[-2]}(.)", text[:-6]) if looks else ["c"]
                    best[k, -1] = ord(found[0]) if found else 0
                return best

            return likely

        monkeypatch.setattr(needle, "answers", answers)
        config = ModelConfig(vocab=words.vocab, **MODEL)
        hay = needle.haystack_of(words, "pair", "", 100, 0)
        return list(ask({}, config, words, "pair", hay, 60, (0.0, 0.5, 1.0), 40))

    for cell in reader(looks=True):
        assert (cell.length, cell.trials, cell.right, cell.guessed) == (60, 40, 40, 0)
    for cell in reader(looks=False):
        assert cell.right == cell.guessed < 15  # of ten values, one


def test_the_text_asks_only_for_what_was_said(tmp_path: Path) -> None:
    needle.write_text(tmp_path / "a.jsonl", 30, 200, seed=1)
    needle.write_text(tmp_path / "b.jsonl", 30, 200, seed=1)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    texts = [json.loads(line)["text"] for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    asked = 0
    for text in texts:
        for match in re.finditer(r" \?([A-Z]) ([A-Z][a-j])", text):
            asked += 1
            assert match[1] == match[2][0] and f" {match[2]} " in text[: match.start()] + " "
    assert asked > 100
    assert len(texts[0].split()) != len(texts[1].split())


def test_the_command_asks_and_draws(
    base: tuple[Path, dict[str, Any]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["needle", "--out", str(tmp_path), "--model", str(base[0]), "--eager"]
    small = ["--kind", "pair", "--lengths", "24", "16", "--depths", "2", "--trials", "3"]
    assert program.main([*command, *small]) == 0
    assert "without the needle" in capfd.readouterr().out
    lines = (tmp_path / needle.GRID).read_text().splitlines()
    assert lines[0] == "length,depth,trials,right,guessed"
    assert [line.split(",")[:3] for line in lines[1:]] == [
        [length, depth, "3"] for length in ("16", "24") for depth in ("0.0", "1.0")
    ]
    assert (tmp_path / needle.HEATMAP).read_bytes().startswith(b"\x89PNG")
    assert program.main([*command, "--trials", "0"]) == 1
    assert program.main([*command, "--haystack", str(tmp_path / "none")]) == 1
    assert "cannot be read" in capfd.readouterr().err
    write = ["needle", "--write", str(tmp_path / "t.jsonl"), "--documents", "5", "--lengths", "40"]
    assert program.main(write) == 0 and len((tmp_path / "t.jsonl").read_text().splitlines()) == 5


def test_examples() -> None:
    assert not doctest.testmod(longcontext).failed
    assert tokens.Bytes().vocab > 256
