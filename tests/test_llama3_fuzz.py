"""examples/llama3: damaged files of tokenizers, and chats of any shape, are read or refused.

Whatever a file holds, nothing crashes or hangs, and no more memory is taken than its size warrants.
"""

from __future__ import annotations

import base64
import copy
import json
import resource
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.llama3 import bytelevel, documents, gguf_file, tiktokens, tokenizer, vocabularies
from examples.llama3.files import Problem
from examples.llama3.templates import CHATML, LLAMA3
from examples.llama3.tokenizer import SPECIALS, BytePairs, Bytes, Tokenizer
from examples.llama3.tools import CALCULATOR, TAG
from tests.memory_use import taking_less_than

TEXTS = ["The theme, then: 1234 thermometers!\n\n  été 漢🎉 <|eot_id|>"] * 3
MOST = 100  # bytes of memory for a byte of a file: a small number in a list of JSON takes 16 times
GROWTH = 100 * 2**20  # of the process, which also counts what libraries take
UNIT = 1 if sys.platform == "darwin" else 1024  # of the process's size, as systems give it


@pytest.fixture(scope="module")
def learned() -> Tokenizer:
    """A BPE of a few merges."""
    pytest.importorskip("tokenizers")
    return BytePairs.train(TEXTS, 256 + len(SPECIALS) + 24)


@pytest.fixture(autouse=True)
def process_stays_small() -> Iterator[None]:
    """`tracemalloc` sees Python's memory only."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * UNIT < GROWTH


@contextmanager
def refused_or_within(size: int) -> Iterator[None]:
    """What is done may end in a Problem, and takes so much memory for a file of a size."""
    with taking_less_than(MOST * size + 2**20):
        try:
            yield
        except Problem as problem:
            assert len(str(problem)) < 1500


def use(tokens: Tokenizer) -> None:
    """Do with a tokenizer what a chat does."""
    for text in (TEXTS[0], "", "<|eot_id|>" * 3):
        ids = tokens.encode(text, specials=True)
        assert all(0 <= i < tokens.vocab for i in ids)
        tokens.decode(ids)
    assert tokens.byte_lengths().shape == (tokens.vocab,)


TELLING = st.sampled_from(
    [b"-1", b"9" * 30, b"1e999", b"null", b"true", b"{}", b"[[[[", b'"', b"\\ud800", b"\xff",
     b"\x00", b"\n", b"=", b"\\g<1>", b"(", b"*+", struct.pack("<Q", 2**40), struct.pack("<q", -1)]
)  # fmt: skip
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 12), TELLING | st.binary(max_size=6)),
    min_size=1, max_size=3,
)  # fmt: skip
KEPT = st.sampled_from([1.0, 1.0, 1.0]) | st.floats(0, 1)


def edited(data: bytes, edits: list[tuple[float, int, bytes]], kept: float) -> bytes:
    """Bytes of which some are others, and the end may be missing."""
    changed = bytearray(data)
    for where, cut, new in edits:
        at = int(where * len(changed))
        changed[at : at + cut] = new
    return bytes(changed[: int(kept * len(changed))])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
    | st.sampled_from(["BPE", "ByteLevel", "Split", "Sequence", "NFC", "a b", SPECIALS[0], 2**70]),
    lambda x: st.lists(x, max_size=2) | st.dictionaries(
        st.sampled_from(["type", "content", "id", "special", "pattern", "Regex"]), x, max_size=2
    ),
    max_leaves=4,
)  # fmt: skip


def altered(data: Any, draw: Any) -> Any:
    """A copy of JSON in which one value somewhere is another, or missing, or twice there."""
    data = copy.deepcopy(data)
    at: Any = data
    while True:
        keys = [*at] if isinstance(at, dict) else range(len(at))
        key = draw(st.sampled_from(keys))
        inner = at[key]
        if not isinstance(inner, (dict, list)) or not inner or draw(st.integers(0, 3)) == 0:
            break
        at = inner
    what = draw(st.sampled_from(["replace", "remove", "rename"]))
    if what == "replace":
        at[key] = draw(JSON)
    else:
        value = at.pop(key)
        if what == "rename":
            at.append(value) if isinstance(at, list) else at.update(
                {draw(st.text(max_size=2)): value}
            )
    return data


def damaged(whole: bytes, data: st.DataObject) -> bytes:
    """A JSON file of which a value, or some bytes, are others."""
    if data.draw(st.booleans(), "structure"):
        return json.dumps(altered(json.loads(whole), data.draw)).encode()
    return edited(whole, data.draw(EDITS), data.draw(KEPT))


@pytest.fixture(scope="module")
def folder(learned: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of tokenizers, whole."""
    folder = tmp_path_factory.mktemp("tokenizers")
    ranked = [bytes([b]) for b in range(256)] + [b"th", b"the", b" the"]
    lines = [b"%s %d" % (base64.b64encode(piece), i) for i, piece in enumerate(ranked)]
    (folder / "tokenizer.model").write_bytes(b"\n".join(lines))
    (folder / "vocabulary.gguf").write_bytes(gguf_of(learned))
    for name, kind in (
        ("bpe", learned), ("bytes", Bytes()), ("tiktoken", tiktokens.Tiktokens(ranked)),
    ):  # fmt: skip
        kind.save(folder / name)
    vocabularies.save_for_transformers(learned, folder)
    return folder


