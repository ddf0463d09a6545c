"""examples/llama3: documents, files of tokens, windows."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import lantern as ln
from examples.llama3 import __main__ as program
from examples.llama3 import documents as sources
from examples.llama3 import shards
from examples.llama3.data import NO_TARGET, Corpus, Joined, Windows
from examples.llama3.documents import Documents, find, split, standard_library
from examples.llama3.files import Problem
from examples.llama3.tokenizer import BytePairs, Bytes


def quiet() -> Console:
    return Console(file=io.StringIO())


def files(folder: Path, *texts: str) -> list[str]:
    """Text files, by name."""
    paths = [folder / f"{i}.txt" for i in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(text.encode())
    return [str(p) for p in paths]


def joined(documents: Documents) -> list[str]:
    """The text of each document, its pieces put together."""
    texts = []
    for piece in documents.pieces():
        if piece.first:
            texts.append("")
        texts[-1] += piece.text
        assert piece.last or piece.text.endswith("\n") or "\n" not in piece.text
    return texts


# Documents --------------------------------------------------------------------------------------


def test_the_standard_library_is_the_default_text() -> None:
    found = standard_library()
    assert found == standard_library()
    names = {p.name for p in found}
    assert {"argparse.py", "typing.py"} <= names
    assert not any({"test", "tests", "site-packages"} & set(p.parts[-4:]) for p in found)
    documents = find(())
    assert len(documents) > 300
    assert (documents.sizes > 0).all()


def test_missing_empty_and_undecodable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"cannot read the data file .*absent\.txt: No such file"):
        find([str(tmp_path / "absent.txt")])
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n")
    with pytest.raises(Problem, match=r"the data file .*empty\.txt is empty \(2 bytes"):
        find([str(empty)])
    broken = tmp_path / "broken.txt"
    broken.write_bytes(b"caf\xe9 au lait")
    with pytest.raises(Problem, match=r"broken\.txt is not UTF-8 text: byte 0xe9 at offset 3"):
        find([str(broken)])


@pytest.mark.parametrize(
    "line", ['{"text": 3}', '{"words": "a"}', "[]", "{", '{"text": "\\ud800"}', "é"]
)
def test_a_line_that_is_no_document_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_bytes(b'{"text": "fine"}\n\n' + line.encode("latin-1") + b"\n")
    with pytest.raises(Problem, match=r"chats\.jsonl, line 3: expected a document"):
        find([str(path)])


def test_lines_of_jsonl_are_documents(tmp_path: Path) -> None:
    texts = ["one\n", "naïve «漢字»", " three"]
    path = tmp_path / "texts.jsonl"
    lines = [json.dumps({"text": texts[0], "from": "a"}), "", json.dumps({"text": "  "})]
    lines += [json.dumps({"text": t}, ensure_ascii=False) for t in texts[1:]]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert joined(find([str(path)])) == texts
    path.write_text(json.dumps({"text": "alone"}))
    with pytest.raises(Problem, match=r"texts\.jsonl holds one document; add others"):
        split(find([str(path)]), 0.1, 0)


@given(
    st.lists(st.text("aé漢\n", min_size=1).filter(str.strip), min_size=1, max_size=3),
    st.integers(1, 9),
    st.floats(0, 0.5),
)
def test_pieces_make_up_the_text_and_so_do_the_halves_of_a_document(
    texts: list[str], block: int, fraction: float
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        documents = find(files(Path(folder), *texts))
        patch.setattr(sources, "BLOCK", block)
        assert joined(documents) == texts
        one = documents.chosen(slice(0, 1))
        before, after = split(one, fraction, 0)
        assert joined(before)[0] + joined(after)[0] == texts[0]


def test_the_split_is_by_document_and_by_seed(tmp_path: Path) -> None:
    documents = find(files(tmp_path, *("x" * (50 + 7 * i) for i in range(40))))
    train_set, valid = split(documents, 0.2, 3)
    assert sorted([*train_set.file, *valid.file]) == list(range(40))
    again = split(documents, 0.2, 3)
    assert list(again[1].file) == list(valid.file)
    assert list(valid.file) != list(split(documents, 0.2, 4)[1].file)
    assert 0.15 < valid.sizes.sum() / documents.sizes.sum() < 0.4
    for n in (2, 3):
        parts = split(documents.chosen(slice(0, n)), 0.01, 0)
        assert all(len(part) for part in parts), "neither side is empty"


def test_one_document_is_cut_at_a_line_end(tmp_path: Path) -> None:
    text = "".join(f"line {i}\n" for i in range(100))
    before, after = split(find(files(tmp_path, text)), 0.1, 0)
    assert joined(before)[0] + joined(after)[0] == text
    assert joined(before)[0].endswith("\n")
    assert 0.05 < after.sizes[0] / len(text) < 0.15


# Files of tokens --------------------------------------------------------------------------------


TEXTS = ("one two\nthree\n" * 3, "«漢字»", "four\n", "five six\nseven")


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_what_is_mapped_is_what_was_encoded(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = Bytes() if kind == "bytes" else BytePairs.train(TEXTS, 264)
    documents = find(files(tmp_path, *TEXTS))
    expected = [[tokens.bos, *tokens.encode(text), tokens.eos] for text in TEXTS]
    for shard, block in ((2**20, 2**20), (12, 2**20), (1, 5)):
        monkeypatch.setattr(shards, "SHARD", shard)
        monkeypatch.setattr(sources, "BLOCK", block)
        folder = tmp_path / f"{shard}"
        shards.write(folder, "training", documents, tokens, quiet())
        corpus = shards.load(folder, "training", tokens)
        if kind == "bytes" or block > 5:  # merges do not reach over the end of a piece
            assert corpus.tokens[0 : len(corpus.tokens)].tolist() == [
                token for text in expected for token in text
            ]
            assert np.diff(corpus.starts).tolist() == [len(e) for e in expected]
        assert tokens.decode(corpus.tokens[0 : len(corpus.tokens)].tolist()) == "".join(TEXTS)
    assert len(shards.files_of(tmp_path / "1", "training")) == 4


def test_a_large_vocabulary_takes_wider_tokens(tmp_path: Path) -> None:
    class Many(Bytes):
        vocab = 2**16 + 1  # type: ignore[assignment]

    documents = find(files(tmp_path, "ab"))
    for tokens, name in ((Bytes(), "uint16"), (Many(), "uint32")):
        shards.write(tmp_path / name, "training", documents, tokens, quiet())
        corpus = shards.load(tmp_path / name, "training", tokens)
        assert corpus.tokens[0:4].dtype == name
        assert corpus.tokens[0:4].tolist() == [256, 97, 98, 257]


def test_encoding_goes_on_with_the_shard_that_was_not_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD", 1)
    documents, out = find(files(tmp_path, *TEXTS)), tmp_path / "out"
    shards.write(out, "training", documents, Bytes(), quiet())
    whole = {p.name: p.read_bytes() for p in out.iterdir()}
    shards.path_of(out, "training", 2).write_bytes(b"torn")
    shards.path_of(out, "training", 3).unlink()
    before = shards.path_of(out, "training", 0).stat().st_mtime_ns
    shards.write(out, "training", documents, Bytes(), quiet())
    assert {p.name: p.read_bytes() for p in out.iterdir()} == whole
    assert shards.path_of(out, "training", 0).stat().st_mtime_ns == before
    (tmp_path / "0.txt").write_text("another text")  # nothing of the old one may stay
    shards.write(out, "training", find(files(tmp_path, "another")), Bytes(), quiet())
    assert shards.load(out, "training", Bytes()).tokens[0:99].tolist() == [256, *b"another", 257]


def test_tokens_that_are_missing_or_from_elsewhere_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD", 1)
    documents, out = find(files(tmp_path, *TEXTS)), tmp_path / "out"
    with pytest.raises(Problem, match=r"training-00000\.tokens is missing"):
        shards.load(out, "training", Bytes())
    shards.write(out, "training", documents, Bytes(), quiet())
    with pytest.raises(Problem, match=r"00000\.tokens was encoded by another tokenizer"):
        shards.load(out, "training", BytePairs.train(TEXTS, 264))
    shards.path_of(out, "training", 1).rename(out / "kept")
    with pytest.raises(Problem, match=r"is shard 2 of the training text, not shard 1"):
        shards.load(out, "training", Bytes())
    (out / "kept").rename(shards.path_of(out, "training", 1))
    shards.path_of(out, "training", 3).unlink()
    with pytest.raises(Problem, match=r"training-00003\.tokens is missing"):
        shards.load(out, "training", Bytes())


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one good file of tokens."""
    folder = tmp_path_factory.mktemp("shard")
    shards.write(folder, "training", find(files(folder, *TEXTS)), Bytes(), quiet())
    return folder


