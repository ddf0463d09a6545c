"""What cannot be decided by a value of a compiled program says so: the line, why, what to do."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lantern as ln
from lantern.errors import AssertionFailedError, LanternError, StagingError

X = np.float32(1.5)
TOTAL = 0


def message(f: Callable[..., Any], x: Any = X, **options: Any) -> str:
    """The error of a function, which names its line that says ``# here``."""
    with pytest.raises(LanternError) as raised:
        ln.compile(f, backend="interpreter", **options)(x)
    lines, first = inspect.getsourcelines(f)
    (marked,) = (first + i for i, line in enumerate(lines) if "# here" in line)
    text = str(raised.value)
    assert f"{__file__}:{marked} in" in text.split("\n  at ")[-1], text
    return text


def test_a_variable_of_one_branch() -> None:
    def f(x: Any) -> Any:
        if x > 0:
            y = x
        return y  # here

    assert re.search(r"y has a value only where .*`if` at .*py:\d+ holds", message(f))

    def g(x: Any) -> Any:
        if x < 0:
            pass
        else:
            y = x
        y += 1  # here
        return y

    assert "does not hold" in message(g)


def test_a_variable_of_a_loop() -> None:
    def f(x: Any) -> Any:
        while x < 10:
            x = x * 2
            y = x
        return y  # here

    assert "give it one before the loop" in message(f)


def test_values_that_differ() -> None:
    def f(x: Any) -> Any:
        y = ln.zeros(2) if x is None else x
        if x > 0:
            y = "text"
        return y  # here

    assert "y is str 'text' and float32[]" in message(f)

    def g(x: Any) -> Any:
        if x > 0:  # here
            return x, ln.zeros(2)
        return x

    assert "(float32[], float32[2]) and float32[]" in message(g)

    def h(x: Any) -> Any:
        return ln.zeros(2) if x > 0 else ln.zeros(3)  # here

    assert "float32[2] and float32[3]" in message(h)

    def no_return(x: Any) -> Any:  # noqa: RET503
        if x > 0:  # here
            return x  # but nothing elsewhere
        ln.sin(x)

    assert "without a `return`" in message(no_return)


def test_what_nobody_reads_may_differ() -> None:
    def f(x: Any) -> Any:
        note = "positive"
        if x > 0:
            note, y = None, x
            x = y * 2
        del note
        return x

    assert float(ln.compile(f)(X)) == 3.0


def test_loops_keep_kinds() -> None:
    def f(x: Any) -> Any:
        y = ln.stack([x, x])
        while ln.sum(y) < 10:  # here
            y = ln.concat([y, y])
        return y

    assert re.search(r"y is float32\[2\] before .*float32\[4\] behind", message(f))

    def g(x: Any) -> Any:
        best = None
        while x < 10:  # here
            best, x = (x, x * 2)
        return best

    assert "best is None before the loop, and float32[]" in message(g)

    def h(x: Any) -> Any:
        n = ln.asarray(1)
        while x < 10:  # here
            n, x = n + 0.5, x * 2
        return n

    assert re.search(r"n is int64\[\] before .*float32\[\] behind", message(h))


def test_objects_that_change() -> None:
    class Holder:
        value: Any = None

    holder, found, table = Holder(), [], {}

    def appends(x: Any) -> Any:
        if x > 0:
            found.append(x)  # here
        return x

    def sets(x: Any) -> Any:
        while x < 9:
            x = x * 2
            holder.value = x  # here
        return x

    def stores(x: Any) -> Any:
        for i in range(ln.astype(x, ln.int64)):
            table["key"] = i  # here
        return x

    for f, shown in ((appends, "found.append"), (sets, "holder.value"), (stores, "table['key']")):
        text = message(f)
        assert shown in text and "ln.scan" in text and "x.at[index].set" in text
    assert not found and not table


def test_objects_of_the_branch_may_change() -> None:
    def f(x: Any) -> Any:
        if x > 0:
            parts = []
            parts.append(x)
            parts[0] = parts[0] * 2
        else:
            parts = [x]
        return parts[0]

    assert float(ln.compile(f)(X)) == 3.0


def test_objects_of_the_rest_may_change() -> None:
    """Behind an early return only the rest of the function sees the list; in a loop, others do."""

    def f(x: Any) -> Any:
        parts = []
        if x > 3:
            return x * 0
        parts.append(x)
        if x < 0:
            return parts[0] - 1
        parts.append(x * 2)
        return sum(parts)

    compiled = ln.compile(f, backend="interpreter")
    assert [float(compiled(np.float32(x))) for x in (4, -2, 1)] == [0, -3, 3]

    def g(x: Any) -> Any:
        parts = []
        for i in range(3):
            if x > i:
                continue
            parts.append(i)  # here
        return parts

    assert "parts.append" in message(g)


