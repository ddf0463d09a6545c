"""Which package may import which, and what a rule may call: read off the source text."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("lantern", "staging", "backends", "examples", "benchmarks", "tests")
# What each package may import of the others. Data flows lantern -> staging -> backends.
MAY_IMPORT = {
    "lantern": {"staging", "backends"},
    "staging": set(),
    "backends": {"staging"},
    "examples": {"lantern"},
    "benchmarks": {"lantern", "staging", "backends", "examples"},
}
# In rules and batch rules values may be Tensors of any prompt, which NumPy's functions do not see.
# What these names give is static: a dtype, a test for a bare value, a constant.
STATIC_NUMPY = {"dtype", "ndarray", "generic", "newaxis", "pi", "inf", "nan", "finfo", "iinfo"} | {
    "float16", "float32", "float64", "int32", "int64", "bool_", "issubdtype", "floating", "integer",
}  # fmt: skip


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every module imported anywhere in a file, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield node.lineno, node.module or ""


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_down(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(package)
        for line, name in imports(parsed(path))
        if (top := name.split(".")[0]) in PACKAGES
        and top != package
        and top not in MAY_IMPORT[package]
    ]
    assert not wrong


def test_one_module_of_lantern_reaches_the_backends() -> None:
    doors = {
        str(path.relative_to(ROOT))
        for path in sources("lantern")
        for _, name in imports(parsed(path))
        if name.split(".")[0] == "backends"
    }
    assert len(doors) <= 1


def test_the_core_knows_no_transformation() -> None:
    """The control core stands below the operations, and these below the transformations."""
    below = {
        "lantern/tensor.py": {
            "lantern.errors",
            "lantern.control",
            "lantern.methods",
            "lantern.symbol",
        },
        "lantern/symbol.py": {
            "lantern.errors",
            "lantern.lengths",
            "lantern.places",
            "lantern.ragged",
            "lantern.staged.operators",
            "lantern.staged.stage",
        },
        "lantern/declare.py": {"lantern.errors"},
        "lantern/errors.py": set(),
        "lantern/places.py": {"lantern.errors"},
        "lantern/control.py": {
            "lantern.checks",
            "lantern.declare",
            "lantern.errors",
            "lantern.places",
            "lantern.ragged",
            "lantern.symbol",
            "lantern.tensor",
            "lantern.primitives.structure",
        },
    }
    for name, allowed in below.items():
        found = {m for _, m in imports(parsed(ROOT / name)) if m.startswith("lantern.")}
        assert found <= allowed, name


def rules(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Rules, and batch rules: functions whose first argument is ``perform``."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef):
            continue
        decorators = {
            d.func.id if isinstance(d, ast.Call) and isinstance(d.func, ast.Name) else ""
            for d in node.decorator_list
        }
        arguments = [a.arg for a in node.args.args]
        if "primitive" in decorators or arguments[:1] == ["perform"]:
            yield node


@pytest.mark.parametrize("path", sources("lantern/primitives"), ids=lambda p: p.stem)
def test_rules_call_no_numpy(path: Path) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} {rule.name} uses np.{node.attr}"
        for rule in rules(parsed(path))
        for statement in rule.body
        for node in ast.walk(statement)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "np"
        and node.attr not in STATIC_NUMPY
    ]
    assert not wrong


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_files_stay_readable(package: str) -> None:
    """A file of more than 600 lines has more than one subject."""
    long = {
        str(path.relative_to(ROOT)): count
        for path in sources(package)
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 600
    }
    assert not long
