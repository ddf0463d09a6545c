"""A training step of a recurrent network over characters: min-char-rnn, and the same with an LSTM.

20 texts of 20 characters each, 65 characters, hidden 50; softmax loss at every character, Adagrad
(Karpathy, *The unreasonable effectiveness of recurrent neural networks*, 2015). A character's row
of the input weights is what one-hot coding would multiply out, so everybody looks it up, but for
PyTorch's own modules, which take vectors.

    python -m benchmarks.recurrent [--row rnn lstm] [--only lantern] [--quick]
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np

from benchmarks.harness import NATIVE, Contender, Options, Result, Row, Workload, measure
from benchmarks.worker import Clock, Job

VOCABULARY, HIDDEN, STEPS, BATCH = 65, 50, 20, 20
GATES = {"rnn": 1, "lstm": 4}
RATE, EPSILON = 0.1, 1e-10
AT_LEAST = 2.0

Array = np.ndarray[Any, Any]


def parameters(cell: str) -> dict[str, Array]:
    """Initial parameters by name, in alphabetical order."""
    rng = np.random.default_rng(0)
    wide = GATES[cell] * HIDDEN
    shapes = {
        "bias": (wide,),
        "decode": (HIDDEN, VOCABULARY),
        "input": (VOCABULARY, wide),
        "offset": (VOCABULARY,),
        "recurrent": (HIDDEN, wide),
    }
    bound = HIDDEN**-0.5
    return {name: rng.uniform(-bound, bound, s).astype(np.float32) for name, s in shapes.items()}


def batch() -> tuple[Array, Array]:
    """Characters and those that follow each, [T, B]."""
    text = np.random.default_rng(1).integers(VOCABULARY, size=(STEPS + 1, BATCH))
    return text[:-1].copy(), text[1:].copy()


def in_lantern(cell: str, compiled: bool) -> Job:
    import lantern as ln

    def rnn(u: Any, h: Any, x: Any) -> Any:
        h = ln.tanh(x + h @ u)
        return h, h

    def lstm(u: Any, state: Any, x: Any) -> Any:
        h, c = state
        i, f, g, o = ln.split(x + h @ u, 4, axis=-1)
        c = ln.sigmoid(f) * c + ln.sigmoid(i) * ln.tanh(g)
        h = ln.sigmoid(o) * ln.tanh(c)
        return (h, c), h

    def loss(p: Any, tokens: Any, targets: Any) -> Any:
        step = functools.partial(rnn if cell == "rnn" else lstm, p["recurrent"])
        zeros = ln.zeros((BATCH, HIDDEN))
        state = zeros if cell == "rnn" else (zeros, zeros)
        _, hs = ln.scan(step, state, p["input"][tokens] + p["bias"])  # [T, B, H]
        return ln.nn.cross_entropy(hs @ p["decode"] + p["offset"], targets)

    adagrad = ln.optim.adagrad(RATE, initial=0.0, eps=EPSILON)

    def step(p: Any, state: Any, tokens: Any, targets: Any) -> Any:
        value, gradient = ln.value_and_grad(loss)(p, tokens, targets)
        updates, state = adagrad.update(gradient, state, p)
        return value, ln.optim.apply_updates(p, updates), state

    learn = ln.compile(step, donate=("p", "state")) if compiled else step
    now = ln.tree.map(lambda x: ln.asarray(x, copy=True), parameters(cell))
    state = adagrad.init(now)
    tokens, targets = map(ln.asarray, batch())

    def run(clock: Clock) -> float:
        nonlocal now, state
        value, now, state = learn(now, state, tokens, targets)
        return float(value)

    def check() -> list[Any]:
        first = run(Clock())
        squares = [np.array(s) for s in state.squares.values()]
        return [np.asarray([first, run(Clock()), run(Clock())]), *squares]

    return Job(check, run)


def in_torch(cell: str, how: str, threads: int) -> Job:
    """``how``: the loop in Python, ``eager`` or ``compiled``, or the library's ``module``."""
    import torch
    import torch.nn.functional as f

    torch.set_num_threads(threads)
    p = {name: torch.from_numpy(x).requires_grad_() for name, x in parameters(cell).items()}
    tokens, targets = map(torch.from_numpy, batch())

    def rnn(u: Any, h: Any, x: Any) -> Any:
        h = torch.tanh(torch.addmm(x, h, u))
        return h, h

    def lstm(u: Any, state: Any, x: Any) -> Any:
        h, c = state
        i, f, g, o = torch.addmm(x, h, u).chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return (h, c), h

    def loop(p: Any, tokens: Any) -> Any:
        zeros = torch.zeros(BATCH, HIDDEN)
        state = zeros if cell == "rnn" else (zeros, zeros)
        outputs = []
        for x in f.embedding(tokens, p["input"]) + p["bias"]:
            state, h = (rnn if cell == "rnn" else lstm)(p["recurrent"], state, x)
            outputs.append(h)
        return torch.stack(outputs)

    module: Any = (torch.nn.RNN if cell == "rnn" else torch.nn.LSTM)(VOCABULARY, HIDDEN)
    if how == "module":
        with torch.no_grad():
            module.weight_ih_l0.copy_(p["input"].T)
            module.weight_hh_l0.copy_(p["recurrent"].T)
            module.bias_ih_l0.copy_(p["bias"])
            module.bias_hh_l0.zero_()
        module.bias_hh_l0.requires_grad_(False)  # one bias is enough
        p |= {"bias": module.bias_ih_l0, "input": module.weight_ih_l0,
              "recurrent": module.weight_hh_l0}  # fmt: skip

    def loss(p: Any, tokens: Any, targets: Any) -> Any:
        if how == "module":
            hs = module(f.one_hot(tokens, VOCABULARY).float())[0]
        else:
            hs = loop(p, tokens)
        logits = hs @ p["decode"] + p["offset"]
        return f.cross_entropy(logits.flatten(0, 1), targets.flatten())

    forward: Any = torch.compile(loss) if how == "compiled" else loss
    optimizer = torch.optim.Adagrad(p.values(), lr=RATE, eps=EPSILON)

    def run(clock: Clock) -> float:
        optimizer.zero_grad(set_to_none=True)
        value = forward(p, tokens, targets)
        value.backward()
        optimizer.step()
        return value.item()

    def check() -> list[Any]:
        first = run(Clock())
        squares = {name: optimizer.state[x]["sum"].numpy().copy() for name, x in p.items()}
        if how == "module":
            squares |= {name: squares[name].T for name in ("input", "recurrent")}
        return [np.asarray([first, run(Clock()), run(Clock())]), *squares.values()]

    return Job(check, run)


