"""examples/llama3: chats, LoRA, fine-tuning."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import lantern as ln
from examples.llama3 import __main__ as program
from examples.llama3 import cache as caches
from examples.llama3 import chats, checkpoint, decode, lora, tasks, weights
from examples.llama3 import finetune as tuning
from examples.llama3 import train as training
from examples.llama3.chats import FORMAT, Chat, Rows, held_out
from examples.llama3.commands import finetune as command
from examples.llama3.config import ModelConfig
from examples.llama3.data import NO_TARGET
from examples.llama3.exact import replies
from examples.llama3.files import Problem
from examples.llama3.finetune import Tuned, finetune
from examples.llama3.model import forward, init, loss
from examples.llama3.plot import PLOT
from examples.llama3.progress import LOG, read_log
from examples.llama3.quantise import quantise
from examples.llama3.templates import LLAMA3
from examples.llama3.tokenizer import Bytes
from examples.llama3.weights import Loaded
from tests.memory_use import taking_less_than

TOKENS = Bytes()
CONFIG = ModelConfig(
    vocab=TOKENS.vocab, dim=32, layers=2, heads=4, kv_heads=2, ffn=48, context=64, rope_theta=1e4
)
READ = chats.reader(LLAMA3, TOKENS)


@pytest.fixture(scope="module")
def model() -> Loaded:
    """A tiny one, that knows nothing."""
    return Loaded(init(ln.random.key(3), CONFIG), CONFIG, TOKENS)


@pytest.fixture(scope="module", autouse=True)
def models(model: Loaded) -> Iterator[dict[str, Loaded]]:
    """What is loaded, by the name of the file; and few sizes of programs."""
    models = {"tiny": model}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "load", lambda path, **_: models[path.name])
        patch.setattr(weights, "smollm2", lambda: Path("tiny"))
        patch.setattr(decode, "CHUNKS", (1, 64))
        patch.setattr(caches, "SMALLEST", 64)
        yield models


def line(*contents: str) -> bytes:
    """A chat whose messages are the user's and the assistant's by turns."""
    roles = ("user", "assistant") * len(contents)
    messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
    return json.dumps({"messages": messages}).encode()


def chat(*contents: str) -> Chat:
    return READ(line(*contents))


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


# Chats --------------------------------------------------------------------------------------------


def test_answers_and_their_ends_are_learned() -> None:
    found = chat("Hi!", "Hello.", "What?", "Nothing")
    learned = [t for t, is_one in zip(found.tokens, found.learned, strict=True) if is_one]
    end = TOKENS.special("<|eot_id|>")
    assert learned == [*b"Hello.", end, *b"Nothing", end]
    assert found.answer == "Nothing"
    assert [m["content"] for m in found.question] == ["Hi!", "Hello.", "What?"]


BAD = {
    "no json": "not JSON",
    '{"messages": ': "not JSON",
    "[" * 100_000: "not JSON",
    "\xff": "not JSON",
    "[1, 2]": "no chat",
    '{"text": "a"}': "no chat",
    '{"messages": {}}': "no chat",
    '{"messages": []}': "no message of the assistant",
    '{"messages": [3]}': "message 0 is int",
    '{"messages": [{"role": "user"}]}': "NoneType for its content",
    '{"messages": [{"role": "poet", "content": "a"}]}': "role 'poet'",
    '{"messages": [{"role": "user", "content": "a"}]}': "no message of the assistant",
    "x" * (chats.LONGEST + 7): "more than 1,048,576 bytes",
}


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: f"{bad:.40}")
def test_a_bad_line_is_fatal_or_left_out_and_named(bad: str, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_bytes(
        line("a", "b") + b"\n\n" + bad.encode("latin-1") + b"\n" + line("c", "d") + b"\n"
    )
    with pytest.raises(Problem, match=f"line 3: .*{BAD[bad]}.*--skip-bad-lines"):
        chats.load([path], READ)
    said: list[str] = []
    assert [c.answer for c in chats.load([path], READ, said.append)] == ["b", "d"]
    assert len(said) == 1 and f"{path}, line 3: " in said[0] and BAD[bad] in said[0]


def test_files_without_chats_say_what_a_line_should_be(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text("\n\n")
    with pytest.raises(Problem) as problem:
        chats.load([path], READ)
    assert FORMAT in str(problem.value)
    assert READ(FORMAT.encode()).answer == "…"
    with pytest.raises(Problem, match="cannot read the chats in"):
        chats.load([tmp_path], READ)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "chats.jsonl"


DAMAGE = (b'"', b"[" * 3000, b"\\ud800", b"9" * 5000, b"\n", b"\x00", b"tool", b"1e999")


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_damaged_file_gives_chats_or_says_why_not(fuzzed: Path, data: st.DataObject) -> None:
    good = b"\n".join(line(f"question {i} é", f"answer {i}", "and?", "no") for i in range(6))
    whole = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        size = data.draw(st.integers(0, 30))
        whole[at : at + size] = data.draw(
            st.one_of(st.binary(max_size=30), st.sampled_from(DAMAGE))
        )
    fuzzed.write_bytes(whole)
    said: list[str] = []
    with taking_less_than(100 * len(whole) + 500_000), contextlib.suppress(Problem):
        found = chats.load([fuzzed], READ, said.append)
        assert all(c.learned.any() and len(c.tokens) == len(c.learned) for c in found)
        Rows(found, 64, None).batch(0, 2)
    assert all(f"{fuzzed}, line " in s for s in said)


def test_one_chat_in_each_fraction_is_held_out() -> None:
    some = [chat(str(i), "a") for i in range(10)]
    train, valid = held_out(some, 0.3, 1)
    assert (len(train), len(valid)) == (7, 3)
    assert sorted(c.messages[0]["content"] for c in train + valid) == [str(i) for i in range(10)]
    assert [len(part) for part in held_out(some, 0.0, 1)] == [9, 1]
    with pytest.raises(Problem, match="one chat alone"):
        held_out(some[:1], 0.5, 0)


# Packing ------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), min_size=1, max_size=12),
       st.integers(0, 3))  # fmt: skip
@settings(max_examples=20, deadline=None)
def test_every_chat_is_once_in_an_epoch(sizes: list[tuple[int, int]], epoch: int) -> None:
    some = [chat("q" * q, "a" * a) for q, a in sizes]
    width = max(len(c.tokens) for c in some)
    rows = Rows(some, width, ln.random.key(5))
    batch = rows.batch(epoch * len(rows.rows), len(rows.rows))
    found = []
    for tokens, targets, segments in zip(*batch, strict=True):
        for number in range(int(segments.max()) + 1):
            place = segments == number
            if (targets[place] != NO_TARGET).any():
                found.append((tokens[place].tolist(), targets[place].tolist()))
    wanted = [
        (c.tokens[:-1].tolist(), np.where(c.learned[1:], c.tokens[1:], NO_TARGET).tolist())
        for c in some
    ]
    assert sorted(found) == sorted(wanted)


def test_of_a_long_chat_the_beginning_is_learned() -> None:
    rows = Rows([chat("q", "a" * 90), chat("q", "b")], 60, None)
    assert rows.cut == 1
    assert sum(len(row) for row in rows.rows) == 2
    with pytest.raises(Problem, match="no answer begins within 4 tokens"):
        Rows([chat("q", "a")], 4, None)


def test_chats_in_a_row_do_not_see_each_other(model: Loaded) -> None:
    some = [chat("one", "two"), chat("three?", "four"), chat("f", "six")]
    packed = Rows(some, 100, None)
    assert len(packed.rows) == 1
    nats, known = 0.0, 0
    for one in some:
        (alone,) = Rows([one], 100, None).first(9, 1)
        count = int((alone.targets != NO_TARGET).sum())
        nats, known = nats + count * float(loss(model.params, *alone, CONFIG)), known + count
    (together,) = packed.first(9, 2)
    assert together.tokens.shape == (2, 100)  # one row without targets
    assert float(loss(model.params, *together, CONFIG)) == pytest.approx(nats / known, rel=1e-5)


# LoRA ---------------------------------------------------------------------------------------------


def random_changes(model: Loaded) -> lora.Changes:
    changes = lora.begin(ln.random.key(1), model.params, 3)
    return ln.tree.map(
        lambda x: x + 0.1 * ln.random.normal(ln.random.key(x.size), x.shape), changes
    )


def test_changes_change_nothing_at_first(model: Loaded) -> None:
    tokens = np.arange(10)[None]
    changed = lora.adapt(model.params, lora.begin(ln.random.key(0), model.params, 4), 8.0)
    want = forward(model.params, tokens, CONFIG)
    assert np.array_equal(np.asarray(forward(changed, tokens, CONFIG)), np.asarray(want))


@pytest.mark.parametrize("bits", [32, 8])
def test_merged_weights_give_the_same_logits(model: Loaded, bits: int) -> None:
    params = model.params
    if bits == 8:
        layers = [
            {k: quantise(v, 8, 16) if v.ndim > 1 else v for k, v in layer.items()}
            for layer in params["layers"]
        ]
        params = {**params, "layers": layers}
    changes, tokens = random_changes(model), np.arange(40)[None]
    apart = np.asarray(forward(lora.adapt(params, changes, 6.0), tokens, CONFIG))
    merged = np.asarray(forward(lora.merge(params, changes, 6.0), tokens, CONFIG))
    assert np.abs(apart - np.asarray(forward(model.params, tokens, CONFIG))).max() > 0.01
    np.testing.assert_allclose(apart, merged, atol=2e-6)


def test_the_gradient_is_that_of_the_matrices_through_the_change(model: Loaded) -> None:
    """dL/dB = s dL/dW Aᵀ and dL/dA = s Bᵀ dL/dW, where W is the merged matrix."""
    changes, scale = random_changes(model), 6.0 / 3
    batch = Rows([chat("one", "two")], 40, None).batch(0, 1)
    low = ln.grad(lambda c: loss(lora.adapt(model.params, c, 6.0), *batch, CONFIG))(changes)
    full = ln.grad(lambda p: loss(p, *batch, CONFIG))(lora.merge(model.params, changes, 6.0))
    for layer, gradients, matrices in zip(low, full["layers"], changes, strict=True):
        for name, found in layer.items():
            by, change = np.asarray(gradients[name]), matrices[name]
            for part, want in (("up", by @ np.asarray(change["down"]).T),
                               ("down", np.asarray(change["up"]).T @ by)):  # fmt: skip
                np.testing.assert_allclose(
                    np.asarray(found[part]), scale * want, rtol=1e-3, atol=1e-6
                )


def test_a_rank_beyond_the_matrices_is_refused(model: Loaded) -> None:
    with pytest.raises(Problem, match="--lora is 17; the matrix 'key' is only 16 by 32"):
        lora.begin(ln.random.key(0), model.params, 17)


# Exact match --------------------------------------------------------------------------------------


def test_replies_are_those_of_one_text_at_a_time(model: Loaded) -> None:
    texts = [list(b"a longer text, so that it is read later"[i:]) for i in range(0, 40, 5)]
    params = ln.tree.map(lambda p: 4 * p, model.params)

    def alone(text: list[int]) -> list[int]:
        found: list[int] = []
        for _ in range(5):
            logits = np.asarray(forward(params, np.array([[*text, *found]]), CONFIG))[0, -1]
            found.append(int(logits.argmax()))
        return found

    want = [alone(text) for text in texts]
    assert replies(params, CONFIG, texts, 5, frozenset()) == want
    stop = want[0][3]
    until = [reply[: reply.index(stop)] if stop in reply else reply for reply in want]
    assert replies(params, CONFIG, texts, 5, frozenset({stop})) == until


# Fine-tuning --------------------------------------------------------------------------------------

SHORT: dict[str, Any] = {
    "row": 48, "batch": 16, "lr": 1e-2, "steps": 60, "validate_every": 30, "save_every": 30,
    "questions": 8, "valid_fraction": 0.2, "clip": 1.0,
}  # fmt: skip
BRIEF: dict[str, Any] = {
    **SHORT, "batch": 4, "steps": 5, "save_every": 2, "questions": 0, "eager": True,
}  # fmt: skip
LOW: dict[str, Any] = {"lora": 8, "alpha": 64.0}


def letters(path: Path, s: str, t: str) -> str:
    """Write chats in which the last letter of the question decides."""
    firsts = "abcdefghijklmnopqrstuvwxyzABCDEF"
    path.write_bytes(b"\n".join(line(a + b, {"s": s, "t": t}[b]) for a in firsts for b in "st"))
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return letters(tmp_path_factory.mktemp("chats") / "chats.jsonl", "no", "yes")


class Run(NamedTuple):
    """A run, and what it said."""

    folder: Path
    tuned: Tuned
    said: str


def start(data: str, run: Path, **more: Any) -> Run:
    stop_at, console = more.pop("stop_at", None), Console(file=io.StringIO(), width=200)
    tuned = finetune({**SHORT, "data": (data,), **more}, run, console, stop_at=stop_at)
    assert isinstance(console.file, io.StringIO)
    return Run(run, tuned, console.file.getvalue())


@pytest.fixture(scope="module")
def taught(data: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The tiny model after learning all its parameters."""
    return start(data, tmp_path_factory.mktemp("taught"))


