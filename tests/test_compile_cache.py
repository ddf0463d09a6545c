"""Compiled programs on disk: found again, safe against damage, bounded, and never in the way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import lantern as ln
from lantern.errors import CacheWarning
from lantern.staged import executables, store
from lantern.staged.store import Store, default_folder

X = ln.asarray([[1.0, 2.0], [3.0, 4.0]])
PROGRAM = """
import sys, warnings
warnings.simplefilter("error")
import lantern as ln
from staging import pipeline
if sys.argv[2] == "warm":  # then neither passes nor LLVM's are run
    import backends.llvm.executable as native
    pipeline.optimise = native.compiled = native.Entry = None
f = ln.compile(lambda x, i: ln.sum(ln.exp(x @ x), axis=0)[i], cache=sys.argv[1])
print(f(ln.asarray([[1.0, 2.0], [3.0, 4.0]]), 1).item())
try:
    f(ln.asarray([[1.0, 2.0], [3.0, 4.0]]), 7)
except IndexError as problem:
    print(problem)
"""


def process(folder: Path, kind: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), kind], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file()]


def test_another_process_runs_what_is_there(tmp_path) -> None:
    both = [process(tmp_path, "cold") for _ in range(2)]  # at once, and into one folder
    cold, other = (p.communicate() for p in both)
    warm = process(tmp_path, "warm").communicate()
    assert cold == other == warm and not cold[1]
    assert "index 7" in cold[0] and "<string>" in cold[0]
    assert len(files(tmp_path)) == 1


def once(folder: Path) -> np.ndarray:
    return np.asarray(ln.compile(lambda x: ln.exp(x) @ x, cache=folder)(X))


@pytest.mark.parametrize("damage", ("cut", "flip", "empty", "checksum of nonsense"))
def test_damaged_entries_are_built_again(tmp_path, damage) -> None:
    want = once(tmp_path)
    (path,) = files(tmp_path)
    data = bytearray(path.read_bytes())
    if damage == "checksum of nonsense":
        Store(str(tmp_path)).put(path.name, b"\x05" + bytes(40))
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes({"cut": data[:-9], "flip": data, "empty": b""}[damage])
    with pytest.warns(CacheWarning, match=f"{path.name} .* is damaged"):
        np.testing.assert_array_equal(once(tmp_path), want)
    np.testing.assert_array_equal(once(tmp_path), want)


def test_the_key_knows_program_passes_threads_and_host(tmp_path, monkeypatch) -> None:
    from staging.pipeline import DEFAULT

    def f(x):
        return ln.exp(x) * 2.0

    ln.compile(f, cache=tmp_path)(X)
    assert len(files(tmp_path)) == 1
    ln.compile(f, cache=tmp_path)(ln.ones(3))
    ln.compile(f, cache=tmp_path, threads=3)(X)
    ln.compile(f, cache=tmp_path, passes=DEFAULT[:2])(X)
    assert len(files(tmp_path)) == 4
    ln.compile(f, cache=tmp_path, passes=[DEFAULT[0]._replace(run=lambda p: p)])(X)
    assert len(files(tmp_path)) == 4, "what a pass of the caller's does is not known"
    monkeypatch.setattr(executables, "sources", lambda: "another version")
    ln.compile(f, cache=tmp_path)(X)
    assert len(files(tmp_path)) == 5


def test_no_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ln.compile(lambda x: x * 5.0, cache=False)(X)
    assert not files(tmp_path)
    if sys.platform == "linux":
        ln.compile(lambda x: x * 5.0)(X)
        assert default_folder() == str(tmp_path / "lantern") and files(tmp_path / "lantern")


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path, recwarn) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    for factor in (6.0, 7.0):
        with pytest.warns(CacheWarning) if factor == 6.0 else pytest.MonkeyPatch.context():
            got = ln.compile(lambda x, s=factor: x * s, cache=blocked)(X)
        assert got.tolist() == (np.asarray(X) * factor).tolist()
    assert not recwarn.list


def test_the_size_is_bounded(tmp_path) -> None:
    kept = Store(str(tmp_path), limit=4 * 1100)
    for i in range(8):
        kept.put(str(i), bytes(1000))
        os.utime(tmp_path / str(i), (i, i))
        if i >= 3:
            assert kept.get("3") is not None  # which makes it the newest
    names = {path.name for path in files(tmp_path)}
    assert "3" in names and "7" in names and "0" not in names and len(names) == 4


def test_abandoned_files_are_removed(tmp_path) -> None:
    kept = Store(str(tmp_path))
    for name, age in ((".old.1", 2 * store.STALE), (".new.1", 0)):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    kept.put("a", b"x")
    assert {path.name for path in files(tmp_path)} == {"a", ".new.1"}
