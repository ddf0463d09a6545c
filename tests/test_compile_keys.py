"""What a compiled function reads besides its arguments: no change is missed, each is explained."""

from __future__ import annotations

import functools
import types
from dataclasses import dataclass, field

import numpy as np
import pytest

import lantern as ln
from lantern.errors import ArgumentError, RecompilationWarning
from lantern.staged.fingerprint import Fingerprint

RATE = 2.0
SPACE = types.SimpleNamespace(rate=2.0)
X = ln.asarray([1.0, 2.0])


def scaled(x):
    return x * RATE


def calls_scaled(x):
    return scaled(x)


compile = functools.partial(ln.compile, backend="interpreter")


class Plain:
    scale = 2.0

    def __init__(self) -> None:
        self.rate = 2.0
        self.inner = {"rates": [2.0, 2.0]}
        self.weights = np.asarray([2.0, 2.0], np.float32)

    @property
    def twice(self) -> float:
        return self.rate * 2

    def __call__(self, x):
        return x * self.rate

    def by_class(self, x):
        return x * self.scale

    def by_property(self, x):
        return x * self.twice

    def nested(self, x):
        return x * self.inner["rates"][1]

    def named(self, x):
        return x * getattr(self, "rate")  # noqa: B009  # a name in a string is one, too


class Slotted:
    __slots__ = ("rate",)

    def __init__(self) -> None:
        self.rate = 2.0


@dataclass
class Settings:
    rate: float = 2.0
    more: dict = field(default_factory=lambda: {"rate": 2.0})


def check(f, change, before=(2.0, 4.0), after=(3.0, 6.0)) -> None:
    """The function follows a change, and then is not traced again."""
    compiled = compile(f)
    assert compiled(X).tolist() == list(before)
    assert compiled(X).tolist() == list(before)
    assert compiled.specializations == 1
    change()
    assert compiled(X).tolist() == list(after), "the change was missed"
    count = compiled.specializations
    compiled(X)
    assert compiled.specializations == count


def test_globals(monkeypatch) -> None:
    for f in (scaled, calls_scaled, lambda x: calls_scaled(x)):
        monkeypatch.setitem(globals(), "RATE", 2.0)
        check(f, lambda: monkeypatch.setitem(globals(), "RATE", 3.0))


def test_attributes_of_globals(monkeypatch) -> None:
    check(lambda x: x * SPACE.rate, lambda: monkeypatch.setattr(SPACE, "rate", 3.0))


def test_attributes_of_objects() -> None:
    for method in ("__call__", "by_property", "named"):
        model = Plain()
        f = getattr(model, method)
        twice = (4.0, 8.0), (6.0, 12.0)
        check(f, lambda m=model: setattr(m, "rate", 3.0), *(twice * (method == "by_property")))
    model = Plain()
    check(model, lambda: setattr(model, "rate", 3.0))
    check(lambda x: model(x), lambda: setattr(model, "rate", 2.0), (3.0, 6.0), (2.0, 4.0))


def test_attributes_of_classes(monkeypatch) -> None:
    check(Plain().by_class, lambda: monkeypatch.setattr(Plain, "scale", 3.0))
    instance = Plain()
    check(instance.by_class, lambda: setattr(instance, "scale", 2.0), (3.0, 6.0), (2.0, 4.0))


def test_nested_containers() -> None:
    model = Plain()
    check(model.nested, lambda: model.inner["rates"].__setitem__(1, 3.0))
    check(model.nested, lambda: model.inner.update(rates=[0, 2.0]), (3.0, 6.0), (2.0, 4.0))


def test_slots_dataclasses_and_sets() -> None:
    slotted, settings, names = Slotted(), Settings(), {"a"}
    check(lambda x: x * slotted.rate, lambda: setattr(slotted, "rate", 3.0))
    check(lambda x: x * settings.rate, lambda: setattr(settings, "rate", 3.0))
    check(lambda x: x * settings.more["rate"], lambda: settings.more.update(rate=3.0))
    check(lambda x: x * (3.0 if "b" in names else 2.0), lambda: names.add("b"))


