"""examples/llama3: many requests at once write what each would write alone."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.llama3 import prompts
from examples.llama3.__main__ import main
from examples.llama3.commands import batch, models
from examples.llama3.config import ModelConfig
from examples.llama3.files import Problem
from examples.llama3.generate import Writer
from examples.llama3.model import Params
from examples.llama3.prompts import Prompt, Wish, answer, answered
from examples.llama3.sampling import GREEDY, Sampling
from examples.llama3.serve import Request, Result, Server
from examples.llama3.tokenizer import Bytes
from examples.llama3.weights import Loaded
from tests.small_llama import few_programs, lively

WORDS = Bytes()
CONFIG = ModelConfig(
    vocab=WORDS.vocab, dim=16, layers=2, heads=4, kv_heads=2, ffn=24, context=60, rope_theta=1e4
)


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    with few_programs(8, 128):
        yield


@pytest.fixture(scope="module")
def params() -> Params:
    """Of a random model that is not indifferent."""
    return lively(CONFIG)


@pytest.fixture(scope="module")
def server(params: Params) -> Server:
    """With fewer slots than there are requests."""
    return Server(params, CONFIG, 3, WORDS)


def alone(params: Params, request: Request) -> list[tuple[int, float]]:
    """What a request gets with nobody beside it."""
    written = Writer(params, CONFIG).write(
        request.prompt, request.how, request.count, request.stops
    )
    return [tuple(w) for w in written]


def some(number: int, **more: Any) -> Request:
    """A request of its own length."""
    rng = np.random.default_rng(number)
    prompt = rng.integers(0, 256, [1, 9, 30, 2, 17, 8][number % 6]).tolist()
    return Request(prompt, **{"count": 3 + 5 * (number % 4), **more})


def test_each_request_gets_what_it_gets_alone(params: Params, server: Server) -> None:
    ways = [GREEDY, Sampling(1.0, 1.3, seed=4), Sampling(1.2, 0.7, 20, 0.9, 0.01, seed=9)]
    requests = [some(i, how=ways[i % 3]) for i in range(8)]
    for request, result in zip(requests, server.run(requests), strict=True):
        want = alone(params, request)
        assert result.tokens == [token for token, _ in want]
        np.testing.assert_allclose(result.logprobs, [p for _, p in want], atol=1e-4)
        assert (result.reason, result.text) == ("count", WORDS.decode(result.tokens))
    assert not server.busy


@settings(max_examples=10)
@given(st.permutations(range(6)), st.integers(0, 5), st.integers(1, 6))
def test_what_is_written_depends_on_no_neighbour(
    params: Params, server: Server, order: list[int], late: int, steps: int
) -> None:
    """Bit for bit, whoever comes in which order and whenever."""
    requests = [some(i, how=Sampling(1.0, 1.3, seed=i)) for i in range(6)]
    want = {i: server.run([requests[i]])[0] for i in (order[0], late)}
    ids = {server.submit(requests[i]): i for i in order}
    found = [result for _ in range(steps) for result in server.step()]
    ids[server.submit(requests[late])] = late
    while server.busy:
        found += server.step()
    assert sorted(r.id for r in found) == sorted(ids)
    for result in found:
        if (i := ids[result.id]) in want:
            assert (result.tokens, result.logprobs) == (want[i].tokens, want[i].logprobs)


def test_who_writes_waits_for_a_chunk_and_not_for_a_prompt(server: Server) -> None:
    server.submit(Request([1, 2], count=40))
    server.step()
    server.submit(Request(list(range(41)), count=1))  # five chunks
    (slot,) = server.slots.values()
    for written in range(2, 6):
        assert not server.step()
        assert len(slot.written) == written
    (result,) = server.step()
    assert (len(result.tokens), len(slot.written)) == (1, 6)
    while server.busy:
        server.step()


def test_texts_end_by_tokens_strings_and_the_context(params: Params, server: Server) -> None:
    how = Sampling(temperature=3.0, top_p=1.0)
    request = some(1, count=20, how=how)
    whole = server.run([request])[0]
    token, text = whole.tokens[5], WORDS.decode(whole.tokens)
    string = next(c for c in text[4:] if c != "\ufffd")
    full = Request(list(range(50)), count=100)
    by_token, by_string, by_context, again = server.run([
        Request(request.prompt, how, 20, frozenset({token})),
        Request(request.prompt, how, 20, strings=("never", string)), full, request,
    ])  # fmt: skip
    assert by_token.tokens == whole.tokens[: whole.tokens.index(token)]
    assert by_string.text == text[: text.index(string)]
    assert (by_token.reason, by_string.reason, by_context.reason) == ("stop", "stop", "context")
    assert by_context.tokens == [t for t, _ in alone(params, full)][:11]
    assert again.tokens == whole.tokens


def test_what_cannot_be_served_is_refused(params: Params, server: Server) -> None:
    for request, message in (
        (Request([]), "prompt of 0 tokens"), (Request([1] * 61), "prompt of 61"),
        (Request([1], count=0), "0 tokens"), (Request([1], Sampling(top_p=0.0)), "--top-p"),
    ):  # fmt: skip
        with pytest.raises(Problem, match=message):
            server.submit(request)
    assert not server.busy
    with pytest.raises(Problem, match="slots"):
        Server(params, CONFIG, 0)
    with pytest.raises(Problem, match="tokenizer"):
        Server(params, CONFIG, 1).submit(Request([1], strings=("a",)))


# Files of prompts ---------------------------------------------------------------------------------


def test_prompts_are_read_and_bad_lines_named(params: Params) -> None:
    model, wish = Loaded(params, CONFIG, WORDS), Wish(GREEDY, 7, ("x",))

    def asked(text: str | bytes, jsonl: bool) -> list[Request]:
        data = text if isinstance(text, bytes) else text.encode()
        found = prompts.read(io.BytesIO(data), "f", jsonl)
        return [prompts.request(p, model, wish, "f") for p in found]

    (plain,) = asked("\n{hi} é\r\n", False)
    assert plain == Request(WORDS.begin("{hi} é"), GREEDY, 7, frozenset({WORDS.eos}), ("x",))
    line = {"messages": [{"role": "user", "content": "hi"}], "top_k": 3, "temperature": 1,
            "tokens": 2, "stop": ["y"]}  # fmt: skip
    (own,) = asked(json.dumps(line), True)
    chat = model.template.render(line["messages"], WORDS)
    how = dataclasses.replace(GREEDY, temperature=1, top_k=3)
    assert own == Request(chat, how, 2, model.template.stops(WORDS), ("y",))
    for bad in (
        b"\xff", b"[]", b"{", b"{}", b'{"prompt": 3}', b'{"prompt": "a", "stop": "b"}',
        b'{"prompt": "a", "x": 1}', b'{"prompt": "a", "top_k": true}', b'{"messages": [1]}',
        b'{"prompt": "a", "top_p": 2}', b"[" * 10**5, b" " * (1 << 20) + b"{}",
    ):  # fmt: skip
        with pytest.raises(Problem, match="f, line 2: "):
            asked(b"\n" + bad, True)


def test_answers_are_added_and_not_asked_for_again(tmp_path: Path) -> None:
    asked = [Prompt(1, "a"), Prompt(3, {"prompt": "b"})]
    path = tmp_path / "answers.jsonl"
    assert answered(path, asked) == set()
    row = answer(asked[1], Result(0, [65, 66], [-0.5, -1.0], "AB", "count"), ["A", "B"])
    path.write_text(row)
    assert json.loads(row) == {
        "line": 3, "asked": {"prompt": "b"}, "text": "AB", "end": "count", "tokens": 2,
        "logprobs": [["A", -0.5], ["B", -1.0]],
    }  # fmt: skip
    assert answered(path, asked) == {3}
    for other in ("no JSON", "[]", "3", '{"line": 1, "asked": "b"}', '{"line": 9, "asked": "b"}'):
        path.write_text(row + other)
        with pytest.raises(Problem, match="other than answers"):
            answered(path, asked)


def test_the_command_answers_many_prompts(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.weights, "load", lambda *_, **__: Loaded(params, CONFIG, WORDS))
    monkeypatch.setattr(batch, "told", lambda console: nullcontext(models.Work()))
    (tmp_path / "prompts").write_text("one\ntwo\n\nthree\nfour\n")
    to = tmp_path / "answers"
    command = ["batch", str(tmp_path / "prompts"), "--model", "x", "--out", str(to), "--tokens",
               "5", "--slots", "3"]  # fmt: skip
    assert main(command) == 0
    rows = [json.loads(line) for line in to.read_text().splitlines()]
    assert sorted((r["line"], r["asked"], r["tokens"]) for r in rows) == [
        (1, "one", 5), (2, "two", 5), (4, "three", 5), (5, "four", 5)
    ]  # fmt: skip
    before = to.read_text()
    assert main(command) == 0
    assert to.read_text() == before
