"""Calls of the CUDA backend that are captured and replayed."""

from __future__ import annotations

import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from cuda_standin import Standin, executable

from backends.cuda.arrays import DeviceArray
from backends.cuda.device import Device, Span
from backends.cuda.executable import Executable
from backends.cuda.executable import compile_program as compiled
from backends.cuda.graphs import ENOUGH, KEPT
from staging.failures import IndexFailure
from staging.interpret import interpret
from staging.ir import Builder, Program, Type
from staging.text import parse_program
from staging.verify import verify

STEP = """program @step(%p: float32[3, 4] donated, %x: float32[3, 3], %rate: float32[]) {
  %g = matmul(%x, %p) {transpose_x=False, transpose_y=False}: float32[3, 4]
  %r = broadcast(%rate) {shape=(3, 4)}: float32[3, 4]
  %d = mul(%g, %r): float32[3, 4]
  %q = sub(%p, %d): float32[3, 4]
  %s = reduce(%g) {kind='sum', axes=(0, 1)}: float32[]
  return (%q, %s)
}"""
TABLE = """program @table(%x: float32[5], %i: int64[2]) {
  %y = gather(%x, %i): float32[2]
  %z = add(%y, %y): float32[2]
  return (%z)
}"""


def decided() -> Program:
    """tanh(x) or exp(x), as a number says."""
    b, blocks = Builder(), []
    x, which = b.param(Type("float32", (2,)), "x"), b.param(Type("int64"), "which")
    for name in ("tanh", "exp"):
        inner = Builder()
        blocks.append(inner.block(inner.emit(name, inner.param(Type("float32", (2,)), "x"))))
    return verify(Program("decided", b.block(b.emit("switch", which, x, blocks=tuple(blocks)))))


def program(text: str) -> Program:
    return verify(parse_program(text))


def on(device: Any, array: np.ndarray[Any, Any]) -> DeviceArray:
    span = Span(device.empty(array.nbytes), 0, array.nbytes)
    device.to_device(span, np.ascontiguousarray(array))
    return DeviceArray(device, span, array.shape, array.dtype)


def standin(run: Executable) -> Standin:
    assert isinstance(run.device, Standin)
    return run.device


@pytest.fixture
def arrays() -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(s).astype(np.float32) for s in ((3, 4), (3, 3), ())]


def close(found: Any, wanted: Any) -> None:
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(a), b, 1e-5, 1e-6)


def test_a_step_is_replayed_from_the_third_time_on(arrays: list[Any]) -> None:
    run = executable(program(STEP))
    p, launches = on(run.device, arrays[0]), []
    wanted, address = arrays[0], p.span.address
    for number in range(6):
        x, rate = arrays[1] * number, arrays[2] + number
        p, total = run([p, x, rate])
        wanted, sum = interpret(program(STEP), [wanted, x, rate])
        close([p, total], [wanted, sum])
        assert p.span.address == address
        launches.append(standin(run).launches)
    assert launches[0] < launches[1]
    assert len({*launches[1:]}) == 1  # the second time it was captured, which puts it once more


def test_results_are_not_written_over(arrays: list[Any]) -> None:
    run = executable(program(STEP))
    made = [run([arrays[0] * k, *arrays[1:]]) for k in range(5)]
    for k, found in enumerate(made):
        close(found, interpret(program(STEP), [arrays[0] * k, *arrays[1:]]))


def test_buffers_may_take_turns(arrays: list[Any]) -> None:
    run = executable(program(STEP))
    both = [on(run.device, arrays[0] * k) for k in (1, 2)]
    wanted = [arrays[0] * k for k in (1, 2)]
    for number in range(8):
        k = number % 2
        before = standin(run).launches
        both[k], total = run([both[k], *arrays[1:]])
        wanted[k], sum = interpret(program(STEP), [wanted[k], *arrays[1:]])
        close([both[k], total], [wanted[k], sum])
        assert (standin(run).launches == before) == (number >= 4)
    assert len(run.graphs.captured) == KEPT


def test_gives_up_where_addresses_do_not_come_again(arrays: list[Any]) -> None:
    run = executable(program(STEP))
    held = []
    for _ in range(2 * ENOUGH):
        held.append(on(run.device, arrays[0]))  # at an address of its own
        for _ in range(2):
            wanted = interpret(program(STEP), [np.array(held[-1]), *arrays[1:]])
            found = run([held[-1], *arrays[1:]])
            close(found, wanted)
            held[-1] = found[0]
    assert run.graphs.made == ENOUGH
    assert len(run.graphs.captured) == KEPT


def test_a_capture_holds_no_arguments(arrays: list[Any]) -> None:
    run = executable(program(STEP))
    p = on(run.device, arrays[0])
    for _ in range(4):
        p, total = run([p, *arrays[1:]])
    buffers = [weakref.ref(x.span.buffer) for x in (p, total)]
    assert run.graphs.captured
    del p, total
    assert [buffer() for buffer in buffers] == [None, None]


def test_failures_are_reported_each_time() -> None:
    run = executable(program(TABLE))
    x = np.arange(5, dtype=np.float32)
    for number in range(8):
        if number % 3 == 1:
            with pytest.raises(IndexFailure, match=f"index {number + 5} is out of range"):
                run([x, np.asarray([0, number + 5])])
        else:
            close(run([x, np.asarray([1, 3])]), [np.asarray([2.0, 6.0])])
    assert run.graphs.captured


def test_what_the_host_decides_is_not_captured() -> None:
    run = executable(decided())
    x = np.asarray([1.0, 2.0], np.float32)
    for number in range(4):
        which = np.asarray(number % 2)
        close(run([x, which]), interpret(decided(), [x, which]))
    assert not run.graphs.repeatable
    assert not run.graphs.captured


def test_careful_calls_are_not_captured(arrays: list[Any]) -> None:
    run = executable(program(STEP))
    run.careful = True
    for _ in range(3):
        run(arrays)
    assert not run.graphs.captured


def test_threads_take_turns(arrays: list[Any]) -> None:
    run = executable(program(STEP))

    def calls(factor: int) -> list[Any]:
        return [run([factor * arrays[0], *arrays[1:]]) for _ in range(10)]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(calls, range(4)))
    for factor, results in enumerate(found):
        wanted = interpret(program(STEP), [factor * arrays[0], *arrays[1:]])
        for one in results:
            close(one, wanted)


def test_devices_replay(cuda: Device, arrays: list[Any]) -> None:
    run = compiled(program(STEP), cuda)
    p, wanted = on(cuda, arrays[0]), arrays[0]
    for number in range(5):
        x = arrays[1] * number
        p, total = run([p, x, arrays[2]])
        wanted, sum = interpret(program(STEP), [wanted, x, arrays[2]])
        close([p, total], [wanted, sum])
    assert run.graphs.made == 1
