"""examples/llama3: tools that a model may call."""

from __future__ import annotations

import contextlib
import doctest
import itertools
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.llama3 import bytelevel, calculator, tiktokens, tools
from examples.llama3.calculator import calculate
from examples.llama3.files import Problem
from examples.llama3.templates import CHATML, LLAMA3
from examples.llama3.tokenizer import Bytes
from examples.llama3.tools import CALCULATOR, TAG, Call, Message, Tool, calls, converse

BYTES = Bytes()
SEARCH = Tool(
    "brave_search", "", {"properties": {"query": {"type": "string"}}}, lambda query: query
)
SONGS = Tool(
    "trending_songs",
    "Returns the trending songs on a Music site",
    {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "genre": {"enum": ["all", "jazz"]}},
        "required": ["n"],
    },
    lambda n, genre="all": f"{n} songs, {genre}",
)


def read(tokens: Sequence[int]) -> str:
    """A rendered chat with its special tokens' names, as Meta's documents show it."""
    names = {token: name for name, token in BYTES.specials.items()}
    pieces = [BYTES.pieces[t] or names[t].encode() for t in tokens]
    return b"".join(pieces).decode()


@pytest.mark.parametrize("module", [bytelevel, calculator, tools])
def test_examples_in_docstrings(module: Any) -> None:
    failed, tried = doctest.testmod(module)
    assert tried and not failed


# The parser.

CALLS = {
    '{"name": "f", "parameters": {"a": 1}}': [Call("f", {"a": 1})],
    ' {"type": "function", "name": "f",\n"parameters": {}}\n': [Call("f", {})],
    '{"name": "f", "arguments": {"a": null}}': [Call("f", {"a": None})],
    '{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}': [
        Call("f", {}), Call("g", {})
    ],
    '[{"name": "f", "parameters": {}}, {"name": "g", "parameters": {}}]': [
        Call("f", {}), Call("g", {})
    ],
    f'{TAG}brave_search.call(query="latest price of 1oz gold")': [
        Call("brave_search", {"query": "latest price of 1oz gold"})
    ],
    "f.call(a='it\\'s', b=-1.5, c=True, d=[1, {\"e\": null}])": [
        Call("f", {"a": "it's", "b": -1.5, "c": True, "d": [1, {"e": None}]})
    ],
    "f.call()\ng.call( x = 2 )": [Call("f", {}), Call("g", {"x": 2})],
    "[get_weather(city='San Francisco', metric='celsius'), get_weather(city='Seattle')]": [
        Call("get_weather", {"city": "San Francisco", "metric": "celsius"}),
        Call("get_weather", {"city": "Seattle"}),
    ],
    f"{TAG}x = 6\nx.call(7)": [Call("code_interpreter", {"code": "x = 6\nx.call(7)"})],
    r'wolfram_alpha.call(query="\frac{1}{2}")': [Call("wolfram_alpha", {"query": r"\frac{1}{2}"})],
}  # fmt: skip


@pytest.mark.parametrize("text", CALLS)
def test_calls_are_read(text: str) -> None:
    assert calls(text) == CALLS[text]


@pytest.mark.parametrize(
    "text",
    [
        "", "Call me.", "The answer is 4.", '{"name": "Ada", "age": 36}', "[1, 2, 3]", "[]",
        "f(x=1) is a function", '{"a": 1', "{", "[see above] f.call", "[a](b=1)",
        'To call it, write {"name": "f", "parameters": {}}.', "print(6 * 7)",
    ],
)  # fmt: skip
def test_text_is_no_call(text: str) -> None:
    assert calls(text) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"name": "f", "parameters": {"a": 1}', "it is no JSON: Expecting ',' delimiter"),
        ('{"name": "f", "parameters": [1]}', 'the call of f has no "parameters" that are an obj'),
        ('{"type": "function", "parameters": {}}', 'the call has no "name" that is text'),
        ('{"name": "f", "parameters": {}} I wait.', "expected a call; at 'I wait.'"),
        ('[{"name": "f", "parameters": {}}', "the list of calls has no end"),
        ('[{"name": "f", "parameters": {}}] So.', "expected the end of the message"),
        ('brave_search.call("gold")', 'expected an argument as key="value"; at \'"gold")\''),
        ('brave_search.call(query="gold"', "expected a comma or the closing parenthesis"),
        ("f.call(a=1, a=2)", "the argument a is given twice"),
        ("f.call(a=b)", "it is no JSON: Expecting value"),
        ('{"name": "f", "parameters": {"a": 1e999}}', "infinite numbers"),
        ('{"name": "f", "parameters": {"a": "\\ud800"}}', "halves of characters"),
        (f'{{"name": "f", "parameters": {"[" * 100_000}', "nested too deeply"),
        (f'{{"name": "f", "parameters": {{"a": {"9" * 5000}', "it is no JSON"),
    ],
)
def test_malformed_calls_are_explained(text: str, said: str) -> None:
    for tag in ("", TAG):
        with pytest.raises(Problem, match=f"malformed call of a tool: .*{re.escape(said)}"):
            calls(tag + text)


