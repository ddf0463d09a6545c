"""Random functions in plain Python, with nested branches, loops and ways out of them: compiled they
give what Python gives, and the same gradients."""

from __future__ import annotations

import hashlib
import importlib.util
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import lantern as ln

NAMES = st.sampled_from("abcd")
NUMBERS = st.sampled_from(["0.5", "1", "-0.25", "2.0"])
Lines = list[str]
FOLDER = tempfile.TemporaryDirectory()


def joined(*parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map("".join)


def expressions() -> st.SearchStrategy[str]:
    """Bounded floats, so that nothing overflows however often it is computed."""
    leaf = st.one_of(NAMES, NUMBERS, st.just("x[1]"))
    inside = joined(leaf, st.sampled_from([" + ", " * ", " - "]), leaf)
    # A function of a Python number alone is float32, which meets no float64 behind a branch.
    computed = joined(st.sampled_from(["ln.sin(", "ln.tanh("]), inside, st.just(" + x[0] * 0)"))
    simple = st.one_of(leaf, computed)
    choice = joined(
        st.just("("), simple, st.just(" if "), conditions(), st.just(" else "), simple, st.just(")")
    )
    return st.one_of(simple, simple, choice)


def conditions() -> st.SearchStrategy[str]:
    comparison = st.one_of(
        joined(NAMES, st.sampled_from([" < ", " >= "]), NUMBERS),
        joined(NUMBERS, st.just(" < "), NAMES, st.just(" < x[2] + 1")),
        st.sampled_from(["flag", "True"]),
    )
    return st.one_of(
        comparison,
        joined(comparison, st.sampled_from([" and ", " or "]), comparison),
        joined(st.just("not ("), comparison, st.just(")")),
    )


def indented(lines: Lines) -> Lines:
    return ["    " + line for line in lines]


@st.composite
def statement(draw: Any, depth: int, loop: bool) -> Lines:
    kinds = ["assign", "assign", "augment"]
    if depth:
        kinds += ["if", "if", "while", "for", "out", "call"]
    kind = draw(st.sampled_from(kinds))
    if kind == "assign":
        return [f"{draw(NAMES)} = {draw(expressions())}"]
    if kind == "augment":
        name = draw(NAMES)
        return [f"{name} {draw(st.sampled_from(['+=', '-=']))} {draw(expressions())}"]
    if kind == "out":
        ways = ["return " + draw(expressions()) + " + x[0] * 0"]
        ways += ["break", "continue"] if loop else []
        return [f"if {draw(conditions())}:", "    " + draw(st.sampled_from(ways))]
    if kind == "if":
        lines = [f"if {draw(conditions())}:", *indented(draw(block(depth - 1, loop)))]
        if draw(st.booleans()):
            lines += [f"elif {draw(conditions())}:", *indented(draw(block(depth - 1, loop)))]
        if draw(st.booleans()):
            lines += ["else:", *indented(draw(block(depth - 1, loop)))]
        return lines
    if kind == "call":
        return draw(recursion(depth))
    body = indented(draw(block(depth - 1, True)))
    if kind == "while":
        counter = f"n{depth}"
        test = draw(st.sampled_from(["{} < 3", "{} < 3 and a < 0.9", "b * b < 4 and {} < 4"]))
        lines = [f"{counter} = 0", f"while {test.format(counter)}:", f"    {counter} += 1", *body]
    else:
        header = draw(
            st.sampled_from(
                [
                    "v in x",
                    "i, v in enumerate(x)",
                    "u, v in zip(x, x[::-1])",
                    "v in range(2)",
                    "v in range(ln.astype(abs(a) * 3, ln.int64))",
                ]
            )
        )
        lines = [
            f"for {header}:",
            f"    {draw(NAMES)} = ln.sin((x[0] * 0 + v) * 0.3) + c * 0.5",
            *body,
        ]
    if draw(st.booleans()):
        lines += ["else:", *indented(draw(block(0, loop)))]
    return lines


@st.composite
def recursion(draw: Any, depth: int) -> Lines:
    """A function that calls itself, once or twice, as often as a staged number says; its call."""
    name = f"r{depth}"
    calls = [f"{name}(ln.sin(a + x[0] * 0), b * 0.5 + x[0] * 0, k - 1)"]
    if draw(st.booleans()):
        calls.append(f"{name}(b * 0.9 + x[0] * 0, ln.tanh(a + x[0] * 0), k - 2)")
    body = [
        "if k < 1:",
        "    return a + b * 0.1",
        "c, d = a * 0.5, 0.25",
        *draw(block(depth - 1, False)),
        f"return ({' + '.join(calls)}) * 0.4 + c",
    ]
    start = "a + x[0] * 0, b + x[0] * 0, ln.astype(abs(ln.sin(c + x[0] * 0)) * 5, ln.int64)"
    return [f"def {name}(a, b, k):", *indented(body), f"a = {name}({start})"]


def block(depth: int, loop: bool) -> st.SearchStrategy[Lines]:
    some = st.lists(statement(depth, loop), min_size=1, max_size=3)
    return some.map(lambda parts: [line for lines in parts for line in lines])


def functions() -> st.SearchStrategy[str]:
    def text(body: Lines) -> str:
        lines = ["flag = x[0] > 0.5", "a, b, c = x[0], x[1] * 2, ln.sin(x[2])", "d = 0.5", *body]
        lines.append("return a + b * 2 + c * 3 + d * 5 + ln.sum(x) * 0")
        return "import lantern as ln\n\n\ndef f(x):\n" + textwrap.indent("\n".join(lines), "    ")

    return block(2, False).map(text)


def imported(text: str) -> Callable[[Any], Any]:
    """The function of a module with this text."""
    path = Path(FOLDER.name) / f"program_{hashlib.sha256(text.encode()).hexdigest()[:12]}.py"
    path.write_text(text + "\n", encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.f


def check(text: str, backend: str) -> None:
    f = imported(text)
    compiled = ln.compile(ln.value_and_grad(f), backend=backend)
    for point in ([0.3, -0.4, 0.8], [0.9, 1.5, -2.0], [-1.2, 0.1, 0.4]):
        x = np.asarray(point)
        got, want = compiled(x), ln.value_and_grad(f)(x)
        for a, b in zip(ln.tree.leaves(got), ln.tree.leaves(want), strict=True):
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-9, atol=1e-9)


@given(functions())
@settings(max_examples=30)
def test_interpreted(text: str) -> None:
    check(text, "interpreter")


@given(functions())
@settings(max_examples=6)
def test_native(text: str) -> None:
    check(text, "llvm")
