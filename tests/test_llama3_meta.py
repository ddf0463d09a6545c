"""examples/llama3: models in folders of Meta, whole, damaged, and beside Meta's own code."""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lantern as ln
from examples.llama3 import meta, pth_file, weights
from examples.llama3.files import Problem
from examples.llama3.model import forward, rotary
from examples.llama3.stored import interleaved, named
from tests.memory_use import taking_less_than
from tests.meta_folders import (
    CONFIG,
    SHAPE,
    archive,
    drawn,
    halves,
    number,
    pickled,
    text,
    written,
)  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ln.bfloat16])
@pytest.mark.parametrize("split", ["whole", "rows", "columns"])
def test_a_model_is_put_together(tmp_path: Path, split: str, dtype: Any) -> None:
    arrays = drawn(CONFIG, dtype)
    shards = [arrays] if split == "whole" else halves(arrays, split == "columns")
    found = weights.load(written(tmp_path, shards))
    assert found.config == CONFIG
    for name, x in named(found.params):
        expected = arrays[meta.NAMES.spelled(name)].astype(np.float32)
        last = name.rpartition(".")[2]
        x = np.asarray(x)
        if last in ("query", "key"):
            x = interleaved(x, CONFIG.heads if last == "query" else CONFIG.kv_heads)
        np.testing.assert_array_equal(x, expected)
    assert found.tokenizer.decode(found.tokenizer.encode("été")) == "été"
    assert found.template.stops(found.tokenizer) == {257, 264, 265}


def test_tables_with_the_same_numbers_are_one(tmp_path: Path) -> None:
    arrays = drawn(CONFIG)
    arrays["output.weight"] = arrays["tok_embeddings.weight"]
    arrays["rope.freqs"] = np.ones(2, np.float32)
    found = weights.load(written(tmp_path, halves(arrays)))
    assert found.config.tied and "output" not in found.params


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"vision_chunk_size": 448}, "has vision_chunk_size: images"),
        ({"moe_args": {"num_experts": 16}}, "has moe_args: experts"),
        ({"n_layers": "2"}, "has 2 for n_layers; expected int"),
        ({"n_heads": 3}, r"params\.json: --dim 16 over --heads 3"),
        ({"ffn_dim_multiplier": 1e300}, r"1e\+300 for ffn_dim_multiplier"),
        ({"multiple_of": 64}, r"w1\.weight is \(40, 16\); expected \(64, 16\)"),
        ({"n_layers": 3}, r"has no tensor layers\.2\.attention_norm\.weight"),
        ({"vocab_size": -1, "n_kv_heads": None}, r"wk\.weight is \(8, 16\); expected \(16, 16\)"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(
    tmp_path: Path, more: dict[str, Any], said: str
) -> None:
    with pytest.raises(Problem, match=said):
        weights.load(written(tmp_path, [drawn(CONFIG)], **more))


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    one, two = halves(drawn(CONFIG))
    less = {name: a for name, a in two.items() if name != "norm.weight"}
    narrow = {**two, "output.weight": two["output.weight"][:, :8].copy()}
    turned = {**two, "output.weight": two["output.weight"].T}
    for second, said in (
        (less, r"00\.pth and .*01\.pth do not both have a tensor norm\.weight"),
        (narrow, r"01\.pth: .* output\.weight is \(256, 8\), which does not fit \(256, 16\)"),
        (turned, r"01\.pth is damaged: .* numbers are not in order: strides \(1, 16\)"),
    ):
        with pytest.raises(Problem, match=said):
            weights.load(written(tmp_path, [one, second]))
    (tmp_path / "consolidated.00.pth").write_bytes(b"PK")
    with pytest.raises(Problem, match=r"00\.pth is truncated, or no archive"):
        weights.load(tmp_path)
    for path in tmp_path.glob("*.pth"):
        path.unlink()
    with pytest.raises(Problem, match=r"has params\.json, but no consolidated"):
        weights.load(tmp_path)


# Pickles --------------------------------------------------------------------------------------


class Evil:
    """What a pickle may ask for."""

    def __reduce__(self) -> Any:
        return eval, ("__import__('os').abort()",)


NESTED = b"\x80\x02)q\x00" + b"h\x00h\x00\x86q\x00" * 200  # doubled 200 times, if it is written out


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (pickle.dumps({"a": Evil()}, 2), r"asks for __builtin__\.eval; nothing is run"),
        (pickle.dumps({"a": Evil()}, 4), r"asks for builtins\.eval; nothing is run"),
        (pickle.dumps(Path("a"), 2), r"its pickle asks for pathlib\.PosixPath"),
        (pickle.dumps({"a": 1.5}, 2), "has BINFLOAT, which no dictionary of tensors needs"),
        (pickle.dumps({"a": 1}, 2), "a in it is int, not a tensor"),
        (pickle.dumps((), 2), "holds tuple, not a dictionary"),
        (pickle.dumps({(): 1}, 2), "tuple is no name in a dict"),
        (b"", "its pickle: pickle exhausted before seeing STOP"),
        (b"0.", "has POP, which"),
        (b"ca\\o\nb\n.", r"asks for a\\o\.b; nothing is run"),
        (b"}u.", "pop from empty list"),
        (b"\x86.", "it takes more off its stack than there is"),
        (NESTED + b")R.", "it calls what is no function"),
        (NESTED + b".", "holds tuple, not a dictionary"),
        (NESTED + b"}h\x00Ns.", "tuple is no name in a dict"),
    ],
)
def test_a_pickle_is_never_run(tmp_path: Path, program: bytes, said: str) -> None:
    archive(tmp_path / "m.pth", {}, program)
    with pytest.raises(Problem, match=said):
        pth_file.read(tmp_path / "m.pth")