PIECES = st.sampled_from(
    ["{", "}", "[", "]", '"', "'", "\\", ":", ",", "(", ")", "=", "-1", "f", ".call(", "True",
     '"name"', '"parameters"', '"type": "function"', TAG, "\n", " ", "\ud800", "\x00", "é"]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False,
    allow_infinity=False) | st.text(st.characters(codec="utf-8"))  # fmt: skip
JSON = st.recursive(
    SCALARS, lambda x: st.lists(x) | st.dictionaries(st.text("ab"), x), max_leaves=5
)
IDENTIFIERS = st.from_regex(r"[a-z]\w{0,8}", fullmatch=True)


@settings(max_examples=60)
@given(st.lists(PIECES).map("".join) | st.text())
def test_any_text_is_a_call_a_reply_or_explained(text: str) -> None:
    for candidate in (text, TAG + text, '{"name": "f", "parameters": ' + text, f"f.call({text}"):
        try:
            assert all(isinstance(call, Call) for call in calls(candidate))
        except Problem as problem:
            assert len(str(problem)) < 400


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(IDENTIFIERS, st.dictionaries(IDENTIFIERS, JSON, max_size=3)),
        min_size=1,
        max_size=3,
    )
)
def test_what_a_chat_keeps_is_read_again(made: list[tuple[str, dict[str, Any]]]) -> None:
    asked = [Call(name, arguments) for name, arguments in made]
    assert calls(TAG + "\n".join(map(str, asked))) == asked


@given(st.text(st.characters(codec="utf-8")))
def test_a_search_is_read_again(query: str) -> None:
    asked = Call("brave_search", {"query": query})
    assert calls(str(asked)) == [asked]


# The calculator.

NUMBERS = st.integers(-99, 99).map(str) | st.floats(-9, 9).map(lambda x: f"{x:.3f}")
EXPRESSIONS = st.recursive(
    NUMBERS.map(lambda x: f"({x})"),
    lambda e: (
        st.tuples(e, st.sampled_from(["+", "-", "*", "/", "//", "%"]), e).map(
            lambda parts: f"({' '.join(parts)})"
        )
        | st.tuples(e, st.integers(-3, 3)).map(lambda parts: f"({parts[0]} ** {parts[1]})")
    ),
    max_leaves=4,
)


@settings(max_examples=50)
@given(EXPRESSIONS)
def test_arithmetic_is_that_of_python(expression: str) -> None:
    try:
        expected = eval(expression)  # what the strategy above has written
    except ArithmeticError:
        with pytest.raises(Problem, match="cannot be computed"):
            calculate(expression)
    else:
        assert math.isclose(float(calculate(expression)), expected, rel_tol=1e-11)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("9**9**9", "more than 4096 bits"),
        ("(2**4000) * (2**4000)", "more than 4096 bits"),
        ("1 / 0", "division by zero"),
        ("(-8) ** 0.5", "is not a real number"),
        ("exp(1000)", "math range error"),
        ("1e999", "a number on the way is inf"),
        ("sqrt()", "takes exactly one argument"),
        ("sqrt(-1)", "cannot be computed: "),
        ("2 +", "invalid syntax"),
        ("(" * 400, "too many nested parentheses"),
        ("-" * 499 + "1" + "0" * 50, "has 550 characters; 500 are allowed"),
        ("__import__('os').getcwd()", "is no arithmetic; known are numbers, pi, e, sqrt"),
        ("(1).real", "is no arithmetic"),
        ("'a' * 9", "is no arithmetic"),
        ("True + 1", "is no arithmetic"),
        ("[x for x in (1, 2)]", "is no arithmetic"),
        ("round(5, ndigits=-9)", "is no arithmetic"),
        ("round(5, -10**9)", "cannot be computed: "),
        ("1\x00", "null bytes"),
        ("\ud800", "cannot be computed: "),
        ("1,000 + 1", "is no arithmetic"),
    ],
)
def test_the_calculator_says_what_it_cannot_compute(expression: str, said: str) -> None:
    with pytest.raises(Problem, match=re.escape(said)):
        calculate(expression)


