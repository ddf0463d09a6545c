"""A device whose kernels are the operations of the reference interpreter, on memory of the host.

What the host does for a program, its control flow, its memory and its errors, is tested with it
apart from the text of kernels. Memory is filled with rubbish when it is given out, and again when
it is taken back.
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from backends.cuda.device import Function, Limits, Span, words_of
from backends.cuda.executable import Executable
from backends.cuda.graphs import Unrepeatable
from backends.cuda.module import written
from backends.cuda.steps import PARTS, Failing, Kernel, Launch, Length, Step
from staging import interpret
from staging.failures import LimitFailure
from staging.ir import Op, Program, Type, Value
from staging.linalg import decompose

RUBBISH = 0xA5
WORDS = Type("uint64", (PARTS + 1,))


class Memory:
    """A buffer."""

    lent = False

    def __init__(self, bytes: int) -> None:
        self.bytes = bytes
        self.content = np.full(bytes + 256, RUBBISH, np.uint8)
        self.address = -(-self.content.ctypes.data // 256) * 256

    def __del__(self) -> None:
        self.content[:] = RUBBISH


class Kernels:
    """A lowering to kernels that say which operation they are."""

    def __init__(self) -> None:
        self.ops: list[Op] = []

    def lower(self, op: Op) -> list[Step]:
        self.ops.append(op)
        numbers = sorted({v.type.shape[0] for v in (*op.inputs, *op.results) if v.type.is_table})
        failing = [Failing(op)] if op.name in ("gather", "scatter", "linalg") else []
        kernel = Kernel(op.name, (), (), f"{len(self.ops) - 1}", 1)
        arguments = (*op.inputs, *op.results, *map(Length, numbers), *failing)
        return [Launch(kernel, (1, 1, 1), arguments, op.inputs, op.results)]

    def loop(self, op: Op, going: Value) -> Launch:
        """A `while` of numbers, all of it at once."""
        self.ops.append(op)
        carried = int(op.attributes["carried"])
        given = (*op.inputs[carried:], *op.results, going)
        kernel = Kernel("loop", (), (), f"{len(self.ops) - 1}", 1)
        return Launch(kernel, (1, 1, 1), (*given, Failing(op)), given, given)


class Standin:
    """The device."""

    limits = Limits()

    def __init__(self, kernels: Kernels) -> None:
        self.kernels = kernels
        self.launches = 0
        self.owners: set[str] = set()
        self.recorded: list[Callable[[], object]] | None = None  # while work is captured

    def empty(self, bytes: int, owner: str = "") -> Memory:
        self.owners.add(owner)
        return Memory(bytes)

    def to_device(self, target: Span, host: Any, stream: Any = None) -> None:
        array(target, Type("uint8", (target.bytes,)))[...] = host.reshape(-1).view(np.uint8)

    def to_host(self, source: Span, host: Any, stream: Any = None) -> None:
        host.reshape(-1).view(np.uint8)[...] = array(source, Type("uint8", (source.bytes,)))

    def copy(self, target: Span, source: Span, stream: Any = None) -> None:
        assert target.bytes == source.bytes
        to, where, count = target.address, source.address, target.bytes
        self.do(lambda: ctypes.memmove(to, where, count))

    def fill(self, target: Span, byte: int, stream: Any = None) -> None:
        where, count = target.address, target.bytes
        self.do(lambda: ctypes.memset(where, byte, count))

    def do(self, work: Callable[[], object]) -> None:
        if self.recorded is None:
            work()
        else:
            self.recorded.append(work)

    def current(self) -> str:
        return "default"

    def stream(self) -> str:
        return "another"

    def wait(self, stream: Any, other: Any) -> None:
        pass

    def capture(self, work: Callable[[], None], stream: Any) -> list[Callable[[], object]]:
        self.recorded = []
        try:
            work()
            return self.recorded
        finally:
            self.recorded = None

    def replay(self, graph: list[Callable[[], object]], stream: Any = None) -> None:
        for work in graph:
            work()

    def compile(self, source: str, names: Sequence[str], keep: Any = None) -> dict[str, Function]:
        texts = source.split('extern "C" __global__ void')[1:]
        found = {}
        for name, text in zip(names, texts, strict=True):
            if name.startswith("move_rows"):
                found[name] = Mover(name)
                continue
            assert f" {name}()" in text
            number = int(text[text.index("{") + 1 : text.rindex("}")])
            found[name] = Named(name, self.kernels.ops[number])
        return found

    def launch(self, function: Any, grid: Any, block: Any, shared: int, arguments: Any,
               stream: Any = None) -> None:  # fmt: skip
        self.launches += 1
        if isinstance(function, Mover):
            function.move(*(int(a) for a in words_of(arguments)))
            return
        op, words = function.op, [int(a) for a in words_of(arguments)]
        self.do(lambda: self.run(op, words))

    def loop(self, op: Op, words: list[int]) -> None:
        carried = int(op.attributes["carried"])
        types = [v.type for v in (*op.inputs[carried:], *op.results)]
        *given, going = (
            array_at(w, t) for w, t in zip(words, [*types, Type("bool")], strict=False)
        )
        fixed, (steps, *carry) = given[: -1 - carried], given[-1 - carried :]
        going[...] = False
        try:
            found = interpret.run_while(op, [*(x.copy() for x in carry), *fixed])
        except LimitFailure:
            self.fail(array_at(words[-2], WORDS), words[-1], 0, int(op.attributes["limit"]), 0)
            return
        for out, y in zip((steps, *carry), found, strict=True):
            out[...] = y

    def run(self, op: Op, words: list[int]) -> None:
        if op.name == "while":
            self.loop(op, words)
            return
        values = (*op.inputs, *op.results)
        numbers = sorted({v.type.shape[0] for v in values if v.type.is_table})
        known = dict(zip(numbers, words[len(values) :], strict=False))
        token = interpret.lengths.set(known)
        try:
            given = [array_at(w, v.type) for v, w in zip(values, words, strict=False)]
            inputs, outputs = given[: len(op.inputs)], given[len(op.inputs) :]
            if op.name in ("gather", "scatter") and self.fails(op, inputs, words):
                return
            with np.errstate(all="ignore"):
                if op.name == "linalg":
                    found = decompose(op, inputs)
                else:
                    found = interpret.run_typed(op, [x.copy() for x in inputs])
            for out, y in zip(outputs, found, strict=True):
                out[...] = y
        finally:
            interpret.lengths.reset(token)

    def fails(self, op: Op, inputs: list[Any], words: list[int]) -> bool:
        """Report a bad index as `prelude` does."""
        indices = inputs[1 + (op.name == "scatter") :]
        bad = [(i < 0) | (i >= n) for i, n in zip(indices, inputs[0].shape, strict=False)]
        places = np.flatnonzero(np.logical_or.reduce(bad))
        if not places.size:
            return False
        place = int(places[0])
        axis = next(axis for axis, b in enumerate(bad) if b.flat[place])
        index = int(indices[axis].flat[place])
        self.fail(array_at(words[-2], WORDS), words[-1], place, index, axis)
        return True

    def fail(self, error: Any, number: int, place: int, index: int, axis: int) -> None:
        """Report an error as `prelude` does."""
        key = number << 40 | place << 8
        for part in range(PARTS):
            error[part] = min(int(error[part]), key | index % 2**64 >> 8 * part & 255)
        error[PARTS] = min(int(error[PARTS]), key | axis)

    def synchronize(self, stream: Any = None) -> None:
        pass


class Later:
    """A stream: what stands in it, and how much of that is done."""

    def __init__(self) -> None:
        self.work: list[Any] = []
        self.done = 0


class Delayed(Standin):
    """A device that does what stands in its streams late, in any order that their waits allow."""

    def __init__(self, kernels: Kernels, seed: int) -> None:
        super().__init__(kernels)
        self.random = random.Random(seed)
        self.streams = [Later()]
        self.waits = 0

    def current(self) -> Any:
        return self.streams[0]

    def capture(self, work: Callable[[], None], stream: Any) -> Any:
        raise Unrepeatable("what is done late")

    def later(self, stream: Any) -> Later:
        return stream or self.streams[0]

    def stream(self) -> Later:
        self.streams.append(Later())
        return self.streams[-1]

    def wait(self, stream: Any, other: Any) -> None:
        self.waits += 1
        source = self.later(other)
        self.later(stream).work.append((source, len(source.work)))

    def synchronize(self, stream: Any = None) -> None:
        wanted = self.streams if stream is None else [stream]
        while any(s.done < len(s.work) for s in wanted):
            one = self.random.choice([s for s in self.streams if s.done < len(s.work)])
            work = one.work[one.done]
            if isinstance(work, tuple):
                if work[0].done < work[1]:
                    continue
            else:
                work()
            one.done += 1
            one.work[one.done - 1] = None

    def put(self, stream: Any, work: Any) -> None:
        self.later(stream).work.append(work)

    def to_device(self, target: Span, host: Any, stream: Any = None) -> None:
        kept = host.copy()
        self.put(stream, lambda: Standin.to_device(self, target, kept))

    def to_host(self, source: Span, host: Any, stream: Any = None) -> None:
        self.put(stream, lambda: Standin.to_host(self, source, host))
        self.synchronize(self.later(stream))

    def copy(self, target: Span, source: Span, stream: Any = None) -> None:
        self.put(stream, lambda: Standin.copy(self, target, source))

    def fill(self, target: Span, byte: int, stream: Any = None) -> None:
        self.put(stream, lambda: Standin.fill(self, target, byte))

    def launch(self, function: Any, grid: Any, block: Any, shared: int, arguments: Any,
               stream: Any = None) -> None:  # fmt: skip
        self.put(stream, lambda: Standin.launch(self, function, grid, block, shared, arguments))


class Mover:
    """The kernel `backends.cuda.moving.mover`."""

    def __init__(self, name: str) -> None:
        self.name, self.unit = name, int(name.rsplit("_", 1)[1])

    def move(
        self, target: int, source: int, rows: int, others: int, count: int, words: int
    ) -> None:
        row = self.unit * words
        pairs = zip(*(array_at(a, Type("int64", (count,))) for a in (rows, others)), strict=True)
        for to, start in pairs:
            ctypes.memmove(target + int(to) * row, source + int(start) * row, row)


class Named:
    """A kernel."""

    def __init__(self, name: str, op: Op) -> None:
        self.name, self.op = name, op


def array(span: Span, type: Type) -> Any:
    """Memory as an array."""
    return array_at(span.address, type)


def array_at(address: int, type: Type) -> Any:
    """The array at an address."""
    shape = interpret.shape_of(type) if type.is_table else type.shape
    dtype = interpret.numpy_dtype(type.dtype)
    bytes = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    assert address % min(16, 8) == 0 or bytes < 16
    memory = (ctypes.c_char * bytes).from_address(address)
    return np.frombuffer(memory, np.uint8).view(dtype).reshape(shape)


def executable(
    program: Program, apart: bool = False, streams: int = 1, seed: int = 0
) -> Executable:
    """A program for the stand-in."""
    kernels = Kernels()
    module = written(program, kernels.lower, kernels.loop)
    device = Standin(kernels) if streams == 1 else Delayed(kernels, seed)
    return Executable(program, module, device, apart, streams)
