"""Optimisers: against PyTorch step by step, their pieces, and derivatives through them."""

from __future__ import annotations

import math

import numpy as np
import pytest

import lantern as ln
from lantern import io, optim, tree
from lantern.errors import ShapeError
from lantern.primitives.optimizers import adam
from lantern.testing import check_grads


def array(x):
    return np.asarray(x)


def values(seed, dtype=np.float64):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return ln.asarray(rng.standard_normal(shape).astype(dtype))

    return {"w": draw(3, 4), "layers": [draw(5), draw()]}


def train(optimizer, steps, dtype=np.float64):
    """Parameters after each step, the gradients being random."""
    params = values(0, dtype)
    state = optimizer.init(params)
    history = []
    for step in range(steps):
        updates, state = optimizer.update(values(step + 1, dtype), state, params)
        params = optim.apply_updates(params, updates)
        history.append(params)
    return history


def schedule(count):
    return 0.1 / (1 + 0.1 * ln.astype(ln.asarray(count), ln.float64))


CASES = {
    "sgd": (optim.sgd(0.1), "SGD", {"lr": 0.1}),
    "momentum": (optim.sgd(0.1, 0.9), "SGD", {"lr": 0.1, "momentum": 0.9}),
    "nesterov": (optim.sgd(0.1, 0.9, True), "SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "decayed": (
        optim.chain(optim.add_decayed_weights(0.2), optim.sgd(0.1, 0.9)),
        "SGD",
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.2},
    ),
    "adagrad": (
        optim.adagrad(0.1, initial=0.3),
        "Adagrad",
        {"lr": 0.1, "initial_accumulator_value": 0.3},
    ),
    "adam": (optim.adamw(0.1, weight_decay=0.0), "Adam", {"lr": 0.1}),
    "adamw": (
        optim.adamw(0.1, 0.8, 0.95, 1e-6, 0.3),
        "AdamW",
        {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.3},
    ),
    "scheduled": (optim.adamw(schedule), "AdamW", {"lr": 0.1}),
}


