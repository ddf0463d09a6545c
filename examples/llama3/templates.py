"""Chats as tokens (section 4.1.1 names the roles and the headers, section 4.3.5 the tools).

A message is a dictionary: ``{"role": "user", "content": "…"}``. Roles are system, user, assistant,
and ipython (or tool) for what a tool answers. An assistant's message may have ``"tool_calls"``:
dictionaries with a ``"name"`` and ``"arguments"``, or with these in a ``"function"``.

What a message says never becomes a special token, whatever it looks like: a user cannot end their
own message and begin the assistant's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from examples.llama3.files import Problem
from examples.llama3.tokenizer import BEGIN, Tokenizer
from examples.llama3.tools import SEARCHES, TAG, Call, Message, Tool

ROLES = {"system": "system", "user": "user", "assistant": "assistant", "ipython": "ipython",
         "tool": "ipython"}  # fmt: skip


class Part(NamedTuple):
    """A piece of a chat: text, or the name of a special token."""

    text: str
    special: bool = False
    learned: bool = False  # written by the assistant


@dataclass(frozen=True)
class Template:
    """How a chat is written. `LLAMA3` and `CHATML` are two.

    Attributes:
        begin: what stands before the first message.
        head: what stands before a message's content; ``{role}`` is its role.
        end: the special token that ends a message.
        tail: what follows it.
        trims: whether white space around a message's content goes.
        system: the system prompt of a chat that has none; none at all if empty.
        endings: further special tokens that end a reply, if the tokenizer has them.
        called: the special token that ends a message that calls tools; without it, the model has
            not been taught to use any.
    """

    begin: tuple[Part, ...]
    head: tuple[Part, ...]
    end: str
    tail: tuple[Part, ...] = ()
    trims: bool = False
    system: str = ""
    endings: tuple[str, ...] = ()
    called: str = ""

    def render(
        self, messages: Sequence[Message], tokenizer: Tokenizer, tools: Sequence[Tool] = (),
        reply: bool = True,
    ) -> list[int]:  # fmt: skip
        """The tokens of a chat.

        A chat's tokens begin with those of each shorter one, rendered for a reply: what is in a
        model's cache stays valid.

        Args:
            messages: the chat.
            tokenizer: of the model.
            tools: what the assistant may call.
            reply: whether the beginning of the assistant's next message follows.

        Raises:
            Problem: a message is malformed, or the tokenizer lacks a special token.
        """
        return self.learned(messages, tokenizer, tools, reply)[0]

    def learned(
        self, messages: Sequence[Message], tokenizer: Tokenizer, tools: Sequence[Tool] = (),
        reply: bool = False,
    ) -> tuple[list[int], list[bool]]:  # fmt: skip
        """The tokens of a chat, and whether each was written by the assistant: what fine-tuning
        learns (section 4.1.3: the loss is on answers only), the end of the answer included."""
        tokens: list[int] = []
        mask: list[bool] = []
        for (special, learned), parts in groupby(
            self.parts(messages, tools, reply), lambda p: (p.special, p.learned)
        ):
            texts = [p.text for p in parts]
            if special:
                more = [tokenizer.special(name) for name in texts]
            else:  # as one: a token may reach over the seam
                more = tokenizer.encode("".join(texts))
            tokens += more
            mask += [learned] * len(more)
        return tokens, mask

    def stops(self, tokenizer: Tokenizer) -> frozenset[int]:
        """The tokens that end a reply."""
        names = (self.end, *self.endings)
        found = {tokenizer.specials[name] for name in names if name in tokenizer.specials}
        return frozenset(found | tokenizer.ends)

    def jinja(self) -> str:
        """The template in the language of `transformers`, which the files of a model carry. It has
        no place for tools; and there, what a message says may become a special token."""
        opened, closed = text_of(self.head).split("{role}")
        content = "message['content']" + " | trim" * self.trims
        end = self.end + text_of(self.tail)
        refused = "{{ raise_exception('tools are not known here') }}{% endif %}"
        usual = say(f"{opened}system{closed}{self.system}{end}") if self.system else ""
        pieces = (
            "{% if tools %}" + refused + say(text_of(self.begin)),
            "{% if not messages or messages[0]['role'] != 'system' %}" + usual + "{% endif %}",
            "{% for message in messages %}{% if message['tool_calls'] %}" + refused,
            say(opened) + "{{ message['role'] }}" + say(closed),
            "{{ " + content + " }}" + say(end) + "{% endfor %}",
            "{% if add_generation_prompt %}" + say(f"{opened}assistant{closed}") + "{% endif %}",
        )
        return "".join(pieces)

    def parts(
        self, messages: Sequence[Message], tools: Sequence[Tool], reply: bool
    ) -> Iterator[Part]:
        """A chat, piece by piece."""
        messages = [self.checked(i, message) for i, message in enumerate(messages)]
        yield from self.begin
        for message in self.prepared(messages, tools):
            mine = message["role"] == "assistant"
            yield from self.header(message["role"])
            calls = message.get("calls")
            end = calling(calls, self.called) if calls else [special(self.end)]
            for part in (Part(message["content"]), *end):
                yield part._replace(learned=mine)
            yield from self.tail
        if reply:
            yield from self.header("assistant")

    def header(self, role: str) -> Iterator[Part]:
        """What stands before a message of a role."""
        for part in self.head:
            yield part._replace(text=part.text.format(role=role))

    def checked(self, number: int, message: Any) -> dict[str, Any]:
        """A message with its role and content as the model knows them.

        Raises:
            Problem: it has none.
        """
        if not isinstance(message, Mapping):
            raise Problem(f"message {number} is {type(message).__name__}, not a dictionary")
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or role not in ROLES:
            raise Problem(f"message {number} has role {role!r}; roles are {', '.join(ROLES)}")
        asked = message.get("tool_calls") or ()
        content = "" if content is None and asked else content
        if not isinstance(content, str):
            raise Problem(
                f"message {number} has {type(content).__name__} for its content, not text"
            )
        if not self.called and (asked or ROLES[role] == "ipython"):
            raise Problem(f"message {number} is about a tool: {UNTAUGHT}")
        if not isinstance(asked, Sequence) or (asked and role != "assistant"):
            raise Problem(
                f"message {number} has tool_calls that are no list, or not the assistant's"
            )
        content = content.strip() if self.trims else content
        return {"role": ROLES[role], "content": content, "calls": [*map(call_of, asked)]}

    def prepared(
        self, messages: list[dict[str, Any]], tools: Sequence[Tool]
    ) -> list[dict[str, Any]]:
        """The chat with its system prompt and what it says of the tools."""
        if tools and not self.called:
            raise Problem(f"the tool {tools[0].name} is of no use: {UNTAUGHT}")
        if self.system and (not messages or messages[0]["role"] != "system"):
            messages = [{"role": "system", "content": self.system}, *messages]
        return announced(messages, tools) if tools else messages


UNTAUGHT = (
    "this model has not been taught to use tools: its chat template, unlike that of Llama 3.1, has "
    "no place for them"
)


def announced(messages: list[dict[str, Any]], tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """A chat that says what may be called: built-in tools in its system prompt, the others, as
    JSON, in a message before all others."""
    given = bool(messages) and messages[0]["role"] == "system"
    environment = ["Environment: ipython"]
    if searches := [tool.name for tool in tools if tool.name in SEARCHES]:
        environment.append(f"Tools: {', '.join(searches)}")
    if given and messages[0]["content"]:
        environment += ["", messages[0]["content"]]
    opening = [{"role": "system", "content": "\n".join(environment)}]
    described = [
        json.dumps(tool.definition, indent=4, ensure_ascii=False)
        for tool in tools
        if not tool.built_in
    ]
    if described:
        asked = (
            "Answer the user's question by making use of the following functions if needed.\n"
            "If none of the function can be used, please say so.\n"
            "Here is a list of functions in JSON format:\n"
        )
        asked += "\n".join(described) + "\n\nReturn function calls in JSON format."
        opening.append({"role": "user", "content": asked})
    return opening + messages[given:]


def calling(calls: Sequence[Call], end: str) -> list[Part]:
    """Calls of tools and the end of their message."""
    return [special(TAG), Part("\n".join(map(str, calls))), special(end)]


def call_of(asked: Any) -> Call:
    """A call of a tool in a message.

    Raises:
        Problem: it is malformed.
    """
    about = asked.get("function", asked) if isinstance(asked, Mapping) else None
    if isinstance(about, Mapping):
        name, arguments = about.get("name"), about.get("arguments")
        if isinstance(name, str) and isinstance(arguments, Mapping):
            return Call(name, arguments)
    raise Problem(f"{asked!r:.80} is no call of a tool with a name and arguments")


def text_of(parts: Sequence[Part]) -> str:
    """Parts of a template as one text, special tokens by name."""
    return "".join(part.text for part in parts)


def say(text: str) -> str:
    """Jinja for a text, which is safe from its rules for white space."""
    return "{{ " + json.dumps(text) + " }}"


def special(name: str) -> Part:
    """A special token of a template."""
    return Part(name, special=True)


CHATML = Template(
    begin=(),
    head=(special("<|im_start|>"), Part("{role}\n")),
    end="<|im_end|>",
    tail=(Part("\n"),),
    system="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    endings=("<|endoftext|>",),
)
LLAMA3 = Template(
    begin=(special(BEGIN),),
    head=(
        special("<|start_header_id|>"), Part("{role}"), special("<|end_header_id|>"), Part("\n\n"),
    ),
    end="<|eot_id|>",
    trims=True,
    endings=("<|eom_id|>",),
    called="<|eom_id|>",
)  # fmt: skip


def known(tokenizer: Tokenizer) -> Template | None:
    """The template that a tokenizer's special tokens are for, if it is known here."""
    for template in (LLAMA3, CHATML):
        needed = {part.text for part in (*template.begin, *template.head) if part.special}
        if {template.end, *needed} <= tokenizer.specials.keys():
            return template
    return None


def of(tokenizer: Tokenizer) -> Template:
    """The template that a tokenizer's special tokens are for.

    Raises:
        Problem: they are for none that is known here.
    """
    if template := known(tokenizer):
        return template
    raise Problem(
        "the model's tokenizer has no special tokens for chats: neither <|start_header_id|>, "
        "<|end_header_id|> and <|eot_id|> of Llama 3 nor <|im_start|> and <|im_end|> of ChatML"
    )