@given(st.text(max_size=40) | st.lists(st.sampled_from([*"9(-+*/%^), e", "**", "sqrt(", "max(",
       "if", "lambda:", "not ", "~", "1or "])).map("".join))  # fmt: skip
def test_the_calculator_survives_any_text(text: str) -> None:
    with contextlib.suppress(Problem, OverflowError):  # the latter: whole numbers beyond floats
        assert math.isfinite(float(calculate(text)))


def test_deep_expressions_do_not_overflow() -> None:
    for expression in ("-" * 499 + "1", "1" + "+1" * 249, "abs(" * 90 + "1" + ")" * 90):
        try:
            assert calculate(expression) in ("-1", "250", "1")
        except Problem as problem:
            assert "nested" in str(problem)


# Conversations.


def scripted(*replies: str) -> Any:
    """A model that says what it is told to, and remembers what it was asked."""
    seen: list[Sequence[Message]] = []

    def reply(chat: Sequence[Message]) -> str:
        seen.append(chat)
        return replies[len(seen) - 1]

    return reply, seen


def test_a_conversation_goes_on_until_there_is_an_answer() -> None:
    wrong = Call("calculator", {"expression": "6*"})
    right = Call("calculator", {"expression": "6*7"})
    reply, seen = scripted(TAG + str(wrong), f"{right}\n{right}", "It is 42.")
    ask = [{"role": "user", "content": "What is 6*7?"}]
    found = list(converse(reply, ask, [CALCULATOR]))
    assert [m["role"] for m in found] == [
        "assistant", "ipython", "assistant", "ipython", "ipython", "assistant"
    ]  # fmt: skip
    assert "invalid syntax" in found[1]["content"]
    assert [m["content"] for m in found[3:]] == ["42", "42", "It is 42."]
    assert [*seen[-1], found[-1]] == ask + found
    rendered = read(LLAMA3.render(ask + found, BYTES, [CALCULATOR], reply=False))
    assert (
        f"{TAG}{right}\n{right}<|eom_id|><|start_header_id|>ipython<|end_header_id|>\n\n42<|eot_id|>"
        in (rendered)
    )


def test_rounds_are_bounded() -> None:
    call = str(Call("calculator", {"expression": "1"}))
    with pytest.raises(Problem, match="still calls tools after 3 replies"):
        list(converse(lambda _: call, [], [CALCULATOR], rounds=3))


def fails(n: int) -> str:
    raise KeyError(n)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (Call("f", {}), "error: there is no tool 'f'; there are trending_songs, fails, long"),
        (Call("trending_songs", {}), "error: trending_songs takes n, genre; missing: n"),
        (Call("trending_songs", {"n": 1, "m": 2}), "trending_songs takes n, genre; unknown: m"),
        (Call("trending_songs", {"n": "1"}), "n is '1', not of type integer"),
        (Call("trending_songs", {"n": True}), "n is True, not of type integer"),
        (Call("trending_songs", {"n": 1, "genre": "noise"}), "'noise', none of ['all', 'jazz']"),
        (Call("trending_songs", {"n": 1, "genre": "jazz"}), "1 songs, jazz"),
        (Call("fails", {"n": 1}), "error: KeyError: 1"),
        (Call("long", {}), "x\n[5,000 characters are left out]"),
        ('{"name": "f", "parameters": 1}', "error: malformed call of a tool: the call of f has no"),
    ],
)  # fmt: skip
def test_the_model_is_told_what_comes_of_its_calls(text: Any, said: str) -> None:
    schema = {"properties": {"n": {}}}
    known = [SONGS, Tool("fails", "", schema, fails), Tool("long", "", {}, lambda: "x" * 15_000)]
    _, answer, _ = converse(scripted(str(text), "Oh.")[0], [], known)
    assert answer["role"] == "ipython" and said in answer["content"]


# Templates.


def test_tools_are_announced() -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    shorter = LLAMA3.render(chat, BYTES, [CALCULATOR, SEARCH])
    text = read(shorter)
    assert text.startswith(
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        "Environment: ipython\nTools: brave_search\n\nBe brief.<|eot_id|>"
    )
    assert json.dumps(CALCULATOR.definition, indent=4) in text and '"brave_search"' not in text
    longer = LLAMA3.render(
        [*chat, {"role": "assistant", "content": "Hi"}], BYTES, [CALCULATOR, SEARCH]
    )
    assert longer[: len(shorter)] == shorter


