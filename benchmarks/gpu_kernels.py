"""Kernels on a GPU beside its roofline: what goes over memory, products of matrices, attention.

A run does a kernel many times, and waits once, in the end. Each is written once, on the functions
that every library has under some name (`Library`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import kernels
from benchmarks.worker import Clock, Job

Array = np.ndarray[Any, Any]


class Library(NamedTuple):
    """What a kernel is written on.

    Attributes:
        functions: those that the kernels for the CPU are written on, too.
        attention: of q, k, v [B, T, H, C], causal.
        put: an array of NumPy on the device; floats in a dtype.
        compiled: a function, compiled.
        wait: until results are there.
    """

    functions: kernels.Functions
    attention: Callable[..., Any]
    put: Callable[[Array, str], Any]
    compiled: Callable[..., Any]
    wait: Callable[[Any], object]


class Size(NamedTuple):
    """The sizes of operands.

    Attributes:
        rows, columns: of what goes over memory.
        side: of the matrices of a product.
        batch, time, heads, head_dim: of attention.
    """

    rows: int = 1 << 14
    columns: int = 4096
    side: int = 8192
    batch: int = 4
    time: int = 2048
    heads: int = 16
    head_dim: int = 64


SMALL = Size(rows=6, columns=40, side=24, batch=1, time=20, heads=2, head_dim=8)
MOVING = {"gelu": 2, **{kernel.name: kernel.moves for kernel in kernels.KERNELS}}
COMPUTING = ("matmul", "attention", "attention backward")
GELU = math.sqrt(2 / math.pi)


def operands(name: str, size: Size) -> list[Array]:
    """What a kernel is given."""
    rng = np.random.default_rng(0)
    if name == "matmul":
        return [rng.standard_normal((size.side, size.side), np.float32) for _ in range(2)]
    if name.startswith("attention"):
        shape = size.batch, size.time, size.heads, size.head_dim
        return [rng.standard_normal(shape, np.float32) for _ in range(3 + ("backward" in name))]
    if name == "gelu":
        return kernels.inputs("softmax", size.rows, size.columns)
    return kernels.inputs(name, size.rows, size.columns)


def amount(name: str, size: Size, itemsize: int = 4) -> int:
    """Bytes that a kernel moves at least, or operations of the products in it: of attention half
    of all scores, and backward five products in place of two."""
    if name in MOVING:
        return MOVING[name] * size.rows * size.columns * itemsize
    if name == "matmul":
        return 2 * size.side**3
    forward = 2 * size.batch * size.heads * size.time**2 * size.head_dim
    return forward * 5 // 2 if "backward" in name else forward


def table(lib: Library) -> dict[str, Callable[..., Any]]:
    """The kernels."""
    vjp = lib.functions.vjp

    def gelu(x: Any) -> Any:
        return 0.5 * x * (1 + lib.functions.numbers.tanh(GELU * (x + 0.044715 * x * x * x)))

    return {
        **kernels.table_of(lib.functions),
        "gelu": gelu,
        "matmul": lambda x, y: x @ y,
        "attention": lib.attention,
        "attention backward": lambda q, k, v, dy: vjp(lib.attention, q, k, v)(dy),
    }


def job(library: str, name: str, size: Size, dtype: str, repeats: int, **given: Any) -> Job:
    """A kernel in a library: ``"lantern"``, ``"torch"`` or ``"jax"``.

    Args:
        library: which.
        name: of the kernel.
        size: of its operands.
        dtype: of its floats.
        repeats: how often a run does it.
        **given: what the library takes: `LIBRARIES`.
    """
    lib = LIBRARIES[library](**given)
    kernel = lib.compiled(table(lib)[name])
    arrays = [lib.put(x, dtype) for x in operands(name, size)]

    def run(clock: Clock) -> Any:
        results: Any = None
        for _ in range(repeats):
            results = kernel(*arrays)
        lib.wait(results)
        return results

    def check() -> list[Any]:
        return [np.asarray(lib_array(x), np.float32) for x in kernels.flat(run(Clock()))]

    return Job(check, run)


def lib_array(x: Any) -> Any:
    """A library's array as one of NumPy."""
    return x.detach().float().cpu().numpy() if hasattr(x, "detach") else np.array(x)


def lantern(backend: str) -> Library:
    """lantern's functions."""
    import lantern as ln

    def put(x: Array, dtype: str) -> Any:
        return ln.asarray(x) if x.dtype.kind != "f" else ln.asarray(x, dtype=dtype)

    return Library(
        kernels.of_lantern(),
        lambda q, k, v: ln.nn.attention(q, k, v, causal=True),
        lambda x, dtype: ln.cuda.asarray(put(x, dtype), backend=backend),
        lambda f: ln.compile(f, backend=backend),
        lambda results: ln.cuda.synchronize(backend=backend),
    )


def torch(device: str, compiled: bool) -> Library:
    """PyTorch's functions, with its fused ones."""
    import torch
    import torch.nn.functional as f

    def attention(*heads: Any) -> Any:
        q, k, v = (x.transpose(1, 2) for x in heads)
        return f.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

    def put(x: Array, dtype: str) -> Any:
        found = torch.asarray(x, device=device)
        return found if x.dtype.kind != "f" else found.to(getattr(torch, dtype))

    return Library(
        kernels.of_torch(),
        attention,
        put,
        torch.compile if compiled else lambda function: function,
        lambda results: torch.cuda.synchronize() if device == "cuda" else None,
    )


def jax() -> Library:
    """JAX's functions; float32 is not rounded in products."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_default_matmul_precision", "highest")

    def attention(q: Any, k: Any, v: Any) -> Any:
        return jax.nn.dot_product_attention(q, k, v, is_causal=True)

    def put(x: Array, dtype: str) -> Any:
        return jnp.asarray(x) if x.dtype.kind != "f" else jnp.asarray(x, dtype)

    return Library(
        kernels.of_jax(),
        attention,
        put,
        jax.jit,
        jax.block_until_ready,
    )


LIBRARIES: dict[str, Callable[..., Library]] = {"lantern": lantern, "torch": torch, "jax": jax}


def names(which: Sequence[str] = ()) -> list[str]:
    """The kernels of some names' beginnings; all of them if there is none."""
    every = [*MOVING, *COMPUTING]
    return [name for name in every if not which or name.startswith(tuple(which))]
