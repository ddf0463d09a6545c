"""The pool of threads: every part runs once, with the same results whatever runs it."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import cffi
import ir_cases
import numpy as np
import pytest

from backends.llvm import Executable, compile_program, division
from backends.llvm.pool import Pool, cores, pools
from backends.llvm.program import Entry
from backends.llvm.target import Library, machine, optimised
from backends.llvm.threads import FUTEX, LAYOUT, LINUX, MASK, runtime
from staging.interpret import interpret
from staging.ir import Builder, Program, Type, Value
from staging.pipeline import optimise

COUNTING = f"""
define internal void @count(ptr %given, i64 %part) {{
  %at = getelementptr i64, ptr %given, i64 %part
  %before = load i64, ptr %at
  %after = add i64 %before, 1
  store i64 %after, ptr %at
  ret void
}}
define i64 @run(ptr %pool, ptr %counts, i64 %parts, i64 %jobs) {{
entry:
  %saved = alloca [{MASK} x i8], align 8
  %held = call ptr @lantern.hold(ptr %pool, ptr %saved)
  %few = trunc i64 %parts to i32
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  call void @lantern.parallel(ptr %held, ptr @count, ptr %counts, i32 %few)
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %jobs
  br i1 %more, label %loop, label %end
end:
  call void @lantern.release(ptr %held, ptr %saved)
  %had = ptrtoint ptr %held to i64
  ret i64 %had
}}
"""


def counter(futex: int) -> tuple[Library, Callable[..., int]]:
    """A native function that has a pool count jobs, part by part; it gives the pool if it held
    it."""
    library = Library([machine().emit_object(optimised(runtime(futex) + COUNTING))], ["run"], {})
    kind = "int64_t(*)(int64_t, int64_t, int64_t, int64_t)"
    return library, cffi.FFI().cast(kind, library.addresses["run"])


def layers(threads: int, size: int = 160) -> Executable:
    """Matrix products and loops that are worth dividing."""
    b = Builder()
    x = b.param(Type("float32", (size, size)))
    y = x
    for turned in (False, True):
        y = b.emit("tanh", b.emit("matmul", y, x, transpose_x=turned, transpose_y=not turned))
    return compile_program(Program("layers", b.block(y)), threads)


@pytest.mark.skipif(len(cores()) < 2, reason="this machine has one core")
def test_what_is_short_runs_on_one_thread_unless_others_are_asked_for() -> None:
    b = Builder()
    x = b.param(Type("float32", (400, 400)))
    short = Program("short", b.block(b.emit("exp", x)))
    assert compile_program(short).module.threads == 1
    assert compile_program(short, 2).module.parallel
    body = Builder()
    carried = body.param(Type("float32", (400, 400)))
    block = body.block(body.emit("exp", carried))
    b = Builder()
    x = b.param(Type("float32", (400, 400)))
    y = b.emit("scan", x, blocks=(block,), length=100, carried=1, captured=0,
               reverse=False)  # fmt: skip
    assert compile_program(Program("long", b.block(y))).module.parallel


def square(seed: int, size: int = 160) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(size, size)).astype(np.float32)


@pytest.mark.parametrize("futex", [FUTEX, 0])
def test_every_part_of_every_job_runs_once(futex: int) -> None:
    keep, run = counter(futex)
    for workers in (0, 1, 3):
        pool = Pool([0] * (workers + 1), futex)
        for parts, jobs in ((1, 10), (2, 300), (7, 30)):
            counts = np.zeros(parts, np.int64)
            assert run(pool.address, counts.ctypes.data, parts, jobs) == pool.address
            assert (counts == jobs).all()
        pool.close()
    assert keep.addresses


def test_a_pool_is_held_by_one_call_and_the_other_runs_alone() -> None:
    keep, run = counter(FUTEX)
    pool = Pool([0, 0])
    held = pool.words[LAYOUT["held"] :][:4].view(np.int32)
    held[0] = 1
    counts = np.zeros(4, np.int64)
    assert run(pool.address, counts.ctypes.data, 4, 5) == 0 and (counts == 5).all()
    held[0] = 0
    assert run(pool.address, counts.ctypes.data, 4, 5) == pool.address and (counts == 10).all()
    pool.close()
    assert keep.addresses


def test_idle_workers_sleep_and_closed_ones_end() -> None:
    pool = Pool([0, 0, 0])
    until = time.monotonic() + 20
    while pool.words[LAYOUT["sleeping"]] != 2 and time.monotonic() < until:
        time.sleep(0.01)
    assert pool.words[LAYOUT["sleeping"]] == 2
    pool.close()
    assert not any(thread.is_alive() for thread in pool.threads)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_are_the_same_to_the_bit_whatever_runs_the_parts(threads: int) -> None:
    run = layers(threads)
    x = square(0)
    first = run([x])[0]
    np.testing.assert_allclose(first, interpret(run.program, [x])[0], 1e-3, 1e-3)
    for _ in range(5):
        np.testing.assert_array_equal(run([x])[0], first)
    inputs = [square(i) for i in range(6)]
    alone = [run([x])[0] for x in inputs]
    with ThreadPoolExecutor(3) as pool:  # one holds the pool, the others run their parts in order
        together = list(pool.map(lambda x: run([x])[0], inputs * 2))
    for a, b in zip(together, alone * 2, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def all_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divide whatever can be, small as it is."""
    monkeypatch.setattr(division, "WORTH", 0)
    monkeypatch.setattr(division, "LEAST", 1e-9)
    monkeypatch.setattr(division, "LONG", 1e9)


