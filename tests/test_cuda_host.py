"""What the host does for a program on a device: control flow, memory and errors, with kernels that
are the operations of the reference interpreter."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from cuda_standin import Kernels, Standin, executable
from hypothesis import given, settings
from hypothesis import strategies as st
from random_control import Node
from recursive_programs import Draw
from test_batch import LSTM, tree_lstm, trees, weights
from test_random_control import cases, slope_of, total
from three_ways import traced as recorded

import lantern as ln
from backends.cuda.device import DeviceError
from backends.cuda.executable import Executable
from backends.cuda.module import written
from backends.cuda.streams import Streams
from staging.failures import (
    AssertionFailure,
    FrameFailure,
    IndexFailure,
    LimitFailure,
    MatrixFailure,
)
from staging.interpret import interpret
from staging.ir import Builder, IRError, Program, Type, walk
from staging.pipeline import optimise
from staging.verify import verify


def traced(f: Any, *args: Any) -> tuple[Program, list[Any]]:
    """The program of a function after the passes, and the arrays that it is given."""
    found, arrays = recorded(f, *args)
    return verify(optimise(found.program)), arrays


def agree(program: Program, arrays: list[Any]) -> None:
    """The device gives what the interpreter gives, in one range of memory and in many; step by
    step, and where the host decides nothing, as a whole; and in streams whose work is done late."""
    want = interpret(program, arrays)
    for apart, streams in ((True, 1), (False, 1), (False, 3)):
        run = executable(program, apart, streams)
        for _ in range(3):
            found = run([x.copy() for x in arrays])
            for a, b in zip(found, want, strict=True):
                np.testing.assert_allclose(np.asarray(a), b, 1e-12, 1e-12)


@settings(max_examples=5)
@given(cases(depth=2))
def test_random_control_flow(case: tuple[Node, np.ndarray, np.ndarray, int]) -> None:
    node, x, v, k = case

    def everything(x: Any, w: Any) -> Any:
        first = ln.value_and_grad(total(node, k), argnums=(0, 1))(x, w)
        return first, ln.grad(slope_of(node, v, k), argnums=(0, 1))(x, w)

    agree(*traced(everything, *x))


@settings(max_examples=4)
@given(st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_random_recursion(seed: int, fuel: int) -> None:
    draw = Draw(seed)
    program = verify(draw.program())
    agree(program, draw.inputs(fuel))


def test_agendas_of_trees() -> None:
    """Rows of tables are computed by blocks, and summed over on the way back."""
    params, items = weights(*LSTM), trees(3, 5, 1, 9)

    def losses(params: Any, items: Any) -> Any:
        return ln.sum(ln.batch(tree_lstm)(params, items))

    compiled = ln.compile(ln.value_and_grad(losses))
    program = verify(optimise(compiled.program(params, items)))
    arrays = [np.asarray(x) for x in ln.tree.leaves((params, items))]
    assert {op.name for op in walk(program.block)} >= {"agenda", "unwind"}
    agree(program, arrays)


def test_lists_grow_and_are_read_back() -> None:
    """A loop of no known length keeps lists, in chunks, and so does one inside of it."""

    def newton(x: Any) -> Any:
        def inner(c: Any) -> Any:
            return ln.while_loop(lambda s: s[1] < 3, lambda s: (ln.sin(s[0]), s[1] + 1), (c, 0))[0]

        def test(s: Any) -> Any:
            return ln.logical_and(s[1] < 200, ln.sum(s[0]) > 1e-9)

        return ln.while_loop(test, lambda s: (inner(s[0]) * 0.999, s[1] + 1), (x, 0))[0]

    agree(*traced(ln.grad(lambda x: ln.sum(newton(x))), np.linspace(0.5, 1.0, 3)))


def test_arrays_of_unknown_length() -> None:
    """Tables are scanned, their rows gathered, and summed into by a derivative."""

    def total(tree: Any, w: Any) -> Any:
        def step(c: Any, i: Any) -> Any:
            return c * 0.5 + ln.sum(w[i]), c

        return ln.scan(step, ln.asarray(1.0, dtype=ln.float64), tree["i"])[0]

    compiled = ln.compile(ln.value_and_grad(total, argnums=1), dynamic="tree")
    w = np.linspace(0.0, 1.0, 12).reshape(4, 3)
    one = {"i": np.asarray([1, 3, 2, 0, 0])}
    program = compiled.program(one, w)
    assert any(v.type.is_table for v in program.block.params)
    ready = verify(optimise(program))
    for indices in ([1, 3, 2, 0, 0], [2], []):
        agree(ready, [np.asarray(indices, np.int64), w])


def test_what_is_printed_and_required_comes_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    def f(x: Any, i: Any) -> Any:
        def step(c: Any, x: Any) -> Any:
            ln.debug.print("{}", c)
            return c + x, c

        c, _ = ln.scan(step, x[0], x)
        picked = x[i]
        ln.debug.print("last {}", c)
        assert c < 7.0, "too much"
        return picked

    run = executable(optimise(ln.compile(f).program(np.arange(3.0), np.asarray(0))))
    run([np.arange(3.0), np.asarray(1)])
    assert capsys.readouterr().out == "0.0\n0.0\n1.0\nlast 3.0\n"
    with pytest.raises(IndexFailure, match=r"(?s)index 5 .* axis 0 of 3.*test_cuda_host.py"):
        run([np.arange(3.0), np.asarray(5)])
    assert capsys.readouterr().out == "0.0\n0.0\n1.0\n"
    with pytest.raises(AssertionFailure, match="too much"):
        run([np.arange(3.0) * 9, np.asarray(0)])
    with pytest.raises(IRError, match=r"was given float64\[4\]"):
        run([np.arange(4.0), np.asarray(0)])


def test_failures_of_loops_and_matrices() -> None:
    endless = ln.compile(lambda x: ln.while_loop(lambda c: c < 1.0, lambda c: c, x, limit=4))
    with pytest.raises(LimitFailure, match="after 4 steps"):
        executable(optimise(endless.program(0.0)))([np.asarray(0.0, np.float32)])
    program, _ = traced(lambda a: ln.linalg.cholesky(a), np.zeros((2, 2, 2)) + np.eye(2))
    bad = np.stack([np.eye(2), -np.eye(2)])
    with pytest.raises(MatrixFailure, match=r"not positive definite \(number \(1,\)\)"):
        executable(program)([bad])


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_streams_wait_for_what_they_depend_on(seed: int) -> None:
    """Straight lines of work that is independent in part, in memory that is used again."""
    rng = random.Random(seed)
    b = Builder()
    values = [b.param(Type("float64", (rng.randint(1, 5) * 2,))) for _ in range(4)]
    for _ in range(30):
        x = rng.choice(values[-8:])
        same = [y for y in values[-8:] if y.type == x.type]
        kind = rng.choice(["sin", "add", "concat", "reduce"])
        if kind == "concat" and x.type.size < 40:
            values.append(b.emit("concat", x, x, axis=0))
        elif kind == "reduce":
            total = b.emit("reduce", x, kind="sum", axes=(0,))
            values.append(b.emit("broadcast", total, shape=x.type.shape))
        else:
            values.append(b.emit("add", x, rng.choice(same)))
    program = Program("mixed", b.block(*rng.sample(values, 3)))
    arrays = [np.random.default_rng(seed).normal(size=v.type.shape) for v in program.block.params]
    want = interpret(program, arrays)
    run = executable(program, streams=3, seed=seed)
    for _ in range(2):
        for a, w in zip(run(arrays), want, strict=True):
            np.testing.assert_array_equal(np.asarray(a), w)


def test_a_missing_wait_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in shows it, if streams do not wait for each other."""
    b = Builder()
    x = b.param(Type("float64", (3,)))
    y, z = b.emit("sin", x), b.emit("cos", x)
    program = Program("forked", b.block(b.emit("add", y, z), b.emit("mul", y, z)))
    given = [np.arange(3.0)]
    want = interpret(program, given)

    def right(seed: int) -> bool:
        found = executable(program, streams=3, seed=seed)(given)
        return all(np.array_equal(np.asarray(a), w) for a, w in zip(found, want, strict=True))

    assert all(map(right, range(8)))
    monkeypatch.setattr(Streams, "wait", lambda *_: None)
    assert not all(map(right, range(8)))


