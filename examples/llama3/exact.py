"""Exact match: does a model write the very answers? (section 5.1: several of its benchmarks count
just that, of greedy text.)"""

from __future__ import annotations

from collections.abc import Sequence

from examples.llama3.chats import Chat
from examples.llama3.config import ModelConfig
from examples.llama3.decode import Decoder, chunks
from examples.llama3.model import Params
from examples.llama3.sampling import GREEDY
from examples.llama3.templates import Template
from examples.llama3.tokenizer import Tokenizer

TOGETHER = 8  # questions that are answered at once


def exact_match(
    params: Params, config: ModelConfig, tokenizer: Tokenizer, template: Template,
    chats: Sequence[Chat],
) -> float:  # fmt: skip
    """The share of chats whose last answer the model writes, but for white space around it."""
    right = 0
    for start in range(0, len(chats), TOGETHER):
        some = chats[start : start + TOGETHER]
        asked = [template.render(chat.question, tokenizer) for chat in some]
        limit = 1 + max(len(tokenizer.encode(chat.answer)) for chat in some)
        found = replies(params, config, asked, limit, template.stops(tokenizer))
        right += sum(
            tokenizer.decode(reply).strip() == chat.answer.strip()
            for reply, chat in zip(found, some, strict=True)
        )
    return right / len(chats)


def replies(
    params: Params, config: ModelConfig, texts: Sequence[Sequence[int]], limit: int,
    stops: frozenset[int],
) -> list[list[int]]:  # fmt: skip
    """What a model writes on greedily from several texts at once, up to a stop or ``limit`` tokens;
    of a text that would not fit into its context, nothing."""
    decoder = Decoder(params, config, len(texts))
    ways, drawn = [GREEDY] * len(texts), [0] * len(texts)
    parts = [list(chunks(text)) for text in texts]
    rounds = max(map(len, parts))
    parts = [[[]] * (rounds - len(mine)) + mine for mine in parts]  # all end together
    written = [decoder.advance(now, ways, drawn) for now in zip(*parts, strict=True)][-1]
    found: list[list[int]] = [[] for _ in texts]
    going = set(range(len(texts)))
    while True:
        for i in sorted(going):
            token = written[i].token
            full = len(decoder.texts[i]) >= config.context or len(found[i]) == limit
            if token in stops or full:
                going.remove(i)
            else:
                found[i].append(token)
        if not going:
            return found
        next = [[found[i][-1]] if i in going else [] for i in range(len(texts))]
        written = decoder.advance(next, ways, drawn)
