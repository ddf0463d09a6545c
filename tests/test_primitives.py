"""What every primitive keeps: a rule linear in its adjoint, derivatives right to second order in
both modes, a batch that equals a loop. All that a new primitive may need is an example here.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import pkgutil
from types import FunctionType

import numpy as np
import pytest

import lantern as ln
import lantern.primitives
from lantern.control import Primitive, Scatter, conform, resume, suspend
from lantern.tensor import Tensor
from lantern.testing import check_grads


def every_primitive() -> dict[str, Primitive]:
    """All primitives that some module of lantern.primitives declares."""
    found = {}
    for module in pkgutil.iter_modules(lantern.primitives.__path__):
        for name, value in vars(
            importlib.import_module(f"lantern.primitives.{module.name}")
        ).items():
            prim = getattr(value, "primitive", None)
            if isinstance(value, FunctionType) and isinstance(prim, Primitive):
                found.setdefault(name, prim)
    return found


PRIMITIVES = every_primitive()
RULES = {name: prim for name, prim in PRIMITIVES.items() if prim.rule is not None}


def random(*shape: int, low: float = 0.2, high: float = 0.8) -> np.ndarray:
    """Distinct numbers in (0.2, 0.8), in the domain of nearly every function."""
    size = int(np.prod(shape, dtype=int))
    generator = np.random.default_rng(sum(shape) + size)
    steps = generator.permutation(size) + generator.uniform(0.3, 0.7, size)
    return (low + (high - low) * steps / max(size, 1)).reshape(shape)


def square(*lead: int, n: int = 3) -> np.ndarray:
    return random(*lead, n, n) + 2 * np.eye(n) * np.arange(1, n + 1)


def symmetric(*lead: int) -> np.ndarray:
    x = square(*lead)
    return x + np.swapaxes(x, -1, -2)


def example(*args, **params):
    return args, params


def ints(*values):
    return np.asarray(values)


WINDOW = {"stride": (2,), "dilation": (1,), "padding": ((1, 0),)}
SPACE = {"stride": (1, 2), "dilation": (2, 1), "padding": ((1, 0), (0, 1))}
AXES = [example(random(3, 2), axes=a) for a in ((0,), (1,), (0, 1), ())]
SCANS = [example(random(3, 2), axis=a, reverse=r) for a in (0, 1) for r in (False, True)]

QUERIES = random(2, 1, 2, 2, 2), random(2, 1, 3, 2), random(2, 1, 3, 1)
OF_QUERIES, OF_KEYS = np.asarray([[0, 1], [1, 2]]), np.asarray([[0, 0, 1], [1, 1, 1]])
ATTENTION = [
    example(*QUERIES, causal=False, segmented=False),
    example(*QUERIES, causal=True, segmented=False),
    example(*QUERIES, OF_QUERIES, OF_KEYS, causal=True, segmented=True),
    example(*QUERIES, random(1, 1, 2, 2, 3) > 0.4, causal=False, segmented=False),
    example(
        *QUERIES, OF_QUERIES, OF_KEYS, random(2, 1, 1, 2, 3) > 0.4, causal=False, segmented=True
    ),
]

LINEAR = [
    example(random(3, 2), random(4, 2) * 2, ints(0, 3, 3), smoothing=epsilon)
    for epsilon in (0.0, 0.1)
]

# name -> examples: operands and static parameters. Without an entry every operand is random(2, 3).
EXAMPLES = {
    "absolute": [example(random(4) - 0.5)],
    "acosh": [example(random(3) + 1.0)],
    "adam": [
        example(
            *(random(3) * k for k in (1.0, 0.5, 2.0, 1.5)), *(np.float64(s) for s in scalars), **b
        )
        for scalars in ((0.1, 1.2, 0.01), (0.1, 1.0, 0.0))
        for b in [{"b1": 0.9, "b2": 0.99, "eps": 1e-3}]
    ],
    "attention": ATTENTION,
    "attention_adjoint": [
        example(
            *operands[:3],
            random(*sums),
            random(*sums, 1),
            random(*sums) - 0.3,
            *operands[3:],
            **how,
        )
        for operands, how in ATTENTION
        for sums in [operands[0].shape[:4]]
    ],
    "broadcast_to": [example(random(3, 1), shape=(2, 3, 4)), example(random()[()], shape=(2,))],
    "cast": [example(random(3), dtype=np.dtype(np.float64))],
    "cholesky": [example(symmetric(2))],
    "cofactors": [example(square(2))],
    "complement": [example(np.linalg.qr(random(4, 2))[0])],
    "concat": [example(random(2, 3), random(1, 3), axis=0), example(random(2, 1), axis=1)],
    "cumulative_prod": SCANS,
    "cumulative_sum": SCANS,
    "det": [example(square(2))],
    "diagonal": [example(random(2, 3, 4), offset=k) for k in (0, 1, -1)],
    "eigh": [example(symmetric(2))],
    "eigvalsh": [example(symmetric(2))],
    "embed": [
        example(random(2, 2), index=((0, 4, 2), 1, (2, -1, -2)), shape=(4, 3, 3)),
    ],
    "euclidean_norm": AXES[:3],
    "flip": AXES,
    "fold": [
        example(random(2, 2, 2, 3), lengths=(5,), **WINDOW),
        example(random(1, 2, 2, 3, 2), lengths=(4, 4), **SPACE),
    ],
    "from_diagonal": [
        example(random(2, 3), offset=k, shape=s)
        for k, s in ((0, (3, 3)), (1, (3, 4)), (-1, (4, 3)))
    ],
    "gather": [
        example(random(4, 2), ints(0, 3, 3)),
        example(random(4, 3, 2), np.asarray([[0], [3]]), ints(1, 1, 2)),
    ],
    "guarded_reciprocal": [example(random(2, 3), np.asarray(0.01)[()])],
    "inv": [example(square(2))],
    "linear_loss": [example(*x, random(3), **how) for x, how in LINEAR],
    "linear_loss_slopes": [example(*x, random(3), **how) for x, how in LINEAR],
    "linear_losses": LINEAR,
    "log_softmax": AXES[:3],
    "logsumexp": AXES[:3],
    "matmul": [
        example(random(2, 3), random(3, 4)),
        example(random(2, 2, 3), random(3, 4)),
        example(random(2, 3), random(5, 3, 4)),
        example(random(2, 1, 2, 3), random(1, 5, 3, 2)),
    ],
    "permute": [example(random(2, 3, 4), axes=(2, 0, 1))],
    "pinv": [example(random(2, 4, 3) + np.eye(4, 3), np.full((2, 1, 1), 1e-9))],
    "polygamma": [example(random(3) + 0.5, order=k) for k in (1, 2)],
    "qr": [example(random(2, 4, 3) + np.eye(4, 3))],
    "recurrence": [
        example(random(3, 2), random(3, 2) + 1, axis=a, reverse=r)
        for a in (0, 1)
        for r in (False, True)
    ],
    "reduce_max": AXES[:3],
    "reduce_min": AXES[:3],
    "reduce_prod": AXES,
    "reduce_sum": AXES,
    "remainder": [example(random(4) * 9, random(4) - 1.3)],
    "reshape": [example(random(2, 3), shape=(3, 1, 2))],
    "scatter_add": [
        example(random(4, 2), random(3, 2), ints(0, 3, 3)),
        example(random(4, 3), random(2, 2), np.asarray([[0], [3]]), ints(1, 2)),
    ],
    "scatter_extreme": [
        example(random(4), random(3) + 0.01, ints(0, 3, 3), largest=b) for b in (True, False)
    ],
    "scatter_set": [
        example(random(4, 2), random(3, 2), ints(0, 3, 3)),
        example(random(4, 3), random(2, 2), np.asarray([[0], [3]]), ints(1, 2)),
    ],
    "second_cofactors": [example(square(2), random(2, 3, 3))],
    "slice_add": [example(random(4, 3), random(2), index=((0, 4, 2), 1))],
    "slice_set": [example(random(4, 3), random(2), index=((0, 4, 2), 1))],
    "slogdet": [example(square(2))],
    "softmax": AXES[:3],
    "solve": [
        example(square(2), random(2, 3, 1)),
        example(square(), random(2, 3, 2)),
        example(square(2), random(3, 2)),
    ],
    "split": [
        example(random(5, 2), sizes=(2, 0, 3), axis=0),
        example(random(2, 3), sizes=(3,), axis=1),
    ],
    "static_slice": [
        example(random(4, 3, 3), index=((0, 4, 2), 1, (2, -1, -2))),
        example(random(3, 2), index=(0, 1)),
    ],
    "svd": [example(random(2, 4, 3) + np.eye(4, 3)), example(random(2, 3) + np.eye(2, 3))],
    "svdvals": [example(random(2, 4, 3) + np.eye(4, 3))],
    "where": [
        example(np.asarray([[True, False, True]]), random(2, 3), random(3)),
        example(random(2, 1) > 0.5, random()[()], random(3)),
    ],
    "windows": [
        example(random(2, 2, 5), size=(2,), **WINDOW),
        example(random(1, 4, 4), size=(2, 2), **SPACE),
    ],
}


def examples(name: str) -> list:
    if name in EXAMPLES:
        return EXAMPLES[name]
    assert RULES[name].rule is not None
    parameters = inspect.signature(RULES[name].rule).parameters.values()
    plain = all(p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty for p in parameters)
    assert plain, f"add an example for the primitive {name} to EXAMPLES in {__file__}"
    operands = [random(2, 3) * (1 - k / 8) for k in range(len(parameters))]
    found = [example(*operands), example(*(x[0, 0] for x in operands))]
    if len(operands) == 2:
        x, y = operands
        found += [example(x, y[0]), example(x[:, :1], y[0]), example(x[0, 0], y)]
    return found


def is_floating(x) -> bool:
    return np.asarray(x).dtype.kind == "f"


def parts(out) -> tuple:
    return out if type(out) is tuple else (out,)


def backward(prim: Primitive, values, params, *adjoints) -> list[np.ndarray]:
    """The adjoints of the floating operands, dense."""
    rest, out = suspend(prim, values, params)
    found = resume(prim, rest, len(values), adjoints if type(out) is tuple else adjoints[0])
    dense = []
    for value, adjoint in zip(values, found, strict=True):
        value = np.asarray(value)
        if not is_floating(value):
            continue
        adjoint = adjoint() if type(adjoint) is FunctionType else adjoint
        if adjoint is None:
            adjoint = np.zeros(value.shape)
        if type(adjoint) is Scatter:
            adjoint = adjoint.add_to(None, value.shape, value.dtype)
        dense.append(np.asarray(conform(adjoint, value.shape, value.dtype, prim)))
    return dense


@pytest.mark.parametrize("name", RULES)
def test_rule_is_linear_in_its_adjoint(name):
    prim, generator = RULES[name], np.random.default_rng(0)
    for values, params in examples(name):
        _, out = suspend(prim, values, params)
        u, w = (
            [np.asarray(generator.standard_normal(np.shape(y)))[()] for y in parts(out)]
            for _ in range(2)
        )
        mixed = [2.0 * a - 3.0 * b for a, b in zip(u, w, strict=True)]
        both = zip(
            backward(prim, values, params, *u), backward(prim, values, params, *w), strict=True
        )
        for got, (a, b) in zip(backward(prim, values, params, *mixed), both, strict=True):
            np.testing.assert_allclose(got, 2.0 * a - 3.0 * b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", RULES)
def test_rule_and_kernel_compute_the_same(name):
    prim = RULES[name]
    if prim.kernel is None:
        return
    for values, params in examples(name):
        _, by_rule = suspend(prim, values, params)
        by_kernel = prim.kernel(*values, **params)
        for a, b in zip(parts(by_rule), parts(by_kernel), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-14)
            assert np.asarray(a).dtype == np.asarray(b).dtype


# Invariant under what their derivative leaves open: signs and bases of vectors.
FOLDED = {
    "complement": lambda q: ln.matmul(q, ln.matrix_transpose(q)),
    "eigh": lambda w, v: (w, v * v),
    "qr": lambda q, r: (q * q, r * r),
    "svd": lambda u, s, vh: (u * u, s, vh * vh),
}
SYMMETRIC = {"cholesky", "eigh", "eigvalsh"}


@pytest.mark.parametrize("name", RULES)
def test_derivatives_to_second_order(name):
    prim = RULES[name]
    for values, params in examples(name):
        places = [i for i, v in enumerate(values) if is_floating(v)]
        if name in ("guarded_reciprocal", "pinv"):  # the limit is no argument to differentiate
            places = places[:1]

        def f(*xs, values=values, params=params, places=places):
            full = [Tensor(np.asarray(v)[()]) for v in values]
            for i, x in zip(places, xs, strict=True):
                if name in SYMMETRIC:
                    x = (x + ln.matrix_transpose(x)) * 0.5
                if name == "complement":
                    x = ln.linalg.qr(x)[0]
                full[i] = x
            out = prim.perform(*full, **params)
            return FOLDED[name](*parts(out)) if name in FOLDED else out

        check_grads(f, tuple(values[i] for i in places), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_batch_is_a_loop(name):
    prim = RULES[name]
    for values, params in examples(name):
        stacks = [
            np.stack([v, v[::-1] if np.ndim(v) == 1 and not is_floating(v) else v, v])
            if not is_floating(v)
            else np.stack([v, v * 1.01, v * 0.99])
            for v in map(np.asarray, values)
        ]
        choices = itertools.product((True, False), repeat=len(values))
        if len(values) > 4:
            choices = [(True,) * len(values), (True, *(False,) * (len(values) - 1))]
        for mapped in choices:
            if not any(mapped):
                continue
            args = [
                s if m else np.asarray(v)[()]
                for s, v, m in zip(stacks, values, mapped, strict=True)
            ]

            def run(*xs, params=params):
                return prim.perform(*(x if type(x) is Tensor else Tensor(x) for x in xs), **params)

            got = ln.vmap(run, in_axes=tuple(0 if m else None for m in mapped))(*args)
            for k in range(3):
                one = run(*(a[k] if m else a for a, m in zip(args, mapped, strict=True)))
                for a, b in zip(parts(got), parts(one), strict=True):
                    np.testing.assert_allclose(a[k], b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_float32_stays_float32(name):
    prim = RULES[name]
    for values, params in examples(name):
        if name == "cast":
            continue
        values = [np.asarray(v, np.float32)[()] if is_floating(v) else v for v in values]
        rest, out = suspend(prim, values, params)
        for y in parts(out):
            assert y.dtype == np.float32
        ones = tuple(np.ones(y.shape, y.dtype)[()] for y in parts(out))
        found = resume(prim, rest, len(values), ones if type(out) is tuple else ones[0])
        for v, a in zip(values, found, strict=True):
            if not is_floating(v):
                assert a is None
                continue
            a = a() if type(a) is FunctionType else a
            if a is not None and type(a) is not Scatter and hasattr(a, "dtype"):
                assert a.dtype == np.float32, "computed in a wider dtype than the operands'"
