"""A program as a library for programs in C, which run without Python."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.llvm.export import NO_MEMORY, ExportError, export, identifiers, link
from backends.llvm.target import compiling_for
from staging.interpret import interpret, numpy_dtype
from staging.ir import Program
from staging.pipeline import optimise
from staging.text import parse_program

needs_cc = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler here")

SOURCE = """program @mixed(%x: float32[33, 20], %w: float32[20, 48], %i: int64[5], %d: float64[7], %m: bool[7], %h: bfloat16[6], %k: float32[48]) {
  %1 = matmul(%x, %w) {transpose_x=false, transpose_y=false}: float32[33, 48] @ "model.py:3"
  %2 = tanh(%1): float32[33, 48]
  %3 = broadcast(%k) {shape=(33, 48)}: float32[33, 48]
  %4 = mul(%2, %3): float32[33, 48]
  %5 = gather(%4, %i): float32[5, 48] @ "model.py:5"
  %6 = reduce(%4) {kind='sum', axes=(1,)}: float32[33]
  %7 = sin(%d): float64[7]
  %8 = select(%m, %7, %d): float64[7]
  %9, %10 = scan(%8, %d) {length=7, carried=1, captured=0, reverse=false} block(%c: float64[7], %e: float64[]) {
    %b = broadcast(%e) {shape=(7,)}: float64[7]
    %s = add(%c, %b): float64[7]
    return (%s, %e)
  }: float64[7], float64[7]
  %11 = mul(%h, %h): bfloat16[6]
  %12 = lt(%d, %9): bool[7]
  %13 = reduce(%12) {kind='max', axes=(0,)}: bool[]
  require(%13) {message="nothing is smaller"} @ "model.py:9"
  return (%5, %6, %9, %11, %12)
}"""  # noqa: E501
INPUTS = ["params['x']", "params['w']", "index", "d", "int", "half"]
OUTPUTS = ["['picked']", "['sums']", "['carry']", "['half']", "['less']"]

MAIN = """#include <stdio.h>
#include <stdlib.h>
#include "mixed.h"

static void *data(const char *name, size_t size) {{
  void *array = malloc(size ? size : 1);
  FILE *file = fopen(name, "rb");
  if (!file || fread(array, 1, size, file) != size) exit(90);
  fclose(file);
  return array;
}}