@pytest.mark.usefixtures("all_divided")
@pytest.mark.parametrize("threads", [3])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (ir_cases.structure, (4, 3, 5)),
        (ir_cases.structure, (2, 40, 3)),
        (ir_cases.along_axes, (5, 4, 6)),
        (ir_cases.along_axes, (2, 3, 40)),
        (ir_cases.products, (4, 17, 5)),
        (ir_cases.indexing, (4, 3, 35)),
    ],
)
def test_divided_loops_mean_what_the_interpreter_says(
    make: Callable[..., Iterator[ir_cases.Case]], shape: tuple[int, ...], threads: int
) -> None:
    some = ("int32",) if make is ir_cases.products else ("float32", "bfloat16")
    cases = [
        case
        for case in make(np.random.default_rng(0), shape)
        if case.inputs and case.inputs[0].dtype.name in some
    ]
    program, inputs = ir_cases.program(cases)
    run = compile_program(program, threads)
    assert run.module.parallel
    found = run(inputs)
    for case, a, b in zip(cases, found, interpret(program, inputs), strict=True):
        ir_cases.assert_close(case, a, b)
    assert [a.tobytes() for a in without_threads(run, inputs)] == [a.tobytes() for a in found]


def without_threads(run: Executable, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """What a program gives when another call holds the pool."""
    held = pools()
    pool = held.made[run.module.threads]
    try:
        held.made[run.module.threads] = None
        return run(inputs)
    finally:
        held.made[run.module.threads] = pool


@pytest.mark.usefixtures("all_divided")
@pytest.mark.parametrize("shape", [(24, 40), (3, 400), (1, 700), (300, 2)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_divided_nests_of_rows_mean_what_the_interpreter_says(
    shape: tuple[int, int], dtype: str
) -> None:
    b = Builder()
    x, y, g = (b.param(Type(dtype, s)) for s in (shape, shape, shape[1:]))

    def along(v: Value, kind: str, axis: int) -> Value:
        reduced = b.emit("reduce", v, kind=kind, axes=(axis,))
        kept = b.emit("reshape", reduced, shape=(shape[0], 1) if axis else (1, shape[1]))
        return b.emit("broadcast", kept, shape=shape)

    e = b.emit("exp", b.emit("sub", x, along(x, "max", 1)))
    p = b.emit("div", e, along(e, "sum", 1))
    scaled = b.emit("mul", p, b.emit("broadcast", g, shape=shape))
    both = b.emit("mul", scaled, y)
    results = [
        scaled,
        b.emit("reduce", both, kind="sum", axes=(0,)),
        b.emit("reduce", p, kind="max", axes=(0,)),
        b.emit("reduce", b.emit("mul", x, y), kind="sum", axes=(0, 1)),
        b.emit("add", y, along(y, "sum", 0)),
    ]
    program = optimise(Program("rows", b.block(*results)))
    rng = np.random.default_rng(0)
    inputs = [ir_cases.values(rng, dtype, v.type.shape, edges=False) for v in (x, y, g)]
    run = compile_program(program, 3)
    found = run(inputs)
    tolerance = 1e-5 if dtype == "float32" else 0.05
    for one, other in zip(found, interpret(program, inputs), strict=True):
        one, other = (a.astype(np.float64) for a in (one, other))
        np.testing.assert_allclose(one, other, tolerance, tolerance * np.abs(other).max())
    assert [a.tobytes() for a in without_threads(run, inputs)] == [a.tobytes() for a in found]


@pytest.mark.usefixtures("all_divided")
def test_the_first_index_outside_is_named_whichever_part_finds_it() -> None:
    b = Builder("model.py:3")
    x, i = b.param(Type("float32", (9, 2))), b.param(Type("int64", (40,)))
    run = compile_program(Program("pick", b.block(b.emit("gather", x, i))), 4)
    assert run.module.parallel
    for _ in range(10):
        index = np.zeros(40, np.int64)
        index[[13, 27, 39]] = -1, 9, 10
        with pytest.raises(IndexError, match=r"index -1 is out of range for axis 0 of 9"):
            run([np.zeros((9, 2), np.float32), index])


def mapped(length: int, shown: bool = False) -> Program:
    """A map of matrix products, softmax and look-ups over a leading axis."""
    shape = (8, 20)
    inside = Builder("model.py:7")
    w = inside.param(Type("float32", (20, 20)))
    x, i = inside.param(Type("float32", shape)), inside.param(Type("int64", (3,)))
    y = inside.emit("matmul", x, w, transpose_x=False, transpose_y=True)
    e = inside.emit("exp", y)
    total = inside.emit("reduce", e, kind="sum", axes=(1,))
    if shown:
        inside.emit_all("print", total, format="{}")
    wide = inside.emit("broadcast", inside.emit("reshape", total, shape=(8, 1)), shape=shape)
    p = inside.emit("div", e, wide)
    body = inside.block(p, inside.emit("gather", p, i), total)
    b = Builder()
    operands = [
        b.param(Type("float32", (20, 20))),
        b.param(Type("float32", (length, *shape))),
        b.param(Type("int64", (length, 3))),
    ]
    outs = b.emit_all(
        "scan", *operands, blocks=(body,), length=length, carried=0, captured=1, reverse=False
    )
    doubled = [b.emit("add", y, y) for y in outs]
    return optimise(Program("rows", b.block(*outs, *doubled)))


def map_inputs(program: Program) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    w, x, i = (v.type.shape for v in program.block.params)
    small = rng.normal(size=w).astype(np.float32), rng.normal(size=x).astype(np.float32)
    return [*small, rng.integers(0, 8, i)]


@pytest.mark.usefixtures("all_divided")
@pytest.mark.parametrize("length", [4, 7, 12])
def test_the_iterations_of_a_map_are_divided(length: int) -> None:
    program = mapped(length)
    inputs = map_inputs(program)
    run = compile_program(program, 4)
    assert run.module.parallel and "lantern.parallel" in run.source
    found = run(inputs)
    for one, other in zip(found, interpret(program, inputs), strict=True):
        np.testing.assert_allclose(one, other, 1e-5, 1e-5)
    assert [a.tobytes() for a in without_threads(run, inputs)] == [a.tobytes() for a in found]


@pytest.mark.usefixtures("all_divided")
def test_the_first_iteration_that_fails_gives_the_error() -> None:
    program = mapped(12)
    inputs = map_inputs(program)
    run = compile_program(program, 4)
    for iteration, bad in ((10, 20), (5, 8), (4, -1)):
        inputs[2][iteration, 1] = bad
        for call in (run, lambda arrays: without_threads(run, arrays)):
            message = rf"gather: index {bad} is out of range for axis 0 of 8\n  at model.py:7"
            with pytest.raises(IndexError, match=message):
                call(inputs)


@pytest.mark.usefixtures("all_divided")
def test_iterations_that_show_values_go_in_order(capfd: pytest.CaptureFixture[str]) -> None:
    program = mapped(4, shown=True)
    inputs = map_inputs(program)
    compile_program(program, 4)(inputs)
    found = capfd.readouterr().out
    interpret(program, inputs)
    assert found.count("[") == 4 and found[:6] == capfd.readouterr().out[:6]


@pytest.mark.skipif(not LINUX, reason="threads are pinned on Linux only")
def test_the_calling_thread_may_run_everywhere_again_after_a_call() -> None:
    before = os.sched_getaffinity(0)
    layers(2)([square(0)])
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("bad", [(), (3,), (2, 1)])
def test_the_first_part_that_fails_gives_the_error(bad: tuple[int, ...]) -> None:
    entry = Entry(threads=4)
    lines = ["entry:"]
    for part in bad:
        lines += [f"  %is{part} = icmp eq i64 %part, {part}",
                  f"  br i1 %is{part}, label %fail, label %not{part}", f"not{part}:"]  # fmt: skip
    lines += ["  ret i1 false", "fail:", "  store i64 %part, ptr %error", "  ret i1 true"]
    params = "ptr %a0, ptr noalias %error, i64 %part"
    name = entry.function("fails", "i1", params, "\n".join(lines))
    failed = entry.parallel(name, ["ptr null"], 4, fallible=True)
    entry.do(f"ret i32 {entry.let(f'zext i1 {failed} to i32')}")
    source = entry.written()
    library = Library([machine().emit_object(optimised(source))], ["run"], {})
    ffi = cffi.FFI()
    run = ffi.cast(
        "int32_t(*)(void*, void*, void*, void*, void*, int64_t)", library.addresses["run"]
    )
    error = ffi.new("int64_t[3]", [-1, -1, -1])
    for pool in (0, pools().address(2)):
        assert run(ffi.NULL, ffi.NULL, ffi.NULL, error, ffi.NULL, pool) == bool(bad)
        assert error[0] == (min(bad) if bad else -1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork where threads run, on purpose
@pytest.mark.filterwarnings("ignore:os.fork")  # JAX warns, where another test has imported it
def test_a_forked_child_starts_a_pool_of_its_own() -> None:
    run = layers(2)
    expected = run([square(0)])[0]

    def child(queue: multiprocessing.SimpleQueue[tuple[bool, bytes]]) -> None:
        fresh = not pools().made
        queue.put((fresh, run([square(0)])[0].tobytes()))

    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    assert queue.get() == (True, expected.tobytes())
    process.join(20)
    assert process.exitcode == 0
    np.testing.assert_array_equal(run([square(0)])[0], expected)


def test_a_process_ends_while_threads_wait_or_work() -> None:
    program = """
import threading, numpy as np
from test_threads import layers, square
run = layers(2)
x = square(0)
run([x])
def forever():
    while True:
        run([x])
threading.Thread(target=forever, daemon=True).start()
run([x])
"""
    paths = os.pathsep.join([os.path.dirname(__file__), os.getcwd()])
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": paths},
            timeout=60,
            check=False,
        )
        assert done.returncode == 0


def test_there_is_one_processor_for_each_core() -> None:
    assert cores() and len(set(cores())) == len(cores()) <= (os.cpu_count() or 1)
