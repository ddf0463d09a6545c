"""The face of the library: public names are listed, documented, exemplified and annotated."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import types
from collections.abc import Callable
from typing import Any

import pytest

import lantern

# Modules that users reach as `lantern.name`; what star imports bring to `lantern` comes on top.
NAMESPACES = ("carbon", "cuda", "debug", "io", "linalg", "nn", "optim", "random", "testing", "tree")


def modules() -> list[types.ModuleType]:
    names = [m.name for m in pkgutil.walk_packages(lantern.__path__, "lantern.")]
    return [importlib.import_module(n) for n in names if not n.endswith("__main__")]


def listed(module: types.ModuleType) -> list[str]:
    return list(getattr(module, "__all__", []))


def public_functions() -> dict[str, Callable[..., Any]]:
    """Functions by the name a user writes."""
    found = {f"ln.{n}": getattr(lantern, n) for n in dir(lantern) if not n.startswith("_")}
    for space in NAMESPACES:
        module = importlib.import_module(f"lantern.{space}")
        names = listed(module) or [n for n, v in vars(module).items() if defined_in(module, v)]
        found |= {f"ln.{space}.{n}": getattr(module, n) for n in names if not n.startswith("_")}
    return {n: f for n, f in found.items() if inspect.isfunction(f)}


def defined_in(module: types.ModuleType, value: Any) -> bool:
    return getattr(value, "__module__", None) == module.__name__


FUNCTIONS = public_functions()


@pytest.mark.parametrize("module", modules(), ids=lambda m: m.__name__)
def test_all_is_consistent(module: types.ModuleType) -> None:
    names = listed(module)
    assert len(set(names)) == len(names), "a name is listed twice"
    assert not [n for n in names if not hasattr(module, n)], "listed, and not there"
    assert not [n for n in names if n.startswith("_") and not n.endswith("__")], "private"


def test_nothing_leaks() -> None:
    """`dir(lantern)` shows what modules list, submodules, and no helper of theirs."""
    offered = {n for m in modules() for n in listed(m)}
    leaked = [
        n
        for n, v in vars(lantern).items()
        if not n.startswith("_")
        and n not in offered
        and not isinstance(v, types.ModuleType)
        and getattr(v, "__module__", None) not in {"lantern.tensor", "lantern.transform"}
    ]
    assert not leaked
    assert all(isinstance(getattr(lantern, n), types.ModuleType) for n in NAMESPACES)
    assert not hasattr(lantern, "lantern")
    for package in (lantern, lantern.linalg, lantern.nn):
        assert not hasattr(package, "annotations"), "from __future__ leaks its name"


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_documented_with_an_example(name: str) -> None:
    text = inspect.getdoc(FUNCTIONS[name]) or ""
    assert text, "no docstring"
    assert ">>>" in text, "no example in the docstring"


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_signature_is_annotated(name: str) -> None:
    signature = inspect.signature(FUNCTIONS[name])
    bare = [p.name for p in signature.parameters.values() if p.annotation is p.empty]
    assert not bare, "arguments without a type"
    assert signature.return_annotation is not signature.empty, "no type of the result"


@pytest.mark.peer
def test_array_api_names() -> None:
    """Every name of the array API standard is there, but for complex numbers and fft."""
    strict = pytest.importorskip("array_api_strict")
    elsewhere = {"complex64", "complex128", "conj", "imag", "real", "fft", "Device"}
    elsewhere |= {"broadcast_shapes"}  # newer than version 2024.12
    names = {n for n in strict.__all__ if "ArrayAPIStrict" not in n and "strict_flags" not in n}
    assert not {n for n in names - elsewhere if not hasattr(lantern, n)}
    assert not {n for n in strict.linalg.__all__ if not hasattr(lantern.linalg, n)}
