"""Training by truncated backpropagation through time, and writing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import lantern as ln
from examples.char_rnn.model import CELLS, Cell, Params, State, init, logits, loss, start
from examples.char_rnn.text import Text, windows
from examples.display import Display, plot_curves
from examples.llama3.files import Problem
from examples.llama3.machine import Interrupt

SMOOTH = 0.98  # of the training curve: the weight of what was
BITS = 1 / math.log(2)


@dataclass(frozen=True)
class Settings:
    """How to train."""

    cell: str = "lstm"
    hidden: int = 128
    batch: int = 20
    steps: int = 50
    epochs: int = 20
    rate: float = 0.1
    clip: float = 5.0
    seed: int = 0

    def check(self) -> None:
        """Refuse values that mean nothing.

        Raises:
            Problem: one does.
        """
        for name in ("hidden", "batch", "steps", "epochs", "rate", "clip"):
            if not getattr(self, name) > 0:
                raise Problem(f"--{name} is {getattr(self, name)}; it must be above 0")


@dataclass
class Outcome:
    """The network, as far as it got.

    Attributes:
        params: of the network.
        losses: bits a letter while it learnt, smoothed, by letters seen.
        valid: bits a letter on what is held out, by letters seen.
        finished: whether all epochs are done.
    """

    params: Params
    losses: list[tuple[float, float]]
    valid: list[tuple[float, float]]
    finished: bool = True


def train(text: Text, settings: Settings, console: Console) -> Outcome:
    """Train a network; Ctrl-C ends it early, with what has been learnt.

    Each window goes on from the state that the last one ended in, but its derivative stops there.

    Raises:
        Problem: the text is too short, or the loss is not finite.
    """
    cell, how = CELLS[settings.cell], settings
    optimizer = ln.optim.chain(
        ln.optim.clip_by_global_norm(how.clip), ln.optim.adagrad(how.rate, initial=0.01)
    )

    @ln.compile(donate=("params", "sums"))
    def learn(params: Params, sums: Any, state: State, tokens: Any, targets: Any) -> Any:
        (value, state), gradient = ln.value_and_grad(loss, has_aux=True)(
            params, state, tokens, targets, cell
        )
        updates, sums = optimizer.update(gradient, sums, params)
        return ln.optim.apply_updates(params, updates), sums, state, value

    look = ln.compile(
        lambda params, state, tokens, targets: loss(params, state, tokens, targets, cell)
    )
    params = ln.tree.map(
        lambda x: ln.asarray(x, copy=True),
        init(ln.random.key(how.seed), cell, len(text.letters), how.hidden),
    )
    sums = optimizer.init(params)
    outcome = Outcome(params, [], [])
    strand = sum(len(x) for x, _ in windows(text.train, how.batch, how.steps, "the text"))
    total = strand * how.batch * how.epochs
    seen, smooth, weight = 0, 0.0, 0.0
    with Interrupt() as interrupt, Display(console, "letters", total) as display:
        while seen < total and not interrupt.asked:
            state = start(cell, how.batch, how.hidden)
            for tokens, targets in windows(text.train, how.batch, how.steps, "the text"):
                params, sums, state, value = learn(params, sums, state, tokens, targets)
                bits = float(value) * BITS
                if not math.isfinite(bits):
                    raise Problem(f"the loss is {bits}; a lower --rate may help")
                seen += tokens.size
                smooth, weight = SMOOTH * smooth + bits, SMOOTH * weight + 1
                outcome.losses.append((seen, smooth / weight))
                numbers = {"bits_a_letter": smooth / weight}
                if outcome.valid:
                    numbers["held_out"] = outcome.valid[-1][1]
                display.show(seen, numbers=numbers)
                if interrupt.asked:
                    break
            outcome.valid.append((seen, measure(look, params, text, how)))
    outcome.params, outcome.finished = params, seen == total
    return outcome


def measure(look: Callable[..., Any], params: Params, text: Text, how: Settings) -> float:
    """Bits a letter on the text that is held out."""
    batch = min(how.batch, max(1, len(text.valid) // (2 * how.steps)))
    state, values = start(CELLS[how.cell], batch, how.hidden), []
    for tokens, targets in windows(text.valid, batch, how.steps, "what is held out"):
        value, state = look(params, state, tokens, targets)
        values.append(float(value))
    return float(np.mean(values)) * BITS


def write(
    cell: Cell, params: Params, text: Text, prompt: str, count: int, temperature: float, seed: int
) -> Iterator[str]:
    """Continue a prompt, letter by letter.

    Args:
        cell: the kind of cell.
        params: of the network.
        text: what it has learnt.
        prompt: at least one letter.
        count: how many letters to write.
        temperature: below 1 likelier letters are still likelier; 0 always takes the likeliest.
        seed: the same seed, the same letters.

    Raises:
        Problem: the prompt is empty, or has a letter that the text has not.
    """
    if not prompt:
        raise Problem("--prompt is empty; it takes a letter to begin with")

    @ln.compile
    def step(params: Params, state: State, tokens: Any) -> tuple[State, ln.Tensor]:
        state, scores = logits(cell, params, state, tokens)
        return state, scores[-1, 0]

    hidden = params["scores"].shape[0]
    state, tokens = start(cell, 1, hidden), text.encode(prompt)
    for key in ln.random.split(ln.random.key(seed), count):
        state, scores = step(params, state, tokens[:, None])
        if temperature:
            letter = ln.random.categorical(key, scores / temperature)
        else:
            letter = ln.argmax(scores)
        tokens = np.asarray([int(letter)])
        yield text.letters[int(letter)]


def plot(outcome: Outcome, settings: Settings, path: Path) -> None:
    """Draw the loss over the letters seen.

    Raises:
        Problem: matplotlib is not installed.
    """
    curves = {"training, smoothed": outcome.losses, "held out": outcome.valid}
    title = f"{settings.cell.upper()} with {settings.hidden} hidden units, on lantern"
    plot_curves(path, title, "letters seen", {"bits a letter": curves})
