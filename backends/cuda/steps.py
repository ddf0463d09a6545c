"""What the host does for one operation that holds no control flow: a few steps on buffers.

An operation is *lowered* to steps over its own operands and results (`staging.ir.Value`), and over
*scratch*, values of its own that live as long as its steps. The executor knows where each value
lies. Steps say what they read and write, which is all that scheduling on streams needs to know.

The contract of a kernel: it reads and writes inside its operands only, whatever the data; where an
index is bad it reads nothing and reports (`Failing`). It may rely on each value lying at a multiple
of 16 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from backends.cuda.device import Grid, Product
from staging.ir import Op, Value


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel's text. Kernels of one text are one kernel, whoever launches them.

    Attributes:
        stem: what it does, in a word or two that is an identifier of C.
        header: comment lines above it: shapes, the user's lines. Not part of what tells kernels
            apart.
        params: the declarations of its parameters, such as ``"const float* x"``.
        body: the text between the braces, without the braces.
        threads: of a block, as ``__launch_bounds__`` promises.
        resident: blocks that a multiprocessor should hold at least; 0: as many as ptxas likes,
            which may spill a few registers to hold another one.
        helpers: functions of the device that it calls, by their names in `prelude`.
        dynamic: bytes of dynamic shared memory.
    """

    stem: str
    header: tuple[str, ...]
    params: tuple[str, ...]
    body: str
    threads: int
    helpers: tuple[str, ...] = ()
    dynamic: int = 0
    resident: int = 0

    @property
    def bounds(self) -> str:
        """What ``__launch_bounds__`` says."""
        return f"{self.threads}, {self.resident}" if self.resident else str(self.threads)


class Length(NamedTuple):
    """How long tables of a number are (`staging.lengths`), as an int64 argument."""

    number: int


class Failing(NamedTuple):
    """Where a kernel reports an error. As arguments these are two, ``unsigned long long* error``
    and then ``unsigned int number``: the address of `WORDS` words, and the number of this launch,
    which grows from launch to launch (from 1), so that the least one failed first.

    All words are all ones before anything fails. ``fail(error, number, place, value, axis)`` of
    `prelude` keeps what failed first: the least number, and there the least place of a bad index in
    row-major order. `reported` reads the words.
    """

    op: Op


PARTS = 8  # into which the 64 bits of an index are cut
WORDS = PARTS + 1  # in which an error is reported: these, and one for the axis


def reported(words: Sequence[int]) -> tuple[int, int, int] | None:
    """What the words of `Failing` say: the number of the launch that failed first, the bad index
    and its axis; nothing if none failed.

    A word has the number (24 bits), the place (32) and one part of the index, the lowest first, or
    the axis (8): so the least of each, which threads find without waiting for each other, are those
    of one and the same failure.
    """
    if words[0] == 2**64 - 1:
        return None
    index = sum((word & 255) << 8 * part for part, word in enumerate(words[:PARTS]))
    return words[0] >> 40, index - 2**64 * (index >> 63), words[PARTS] & 255


class Number(NamedTuple):
    """A number of a dtype, as an argument."""

    value: int | float
    dtype: str


Argument: TypeAlias = "Value | Length | Failing | Number"
Blocks: TypeAlias = "Grid | Callable[[dict[int, int]], Grid]"


@dataclass(frozen=True, slots=True, eq=False)
class Launch:
    """A kernel on some operands.

    Attributes:
        grid: the blocks; of tables, from their lengths by number.
        arguments: in the order of the kernel's parameters; the address of a value is given.
        reads, writes: of the values among them; one may be in both.
    """

    kernel: Kernel
    grid: Blocks
    arguments: tuple[Argument, ...]
    reads: tuple[Value, ...]
    writes: tuple[Value, ...]
    block: Grid = (0, 1, 1)  # 0: `Kernel.threads`


@dataclass(frozen=True, slots=True, eq=False)
class Gemm:
    """A product by the vendor's library; where ``product.add``, the result is read too."""

    product: Product
    x: Value
    y: Value
    out: Value


@dataclass(frozen=True, slots=True, eq=False)
class Gemms:
    """Products of equal sizes, of which ``product.batch`` says how many, wherever their matrices
    lie, by the vendor's library."""

    product: Product
    xs: tuple[Value, ...]
    ys: tuple[Value, ...]
    outs: tuple[Value, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Copy:
    """The bytes of one value to another of the same size; where that lies in its place, nothing."""

    source: Value
    target: Value


@dataclass(frozen=True, slots=True, eq=False)
class Fill:
    """Every byte of a value."""

    target: Value
    byte: int


@dataclass(frozen=True, slots=True, eq=False)
class Decompose:
    """A `linalg` operation."""

    op: Op


Step: TypeAlias = "Launch | Gemm | Gemms | Copy | Fill | Decompose"
Lowering: TypeAlias = Callable[[Op], Sequence[Step]]


def scratch(steps: Sequence[Step], op: Op) -> list[Value]:
    """The values that steps work with and that are neither operands nor results."""
    own = {*op.inputs, *op.results}
    found: dict[Value, None] = {}
    for step in steps:
        for value in (*reads(step), *writes(step)):
            if value not in own:
                found[value] = None
    return list(found)


def reads(step: Step) -> tuple[Value, ...]:
    """What a step reads."""
    match step:
        case Launch():
            return step.reads
        case Gemm():
            return (step.x, step.y, step.out) if step.product.add else (step.x, step.y)
        case Gemms():
            return (*step.xs, *step.ys)
        case Copy():
            return (step.source,)
        case Fill():
            return ()
        case Decompose():
            return step.op.inputs


def writes(step: Step) -> tuple[Value, ...]:
    """What a step writes."""
    match step:
        case Launch():
            return step.writes
        case Gemm():
            return (step.out,)
        case Gemms():
            return step.outs
        case Copy() | Fill():
            return (step.target,)
        case Decompose():
            return step.op.results
