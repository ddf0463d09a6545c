"""Donated arguments: their memory is used again, nobody else's is, and what is dead says so."""

from __future__ import annotations

import numpy as np
import pytest

import lantern as ln
from lantern.errors import ArgumentError, DonatedError


def step(params, state, x):
    grads = ln.tree.map(lambda p: p * ln.sum(x), params)
    state = ln.tree.map(lambda s, g: 0.5 * s + g, state, grads)
    return ln.tree.map(lambda p, s: p - 0.1 * s, params, state), state


def parameters():
    return {"w": ln.ones((4, 3)), "b": ln.zeros(3)}


X = ln.asarray([1.0, 2.0])


@pytest.mark.parametrize("donate", (("params", "state"), (0, 1), ["params", 1]))
def test_memory_is_used_again(donate) -> None:
    compiled = ln.compile(step, donate=donate)
    params, state = parameters(), parameters()
    where = {x.value.__array_interface__["data"] for x in ln.tree.leaves((params, state))}
    want = step(*step(params, state, X), X)
    got = compiled(params, state, X)
    assert {x.value.__array_interface__["data"] for x in ln.tree.leaves(got)} == where
    got = compiled(*got, X)
    for a, b in zip(ln.tree.leaves(got), ln.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert X.tolist() == [1.0, 2.0]


def test_a_large_result_of_a_compiled_function_can_be_donated() -> None:
    x = ln.compile(lambda n: ln.ones((600, 600)) * n)(3)
    where = x.value.__array_interface__["data"]
    double = ln.compile(lambda x: x + x, donate="x")
    for factor in (2, 4, 8):
        x = double(x)
        assert x.value.__array_interface__["data"] == where and float(x[5, 5]) == 3 * factor
    view = np.asarray(x)
    with pytest.raises(DonatedError, match="holds its memory"):
        double(x)
    assert view[0, 0] == 24


def test_by_keyword_and_of_numbers() -> None:
    compiled = ln.compile(lambda x, *, n: (x + n, n + 1), donate="n")
    n = ln.asarray(1.0)
    assert compiled(X, n=n)[0].tolist() == [2.0, 3.0]
    with pytest.raises(DonatedError):
        n + 1
    assert compiled(X, n=2.0)[0].tolist() == [3.0, 4.0]
    assert compiled(X, n=np.ones(2, np.float32))[0].tolist() == [2.0, 3.0]
    with pytest.raises(ArgumentError, match=r"donate='m'"):
        ln.compile(lambda x: x, donate="m")
    with pytest.raises(ArgumentError, match="both donated and static"):
        ln.compile(lambda x: x, donate="x", static="x")


USES = {
    "operator": lambda x: x + 1,
    "reflected": lambda x: 1 - x,
    "function": lambda x: ln.exp(x),
    "method": lambda x: x.sum(),
    "shape": lambda x: x.shape,
    "numpy": np.asarray,
    "numpy function": np.sum,
    "index": lambda x: x[0],
    "list": lambda x: x.tolist(),
    "float": lambda x: float(x[0, 0]),
    "gradient": ln.grad(lambda x: ln.sum(x)),
    "batch": ln.vmap(lambda x: x),
    "compiled": ln.compile(lambda x: x * 2, backend="interpreter"),
    "print": str,
    "repr": repr,
    "copy": lambda x: ln.asarray(x, copy=True),
    "other": lambda x: ln.ones((4, 3)) @ x.T,
}


@pytest.mark.parametrize("use", USES)
def test_what_was_donated_says_so(use) -> None:
    params = parameters()
    w, b = params["w"], params["b"]
    ln.compile(step, donate="params")(params, parameters(), X)
    with pytest.raises(DonatedError, match=r"as params\['w'\], to step at .*test_compile_donation"):
        USES[use](w)
    with pytest.raises(DonatedError, match=r"params\['b'\]"):
        b * 2


def refused(message, params, state=None, x=X, donate=("params",)) -> None:
    """The call is refused, and nothing has been taken."""
    compiled = ln.compile(step, donate=donate, backend="interpreter")
    state = ln.tree.map(ln.zeros_like, params) if state is None else state
    before = [np.array(p) for p in ln.tree.leaves((params, state, x))]
    with pytest.raises(DonatedError, match=message):
        compiled(params, state, x)
    for a, b in zip(ln.tree.leaves((params, state, x)), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_shared_memory_is_not_taken() -> None:
    w = ln.ones((3, 3))
    refused(r"params\['b'\].*shares its memory with params\['w'\]", {"b": w, "w": w})
    tied = {"w": w, "b": w[0]}
    refused(r"params\['b'\].*shares its memory with params\['w'\]", tied)
    params = parameters()
    refused(r"params\['b'\].*shares its memory with state\['b'\]", params, params)
    refused(r"x cannot be donated: it shares", params, x=params["b"], donate=("x",))
    del w, tied
    for hold in (np.asarray, lambda x: x[1:], np.from_dlpack, lambda x: ln.reshape(x, (-1,))):
        params = parameters()
        held = [hold(p) for p in params.values()]
        refused(r"params\['b'\] cannot be donated: .*holds", params)
        del held
        ln.compile(step, donate="params")(params, parameters(), X)


def test_memory_of_others_is_not_taken() -> None:
    owner = np.ones((4, 3), np.float32)
    for shared in (ln.asarray(owner, copy=False), ln.from_dlpack(owner)):
        refused(r"params\['w'\] cannot be donated", {"w": shared, "b": ln.zeros(3)})
    flat = ln.asarray(np.ones(24, np.float32))
    part = flat[:12]
    refused(r"params\['w'\] cannot be donated", {"w": ln.reshape(part, (4, 3)), "b": ln.zeros(3)})


def test_what_the_function_closes_over_is_not_taken() -> None:
    w = ln.ones(3)
    compiled = ln.compile(lambda x: x + w, donate=0)
    with pytest.raises(DonatedError, match=r"x cannot be donated.*closes over"):
        compiled(w)
    assert compiled(ln.zeros(3)).tolist() == [1.0] * 3


def test_what_a_derivative_holds_is_not_taken() -> None:
    compiled = ln.compile(lambda x: x * 2.0, donate=0)
    x = ln.ones(3)
    _, pullback = ln.vjp(lambda v: v * v, x)
    with pytest.raises(DonatedError, match="x cannot be donated"):
        compiled(x)
    assert pullback(ln.ones(3))[0].tolist() == [2.0] * 3
    assert compiled(x).tolist() == [2.0] * 3


def test_a_call_that_fails_has_taken_what_it_was_given() -> None:
    compiled = ln.compile(lambda x, i: (x * 2)[i], donate="x")
    x = ln.ones(3)
    with pytest.raises(IndexError):
        compiled(x, 5)
    with pytest.raises(DonatedError):
        x + 1


def test_garbage_that_has_not_been_collected_yet_holds_nothing() -> None:
    """A cycle of a handled error's frames may still refer to an array."""
    x = ln.asarray(np.ones(3, np.float32), copy=True)
    garbage: list[object] = [x.value]
    garbage.append(garbage)
    del garbage
    (y,) = ln.compile(lambda x: (x + 1.0,), donate=("x",))(x)
    np.testing.assert_array_equal(y, 2.0)


def test_arrays_of_numpy_stay_as_they_are() -> None:
    given, scale = np.ones(3, np.float32), np.float32(2.0)
    compiled = ln.compile(lambda x, y: (x * y, x), donate="x")
    doubled, same = compiled(given, scale)
    given[:] = 7.0  # no result sees it
    assert np.asarray(doubled).tolist() == [2.0] * 3 and np.asarray(same).tolist() == [1.0] * 3
    assert np.asarray(compiled(given, scale)[0]).tolist() == [14.0] * 3
    assert given.tolist() == [7.0] * 3


def test_each_call_says_where_it_was() -> None:
    compiled = ln.compile(step, donate="params")
    places = []
    for _ in range(2):
        one, other = parameters(), parameters()
        compiled(one, parameters(), X)
        compiled(other, parameters(), X)
        for params in (one, other):
            with pytest.raises(DonatedError) as caught:
                params["w"] * 2
            places.append(int(str(caught.value).split("test_compile_donation.py:")[1].split()[0]))
    first = places[0]
    assert places == [first, first + 1, first, first + 1]
