"""What a compiled function tells about itself, and the way out of Python, as a user sees them."""

from __future__ import annotations

import builtins
import importlib.util
import shutil
from pathlib import Path
from typing import Any

import cffi
import numpy as np
import pytest

import lantern as ln

MACHINE = ln.Machine(1e11, ((float("inf"), 1e10),), 1)
SCALE = np.linspace(0.5, 1.5, 8, dtype=np.float32)
needs_linker = pytest.mark.skipif(
    not (shutil.which("cc") or shutil.which("ld")), reason="there is no linker here"
)


def loss(params: Any, x: ln.Tensor) -> ln.Tensor:
    h = ln.tanh(x @ params["w"]) * SCALE
    return ln.sum(h @ params["v"])


def step(params: Any, x: ln.Tensor) -> Any:
    value, grads = ln.value_and_grad(loss)(params, x)
    return {"loss": value, "params": ln.tree.map(lambda p, g: p - 0.1 * g, params, grads)}


def arguments() -> tuple[Any, ln.Tensor]:
    params = {"w": ln.ones((16, 8)) * 0.1, "v": ln.ones((8, 4)) * 0.2}
    return params, ln.reshape(ln.linspace(-1.0, 1.0, 64), (4, 16))


def test_the_cost_of_a_step_is_known_before_it_runs() -> None:
    run = ln.compile(step)
    params, x = arguments()
    shapes = ln.tree.map(lambda p: ln.ShapeDtype(p.shape, p.dtype), (params, x))
    cost = run.cost(*shapes, machine=MACHINE)
    products = 2 * 4 * 16 * 8 * 2 + 2 * 4 * 8 * 4 * 3
    assert cost.flops >= products
    assert cost.flops == sum(row.flops for row in cost.rows)
    assert cost.intensity == cost.flops / cost.bytes
    assert cost.seconds == pytest.approx(sum(row.seconds for row in cost.rows))
    held = 4 * (16 * 8 + 8 * 4)
    assert cost.arguments == held + 4 * 64 + SCALE.nbytes
    assert cost.results == held + 4
    assert cost.peak_memory >= cost.arguments + cost.results
    line = loss.__code__.co_firstlineno
    text = str(cost)
    assert f"test_insight.py:{line + 1}" in text and f"test_insight.py:{line + 2}" in text
    assert "(backward)" in text


def test_the_roofline_is_measured_once(tmp_path: Path) -> None:
    args = arguments()
    first = ln.compile(step, cache=tmp_path).cost(*args).machine
    second = ln.compile(step, cache=tmp_path).cost(*args).machine
    assert first == second
    assert first.flops > 1e9


def test_a_profile_is_a_table_and_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run = ln.compile(step, donate="params")
    args = arguments()
    profile = run.profile(*args, png=tmp_path / "step.png", machine=MACHINE)
    assert (tmp_path / "step.png").read_bytes().startswith(b"\x89PNG")
    assert "test_insight.py" in str(profile)
    assert 0 < sum(row.seconds for row in profile.rows) <= profile.seconds
    assert args[0]["w"].tolist()  # a profile leaves what is donated alone


def test_a_picture_takes_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_matplotlib(name: str, *args: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    with pytest.raises(ln.errors.ArgumentError, match="pip install"):
        ln.compile(step).profile(*arguments(), png="step.png")


def test_a_profile_takes_arrays() -> None:
    shapes = ln.tree.map(lambda p: ln.ShapeDtype(p.shape, p.dtype), arguments())
    with pytest.raises(ln.errors.ArgumentError, match="takes arrays"):
        ln.compile(step).profile(*shapes)


@needs_linker
def test_a_library_gives_what_the_function_gives(tmp_path: Path) -> None:
    run = ln.compile(step)
    args = arguments()
    library, header = run.export(tmp_path / "libstep.so", *args)
    assert header == tmp_path / "step.h"
    ffi = cffi.FFI()
    declared = header.read_text(encoding="utf-8")
    assert "params['w']" in declared and "result['params']['v']" in declared
    ffi.cdef("int step(const float *v, const float *w, const float *x, float *, float *, float *);"
             "const char *step_message(int code);")  # fmt: skip
    opened: Any = ffi.dlopen(str(library))
    results = [
        np.zeros((), np.float32),
        np.zeros((8, 4), np.float32),
        np.zeros((16, 8), np.float32),
    ]
    given = [np.asarray(a) for a in (args[0]["v"], args[0]["w"], args[1])]
    code = opened.step(*(ffi.cast("float *", a.__array_interface__["data"][0])
                         for a in (*given, *results)))  # fmt: skip
    assert ffi.string(opened.step_message(code)) == b"done"
    for found, expected in zip(results, ln.tree.leaves(run(*args)), strict=True):
        np.testing.assert_allclose(found, np.asarray(expected), 1e-5)


def test_an_object_file_takes_no_linker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    run = ln.compile(step)
    library, _ = run.export(tmp_path / "step.o", *arguments(), cpu="x86-64")
    assert library.stat().st_size > 100
    with pytest.raises(ln.errors.StagingError, match="takes a linker"):
        run.export(tmp_path / "step.so", *arguments())


def test_what_cannot_be_exported_says_why(tmp_path: Path) -> None:
    x = ln.eye(3)
    with pytest.raises(ln.errors.StagingError, match=r"LAPACK(.|\n)*test_insight\.py"):
        ln.compile(lambda a: ln.linalg.inv(a)).export(tmp_path / "inverse.o", x)
    with pytest.raises(ln.errors.StagingError, match="x86-64-v3"):
        ln.compile(ln.sin).export(tmp_path / "sine.o", x, cpu="6502")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_llvm(name: str, *args: Any) -> Any:
        if name.startswith("backends"):
            raise ModuleNotFoundError("no llvmlite", name="llvmlite")
        return real(name, *args)

    run = ln.compile(step, backend="interpreter")
    monkeypatch.setattr(builtins, "__import__", without_llvm)
    with pytest.raises(ln.errors.StagingError, match="llvmlite"):
        run.cost(*arguments())
    assert run.cost(*arguments(), machine=MACHINE).flops > 0  # that needs none
    assert importlib.util.find_spec("llvmlite")


@pytest.mark.parametrize("wide", [False, True])
def test_recursion_is_predicted_measured_and_shown(wide: bool) -> None:
    """Of numbers, by calls in frames; with products of matrices by an agenda."""
    w = ln.full((6, 6) if wide else (), 0.3)

    def value(w: Any, n: Any) -> Any:
        @ln.recursive
        def node(n: Any) -> Any:
            def inner() -> Any:
                h = node(n - 1) + node(n - 2)
                return ln.tanh(h @ w if wide else h * w)

            return ln.cond(n < 1, lambda: ln.full(6 if wide else (), 0.1), inner)

        return ln.sum(node(n))

    compiled = ln.compile(ln.value_and_grad(value))
    given = (w, np.int64(4))
    assert ("agenda(" if wide else "recurse(") in compiled.ir(*given)
    assert compiled.cost(*given, machine=MACHINE).flops > 0
    profile = compiled.profile(*given, machine=MACHINE)
    assert profile.seconds > 0
    assert ("matmul" if wide else "recurse") in str(profile)
