"""examples/llama3: conversations, and what the terminal makes of lines, commands and Ctrl-C."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import lantern as ln
from examples.llama3.__main__ import main
from examples.llama3.chat import Chat, save
from examples.llama3.commands.models import told
from examples.llama3.config import ModelConfig
from examples.llama3.decode import Written
from examples.llama3.files import Problem
from examples.llama3.generate import Writer
from examples.llama3.sampling import GREEDY, Sampling
from examples.llama3.terminal import COMMANDS, SYMBOLS, Terminal
from examples.llama3.tokenizer import Bytes, Tokenizer
from examples.llama3.tools import CALCULATOR
from examples.llama3.weights import Loaded
from lantern.carbon import Reading
from tests.small_llama import few_programs, lively

WORDS = Bytes()  # it has the special tokens of Llama 3's chats
CONFIG = ModelConfig(
    vocab=WORDS.vocab, dim=16, layers=1, heads=4, kv_heads=2, ffn=24, context=200, rope_theta=1e4
)


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    with few_programs(16, 256):
        yield


@pytest.fixture(scope="module")
def model() -> Loaded:
    """A random one that is not indifferent."""
    return Loaded(lively(CONFIG), CONFIG, WORDS)


class Talk:
    """A chat, and what is seen of it."""

    def __init__(self, model: Loaded, how: Sampling = GREEDY, **more: Any) -> None:
        self.shown, self.notes, self.left = "", [], 10**9
        self.chat = Chat(
            model, how, **{"limit": 12, **more}, show=self.show, note=self.notes.append,
            halted=lambda: self.left <= 0,
        )  # fmt: skip

    def show(self, piece: str) -> None:
        self.shown += piece
        self.left -= 1


def recorded(chat: Chat) -> list[int]:
    """The tokens that the model reads from now on."""
    read: list[int] = []
    advance = chat.writer.decoder.advance
    chat.writer.decoder.advance = lambda parts, *rest: (  # type: ignore[method-assign]
        read.extend(parts[0]) or advance(parts, *rest)
    )
    return read


def said(chat: Chat) -> list[tuple[str, str]]:
    return [(m["role"], m["content"]) for m in chat.messages]


# The conversation ---------------------------------------------------------------------------------


def test_a_reply_is_what_the_model_writes_on_and_only_what_is_new_is_read(model: Loaded) -> None:
    talk = Talk(model, system="Be brief.")
    talk.chat.say("Hi")
    text = model.template.render(talk.chat.messages[:2], WORDS)
    plain = [w.token for w in Writer(model.params, CONFIG).write(text, GREEDY, 12, talk.chat.ends)]
    assert said(talk.chat)[1:] == [("user", "Hi"), ("assistant", talk.shown)]
    assert talk.shown == WORDS.decode(plain)
    read = recorded(talk.chat)
    talk.chat.say("Go on")
    again = model.template.render(talk.chat.messages[:-1], WORDS)
    assert 0 < len(read) < len(again) - len(text) + 2 * 12
    assert talk.chat.writer.decoder.texts[0][: len(again)] == again


def test_seeds_go_on_from_turn_to_turn(model: Loaded) -> None:
    def replies(seed: int) -> list[str]:
        talk = Talk(model, Sampling(1.0, 1.5, seed=seed))
        for _ in range(2):
            talk.chat.reset()
            talk.chat.say("Hi")
            talk.shown += "|"
        return talk.shown.split("|")[:2]

    first = replies(1)
    assert first[0] != first[1], "the same question, drawn anew"
    assert replies(1) == first != replies(2)


def test_a_reply_that_is_stopped_stays_as_far_as_it_came(model: Loaded) -> None:
    whole, talk = Talk(model), Talk(model)
    whole.chat.say("Hi")
    talk.left = 5
    talk.chat.say("Hi")
    content = talk.chat.messages[-1]["content"]
    assert content == talk.shown == whole.shown[: len(content)] != whole.shown
    talk.left, read = 10**9, recorded(talk.chat)
    talk.chat.say("Go on")
    assert [role for role, _ in said(talk.chat)] == ["user", "assistant"] * 2
    assert len(read) < 60


def test_stop_strings_end_a_reply(model: Loaded) -> None:
    whole = Talk(model)
    whole.chat.say("Hi")
    talk = Talk(model, stops=[whole.shown[4:6]])
    talk.chat.say("Hi")
    assert talk.shown == whole.shown[: whole.shown.find(whole.shown[4:6])]


def test_a_full_context_forgets_the_oldest_exchanges(model: Loaded) -> None:
    talk = Talk(model, system="S")
    for i in range(6):
        talk.chat.say(f"message {i}")
    assert any("oldest" in note for note in talk.notes)
    assert said(talk.chat)[0] == ("system", "S")
    assert said(talk.chat)[1][0] == "user" and said(talk.chat)[1][1] != "message 0"
    assert said(talk.chat)[-2] == ("user", "message 5")
    assert len(talk.chat.writer.decoder.texts[0]) <= CONFIG.context


def test_a_reply_that_fills_the_context_goes_on_without_what_is_oldest(model: Loaded) -> None:
    talk = Talk(model, limit=150)
    talk.chat.ends = frozenset()
    talk.chat.say("a" * 20)
    talk.chat.say("b")
    assert len(talk.notes) == 1 and "exchange is forgotten" in talk.notes[0]
    assert said(talk.chat)[0] == ("user", "b")
    assert talk.chat.written == 300
    talk.chat.limit = 999
    talk.chat.say("c")
    assert talk.notes[-1] == "the context is full: the reply ends here"


def test_what_has_no_room_is_refused_and_not_kept(model: Loaded) -> None:
    talk = Talk(model)
    with pytest.raises(Problem, match="context has 200"):
        talk.chat.say("x" * 500)
    assert talk.chat.messages == []
    talk.chat.say("x")


def scripted(chat: Chat, words: Tokenizer, replies: Sequence[str]) -> None:
    """Let the model say what it is told to."""
    left = iter(replies)

    def write(*_: Any) -> Iterator[Written]:
        for token in words.encode(next(left), specials=True):
            yield Written(token, 0.0)

    chat.writer.write = write  # type: ignore[method-assign]


def test_a_model_calls_tools(model: Loaded) -> None:
    talk = Talk(model, tools=[CALCULATOR], limit=100)
    asked = '<|python_tag|>{"name": "calculator", "parameters": {"expression": "6*7"}}'
    object.__setattr__(model.config, "context", 4000)
    try:
        scripted(talk.chat, WORDS, [asked, "42!"])
        talk.chat.say("6*7?")
    finally:
        object.__setattr__(model.config, "context", 200)
    assert said(talk.chat) == [
        ("user", "6*7?"), ("assistant", ""), ("ipython", "42"), ("assistant", "42!")
    ]  # fmt: skip
    assert talk.chat.messages[1]["tool_calls"][0]["name"] == "calculator"
    assert talk.notes == ["42"]


# Files --------------------------------------------------------------------------------------------


def test_chats_are_added_to_a_file(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "é\n\ud800"}, {"role": "assistant", "content": "…"}]
    path = tmp_path / "deep" / "chats.jsonl"
    save(path, chat)
    save(path, chat[:1])
    lines = [json.loads(line)["messages"] for line in path.read_text("utf-8").splitlines()]
    assert [len(m) for m in lines] == [2, 1]
    assert lines[0][1] == chat[1]
    for other in ("text\n", "[1]\n", "3\n", '{"a": 1}\n', "\xff"):
        path.write_text(other, "latin-1")
        with pytest.raises(Problem, match="other than chats"):
            save(path, chat)
        assert path.read_text("latin-1") == other


# The terminal -------------------------------------------------------------------------------------


@pytest.fixture
def held(
    model: Loaded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[Chat, str, str]]:
    """Holds a chat with lines from a pipe; the chat, replies, and remarks."""

    def hold(lines: str, interrupted: int = 0) -> tuple[Chat, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        remarks = io.StringIO()
        terminal = Terminal(Console(file=remarks, width=200))
        pieces = iter(range(1, 10**6))

        def show(piece: str) -> None:
            terminal.show(piece)
            if next(pieces) == interrupted:
                signal.raise_signal(signal.SIGINT)

        chat = Chat(
            model, GREEDY, limit=8, show=show, note=terminal.note, halted=terminal.halted
        )  # fmt: skip
        terminal.hold(chat)
        return chat, capsys.readouterr().out, remarks.getvalue()

    return hold


def test_lines_from_a_pipe_are_answered(held: Any, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    chat, out, remarks = held(
        f"Hi\n\n/system Be kind.\n/save {path}\n/save\n/nix\n/help\n/reset\nBye\n/quit\nno more\n"
    )
    assert said(chat)[:2] == [("system", "Be kind."), ("user", "Bye")]
    first, second = (m["content"] for m in json.loads(path.read_text())["messages"][1:])
    assert first == "Hi"
    assert (
        out == f"{second.translate(SYMBOLS)}\n{chat.messages[-1]['content'].translate(SYMBOLS)}\n"
    )
    for part in (
        "system prompt: Be kind.", "3 messages are saved", "/save needs", "no command /nix",
        "forgotten", *COMMANDS,
    ):  # fmt: skip
        assert part in remarks


def test_ctrl_c_stops_a_reply_and_then_leaves(held: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chat, _, remarks = held("Hi\nGo on\n", interrupted=4)
    assert [role for role, _ in said(chat)] == ["user", "assistant"] * 2
    assert len(chat.messages[1]["content"]) < len(chat.messages[3]["content"])
    assert "stopped; Ctrl-C again" in remarks

    lines: list[Any] = ["Hi", KeyboardInterrupt, "Go on", KeyboardInterrupt, KeyboardInterrupt]

    def typed(prompt: str) -> str:
        if (line := lines.pop(0)) is KeyboardInterrupt:
            raise line
        return line

    monkeypatch.setattr("builtins.input", typed)
    chat, _, remarks = held("")
    assert len(chat.messages) == 4 and not lines
    assert remarks.count("Ctrl-C again") == 2


def test_no_character_steers_the_terminal() -> None:
    every = "".join(map(chr, range(0x3000)))
    shown = every.translate(SYMBOLS)
    assert all(c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160) for c in shown)
    assert shown[160:] == every[160:] and len(shown) == len(every)


# The command --------------------------------------------------------------------------------------


class Measured:
    """A meter that knows what was taken."""

    def __init__(self, **_: Any) -> None: ...

    def __enter__(self) -> Measured:
        return self

    def __exit__(self, *_: Any) -> None: ...

    def read(self) -> Reading:
        return Reading(2.0, 50.0, 0.0123, "estimated: all")


def test_the_command_talks_and_says_what_that_took(
    model: Loaded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("examples.llama3.weights.load", lambda *_, **__: model)
    monkeypatch.setattr("lantern.carbon.Meter", Measured)
    monkeypatch.setattr("sys.stdin", io.StringIO("Hi\n"))
    command = ["chat", "--model", "x", "--system", "S", "--temperature", "0", "--tokens", "8"]
    assert main(command) == 0
    shown = capsys.readouterr()
    talk = Talk(model, system="S", limit=8)
    talk.chat.say("Hi")
    assert shown.out.strip("\n") == talk.shown.translate(SYMBOLS).strip("\n")
    assert "8 tokens written" in shown.err and "50 J, 12.3 mg CO2e (estimated)" in shown.err
    for more, message in ((["--tokens", "0"], "--tokens is 0"), (["--top-p", "2"], "--top-p is")):
        assert main([*command, *more]) == 1
        assert message in capsys.readouterr().err


def test_a_meter_that_cannot_measure_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(**_: Any) -> Any:
        raise ln.errors.MeterError("no codecarbon")

    monkeypatch.setattr("lantern.carbon.Meter", missing)
    with pytest.raises(Problem, match="no codecarbon"), told(Console()):
        pass
