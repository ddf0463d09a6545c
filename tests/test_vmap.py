"""vmap: against a loop, its axes and pytrees, under and over differentiation, its errors."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lantern as ln
from lantern.errors import BatchingError, ShapeError
from lantern.testing import check_grads
from lantern.testing import strategies as lst

f64 = np.float64
A = np.arange(12.0).reshape(3, 4) / 7


def loop(f, args, in_axes, out_axis=0):
    """What vmap means: f on each example, the results stacked."""
    size = next(np.shape(a)[x] for a, x in zip(args, in_axes, strict=True) if x is not None)
    rows = [
        f(*(a if x is None else np.take(a, i, x) for a, x in zip(args, in_axes, strict=True)))
        for i in range(size)
    ]
    return np.stack([np.asarray(r) for r in rows], out_axis)


# Axes and pytrees --------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.data())
def test_vmap_is_a_loop(data):
    shape_x = data.draw(lst.shapes(max_dims=2))
    shape_y = data.draw(lst.shapes(max_dims=2))
    try:
        result = np.broadcast_shapes(shape_x, shape_y)
    except ValueError:
        shape_y, result = shape_x, shape_x
    size = data.draw(st.integers(1, 3))
    x_axis = data.draw(lst.axis(len(shape_x) + 1))
    y_axis = data.draw(st.none() | lst.axis(len(shape_y) + 1))
    out_axis = data.draw(lst.axis(len(result) + 1))

    def full(shape, axis):
        if axis is None:
            return shape
        axis %= len(shape) + 1
        return (*shape[:axis], size, *shape[axis:])

    x = np.asarray(data.draw(lst.tensors(full(shape_x, x_axis))))
    y = np.asarray(data.draw(lst.tensors(full(shape_y, y_axis))))

    def f(x, y):
        return ln.sin(x) * y + ln.sum(y, axis=None) * x

    got = ln.vmap(f, in_axes=(x_axis, y_axis), out_axes=out_axis)(x, y)
    np.testing.assert_allclose(got, loop(f, (x, y), (x_axis, y_axis), out_axis))
    check_grads(ln.vmap(f, (x_axis, y_axis), out_axis), (x, y), order=1)


@ln.tree.dataclass
@dataclasses.dataclass
class Params:
    w: object
    b: object = None
    scale: float = dataclasses.field(default=2.0, metadata={"static": True})


def test_prefixes_and_pytrees():
    def f(p, batch):
        assert p.scale == 3.0
        return {"y": batch["x"] * p.w * p.scale, "w": p.w, "none": None}

    args = (Params(f64(2.0), None, 3.0), {"x": A, "ids": (np.arange(3),)})
    got = ln.vmap(f, in_axes=(None, 0), out_axes={"y": 1, "w": None, "none": 0})(*args)
    np.testing.assert_allclose(got["y"], (A * 6.0).T)
    assert float(got["w"]) == 2.0
    assert got["none"] is None
    got = ln.vmap(f, in_axes=(None, {"x": -1, "ids": None}))(*args)
    np.testing.assert_allclose(got["y"], (A * 6.0).T)
    np.testing.assert_allclose(got["w"], np.full(4, 2.0))
    got = ln.vmap(lambda p, s: p.w, in_axes=[0, None])(Params(A), "static argument")
    np.testing.assert_allclose(got, A)


def test_keyword_arguments_are_batched():
    got = ln.vmap(lambda x, *, k: x * k, in_axes=1)(A, k=np.arange(4.0))
    np.testing.assert_allclose(got, (A * np.arange(4.0)).T)


def test_axis_size():
    got = ln.vmap(lambda x: x * 2.0, in_axes=None, axis_size=3)(f64(1.5))
    np.testing.assert_allclose(got, np.full(3, 3.0))
    assert ln.vmap(lambda: 1.0, axis_size=2)().shape == (2,)
    assert ln.vmap(lambda x: ln.sum(x))(np.ones((0, 3))).shape == (0,)


def test_as_a_decorator_it_keeps_name_and_documentation():
    @ln.vmap
    def double(x):
        """Twice."""
        return x * 2.0

    assert (double.__name__, double.__doc__) == ("double", "Twice.")


def test_nested_closures():
    table = ln.vmap(lambda x: ln.vmap(lambda y: x * y)(A[0]))(A[1])
    np.testing.assert_allclose(table, np.outer(A[1], A[0]))
    three = ln.vmap(lambda x: ln.vmap(lambda y: ln.vmap(lambda z: x + y * z)(A[0]))(A[1]))(A[2])
    np.testing.assert_allclose(
        three, A[2][:, None, None] + A[1][None, :, None] * A[0][None, None, :]
    )


def test_ranks_align_by_example():
    # an example of x has no axes, one of y has one: they broadcast as examples, not as batches
    got = ln.vmap(lambda x, y: x * y + x)(np.arange(3.0), np.ones((3, 3)))
    np.testing.assert_allclose(got, np.repeat(np.arange(3.0)[:, None] * 2, 3, 1))


# Under and over differentiation ------------------------------------------------------------------


def network(w, x):
    return ln.sum(ln.tanh(ln.matmul(w["a"], x)) * w["b"])


WEIGHTS = {"a": np.asarray([[0.1, -0.4, 0.7, 0.2], [0.5, 0.3, -0.2, 0.9]]), "b": f64(0.7)}


def test_gradients_of_each_example():
    rows = ln.vmap(ln.grad(network), in_axes=(None, 0))(WEIGHTS, A)
    for i in range(3):
        one = ln.grad(network)(WEIGHTS, A[i])
        np.testing.assert_allclose(rows["a"][i], one["a"])
        np.testing.assert_allclose(rows["b"][i], one["b"])


def test_gradient_of_a_batch_is_the_sum_of_gradients():
    def total(w):
        return ln.sum(ln.vmap(network, in_axes=(None, 0))(w, A))

    whole = ln.grad(total)(WEIGHTS)
    rows = ln.vmap(ln.grad(network), in_axes=(None, 0))(WEIGHTS, A)
    np.testing.assert_allclose(whole["a"], np.sum(np.asarray(rows["a"]), 0))
    np.testing.assert_allclose(whole["b"], np.sum(np.asarray(rows["b"]), 0))
    check_grads(total, (WEIGHTS,), order=2)


def test_jacobians_of_each_example():
    f = lambda x: ln.sin(x) * ln.sum(x)  # noqa: E731
    for jacobian in (ln.jacfwd, ln.jacrev, ln.hessian):
        np.testing.assert_allclose(
            ln.vmap(jacobian(f))(A), np.stack([np.asarray(jacobian(f)(a)) for a in A])
        )


def test_jvp_over_and_under():
    f = lambda x: ln.sin(x) * x  # noqa: E731
    inside = ln.vmap(lambda x, t: ln.jvp(f, (x,), (t,))[1])(A, A + 1)
    outside = ln.jvp(ln.vmap(f), (A,), (A + 1,))[1]
    np.testing.assert_allclose(inside, outside)
    np.testing.assert_allclose(inside, (A + 1) * (np.cos(A) * A + np.sin(A)))


def users_rules():
    @ln.custom_vjp(linear=True)
    def one_of_two(x, y):
        dz, dw = yield ln.sin(x) * y, y
        return lambda: dz * ln.cos(x) * y, lambda: ln.sum(dz * ln.sin(x)) + dw

    @ln.custom_vjp(linear=True)
    def with_static(x, *, power):
        dz = yield x**power
        return dz * power * x ** (power - 1)

    @ln.custom_vjp(linear=True)
    def constant_result(x):
        dz = yield ln.asarray(1.0, dtype=ln.float64)
        return dz * 0.0 * x

    return one_of_two, with_static, constant_result


def test_users_rules_are_lifted():
    one_of_two, with_static, constant_result = users_rules()

    def f(x, y):
        z, w = one_of_two(x, y)
        return ln.sum(z) * w + ln.sum(with_static(x, power=3)) * constant_result(y)

    y = np.asarray([0.5, 2.0, -1.0])
    for axes in ((0, 0), (0, None), (None, 0)):
        args = (A if axes[0] == 0 else A[0], y if axes[1] == 0 else y[0])
        batched = ln.vmap(f, in_axes=axes)
        np.testing.assert_allclose(batched(*args), loop(f, args, axes))
        check_grads(batched, args, order=2)
        rows = ln.vmap(ln.grad(f, argnums=(0, 1)), in_axes=axes)(*args)
        for k in (0, 1):
            want = loop(lambda *a, k=k: ln.grad(f, argnums=(0, 1))(*a)[k], args, axes)
            np.testing.assert_allclose(rows[k], want)


def test_users_rule_under_vmap_runs_once_for_the_batch():
    runs = []

    @ln.custom_vjp
    def counted(x):
        runs.append("forward")
        dz = yield x * 2.0
        runs.append("backward")
        return dz * 2.0

    ln.grad(lambda x: ln.sum(ln.vmap(counted)(x)))(A[0])
    assert runs == ["forward", "backward"]
    runs.clear()
    ln.vmap(ln.vmap(counted))(A)
    assert runs == ["forward"]


def test_users_rule_sees_one_example():
    shapes = []

    @ln.custom_vjp
    def looking(x):
        shapes.append(x.shape)
        dz = yield ln.sum(x)
        shapes.append(dz.shape)
        return ln.broadcast_to(dz, x.shape)

    g = ln.grad(lambda x: ln.sum(ln.vmap(ln.vmap(looking))(x)))(np.ones((2, 3, 4)))
    assert shapes == [(4,), ()]
    np.testing.assert_array_equal(g, np.ones((2, 3, 4)))


def test_scattered_adjoints():
    ids = np.asarray([[0, 2], [2, 2], [1, 0]])

    def f(table, i, x):
        return ln.sum(table[i] * x)

    table, x = A.copy(), np.asarray([1.0, 10.0, 100.0])
    shared = ln.grad(lambda t: ln.sum(ln.vmap(f, in_axes=(None, 0, 0))(t, ids, x)))(table)
    want = np.zeros_like(table)
    for row, scale in zip(ids, x, strict=True):
        for i in row:
            want[i] += scale
    np.testing.assert_allclose(shared, want)
    each = ln.vmap(ln.grad(f), in_axes=(None, 0, 0))(table, ids, x)
    np.testing.assert_allclose(np.sum(np.asarray(each), 0), want)
    np.testing.assert_allclose(each[1][2], np.full(4, 20.0))
    tables = np.stack([table, 2 * table, 3 * table])
    check_grads(ln.vmap(lambda t, i, x: f(t * t, i, x)), (tables, ids, x), order=2)

    @ln.custom_vjp(linear=True)
    def users(t, x):
        back = ln.grad(lambda t: ln.sum(t[np.asarray([1, 1])] * x))
        dz = yield ln.sum(t[np.asarray([1, 1])] * x)
        return lambda: dz * back(t), lambda: dz * ln.sum(t[1]) * 2.0

    check_grads(ln.vmap(users), (tables, x), order=2)


def test_indices_inside_nested_maps():
    def f(t, i):
        return ln.vmap(lambda j: t[j] * t[i])(np.arange(3))

    got = ln.vmap(f, in_axes=(None, 0))(ln.asarray(A[:, 0]), np.arange(3))
    np.testing.assert_allclose(got, np.outer(A[:, 0], A[:, 0]))
    check_grads(lambda t: ln.vmap(f, in_axes=(None, 0))(t, np.arange(3)), (A[:, 0],), order=2)


# Errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [bool, float, int, lambda x: x.item(), lambda x: [1, 2][x]])
def test_reading_a_value_names_what_to_use_instead(read):
    with pytest.raises(BatchingError, match=r"inside ln\.vmap.*3 values") as caught:
        ln.vmap(lambda x: read(ln.astype(x, ln.int64)))(A[:, 0])
    assert "ln.while_loop" in str(caught.value)
    assert "ln.where" in str(caught.value)
    assert "test_vmap.py" in str(caught.value)


def test_reading_a_value_under_grad_and_vmap():
    with pytest.raises(BatchingError, match=r"bool\(\)"):
        ln.vmap(ln.grad(lambda x: x if x > 0 else -x))(A[:, 0])
    with pytest.raises(BatchingError, match=r"bool\(\)"):
        ln.grad(lambda x: ln.sum(ln.vmap(lambda v: v if v > 0 else -v)(x)))(A[:, 0])
    # what does not depend on the batch has one value
    got = ln.vmap(lambda x, c: x if c > 0 else -x, in_axes=(0, None))(A[:, 0], 1.0)
    np.testing.assert_array_equal(got, A[:, 0])


def test_different_lengths_are_listed_by_path():
    with pytest.raises(ShapeError) as caught:
        ln.vmap(lambda x, p, *, k: x)(A, {"w": [A, np.ones((5, 2))]}, k=np.ones(3))
    text = str(caught.value)
    assert "args[0], float64[3, 4]: axis 0 has length 3" in text
    assert "args[1]['w'][1], float64[5, 2]: axis 0 has length 5" in text
    assert "kwargs['k'], float64[3]" in text
    assert "test_vmap.py" in text
    with pytest.raises(ShapeError, match="axis_size is 7"):
        ln.vmap(lambda x: x, axis_size=7)(A)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: ln.vmap(lambda x: x, in_axes=2)(A), ShapeError, r"args\[0\].* no axis 2"),
        (lambda: ln.vmap(lambda x: x)(1.0), ShapeError, r"args\[0\].* no axis 0"),
        (lambda: ln.vmap(lambda x: x, in_axes=None)(A), ShapeError, "nothing is batched"),
        (lambda: ln.vmap(lambda x: x, in_axes=(0, 1))(A), ShapeError, "2 entries for 1"),
        (lambda: ln.vmap(lambda x: x, in_axes=({"a": 0},))(A), ShapeError, "not a prefix of the p"),
        (lambda: ln.vmap(lambda x: x, out_axes=(0, 1))(A), ShapeError, "not a prefix of the res"),
        (lambda: ln.vmap(lambda x: x, out_axes=2)(A), ShapeError, "out_axes 2 is out of range"),
        (lambda: ln.vmap(lambda x: x, out_axes=None)(A), BatchingError, "out_axes is None"),
        (lambda: ln.vmap(lambda x, s: x)(A, "text"), BatchingError, r"args\[1\] is str 'text'"),
        (lambda: ln.vmap(lambda x, *, s: x)(A, s="text"), BatchingError, r"kwargs\['s'\]"),
        (lambda: ln.vmap(lambda x: x, in_axes="0")(A), TypeError, "an integer or None"),
        (lambda: ln.vmap(lambda x: x, in_axes=True)(A), TypeError, "an integer or None"),
    ],
)
def test_errors(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_shape_error_inside_shows_the_shapes_of_one_example():
    with pytest.raises(ShapeError, match=r"one example it is add\(float64\[4\], float64\[5\]\)"):
        ln.vmap(lambda x: x + np.ones(5))(A)


def test_numpy_array_indexed_by_a_batch_says_what_to_write():
    a, i = np.arange(3.0), ln.asarray([2, 0])
    with pytest.raises(TypeError, match=r"ln\.asarray\(a\)\[i\] to index an array"):
        ln.vmap(lambda k: a[k])(i)
    assert ln.vmap(lambda k: ln.asarray(a)[k])(i).tolist() == [2.0, 0.0]
