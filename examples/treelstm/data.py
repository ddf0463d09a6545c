"""Trees with a label at every node: read from text, or made up.

A tree is a table with a row a node, children before their parent: the node's word, the rows of its
children, its label. A leaf has children -1, an inner node has word -1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from examples.llama3.files import Problem

Table = Any  # (nodes,) int64: an array of NumPy here, a Tensor in the network
UNKNOWN = "<unknown>"


class Tree(NamedTuple):
    """A binary tree: the row of its root, and four tables with an entry a node."""

    root: Any
    word: Table
    left: Table
    right: Table
    label: Table


class Node(NamedTuple):
    """A tree while it is read: a label, and a word or two children."""

    label: int
    word: str | None = None
    children: tuple[Node, Node] | tuple[()] = ()


class Treebank(NamedTuple):
    """Trees and what their numbers mean.

    Attributes:
        train: trees to learn from.
        valid: trees to measure on.
        words: by number; the first stands for those that no tree to learn from holds.
        labels: how many.
    """

    train: list[Tree]
    valid: list[Tree]
    words: list[str]
    labels: int


def table(node: Node, numbers: dict[str, int]) -> Tree:
    """The table of a tree; words without a number are 0.

    Example:
        >>> tree = table(Node(3, None, (Node(2, "so"), Node(4, "good"))), {"good": 1})
        >>> print(*tree)
        2 [ 0  1 -1] [-1 -1  0] [-1 -1  1] [2 4 3]
    """
    rows: list[tuple[int, int, int, int]] = []
    done: list[int] = []  # rows of subtrees that wait for their parent
    waiting = [(node, False)]
    while waiting:  # a stack of our own: trees may be deeper than Python's
        node, ready = waiting.pop()
        if node.children and not ready:
            waiting += [(node, True), (node.children[1], False), (node.children[0], False)]
            continue
        if ready:
            right, left = done.pop(), done.pop()
            rows.append((-1, left, right, node.label))
        else:
            rows.append((numbers.get(node.word or "", 0), -1, -1, node.label))
        done.append(len(rows) - 1)
    return Tree(np.int64(len(rows) - 1), *np.asarray(rows, np.int64).T.copy())


# The Stanford Sentiment Treebank (Socher et al., 2013): (3 (2 It) (4 (2 is) (4 good))) ------------

SENTIMENTS = 5
TOKEN = re.compile(r"[()]|[^\s()]+")


def parse(text: str, labels: int = SENTIMENTS, place: str = "a tree") -> Node:
    """A binary tree written as nested parentheses, each a label and then a word or two trees.

    Args:
        text: one tree.
        labels: how many there are, from 0.
        place: where the text stands, for errors.

    Raises:
        Problem: it is no such tree.

    Example:
        >>> parse("(3 (2 so) (4 good))").children[1]
        Node(label=4, word='good', children=())
    """

    def wrong(what: str) -> Problem:
        return Problem(f"{place}: {what}")

    tokens = TOKEN.findall(text)
    open_: list[tuple[int, list[Node | str]]] = []  # labels and parts of what is not closed yet
    for at, token in enumerate(tokens):
        if token == "(":
            label = tokens[at + 1] if at + 1 < len(tokens) else ""
            if not label.isdecimal() or int(label) >= labels:
                raise wrong(f"a label from 0 to {labels - 1} must follow '(', not {label!r}")
            open_.append((int(label), []))
        elif token != ")":
            if not open_:
                raise wrong(f"{token!r} stands outside of parentheses")
            if tokens[at - 1] != "(":  # else it is the label
                open_[-1][1].append(token)
        else:
            if not open_:
                raise wrong("a ')' too many")
            node = closed(*open_.pop())
            if node is None:
                raise wrong("in parentheses there must be a label and then one word or two trees")
            if open_:
                open_[-1][1].append(node)
            elif at + 1 < len(tokens):
                raise wrong(f"{tokens[at + 1]!r} follows the tree")
            else:
                return node
    raise wrong(f"{len(open_)} ')' missing" if open_ else "nothing there")


def closed(label: int, parts: list[Node | str]) -> Node | None:
    """The node of a label and what follows it, if that is one word or two trees."""
    match parts:
        case [str() as word]:
            return Node(label, word)
        case [Node() as left, Node() as right]:
            return Node(label, None, (left, right))
        case _:
            return None


def read(path: Path) -> list[Node]:
    """The trees of a file, one a line; empty lines are passed over.

    Raises:
        Problem: there is no such file, no tree in it, or a line that is none; with its number.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise Problem(f"there is no {path}") from None
    except UnicodeDecodeError as problem:
        raise Problem(f"{path} is not text: {problem}") from None
    nodes = [
        parse(line, place=f"{path}, line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not nodes:
        raise Problem(f"{path} holds no tree")
    return nodes


def sentiments(path: Path) -> Treebank:
    """The treebank in a folder with ``train.txt`` and ``dev.txt``, or in a single file, whose last
    tenth is then held out.

    Raises:
        Problem: a file is missing or not in order.
    """
    if path.is_dir():
        train, valid = read(path / "train.txt"), read(path / "dev.txt")
    else:
        nodes = read(path)
        held = max(1, len(nodes) // 10)
        train, valid = nodes[:-held], nodes[-held:]
        if not train:
            raise Problem(f"{path} holds one tree only; it takes one to learn from and one to test")
    return treebank(train, valid, SENTIMENTS)


def treebank(train: Sequence[Node], valid: Sequence[Node], labels: int) -> Treebank:
    """Number the words of the trees to learn from, and make tables of all."""
    words = [UNKNOWN, *sorted({word for node in train for word in leaves(node)})]
    numbers = {word: i for i, word in enumerate(words)}
    learnt, held = ([table(node, numbers) for node in nodes] for nodes in (train, valid))
    return Treebank(learnt, held, words, labels)


def leaves(node: Node) -> Iterator[str]:
    """The words of a tree, from left to right."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node.word is not None:
            yield node.word
        waiting += reversed(node.children)


# ListOps (Nangia, Bowman, 2018): [MAX 2 9 [MIN 4 7]] is 9 -----------------------------------------

DIGITS = 10
OPERATIONS: dict[str, Callable[[list[int]], int]] = {  # and what each makes of nothing
    "MIN": lambda values: min(values, default=DIGITS - 1),
    "MAX": lambda values: max(values, default=0),
    "MED": lambda values: sorted(values)[len(values) // 2] if values else 0,
    "SM": lambda values: sum(values) % DIGITS,
}


def expression(rng: np.random.Generator, leaves: int) -> Node:
    """A random expression of so many digits and operators.

    It is written so that each step adds one argument, (((MAX 2) 9) (MIN 4 7)), and the label of a
    node is the value of what has been added up to there.
    """
    if leaves == 1:
        digit = int(rng.integers(DIGITS))
        return Node(digit, str(digit))
    name = list(OPERATIONS)[rng.integers(len(OPERATIONS))]
    values: list[int] = []
    node, left = Node(OPERATIONS[name]([]), name), leaves - 1
    while left > 0:
        size = int(rng.integers(1, left + 1))
        argument = expression(rng, size)
        left -= size
        values.append(argument.label)
        node = Node(OPERATIONS[name](values), None, (node, argument))
    return node


def expressions(train: int = 3000, valid: int = 300, seed: int = 0) -> Treebank:
    """ListOps expressions of 20 to 40 leaves."""
    rng = np.random.default_rng(seed)
    nodes = [expression(rng, int(rng.integers(20, 41))) for _ in range(train + valid)]
    return treebank(nodes[:train], nodes[train:], DIGITS)


def shown(node: Node) -> str:
    """A tree as text that `parse` reads."""
    if node.word is not None:
        return f"({node.label} {node.word})"
    return f"({node.label} {' '.join(map(shown, node.children))})"
