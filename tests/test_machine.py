"""Recursion in native code: groups of functions as one loop over frames, beside the interpreter."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest
from recursive_programs import Draw
from test_recursion_ir import CHAIN, EVEN, FACTORIAL, NOTHING, TREE

from backends.llvm import compile_program, lists
from backends.llvm.activations import calls_of, functions_of
from backends.llvm.binary import pack, unpack
from backends.llvm.export import export
from backends.llvm.profile import measure
from staging.failures import FrameFailure, IndexFailure
from staging.interpret import interpret
from staging.ir import Builder, Program, Type, Value
from staging.pipeline import optimise
from staging.recursion import described
from staging.text import parse_program
from staging.verify import verify

LEFT, RIGHT = np.asarray([1, -1, 3, -1, -1]), np.asarray([2, -1, 4, -1, -1])


def integer(value: int) -> Any:
    return np.asarray(value, np.int64)


def number(value: float) -> Any:
    return np.asarray(value, np.float64)


def agree(program: Program, given: list[Any], tolerance: float = 1e-9) -> None:
    """Native code gives what the interpreter does, before and behind the passes, run after run."""
    wanted = interpret(program, given)
    for one in (program, optimise(program)):
        run = compile_program(verify(one), 1)
        for _ in range(2):
            for got, want in zip(run(given), wanted, strict=True):
                np.testing.assert_allclose(
                    got.astype(np.float64), np.asarray(want, np.float64), tolerance, tolerance
                )


@pytest.mark.parametrize(
    ("source", "given"),
    [
        (FACTORIAL, [integer(10)]),
        (FACTORIAL, [integer(-1)]),
        (TREE, [integer(0), LEFT, RIGHT, number(1.5), np.arange(5.0)]),
        (TREE, [integer(1), LEFT, RIGHT, number(1.5), np.arange(5.0)]),
        (EVEN, [integer(7)]),
        (EVEN, [integer(0)]),
        (CHAIN, [integer(9), number(1.1)]),
        (NOTHING, [number(2.0)]),
    ],
)
def test_programs(source: str, given: list[Any]) -> None:
    agree(verify(parse_program(source)), given)


@pytest.mark.parametrize("seed", range(12))
def test_random_programs(seed: int) -> None:
    draw = Draw(seed)
    agree(verify(draw.program()), draw.inputs(3))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("float16", 0.1)])
@pytest.mark.parametrize("seed", range(100, 102))
def test_narrow_numbers(seed: int, dtype: str, tolerance: float) -> None:
    draw = Draw(seed, dtype)
    agree(verify(draw.program()), draw.inputs(2), tolerance)


@pytest.mark.parametrize("calls", [0, 31, 32, 77])
@pytest.mark.parametrize("form", ["mul", "matmul"])
def test_outer_products_are_added_together(calls: int, form: str) -> None:
    """The sum of u v^T over the calls, where u and v change from call to call."""
    b = Builder("sums.py:1")
    int64, row = Type("int64"), Type("float32", (80,))
    root = Builder("sums.py:1")
    n, u, v = root.param(int64), root.param(row), root.param(row)
    end = Builder("sums.py:2")
    _, u_0, _ = end.param(int64), end.param(row), end.param(row)
    body = Builder("sums.py:3")
    m, x, y = body.param(int64), body.param(row), body.param(row)
    if form == "mul":
        column = body.emit("broadcast", body.emit("reshape", x, shape=(80, 1)), shape=(80, 80))
        made = body.emit("mul", column, body.emit("broadcast", y, shape=(80, 80)))
    else:
        line, other = (body.emit("reshape", z, shape=(1, 80)) for z in (x, y))
        made = body.emit("matmul", line, other, transpose_x=True, transpose_y=False)
    less = body.emit("sub", m, body.emit("constant", value=1, dtype="int64"))
    next_x, next_y = body.emit("sin", body.emit("add", x, y)), body.emit("sin", y)
    (r,) = body.emit_all("recur", less, next_x, next_y, function=0, results=described([row]))
    found = b.emit_all(
        "recurse", b.param(int64), b.param(row), b.param(row), captured=0, entry=0,
        functions=(("f", 3, 1, ((), (0, 0))),), sums=described([Type("float32", (80, 80))]),
        blocks=(root.block(n, n, u, v), end.block(u_0), body.block(r, made)),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    given = [integer(calls), *(rng.normal(size=80).astype(np.float32) for _ in range(2))]
    agree(Program("sums", b.block(*found)), given, 1e-4)


def test_an_index_outside_is_an_error() -> None:
    """A tree that points outside of itself."""
    run = compile_program(parse_program(TREE), 1)
    given = [integer(0), LEFT + 7, RIGHT, number(1.5), np.arange(5.0)]
    with pytest.raises(IndexFailure, match="index 8 is out of range for axis 0 of 5"):
        run(given)
    run([integer(0), LEFT, RIGHT, number(1.5), np.arange(5.0)])


# Memory -------------------------------------------------------------------------------------------

# y = x w^n p_1 ... p_n by calls, whose values nodes hold, and the derivatives of that by x and w.
DEEP = """program @deep(%n: int64[], %x: float64[], %w: float64[]) {
  %y, %node = recurse(%n, %x, %w) {functions=(('forth', 2, 2, ((), ())),), entry=0, captured=1, sums=()} block(%k: int64[], %p: float64[], %c: float64[]) {
    return (%k, %k, %p)
  } block(%k_1: int64[], %p_1: float64[], %c_1: float64[]) {
    %end = pack() {tag=0}: node[]
    return (%p_1, %end)
  } block(%k_2: int64[], %p_2: float64[], %c_2: float64[]) {
    %one = constant() {value=1, dtype='int64'}: int64[]
    %less = sub(%k_2, %one): int64[]
    %next = mul(%p_2, %c_2): float64[]
    %f, %inner = recur(%less, %next) {function=0, results=(('float64', ()), ('node', ()))}: float64[], node[]
    %t = mul(%f, %p_2): float64[]
    %made = pack(%p_2, %f, %inner) {tag=1}: node[]
    return (%t, %made)
  }: float64[], node[]
  %dy = constant() {value=1.0, dtype='float64'}: float64[]
  %dx, %dw = recurse(%node, %dy, %w) {functions=(('back', 2, 1, ((), (0, 0))),), entry=0, captured=1, sums=(('float64', ()),)} block(%m: node[], %d: float64[], %v: float64[]) {
    %which = tag(%m): int64[]
    return (%which, %m, %d)
  } block(%m_1: node[], %d_1: float64[], %v_1: float64[]) {
    return (%d_1)
  } block(%m_2: node[], %d_2: float64[], %v_2: float64[]) {
    %p, %g, %below = unpack(%m_2) {results=(('float64', ()), ('float64', ()), ('node', ()))}: float64[], float64[], node[]
    %df = mul(%d_2, %p): float64[]
    %dp = mul(%d_2, %g): float64[]
    %dn = recur(%below, %df) {function=0, results=(('float64', ()),)}: float64[]
    %q = mul(%dn, %v_2): float64[]
    %dp2 = add(%dp, %q): float64[]
    %dv = mul(%dn, %p): float64[]
    return (%dp2, %dv)
  }: float64[], float64[]
  return (%y, %dx, %dw)
}
"""  # noqa: E501


def repeated(source: str) -> str:
    """The derivative by w again and again, in a loop."""
    body = source.split("{\n", 1)[1].rsplit("return", 1)[0]
    return f"""program @repeated(%m: int64[], %x: float64[], %w: float64[]) {{
  %last = scan(%w, %m, %x) {{length=1000, carried=1, captured=2, reverse=false}} block(%w: float64[], %n: int64[], %x: float64[]) {{
    {body}
    %s = sin(%dw): float64[]
    return (%s)
  }}: float64[]
  return (%last)
}}
"""  # noqa: E501


def small(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Let frames and nodes have this much memory."""
    monkeypatch.setattr(lists, "limit", lambda: size)