@settings(max_examples=40)
@given(name=st.sampled_from([vocabularies.TOKENIZER, vocabularies.SETTINGS]), data=st.data())
def test_tokenizers_of_hugging_face(folder: Path, name: str, data: st.DataObject) -> None:
    path, whole = folder / name, (folder / name).read_bytes()
    try:
        path.write_bytes(damaged(whole, data))
        with refused_or_within(len(whole)):
            use(vocabularies.from_huggingface(folder))
    finally:
        path.write_bytes(whole)


@settings(max_examples=40)
@given(name=st.sampled_from(["bpe", "bytes", "tiktoken"]), data=st.data())
def test_tokenizers_of_our_own(folder: Path, name: str, data: st.DataObject) -> None:
    whole = (folder / name).read_bytes()
    path = folder / "damaged.json"
    path.write_bytes(damaged(whole, data))
    with refused_or_within(len(whole)):
        use(tokenizer.load(path))


@settings(max_examples=40)
@given(edits=EDITS, kept=KEPT)
def test_llama3s_file(folder: Path, edits: Any, kept: float) -> None:
    whole = (folder / "tokenizer.model").read_bytes()
    path = folder / "damaged.model"
    path.write_bytes(edited(whole, edits, kept))
    with refused_or_within(len(whole)):
        use(tiktokens.from_file(path))


@settings(max_examples=60)
@given(edits=EDITS, kept=KEPT)
def test_vocabularies_of_gguf_files(folder: Path, edits: Any, kept: float) -> None:
    whole = (folder / "vocabulary.gguf").read_bytes()
    path = folder / "damaged.gguf"
    path.write_bytes(edited(whole, edits, kept))
    with refused_or_within(len(whole)):
        use(vocabularies.from_gguf(gguf_file.read(path).fields))


def test_the_files_are_read_while_they_are_whole(folder: Path, learned: Tokenizer) -> None:
    fields = gguf_file.read(folder / "vocabulary.gguf").fields
    for again in (vocabularies.from_gguf(fields), vocabularies.from_huggingface(folder)):
        assert again.pieces == learned.pieces and again.specials == learned.specials
        assert again.encode(TEXTS[0]) == learned.encode(TEXTS[0])
    use(tiktokens.from_file(folder / "tokenizer.model"))
    for name in ("bpe", "bytes", "tiktoken"):
        use(tokenizer.load(folder / name))