int main(void) {{
{declarations}
  int code = mixed({arguments});
  printf("%d %s\\n", code, mixed_message(code));
  if (code) return 0;
  FILE *file = fopen("results", "wb");
{writes}
  fclose(file);
{frees}
  return 0;
}}
"""


def arrays() -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(3)
    return [
        rng.normal(size=(33, 20)).astype(np.float32),
        rng.normal(size=(20, 48)).astype(np.float32),
        np.asarray([0, 32, 7, 7, 1]),
        rng.normal(size=7),
        rng.normal(size=7) > 0,
        rng.normal(size=6).astype(numpy_dtype("bfloat16")),
        rng.normal(size=48).astype(np.float32),
    ]


def built(folder: Path, cpu: str | None, compiler: list[str]) -> tuple[Program, list[Any], Path]:
    """The program, its arrays, and an executable that calls the library with all but the last."""
    program = optimise(parse_program(SOURCE))
    given = arrays()
    made = export(program, "mixed", INPUTS, OUTPUTS, given[-1:], cpu)
    (folder / "mixed.o").write_bytes(made.code)
    (folder / "mixed.h").write_text(made.header)
    link(folder / "mixed.o", folder / "libmixed.so")
    declarations, frees, writes = [], [], []
    names = [f"in{i}" for i in range(len(INPUTS))] + [f"out{i}" for i in range(len(OUTPUTS))]
    for name, array in zip(names, given[: len(INPUTS)], strict=False):
        declarations.append(f'  void *{name} = data("{name}", {array.nbytes});')
        (folder / name).write_bytes(array.tobytes())
    for name, value in zip(names[len(INPUTS) :], program.block.results, strict=True):
        declarations.append(f"  void *{name} = malloc({value.type.bytes});")
        writes.append(f"  fwrite({name}, 1, {value.type.bytes}, file);")
    frees = [f"  free({name});" for name in names]
    text = MAIN.format(declarations="\n".join(declarations), arguments=", ".join(names),
                       writes="\n".join(writes), frees="\n".join(frees))  # fmt: skip
    (folder / "main.c").write_text(text)
    command = [*compiler, "main.c", "-o", "main", "-L.", "-lmixed", "-Wl,-rpath,."]
    subprocess.run(command, cwd=folder, check=True)
    return program, given, folder / "main"


def ran(main: Path, prefix: tuple[str, ...] = ()) -> str:
    command = [*prefix, str(main)]
    return subprocess.run(
        command, cwd=main.parent, check=True, capture_output=True, text=True
    ).stdout


def check_results(program: Program, given: list[Any], folder: Path) -> None:
    found = (folder / "results").read_bytes()
    at = 0
    for value, expected in zip(program.block.results, interpret(program, given), strict=True):
        dtype = numpy_dtype(value.type.dtype)
        array = np.frombuffer(found[at : at + value.type.bytes], dtype).reshape(value.type.shape)
        at += value.type.bytes
        wide = np.float64 if array.dtype != np.bool_ else np.bool_
        np.testing.assert_allclose(array.astype(wide), expected.astype(wide), 1e-5, 1e-6)
    assert at == len(found)


@needs_cc
def test_a_program_in_c_gives_the_same_results(tmp_path: Path) -> None:
    program, given, main = built(tmp_path, None, ["cc", "-Wall", "-Werror", "-std=c99"])
    assert ran(main) == "0 done\n"
    check_results(program, given, tmp_path)
    needed = subprocess.run(["ldd", str(main)], capture_output=True, text=True, check=False).stdout
    assert not re.search("python|blas", needed)


@needs_cc
def test_errors_are_numbers_with_a_text(tmp_path: Path) -> None:
    _, given, main = built(tmp_path, None, ["cc"])
    (tmp_path / "in2").write_bytes(np.asarray([0, 33, 7, 7, 1]).tobytes())
    assert ran(main) == "1 gather: an index is out of range, at model.py:5\n"
    (tmp_path / "in2").write_bytes(given[2].tobytes())
    (tmp_path / "in3").write_bytes(np.full(7, np.nan).tobytes())
    assert ran(main) == "2 nothing is smaller, at model.py:9\n"


@needs_cc
@pytest.mark.skipif(not shutil.which("valgrind"), reason="there is no valgrind here")
def test_memory_is_used_as_it_should(tmp_path: Path) -> None:
    """Compiled for a CPU without AVX-512, which valgrind does not know."""
    program, given, main = built(tmp_path, "x86-64-v3", ["cc"])
    flags = ("--error-exitcode=9", "--leak-check=full", "-q")
    assert ran(main, ("valgrind", *flags)) == "0 done\n"
    check_results(program, given, tmp_path)


@pytest.mark.skipif(not shutil.which("c++"), reason="there is no C++ compiler here")
def test_the_header_is_c_plus_plus_too(tmp_path: Path) -> None:
    made = export(optimise(parse_program(SOURCE)), "mixed", INPUTS, OUTPUTS, arrays()[-1:])
    (tmp_path / "mixed.h").write_text(made.header)
    (tmp_path / "main.cc").write_text('#include "mixed.h"\nint main() { return !mixed; }\n')
    subprocess.run(["c++", "-fsyntax-only", "-Wno-address", "main.cc"], cwd=tmp_path, check=True)


def test_the_header_names_shapes_dtypes_and_paths() -> None:
    made = export(optimise(parse_program(SOURCE)), "mixed", INPUTS, OUTPUTS, arrays()[-1:])
    text = " ".join(made.header.split())
    for words in (
        "params_x float32[33, 20] params['x']", "int_ bool[7] int", "carry float64[7] ['carry']",
        "const float *params_x", "const int64_t *index", "const uint8_t *int_", "uint16_t *half_2",
        "192 bytes of constant arrays", "int mixed(", "const char *mixed_message(int code);",
    ):  # fmt: skip
        assert words in text, words
    assert made.code.startswith(b"\x7fELF") or shutil.which("ldd") is None


def test_names_for_c() -> None:
    assert identifiers(["a['b'][0]", "a_b_0", "7", "", "for"]) == [
        "a_b_0", "a_b_0_2", "x7", "x", "for_",
    ]  # fmt: skip


def test_what_needs_more_than_the_c_library_is_refused() -> None:
    for line in (
        "%y = linalg(%x) {kind='inv'}: float32[2, 2]",
        "print(%x) {format='{}'}",
    ):
        source = f"program @p(%x: float32[2, 2]) {{ {line} @ 'model.py:4' return (%x) }}"
        with pytest.raises(ExportError, match=r"cannot be exported(.|\n)*model.py:4"):
            export(parse_program(source), "p", ["x"], ["y"])


def test_without_a_linker_there_is_still_the_object_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ExportError, match=r"step.so takes a linker.*step\.o"):
        link(tmp_path / "step.o", tmp_path / "step.so")


def test_only_known_cpus_are_compiled_for() -> None:
    with pytest.raises(ValueError, match="x86-64-v3"), compiling_for("6502"):
        pass
    assert NO_MEMORY < 0
