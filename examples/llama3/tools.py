"""Tools that a model may call (section 4.3.5), in the format that Meta published for Llama 3.1.

The system prompt says "Environment: ipython" and names the built-in tools; others are described as
JSON, each with a schema of its arguments. The model answers with text, or with calls:

    <|python_tag|>brave_search.call(query="…")                          a built-in tool
    <|python_tag|>print(6 * 7)                                          the code interpreter
    <|python_tag|>{"type": "function", "name": "…", "parameters": {…}}  any other tool

and ends such a message with <|eom_id|>: the turn goes on. The tools' results come back in messages
of the role ipython, until the model answers the user and ends its turn with <|eot_id|>.

What the model writes is parsed here and never run as code; what a tool may do is its own affair.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from examples.llama3.calculator import calculate
from examples.llama3.files import Problem
from examples.llama3.tokenizer import whole

Message = Mapping[str, Any]
Reply = Callable[[Sequence[Message]], str]

TAG = "<|python_tag|>"
CODE = "code_interpreter"
SEARCHES = ("brave_search", "wolfram_alpha")  # called as name.call(query="…")
ROUNDS = 8  # replies of the model in one turn
LONGEST_RESULT = 10_000  # characters that a tool may answer

# What a schema's types are here.
KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,),
    "array": (list,), "object": (dict,),
}  # fmt: skip


@dataclass(frozen=True)
class Tool:
    """What a model may call.

    Attributes:
        name: by which it is called. ``brave_search``, ``wolfram_alpha`` and ``code_interpreter``
            are those that the model knows without a description; they take a ``query``, or
            ``code``.
        description: what it is good for, for the model to read.
        parameters: a JSON schema of its arguments: ``{"type": "object", "properties": …}``.
        call: computes the result, which is text, from the arguments by name.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    call: Callable[..., str]

    @property
    def built_in(self) -> bool:
        """Whether the model knows it without a description."""
        return self.name in (CODE, *SEARCHES)

    @property
    def definition(self) -> dict[str, Any]:
        """What the model is told about it."""
        about = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": about}

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Compare arguments with the schema.

        Raises:
            Problem: one is missing, unknown, or of another type.
        """
        known: Mapping[str, Any] = self.parameters.get("properties", {})
        expected = f"{self.name} takes {', '.join(known) or 'no arguments'}"
        if missing := [
            name for name in self.parameters.get("required", ()) if name not in arguments
        ]:
            raise Problem(f"{expected}; missing: {', '.join(missing)}")
        if unknown := [name for name in arguments if name not in known]:
            raise Problem(f"{expected}; unknown: {', '.join(unknown)}")
        for name, value in arguments.items():
            schema = known[name]
            kinds = KINDS.get(schema.get("type", ""), (object,))
            fits = isinstance(value, kinds) and (type(value) is not bool or bool in kinds)
            if not fits and object not in kinds:
                raise Problem(f"{expected}; {name} is {value!r:.80}, not of type {schema['type']}")
            if value not in schema.get("enum", [value]):
                raise Problem(f"{expected}; {name} is {value!r:.80}, none of {schema['enum']}")


@dataclass(frozen=True)
class Call:
    """A call of a tool, as the model asks for it.

    Example:
        >>> str(Call("wolfram_alpha", {"query": "100th decimal of pi"}))
        'wolfram_alpha.call(query="100th decimal of pi")'
        >>> str(Call("calculator", {"expression": "6*7"}))
        '{"type": "function", "name": "calculator", "parameters": {"expression": "6*7"}}'
    """

    name: str
    arguments: Mapping[str, Any]

    def __str__(self) -> str:
        if self.name == CODE:
            return str(self.arguments.get("code", ""))
        if self.name in SEARCHES:
            quoted = (f"{k}={quote(str(v))}" for k, v in self.arguments.items())
            return f"{self.name}.call({', '.join(quoted)})"
        asked = {"type": "function", "name": self.name, "parameters": self.arguments}
        return json.dumps(asked, ensure_ascii=False)

    @property
    def message(self) -> dict[str, Any]:
        """As a chat keeps it, in a message's ``tool_calls``."""
        return {"name": self.name, "arguments": self.arguments}


