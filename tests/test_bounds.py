"""Native programs stay in bounds whatever the indices, and right at the edges of shapes and memory.

Arrays end where memory ends, and indices come from an adversary: what is read or written out of
bounds ends the process.
"""

from __future__ import annotations

import mmap
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from guarded import Guarded, guarded_results
from hypothesis import given, settings
from hypothesis import strategies as st

import lantern as ln
from backends.llvm import compile_program
from staging.failures import IndexFailure
from staging.interpret import interpret
from staging.ir import Builder, Program, Type

HOSTILE = (0, 1, -1, 2, 3, 4, 5, -4, -5, 63, 64, 2**31, -(2**31), 2**32, 2**61, 2**62, -(2**62),
           2**63 - 1, -(2**63))  # fmt: skip
SHAPE = (4, 3, 5)


def picking() -> dict[str, Any]:
    """Native gathers and scatters, with one index array to three."""
    found = {}
    for count in (1, 2, 3):
        for kind in ("gather", "set", "sum", "max"):
            b = Builder("here.py:1")
            x = b.param(Type("float32", SHAPE))
            rows = b.param(Type("float32", (2, *SHAPE[count:])))
            places = [b.param(Type("int64", (2,))) for _ in range(count)]
            if kind == "gather":
                y = b.emit("gather", x, *places)
            else:
                y = b.emit("scatter", x, rows, *places, kind=kind)
            program = Program("pick", b.block(y))
            found[f"{kind} {count}"] = program, compile_program(program)
    return found


PICKING = picking()


@settings(max_examples=25)
@given(st.lists(st.sampled_from(HOSTILE), min_size=6, max_size=6), st.sampled_from(sorted(PICKING)))
def test_hostile_indices_are_errors_and_reach_nothing(numbers: list[int], name: str) -> None:
    program, run = PICKING[name]
    count = int(name[-1])
    indices = np.asarray(numbers, np.int64).reshape(3, 2)[:count]
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=v.type.shape).astype(v.type.dtype) for v in program.block.params]
    arrays[2:] = list(indices)
    run.arenas.clear()  # a fresh one, with a guard behind it
    with guarded_results() as guard:
        given = [guard.copy(a) for a in arrays]
        try:
            expected = interpret(program, arrays)
        except IndexFailure as failure:
            with pytest.raises(IndexFailure) as caught:
                run(given)
            assert str(caught.value) == str(failure)
        else:
            np.testing.assert_array_equal(run(given)[0], expected[0])
        run.arenas.clear()


@settings(max_examples=10)
@given(st.lists(st.sampled_from(HOSTILE), min_size=4, max_size=4))
def test_public_functions_refuse_or_clip_indices(numbers: list[int]) -> None:
    x = ln.asarray(np.arange(12.0).reshape(4, 3))
    index = ln.asarray(np.asarray(numbers))
    for name, f in FUNCTIONS.items():
        try:
            expected = np.asarray(f(x, index))
        except (IndexError, OverflowError):
            with pytest.raises(IndexError):
                COMPILED[name](x, index)
        else:
            np.testing.assert_array_equal(np.asarray(COMPILED[name](x, index)), expected, name)


FUNCTIONS: dict[str, Any] = {
    "take": lambda x, i: ln.take(x, i, axis=0),
    "take_along_axis": lambda x, i: ln.take_along_axis(x, i[:, None], axis=1),
    "index": lambda x, i: x[i],
    "pairs": lambda x, i: x[i, i[::-1]],
    "set": lambda x, i: x.at[i].set(x),
    "add": lambda x, i: x.at[i].add(1.0),
    "searchsorted": lambda x, i: ln.searchsorted(x[:, 0], ln.astype(i, x.dtype)),
    "embedding": lambda x, i: ln.nn.embedding(x, i),
    "cross_entropy": lambda x, i: ln.nn.cross_entropy(x, i),
}
COMPILED = {name: ln.compile(f, backend="llvm") for name, f in FUNCTIONS.items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool"])
def test_every_kernel_stays_in_bounds(dtype: str) -> None:
    """Odd lengths, so that vectors and tiles end beyond the arrays."""
    from ir_cases import along_axes, assert_close, indexing, program, structure

    rng = np.random.default_rng(1)
    wanted = [
        case
        for make, shape in (
            (structure, (3, 17, 19)),
            (along_axes, (2, 5, 33)),
            (indexing, (3, 7, 9)),
        )
        for case in make(rng, shape)
        if all(a.dtype.name in (dtype, "int64") for a in case.inputs)
    ]
    whole, inputs = program(wanted)
    with guarded_results() as guard:
        found = compile_program(whole)([guard.copy(a) for a in inputs])
        for case, a, b in zip(wanted, found, interpret(whole, inputs), strict=True):
            assert_close(case, a, b)


def test_the_guard_guards() -> None:
    """A read behind an array ends the process: what the other tests rest on."""
    script = (
        "from guarded import Guarded; import ctypes; a = Guarded().empty(3, 'int8');"
        "ctypes.string_at(a.ctypes.data, 4)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=__file__.rsplit("/", 1)[0],
                          env={"PYTHONPATH": ".:.."}, capture_output=True)  # fmt: skip
    assert done.returncode < 0
    guard = Guarded()
    guard.empty(3)
    memory, first = guard.kept[0]
    memory[first - 1] = 0
    with pytest.raises(AssertionError):
        guard.check()


def test_offsets_beyond_32_bits() -> None:
    """A result of 2³² elements and a bit, most of whose pages are never touched."""
    n = 2**32 + 8
    b = Builder()
    x = b.param(Type("int8", (n,)))
    i = b.param(Type("int64", (3,)))
    part = b.emit("slice", x, starts=(n - 6,), counts=(3,), steps=(2,))
    run = compile_program(Program("far", b.block(b.emit("gather", x, i), part)))
    memory = mmap.mmap(-1, n)
    big = np.frombuffer(memory, np.int8)
    memory[n - 8 :] = bytes(range(8))
    picked, cut = run([big, np.asarray([n - 1, 0, n - 3])])
    assert picked.tolist() == [7, 0, 5] and cut.tolist() == [2, 4, 6]