def test_a_function_may_fill_a_list_from_a_known_loop() -> None:
    def f(xs: Any) -> Any:
        found: list[Any] = []

        def keep(v: Any) -> None:
            found.append(v * 2)

        for v in xs:
            keep(v)
        return ln.stack(found)

    assert ln.compile(f)(np.arange(3.0)).tolist() == [0, 2, 4]


def test_statements_that_stay_done() -> None:
    def changes(x: Any) -> Any:
        global TOTAL
        if x > 0:
            TOTAL = 1  # here
        return x

    def deletes(x: Any) -> Any:
        y = x
        if x > 0:
            del y  # here
        return x

    def tries(x: Any) -> Any:
        if x > 0:
            try:  # here
                x = 1 / x
            except ZeroDivisionError:
                x = 0.0
        return x

    assert "the global TOTAL is changed" in message(changes)
    assert "`del`" in message(deletes)
    assert "`try` sees no error" in message(tries)
    assert TOTAL == 0


def test_python_decides() -> None:
    def leaves(x: Any) -> Any:
        try:
            if x > 0:  # here
                return x
        finally:
            pass
        return -x

    def generates(x: Any) -> Any:
        def parts() -> Any:
            if x > 0:  # here
                yield x

        return sum(parts())

    def keeps(x: Any) -> Any:
        return [v for v in (x, -x) if v > 0]  # here

    def counts(x: Any) -> Any:
        return [i + 1 for i in range(ln.astype(x, ln.int64))]  # here

    assert "inside of a `try`" in message(leaves)
    assert "it is a generator" in message(generates)
    assert "how many elements" in message(keeps)
    assert "ln.fori_loop" in message(counts)


def test_truth_needs_one_element() -> None:
    def f(x: Any) -> Any:
        if x > 0:  # here
            return x
        return -x

    assert "`if` of bool[2]" in message(f, np.ones(2))


def test_it_can_be_switched_off() -> None:
    def f(x: Any) -> Any:
        if x > 0:  # here
            return x
        return -x

    assert "bool() needs a value" in message(f, rewrite=False)
    assert float(ln.compile(f, rewrite=True)(X)) == 1.5


def test_without_source() -> None:
    space: dict[str, Any] = {}
    exec("def f(x):\n    return x if x > 0 else -x", space)
    with pytest.raises(
        StagingError, match=r"its source text is not available, .* made in <string>, by exec"
    ):
        ln.compile(space["f"])(X)


def test_source_that_has_changed(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs is the function that was imported, not another one on its line."""
    path = tmp_path / "changing_module.py"
    path.write_text("def f(x):\n    return x if x > 0 else -x\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    import changing_module  # type: ignore[import-not-found]

    path.write_text("def f(x):\n    return x if x < 0 else -x * 2\n", encoding="utf-8")
    with pytest.raises(StagingError, match="has changed since it was imported"):
        ln.compile(changing_module.f)(X)


def test_installed_packages(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed stays as it is, unless it is the package of the function itself."""
    for name in ("library_one", "library_two"):
        package = tmp_path / "site-packages" / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(
            "def inner(x):\n    return x if x > 0 else -x\n\n\n"
            "def outer(x):\n    return inner(x) if x < 9 else x\n",
            encoding="utf-8",
        )
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    import library_one  # type: ignore[import-not-found]
    import library_two  # type: ignore[import-not-found]

    assert float(ln.compile(library_one.outer)(-X)) == 1.5
    with pytest.raises(StagingError, match="not known while compiling"):
        ln.compile(lambda x: library_two.outer(x))(X)


@pytest.mark.parametrize("backend", ("interpreter", "llvm"))
def test_assertions_are_checked_when_it_runs(backend: str) -> None:
    def f(x: Any, n: int) -> Any:
        assert n > 0, "n is static"
        for _ in range(n):
            if x > 1:
                assert x < 9, "too large"
            x = x * 2
        return x

    compiled = ln.compile(ln.grad(f), backend=backend, static="n")
    assert float(compiled(X, n=3)) == 8.0
    with pytest.raises(AssertionFailedError, match=r"too large\n  at .*test_syntax_errors.py:\d+"):
        compiled(X, n=5)
    with pytest.raises(AssertionError, match="n is static"):
        compiled(X, n=0)


def test_lambdas_on_one_line() -> None:
    first, second = (lambda x: x if x > 0 else -x), (lambda x: -x if x > 0 else x)
    assert [float(ln.compile(f)(X)) for f in (first, second)] == [1.5, -1.5]