def test_defaults_partials_and_attributes_of_functions() -> None:
    def f(x, rate=2.0):
        return x * rate

    def g(x):
        return x * g.rate

    g.rate = 2.0
    check(f, lambda: setattr(f, "__defaults__", (3.0,)))
    check(g, lambda: setattr(g, "rate", 3.0))
    options = {"rate": 2.0}
    bound = functools.partial(lambda x, o: x * o["rate"], o=options)
    check(bound, lambda: options.update(rate=3.0))


def test_wrapped_and_transformed_functions() -> None:
    rate = 2.0

    def wrap(f):
        @functools.wraps(f)
        def wrapper(*args):
            return f(*args)

        return wrapper

    @wrap
    @wrap
    def f(x):
        return x * rate

    def change() -> None:
        nonlocal rate
        rate = 3.0

    check(f, change)
    rate = 2.0
    check(ln.grad(lambda x: ln.sum(f(x) * f(x)) / 4), change, (2.0, 4.0), (4.5, 9.0))
    rate = 2.0
    check(ln.vmap(f), change)
    rate = 2.0
    check(lambda x: compile(f)(x), change)


def test_a_function_put_in_the_place_of_another() -> None:
    table = {"f": lambda x: x * 2.0}
    check(lambda x: table["f"](x), lambda: table.update(f=lambda x: x * 3.0))


def test_static_arguments_that_are_objects_or_functions() -> None:
    settings, rate = Settings(), 2.0
    compiled = compile(lambda x, f, s: f(x) * s.rate)

    def inner(x):
        return x * rate

    assert compiled(X, inner, settings).tolist() == [4.0, 8.0]
    rate = 3.0
    assert compiled(X, inner, settings).tolist() == [6.0, 12.0]
    settings.rate = 1.0
    assert compiled(X, inner, settings).tolist() == [3.0, 6.0]
    assert compiled.specializations == 3
    assert compiled(X, inner, Settings(1.0)).tolist() == [3.0, 6.0]


def test_static_by_name_and_position() -> None:
    for static in ("n", 1, ("n",), [1]):
        compiled = compile(lambda x, n, m=0: ln.reshape(x, (n, -1)) + m, static=static)
        assert compiled(X, 2).shape == (2, 1)
        assert compiled(X, n=1).shape == (1, 2)
        assert compiled(X, 2, 3).tolist() == [[4.0], [5.0]]
    with pytest.raises(ArgumentError, match=r"static='k'.*arguments \(x, n\)"):
        compile(lambda x, n: x, static="k")


def test_equal_values_compile_once() -> None:
    values = {"rate": 2.0, "names": ["a", "b"]}
    compiled = compile(lambda x: x * values["rate"] * len(values["names"]))
    compiled(X)
    values = {"rate": float("2"), "names": ["a", "b"]}
    assert compiled(X).tolist() == [4.0, 8.0]
    assert compiled.specializations == 1


def test_what_the_function_itself_changes_is_no_change() -> None:
    runs, count = [], 0

    def f(x):
        nonlocal count
        count += 1
        runs.append(x.shape)
        return x * 2.0

    compiled = compile(f)
    for _ in range(3):
        compiled(X)
    assert len(runs) == count == 1
    runs.clear()
    assert compiled(X).tolist() == [2.0, 4.0]
    assert len(runs) == 1, "somebody else did"


# Arrays -------------------------------------------------------------------------------------------


def executables(compiled) -> int:
    return len(compiled.executables)


@pytest.mark.parametrize("start", (0.0, 3.0))
def test_arrays_that_change_in_place(start) -> None:
    table = np.full(2, start, np.float32)
    compiled = compile(lambda x: x + table)
    assert compiled(X).tolist() == [start + 1, start + 2]
    table[:] = [5.0, 7.0]
    assert compiled(X).tolist() == [6.0, 9.0]
    assert executables(compiled) == 1, "the elements are an input"