def test_a_few_numbers_do_not_make_many_tensors(tmp_path: Path) -> None:
    a = np.ones(1000, np.float32)
    program = pickled({"a": a})
    tensor = program[program.index(b"ctorch._utils") : -2]
    many = b"\x80\x02}(" + text("a") + tensor + b"q\x00" + b"".join(
        text(str(i)) + b"h\x00" for i in range(9)
    )  # fmt: skip
    archive(tmp_path / "m.pth", {"a": a}, many + b"u.")
    with pytest.raises(Problem, match=r"is damaged: its .* bytes make tensors of 40,000"):
        pth_file.read(tmp_path / "m.pth")
    archive(tmp_path / "m.pth", {"a": a}, program.replace(number(1000), number(1001)))
    with pytest.raises(Problem, match=r"a of shape \(1001,\) is no part of its storage 0"):
        pth_file.read(tmp_path / "m.pth")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model in two files."""
    folder = written(tmp_path_factory.mktemp("whole"), halves(drawn(CONFIG)))
    weights.load(folder)  # what this imports takes memory, too
    return folder


@settings(max_examples=60, deadline=None)
@given(
    where=st.sampled_from(["head", "pickle", "end", "params"]),
    edits=st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=8)), max_size=3),
    kept=st.none() | st.floats(0, 1),
)
def test_a_damaged_folder_is_read_or_refused_within_its_size(
    whole: Path, where: str, edits: list[tuple[int, bytes]], kept: float | None
) -> None:
    path = whole / ("params.json" if where == "params" else "consolidated.00.pth")
    intact = path.read_bytes()
    data = bytearray(intact)
    size = sum(p.stat().st_size for p in whole.iterdir())
    begin, span = {
        "head": (0, 100), "pickle": (40, 4000), "end": (len(data) - 1500, 1500), "params": (0, 180),
    }[where]  # fmt: skip
    for at, new in edits:
        at = begin + at % span
        data[at : at + len(new)] = new
    path.write_bytes(data if kept is None else data[: int(kept * len(data))])
    with taking_less_than(20 * size):
        try:
            weights.load(whole)
        except Problem as problem:
            assert str(whole) in str(problem)
        finally:
            path.write_bytes(intact)


# Beside Meta's own code -----------------------------------------------------------------------


def their_model(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`llama_models.llama3.model`, its layers for many processors being those for one."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("llama_models")

    def linear(inputs: int, outputs: int, **_: Any) -> Any:
        return torch.nn.Linear(inputs, outputs, bias=False)

    modules = {name: types.ModuleType(name) for name in (
        "fairscale", "fairscale.nn", "fairscale.nn.model_parallel",
        "fairscale.nn.model_parallel.initialize", "fairscale.nn.model_parallel.layers",
    )}  # fmt: skip
    ranks, layers = list(modules.values())[-2:]
    vars(ranks).update(get_model_parallel_world_size=lambda: 1)
    vars(layers).update(
        ColumnParallelLinear=linear, RowParallelLinear=linear,
        VocabParallelEmbedding=lambda vocab, dim, **_: torch.nn.Embedding(vocab, dim),
    )  # fmt: skip
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    from llama_models.llama3 import model

    return model


@pytest.mark.peer
def test_logits_beside_metas_own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = their_model(monkeypatch)
    import torch

    torch.manual_seed(0)
    shape = {**SHAPE, "n_heads": 2, "rope_theta": 5e5}
    theirs = model.Transformer(model.ModelArgs(**shape, max_seq_len=32)).eval()
    state = {name: 3 * value for name, value in theirs.state_dict().items()}
    theirs.load_state_dict(state)
    written(tmp_path, [], **shape)
    parts = halves({name: value.numpy() for name, value in state.items()})
    for i, part in enumerate(parts):
        tensors = {name: torch.from_numpy(a) for name, a in part.items()}
        torch.save(tensors, tmp_path / f"consolidated.{i:02}.pth")
    found = weights.load(tmp_path)
    angles = np.angle(theirs.freqs_cis[1].numpy())  # some are scaled, some not, one in between
    np.testing.assert_allclose(rotary(found.config), angles, rtol=1e-5)
    tokens = np.random.default_rng(0).integers(0, 512, (2, 30))
    expected = theirs(torch.from_numpy(tokens), 0).numpy()
    ours = np.asarray(forward(found.params, ln.asarray(tokens), found.config))
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(ours, expected, atol=1e-3)
