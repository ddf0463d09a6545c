"""Errors of compiled functions, read as somebody new would: what, where, and what to do."""

from __future__ import annotations

import re

import numpy as np
import pytest

import lantern as ln
from lantern.errors import StagingError

X = ln.asarray([1.0, -2.0, 3.0])


def message(f, *args, error=StagingError, rewrite=True) -> str:
    """The error of a function that is compiled; its last line names the function's own line."""
    with pytest.raises(error) as raised:
        ln.compile(f, backend="interpreter", rewrite=rewrite)(*args or (X,))
    text = str(raised.value)
    line = f.__code__.co_firstlineno
    places = [int(n) for n in re.findall(r"test_compile_errors\.py:(\d+)", text)]
    assert any(line <= place <= line + 6 for place in places), text
    return text


def branches(x):
    if x[0] > 0:
        return x
    return -x


def loops(x):
    while ln.sum(x) < 10:
        x = x * 2
    return x


def counts(x):
    for _ in range(int(x[0])):
        x = x * 2
    return x


@pytest.mark.parametrize("f", (branches, loops, counts))
def test_control_flow_of_python(f) -> None:
    text = message(f, rewrite=False)
    assert "not known while compiling" in text
    for advice in ("ln.where", "ln.cond", "ln.scan", "static"):
        assert advice in text


@pytest.mark.parametrize(
    "f",
    (
        lambda x: print(x) or x,
        lambda x: print(f"{x}") or x,
        lambda x: ln.grad(lambda y: ln.sum(y) if str(y) else y)(x),
        lambda x: ln.vmap(lambda y: print(y) or y)(x),
    ),
)
def test_printing(f, capsys) -> None:
    text = message(f)
    assert "ln.debug.print" in text and capsys.readouterr().out == ""


def test_writing_to_files(tmp_path) -> None:
    with pytest.raises(StagingError, match=r"a NumPy array needs a value"):
        ln.compile(lambda x: np.save(tmp_path / "x.npy", x))(X)
    assert "ln.debug.print" in message(lambda x: (tmp_path / "x").write_text(str(x)) and x)


def test_filling_lists_and_attributes() -> None:
    class Model:
        last = None

        def __call__(self, x):
            self.last = x * 2.0
            return self.last + 1.0

    seen = {"all": []}
    text = message(lambda x: seen["all"].append(x + 1.0) or x)
    assert "seen['all'][0]" in text and "leaked" in text and "return the value" in text
    model = Model()
    with pytest.raises(StagingError, match=r"self\.last|\.last, which") as raised:
        ln.compile(lambda x: model(x), backend="interpreter")(X)
    assert "test_compile_errors.py" in str(raised.value)


def test_leaked_values() -> None:
    kept = []

    def keep(x):
        kept.append(x * 2.0)
        return x

    with pytest.raises(StagingError):
        ln.compile(keep, backend="interpreter")(X)
    (leaked,) = kept
    line = keep.__code__.co_firstlineno + 1
    for use in (lambda x: leaked, lambda x: x + leaked):
        with pytest.raises(StagingError, match=rf"(?s)errors.py:{line}.*leaked.*[Rr]eturn it"):
            ln.compile(use, backend="interpreter")(X)
    with pytest.raises(StagingError, match=rf"(?s)errors.py:{line}.*leaked out.*use the result"):
        leaked + 1.0


@pytest.mark.parametrize(
    "f",
    (
        lambda x: ln.unique_values(x),
        lambda x: x[x > 0],
        lambda x: ln.repeat(x, ln.astype(ln.abs(x), "int64")),
        lambda x: ln.nonzero(x),
        lambda x: ln.arange(x[0]),
    ),
)
def test_shapes_that_depend_on_values(f) -> None:
    text = message(f)
    assert "not known while compiling" in text and "compute it before" in text


def test_results_that_are_no_arrays() -> None:
    with pytest.raises(StagingError, match=r"result\['name'\].* str 'loss'; a program returns"):
        ln.compile(lambda x: {"y": x, "name": "loss"})(X)


def test_results_of_a_derivative_that_goes_on() -> None:
    def outer(v):
        return ln.compile(lambda x: (x, v)[1], backend="interpreter")(X)

    with pytest.raises(StagingError, match="pass the Tensor that it comes from in as an argument"):
        ln.grad(lambda v: ln.sum(outer(v)))(X)


def test_operations_that_a_backend_does_not_have(monkeypatch) -> None:
    from backends.llvm import program

    monkeypatch.delitem(program.KERNELS, "argsort")
    with pytest.raises(StagingError, match=r"(?s)no operation argsort.*errors.py:.*interpreter"):
        ln.compile(lambda x: ln.sort(x), cache=False)(X)


def test_backends_and_options_that_are_not_there() -> None:
    with pytest.raises(StagingError, match="'gpu' is not one of interpreter, llvm, cuda, cuda-emu"):
        ln.compile(lambda x: x, backend="gpu")
    with pytest.raises(ln.errors.ArgumentError, match="threads=0"):
        ln.compile(lambda x: x, threads=0)
    with pytest.raises(ln.errors.ArgumentError, match=r"there are traced, .*dead, .*optimised"):
        ln.compile(lambda x: x).ir(X, stage="nothing")


def test_what_can_be_looked_at() -> None:
    compiled = ln.compile(lambda x: ln.sum(ln.exp(x) * 2.0))
    assert "exp(" in compiled.ir(X) and "call(" in compiled.ir(X, stage="fused")
    assert "@run(" in compiled.source(X) and "run:" in compiled.asm(X)