def test_a_tiny_model_learns_a_task(taught: Run, model: Loaded) -> None:
    before, after = taught.tuned.before, taught.tuned.after
    assert after is not None and after.exact is not None
    assert before.exact == 0 and after.exact > 0.9
    assert after.bits_per_byte < 0.1 * before.bits_per_byte
    assert [r.step for r in read_log(taught.folder / LOG)] == list(range(1, 61))
    assert (taught.folder / PLOT).read_bytes().startswith(b"\x89PNG")
    assert str(before) in taught.said and str(after) in taught.said
    asked = Rows([chat("?t", "yes")], 48, None).batch(0, 1)
    assert float(loss(taught.tuned.model.params, *asked, CONFIG)) < 0.5
    assert float(loss(model.params, *asked, CONFIG)) > 4, "what it began with is as it was"


def test_changes_of_low_rank_turn_the_answers_round(
    taught: Run, models: dict[str, Loaded], tmp_path: Path
) -> None:
    models["taught"] = taught.tuned.model
    turned = letters(tmp_path / "chats.jsonl", "yes", "no")
    _, tuned, _ = start(turned, tmp_path / "run", model="taught", **LOW)
    assert tuned.after is not None and tuned.after.exact is not None
    assert tuned.before.exact == 0 and tuned.after.exact > 0.9
    assert tuned.after.bits_per_byte < 0.5 * tuned.before.bits_per_byte
    for name in ("embedding", "norm"):
        assert np.array_equal(tuned.model.params[name], taught.tuned.model.params[name])


