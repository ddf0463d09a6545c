"""The constituency TreeLSTM (Tai, Socher, Manning, *Improved semantic representations from
tree-structured long short-term memory networks*, ACL 2015, section 3.2), in plain recursion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import lantern as ln
from examples.treelstm.data import Tree

Params = dict[str, ln.Tensor]


@dataclass(frozen=True)
class Shape:
    """How large the network is."""

    words: int
    labels: int
    hidden: int = 150
    embedding: int = 300


def init(key: ln.Tensor, shape: Shape) -> Params:
    """Weights uniform, by the number of inputs; biases 0."""
    h = shape.hidden
    weights = {
        "words": (shape.words, shape.embedding),
        "leaf": (shape.embedding, 3 * h),
        "left": (h, 5 * h),
        "right": (h, 5 * h),
        "label": (h, shape.labels),
    }
    params = {"leaf_bias": ln.zeros(3 * h), "bias": ln.zeros(5 * h)}
    params["label_bias"] = ln.zeros(shape.labels)
    for k, (name, size) in zip(ln.random.split(key, len(weights)), weights.items(), strict=True):
        bound = 0.1 if name == "words" else size[0] ** -0.5
        params[name] = ln.random.uniform(k, size, minval=-bound, maxval=bound)
    return params


class State(NamedTuple):
    """What a node tells its parent.

    Attributes:
        hidden, cell: of the LSTM, (H,).
        loss: the sum of the cross-entropies of all labels in its subtree.
        hits: how many of these labels are the likeliest to the network.
        hit: whether its own is, 0 or 1.
    """

    hidden: ln.Tensor
    cell: ln.Tensor
    loss: ln.Tensor
    hits: ln.Tensor
    hit: ln.Tensor


def encode(params: Params, tree: Tree) -> State:
    """The state of the root."""
    tree = Tree(*map(ln.asarray, tree))

    def node(i: ln.Tensor) -> State:
        if tree.left[i] < 0:
            x = params["words"][tree.word[i]]  # [E]
            write, output, update = ln.split(x @ params["leaf"] + params["leaf_bias"], 3)
            cell = ln.sigmoid(write) * ln.tanh(update)
            return judged(params, output, cell, tree.label[i])
        a, b = node(tree.left[i]), node(tree.right[i])
        z = a.hidden @ params["left"] + b.hidden @ params["right"] + params["bias"]  # [5 H]
        write, keep_a, keep_b, output, update = ln.split(z, 5)
        cell = ln.sigmoid(write) * ln.tanh(update)
        cell = cell + ln.sigmoid(keep_a) * a.cell + ln.sigmoid(keep_b) * b.cell
        own = judged(params, output, cell, tree.label[i])
        return own._replace(loss=a.loss + b.loss + own.loss, hits=a.hits + b.hits + own.hits)

    return node(tree.root)


def judged(params: Params, output: ln.Tensor, cell: ln.Tensor, label: ln.Tensor) -> State:
    """The state of a node by itself."""
    hidden = ln.sigmoid(output) * ln.tanh(cell)
    scores = hidden @ params["label"] + params["label_bias"]  # [labels]
    hit = ln.where(ln.argmax(scores) == label, 1.0, 0.0)
    return State(hidden, cell, ln.nn.cross_entropy(scores, label), hit, hit)