def test_arrays_that_numpy_reads_while_tracing() -> None:
    table = np.asarray([1.0, 2.0], np.float32)
    compiled = compile(lambda x: x * float(table.sum()))
    assert compiled(X).tolist() == [3.0, 6.0]
    table[0] = 2.0
    assert compiled(X).tolist() == [4.0, 8.0]


def test_tensors_in_another_variable() -> None:
    weights = {"w": ln.asarray([2.0, 2.0]), "b": ln.asarray(0.0)}
    compiled = compile(lambda x: x * weights["w"] + x * weights["b"])
    assert compiled(X).tolist() == [2.0, 4.0]
    weights["w"], weights["b"] = ln.asarray([5.0, 6.0]), ln.asarray(1.0)
    assert compiled(X).tolist() == [6.0, 14.0]
    weights = {"w": ln.zeros(2), "b": ln.asarray(1.0)}
    assert compiled(X).tolist() == [1.0, 2.0]
    assert executables(compiled) == 1
    weights["w"] = ln.ones(1)
    assert compiled(X).tolist() == [2.0, 4.0]
    assert executables(compiled) == 2


def test_memory_that_another_library_owns() -> None:
    owner = np.zeros(2, np.float32)
    shared = ln.asarray(owner, copy=False)
    compiled = compile(lambda x: ln.scan(lambda c, _: (c + shared, None), x, None, 2)[0])
    assert compiled(X).tolist() == [1.0, 2.0]
    owner[:] = 4.0
    assert compiled(X).tolist() == [9.0, 10.0]


def test_tensors_read_while_tracing() -> None:
    rate = ln.asarray(2.0)
    check_rate = compile(lambda x: x * float(rate))
    assert check_rate(X).tolist() == [2.0, 4.0]
    rate = ln.asarray(3.0)
    assert check_rate(X).tolist() == [3.0, 6.0]


# Explanations -------------------------------------------------------------------------------------


def test_explanations_name_what_changed() -> None:
    rate, table = 2.0, np.zeros(2)
    settings = Settings()

    def step(params, x, mode="train"):
        return params["w"] * x * rate * settings.rate + ln.sum(ln.asarray(table)), mode == "train"

    compiled = compile(step, static="mode")
    assert "has not been called" in compiled.explain()
    compiled({"w": X}, X)
    assert "compiled once" in compiled.explain()
    compiled({"w": ln.ones((3, 2))}, X)
    assert "params['w'] was float32[2], is float32[3, 2]" in compiled.explain()
    compiled({"w": X}, ln.astype(X, "float64"))
    assert "x was float32[2], is float64[2]" in compiled.explain()
    rate = 3.0
    compiled({"w": X}, X)
    assert "rate, which step reads, was 2.0, is 3.0" in compiled.explain()
    settings.rate = 0.5
    compiled({"w": X}, X)
    assert "settings.rate, which step reads, was 2.0, is 0.5" in compiled.explain()
    compiled({"w": X}, X, "test")
    assert "'train', is 'test'" in compiled.explain() or "absent" in compiled.explain()
    compiled({"w": X, "v": X}, X)
    assert "params['v'] was absent, is float32[2]" in compiled.explain()
    assert compiled.explain().startswith("step was compiled 7 times")


def test_frequent_recompilation_is_told() -> None:
    rate = 0.0

    def step(x):
        return x * rate

    compiled = compile(step)
    with pytest.warns(RecompilationWarning, match=r"8 times.*rate, which step reads, was 6.0"):
        for i in range(8):
            rate = float(i)
            compiled(X)


def test_a_fingerprint_tells_what_is_the_same() -> None:
    value = [1.0, {"a": np.zeros(3)}]

    def f():
        return value, scaled

    first = Fingerprint(f)
    assert first.unchanged() and Fingerprint(f).key == first.key
    value[1]["a"][0] = 1.0
    assert not first.unchanged() and Fingerprint(f).key != first.key
    assert [r.path for r in first.reads if r.reader == "f"][:2] == ["defaults of f"] * 2