@given(st.data())
def test_damaged_tokens_are_refused(shard: Path, data: st.DataObject) -> None:
    good = shards.path_of(shard, "training", 0).read_bytes()
    how = data.draw(st.sampled_from(["flip", "cut", "grow", "header"]))
    bad = bytearray(good)
    if how == "flip":
        bad[data.draw(st.integers(0, len(bad) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "cut":
        del bad[data.draw(st.integers(0, len(bad) - 1)) :]
    elif how == "grow":
        bad += data.draw(st.binary(min_size=1, max_size=20))
    else:  # a plausible header that promises more, or less
        header = json.loads(good[: shards.HEADER])
        key = data.draw(st.sampled_from(sorted(header)))
        header[key] = data.draw(
            st.one_of(
                st.integers(-(2**70), 2**70), st.text(max_size=3), st.booleans(), st.none()
            ).filter(lambda value: value != header[key])
        )
        bad[: shards.HEADER] = json.dumps(header).encode().ljust(shards.HEADER)
    with tempfile.TemporaryDirectory() as folder:
        shards.path_of(Path(folder), "training", 0).write_bytes(bad)
        with pytest.raises(Problem):
            shards.load(Path(folder), "training", Bytes())


def test_tokenise_writes_what_train_maps(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, text = str(tmp_path / "tokens"), files(tmp_path, "a line of text\n" * 30, "b\n" * 20)
    command = ["tokenise", "--out", out, "--tokenizer", "bytes", "--data", *text]
    assert program.main(command) == 0
    assert f"train --data {out}" in capfd.readouterr().out
    run, tiny = str(tmp_path / "run"), "--dim 16 --heads 2 --kv-heads 1 --ffn 16 --context 8"
    options = [*tiny.split(), "--eager", "--steps", "2", "--batch", "2"]
    assert program.main(["train", "--run", run, "--data", out, *options]) == 0
    assert not (tmp_path / "run" / "tokens").exists()
    assert program.main(["train", "--run", run, "--overwrite", "--data", out, *text]) == 1
    assert "and something else" in capfd.readouterr().err


# Windows ----------------------------------------------------------------------------------------


def test_arrays_end_to_end_read_as_one() -> None:
    parts = [np.arange(3), np.arange(0), np.arange(5) + 3, np.arange(1) + 8]
    whole = Joined.of(parts)
    assert len(whole) == 9
    for a in range(10):
        for b in range(a, 12):
            np.testing.assert_array_equal(whole[a:b], np.arange(9)[a:b])


def corpus_of(lengths: list[int], vocab: int = 50) -> Corpus:
    """Documents of random tokens."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, vocab, sum(lengths)).astype(np.int32)
    return Corpus(tokens, np.cumsum([0, *lengths]), "training")


def test_windows_hold_whole_neighbourhoods_and_no_target_crosses_documents() -> None:
    corpus = corpus_of([10, 5, 30, 1, 20])
    windows = Windows(corpus, 8, None)
    assert windows.per_epoch == 65 // 8
    batch = windows.batch(0, windows.per_epoch)
    np.testing.assert_array_equal(batch.tokens.ravel(), corpus.tokens[: 8 * windows.per_epoch])
    number = np.repeat(np.arange(5), [10, 5, 30, 1, 20])
    np.testing.assert_array_equal(batch.segments.ravel(), number[: 8 * windows.per_epoch])
    following = corpus.tokens[1 : 8 * windows.per_epoch + 1]
    crossing = number[1 : 8 * windows.per_epoch + 1] != number[: 8 * windows.per_epoch]
    np.testing.assert_array_equal(batch.targets.ravel(), np.where(crossing, NO_TARGET, following))


def test_an_epoch_is_a_reordering_and_a_position_fixes_the_batch() -> None:
    corpus = corpus_of([10, 5, 30, 1, 20])
    windows = Windows(corpus, 8, ln.random.key(5))
    n = windows.per_epoch
    first, second = windows.batch(0, n), windows.batch(n, n)
    assert not np.array_equal(first.tokens, second.tokens)
    other = Windows(corpus, 8, ln.random.key(5))
    for position in (n + 1, 2, n - 1):  # any order, across the end of an epoch too
        for a, b in zip(other.batch(position, 3), windows.batch(position, 3), strict=True):
            np.testing.assert_array_equal(a, b)


def test_too_little_text_for_a_sequence_is_explained() -> None:
    with pytest.raises(
        Problem, match=r"too little training text: 2 documents with 8 tokens, .*--context 8 takes 9"
    ):
        Windows(corpus_of([5, 3]), 8, None)
    assert Windows(corpus_of([5, 4]), 8, None).per_epoch == 1
