"""Compiled functions: the same results, and a new program when something that they read changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lantern as ln
from examples.llama3 import model
from examples.llama3.config import ModelConfig
from lantern.errors import StagingError


def wave(x: ln.Tensor) -> ln.Tensor:
    return x * ln.sin(x) + ln.where(x < 0.5, x, 2.0)


def agree(f, *args, rtol: float = 1e-12) -> None:
    """The compiled function gives what the eager one does: integers exactly, floats to rounding."""
    got, want = ln.compile(f, backend="interpreter")(*args), f(*args)
    assert ln.tree.structure(got) == ln.tree.structure(want)
    for a, b in zip(ln.tree.leaves(got), ln.tree.leaves(want), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        a, b = np.asarray(a), np.asarray(b)
        if b.dtype.kind in "biu":
            np.testing.assert_array_equal(a, b)
        else:
            scale = float(np.max(np.abs(b), initial=0.0))
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale)


# What compile does --------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", [lambda f: f, ln.vmap, lambda f: ln.vmap(ln.grad(f))])
def test_compiled_functions_agree_with_eager_ones(transform) -> None:
    agree(transform(wave), ln.asarray([0.3, 0.7, 1.1]), rtol=1e-6)


def test_the_program_names_the_users_line() -> None:
    line = wave.__code__.co_firstlineno + 1
    assert f"test_compile.py:{line}" in ln.compile(wave).ir(ln.asarray([1.0]))


@ln.custom_vjp
def doubled_slope(x):
    dz = yield x * 1.0
    return ln.sin(dz * 2.0)


def layered(x: ln.Tensor) -> ln.Tensor:
    y = ln.tanh(x)
    z = doubled_slope(y)
    z = ln.checkpoint(lambda v: ln.exp(v) * v)(z)
    return ln.sum(z)


def test_backward_operations_carry_the_line_of_the_forward_one() -> None:
    line = layered.__code__.co_firstlineno
    places = {  # op -> its lines, and whether it is backward
        "tanh": [(line + 1, False)],
        "sub": [(line + 1, True)],  # of 1 - y² in tanh's rule
        "sin": [(line - 3, True)],  # the user's own rule says more than the call of it
        "exp": [(line + 3, False), (line + 3, True)],  # recomputed
    }
    for transform in (ln.grad, lambda f: lambda x: ln.vmap(ln.grad(f))(x[None])):
        text = ln.compile(transform(layered)).ir(ln.asarray([0.5, 1.0])).splitlines()
        for op, wanted in places.items():
            found = [row for row in text if f" = {op}(" in row]
            for row, (number, backwards) in zip(found, wanted, strict=True):
                mark = " (backward)" if backwards else ""
                assert row.endswith(f"test_compile.py:{number}{mark}'"), row


def test_a_second_derivative_is_marked_once() -> None:
    slope = ln.grad(lambda x: ln.sum(ln.tanh(x)))
    text = ln.compile(ln.grad(lambda x: ln.sum(slope(x)))).ir(ln.asarray([0.5]))
    assert "(backward) (backward)" not in text and "(backward)" in text


def test_a_changed_closure_is_not_missed() -> None:
    rate = 2.0
    table = [ln.asarray([1.0, 2.0])]

    def scaled(x: ln.Tensor) -> ln.Tensor:
        return x * rate + table[0]

    compiled = ln.compile(scaled)
    x = ln.asarray([1.0, 1.0])
    assert compiled(x).tolist() == [3.0, 4.0]
    rate = 3.0
    assert compiled(x).tolist() == [4.0, 5.0]
    table[0] = ln.asarray([10.0, 20.0])
    assert compiled(x).tolist() == [13.0, 23.0]


def test_arrays_are_inputs_and_numbers_too() -> None:
    compiled = ln.compile(lambda x, n: x * n)
    assert [compiled(2.0, n).item() for n in (1, 2.5, np.float32(3))] == [2.0, 5.0, 6.0]


def test_compiled_functions_nest() -> None:
    inner = ln.compile(wave)
    agree(lambda v: inner(v) * v, ln.asarray([0.3, 0.7]), rtol=1e-6)


def test_a_compiled_function_inside_another_is_written_once() -> None:
    inner = ln.compile(wave)
    program = ln.compile(ln.grad(lambda v: ln.sum(inner(inner(v))))).program(ln.ones(3))
    calls = [op for op in program.block.ops if op.name == "call"]
    assert len(calls) == 4 and len({op.blocks[0] for op in calls}) == 2, "two halves"


COMPILED = ln.compile(lambda v, n=2: ln.sin(v) * v**n * v + ln.sum(v), static="n")


@pytest.mark.parametrize(
    "transform",
    (
        lambda f: lambda v: ln.grad(lambda x: ln.sum(f(x) ** 2))(v),
        lambda f: lambda v: ln.vmap(f)(v[:, None] * v),
        lambda f: lambda v: ln.jvp(f, (v,), (v * 2,)),
        ln.jacobian,
        lambda f: ln.hessian(lambda v: ln.sum(f(v) ** 2)),
        lambda f: lambda v: ln.vjp(f, v)[1](v),
        lambda f: lambda v: ln.vmap(ln.grad(lambda x: ln.sum(f(x))))(v[:, None] * v),
        lambda f: lambda v: ln.grad(lambda x: f(x * v, n=3)[0] + ln.sum(f(x, 1)))(v),
        lambda f: ln.compile(ln.grad(lambda v: ln.sum(f(v) * v)), backend="interpreter"),
        lambda f: lambda v: ln.grad(lambda x: ln.sum(ln.checkpoint(f)(x)))(v),
    ),
)
def test_transformations_of_a_compiled_function(transform) -> None:
    v = ln.asarray([0.3, 0.7, 1.1], dtype=ln.float64)
    for _ in range(2):
        got, want = transform(COMPILED)(v), transform(COMPILED.f)(v)
        for a, b in zip(ln.tree.leaves(got), ln.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


def test_derivatives_of_a_compiled_function_see_what_changes() -> None:
    rate, runs = 2.0, []

    @ln.compile
    def f(x):
        runs.append(1)
        return ln.sum(x * x) * rate

    slope = ln.grad(f)
    x = ln.asarray([1.0, 2.0])
    assert slope(x).tolist() == [4.0, 8.0]
    count = len(runs)
    runs.clear()
    assert slope(x + 1.0).tolist() == [8.0, 12.0]
    rate = 1.0
    assert slope(x).tolist() == [2.0, 4.0]
    assert ln.grad(lambda y: f(x * y))(3.0).item() == 30.0
    assert count == 1


def test_a_leaked_value_is_refused() -> None:
    leaked: list[ln.Tensor] = []

    def leaky(x: ln.Tensor) -> ln.Tensor:
        leaked.append(x)
        return x * leaked[0]

    compiled = ln.compile(leaky)
    with pytest.raises(StagingError, match=r"leaked\[0\], which leaky reads, holds a value"):
        compiled(ln.asarray([1.0]))
    with pytest.raises(StagingError, match="leaked out"):
        leaked[0] + 1.0


def test_equal_captured_arrays_are_one_parameter() -> None:
    def f(x: ln.Tensor) -> ln.Tensor:
        for _ in range(3):
            x = x[ln.arange(3)] * ln.asarray([1.0, 2.0, 4.0]) + ln.ones(3)
        return x

    first = ln.compile(f).ir(ln.ones(3)).splitlines()[0]
    assert first.count("float32[3]") == 2, "the argument and one constant; the rest is written out"
    agree(f, ln.ones(3))


# Transformations ----------------------------------------------------------------------------------


def curve(v: ln.Tensor) -> ln.Tensor:
    return ln.sin(v) * v * v + ln.sum(v)


@ln.custom_vjp
def clipped(x):
    dz = yield x * 2
    return ln.clip(dz, -0.1, 0.1)


def energy(v: ln.Tensor) -> ln.Tensor:
    return ln.sum(curve(v) ** 2)


@pytest.mark.parametrize(
    "f",
    (
        lambda v: ln.jvp(curve, (v,), (v * 2,)),
        ln.jacobian(curve),
        ln.hessian(energy),
        lambda v: ln.hvp(energy, (v,), (v * v,)),
        lambda v: ln.vjp(curve, v)[1](v),
        ln.grad(lambda v: ln.sum(ln.checkpoint(curve)(v) ** 2)),
        lambda v: ln.grad(ln.grad(ln.grad(lambda u: ln.sin(u) * u)))(v[0]),
        lambda v: ln.jvp(ln.grad(energy), (v,), (v,)),
        lambda v: ln.vmap(ln.grad(energy))(v[:, None] * v),
        ln.grad(lambda v: ln.sum(clipped(v) ** 2)),
        lambda v: ln.vmap(ln.grad(lambda u: ln.sum(clipped(u) ** 2)))(v[:, None] * v),
        lambda v: ln.grad(lambda u: ln.sum(ln.linspace(u[0], u[1], 5) ** 2))(v),
        lambda v: [ln.asarray([v[0], 1.0, v[2]]), ln.full((2, 3), v[0]), *v],
        lambda v: (ln.std(v), ln.clip(v, 0.4, v[1]), v // 0.2, v % 0.2, 2**v, abs(-v), v @ v),
    ),
)
def test_transformations_inside(f) -> None:
    agree(f, ln.asarray([0.3, 0.7, 1.1], dtype=ln.float64))


# Whole programs -----------------------------------------------------------------------------------


def normal(seed: int, *shape: int, dtype=np.float64) -> ln.Tensor:
    return ln.random.normal(ln.random.key(seed), shape, dtype)


X = normal(0, 3, 5, 8)
IMAGES = normal(1, 2, 3, 7, 8)
KEY = ln.random.key(3)
BATCH_NORM = ln.nn.batch_norm_init(8, dtype=np.float64)
RNN, LSTM, GRU = (
    init(KEY, 8, 4, dtype=np.float64)
    for init in (ln.nn.rnn_cell_init, ln.nn.lstm_cell_init, ln.nn.gru_cell_init)
)
LAYERS = {
    "linear": (ln.nn.linear, X, normal(2, 6, 8), normal(3, 6)),
    "rms_norm": (ln.nn.rms_norm, X, normal(2, 8)),
    "layer_norm": (
        ln.nn.layer_norm, X, normal(2, 8), normal(3, 8),
    ),
    "batch_norm": (
        lambda x, w: ln.nn.batch_norm(x, BATCH_NORM[1], w, training=True, axis=2),
        X, normal(2, 8),
    ),
    "dropout": (lambda x: ln.nn.dropout(KEY, x, 0.4), X),
    "attention": (
        lambda q, k: ln.nn.attention(q, k, k * 0.5, mask=ln.tril(ln.ones((5, 5), dtype=bool))),
        normal(4, 2, 5, 4, 8), normal(5, 2, 5, 2, 8),
    ),
    "rope": (
        lambda x: ln.nn.apply_rope(x, ln.arange(5), ln.nn.rope_frequencies(8, 1e4)),
        normal(4, 2, 5, 4, 8),
    ),
    "rnn": (lambda p, h, x: ln.nn.rnn_cell(p, h, x)[1], RNN, normal(7, 5, 4), X[0]),
    "gru": (lambda p, h, x: ln.nn.gru_cell(p, h, x)[1], GRU, normal(7, 5, 4), X[0]),
    "lstm": (
        lambda p, h, c, x: ln.nn.lstm_cell(p, (h, c), x)[1],
        LSTM, normal(7, 5, 4), normal(8, 5, 4), X[0],
    ),
    "convolution": (
        lambda x, w: ln.conv2d(x, w, stride=(2, 1), padding=1, dilation=(1, 2)), IMAGES,
        normal(9, 4, 3, 3, 2),
    ),
    "grouped_convolution": (
        lambda x, w: ln.conv2d(x, w, groups=3), IMAGES, normal(9, 6, 1, 2, 2),
    ),
    "transposed_convolution": (
        lambda x, w: ln.conv_transpose2d(x, w, stride=2), IMAGES, normal(9, 3, 2, 3, 2),
    ),
    "max_pool": (lambda x: ln.max_pool2d(x, (2, 3), padding=1), IMAGES),
    "avg_pool": (lambda x: ln.avg_pool2d(x, (2, 3), padding=1), IMAGES),
    "cross_entropy": (
        lambda x: ln.nn.cross_entropy(x, ln.asarray([[0, 1, 7, -100, 2]] * 3), label_smoothing=0.1),
        X,
    ),
    "mse": (ln.nn.mse, X, X * 0.5),
    "bce": (lambda x: ln.nn.bce_with_logits(x, (X > 0) * 1.0), X),
    "ctc": (
        lambda x: ln.nn.ctc(
            ln.log_softmax(x, axis=-1), ln.asarray([[1, 2], [3, 3], [1, 0], [2, 0], [5, 0]]),
            ln.asarray([3, 3, 2, 3, 1]), ln.asarray([2, 1, 1, 1, 1]),
        ),
        X,
    ),
    "activations": (
        lambda x: ln.silu(x) + ln.gelu(x) + ln.softplus(x) + ln.relu(x) * ln.leaky_relu(x), X
    ),
    "einsum": (lambda x, y: ln.einsum("abc,adc->bd", x, y), X, normal(6, 3, 2, 8)),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_layers_and_losses(name) -> None:
    f, *args = LAYERS[name]

    def loss(*args):
        return sum(ln.mean(ln.sin(y)) for y in ln.tree.leaves(f(*args)))

    agree(ln.value_and_grad(loss, argnums=tuple(range(len(args)))), *args)


def test_targets_and_tokens_that_are_not_there_are_errors_of_the_run() -> None:
    loss = ln.compile(lambda x, y: ln.nn.cross_entropy(x, y))
    rows = ln.compile(lambda w, t: ln.nn.embedding(w, t))
    logits, weight = ln.zeros((2, 3)), ln.zeros((4, 2))
    for bad in (-1, 3):
        with pytest.raises(IndexError, match="out of range"):
            loss(logits, ln.asarray([0, bad]))
    for bad in (-1, 4):
        with pytest.raises(IndexError, match="out of range"):
            rows(weight, ln.asarray([0, bad]))


@pytest.mark.parametrize(
    "make",
    (
        lambda: ln.optim.sgd(0.1, momentum=0.9),
        lambda: ln.optim.adamw(ln.optim.warmup_cosine(0.1, 2, 9), weight_decay=0.1),
        lambda: ln.optim.chain(ln.optim.clip_by_global_norm(0.5), ln.optim.adamw(0.1)),
    ),
)
def test_optimizers(make) -> None:
    optimizer = make()
    params = {"w": normal(0, 3, 4), "b": normal(1, 4, dtype=np.float32)}

    def step(params, state, gradients):
        updates, state = optimizer.update(gradients, state, params)
        return ln.optim.apply_updates(params, updates), state

    gradients = ln.tree.map(lambda p: ln.cos(p * 3.0), params)
    state = optimizer.init(params)
    for _ in range(2):
        agree(step, params, state, gradients, rtol=1e-6)
        params, state = step(params, state, gradients)


DRAWS = {
    "bits": lambda k: ln.random.bits(k, (7,)),
    "split": lambda k: ln.random.split(k, 3),
    "fold_in": lambda k: ln.random.fold_in(k, 2**40 + 5),
    "randint": lambda k: ln.random.randint(k, (3, 4), -5, 9),
    "uniform": lambda k: [ln.random.uniform(k, (5,), d) for d in (np.float16, np.float32, float)],
    "double": lambda k: ln.random.uniform(k, (5,), np.float64, -1.0, 2.0),
    "permutation": lambda k: ln.random.permutation(k, 9),
    "bernoulli": lambda k: ln.random.bernoulli(k, 0.3, (9,)),
    "choice": lambda k: ln.random.choice(k, 9, (4,), p=ln.arange(9.0) / 36),
    "categorical": lambda k: ln.random.categorical(k, ln.arange(9.0)),
    "vmap": lambda k: ln.vmap(lambda i: ln.random.bits(ln.random.fold_in(k, i)))(ln.arange(4)),
}


@pytest.mark.parametrize("name", DRAWS)
def test_random_numbers_are_the_same_bits(name) -> None:
    agree(DRAWS[name], KEY, rtol=0.0)


def test_continuous_random_numbers() -> None:
    def draws(k):
        return (
            ln.random.normal(k, (9,)), ln.random.normal(k, (9,), np.float64),
            ln.random.truncated_normal(k, (9,), np.float64, 0.5), ln.random.gumbel(k, (9,)),
            ln.random.exponential(k, (9,)),
        )  # fmt: skip

    agree(draws, KEY, rtol=5e-7)


# A model ------------------------------------------------------------------------------------------


def test_llama() -> None:
    config = ModelConfig(vocab=31, dim=16, layers=2, heads=4, kv_heads=2, ffn=20)
    params = model.init(ln.random.key(0), config, np.float64)
    rng = np.random.default_rng(0)
    tokens, targets = (ln.asarray(rng.integers(0, 31, (2, 9))) for _ in range(2))
    segments = ln.asarray([[0] * 4 + [1] * 5, [0] * 9])

    def loss(params, tokens, targets, segments):
        return model.loss(params, tokens, targets, segments, config)

    agree(ln.value_and_grad(loss), params, tokens, targets, segments, rtol=1e-10)

    optimizer = ln.optim.adamw(1e-2)

    def step(params, state, tokens, targets, segments):
        value, gradients = ln.value_and_grad(loss)(params, tokens, targets, segments)
        updates, state = optimizer.update(gradients, state, params)
        return value, ln.optim.apply_updates(params, updates), state

    compiled, state = ln.compile(step), optimizer.init(params)
    mine, theirs = (params, state), (params, state)
    for _ in range(3):
        value, *mine = compiled(*mine, tokens, targets, segments)
        wanted, *theirs = step(*theirs, tokens, targets, segments)
        np.testing.assert_allclose(value.item(), wanted.item(), rtol=1e-9)


def test_what_is_done_to_the_leaves_of_a_tree_has_the_users_line() -> None:
    def twice(xs: Any) -> Any:
        return ln.tree.map(lambda x: ln.sin(x), xs)

    line = twice.__code__.co_firstlineno + 1
    text = ln.compile(lambda x: twice({"a": x})).ir(ln.ones(2))
    assert f"test_compile.py:{line}'" in next(row for row in text.splitlines() if "sin(" in row)