def test_calls_are_learned_with_their_end() -> None:
    chat = [
        {"role": "user", "content": "6*7?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": "f", "arguments": {}}}],
        },
        {"role": "tool", "content": "42"},
    ]
    tokens, learned = LLAMA3.learned(chat, BYTES)
    mine = read([t for t, own in zip(tokens, learned, strict=True) if own])
    assert mine == TAG + '{"type": "function", "name": "f", "parameters": {}}<|eom_id|>'


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            {"role": "user", "content": "", "tool_calls": [{}]},
            "message 0 has tool_calls that are no",
        ),
        ({"role": "assistant", "tool_calls": 3}, "message 0 has tool_calls that are no list"),
        (
            {"role": "assistant", "tool_calls": [{}]},
            "{} is no call of a tool with a name and argum",
        ),
    ],
)
def test_malformed_calls_in_a_chat_are_named(message: Any, said: str) -> None:
    with pytest.raises(Problem, match=re.escape(said)):
        LLAMA3.render([message], BYTES)


def test_smollm2_has_no_place_for_tools() -> None:
    with pytest.raises(Problem, match="the tool calculator is of no use: this model has not been"):
        CHATML.render([], BYTES, [CALCULATOR])
    with pytest.raises(Problem, match="message 0 is about a tool"):
        CHATML.render([{"role": "ipython", "content": "42"}], BYTES)


@pytest.mark.peer
def test_prompts_are_those_that_meta_published() -> None:
    """What stands in llama_models' document of the format, and what its code encodes."""
    package = pytest.importorskip("llama_models")
    document = (Path(package.__file__).parent / "llama3_1/prompt_format.md").read_text()
    blocks = re.findall(r"```\n(.*?)```", document, re.DOTALL)
    prompt, answer = next(p for p in itertools.pairwise(blocks) if "trending_songs" in p[0])
    (described,) = re.findall(r"^\{.*?^\}", prompt, re.DOTALL | re.MULTILINE)
    about = json.loads(described)["function"]
    songs = Tool(about["name"], about["description"], about["parameters"], lambda: "")
    system = re.search(r"Cutting.*?assistant\.", prompt, re.DOTALL)
    assert system
    chat: list[Message] = [
        {"role": "system", "content": system[0]},
        {"role": "user", "content": "Use tools to get latest trending songs"},
    ]
    expected = prompt.replace(described, json.dumps(songs.definition, indent=4))
    expected = expected.replace("\n<|eot_id|>", "<|eot_id|>")  # transformers trims it, too
    assert read(LLAMA3.render(chat, BYTES, [songs])).strip() == expected.strip()
    told = answer.removesuffix("\n").removesuffix("<|eom_id|>")
    assert calls(told) == [Call("trending_songs", {"n": "10", "genre": "all"})]


@pytest.mark.peer
def test_chats_with_tools_are_encoded_as_metas_code_does() -> None:
    format = pytest.importorskip("llama_models.llama3.chat_format")
    types = pytest.importorskip("llama_models.datatypes")
    theirs = pytest.importorskip("llama_models.llama3.tokenizer")
    path = Path(theirs.__file__).with_name("tokenizer.model")
    reference, tokens = format.ChatFormat(theirs.Tokenizer(path)), tiktokens.from_file(path)
    asked = [Call("f", {"a": [1, "b"]}), Call("brave_search", {"query": "gold"})]
    for call in asked:
        chat = [
            {"role": "user", "content": "Go on."},
            {"role": "assistant", "content": "", "tool_calls": [call.message]},
            {"role": "tool", "content": '{"result": 42}'},
        ]
        raw = [types.RawMessage(role="user", content="Go on.")]
        raw += [
            types.RawMessage(
                role="assistant", content="", stop_reason=types.StopReason.end_of_message,
                tool_calls=[
                    types.ToolCall(call_id="1", tool_name=call.name, arguments=call.arguments)
                ],
            ),
            types.RawMessage(role="tool", content='{"result": 42}'),
        ]  # fmt: skip
        ours = LLAMA3.render(chat, tokens)
        tag = tokens.special(TAG)  # which their document has, and their code only before programs
        assert [t for t in ours if t != tag] == reference.encode_dialog_prompt(raw).tokens
        heard = reference.decode_assistant_message_from_content(
            f"{TAG}{call}", types.StopReason.end_of_message
        )
        name = heard.tool_calls[0].tool_name
        name = name if isinstance(name, str) else name.value
        assert Call(name, heard.tool_calls[0].arguments) == call