def gguf_of(tokens: Tokenizer) -> bytes:
    """A GGUF file of nothing but a vocabulary, as the format's description says."""
    data = tokens.huggingface()
    names = {token: name for name, token in tokens.specials.items()}
    words = {token: word for word, token in data["model"]["vocab"].items()} | names

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    def texts(values: list[str]) -> bytes:
        return struct.pack("<IIQ", 9, 8, len(values)) + b"".join(map(text, values))

    kinds = [3 if i in names else 1 for i in range(tokens.vocab)]
    fields = {
        "model": struct.pack("<I", 8) + text("gpt2"),
        "pre": struct.pack("<I", 8) + text("llama-bpe"),
        "tokens": texts([words[i] for i in range(tokens.vocab)]),
        "token_type": struct.pack(f"<IIQ{len(kinds)}i", 9, 5, len(kinds), *kinds),
        "merges": texts([" ".join(pair) for pair in data["model"]["merges"]]),
        "bos_token_id": struct.pack("<II", 4, tokens.bos),
        "eos_token_id": struct.pack("<II", 4, tokens.eos),
    }
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, len(fields))
    return head + b"".join(text(f"tokenizer.ggml.{k}") + v for k, v in fields.items())


@settings(max_examples=40)
@given(edits=EDITS, kept=KEPT)
def test_documents_in_jsonl(folder: Path, edits: Any, kept: float) -> None:
    whole = b"".join(b'{"text": "line %d"}\n' % i for i in range(40))
    path = folder / "documents.jsonl"
    path.write_bytes(edited(whole, edits, kept))
    with refused_or_within(len(whole)):
        found = documents.find([str(path)])
        assert len(list(found.pieces())) == len(found)
        assert all(piece.text.strip() for piece in found.pieces())


MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["system", "user", "assistant", "ipython", "tool"]) | JSON,
        "content": st.text(max_size=5) | st.sampled_from([*SPECIALS, "\ud800"]) | JSON,
        "tool_calls": JSON | st.lists(st.fixed_dictionaries(
            {"name": st.text(max_size=3) | JSON},
            optional={"arguments": st.dictionaries(st.text(max_size=3), JSON, max_size=2) | JSON},
        ), max_size=2),
    },
)  # fmt: skip


@settings(max_examples=80)
@given(st.lists(MESSAGES | JSON, max_size=3), st.booleans())
def test_chats_of_any_shape(messages: list[Any], reply: bool) -> None:
    tokens = Bytes()
    for template, tools in ((LLAMA3, ()), (LLAMA3, (CALCULATOR,)), (CHATML, ())):
        try:
            found, learned = template.learned(messages, tokens, tools, reply)
        except Problem:
            continue
        assert len(found) == len(learned)
        heads = found.count(tokens.special("<|start_header_id|>"))
        ends = [found.count(tokens.special(name)) for name in ("<|eot_id|>", "<|eom_id|>")]
        assert heads == len(messages) + reply + (2 if tools else 0) - (
            1 if tools and messages and messages[0]["role"] == "system" else 0
        )
        assert sum(ends) == heads - reply and found.count(tokens.special(TAG)) == ends[1]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (r"(a+)+b", "fails on this text: Onig: Regex search error: retry-limit-in-match over"),
        (r"(?<x>(?:\g<y>\g<y>)?)(?<y>a?)", "calls parts of itself"),
        ("(" * 9, "the tokenizer cannot be made: "),
        ("a" * 20_000, "an expression of 20,000 characters"),
    ],
)
def test_expressions_that_never_end_are_refused(pattern: str, said: str) -> None:
    pytest.importorskip("tokenizers")
    added = [bytelevel.added_token(256 + i, name, True) for i, name in enumerate(SPECIALS)]
    data = bytelevel.written(bytelevel.byte_of_letter(), [], added, (pattern,), False)
    with pytest.raises(Problem, match=said):
        BytePairs(data, *SPECIALS[:2]).encode("a" * 5000)


def test_tokens_of_immense_numbers_are_refused() -> None:
    data = Bytes().huggingface()
    data["model"]["vocab"]["A"] = 2**40
    with (
        refused_or_within(0),
        pytest.raises(Problem, match="numbers its 263 tokens up to 10995116"),
    ):
        BytePairs(data, *SPECIALS[:2])