@pytest.mark.peer
@pytest.mark.parametrize("name", CASES)
def test_against_pytorch(name):
    torch = pytest.importorskip("torch")
    optimizer, peer, options = CASES[name]
    theirs = [torch.tensor(array(x).copy()) for x in tree.leaves(values(0))]
    opt = getattr(torch.optim, peer)(theirs, **options)
    for step, params in enumerate(train(optimizer, 12)):
        for p, g in zip(theirs, tree.leaves(values(step + 1)), strict=True):
            p.grad = torch.tensor(array(g).copy())
        if name == "scheduled":
            opt.param_groups[0]["lr"] = float(schedule(step))
        opt.step()
        for p, x in zip(theirs, tree.leaves(params), strict=True):
            np.testing.assert_allclose(array(x), p.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.peer
def test_clipping_against_pytorch():
    torch = pytest.importorskip("torch")
    grads = values(1)
    theirs = [torch.zeros(x.shape, dtype=torch.float64) for x in tree.leaves(grads)]
    for p, g in zip(theirs, tree.leaves(grads), strict=True):
        p.grad = torch.tensor(array(g).copy())
    norm = torch.nn.utils.clip_grad_norm_(theirs, 0.5)
    assert float(optim.global_norm(grads)) == pytest.approx(float(norm), rel=1e-12)
    clipped, _ = optim.clip_by_global_norm(0.5).update(grads, (), None)
    for p, g in zip(theirs, tree.leaves(clipped), strict=True):
        np.testing.assert_allclose(array(g), p.grad.numpy(), rtol=1e-6)


def test_clipping():
    clip = optim.clip_by_global_norm(1.0)
    small = {"a": ln.asarray([0.3, 0.4]), "b": ln.asarray(np.float64(0.1))}
    kept, _ = clip.update(small, clip.init(small), small)
    assert all(
        (array(x) == array(y)).all() for x, y in zip(kept.values(), small.values(), strict=True)
    )
    assert kept["a"].dtype == np.float32 and kept["b"].dtype == np.float64
    zero = clip.update(ln.zeros((3,)), (), None)[0]
    assert (array(zero) == 0).all()
    assert float(optim.global_norm(ln.asarray(np.full(9, 100, np.float16)))) == 300
    assert array(ln.grad(optim.global_norm)(ln.zeros((3,)))).tolist() == [0, 0, 0]
    check_grads(lambda g: clip.update(g, (), None)[0], ({"a": ln.asarray([3.0, 4.0])},))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes_stay(name, dtype):
    dtype = np.dtype(dtype)
    optimizer = CASES[name][0]
    params = values(0, np.float32)
    params = tree.map(lambda x: ln.astype(x, dtype), params)
    state = optimizer.init(params)
    updates, after = optimizer.update(params, state, params)
    assert tree.structure(after) == tree.structure(state)
    for old, new in zip(tree.leaves(state), tree.leaves(after), strict=True):
        assert old.dtype == new.dtype and old.shape == new.shape
    for p, u in zip(tree.leaves(params), tree.leaves(updates), strict=True):
        assert u.dtype == dtype and u.shape == p.shape
    for x in tree.leaves(after):
        assert x.dtype in (np.float32, np.int64)


def test_masks():
    params = values(0)
    zero = tree.map(lambda x: 0 * x, params)
    mask = {"w": True, "layers": [False, False]}
    by_rank = lambda p: tree.map(lambda x: x.ndim > 1, p)  # noqa: E731
    for chosen in (mask, by_rank):
        for optimizer in (
            optim.adamw(0.1, weight_decay=0.5, mask=chosen),
            optim.chain(optim.add_decayed_weights(0.5, mask=chosen), optim.sgd(0.1)),
        ):
            updates, _ = optimizer.update(zero, optimizer.init(params), params)
            np.testing.assert_allclose(array(updates["w"]), -0.05 * array(params["w"]))
            assert all((array(x) == 0).all() for x in updates["layers"])
    with pytest.raises(ValueError, match="expected the structure of the parameters"):
        optim.adamw(0.1, mask={"w": True}).update(zero, optim.adamw(0.1).init(params), params)


def test_schedules():
    warm = optim.warmup_cosine(2.0, 4, 12, 0.5)
    found = [float(warm(n)) for n in range(15)]
    expected = [0.5, 1.0, 1.5, 2.0]
    expected += [0.5 + 0.75 * (1 + math.cos(math.pi * k / 8)) for k in range(9)] + [0.5, 0.5]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert float(optim.warmup_cosine(1.0, 0, 10)(0)) == 1
    straight = optim.linear(1.0, 0.0, 10)
    np.testing.assert_allclose([float(straight(n)) for n in (0, 5, 10, 20)], [1, 0.5, 0, 0])
    for s in (warm, straight, optim.constant(0.3)):
        assert s(3).dtype == np.float32
        batch = ln.vmap(s)(ln.arange(15))
        np.testing.assert_array_equal(array(batch), [array(s(n)) for n in range(15)])
    for bad in (lambda: optim.linear(1.0, 0.0, 0), lambda: optim.warmup_cosine(1.0, 5, 5)):
        with pytest.raises(ValueError, match="expected"):
            bad()


def by_hand(g, m, v, p, rate, scale, decay, b1=0.9, b2=0.99, eps=1e-3):
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * g * g
    return -(rate * m / (ln.sqrt(scale * v) + eps) + decay * p), m, v


def step(*args):
    return adam(*args, b1=0.9, b2=0.99, eps=1e-3)


def adam_arguments(shape, dtype=np.float64):
    rng = np.random.default_rng(0)
    arrays = [ln.asarray(rng.standard_normal(shape).astype(dtype)) for _ in range(4)]
    arrays[2] = arrays[2] ** 2
    return (*arrays, *(ln.asarray(np.asarray(s, dtype)) for s in (0.1, 1.5, 0.01)))


@pytest.mark.parametrize("shape", [(), (0,), (3, 2), (16385,)])
def test_adam_primitive(shape):
    args = adam_arguments(shape)
    for found, expected in zip(step(*args), by_hand(*args), strict=True):
        np.testing.assert_allclose(array(found), array(expected), rtol=1e-12)
    if len(shape) == 2:
        check_grads(step, args)
        transposed = tuple(x.T if x.ndim == 2 else x for x in args)
        np.testing.assert_allclose(array(step(*transposed)[0]), array(step(*args)[0]).T)


@pytest.mark.parametrize("mapped", [(0,), (3,), (4, 5), (0, 1, 2, 3, 4, 5, 6), (6,)])
def test_adam_under_vmap(mapped):
    args = adam_arguments((3, 2))
    batch = [ln.stack((x, 2 * x, x / 2)) if i in mapped else x for i, x in enumerate(args)]
    axes = tuple(0 if i in mapped else None for i in range(7))
    found = ln.vmap(step, in_axes=axes)(*batch)
    for k in range(3):
        expected = step(*(x[k] if i in mapped else x for i, x in enumerate(batch)))
        for f, e in zip(found, expected, strict=True):
            np.testing.assert_allclose(array(f)[k], array(e), rtol=1e-12)


@pytest.mark.parametrize("name", ["momentum", "adagrad", "adamw"])
def test_derivative_through_training(name):
    """The loss after two steps, differentiated with respect to where training began."""
    optimizer = CASES[name][0]

    def loss(p):
        return ln.sum((p - 1) ** 4)

    def after(p):
        state = optimizer.init(p)
        for _ in range(2):
            updates, state = optimizer.update(ln.grad(loss)(p), state, p)
            p = optim.apply_updates(p, updates)
        return loss(p)

    check_grads(after, (ln.asarray([0.3, -0.7, 2.0]),), order=1)


def test_derivative_with_respect_to_the_rate():
    w = ln.asarray([1.0, 2.0], dtype=ln.float64)

    def after(rate):
        optimizer = optim.adamw(rate, weight_decay=0.1)
        return ln.sum(w + optimizer.update(w, optimizer.init(w), w)[0])

    check_grads(after, (0.5,))
    slope = ln.grad(lambda r: ln.sum(optim.sgd(r).update(w, optim.sgd(r).init(w), w)[0]))(0.1)
    assert float(slope) == -3


def test_gradient_is_finite_where_a_moment_is_zero():
    optimizer = optim.adamw(0.1)
    w = ln.asarray([1.0, 2.0])

    def f(g):
        return ln.sum(optimizer.update(g, optimizer.init(w), w)[0])

    assert np.isfinite(array(ln.grad(f)(ln.zeros((2,))))).all()


def test_several_models_at_once():
    optimizer = optim.chain(optim.clip_by_global_norm(0.5), optim.adamw(0.1))
    models = ln.asarray([[1.0, 2.0], [-3.0, 0.5]])

    def one(w):
        updates, state = optimizer.update(w * w, optimizer.init(w), w)
        return optimizer.update(w + updates, state, w)[0]

    both = array(ln.vmap(one)(models))
    np.testing.assert_allclose(both, [array(one(m)) for m in models], rtol=1e-6)


def test_resuming_is_bit_identical(tmp_path):
    """Four steps, or two, a checkpoint, and two more."""
    optimizer = optim.chain(
        optim.clip_by_global_norm(0.5), optim.adamw(optim.warmup_cosine(0.1, 2, 9))
    )
    data = array(ln.random.normal(ln.random.key(7), (32, 3)))

    def loss(params, x, noise):
        return ln.sum((x @ params["w"] + params["b"] + noise) ** 2)

    def run(state, until):
        params, opt, step, position, key = state
        while step < until:
            key, noise = ln.random.split(key)
            batch = ln.asarray(data[position : position + 4])
            gradients = ln.grad(loss)(params, batch, ln.random.normal(noise, (4,)))
            updates, opt = optimizer.update(gradients, opt, params)
            params = optim.apply_updates(params, updates)
            step, position = step + 1, position + 4
        return io.TrainingState(params, opt, step, position, key)

    params = {"w": ln.asarray([1.0, -2.0, 0.5]), "b": ln.asarray(0.0)}
    start = io.TrainingState(params, optimizer.init(params), 0, 0, ln.random.key(3))
    whole = run(start, 4)
    io.save(tmp_path / "half", run(start, 2))
    resumed = run(io.load(tmp_path / "half", like=start), 4)
    assert type(resumed.step) is int and resumed.step == 4
    for a, b in zip(tree.leaves(whole), tree.leaves(resumed), strict=True):
        assert array(a).tobytes() == array(b).tobytes()


def test_gradients_of_another_structure_are_refused():
    params, gradients = {"a": ln.ones((2,))}, {"b": ln.ones((2,))}
    for optimizer in (optim.sgd(0.1), optim.sgd(0.1, 0.9), optim.adagrad(0.1), optim.adamw(0.1)):
        with pytest.raises(ShapeError, match=r"'b'.*'a'|'a'.*'b'"):
            optimizer.update(gradients, optimizer.init(params), params)
    with pytest.raises(ShapeError, match=r"a tree is PyTreeSpec\(\(\*,\)\)"):
        tree.map(lambda a, b: a, [1], (2,))
    with pytest.raises(ValueError, match="from the function"):
        tree.map(lambda a, b: (_ for _ in ()).throw(ValueError("from the function")), [1], [2])
    with pytest.raises(ValueError, match="limit -1; expected 0 or more"):
        optim.clip_by_global_norm(-1)
