"""examples/treelstm: trees as text and as tables, the network against PyTorch, the program."""

from __future__ import annotations

import doctest
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lantern as ln
from examples.llama3.files import Problem
from examples.treelstm import __main__ as program
from examples.treelstm import data, model, train
from examples.treelstm.data import Node, Tree

SST = Path(__file__).parents[2] / "shared" / "data" / "sst_dev.txt"
SHAPE = model.Shape(words=15, labels=10, hidden=4, embedding=3)
words = st.text("abc'-.", min_size=1, max_size=3)


def nodes() -> st.SearchStrategy[Node]:
    labels = st.integers(0, 4)
    return st.recursive(
        st.builds(Node, labels, words, st.just(())),
        lambda inner: st.builds(Node, labels, st.none(), st.tuples(inner, inner)),
        max_leaves=12,
    )


def test_docstrings() -> None:
    assert doctest.testmod(data).failed == 0


@given(nodes())
def test_trees_are_read_as_they_are_written(node: Node) -> None:
    assert data.parse(data.shown(node)) == node


@given(nodes())
def test_tables_hold_the_tree(node: Node) -> None:
    names = sorted(set(data.leaves(node)))
    tree = data.table(node, {name: i for i, name in enumerate(names)})

    def rebuilt(i: int) -> Node:
        label = int(tree.label[i])
        if tree.left[i] < 0:
            return Node(label, names[tree.word[i]])
        assert max(tree.left[i], tree.right[i]) < i
        return Node(label, None, (rebuilt(int(tree.left[i])), rebuilt(int(tree.right[i]))))

    assert rebuilt(int(tree.root)) == node


def test_deep_trees_need_no_stack() -> None:
    text = "(1 a)"
    node = Node(1, "a")
    for _ in range(5000):
        node = Node(2, None, (node, Node(1, "a")))
        text = f"(2 {text} (1 a))"
    assert len(data.table(data.parse(text), {"a": 1}).label) == 10_001
    assert list(data.leaves(node)) == ["a"] * 5001


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(3 (2 so) (4 good)", r"1 '\)' missing"),
        ("(3 (2 so) (4 good)))", r"'\)' follows the tree"),
        ("3 (2 so)", "'3' stands outside"),
        ("(3 (2 so))", "one word or two trees"),
        ("(3 so good)", "one word or two trees"),
        ("(3 (2 so) good)", "one word or two trees"),
        ("(3 (2 a) (2 b) (2 c))", "one word or two trees"),
        ("(3)", "one word or two trees"),
        ("(5 so)", r"a label from 0 to 4 must follow '\(', not '5'"),
        ("(-1 so)", "not '-1'"),
        ("(so 3)", "not 'so'"),
        ("(", "not ''"),
        (")", r"a '\)' too many"),
        ("()", r"not '\)'"),
    ],
)
def test_what_is_no_tree_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "trees.txt"
    path.write_text(f"(2 fine)\n\n{text}\n(2 fine)\n")
    with pytest.raises(Problem, match=rf"trees.txt, line 3: .*{message}"):
        data.sentiments(path)


def test_missing_and_empty_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"there is no .*train\.txt"):
        data.sentiments(tmp_path)
    path = tmp_path / "trees.txt"
    path.write_text("\n")
    with pytest.raises(Problem, match="holds no tree"):
        data.sentiments(path)
    path.write_text("(2 fine)")
    with pytest.raises(Problem, match="one tree only"):
        data.sentiments(path)
    path.write_bytes(b"(2 \xff)")
    with pytest.raises(Problem, match="is not text"):
        data.sentiments(path)


@pytest.mark.skipif(not SST.exists(), reason="the treebank is not here")
def test_the_treebank_is_read() -> None:
    bank = data.sentiments(SST)
    assert (len(bank.train), len(bank.valid), bank.labels) == (991, 110, 5)
    trees = [*bank.train, *bank.valid]
    lines = SST.read_text().splitlines()
    for tree, line in zip(trees, lines, strict=True):
        leaves = int((tree.left < 0).sum())
        assert len(tree.label) == line.count("(") == 2 * leaves - 1
        assert tree.label[tree.root] == int(line[1])
    first = bank.train[0]
    assert [bank.words[w] for w in first.word if w >= 0][:4] == ["It", "'s", "a", "lovely"]