def in_jax(cell: str) -> Job:
    import jax
    import jax.numpy as jnp

    def rnn(u: Any, h: Any, x: Any) -> Any:
        h = jnp.tanh(x + h @ u)
        return h, h

    def lstm(u: Any, state: Any, x: Any) -> Any:
        h, c = state
        i, f, g, o = jnp.split(x + h @ u, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    def loss(p: Any, tokens: Any, targets: Any) -> Any:
        step = functools.partial(rnn if cell == "rnn" else lstm, p["recurrent"])
        zeros = jnp.zeros((BATCH, HIDDEN))
        state = zeros if cell == "rnn" else (zeros, zeros)
        _, hs = jax.lax.scan(step, state, p["input"][tokens] + p["bias"])
        logits = hs @ p["decode"] + p["offset"]
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - chosen)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def learn(p: Any, squares: Any, tokens: Any, targets: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(p, tokens, targets)
        squares = jax.tree.map(lambda s, g: s + g * g, squares, gradient)

        def moved(x: Any, g: Any, s: Any) -> Any:
            return x - RATE * g / (jnp.sqrt(s) + EPSILON)

        return value, jax.tree.map(moved, p, gradient, squares), squares

    now = jax.tree.map(jnp.asarray, parameters(cell))
    squares = jax.tree.map(jnp.zeros_like, now)
    tokens, targets = map(jnp.asarray, batch())

    def run(clock: Clock) -> float:
        nonlocal now, squares
        value, now, squares = learn(now, squares, tokens, targets)
        jax.block_until_ready(now)
        return float(value)

    def check() -> list[Any]:
        first = run(Clock())
        sums = [np.array(s) for s in squares.values()]
        return [np.asarray([first, run(Clock()), run(Clock())]), *sums]

    return Job(check, run)


def workload(cell: str, options: Options) -> Workload:
    """A step of one kind of cell."""

    def contender(name: str, function: str, needs: tuple[str, ...], **arguments: Any) -> Contender:
        peer = bool({"torch", "jax"} & set(needs))
        make = f"benchmarks.recurrent:{function}"
        target = AT_LEAST if peer else None
        return Contender(name, make, {"cell": cell, **arguments}, needs, {}, target)

    torch, threads = ("torch",), options.threads
    module = "nn.RNN" if cell == "rnn" else "nn.LSTM"
    contenders = [
        contender("lantern", "in_lantern", NATIVE, compiled=True),
        contender("eager lantern", "in_lantern", (), compiled=False),
        contender("PyTorch", "in_torch", torch, how="eager", threads=threads),
        contender("PyTorch, one thread", "in_torch", torch, how="eager", threads=1),
        contender("torch.compile", "in_torch", torch, how="compiled", threads=threads),
        contender(f"PyTorch, {module}", "in_torch", torch, how="module", threads=threads),
        contender("JAX", "in_jax", ("jax",)),
    ]
    what = "a vanilla RNN's" if cell == "rnn" else "an LSTM's"
    name = f"{what} training step: hidden {HIDDEN}, {BATCH} by {STEPS} characters, Adagrad"
    return Workload(cell, name, contenders, 1, "step", rtol=1e-3, rounds=5 if options.quick else 9)


def row(cell: str, options: Options) -> list[Result]:
    """One kind of cell."""
    return [measure(workload(cell, options), options)]


ROWS: dict[str, Row] = {cell: functools.partial(row, cell) for cell in GATES}

if __name__ == "__main__":
    from benchmarks.__main__ import main

    main(ROWS, sys.argv[1:])