def frames(source: str) -> list[list[int]]:
    """The bytes of the frame at each call of each `recurse` of a program."""
    ops = optimise(parse_program(source)).block.ops
    groups = [functions_of(op) for op in ops if op.name == "recurse"]
    return [[call.size for call in calls_of(group)] for group in groups]


def test_a_frame_holds_what_is_read_later() -> None:
    """A number beside the address to return to; and nothing where a call takes the place of a
    return."""
    assert frames(FACTORIAL) == [[16]]
    assert frames(TREE) == [[16, 16]]
    assert frames(EVEN) == [[]]
    assert frames(DEEP) == [[16], [24]]  # behind the call of the backward one: a node, and dp


def test_depth() -> None:
    """A million calls, one in another."""
    run = compile_program(optimise(parse_program(DEEP)), 1)
    given = [number(1.0), number(1.0)]
    y, dx, dw = run([integer(1_000_000), *given])
    assert (y, dx) == (1.0, 1_000_001.0)
    assert dw == 1_000_000 * 1_000_001 / 2
    agree(parse_program(DEEP), [integer(5), *given])


def test_tail_calls_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two functions that call each other, one for even numbers and one for odd ones."""
    small(monkeypatch, 1 << 13)
    run = compile_program(optimise(parse_program(EVEN)), 1)
    assert [bool(run([integer(n)])[0]) for n in (10_000_000, 10_000_001)] == [True, False]


def test_memory_of_nodes_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of a loop takes what the one before took."""
    small(monkeypatch, 1 << 14)
    agree(verify(parse_program(repeated(DEEP))), [integer(30), number(0.3), number(0.9)])