CALCULATOR = Tool(
    "calculator",
    "Computes arithmetic exactly: + - * / // % **, parentheses, and functions such as sqrt and log",
    {
        "type": "object",
        "properties": {
            "expression": {"type": "string", "description": "what to compute, as in (2 + 3) * 4"}
        },
        "required": ["expression"],
    },
    calculate,
)


def converse(
    reply: Reply, messages: Sequence[Message], tools: Sequence[Tool], rounds: int = ROUNDS
) -> Iterator[Message]:
    """Let a model answer, and call tools until it knows what to answer.

    Args:
        reply: gives the model's next message in a chat, ``<|python_tag|>`` included.
        messages: the chat so far.
        tools: what may be called.
        rounds: replies of the model at most.

    Yields:
        The messages that go on with the chat, each as soon as it is there: calls of tools, their
        results, and in the end the answer. What goes wrong with a call is a result too: the model
        may put it right.

    Raises:
        Problem: the model still calls tools in its last round.

    Example:
        >>> replies = iter(['{"name": "calculator", "parameters": {"expression": "6*7"}}', "42!"])
        >>> ask = [{"role": "user", "content": "What is 6 times 7?"}]
        >>> for message in converse(lambda chat: next(replies), ask, [CALCULATOR]):
        ...     print(message["role"], message["content"] or message["tool_calls"])
        assistant [{'name': 'calculator', 'arguments': {'expression': '6*7'}}]
        ipython 42
        assistant 42!
    """
    chat = list(messages)
    for _ in range(rounds):
        text = reply(tuple(chat))
        before = len(chat)
        for message in answered(text, tools):
            chat.append(message)
            yield message
        if len(chat) == before + 1:
            return
    raise Problem(f"the model still calls tools after {rounds} replies")


def answered(text: str, tools: Sequence[Tool]) -> Iterator[Message]:
    """A reply of the model as a message, and the results of what it calls."""
    try:
        made = calls(text)
    except Problem as problem:
        yield {"role": "assistant", "content": text.strip().removeprefix(TAG)}
        yield {"role": "ipython", "content": f"error: {problem}"}
        return
    if not made:
        yield {"role": "assistant", "content": text}
        return
    yield {"role": "assistant", "content": "", "tool_calls": [call.message for call in made]}
    for call in made:
        yield {"role": "ipython", "content": result(call, tools)}


def result(call: Call, tools: Sequence[Tool]) -> str:
    """What a tool answers to a call, or what is wrong with the call."""
    by_name = {tool.name: tool for tool in tools}
    try:
        if call.name not in by_name:
            raise Problem(f"there is no tool {call.name!r:.80}; there are {', '.join(by_name)}")
        by_name[call.name].check(call.arguments)
        found = whole(by_name[call.name].call(**call.arguments))
    except Exception as problem:  # whatever a tool raises, the chat goes on
        kind = "" if isinstance(problem, Problem) else f"{type(problem).__name__}: "
        found = f"error: {kind}{problem}"
    if len(found) > LONGEST_RESULT:
        return (
            f"{found[:LONGEST_RESULT]}\n[{len(found) - LONGEST_RESULT:,} characters are left out]"
        )
    return found


# Reading calls. What begins so is meant as one; if it cannot be read, the model is told why.
MEANT = re.compile(
    r'\[?\s*(\{\s*"type"\s*:\s*"function"|\{\s*"name"\s*:\s*"[^"]*"\s*,\s*"(parameters|arguments)"'
    r"|\w+\.call\([^\n]*$)"
)
SPACE = re.compile(r"[\s,;]*")
NAME = re.compile(r"(\w+)(\.call)?\(")
KEY = re.compile(r"\s*(\w+)\s*=\s*")
END = re.compile(r"\s*([,)])")
STRING = re.compile(r""""((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'""", re.DOTALL)
WORD = re.compile(r"\b(True|False|None)\b")
WORDS = {"True": True, "False": False, "None": None}


def calls(text: str) -> list[Call]:
    """The calls that a reply consists of; none if it is text for the user.

    Understood are JSON, ``name.call(key="value")``, lists of either or of ``name(key="value")``, as
    smaller models write them, and any program after ``<|python_tag|>``.

    Raises:
        Problem: the reply is meant as a call, and malformed.

    Example:
        >>> for call in calls('{"name": "f", "parameters": {"a": 1}}; g.call(query="lanterns")'):
        ...     print(call.name, call.arguments)
        f {'a': 1}
        g {'query': 'lanterns'}
        >>> calls("<|python_tag|>print(6 * 7)")
        [Call(name='code_interpreter', arguments={'code': 'print(6 * 7)'})]
        >>> calls("Call me at noon.")
        []
    """
    text = text.strip()
    tagged = text.startswith(TAG)
    body = text.removeprefix(TAG).strip()
    try:
        return list(Reader(body).calls())
    except Problem:
        if MEANT.match(body):
            raise
        return [Call(CODE, {"code": body})] if tagged else []


