"""Modules in several texts: what they do, which functions are brief, and what stays together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cffi
import numpy as np
import pytest

import lantern as ln
from backends.llvm import objects, splitting
from backends.llvm.splitting import Text, texts
from backends.llvm.target import Library

MODULE = """
@count = internal global i64 0
@table = private constant [2 x i64] [i64 5, i64 7]

declare i64 @llvm.smax.i64(i64, i64)

define i64 @run(i64 %x) #0 {
entry:
  %a = call i64 @first(i64 %x)
  %b = call i64 @second(i64 %a)
  %c = call i64 @counted(i64 %b)
  ret i64 %c
}

define internal i64 @first(i64 %x) #0 {
entry:
  %a = call i64 @only(i64 %x)
  %b = call i64 @common(i64 %a)
  ret i64 %b
}

define internal i64 @second(i64 %x) #0 {
entry:
  %a = call i64 @common(i64 %x)
  %b = call i64 @within(i64 %a)
  ret i64 %b
}

define internal i64 @only(i64 %x) #0 {
  %a = add i64 %x, 1
  ret i64 %a
}

define internal i64 @common(i64 %x) #0 {
  %at = getelementptr i64, ptr @table, i64 1
  %a = load i64, ptr %at
  %b = mul i64 %x, %a
  ret i64 %b
}

define internal i64 @within(i64 %x) alwaysinline {
  %a = call i64 @llvm.smax.i64(i64 %x, i64 3)
  ret i64 %a
}

define internal i64 @counted(i64 %x) #0 {
  %old = atomicrmw add ptr @count, i64 1 monotonic
  %a = add i64 %x, %old
  ret i64 %a
}

define i64 @seen() {
  %a = load i64, ptr @count
  ret i64 %a
}

attributes #0 = { noinline nounwind }
"""


@pytest.fixture
def divided(monkeypatch: pytest.MonkeyPatch) -> list[list[Text]]:
    """Even short modules are divided; gives what was compiled."""
    seen: list[list[Text]] = []
    original = objects.objects

    def spied(some: Sequence[Text]) -> list[bytes]:
        seen.append([*some])
        return original(some)

    monkeypatch.setattr(splitting, "LEAST", 8)
    monkeypatch.setattr(objects, "objects", spied)
    return seen


def holder(some: Sequence[Text], name: str) -> int:
    """The one text that defines a function."""
    (k,) = (k for k, text in enumerate(some) if f" @{name}(" in defined(text))
    return k


def defined(text: Text) -> str:
    return "\n".join(line for line in text.source.splitlines() if line.startswith("define"))


@pytest.mark.parametrize("most", [1, 2, 5])
@pytest.mark.parametrize("brief", [(), ("run", "first", "only", "counted")])
def test_texts_do_what_the_module_does(
    most: int, brief: Sequence[str], divided: list[list[Text]]
) -> None:
    some = texts(MODULE, brief, most)
    library = Library(objects.objects(some), ("run", "seen"), {})
    ffi = cffi.FFI()
    run = ffi.cast("int64_t(*)(int64_t)", library.addresses["run"])
    assert [run(1), run(1)] == [98, 99]
    assert ffi.cast("int64_t(*)()", library.addresses["seen"])() == 2
    assert len(some) > (most > 1 and not brief) and any(text.brief for text in some) == bool(brief)


def test_what_is_brief(divided: list[list[Text]]) -> None:
    *slow, brief = texts(MODULE, ("run", "first", "only", "common", "counted"), 1)
    assert brief.brief and not any(text.brief for text in slow)
    for name in ("run", "first", "only"):
        assert f"@{name}(" in defined(brief)
    # A loop may be what calls `common` in `second`, and `counted` reads a variable of the module.
    for name in ("common", "counted"):
        assert f"@{name}(" not in defined(brief)


def test_what_stays_together(divided: list[list[Text]]) -> None:
    some = texts(MODULE, (), 5)
    assert len(some) > 1
    assert holder(some, "only") == holder(some, "first")
    assert holder(some, "counted") == holder(some, "seen")
    # `within` becomes a part of what calls it, and only there is what it needs declared.
    (place,) = (k for k, text in enumerate(some) if "@within(i64 %x) alwaysinline" in text.source)
    assert place == holder(some, "second")
    assert ["declare i64 @llvm.smax" in text.source for text in some].index(True) == place


def test_short_modules_are_left_alone() -> None:
    assert texts(MODULE, ("run",), 4) == [Text(MODULE)]


def test_programs_in_several_texts(
    divided: list[list[Text]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def f(w: Any, x: Any) -> Any:
        def step(h: Any, x: Any) -> Any:
            h = ln.tanh(h @ w + x)
            return h, ln.sum(ln.sin(h))

        h, ys = ln.scan(step, ln.zeros((x.shape[1],)), x)
        solved = ln.linalg.solve(w, h)
        return ln.sum(solved) + ln.sum(ys)

    def halvings(x: Any) -> Any:
        return ln.while_loop(lambda x: x > 1.0, lambda x: x / 2, x)

    rng = np.random.default_rng(0)
    w = (rng.standard_normal((5, 5)) + 4 * np.eye(5)).astype(np.float32)
    x = rng.standard_normal((7, 5)).astype(np.float32)
    slope = ln.grad(f)
    found = ln.compile(slope, cache=False)(w, x)
    # Sums of terms of about 10, each rounded by 1e-6.
    np.testing.assert_allclose(found, slope(w, x), rtol=1e-4, atol=2e-5)
    assert float(ln.compile(halvings, cache=False)(np.float64(96.0))) == 0.75
    first, *_ = divided
    assert len(first) > 1


def test_a_text_that_is_wrong_says_so() -> None:
    with pytest.raises(RuntimeError, match="parsing error"):
        objects.objects([Text("define nothing"), Text("define i32 @f() {\n  ret i32 0\n}")])