def test_expressions_are_labelled_with_their_values() -> None:
    bank = data.expressions(20, 5)
    for tree in [*bank.train, *bank.valid]:
        assert 20 <= (tree.left < 0).sum() <= 40
        name, values, value = "", [], {}
        for i, (word, left, right) in enumerate(zip(tree.word, tree.left, tree.right, strict=True)):
            if left < 0:
                name, values = bank.words[word], []
                text = name
                value[i] = (name, []) if name in data.OPERATIONS else (None, int(name))
            else:
                text, values = value[left]
                values = [*values, tree.label[right]]
                value[i] = (text, values)
            operation, found = value[i]
            expected = data.OPERATIONS[operation](found) if operation else found
            assert tree.label[i] == expected


def in_numpy(params: dict[str, Any], tree: Tree) -> tuple[float, int]:
    """The loss and the hits of a tree, node by node."""
    p = {name: np.asarray(x, np.float64) for name, x in params.items()}
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    states, loss, hits = [], 0.0, 0
    for word, left, right, label in zip(*tree[1:], strict=True):
        if left < 0:
            i, o, u = np.split(p["words"][word] @ p["leaf"] + p["leaf_bias"], 3)
            c = sigmoid(i) * np.tanh(u)
        else:
            (h1, c1), (h2, c2) = states[left], states[right]
            i, f1, f2, o, u = np.split(h1 @ p["left"] + h2 @ p["right"] + p["bias"], 5)
            c = sigmoid(i) * np.tanh(u) + sigmoid(f1) * c1 + sigmoid(f2) * c2
        h = sigmoid(o) * np.tanh(c)
        scores = h @ p["label"] + p["label_bias"]
        loss += np.log(np.exp(scores).sum()) - scores[label]
        hits += int(scores.argmax() == label)
        states.append((h, c))
    return loss, hits


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_the_network_is_what_its_equations_say(seed: int) -> None:
    tree = data.expressions(1, 1, seed).train[0]
    params = model.init(ln.random.key(seed), SHAPE)
    root = model.encode(params, tree)
    loss, hits = in_numpy(params, tree)
    assert float(root.loss) == pytest.approx(loss, rel=1e-4)
    assert int(root.hits) == hits


def test_one_program_serves_all_trees_and_its_gradient_is_right() -> None:
    bank = data.expressions(4, 1)
    params = ln.tree.map(lambda x: ln.astype(x, ln.float64), model.init(ln.random.key(1), SHAPE))
    step = ln.compile(ln.value_and_grad(lambda params, tree: model.encode(params, tree).loss))
    for tree in bank.train:
        value, gradient = step(params, tree)
        eager = ln.grad(lambda params, tree=tree: model.encode(params, tree).loss)(params)
        for name in params:
            np.testing.assert_allclose(gradient[name], eager[name], rtol=1e-9, atol=1e-9)
        direction = {k: np.random.default_rng(0).normal(size=x.shape) for k, x in params.items()}
        ends = [
            in_numpy({k: np.asarray(x) + e * direction[k] for k, x in params.items()}, tree)[0]
            for e in (1e-5, -1e-5)
        ]
        slope = sum(float(np.sum(np.asarray(gradient[k]) * direction[k])) for k in params)
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5)
        assert float(value) == pytest.approx(in_numpy(params, tree)[0])
    assert step.specializations == 1


SMALL = ["--hidden", "8", "--embedding", "4", "--trees", "30", "--batch", "5"]


def test_the_program_learns_and_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert program.main([*SMALL, "--epochs", "3", "--run", str(tmp_path)]) == 0
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert set(ln.io.load(tmp_path / "params.safetensors")) >= {"words", "left", "right"}
    said = capsys.readouterr().out
    assert "30 to learn from" in said and "90/90 trees" in said and "of roots" in said


def test_the_loss_falls() -> None:
    from rich.console import Console

    bank = data.expressions(30, 5)
    how = train.Settings(epochs=8, batch=4, hidden=8, embedding=4)
    outcome = train.train(bank, how, Console(quiet=True))
    assert outcome.finished and len(outcome.losses) == 60
    assert outcome.losses[-1][1] < 0.9 * outcome.losses[0][1]
    assert all(0 <= s.roots <= 1 and 0 <= s.nodes <= 1 for _, s in outcome.scores)


def test_an_interrupt_keeps_what_was_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    show = train.Display.show

    def interrupted(self: Any, done: int, **numbers: float) -> None:
        show(self, done, **numbers)
        if done == 5:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train.Display, "show", interrupted)
    assert program.main([*SMALL, "--run", str(tmp_path)]) == program.INTERRUPTED
    assert (tmp_path / "params.safetensors").exists() and (tmp_path / "curves.png").exists()


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--sst", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err == f"error: there is no {tmp_path / 'none'}\n"