class Reader:
    """Reads the calls that a text consists of.

    Args:
        text: the text.
    """

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def calls(self) -> Iterator[Call]:
        """All of them.

        Raises:
            Problem: the text is something else.
        """
        listed = self.take("[")
        while self.skip(SPACE) < len(self.text):
            if listed and self.take("]"):
                self.skip(SPACE)
                break
            yield self.named(listed) if self.text[self.at] != "{" else self.json_call()
        else:
            if listed:
                raise self.wrong("the list of calls has no end")
        if self.at < len(self.text) or not self.text:
            raise self.wrong("expected the end of the message after a call")

    def json_call(self) -> Call:
        """``{"name": …, "parameters": {…}}``."""
        found = self.json()
        name = found.get("name")
        arguments = found.get("parameters", found.get("arguments"))
        if not isinstance(name, str):
            raise self.wrong('the call has no "name" that is text')
        if not isinstance(arguments, dict):
            raise self.wrong(f'the call of {name:.80} has no "parameters" that are an object')
        return self.made(name, arguments)

    def named(self, listed: bool) -> Call:
        """``name.call(key="value", …)``; in a list also ``name(key="value", …)``."""
        found = NAME.match(self.text, self.at)
        if not found or not (listed or found[2]):
            raise self.wrong("expected a call")
        self.at = found.end()
        arguments: dict[str, Any] = {}
        if self.take(")"):
            return self.made(found[1], arguments)
        while True:
            if not (key := KEY.match(self.text, self.at)):
                raise self.wrong('expected an argument as key="value"')
            if key[1] in arguments:
                raise self.wrong(f"the argument {key[1]:.80} is given twice")
            self.at = key.end()
            arguments[key[1]] = self.value()
            if not (end := END.match(self.text, self.at)):
                raise self.wrong("expected a comma or the closing parenthesis")
            self.at = end.end()
            if end[1] == ")":
                return self.made(found[1], arguments)

    def value(self) -> Any:
        """Text in quotes, where a backslash escapes quotes and itself; or a word of Python's; or
        JSON."""
        if found := STRING.match(self.text, self.at):
            self.at = found.end()
            return re.sub(r"\\([\"'\\])", r"\1", found[0][1:-1])
        if found := WORD.match(self.text, self.at):
            self.at = found.end()
            return WORDS[found[0]]
        return self.json()

    def json(self) -> Any:
        """Any value in JSON."""
        try:
            found, self.at = json.JSONDecoder().raw_decode(self.text, self.at)
        except ValueError as problem:  # also numbers of thousands of digits
            raise self.wrong(f"it is no JSON: {problem}") from None
        except RecursionError:
            raise self.wrong("it is nested too deeply") from None
        return found

    def made(self, name: str, arguments: Mapping[str, Any]) -> Call:
        """A call, if its arguments are such as can be written again."""
        try:
            json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode("utf-8")
            name.encode("utf-8")
        except (ValueError, RecursionError):
            raise self.wrong("it has infinite numbers, or halves of characters") from None
        return Call(name, arguments)

    def take(self, mark: str) -> bool:
        """Go past a mark, if it is there."""
        found = self.text.startswith(mark, self.at)
        self.at += len(mark) * found
        return found

    def skip(self, pattern: re.Pattern[str]) -> int:
        """Go past what a pattern matches; where the reader is then."""
        found = pattern.match(self.text, self.at)
        self.at = found.end() if found else self.at
        return self.at

    def wrong(self, what: str) -> Problem:
        """What is wrong with the call, and where."""
        near = self.text[self.at : self.at + 30]
        return Problem(f"malformed call of a tool: {what}; at {near!r}")


def quote(text: str) -> str:
    """Text in double quotes.

    Example:
        >>> print(quote('a "b"'))
        "a \\"b\\""
    """
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
