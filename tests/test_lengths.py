"""Tables of any length: programs that are compiled once for arguments of every size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lantern as ln
from lantern.errors import IndexRangeError, ShapeError
from lantern.lengths import Unsized
from staging.ir import IRError
from staging.pipeline import DEFAULT, optimise
from staging.text import parse_program, print_program
from staging.verify import verify

BACKENDS = ("interpreter", "llvm")
LENGTHS = (1, 2, 7, 40)


class List(NamedTuple):
    """A linked list in arrays, and where it begins."""

    following: Any
    value: Any
    first: Any


def linked(n: int, dtype: Any = np.float64) -> List:
    """A list that visits n places in some order."""
    rng = np.random.default_rng(n)
    order = rng.permutation(n)
    following = np.full(n, -1)
    following[order[:-1]] = order[1:]
    return List(following, rng.normal(size=n).astype(dtype), order[0])


def eager(x: Any) -> Any:
    return ln.tree.map(ln.asarray, x)


def close(a: Any, b: Any) -> None:
    for x, y in zip(ln.tree.leaves(a), ln.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=1e-10, atol=1e-10)


def decayed(w: Any, t: List) -> Any:
    """A walk through the list."""

    def body(s: Any) -> Any:
        i, total = s
        return t.following[i], ln.sin(total * w) + t.value[i]

    start = (t.first, ln.zeros((), dtype=ln.float64))
    return ln.while_loop(lambda s: s[0] >= 0, body, start)[1]


def of_columns(w: Any, t: dict[str, Any]) -> Any:
    """Rows, elements of rows, several places at once, constant places."""
    i = t["root"]
    rows = t["row"][ln.stack([i, t["left"][i]])]
    return ln.sum(ln.tanh(rows @ w)) + t["row"][i, 1] * w[0] + t["row"][0][1] * w[1]


def columns(n: int) -> dict[str, Any]:
    rng = np.random.default_rng(n)
    return {"left": rng.integers(0, n, n), "row": rng.normal(size=(n, 3)), "root": n - 1}


def branching(w: Any, t: dict[str, Any]) -> Any:
    """Tables within branches and scans."""

    def step(i: Any, x: Any) -> Any:
        y = ln.cond(x > 0, lambda: t["row"][i, 0] * x, lambda: ln.sum(t["row"][i]) + x)
        return t["left"][i], y

    i, ys = ln.scan(step, t["root"], ln.concat([w, -w]))
    return ln.sum(ys * ys) + t["left"][i]


def rewritten(w: Any, t: List) -> Any:
    """A loop that changes a table, step by step, in one of two ways."""

    def body(s: Any) -> Any:
        i, x = s
        x = x.at[i].set(ln.sin(x[i]) * w)
        x = ln.cond(x[i] > 0, lambda x: x.at[t.first].add(x[i]), lambda x: x, x)
        return t.following[i], x

    x = ln.while_loop(lambda s: s[0] >= 0, body, (t.first, t.value))[1]
    return x[t.first] * x[0]


def constant_place(w: Any, t: List) -> Any:
    """A scan whose way back writes into a table and needs no memory but that."""
    step = lambda c, k: (c * w + t.value[0] * k, None)  # noqa: E731
    return ln.scan(step, ln.zeros((), dtype=ln.float64), ln.arange(4))[0]


W = np.asarray([0.3, -0.7, 1.1])
PROGRAMS: list[tuple[Callable[..., Any], Any, Callable[[int], Any]]] = [
    (decayed, np.float64(0.7), linked),
    (of_columns, W, columns),
    (branching, W, columns),
    (rewritten, np.float64(0.7), linked),
    (constant_place, np.float64(0.7), linked),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("f", "w", "made"), PROGRAMS, ids=lambda x: getattr(x, "__name__", ""))
def test_one_program_for_every_length(f: Any, w: Any, made: Any, backend: str) -> None:
    def everything(w: Any, t: Any) -> Any:
        slopes = lambda w: ln.sum(ln.sin(ln.grad(f)(w, t)))  # noqa: E731
        return ln.value_and_grad(f)(w, t), ln.grad(slopes)(w), ln.jvp(lambda w: f(w, t), (w,), (w,))

    compiled = ln.compile(everything, backend=backend)
    for n in LENGTHS:
        close(compiled(w, made(n)), everything(ln.asarray(w), eager(made(n))))
    assert compiled.specializations == len(compiled.executables) == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("f", "w", "made"), PROGRAMS, ids=lambda x: getattr(x, "__name__", ""))
def test_derivatives_of_columns(f: Any, w: Any, made: Any, backend: str) -> None:
    """Gradients are tables too; to second order, forwards and backwards."""

    def everything(w: Any, t: Any) -> Any:
        name = "value" if isinstance(t, List) else "row"

        def of_column(w: Any, x: Any) -> Any:
            return f(w, t._replace(value=x) if isinstance(t, List) else {**t, name: x})

        def slopes(w: Any, x: Any) -> Any:
            first, rows = ln.grad(of_column, argnums=(0, 1))(w, x)
            at = t[0][t[2]] if isinstance(t, List) else t["left"][t["root"]]
            return ln.sum(ln.sin(first)) + ln.sum(ln.cos(rows[at]))

        x = t.value if isinstance(t, List) else t["row"]
        primals = (w, x)
        return (
            ln.value_and_grad(of_column, argnums=(0, 1))(w, x),
            ln.grad(slopes, argnums=(0, 1))(w, x),
            ln.jvp(of_column, primals, primals),
            ln.jvp(ln.grad(of_column, argnums=1), primals, primals),
        )

    compiled = ln.compile(everything, backend=backend)
    for n in LENGTHS:
        close(compiled(w, made(n)), everything(ln.asarray(w), eager(made(n))))
    assert compiled.specializations == len(compiled.executables) == 1


@pytest.mark.parametrize(("f", "w", "made"), PROGRAMS, ids=lambda x: getattr(x, "__name__", ""))
def test_programs_are_well_formed(f: Any, w: Any, made: Any) -> None:
    """After each pass, and as text."""
    compiled = ln.compile(lambda w, t: ln.value_and_grad(f)(w, t))
    program = compiled.program(w, made(3))
    for count in range(len(DEFAULT) + 1):
        after = verify(optimise(program, DEFAULT[:count]))
        assert print_program(parse_program(str(after))) == str(after)
    with pytest.raises(IRError, match="expected a length, found '-2'"):
        parse_program("program @p(%x: int64[3, -2]) { return (%x) }")


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_index_out_of_range(backend: str) -> None:
    compiled = ln.compile(decayed, backend=backend)
    close(compiled(1.0, linked(3)), decayed(1.0, eager(linked(3))))
    bad = linked(5)._replace(following=np.asarray([1, 2, 5, 0, 0]), first=0)
    for run in (compiled, lambda w, t: decayed(w, eager(t))):
        with pytest.raises(
            IndexRangeError, match=r"index 5 is out of range for axis 0 of"
        ) as found:
            run(1.0, bad)
        assert "test_lengths.py" in found.value.place


def index(backend: str) -> Any:
    return ln.compile(lambda t, i: t.value[i], backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_indices_count_from_the_end(backend: str) -> None:
    compiled = index(backend)
    for n in LENGTHS:
        for i in (-n, -1, 0, n - 1):
            close(compiled(linked(n), i), linked(n).value[i])
        for i in (-n - 1, n):
            with pytest.raises(IndexRangeError, match="out of range"):
                compiled(linked(n), i)
    assert compiled.specializations == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_table(backend: str) -> None:
    nothing = List(np.zeros(0, np.int64), np.zeros(0), -1)
    compiled = ln.compile(ln.value_and_grad(decayed), backend=backend)
    close(compiled(0.5, nothing), (0.0, 0.0))
    with pytest.raises(IndexRangeError, match="axis 0 of 0"):
        compiled(0.5, nothing._replace(first=0))
    assert compiled.specializations == 1


# Random programs: a step of a walk is a list of reads and writes of a table, at random places.
PLACES: dict[str, Callable[[Any, Any], Any]] = {
    "here": lambda t, i: i,
    "next": lambda t, i: t.following[i],  # -1 at the end of the list: the last place
    "first": lambda t, i: 0,
    "last": lambda t, i: -1,
}
CHANGES: dict[str, Callable[[Any, Any, Any], tuple[Any, Any]]] = {
    "read": lambda y, x, k: (ln.sin(y) + x[k], x),
    "several": lambda y, x, k: (y + ln.sum(x[ln.stack([k, k])] ** 2) * 0.1, x),
    "set": lambda y, x, k: (y * 0.5, x.at[k].set(ln.cos(y))),
    "add": lambda y, x, k: (y, x.at[k].add(0.1 * y)),
    "either": lambda y, x, k: ln.cond(
        y > 0.5, lambda: (y - x[k], x), lambda: (y * 0.9, x.at[k].set(y))
    ),
}


def walk(steps: list[tuple[str, str]]) -> Callable[[Any, List], Any]:
    """The walk that does this at each place."""

    def f(x: Any, t: List) -> Any:
        def body(s: Any) -> Any:
            i, y, x = s
            for change, place in steps:
                y, x = CHANGES[change](y, x, PLACES[place](t, i) + ln.asarray(0))
            return t.following[i], y, x

        start = (t.first, ln.asarray(np.float64(0.3)), x)
        _, y, x = ln.while_loop(lambda s: s[0] >= 0, body, start)
        return y * x[-1] + x[0]

    return f


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([*CHANGES]), st.sampled_from([*PLACES])), max_size=3),
    st.lists(st.integers(1, 9), min_size=2, max_size=3),
)
def test_random_walks(steps: list[tuple[str, str]], sizes: list[int]) -> None:
    """Eager, interpreted and native, for every length by one program; against differences."""

    def everything(t: List) -> Any:
        value, slope = ln.value_and_grad(walk(steps))(t.value, t)
        return value, slope, ln.jvp(lambda x: walk(steps)(x, t), (t.value,), (slope,))[1]

    runs = [ln.compile(everything, backend=backend) for backend in BACKENDS]
    for n in sizes:
        t = linked(n)
        value, slope, along = everything(eager(t))
        for run in runs:
            close(run(t), (value, slope, along))
        h = 1e-6
        near = [
            float(walk(steps)(ln.asarray(t.value) + s * h * slope, eager(t))) for s in (1.0, -1.0)
        ]
        np.testing.assert_allclose(
            float(along), (near[0] - near[1]) / (2 * h), rtol=1e-4, atol=1e-5
        )
    assert all(run.specializations == 1 for run in runs)


class TestPinned:
    """What needs the length is compiled for each."""

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize(
        "f",
        [
            lambda t: ln.sum(t.value),
            lambda t: t.value.shape[0] + t.value[t.first],
            lambda t: len(t.value) * t.value[0],
            lambda t: t.value * 2,
            lambda t: sum(t.value[i] for i in range(t.value.shape[0])),
            lambda t: t.value if t.value.shape[0] == 2 else t.value[0],
            lambda t: ln.vmap(lambda i: t.value[i])(t.following),
            lambda t: t.value[::-1],
            lambda t: ln.reshape(t.value, (-1, 1)),
            lambda t: ln.zeros(t.value.shape),
            lambda t: ln.while_loop(lambda x: ln.sum(x) < 3, lambda x: x * x + 1, t.value),
            lambda t: ln.scan(lambda c, x: (c * 0.5 + x, c), np.float64(0), t.value),
            lambda t: ln.fori_loop(0, t.value.shape[0], lambda i, s: s + t.value[i], np.float64(0)),
        ],
    )
    def test_programs(self, f: Any, backend: str) -> None:
        compiled = ln.compile(f, backend=backend)
        for n in (2, 7, 2):
            close(compiled(linked(n)), f(eager(linked(n))))
        assert compiled.specializations == 2

    def test_only_the_argument_that_needs_it(self) -> None:
        def f(w: Any, t: List, batch: dict[str, Any]) -> Any:
            return decayed(w, t) * ln.sum(batch["x"] * batch["y"])

        compiled = ln.compile(f, backend="interpreter")
        batch = {"x": np.ones(4), "y": np.arange(4)}
        for n in LENGTHS:
            close(compiled(0.5, linked(n), batch), f(0.5, eager(linked(n)), eager(batch)))
        assert compiled.specializations == 1

    def test_an_error_that_is_caught(self) -> None:
        """A program that went another way because there was no length is not kept."""

        def f(t: List) -> Any:
            try:
                n = int(t.value.shape[0])
            except TypeError:
                n = 1000
            return t.value[t.first] * n

        compiled = ln.compile(f, backend="interpreter")
        for n in (2, 3):
            close(compiled(linked(n)), f(eager(linked(n))))

    def test_explanation(self) -> None:
        compiled = ln.compile(lambda t: ln.sum(t.value), backend="interpreter")
        for n in (2, 3):
            compiled(linked(n))
        assert "t.value was float64[2], is float64[3]" in compiled.explain()
        assert "a program for each length of t, which is needed at" in compiled.explain()
        assert "test_lengths.py" in compiled.explain()


def sentence(n: int) -> dict[str, Any]:
    rng = np.random.default_rng(n)
    return {"x": rng.normal(size=(n, 3)), "y": rng.normal(size=n)}


@pytest.mark.parametrize("backend", BACKENDS)
def test_derivatives_from_outside_of_the_program(backend: str) -> None:
    """They are compiled once as well, where the tables are constants; and right where not."""
    compiled = ln.compile(decayed, backend=backend)

    def of_column(f: Any, t: List) -> Any:
        return ln.grad(lambda x: f(ln.asarray(np.float64(0.5)), t._replace(value=x)))(t.value)

    for n in LENGTHS:
        t, w = eager(linked(n)), ln.asarray(np.float64(0.5))
        second = [
            ln.grad(lambda w, f=f, t=t: ln.grad(f)(w, t) ** 2)(w) for f in (compiled, decayed)
        ]
        close(second[0], second[1])
        close(ln.grad(compiled)(w, t), ln.grad(decayed)(w, t))
        close(ln.jvp(lambda w, t=t: compiled(w, t), (w,), (w,)),
              ln.jvp(lambda w, t=t: decayed(w, t), (w,), (w,)))  # fmt: skip
        ws = ln.stack([w, 2 * w])
        close(ln.vmap(lambda w, t=t: compiled(w, t))(ws), ln.vmap(lambda w, t=t: decayed(w, t))(ws))
    assert len(compiled.blocks) == 1 + len(LENGTHS)  # of the batches, one for each
    for n in (2, 3):
        close(of_column(compiled, eager(linked(n))), of_column(decayed, eager(linked(n))))
    summed = ln.compile(lambda w, t: w * ln.sum(t.value), backend=backend)
    for n in (2, 3):
        close(ln.grad(summed)(np.float64(2), linked(n)), np.sum(linked(n).value))


class TestNamed:
    @pytest.mark.parametrize("backend", BACKENDS)
    def test_loops_along_tables(self, backend: str) -> None:
        """A recurrent network there, a sum back, and a loop over the numbers; to second order."""

        def f(w: Any, t: Any) -> Any:
            def step(h: Any, now: Any) -> Any:
                h = ln.tanh(w @ h + now["x"])
                return h, h[0] * now["y"]

            h, ys = ln.scan(step, ln.zeros(3, dtype=ln.float64), t)
            back, _ = ln.scan(lambda c, y: (c * 0.9 + y, None), np.float64(0), ys, reverse=True)
            terms = ln.map(ln.sin, ys)
            start = np.float64(0)
            return (
                back
                + ln.sum(h * h)
                + ln.fori_loop(0, ys.shape[0], lambda i, total: total + terms[i] * t["y"][i], start)
            )

        def everything(w: Any, t: Any) -> Any:
            slopes = lambda w: ln.sum(ln.sin(ln.grad(f)(w, t)))  # noqa: E731
            return (
                ln.value_and_grad(f, argnums=(0, 1))(w, t),
                ln.grad(slopes)(w),
                ln.jvp(f, (w, t), (w, t)),
            )

        w = np.random.default_rng(0).normal(size=(3, 3))
        compiled = ln.compile(everything, dynamic="t", backend=backend)
        for n in (0, *LENGTHS):
            close(compiled(w, sentence(n)), everything(ln.asarray(w), eager(sentence(n))))
        assert compiled.specializations == 1

    def test_tables_that_differ_in_length(self) -> None:
        compiled = ln.compile(lambda t: ln.map(lambda x: x[0] + x[1], t), dynamic="t")
        assert compiled((np.ones(3), np.ones(3))).shape == (3,)
        with pytest.raises(ShapeError, match="differ in length"):
            compiled((np.ones(3), np.ones(4)))

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_arrays(self, backend: str) -> None:
        compiled = ln.compile(lambda x, i: x[i] * 2, dynamic="x", backend=backend)
        for n in LENGTHS:
            close(compiled(np.arange(n) * 0.5, n - 1), n - 1)
        assert compiled.specializations == 1
        assert "float64[-2]" in compiled.ir(np.arange(3) * 0.5, 0)

    def test_derivatives_from_outside(self) -> None:
        """What the halves of a function are given is not what that is."""
        compiled = ln.compile(decayed, dynamic="t", backend="interpreter")
        for n in (2, 3):
            wanted = ln.grad(decayed)(ln.asarray(np.float64(0.5)), eager(linked(n)))
            close(ln.grad(compiled)(np.float64(0.5), linked(n)), wanted)

    def test_needing_the_length_is_an_error(self) -> None:
        with pytest.raises(Unsized, match="a length is needed") as found:
            ln.compile(lambda x: ln.sum(x), dynamic="x", backend="interpreter")(np.zeros(3))
        assert "test_lengths.py" in found.value.place

    def test_options(self) -> None:
        with pytest.raises(ln.errors.ArgumentError, match="both dynamic and static"):
            ln.compile(lambda x: x, dynamic="x", static="x")


@pytest.mark.parametrize("backend", BACKENDS)
def test_lists_of_tables(backend: str) -> None:
    """Items of a list have lengths of their own, whether or not they are equal now."""

    def f(w: Any, items: list[List]) -> Any:
        return sum(decayed(w, t) for t in items)

    compiled = ln.compile(f, backend=backend)
    for sizes in ((2, 2), (2, 7), (7, 2)):
        items = [linked(n) for n in sizes]
        close(compiled(0.5, items), f(0.5, eager(items)))
    assert compiled.specializations == 1
    of_parts = ln.compile(lambda w, x: decayed(w, x["t"]) * x["p"][0, 0], backend=backend)
    for n in LENGTHS:
        of_parts(0.5, {"t": linked(n), "p": np.ones((3, 3))})
    assert of_parts.specializations == 1


def test_other_arguments_are_of_one_length() -> None:
    """Bare arrays, arrays of several lengths, and containers without a column of integers."""
    compiled = ln.compile(lambda x: ln.tree.leaves(x)[0][0] * 1.0, backend="interpreter")
    rows = np.zeros((3, 2), np.int64)
    for x in (np.arange(3), {"a": np.zeros(3)}, {"a": np.arange(3), "b": np.arange(4)}, [rows]):
        compiled(x)
        assert "-2" not in compiled.ir(x)


def test_looks_are_at_the_lengths_given(tmp_path: Any) -> None:
    """The cost, and what is exported, are those of a program for one length."""
    compiled = ln.compile(decayed)
    compiled(1.0, linked(3))
    machine = ln.Machine(1e11, ((float("inf"), 1e10),))
    compiled.cost(1.0, linked(5), machine=machine)
    _, header = compiled.export(tmp_path / "walk.o", 1.0, linked(5))
    assert "int64[5]" in header.read_text()
    compiled(1.0, linked(6))
    assert compiled.specializations == 2


def test_a_donated_state_is_no_table_unless_it_is_said_to_be() -> None:
    """It is traced once, although all that it holds has one length and it needs that."""
    runs: list[Any] = []

    def step(state: dict[str, Any]) -> dict[str, Any]:
        runs.append(state["rows"].shape)
        return {"rows": state["rows"] + state["rows"].shape[0], "counts": state["counts"] + 1}

    def state(n: int) -> dict[str, Any]:
        return {"rows": ln.zeros((n, 2)), "counts": ln.zeros(n, dtype=ln.int64)}

    compiled = ln.compile(step, donate="state", backend="interpreter")
    close(compiled(state(3))["rows"], np.full((3, 2), 3.0))
    assert runs == [(3, 2)]
    named = ln.compile(step, donate="state", dynamic="state", backend="interpreter")
    with pytest.raises(Unsized):
        named(state(3))
