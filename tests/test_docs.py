"""What the documents show is true: code runs and prints what they say, links and commands exist."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import pkgutil
import re
import sys
import types
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import pytest

import lantern

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
MODULES = ["lantern"] + [m.name for m in pkgutil.walk_packages(lantern.__path__, "lantern.")]
FLOAT = re.compile(r"\d+\.\d*(?:e[+-]?\d+)?")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: its language, its text and the line it begins on."""

    language: str
    text: str
    line: int


def blocks(document: Path) -> Iterator[Block]:
    text = document.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        yield Block(match[1], match[2], text.count("\n", 0, match.start(2)) + 1)


def name(document: Path) -> str:
    return str(document.relative_to(ROOT))


def assert_shows(expected: str, found: str, where: str) -> None:
    """The same text, but for the last digits of floats, in which processors differ."""
    assert FLOAT.sub("#", found) == FLOAT.sub("#", expected), f"{where} prints\n{found}"
    numbers = [[float(n) for n in FLOAT.findall(text)] for text in (found, expected)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-5), f"{where} prints\n{found}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_code_runs_and_prints_what_it_says(
    document: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A document's ``python`` blocks share a namespace; a ``text`` block shows what one prints."""
    found = list(blocks(document))
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType(f"document_{document.stem.replace('-', '_')}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block, following in zip_longest(found, found[1:]):
        if block.language != "python":
            continue
        # Empty lines in front give every line its number in the document: tracebacks show it, and
        # the source of a rule is found there.
        source = "\n" * (block.line - 1) + block.text
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(source, str(document), "exec"), module.__dict__)
        if following is not None and following.language == "text":
            assert_shows(following.text, printed.getvalue(), f"{name(document)}:{block.line}")
        else:
            assert not printed.getvalue(), (
                f"{name(document)}:{block.line} prints, and shows no result"
            )


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings(module: str) -> None:
    if module.endswith("__main__"):
        return
    report = io.StringIO()
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    with contextlib.redirect_stdout(report):
        result = doctest.testmod(importlib.import_module(module), optionflags=flags)
    assert not result.failed, report.getvalue()


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_lead_somewhere(document: Path) -> None:
    text = FENCE.sub("", document.read_text(encoding="utf-8"))
    targets = [t for t in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in t]
    missing = [t for t in targets if not (document.parent / t.split("#")[0]).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_files_and_commands_exist(document: Path) -> None:
    """Paths in `code` that begin with one of our folders, and `make` targets."""
    text = document.read_text(encoding="utf-8")
    folders = "lantern|staging|backends|examples|benchmarks|tests|docs"
    paths = re.findall(rf"`((?:{folders})/[\w/.-]+)`", FENCE.sub("", text))
    assert not [p for p in paths if not (ROOT / p).exists()]
    targets = set(
        re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    )
    commands = re.findall(r"(?:^|`)make ([a-z0-9]+)", text, re.M)
    assert not [c for c in commands if c not in targets]
