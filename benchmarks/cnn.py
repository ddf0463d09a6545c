"""A training step of a small convolutional network on images of MNIST's shape, with SGD.

Convolution of 10 by 5 by 5, pooling by 2, the same with 20 channels, then 320 - 50 - 10 and
cross-entropy, for 100 images of 28 by 28: the network of PyTorch's MNIST example.

    python -m benchmarks.cnn [--only lantern] [--quick]
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from benchmarks.harness import (
    NATIVE,
    TUNED_MALLOC,
    Contender,
    Options,
    Result,
    Row,
    Workload,
    measure,
)
from benchmarks.worker import Clock, Job

RATE = 0.05
AT_LEAST = 1.5
SHAPES = {
    "conv1": (10, 1, 5, 5),
    "bias1": (10,),
    "conv2": (20, 10, 5, 5),
    "bias2": (20,),
    "dense3": (50, 320),
    "bias3": (50,),
    "dense4": (10, 50),
    "bias4": (10,),
}


def parameters() -> dict[str, np.ndarray[Any, Any]]:
    """Initial parameters by name, in alphabetical order."""
    rng = np.random.default_rng(0)
    return {
        name: (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        for name, shape in sorted(SHAPES.items())
    }


def batch(size: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Images (N, 1, 28, 28) and labels (N,)."""
    rng = np.random.default_rng(1)
    images = rng.standard_normal((size, 1, 28, 28), np.float32)
    return images, rng.integers(10, size=size)


def in_lantern(size: int, compiled: bool) -> Job:
    import lantern as ln

    def loss(p: Any, images: Any, labels: Any) -> Any:
        x = ln.conv2d(images, p["conv1"], p["bias1"])  # [N, 10, 24, 24]
        x = ln.relu(ln.max_pool2d(x, 2))
        x = ln.conv2d(x, p["conv2"], p["bias2"])  # [N, 20, 8, 8]
        x = ln.relu(ln.max_pool2d(x, 2))
        x = ln.reshape(x, (size, 320))
        x = ln.relu(ln.nn.linear(x, p["dense3"], p["bias3"]))
        return ln.nn.cross_entropy(ln.nn.linear(x, p["dense4"], p["bias4"]), labels)

    def step(p: Any, images: Any, labels: Any) -> Any:
        value, gradient = ln.value_and_grad(loss)(p, images, labels)
        return value, ln.tree.map(lambda x, g: x - RATE * g, p, gradient)

    learn = ln.compile(step, donate=("p",)) if compiled else step
    now = ln.tree.map(lambda x: ln.asarray(x, copy=True), parameters())
    images, labels = map(ln.asarray, batch(size))

    def run(clock: Clock) -> float:
        nonlocal now
        value, now = learn(now, images, labels)
        return float(value)

    return Job(lambda: [np.asarray(run(Clock())), *map(np.array, now.values())], run)


def in_torch(size: int, compiled: bool, threads: int) -> Job:
    import torch
    import torch.nn.functional as f

    torch.set_num_threads(threads)
    p = {name: torch.from_numpy(x).requires_grad_() for name, x in parameters().items()}
    images, labels = map(torch.from_numpy, batch(size))
    optimizer = torch.optim.SGD(p.values(), lr=RATE)

    def loss(p: Any, images: Any, labels: Any) -> Any:
        x = f.relu(f.max_pool2d(f.conv2d(images, p["conv1"], p["bias1"]), 2))
        x = f.relu(f.max_pool2d(f.conv2d(x, p["conv2"], p["bias2"]), 2))
        x = f.relu(f.linear(x.flatten(1), p["dense3"], p["bias3"]))
        return f.cross_entropy(f.linear(x, p["dense4"], p["bias4"]), labels)

    forward: Any = torch.compile(loss) if compiled else loss

    def run(clock: Clock) -> float:
        optimizer.zero_grad(set_to_none=True)
        value = forward(p, images, labels)
        value.backward()
        optimizer.step()
        return value.item()

    return Job(
        lambda: [np.asarray(run(Clock())), *(x.detach().numpy().copy() for x in p.values())], run
    )


def in_jax(size: int) -> Job:
    import jax
    import jax.numpy as jnp

    def conv(x: Any, weight: Any, bias: Any) -> Any:
        return jax.lax.conv(x, weight, (1, 1), "VALID") + bias[:, None, None]

    def pool(x: Any) -> Any:
        window = (1, 1, 2, 2)
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")

    def loss(p: Any, images: Any, labels: Any) -> Any:
        x = jax.nn.relu(pool(conv(images, p["conv1"], p["bias1"])))
        x = jax.nn.relu(pool(conv(x, p["conv2"], p["bias2"])))
        x = jax.nn.relu(x.reshape(size, 320) @ p["dense3"].T + p["bias3"])
        logits = x @ p["dense4"].T + p["bias4"]
        chosen = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - chosen)

    @jax.jit
    def learn(p: Any, images: Any, labels: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(p, images, labels)
        return value, jax.tree.map(lambda x, g: x - RATE * g, p, gradient)

    now = jax.tree.map(jnp.asarray, parameters())
    images, labels = map(jnp.asarray, batch(size))

    def run(clock: Clock) -> float:
        nonlocal now
        value, now = learn(now, images, labels)
        jax.block_until_ready(now)
        return float(value)

    return Job(lambda: [np.asarray(run(Clock())), *map(np.asarray, now.values())], run)


def workload(size: int, options: Options) -> Workload:
    """A step with this many images."""

    def contender(name: str, function: str, needs: tuple[str, ...], **arguments: Any) -> Contender:
        peer = bool({"torch", "jax"} & set(needs))
        return Contender(
            name,
            f"benchmarks.cnn:{function}",
            {"size": size, **arguments},
            needs,
            TUNED_MALLOC if "tuned" in name else {},
            AT_LEAST if peer else None,
        )

    threads = options.threads
    contenders = [
        contender("lantern", "in_lantern", NATIVE, compiled=True),
        contender("eager lantern", "in_lantern", (), compiled=False),
        contender("PyTorch", "in_torch", ("torch",), compiled=False, threads=threads),
        contender("PyTorch, malloc tuned", "in_torch", ("torch",), compiled=False, threads=threads),
        contender("torch.compile", "in_torch", ("torch",), compiled=True, threads=threads),
        contender("JAX", "in_jax", ("jax",)),
    ]
    name = f"a CNN's training step: {size} images of 28 by 28, two convolutions, SGD"
    return Workload("cnn", name, contenders, 1, "step", rtol=1e-4, rounds=9)


def row(options: Options) -> list[Result]:
    """The row."""
    return [measure(workload(10 if options.quick else 100, options), options)]


ROWS: dict[str, Row] = {"cnn": row}

if __name__ == "__main__":
    from benchmarks.__main__ import main

    main(ROWS, sys.argv[1:])