@pytest.mark.parametrize("source", [FACTORIAL, DEEP])
def test_memory_that_does_not_suffice(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of frames alone, or of frames and nodes; then the process goes on."""
    small(monkeypatch, 1 << 16)
    program = parse_program(source)
    run = compile_program(optimise(program), 1)
    rest = [number(1.0), number(1.0)][: len(program.block.params) - 1]
    with pytest.raises(FrameFailure, match=r"^f(orth)?: no memory.*that wait take 8.19 kB"):
        run([integer(100_000), *rest])
    assert run([integer(3), *rest]) == interpret(program, [integer(3), *rest])


def test_nodes_in_a_map() -> None:
    """Made in one, and read in another, whose steps may run at once."""
    row, node, number_type = Type("float64", (5000,)), Type("node"), Type("float64")
    made, read, b = Builder("map.py:1"), Builder("map.py:2"), Builder("map.py:3")
    x = made.param(number_type)
    held = made.block(made.emit("pack", x, made.emit("sin", x), tag=3))
    parts = read.emit_all("unpack", read.param(node), results=described([number_type] * 2))
    product = read.block(read.emit("mul", *parts))
    steps = {"length": 5000, "carried": 0, "captured": 0, "reverse": False}
    nodes = b.emit("scan", b.param(row), blocks=(held,), **steps)
    program = Program("map", b.block(b.emit("scan", nodes, blocks=(product,), **steps)))
    given = np.linspace(0.0, 1.0, 5000)
    for threads in (1, 2):
        (found,) = compile_program(optimise(program), threads)([given])
        np.testing.assert_allclose(found, given * np.sin(given), 1e-12)


def test_interrupt() -> None:
    """A recursion that does not end in a lifetime stops within a second."""
    run = compile_program(parse_program(EVEN), 1)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        run([integer(1 << 62)])
    assert time.perf_counter() - start < 1.2
    assert run([integer(2)])[0]


# What else is done with programs ------------------------------------------------------------------


def test_code_on_disk() -> None:
    program = parse_program(CHAIN)
    given = [integer(9), number(1.1)]
    again = unpack(pack(compile_program(program, 1)))
    assert again(given) == compile_program(program, 1)(given)


def test_exported_code_and_measured_time() -> None:
    program = optimise(parse_program(DEEP))
    made = export(program, "deep", ["n", "x", "w"], ["y", "dx", "dw"])
    assert "double *y" in made.header
    timings, seconds, _ = measure(program, [integer(5), number(1.0), number(1.0)], 1, 0.0)
    assert [one.op.name for one in timings].count("recurse") == 2
    assert 0 < sum(one.seconds for one in timings) <= seconds


# Sums of nodes ------------------------------------------------------------------------------------


def with_sums(seed: int) -> tuple[Program, list[Any]]:
    """Nodes of a number, an array and a node, sums of them and of sums; all are opened, some
    twice."""
    draw = random.Random(seed)
    b = Builder("sums.py:1")
    one, row, node = Type("float64"), Type("float64", (3,)), Type("node")
    x, y = b.param(one), b.param(row)
    inner = described((row,))
    outer = described((one, row, node))
    null = b.emit("empty", dtype="node", shape=())

    def packed() -> Value:
        small = draw.choice([null, b.emit("pack", b.emit("mul", y, y), tag=0)])
        return b.emit("pack", b.emit("add", x, x), y, small, tag=draw.randint(0, 3))

    nodes = [null, *(packed() for _ in range(3))]
    for _ in range(draw.randint(1, 9)):
        nodes.append(b.emit("merge", *draw.choices(nodes, k=2)))
    results: list[Value] = []
    for some in (*nodes, *draw.choices(nodes, k=2)):
        *values, small = b.emit_all("unpack", some, results=outer)
        results += [*values, *b.emit_all("unpack", small, results=inner)]
    return Program("sums", b.block(*results)), [np.asarray(1.5), np.asarray([0.5, -1.0, 2.0])]


@pytest.mark.parametrize("seed", range(10))
def test_sums_of_nodes(seed: int) -> None:
    program, given = with_sums(seed)
    agree(verify(program), given)
