"""Three recurrent cells, each a scan over time.

    vanilla  h' = tanh(W x + U h + b)                             Elman, 1990
    LSTM     c' = σ(f) c + σ(i) tanh(g),   h' = σ(o) tanh(c')     Hochreiter, Schmidhuber, 1997
    GRU      n = tanh(W x + b + σ(r) (U h + d)),
             h' = n + σ(z) (h - n)                                Cho et al., 2014

The gates i, f, g, o and r, z, n are W x + U h + b, with rows of their own in W, U and b.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import lantern as ln

Params = dict[str, Any]
State = Any  # what a cell hands on in time: h, or (h, c); each (B, H)


class Cell(NamedTuple):
    """One kind of cell.

    Attributes:
        init: makes parameters, from a key and the numbers of inputs and of hidden units.
        step: from parameters, a state and an input (B, inputs) to the next state and h (B, H).
        states: how many arrays a state has.
    """

    init: Callable[..., Params]
    step: Callable[[Params, State, ln.Tensor], tuple[State, ln.Tensor]]
    states: int


CELLS = {
    "rnn": Cell(ln.nn.rnn_cell_init, ln.nn.rnn_cell, 1),
    "lstm": Cell(ln.nn.lstm_cell_init, ln.nn.lstm_cell, 2),
    "gru": Cell(ln.nn.gru_cell_init, ln.nn.gru_cell, 1),
}


def init(key: ln.Tensor, cell: Cell, letters: int, hidden: int) -> Params:
    """The parameters of a network: a vector for each letter, a cell, and scores for each letter."""
    a, b, c = ln.random.split(key, 3)
    bound = hidden**-0.5
    return {
        "letters": ln.random.normal(a, (letters, hidden)),
        "cell": cell.init(b, hidden, hidden),
        "scores": ln.random.uniform(c, (hidden, letters), minval=-bound, maxval=bound),
        "offset": ln.zeros(letters),
    }


def start(cell: Cell, batch: int, hidden: int) -> State:
    """The state before the first letter."""
    zeros = ln.zeros((batch, hidden))
    return zeros if cell.states == 1 else (zeros,) * cell.states


def unroll(cell: Cell, params: Params, state: State, xs: ln.Tensor) -> tuple[State, ln.Tensor]:
    """The loop over time: inputs (T, B, inputs) to the last state and all h (T, B, H)."""
    return ln.scan(lambda state, x: cell.step(params, state, x), state, xs)


def logits(cell: Cell, params: Params, state: State, tokens: ln.Tensor) -> tuple[State, ln.Tensor]:
    """Scores of what follows each letter: (T, B) to the last state and (T, B, letters)."""
    state, hs = unroll(cell, params["cell"], state, params["letters"][tokens])
    return state, hs @ params["scores"] + params["offset"]


def loss(
    params: Params, state: State, tokens: ln.Tensor, targets: ln.Tensor, cell: Cell
) -> tuple[ln.Tensor, State]:
    """The mean cross-entropy of the letters that follow, in nats; and the state after them."""
    state, scores = logits(cell, params, state, tokens)
    return ln.nn.cross_entropy(scores, targets), state