class Failing(Standin):
    """A device on which sorting fails, later."""

    pending = ""

    def launch(self, function: Any, *rest: Any) -> None:
        super().launch(function, *rest)
        self.pending = self.pending or ("misaligned" if function.name == "argsort" else "")

    def synchronize(self, stream: Any = None) -> None:
        if self.pending:
            raise DeviceError(self.pending)


def test_a_careful_call_says_which_operation_failed() -> None:
    b = Builder("model.py:7")
    x = b.param(Type("float64", (3,)))
    y = b.emit("sin", x)
    b.place = "model.py:8"
    z = b.emit("argsort", y, axis=0, descending=False)
    b.place = "model.py:9"
    program = Program("failing", b.block(b.emit("cast", z, dtype="float64")))
    kernels = Kernels()
    run = Executable(
        program, written(program, kernels.lower, kernels.loop), Failing(kernels), careful=True
    )
    with pytest.raises(DeviceError, match=r"argsort: misaligned\n  at model.py:8"):
        run([np.zeros(3)])


def test_who_holds_memory_is_said() -> None:
    """Every buffer has an owner."""
    b = Builder()
    x = b.param(Type("float64", (3,)))
    y = b.emit("sin", x)
    program = Program("waves", b.block(b.emit("add", y, y)))
    kernels = Kernels()
    device = Standin(kernels)
    Executable(program, written(program, kernels.lower, kernels.loop), device)([np.zeros(3)])
    assert device.owners == {
        "arguments of waves",
        "intermediate values of waves",
        "results of waves",
    }


class Small(Standin):
    """A device with little memory."""

    def empty(self, bytes: int, owner: str = "") -> Any:
        if owner.startswith("lists") and bytes > 10_000:
            raise MemoryError("there is no more")
        return super().empty(bytes, owner)


def test_lists_that_take_all_memory_name_their_loop() -> None:
    def f(x: Any) -> Any:
        return ln.while_loop(lambda s: s[1] < 9999, lambda s: (ln.sin(s[0]), s[1] + 1), (x, 0))[0]

    program, arrays = traced(ln.grad(lambda x: ln.sum(f(x))), np.ones(3))
    kernels = Kernels()
    module = written(program, kernels.lower, kernels.loop)
    with pytest.raises(FrameFailure, match=r"(?s)it has saved 12.*kB.*test_cuda_host.py"):
        Executable(program, module, Small(kernels))(arrays)
