"""Products of matrices by tiles: what is multiplied is staged in shared memory, sums stay in
registers.

A block of `THREADS` makes one tile of a result. Each thread has a few rows and columns of it, the
sums of which are its registers (`Side`). Along the inner axis the operands are *staged*: copied, a
few places at a time, to shared memory, where every thread finds what it multiplies, several
neighbours in one access. Both lie there with the inner axis first, whichever way round they were.

`Tiles` writes the parts of such a kernel into an `Elements`. A product of two matrices is one
`accumulate`; attention (`backends.cuda.attention`) is a few of them around what it does to scores.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

from backends.affine import Affine
from backends.cuda.elements import Elements
from backends.cuda.expressions import accumulator, cast, is_float, kind, literal
from backends.cuda.steps import Launch
from staging.ir import ITEMSIZE, Value

DOWN, ALONG = 8, 16  # threads along the rows of a tile, and along its columns
THREADS = DOWN * ALONG
WIDTH = 16  # the bytes of an access, at most
RESIDENT = 2  # blocks that a multiprocessor holds at least: a thread may take 255 registers
AHEAD = 2  # inner places at once: one is read while the other is multiplied
UNROLL = "#pragma unroll"  # what is numbered by such a loop can be registers
NAMES = (
    *("left", "right", "lefts", "rights", "down", "along", "start", "at", "high", "low"),
    *("outer", "inner", "found", "lane", "group", "i", "j"),
)


class Side(NamedTuple):
    """How the rows of a tile, or its columns, are divided among threads.

    A thread has `groups` of `lanes` neighbours: the first groups of all threads lie side by side,
    behind them the second ones.
    """

    threads: int
    lanes: int
    groups: int

    @classmethod
    def of(cls, threads: int, extent: int, dtype: str) -> Side:
        """That of so many rows or columns, a power of two, whose sums are of a dtype."""
        lanes = min(extent // threads, WIDTH // ITEMSIZE[dtype])
        return cls(threads, lanes, extent // (threads * lanes))

    @property
    def extent(self) -> int:
        """Rows, or columns, of the tile."""
        return self.threads * self.lanes * self.groups

    @property
    def each(self) -> int:
        """Those of one thread."""
        return self.lanes * self.groups

    @property
    def apart(self) -> int:
        """From one group of a thread to the next."""
        return self.threads * self.lanes

    def place(self, thread: str, name: str) -> str:
        """Where one of a thread's own lies in the tile, by the number of the thread.

        Example:
            >>> Side(8, 4, 2).place("down", "i"), Side(16, 4, 1).place("along", "j")
            ('4 * down + i / 4 * 32 + i % 4', '4 * along + j')
        """
        if self.groups == 1:
            return f"{self.first(thread)} + {name}"
        lanes = self.lanes
        return f"{self.first(thread)} + {name} / {lanes} * {self.apart} + {name} % {lanes}"

    def first(self, thread: str) -> str:
        """Where the first of a thread's own lies."""
        return thread if self.lanes == 1 else f"{self.lanes} * {thread}"


def summed(dtype: str) -> str:
    """The dtype in which products are summed. Integers wrap, which the language says of unsigned
    ones of full width only; a boolean is a bit of such a one."""
    if is_float(dtype):
        return accumulator(dtype)
    return "uint64" if ITEMSIZE[dtype] == 8 else "uint32"


class Rows(NamedTuple):
    """Where rows begin: in groups of so many, `apart` from each other, and those of a group
    `step`; ``wide``: so far that it takes 64 bits."""

    group: int
    apart: int
    step: int
    wide: bool = False

    def place(self, row: str) -> str:
        """Where a row begins.

        Example:
            >>> Rows(2, 64, 8).place("row"), Rows(2, 16, 8).place("row")
            ('(row / 2 * 64 + row % 2 * 8)', 'row * 8')
        """
        cast = "(long long)" if self.wide else ""
        if self.group == 1:
            return f"{cast}{row} * {self.apart}"
        if self.apart == self.group * self.step:
            return f"{cast}{row} * {self.step}"
        first = f"{cast}({row} / {self.group})" if self.wide else f"{row} / {self.group}"
        return f"({first} * {self.apart} + {row} % {self.group} * {self.step})"


class Operand(NamedTuple):
    """A matrix in memory that is multiplied.

    Attributes:
        pointer: the name of what points at it.
        dtype: of its elements.
        outer: the length of the axis of which the product keeps a part.
        inner: the length of the axis along which it sums.
        first: the outer place where the tile begins.
        turned: whether the inner axis is the last one.
        whole: whether no tile goes beyond the end of the outer axis.
        origin: the inner place that is the first to be multiplied.
        lies: where each of its rows begins, if not one behind the other.
    """

    pointer: str
    dtype: str
    outer: int
    inner: int
    first: str
    turned: bool
    whole: bool
    origin: str = ""
    lies: Rows | None = None


