"""A training step of a TreeLSTM: trees of 20 to 40 leaves, loss at every node, Adagrad.

Hidden 150, fixed word vectors of 300, five labels: sentiment trees as in Tai, Socher, Manning (ACL
2015), their shapes drawn at random. Everybody computes 25 trees: a step for each, or one for all.
Lantern compiles plain recursion; beside it stands recursion in PyTorch, levels of equal height
that are put together by hand there, and in JAX a scan over the nodes of a padded tree.

    python -m benchmarks.treelstm [--row treelstm treelstm-25] [--only lantern] [--quick]
"""

from __future__ import annotations

import functools
import sys
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness import NATIVE, Contender, Options, Result, Row, Workload, measure
from benchmarks.worker import Clock, Job

HIDDEN, EMBEDDING, LABELS, WORDS = 150, 300, 5, 5000
TREES, LEAST, MOST = 25, 20, 40  # how many, and their leaves
RATE, EPSILON = 0.05, 1e-10
# How many times as fast as recursion in PyTorch, and as levels put together by hand.
AT_LEAST = {"treelstm": (10.0, 3.0), "treelstm-25": (30.0, 2.5)}

Array = np.ndarray[Any, Any]


class Tree(NamedTuple):
    """A binary tree in arrays, children before their parent; a leaf has children -1."""

    root: Any
    word: Any
    left: Any
    right: Any
    label: Any


def trees() -> list[Tree]:
    """Random trees."""
    rng = np.random.default_rng(1)

    def grown(leaves: int) -> Tree:
        rows: list[tuple[int, int, int, int]] = []

        def node(leaves: int) -> int:
            label = int(rng.integers(LABELS))
            if leaves == 1:
                rows.append((int(rng.integers(WORDS)), -1, -1, label))
            else:
                part = int(rng.integers(1, leaves))
                rows.append((0, node(part), node(leaves - part), label))
            return len(rows) - 1

        return Tree(np.int64(node(leaves)), *np.asarray(rows, np.int64).T.copy())

    return [grown(int(rng.integers(LEAST, MOST + 1))) for _ in range(TREES)]