def same_curves(*runs: Path) -> None:
    """Two brief runs saw the same losses, bit for bit."""
    curves = [
        [(r.step, r.loss, r.gradient_norm, r.lr) for r in read_log(run / LOG)] for run in runs
    ]
    assert curves[0] == curves[1] and len(curves[0]) == BRIEF["steps"]


@pytest.mark.parametrize("more", [{}, {**LOW, "bf16": True}], ids=["all", "low rank"])
def test_a_resumed_run_is_bit_identical(data: str, tmp_path: Path, more: dict[str, Any]) -> None:
    _, whole, _ = start(data, tmp_path / "whole", **{**BRIEF, **more})
    _, part, _ = start(data, tmp_path / "part", stop_at=3, **{**BRIEF, **more})
    assert part.after is None
    rest = finetune({}, tmp_path / "part", quiet(), resume=True)
    assert rest.after == whole.after
    for a, b in zip(
        ln.tree.leaves(whole.model.params), ln.tree.leaves(rest.model.params), strict=True
    ):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    same_curves(tmp_path / "whole", tmp_path / "part")
    again = finetune({}, tmp_path / "part", quiet(), resume=True)
    assert again.after == whole.after


def test_ctrl_c_keeps_what_was_done(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it steps, where the step ends first, and while it writes answers in the end."""

    def interrupting(function: Callable[..., Any], when: Callable[..., bool]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            if when(*given):
                os.kill(os.getpid(), signal.SIGINT)
            return function(*given)

        return run

    more = {**BRIEF, "questions": 2, "save_every": 100}
    whole = start(data, tmp_path / "whole", **more)
    before, step_of = signal.getsignal(signal.SIGINT), training.step_of
    with monkeypatch.context() as patch:
        patch.setattr(
            training, "step_of",
            lambda *given: interrupting(step_of(*given), lambda state, _: state.step == 2),
        )  # fmt: skip
        assert start(data, tmp_path / "part", **more).tuned.after is None
    assert signal.getsignal(signal.SIGINT) is before
    assert checkpoint.newest(tmp_path / "part").name == "step-0000003.safetensors"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tuning, "matched", interrupting(tuning.matched, lambda *_: True))
        finetune({}, tmp_path / "part", quiet(), resume=True)
    assert checkpoint.newest(tmp_path / "part").name == "step-0000005.safetensors"
    rest = finetune({}, tmp_path / "part", quiet(), resume=True)
    assert (rest.before, rest.after) == (whole.tuned.before, whole.tuned.after)
    same_curves(tmp_path / "whole", tmp_path / "part")


def test_it_goes_on_from_the_newest_checkpoint_that_is_whole(data: str, tmp_path: Path) -> None:
    start(data, tmp_path / "whole", **BRIEF)
    start(data, tmp_path / "part", stop_at=4, **BRIEF)
    damaged = checkpoint.newest(tmp_path / "part")
    damaged.write_bytes(b"\xff" * 8 + damaged.read_bytes()[8:])
    console = quiet()
    finetune({}, tmp_path / "part", console, resume=True)
    assert isinstance(console.file, io.StringIO)
    assert "Going on from the checkpoint before it, step-0000002" in console.file.getvalue()
    same_curves(tmp_path / "whole", tmp_path / "part")


def test_a_full_disk_says_how_to_go_on(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(weights, "save", full)
    with pytest.raises(Problem, match=r"No space.*step-0000005.*finetune --run .* --resume"):
        start(data, tmp_path / "run", **BRIEF)


def test_what_would_not_go_on_the_same_is_refused(tmp_path: Path) -> None:
    data, run = tmp_path / "chats.jsonl", tmp_path / "run"
    letters(data, "no", "yes")
    start(str(data), run, stop_at=1, **BRIEF)
    with pytest.raises(Problem, match="holds a run already"):
        start(str(data), run, **BRIEF)
    with pytest.raises(Problem, match=r"other settings: --lr 0.5 \(the run has 0.01\)"):
        finetune({"lr": 0.5}, run, quiet(), resume=True)
    data.write_bytes(data.read_bytes() + b"\n" + line("x", "y"))
    with pytest.raises(Problem, match="cannot resume: the chats are not those"):
        finetune({}, run, quiet(), resume=True)
    with pytest.raises(Problem, match="no checkpoint in"):
        finetune({}, tmp_path / "nowhere", quiet(), resume=True)


def test_the_command_line_makes_a_task_and_names_a_bad_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "accounted", lambda *_: nullcontext(None))
    monkeypatch.setattr(command, "QUESTIONS", 40)
    run = tmp_path / "run"
    few = ["--steps", "2", "--questions", "0", "--eager", "--row", "64", "--batch", "2"]
    begin = ["finetune", "--run", str(run), "--task", "sort"]
    assert program.main([*begin, "--stop-at", "1", *few]) == 0
    assert f"finetune --run {run} --resume" in capsys.readouterr().out
    assert program.main(["finetune", "--run", str(run), "--resume"]) == 0
    assert "after" in capsys.readouterr().out
    path = tmp_path / "chats.jsonl"
    path.write_bytes(line("a", "b") + b"\nnonsense\n" + line("c", "d"))
    more = ["finetune", "--run", str(run), "--overwrite", "--data", str(path), *few]
    assert program.main(more) == 1
    assert f"{path}, line 2: it is not JSON" in capsys.readouterr().err
    assert program.main([*more, "--skip-bad-lines"]) == 0
    assert f"left out: {path}, line 2: it is not JSON" in capsys.readouterr().out
    assert program.main(["finetune", "--run", str(tmp_path / "other"), *few]) == 1
    assert "--data, or a --task" in capsys.readouterr().err


@pytest.mark.parametrize("task", tasks.TASKS)
def test_tasks_have_right_answers(task: str, tmp_path: Path) -> None:
    tasks.write(tmp_path / "chats.jsonl", task, 200)
    found = chats.load([tmp_path / "chats.jsonl"], READ)
    assert len({c.messages[0]["content"] for c in found}) == 200
    for c in found:
        question = c.messages[0]["content"]
        if task == "sort":
            digits = question.partition(": ")[2].split()
            assert c.answer.split() == sorted(digits, key=int)
        elif task == "spell":
            words = [word.replace("-", "") for word in c.answer.split(" / ")]
            assert question == f"Spell: {' '.join(words)}" and "-" in c.answer
        else:
            a, b = (int(n) for n in question.strip("?").split()[2::2])
            assert c.answer == f"{a} + {b} = {a + b}"