@dataclass(frozen=True, slots=True)
class Tiles:
    """Writes what a kernel does with tiles.

    Attributes:
        e: where it is written.
        dtype: of the sums, and of what is staged.
        rows: the side of a tile along its rows.
        depth: how many inner places are staged at once, at most.
        bits: whether a product is that of booleans.
    """

    e: Elements
    dtype: str
    rows: Side
    depth: int
    bits: bool = False

    def __post_init__(self) -> None:
        for name in NAMES:  # no pointer is called so
            self.e.fresh(name)

    def columns(self, extent: int) -> Side:
        """The side of a tile of so many columns."""
        return Side.of(ALONG, extent, self.dtype)

    def shared(self, name: str, count: int, extent: int) -> None:
        """Declare a matrix in shared memory. Behind its rows some elements are left, so that
        neighbours in a column lie in different banks."""
        stride = extent + WIDTH // ITEMSIZE[self.dtype]
        self.e.do(f"__shared__ __align__({WIDTH}) {kind(self.dtype)} {name}[{count}][{stride}];")

    def thread(self) -> tuple[Affine, Affine]:
        """Name a thread's place along the rows of a tile, and along its columns."""
        self.e.do(f"const int down = threadIdx.x / {ALONG}, along = threadIdx.x % {ALONG};")
        return self.e.variable("down", DOWN), self.e.variable("along", ALONG)

    def sums(self, name: str, columns: Side) -> None:
        """Declare the sums of a thread's part of a tile, all zero."""
        self.e.do(f"{kind(self.dtype)} {name}[{self.rows.each}][{columns.each}] = {{}};")

    @contextmanager
    def rows_of_thread(self) -> Generator[None]:
        """A loop over the rows of a thread by number, ``i``."""
        with self.e.braces(f"for (int i = 0; i < {self.rows.each}; ++i)", UNROLL):
            yield

    @contextmanager
    def columns_of_thread(self, columns: Side) -> Generator[None]:
        """A loop over the columns of a thread by number, ``j``."""
        with self.e.braces(f"for (int j = 0; j < {columns.each}; ++j)", UNROLL):
            yield

    @contextmanager
    def parts_of_thread(self, count: int) -> Generator[Affine]:
        """A loop over the parts of a thread's row, if there are several; gives the number."""
        if count == 1:
            yield Affine()
            return
        name = self.e.fresh("part")
        with self.e.braces(f"for (int {name} = 0; {name} < {count}; ++{name})", UNROLL):
            yield self.e.variable(name, count)

    def accumulate(
        self, name: str, left: Operand | str, right: Operand, columns: Side, inner: int
    ) -> None:
        """Add a product to sums.

        Args:
            name: of the sums.
            left: what has the rows; or the name of it in shared memory, where it is complete.
            right: what has the columns.
            columns: the side of the tile along them.
            inner: how many places to multiply.
        """
        if not inner:
            return
        e, depth = self.e, min(self.depth, inner)
        with e.braces(f"for (int start = 0; start < {inner}; start += {depth})"):
            e.do("__syncthreads();  // what was staged before has been read")
            if isinstance(left, Operand):
                self.stage("left", left, self.rows.extent, depth, inner)
            self.stage("right", right, columns.extent, depth, inner)
            e.do("__syncthreads();")
            with e.braces(f"for (int k = 0; k < {depth}; ++k)", f"{UNROLL} {AHEAD}"):
                at = "left[k]" if isinstance(left, Operand) else f"{left}[start + k]"
                a = self.fetch("lefts", at, "down", "i", self.rows)
                b = self.fetch("rights", "right[k]", "along", "j", columns)
                with self.rows_of_thread(), self.columns_of_thread(columns):
                    e.do(f"{name}[i][j] = {self.added(f'{name}[i][j]', a, b)};")

    def fetch(self, name: str, source: str, thread: str, number: str, side: Side) -> str:
        """Read a thread's part of a row in shared memory; returns the text of one element of it."""
        e, first = self.e, side.first(thread)
        if side.each == 1:
            e.do(f"const {kind(self.dtype)} {name} = {source}[{first}];")
            return name
        lanes = f"Lanes<{kind(self.dtype)}, {side.lanes}>"
        if side.groups == 1:
            e.do(f"const {lanes} {name} = *(const {lanes}*)&{source}[{first}];")
            return f"{name}.at[{number}]"
        e.do(f"{lanes} {name}[{side.groups}];")
        with e.braces(f"for (int group = 0; group < {side.groups}; ++group)", UNROLL):
            e.do(f"{name}[group] = *(const {lanes}*)&{source}[{first} + {side.apart} * group];")
        return f"{name}[{number} / {side.lanes}].at[{number} % {side.lanes}]"

    def added(self, total: str, a: str, b: str) -> str:
        """A sum and one more product."""
        if is_float(self.dtype):
            return f"{'fma' if self.dtype == 'float64' else 'fmaf'}({a}, {b}, {total})"
        return f"{total} | ({a} & {b})" if self.bits else f"{total} + {a} * {b}"

    def stage(self, target: str, x: Operand, extent: int, depth: int, count: int) -> None:
        """Copy ``depth`` of ``count`` places of an operand to shared memory, the inner axis first,
        with zeros where it ends."""
        e = self.e
        rows, columns = (extent, depth) if x.turned else (depth, extent)
        lanes = self.lanes(x, columns)
        begin = f"threadIdx.x * {lanes}" if lanes > 1 else "threadIdx.x"
        head = f"for (int at = {begin}; at < {rows * columns}; at += {THREADS * lanes})"
        with e.braces(head):
            outer, inner = ("high", "low") if x.turned else ("low", "high")
            e.do(f"const int high = at / {columns}, low = at % {columns};")
            outer, inner = plus(x.first, outer), plus(x.origin, "start", inner)
            e.do(f"const int outer = {outer}, inner = {inner};")
            high, low = ("outer", "inner") if x.turned else ("inner", "outer")
            length = x.inner if x.turned else x.outer
            rows_lie = x.lies or Rows(1, length, length, x.outer * x.inner >= 2**31)
            place = f"{x.pointer}[{rows_lie.place(high)} + {low}]"
            tests = [] if x.whole else [f"outer < {x.outer}"]
            fits = x.inner % count == 0 and count % depth == 0
            tests += [] if fits else [f"inner < {x.inner}"]
            self.copy(target, x, lanes, place, " && ".join(tests))

    def copy(self, target: str, x: Operand, lanes: int, place: str, test: str) -> None:
        """Copy neighbours, or one element, where a test holds."""
        e = self.e
        if lanes == 1:
            element = cast(place, x.dtype, self.dtype)
            zero = literal(self.dtype, 0)
            e.do(f"{target}[{'low][high' if x.turned else 'high][low'}] = "
                 f"{f'{test} ? {element} : {zero}' if test else element};")  # fmt: skip
            return
        found = f"Lanes<{kind(x.dtype)}, {lanes}>"
        e.do(f"{found} found = {{}};")
        e.do(f"{f'if ({test}) ' if test else ''}found = *(const {found}*)&{place};")
        with e.braces(f"for (int lane = 0; lane < {lanes}; ++lane)", UNROLL):
            to = "low + lane][high" if x.turned else "high][low + lane"
            e.do(f"{target}[{to}] = {cast('found.at[lane]', x.dtype, self.dtype)};")

    def lanes(self, x: Operand, columns: int) -> int:
        """How many neighbours are read at once: none of them is beyond the end of a row."""
        count = WIDTH // ITEMSIZE[x.dtype]
        last = x.inner if x.turned else x.outer
        while last % count or columns % count:
            count //= 2
        return count


