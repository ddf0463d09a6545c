"""Rewritten functions are those of Python where nothing is staged: results, effects, exceptions."""

from __future__ import annotations

import contextlib
import re
import traceback
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import lantern as ln
from lantern.syntax.calls import rewriting, rewritten

LOG: list[Any] = []
COUNTER = 0


def noted(x: Any) -> Any:
    LOG.append(x)
    return x


def short_circuits(x: Any) -> Any:
    a = noted(x) and noted(x - 1) and noted("last")
    b = noted(0) or noted([]) or noted({})
    c = noted(1) < noted(x) < noted(3) < noted(9)
    return a, b, c, not x, None if x else noted("never") if x == 0 else "else"


def loops(x: Any) -> Any:
    found = []
    for i in range(x):
        for j, name in enumerate("abc"):
            if j == i:
                continue
            if (i + j) % 4 == 3:
                break
            found.append((i, name))
        else:
            found.append("complete")
        if len(found) > 7:
            break
    else:
        found.append("done")
    while found and found[-1] != "complete":
        last = found.pop()
    return found, i, last


def late_binding(x: Any) -> Any:
    made = []
    for i in range(x):
        if i != 1:
            made.append(lambda: (i, y))  # noqa: B023  # it is bound late, and shall be
    y = "bound late"
    return [f() for f in made]


def ways_out(x: Any) -> Any:
    with contextlib.suppress(KeyError):
        for i in range(5):
            with noting(f"step {i}"):
                if i == x:
                    return f"returned {i}"
                if i == 3:
                    raise KeyError(i)
                if i == 1:
                    continue
                noted("end of step")
    try:
        if x > 10:
            return 1 / (x - 11)
        noted("tried")
    except ZeroDivisionError as problem:
        noted(str(problem))
        return "handled"
    else:
        noted("no problem")
    finally:
        noted("finally")
    return "end"


@contextlib.contextmanager
def noting(name: str) -> Iterator[None]:
    noted("enter " + name)
    try:
        yield
    finally:
        noted("exit " + name)


def scopes(x: Any, *rest: Any, flag: bool = True, **more: Any) -> Any:
    global COUNTER
    total = 0

    def add(n: Any, scale: Any = x) -> Any:
        nonlocal total
        if n:
            total += n * scale
        return total

    for n in rest:
        add(n)
        if flag:
            COUNTER += 1
    first, *others = (add(1), *rest) if (size := len(rest)) else (0, 1)
    del n
    squares = {k: v for k, v in more.items() if v and k}
    return total, first, others, size, squares, [add(k) for k in rest if k > 1 and total]


def generators(x: Any) -> Any:
    def numbers() -> Iterator[Any]:
        for i in range(x):
            if i % 2 and (sent := (yield i)):
                noted(sent)
        return "over"

    kept = (n for n in numbers() if not n > 3)
    return list(kept), sum(n for n in numbers())


class Base:
    __secret = 1

    def value(self, n: Any) -> Any:
        return n + self.__secret


class Derived(Base):
    __secret = 10

    def value(self, __n: Any) -> Any:
        if __n > 2:
            return super().value(__n) * self.__secret
        if __n:
            return self.__own(n=__n)
        return "zero"

    def __own(self, *, n: Any) -> Any:
        local = SimpleNamespace(__name=n)
        local.__name = n if n else None
        return local._Derived__name

    @classmethod
    def of_class(cls, n: Any) -> Any:
        return cls().value(n) if n else cls


def classes(x: Any) -> Any:
    class Local:
        attribute = x if x else "none"

        def method(self) -> Any:
            return self.attribute or x

    return Derived().value(x), Derived.of_class(x), Local().method()


def undefined(x: Any) -> Any:
    if x > 2:
        y = x
    while x > 100:
        z = x
    if x > 1:
        return y
    return z


def matched(x: Any) -> Any:
    match [x, x + 1]:
        case [0, other]:
            result = other
        case [1, _]:
            return "one"
        case [first, *_] if first > 2 and first < 9:
            result = first
        case _:
            result = None
    return result


def raising(x: Any) -> Any:
    for i in range(3):
        if i == 1 and x:
            {}["missing"]
        assert i < x, f"{i} is not below {x}"
    return x


def docstring(x: Any) -> Any:
    """A text."""
    if x:
        return docstring.__doc__, docstring.__name__
    return None


FUNCTIONS = (
    short_circuits, loops, late_binding, ways_out, scopes, generators, classes, undefined, matched,
    docstring,
)  # fmt: skip


def outcome(f: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a call gives or raises, and what it noted."""
    LOG.clear()
    try:
        result: Any = f(*args, **kwargs)
    except NameError as problem:  # of a variable that functions share, or of one's own
        result = NameError, re.findall(r"variable '(\w+)'", str(problem))
    except Exception as problem:
        result = type(problem), str(problem)
    return repr(result), list(LOG)


def as_rewritten(f: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with rewriting(True, noted, ()):
        new = rewritten(f)
        assert new is not f
        return new(*args, **kwargs)


@pytest.mark.parametrize("x", (0, 1, 2, 3, 5, 11))
@pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: f.__name__)
def test_same_as_python(f: Callable[..., Any], x: int) -> None:
    more = {"args": (x, x + 1), "kwargs": {"flag": x > 1, "k": x}} if f is scopes else {}
    args, kwargs = more.get("args", ()), more.get("kwargs", {})
    got = outcome(as_rewritten, f, x, *args, **kwargs)
    want = outcome(f, x, *args, **kwargs)
    assert got == want


def lines(problem: BaseException) -> list[int]:
    """The lines of this file in a traceback."""
    frames = traceback.extract_tb(problem.__traceback__)
    return [f.lineno or 0 for f in frames if f.filename == __file__ and f.name == "raising"]


@pytest.mark.parametrize(("x", "kind"), ((0, AssertionError), (2, KeyError)))
def test_tracebacks_show_the_function(x: int, kind: type[Exception]) -> None:
    with pytest.raises(kind) as plain:
        raising(x)
    with pytest.raises(kind) as new:
        as_rewritten(raising, x)
    assert lines(new.value)[-1] == lines(plain.value)[-1]
    assert str(new.value).split("\n")[0] == str(plain.value).split("\n")[0]


def test_static_control_runs_once() -> None:
    """What Python decides while compiling leaves no trace in the program."""

    def f(x: Any, layers: Any) -> Any:
        for i, layer in enumerate(layers):
            noted(i)
            if layer == "sin" and not i > 5:
                x = ln.sin(x)
            elif layer is None or layer in ("skip", "pass"):
                continue
            else:
                break
        return x

    LOG.clear()
    compiled = ln.compile(f, backend="interpreter")
    text = compiled.ir(1.0, ("sin", None, "skip", "sin", "stop", "sin"))
    assert LOG == [0, 1, 2, 3, 4]
    assert "switch" not in text and text.count("sin(") == 2


def test_libraries_stay_as_they_are() -> None:
    with rewriting(True, noted, ()):
        for f in (ln.sin, traceback.extract_tb, len, ln.nn.linear, ln.grad(raising), Base, "text"):
            assert rewritten(f) is f  # type: ignore[arg-type]