def parameters() -> dict[str, Array]:
    """Initial parameters by name, in alphabetical order."""
    rng = np.random.default_rng(0)
    shapes = {
        "inner": (2 * HIDDEN, 5 * HIDDEN),
        "inner_bias": (5 * HIDDEN,),
        "leaf": (EMBEDDING, 2 * HIDDEN),
        "leaf_bias": (2 * HIDDEN,),
        "out": (HIDDEN, LABELS),
        "out_bias": (LABELS,),
    }
    return {
        name: (0.1 * rng.standard_normal(shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def vectors() -> Array:
    """The vector of each word, which no step changes."""
    return np.random.default_rng(2).standard_normal((WORDS, EMBEDDING)).astype(np.float32)


def groups(together: bool) -> list[list[Tree]]:
    """The trees of each step."""
    every = trees()
    return [every] if together else [[tree] for tree in every]


# lantern ------------------------------------------------------------------------------------------


def in_lantern(together: bool, threads: int, backend: str | None = None) -> Job:
    import lantern as ln

    words = ln.asarray(vectors())

    def loss(p: Any, words: Any, tree: Tree) -> Any:
        def judged(h: Any, label: Any) -> Any:
            return ln.nn.cross_entropy(h @ p["out"] + p["out_bias"], label)

        def node(i: Any) -> Any:
            if tree.left[i] < 0:
                c, o = ln.split(words[tree.word[i]] @ p["leaf"] + p["leaf_bias"], 2)
                h = ln.sigmoid(o) * ln.tanh(c)
                return h, c, judged(h, tree.label[i])
            (ha, ca, la), (hb, cb, lb) = node(tree.left[i]), node(tree.right[i])
            z = ln.concat([ha, hb]) @ p["inner"] + p["inner_bias"]
            u, write, keep_a, keep_b, o = ln.split(z, 5)
            c = ln.sigmoid(write) * ln.tanh(u) + ln.sigmoid(keep_a) * ca + ln.sigmoid(keep_b) * cb
            h = ln.sigmoid(o) * ln.tanh(c)
            return h, c, la + lb + judged(h, tree.label[i])

        return node(tree.root)[2]

    adagrad = ln.optim.adagrad(RATE, initial=0.0, eps=EPSILON)

    def step(p: Any, state: Any, words: Any, some: list[Tree]) -> Any:
        def total(p: Any) -> Any:
            if not together:
                return loss(p, words, some[0])
            return ln.sum(ln.batch(functools.partial(loss, p, words))(some))

        value, gradient = ln.value_and_grad(total)(p)
        updates, state = adagrad.update(gradient, state, p)
        return value, ln.optim.apply_updates(p, updates), state

    learn = ln.compile(step, donate=("p", "state"), threads=threads, backend=backend)
    now = ln.tree.map(lambda x: ln.asarray(x, copy=True), parameters())
    state, steps = adagrad.init(now), groups(together)

    def run(clock: Clock) -> list[float]:
        nonlocal now, state
        values = []
        for some in steps:
            value, now, state = learn(now, state, words, some)
            values.append(float(value))
        return values

    def check() -> list[Any]:
        values = run(Clock())
        return [np.asarray(values), *(np.array(s) for s in state.squares.values())]

    return Job(check, run)


# PyTorch ------------------------------------------------------------------------------------------


def in_torch(together: bool, levels: bool, threads: int, device: str = "cpu") -> Job:
    import torch

    torch.set_num_threads(threads)
    torch.set_default_device(device)
    p = {name: torch.asarray(x).requires_grad_() for name, x in parameters().items()}
    words = torch.asarray(vectors())
    optimizer = torch.optim.Adagrad(p.values(), lr=RATE, eps=EPSILON)
    forward: Any = by_levels if levels else by_recursion
    steps = [levels_of(some) if levels else some for some in groups(together)]

    def run(clock: Clock) -> list[float]:
        values = []
        for some in steps:
            optimizer.zero_grad(set_to_none=True)
            value = forward(p, words, some)
            value.backward()
            optimizer.step()
            values.append(value.item())
        return values

    def check() -> list[Any]:
        values = run(Clock())
        return [np.asarray(values), *(optimizer.state[x]["sum"].cpu().numpy() for x in p.values())]

    return Job(check, run)


def cell(p: Any, h: Any, c: Any) -> tuple[Any, Any]:
    """The states of nodes in PyTorch, (N, H), from those of their children, (N, 2, H)."""
    import torch

    z = torch.addmm(p["inner_bias"], h.flatten(1), p["inner"])
    u, write, keep_a, keep_b, o = z.chunk(5, dim=-1)
    c = torch.sigmoid(write) * torch.tanh(u) + (
        torch.sigmoid(keep_a) * c[:, 0] + torch.sigmoid(keep_b) * c[:, 1]
    )
    return torch.sigmoid(o) * torch.tanh(c), c


def leaf(p: Any, x: Any) -> tuple[Any, Any]:
    """The states of leaves in PyTorch, from the vectors of their words."""
    import torch

    c, o = torch.addmm(p["leaf_bias"], x, p["leaf"]).chunk(2, dim=-1)
    return torch.sigmoid(o) * torch.tanh(c), c


def by_recursion(p: Any, words: Any, some: list[Tree]) -> Any:
    """The sum of the losses at all nodes; the labels of a tree are judged together."""
    import torch
    import torch.nn.functional as f

    total = torch.zeros(())
    for tree in some:
        hidden: list[Any] = []
        label: list[int] = []

        def node(i: int, tree: Tree = tree, hidden: Any = hidden, label: Any = label) -> Any:
            if tree.left[i] < 0:
                h, c = leaf(p, words[tree.word[i]][None])
            else:
                (ha, ca), (hb, cb) = node(tree.left[i]), node(tree.right[i])
                h, c = cell(p, torch.stack([ha, hb], 1), torch.stack([ca, cb], 1))
            hidden.append(h)
            label.append(int(tree.label[i]))
            return h, c

        node(int(tree.root))
        scores = torch.addmm(p["out_bias"], torch.cat(hidden), p["out"])
        total = total + f.cross_entropy(scores, torch.tensor(label), reduction="sum")
    return total


class Levels(NamedTuple):
    """The nodes of some trees by their height, as what PyTorch needs to know of them.

    The states that no parent has read yet are a table, at first of all leaves; each level reads
    some of its rows and leaves the others, behind which it appends its own.

    Attributes:
        words: of the leaves.
        read: of each level the rows of its nodes' children, left, right, left, right ...
        left: of each level the rows that wait on.
        labels: of all nodes, level by level.
    """

    words: Any
    read: list[Any]
    left: list[Any]
    labels: Any


def levels_of(some: list[Tree]) -> Levels:
    """Sort nodes by height."""
    import torch

    heights: dict[tuple[int, int], int] = {}
    ranks: list[list[tuple[int, int]]] = []
    for t, tree in enumerate(some):
        for i, (left, right) in enumerate(zip(tree.left, tree.right, strict=True)):
            below = [heights[t, left], heights[t, right]] if left >= 0 else [-1]
            heights[t, i] = max(below) + 1
            ranks += [[] for _ in range(heights[t, i] + 1 - len(ranks))]
            ranks[heights[t, i]].append((t, i))
    waiting, read, rest = list(ranks[0]), [], []
    for rank in ranks[1:]:
        row = {node: k for k, node in enumerate(waiting)}
        taken = [row[t, c] for t, i in rank for c in (some[t].left[i], some[t].right[i])]
        gone = set(taken)
        stay = [k for k in range(len(waiting)) if k not in gone]
        read.append(torch.tensor(taken))
        rest.append(torch.tensor(stay, dtype=torch.int64))
        waiting = [*(waiting[k] for k in stay), *rank]
    labels = torch.tensor([int(some[t].label[i]) for rank in ranks for t, i in rank])
    return Levels(torch.tensor([int(some[t].word[i]) for t, i in ranks[0]]), read, rest, labels)


def by_levels(p: Any, words: Any, known: Levels) -> Any:
    """The same sum, one level of all trees after the other."""
    import torch
    import torch.nn.functional as f

    h, c = leaf(p, words[known.words])
    hidden = [h]
    for read, left in zip(known.read, known.left, strict=True):
        inner = (x.index_select(0, read).unflatten(0, (-1, 2)) for x in (h, c))
        above, memory = cell(p, *inner)
        hidden.append(above)
        h, c = (
            torch.cat([x.index_select(0, left), y]) if len(left) else y
            for x, y in ((h, above), (c, memory))
        )
    scores = torch.addmm(p["out_bias"], torch.cat(hidden), p["out"])
    return f.cross_entropy(scores, known.labels, reduction="sum")


# JAX ----------------------------------------------------------------------------------------------


def in_jax() -> Job:
    """A scan over the nodes of one tree, which is padded to the largest size; compiled once."""
    import jax
    import jax.numpy as jnp

    most = 2 * MOST - 1

    def loss(p: Any, words: Any, tree: Tree, size: Any) -> Any:
        def node(states: Any, row: Any) -> Any:
            i, word, left, right = row
            both = jnp.stack([states[left], states[right]])  # [2, 2, H]: child, h and c

            def at_leaf() -> Any:
                c, o = jnp.split(words[word] @ p["leaf"] + p["leaf_bias"], 2)
                return jnp.stack([jax.nn.sigmoid(o) * jnp.tanh(c), c])

            def inside() -> Any:
                z = both[:, 0].reshape(-1) @ p["inner"] + p["inner_bias"]
                u, write, keep_a, keep_b, o = jnp.split(z, 5)
                c = jax.nn.sigmoid(write) * jnp.tanh(u)
                c = c + jax.nn.sigmoid(keep_a) * both[0, 1] + jax.nn.sigmoid(keep_b) * both[1, 1]
                return jnp.stack([jax.nn.sigmoid(o) * jnp.tanh(c), c])

            state = jax.lax.cond(left < 0, at_leaf, inside)
            states = states.at[i].set(state)
            return states, state[0]

        rows = (jnp.arange(most), tree.word, tree.left, tree.right)
        _, hidden = jax.lax.scan(node, jnp.zeros((most, 2, HIDDEN)), rows)
        scores = hidden @ p["out"] + p["out_bias"]
        chosen = jnp.take_along_axis(scores, tree.label[:, None], axis=-1)[:, 0]
        losses = jax.nn.logsumexp(scores, axis=-1) - chosen
        return jnp.sum(jnp.where(jnp.arange(most) < size, losses, 0.0))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def learn(p: Any, squares: Any, words: Any, tree: Tree, size: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(p, words, tree, size)
        squares = jax.tree.map(lambda s, g: s + g * g, squares, gradient)

        def moved(x: Any, g: Any, s: Any) -> Any:
            return x - RATE * g / (jnp.sqrt(s) + EPSILON)

        return value, jax.tree.map(moved, p, gradient, squares), squares

    def padded(x: Array) -> Any:
        return jnp.asarray(np.pad(x, (0, most - len(x)), constant_values=-1))

    now = jax.tree.map(jnp.asarray, parameters())
    squares = jax.tree.map(jnp.zeros_like, now)
    words = jnp.asarray(vectors())
    steps = [(Tree(t.root, *map(padded, t[1:])), len(t.label)) for t in trees()]

    def run(clock: Clock) -> list[float]:
        nonlocal now, squares
        values = []
        for tree, size in steps:
            value, now, squares = learn(now, squares, words, tree, size)
            values.append(float(value))
        return values

    def check() -> list[Any]:
        values = run(Clock())
        return [np.asarray(values), *(np.array(s) for s in squares.values())]

    return Job(check, run)


# Rows ---------------------------------------------------------------------------------------------


def workload(name: str, options: Options) -> Workload:
    """25 trees, one a step or all together."""
    together = name == "treelstm-25"
    recursion, by_hand = AT_LEAST[name]
    threads = options.threads

    def contender(
        name: str, function: str, needs: tuple[str, ...], target: float | None, **arguments: Any
    ) -> Contender:
        return Contender(name, f"benchmarks.treelstm:{function}", arguments, needs, {}, target)

    torch = functools.partial(contender, function="in_torch", needs=("torch",))
    contenders = [
        contender("lantern", "in_lantern", NATIVE, None, together=together, threads=threads),
        torch(name="PyTorch, recursion", target=recursion, together=together, levels=False,
              threads=threads),
        torch(name="PyTorch, levels by hand", target=by_hand, together=together, levels=True,
              threads=threads),
        torch(name="PyTorch, levels, one thread", target=by_hand, together=together, levels=True,
              threads=1),
    ]  # fmt: skip
    if not together:
        contenders.append(contender("JAX, padded scan", "in_jax", ("jax",), None))
    how = f"{TREES} trees a step" if together else "one tree a step"
    what = f"a TreeLSTM's training step: {how}, {LEAST} to {MOST} leaves, hidden {HIDDEN}, Adagrad"
    rounds = 3 if options.quick else 7
    return Workload(name, what, contenders, TREES, "tree", rtol=5e-3, rounds=rounds)


def row(name: str, options: Options) -> list[Result]:
    """One of the rows."""
    return [measure(workload(name, options), options)]


ROWS: dict[str, Row] = {name: functools.partial(row, name) for name in AT_LEAST}

if __name__ == "__main__":
    from benchmarks.__main__ import main

    main(ROWS, sys.argv[1:])
