"""A call of every public function that may stand in a compiled function, on a few small arrays.

`CASES` maps the name a user writes to a function of the dictionary that `arguments` gives. What
depends on ``x`` is differentiated twice and batched, but for `VALUES_ONLY`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import lantern as ln

Arguments = dict[str, Any]
nn, la, random, optim = ln.nn, ln.linalg, ln.random, ln.optim


@ln.recursive
def repeated_sine(n: Any, x: Any) -> Any:
    """The sine of the sine of ..., ``n`` times."""
    return ln.cond(n <= 0, lambda: x, lambda: ln.sin(repeated_sine(n - 1, x)))


def arguments() -> Arguments:
    """Floats ``x``, ``y`` (3, 4) and ``s`` (4, 4) in (0, 1) but for the diagonal; ``i`` integers,
    ``b`` and ``c`` booleans, ``im`` an image, ``k`` a key."""
    rng = np.random.default_rng(0)
    spread = (rng.permutation(12) + 0.5) / 13
    return {
        "x": ln.asarray(spread.reshape(3, 4)),
        "y": ln.asarray(rng.permutation(spread).reshape(3, 4) * 0.9),
        "s": ln.asarray(rng.random((4, 4)) + 3 * np.eye(4)),
        "i": ln.asarray(rng.integers(0, 3, (3, 4))),
        "j": ln.asarray(rng.integers(1, 5, (3, 4))),
        "b": ln.asarray(rng.random((3, 4)) < 0.5),
        "c": ln.asarray(rng.random((3, 4)) < 0.5),
        "im": ln.asarray(rng.random((1, 2, 5, 5))),
        "k": ln.random.key(7),
    }


def square(a: Arguments) -> Any:
    """A well conditioned matrix that depends on ``x``."""
    return a["s"] + ln.matrix_transpose(a["x"]) @ a["x"]


def positive(a: Arguments) -> Any:
    """A symmetric, positive definite matrix."""
    m = square(a)
    return m @ ln.matrix_transpose(m) + ln.diag(ln.asarray([1.0, 2.0, 3.0, 4.0], dtype=float))


UNARY = """
    abs asin asinh atan atanh cos cosh digamma erf erfc exp exp2 expm1 flatten gelu leaky_relu
    lgamma log log10 log1p log2 log_sigmoid mean nan_to_num negative positive prod ravel reciprocal
    relu sigmoid silu sin sinh softmax softplus sqrt square std sum tan tanh var acos max
    min cumulative_sum ones_like zeros_like isfinite isinf isnan sign signbit floor ceil trunc round
    argmax argmin argsort sort any all count_nonzero logical_not flip diff roll
    logsumexp log_softmax trace triu tril diagonal matrix_transpose cumulative_prod
    stop_gradient"""
AXIS = {"softmax": {"axis": 1}, "log_softmax": {"axis": 0}, "cumulative_sum": {"axis": 1},
        "cumulative_prod": {"axis": 0}, "roll": {"shift": 1}, "std": {"axis": 1},}  # fmt: skip
BINARY = """add atan2 copysign divide equal floor_divide greater greater_equal hypot less less_equal
    logaddexp maximum minimum multiply nextafter not_equal pow remainder subtract"""
INTEGERS = "bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor"


def applied(f: Callable[..., Any], *names: str, **options: Any) -> Callable[[Arguments], Any]:
    """A function of some of the arguments."""
    return lambda a: f(*(a[n] for n in names), **options)


CASES: dict[str, Callable[[Arguments], Any]] = {}
CASES |= {f"ln.{n}": applied(getattr(ln, n), "x", **AXIS.get(n, {})) for n in UNARY.split()}
CASES |= {f"ln.{n}": applied(getattr(ln, n), "x", "y") for n in BINARY.split()}
CASES |= {f"ln.{n}": applied(getattr(ln, n), "i", "j") for n in INTEGERS.split()}
CASES |= {
    f"ln.logical_{n}": applied(getattr(ln, f"logical_{n}"), "b", "c") for n in ("and", "or", "xor")
}
CASES |= {
    "ln.acosh": lambda a: ln.acosh(a["x"] + 1.0),
    "ln.inner": lambda a: ln.inner(a["x"], a["y"]),
    "ln.repeat": lambda a: ln.repeat(a["x"], 2, axis=1),
    "ln.squeeze": lambda a: ln.squeeze(a["x"][None], 0),
    "ln.isin": lambda a: ln.isin(a["i"], ln.asarray([0, 2])),
    "ln.arange": lambda a: ln.arange(2, 9, 3),
    "ln.asarray": lambda a: ln.asarray([a["x"][0, 0], 1.0, a["x"][1, 2]]),
    "ln.astype": lambda a: [ln.astype(a["x"], d) for d in (ln.float32, ln.bfloat16, ln.int8)],
    "ln.avg_pool1d": lambda a: ln.avg_pool1d(a["x"][None], 2),
    "ln.avg_pool2d": lambda a: ln.avg_pool2d(a["x"][None, None], 2, padding=1),
    "ln.max_pool1d": lambda a: ln.max_pool1d(a["x"][None], 2),
    "ln.max_pool2d": lambda a: ln.max_pool2d(a["x"][None, None], 2, stride=1),
    "ln.recursive": lambda a: repeated_sine(ln.asarray(3), a["x"]),
    "ln.cond": lambda a: ln.cond(a["x"][0, 0] > 0.5, ln.sin, ln.cos, a["x"]),
    "ln.switch": lambda a: ln.switch(a["i"][0, 0], [ln.sin, ln.cos, ln.exp], a["x"]),
    "ln.conv1d": lambda a: ln.conv1d(a["x"][None], a["y"][None, :, :2]),
    "ln.conv2d": lambda a: ln.conv2d(a["im"], a["x"][None, :2, None, :2] * ln.ones((1, 2, 2, 2))),
    "ln.conv_transpose1d": lambda a: ln.conv_transpose1d(a["x"][None], a["y"][:, None, :2]),
    "ln.conv_transpose2d": lambda a: ln.conv_transpose2d(
        a["x"][None, None], a["y"][None, None, :2, :2], stride=2
    ),
    "ln.bitwise_invert": lambda a: ln.bitwise_invert(a["i"]),
    "ln.broadcast_arrays": lambda a: ln.broadcast_arrays(a["x"], a["y"][0]),
    "ln.broadcast_to": lambda a: ln.broadcast_to(a["x"], (2, 3, 4)),
    "ln.checkpoint": lambda a: ln.checkpoint(lambda x: ln.sin(x) * x)(a["x"]),
    "ln.clip": lambda a: ln.clip(a["x"], 0.3, a["y"]),
    "ln.compile": lambda a: ln.compile(lambda x: x * 2.0)(a["x"]),
    "ln.concat": lambda a: ln.concat([a["x"], a["y"]], axis=1),
    "ln.cross": lambda a: ln.cross(a["x"][:, :3], a["y"][:, :3]),
    "ln.custom_vjp": lambda a: halved(a["x"]),
    "ln.diag": lambda a: (ln.diag(a["x"]), ln.diag(a["x"][0], 1)),
    "ln.dot": lambda a: ln.dot(a["x"], a["s"]),
    "ln.einsum": lambda a: ln.einsum("ij,kj->ik", a["x"], a["y"]),
    "ln.empty": lambda a: ln.empty((2, 2)) * 0 == 1,
    "ln.empty_like": lambda a: ln.empty_like(a["x"]) * 0 == 1,
    "ln.expand_dims": lambda a: ln.expand_dims(a["x"], 1),
    "ln.eye": lambda a: ln.eye(3, 4, k=1),
    "ln.fori_loop": lambda a: ln.fori_loop(0, 3, lambda i, x: ln.sin(x) * 1.1, a["x"]),
    "ln.full": lambda a: ln.full((2, 3), 0.5),
    "ln.full_like": lambda a: ln.full_like(a["x"], 0.5),
    "ln.grad": lambda a: ln.grad(lambda x: ln.sum(ln.sin(x)))(a["x"]),
    "ln.value_and_grad": lambda a: ln.value_and_grad(lambda x: ln.sum(ln.sin(x)))(a["x"]),
    "ln.hessian": lambda a: ln.hessian(lambda x: ln.sum(x**3))(a["x"][0]),
    "ln.hvp": lambda a: ln.hvp(lambda x: ln.sum(x**3), (a["x"],), (a["y"],)),
    "ln.jacfwd": lambda a: ln.jacfwd(ln.sin)(a["x"][0]),
    "ln.jacrev": lambda a: ln.jacrev(ln.sin)(a["x"][0]),
    "ln.jacobian": lambda a: ln.jacobian(ln.sin)(a["x"][0]),
    "ln.jvp": lambda a: ln.jvp(ln.sin, (a["x"],), (a["y"],)),
    "ln.vjp": lambda a: ln.vjp(ln.sin, a["x"])[1](a["y"]),
    "ln.linearize": lambda a: ln.linearize(ln.sin, a["x"])[1](a["y"]),
    "ln.kron": lambda a: ln.kron(a["x"], a["y"][:2, :2]),
    "ln.linspace": lambda a: ln.linspace(a["x"][0, 0], a["x"][0, 1], 5),
    "ln.map": lambda a: ln.map(lambda r: ln.sin(r) * 2.0, a["x"]),
    "ln.matmul": lambda a: a["x"] @ a["s"],
    "ln.meshgrid": lambda a: ln.meshgrid(a["x"][0], a["y"][1]),
    "ln.moveaxis": lambda a: ln.moveaxis(a["x"], 0, 1),
    "ln.ones": lambda a: ln.ones((2, 3)),
    "ln.zeros": lambda a: ln.zeros((2, 3)),
    "ln.outer": lambda a: ln.outer(a["x"][0], a["y"][1]),
    "ln.outline": lambda a: ln.outline(lambda x: ln.sin(x) * x)(a["x"]),
    "ln.pad": lambda a: ln.pad(a["x"], ((1, 0), (0, 2))),
    "ln.permute_dims": lambda a: ln.permute_dims(a["x"], (1, 0)),
    "ln.polygamma": lambda a: ln.polygamma(1, a["x"] + 0.5),
    "ln.reshape": lambda a: ln.reshape(a["x"], (2, 6)),
    "ln.scan": lambda a: ln.scan(lambda c, r: (c * r + 1.0, ln.sin(c)), a["y"][0], a["x"]),
    "ln.searchsorted": lambda a: ln.searchsorted(ln.sort(a["y"][0]), a["x"]),
    "ln.split": lambda a: ln.split(a["x"], 2, axis=1),
    "ln.stack": lambda a: ln.stack([a["x"], a["y"]], axis=1),
    "ln.swapaxes": lambda a: ln.swapaxes(a["x"], 0, 1),
    "ln.take": lambda a: ln.take(a["x"], a["i"][0], axis=0),
    "ln.take_along_axis": lambda a: ln.take_along_axis(a["x"], a["i"], axis=1),
    "ln.tensordot": lambda a: ln.tensordot(a["x"], a["s"], axes=1),
    "ln.tile": lambda a: ln.tile(a["x"], (2, 1)),
    "ln.topk": lambda a: ln.topk(a["x"], 2),
    "ln.unstack": lambda a: ln.unstack(a["x"]),
    "ln.vecdot": lambda a: ln.vecdot(a["x"], a["y"]),
    "ln.vmap": lambda a: ln.vmap(lambda r, q: ln.sum(r * q))(a["x"], a["y"]),
    "ln.mixed_precision": lambda a: ln.mixed_precision(ln.sin)(a["x"]),
    "ln.while_loop": lambda a: ln.while_loop(
        lambda s: s[0] < 3, lambda s: (s[0] + 1, ln.sin(s[1])), (ln.asarray(0), a["x"])
    ),
    "ln.where": lambda a: ln.where(a["b"], a["x"], a["y"]),
    "ln.linalg.cholesky": lambda a: la.cholesky(positive(a)),
    "ln.linalg.cross": lambda a: la.cross(a["x"][:, :3], a["y"][:, :3]),
    "ln.linalg.det": lambda a: la.det(square(a)),
    "ln.linalg.diagonal": lambda a: la.diagonal(a["x"]),
    "ln.linalg.eigh": lambda a: [la.eigh(positive(a))[0], la.eigh(positive(a))[1] ** 2],
    "ln.linalg.eigvalsh": lambda a: la.eigvalsh(positive(a)),
    "ln.linalg.inv": lambda a: la.inv(square(a)),
    "ln.linalg.matmul": lambda a: la.matmul(a["x"], a["s"]),
    "ln.linalg.matrix_norm": lambda a: [la.matrix_norm(a["x"], ord=o) for o in ("fro", 1, 2)],
    "ln.linalg.matrix_power": lambda a: la.matrix_power(square(a), -2),
    "ln.linalg.matrix_rank": lambda a: la.matrix_rank(a["x"]),
    "ln.linalg.matrix_transpose": lambda a: la.matrix_transpose(a["x"]),
    "ln.linalg.norm": lambda a: la.norm(a["x"]),
    "ln.linalg.outer": lambda a: la.outer(a["x"][0], a["y"][1]),
    "ln.linalg.pinv": lambda a: la.pinv(square(a)[:, :3]),
    "ln.linalg.qr": lambda a: [v**2 for v in la.qr(square(a)[:, :3])],
    "ln.linalg.slogdet": lambda a: la.slogdet(square(a))[1],
    "ln.linalg.solve": lambda a: la.solve(square(a), a["s"][:, :2]),
    "ln.linalg.svd": lambda a: [v**2 for v in la.svd(square(a)[:, :3], full_matrices=False)],
    "ln.linalg.svdvals": lambda a: la.svdvals(square(a)),
    "ln.linalg.tensordot": lambda a: la.tensordot(a["x"], a["s"], axes=1),
    "ln.linalg.trace": lambda a: la.trace(a["x"]),
    "ln.linalg.vecdot": lambda a: la.vecdot(a["x"], a["y"]),
    "ln.linalg.vector_norm": lambda a: la.vector_norm(a["x"], axis=1, ord=3),
    "ln.nn.apply_rope": lambda a: nn.apply_rope(
        a["x"][None, :, None], ln.arange(3), nn.rope_frequencies(4, 100.0)
    ),
    "ln.nn.rope_frequencies": lambda a: nn.rope_frequencies(4, 100.0),
    "ln.nn.attention": lambda a: nn.attention(
        a["x"][None, :, None], a["y"][None, :, None], a["y"][None, :, None], causal=True
    ),
    "ln.nn.batch_norm": lambda a: nn.batch_norm(
        a["x"], nn.batch_norm_init(4, dtype=float)[1], training=True, axis=1
    ),
    "ln.nn.batch_norm_init": lambda a: nn.batch_norm_init(4),
    "ln.nn.layer_norm": lambda a: nn.layer_norm(a["x"], a["y"][0], a["y"][1]),
    "ln.nn.layer_norm_init": lambda a: nn.layer_norm_init(4),
    "ln.nn.rms_norm": lambda a: nn.rms_norm(a["x"], a["y"][0]),
    "ln.nn.rms_norm_init": lambda a: nn.rms_norm_init(4),
    "ln.nn.linear": lambda a: nn.linear(a["x"], a["s"], a["y"][0]),
    "ln.nn.linear_init": lambda a: nn.linear_init(a["k"], 4, 3),
    "ln.nn.embedding": lambda a: nn.embedding(a["x"], a["i"]),
    "ln.nn.embedding_init": lambda a: nn.embedding_init(a["k"], 5, 4),
    "ln.nn.dropout": lambda a: nn.dropout(a["k"], a["x"], 0.5),
    "ln.nn.bce_with_logits": lambda a: nn.bce_with_logits(a["x"], a["b"] * 1.0),
    "ln.nn.cross_entropy": lambda a: nn.cross_entropy(a["x"], a["i"][:, 0], label_smoothing=0.1),
    "ln.nn.linear_cross_entropy": lambda a: nn.linear_cross_entropy(
        a["x"], a["s"], ln.asarray([0, 3, 1])
    ),
    "ln.nn.mse": lambda a: nn.mse(a["x"], a["y"]),
    "ln.nn.ctc": lambda a: nn.ctc(
        ln.log_softmax(a["x"], axis=-1)[:, None],
        ln.asarray([[1, 2]]),
        ln.asarray([3]),
        ln.asarray([2]),
    ),
    "ln.random.bernoulli": lambda a: random.bernoulli(a["k"], 0.4, (5,)),
    "ln.random.bits": lambda a: random.bits(a["k"], (5,)),
    "ln.random.categorical": lambda a: random.categorical(a["k"], a["x"]),
    "ln.random.choice": lambda a: random.choice(a["k"], a["x"], (2,)),
    "ln.random.exponential": lambda a: random.exponential(a["k"], (5,)),
    "ln.random.fold_in": lambda a: random.fold_in(a["k"], 3),
    "ln.random.gumbel": lambda a: random.gumbel(a["k"], (5,)),
    "ln.random.key": lambda a: random.key(3),
    "ln.random.normal": lambda a: random.normal(a["k"], (5,)),
    "ln.random.permutation": lambda a: random.permutation(a["k"], 6),
    "ln.random.randint": lambda a: random.randint(a["k"], (5,), 0, 9),
    "ln.random.split": lambda a: random.split(a["k"], 2),
    "ln.random.truncated_normal": lambda a: random.truncated_normal(a["k"], (5,), float, 1.0),
    "ln.random.uniform": lambda a: random.uniform(a["k"], (5,)),
}


@ln.custom_vjp
def halved(x: Any) -> Any:
    dz = yield ln.sin(x)
    return dz * ln.cos(x) * 0.5


def cell(name: str) -> None:
    """Cases of a recurrent cell and of how it begins."""
    init, step = getattr(nn, f"{name}_cell_init"), getattr(nn, f"{name}_cell")
    CASES[f"ln.nn.{name}_cell_init"] = lambda a: init(a["k"], 4, 2)

    def run(a: Arguments) -> Any:
        params = init(ln.random.key(0), 4, 2, dtype=float)
        state = ln.zeros((3, 2), dtype=float)
        return step(params, (state, state) if name == "lstm" else state, a["x"])[1]

    CASES[f"ln.nn.{name}_cell"] = run


for _name in ("rnn", "gru", "lstm"):
    cell(_name)


def unrolled(a: Arguments) -> Any:
    params = nn.rnn_cell_init(ln.random.key(0), 4, 2, dtype=float)
    return nn.unroll(nn.rnn_cell, params, ln.zeros((2,), dtype=float), a["x"])


def optimized(optimizer: Any) -> Callable[[Arguments], Any]:
    """Two steps of an optimiser."""

    def run(a: Arguments) -> Any:
        params = {"w": a["y"], "b": a["y"][0]}
        state = optimizer.init(params)
        for _ in range(2):
            gradients = {"w": a["x"] * params["w"], "b": ln.cos(params["b"])}
            updates, state = optimizer.update(gradients, state, params)
            params = optim.apply_updates(params, updates)
        return params

    return run


CASES |= {
    "ln.nn.unroll": unrolled,
    "ln.optim.adagrad": optimized(optim.adagrad(0.1)),
    "ln.optim.adamw": optimized(optim.adamw(0.1, weight_decay=0.1)),
    "ln.optim.add_decayed_weights": optimized(optim.add_decayed_weights(0.1)),
    "ln.optim.apply_updates": lambda a: optim.apply_updates(a["y"], a["x"]),
    "ln.optim.chain": optimized(optim.chain(optim.clip_by_global_norm(0.5), optim.sgd(0.1))),
    "ln.optim.clip_by_global_norm": optimized(optim.clip_by_global_norm(0.5)),
    "ln.optim.constant": optimized(optim.sgd(optim.constant(0.1))),
    "ln.optim.linear": optimized(optim.sgd(optim.linear(0.1, 0.2, 5))),
    "ln.optim.warmup_cosine": optimized(optim.sgd(optim.warmup_cosine(0.1, 2, 9))),
    "ln.optim.global_norm": lambda a: optim.global_norm([a["x"], a["y"]]),
    "ln.optim.sgd": optimized(optim.sgd(0.1, momentum=0.9)),
}

# Of these only the values are compared: discrete, differentiated elsewhere, or so flat that what is
# left of a derivative is rounding (optimisers normalise; float32 and bfloat16 are too coarse).
VALUES_ONLY = {n for n in CASES if n.startswith(("ln.random.", "ln.optim."))} | {
    "ln.astype",
    "ln.compile",
    "ln.mixed_precision",
    "ln.nextafter",
}

NOT_COMPILED = dict.fromkeys(
    ("ln.nonzero", "ln.unique", "ln.unique_all", "ln.unique_counts", "ln.unique_inverse",
     "ln.unique_values"),
    "the shape of the result depends on the elements",
) | dict.fromkeys(
    ("ln.broadcast_shapes", "ln.can_cast", "ln.finfo", "ln.iinfo", "ln.isdtype", "ln.result_type",
     "ln.eval_shape", "ln.carbon.abandon", "ln.carbon.entries", "ln.carbon.grid",
     "ln.carbon.hardware", "ln.carbon.total"),
    "gives no array",
) | {
    "ln.from_dlpack": "reads memory of another library",
    "ln.batch": "takes recursive functions of items; see test_batch.py",
    "ln.cuda.asarray": "takes memory of another library",
    "ln.cuda.is_available": "gives no array",
    "ln.cuda.stream": "says where work goes",
    "ln.cuda.synchronize": "waits, and gives no array",
}  # fmt: skip