def parts(e: Elements, **counts: int) -> list[Affine]:
    """Name which part of the work a block does, of so many parts of each kind: neighbours have
    neighbours of the last kind."""
    found: list[Affine] = []
    for name, count in counts.items():
        sizes = list(counts.values())
        k = list(counts).index(name)
        inside = prod(sizes[k + 1 :])
        text = f"blockIdx.x / {inside}" if inside > 1 else "blockIdx.x"
        text += f" % {count}" if prod(sizes[:k]) > 1 else ""
        found.append(e.variable(e.let("int", name, text), count) if count > 1 else Affine())
    return found


def launched(e: Elements, stem: str, blocks: int) -> Launch:
    """A kernel of tiles, as so many blocks. All that a thread works with stays in registers: how
    many blocks a multiprocessor holds counts for less."""
    launch = e.launch(stem, (blocks, 1, 1), THREADS)
    return replace(launch, kernel=replace(launch.kernel, resident=RESIDENT))


def one_of(e: Elements, value: Value, offset: Affine) -> str:
    """The name of what points at a part of a value, so many elements behind its beginning."""
    pointer = e.read(value) if value not in e.writes else e.written(value)
    if not offset.terms:
        return pointer
    const, name = "const " * (value not in e.writes), e.fresh(f"its_{pointer}")
    text = e.index(offset)
    if value.type.size >= 2**31:
        text = " + ".join(f"(long long){var.name} * {step}" for var, step in offset.terms)
    e.do(f"{const}{kind(value.type.dtype)}* {name} = {pointer} + {text};")
    return name


def plus(*terms: str) -> str:
    """The sum of the terms that there are."""
    return " + ".join(t for t in terms if t not in ("", "0"))
