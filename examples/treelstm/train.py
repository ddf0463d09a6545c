"""Training: Adagrad on minibatches of trees, with the loss at every node (section 5.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

import lantern as ln
from examples.display import Display, plot_curves
from examples.llama3.files import Problem
from examples.llama3.machine import Interrupt
from examples.treelstm.data import Tree, Treebank
from examples.treelstm.model import Params, Shape, State, encode, init

SMOOTH = 0.9  # of the training curves: the weight of what was


@dataclass(frozen=True)
class Settings:
    """How to train."""

    epochs: int = 3
    batch: int = 25
    rate: float = 0.05
    hidden: int = 150
    embedding: int = 300
    seed: int = 0


class Score(NamedTuple):
    """What the network makes of some trees: means over nodes, and over roots."""

    loss: float
    nodes: float
    roots: float


@dataclass
class Outcome:
    """The network, as far as it got.

    Attributes:
        params: of the network.
        losses: mean cross-entropy a node, smoothed, by trees seen.
        scores: on the trees held out, by trees seen.
        finished: whether all epochs are done.
    """

    params: Params
    losses: list[tuple[float, float]]
    scores: list[tuple[float, Score]]
    finished: bool = True


def train(bank: Treebank, settings: Settings, console: Console) -> Outcome:
    """Train a network; Ctrl-C ends it early, with what has been learnt.

    Raises:
        Problem: the loss is not finite.
    """
    shape = Shape(len(bank.words), bank.labels, settings.hidden, settings.embedding)
    adagrad = ln.optim.adagrad(settings.rate)

    @ln.compile(donate=("params", "state"))
    def learn(params: Params, state: Any, trees: list[Tree]) -> tuple[Params, Any, ln.Tensor]:
        def objective(params: Params) -> ln.Tensor:
            return ln.sum(ln.batch(encode)(params, trees).loss) / len(trees)

        loss, gradient = ln.value_and_grad(objective)(params)
        updates, state = adagrad.update(gradient, state, params)
        return ln.optim.apply_updates(params, updates), state, loss

    look = ln.compile(encode)
    params = init(ln.random.key(settings.seed), shape)
    state = adagrad.init(params)
    rng = np.random.default_rng(settings.seed)
    order = np.concatenate([rng.permutation(len(bank.train)) for _ in range(settings.epochs)])
    batch = min(settings.batch, len(bank.train))
    total = len(order) // batch * batch
    outcome = Outcome(params, [], [])
    done, smooth, weight = 0, 0.0, 0.0
    with Interrupt() as interrupt, Display(console, "trees", total) as display:
        while done < total and not interrupt.asked:
            trees = [bank.train[k] for k in order[done : done + batch]]
            params, state, loss = learn(params, state, trees)
            mean = float(loss) * batch / sum(len(tree.label) for tree in trees)
            if not math.isfinite(mean):
                raise Problem(f"the loss is {mean} at tree {done + 1}: a lower --rate may help")
            ended = (done + batch) // len(bank.train) > done // len(bank.train)  # an epoch has
            done += batch
            smooth, weight = SMOOTH * smooth + mean, SMOOTH * weight + 1
            outcome.losses.append((done, smooth / weight))
            if ended or done == total:
                outcome.scores.append((done, score(look, params, bank.valid)))
            numbers = {"loss": smooth / weight}
            if outcome.scores:
                numbers["accuracy_at_roots"] = outcome.scores[-1][1].roots
            display.show(done, numbers=numbers)
    outcome.params, outcome.finished = params, done == total
    if not outcome.scores or outcome.scores[-1][0] < done:
        outcome.scores.append((done, score(look, params, bank.valid)))
    return outcome


def score(look: Callable[..., State], params: Params, trees: Sequence[Tree]) -> Score:
    """Measure a network on trees."""
    loss = hits = roots = 0.0
    for tree in trees:
        root = look(params, tree)
        loss, hits, roots = loss + float(root.loss), hits + int(root.hits), roots + int(root.hit)
    nodes = sum(len(tree.label) for tree in trees)
    return Score(loss / nodes, hits / nodes, roots / len(trees))


def plot(outcome: Outcome, path: Path) -> None:
    """Draw the loss and the accuracies over the trees seen.

    Raises:
        Problem: matplotlib is not installed.
    """
    scores = outcome.scores
    panels = {
        "loss, nats a node": {
            "training, smoothed": outcome.losses,
            "held out": [(x, s.loss) for x, s in scores],
        },
        "accuracy on what is held out": {
            "at all nodes": [(x, s.nodes) for x, s in scores],
            "at roots": [(x, s.roots) for x, s in scores],
        },
    }
    plot_curves(path, "TreeLSTM on lantern", "trees seen", panels)
