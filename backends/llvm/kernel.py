"""`Kernel`: a native function over buffers, whose elements are pulled through the operations that
make them.

`Kernel.pull` gives the element of a value at a row-major position. If the value is made inside the
kernel, that is the scalar code of its operation on elements pulled from its inputs; views
(broadcast, transpose, slice, reshape) only change the position. If not, it is a load.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar, cast

from backends.affine import Affine, SplitAxis, Var, View
from backends.llvm.code import LONG, Code, variable
from backends.llvm.division import WHOLE, Division
from backends.llvm.dtypes import load, register, store
from backends.llvm.scalar import ELEMENTS, element
from backends.views import VIEWS
from staging.ir import ITEMSIZE, Op, Type, Value

Splits = dict[str, tuple[int, ...]]
K = TypeVar("K", bound="Kernel")
LENGTHS = Value(Type("int64", (1,)), "lengths")  # how long tables are: -2, -3 and so on
GRAIN = 64  # elements at whose multiples the parts of an innermost loop begin


class Kernel(Code):
    """The body of a kernel while it is written.

    Args:
        ops: the operations made inside the kernel; all other values are buffers.
        splits: into which factors the loop over a named axis is split.
        division: the parts it is divided into; ``%part`` is the number of one.

    Attributes:
        buffers: what its parameters point at.
        temporaries: the buffers that nothing else uses.
        private: of those the ones that each part has for itself, with their bytes.
        fallible: whether it may fail.
        following: a kernel to run once all parts of this one are done.
    """

    def __init__(self, ops: Iterable[Op], splits: Splits, division: Division = WHOLE) -> None:
        super().__init__()
        self.makers = {result: op for op in ops for result in op.results}
        self.splits = splits
        self.division = division
        self.buffers: list[Value] = []
        self.temporaries: list[Value] = []
        self.private: dict[Value, int] = {}
        self.following: Kernel | None = None
        # Values that have been stored: the buffer, and what to add to a position in the value.
        self.held: dict[Value, tuple[Value, Affine]] = {}
        self.fallible = False

    def temporary(self, type: Type, padding: int = 64) -> Value:
        """A buffer for each part, at a multiple of ``padding`` bytes."""
        each = -(-max(1, type.bytes) // padding) * padding
        parts = (self.division.parts, each // ITEMSIZE[type.dtype])
        made = Value(Type(type.dtype, parts) if self.divided else type)
        self.temporaries.append(made)
        self.private[made] = each
        return made

    @property
    def divided(self) -> bool:
        """Whether there are several parts."""
        return self.division.parts > 1

    def fail_if(self, condition: str, value: str, axis: int | str) -> None:
        """Leave the kernel with an error that says two numbers, as a value and its axis."""
        with self.when(condition):
            self.do(f"store i64 {value}, ptr %error")
            to = self.let("getelementptr inbounds i64, ptr %error, i64 1")
            self.do(f"store i64 {axis}, ptr {to}")
            self.do("ret i1 true")
            self.label(self.fresh("unreached"))

    def pointer(self, value: Value) -> str:
        """The parameter that points at a value's buffer."""
        if value not in self.buffers:
            self.buffers.append(value)
        own = self.divided and value in self.private
        return f"%{'own' if own else 'a'}{self.buffers.index(value)}"

    def body(self) -> str:
        """The text between the function's braces."""
        own = [
            f"  %own{i}.at = mul i64 %part, {self.private[v]}\n"
            f"  %own{i} = getelementptr i8, ptr %a{i}, i64 %own{i}.at"
            for i, v in enumerate(self.buffers)
            if self.divided and v in self.private
        ]
        return "\n".join(["entry:", *self.slots, *own, *self.lines])

    def unite(self, read: Value, made: Value) -> None:
        """Let a buffer that is read and one that is written be one, as they lie in one place: the
        parameters of a kernel promise that no two do."""
        if read not in self.buffers or made not in self.buffers:
            return
        old, new = rf"%a{self.buffers.index(made)}\b", f"%a{self.buffers.index(read)}"
        self.lines = [re.sub(old, new, line) for line in self.lines]

    @contextmanager
    def axis(
        self, name: str, extent: int, reverse: bool = False, lanes: int = 0
    ) -> Generator[Affine]:
        """A loop, or the several that it had to be split into; gives the position along it.

        Of an axis that is divided, it goes over this part's share: of the first factor that is long
        enough, or else of the longest.

        Args:
            name: of the axis.
            extent: how long it is.
            reverse: whether it goes from the end to the start.
            lanes: if not 0, the innermost loop may go over some places twice, so that all of it
                goes in vectors of so many elements.
        """
        factors = self.splits.setdefault(name, (extent,))
        share = -1
        if name in self.division.axes:
            enough = [i for i, n in enumerate(factors) if n >= self.division.parts]
            share = enough[0] if enough else factors.index(max(factors))
        position = Affine()
        with ExitStack() as stack:
            for i, n in enumerate(factors):
                if n == 1:
                    continue
                if i == share:
                    grain = GRAIN if i == len(factors) - 1 else 1
                    start, length = self.share(n, self.division.parts, grain)
                    inside = stack.enter_context(self.loop(length, reverse))
                    index = self.let(f"add nuw nsw i64 {start}, {inside}")
                elif i == len(factors) - 1 and 0 < lanes < n and n % lanes:
                    index = stack.enter_context(self.in_vectors(n, lanes))
                else:
                    index = stack.enter_context(self.loop(n, reverse))
                var = Var(index, max(n, 1), name, i)
                position = position.scaled(n) + Affine(0, ((var, 1),) if n > 1 else ())
            yield position

    @contextmanager
    def each(self, name: str, type: Type, lanes: int = 0) -> Generator[Affine]:
        """A loop over all elements of a value, also of a table; gives the position. ``lanes``: see
        `axis`."""
        if type.is_table:
            size = self.let(f"mul i64 {self.length(type.shape[0])}, {type.size}")
            with self.loop(size) as i:
                yield variable(i, LONG)
        else:
            with self.axis(name, type.size, lanes=lanes) as position:
                yield position

    @contextmanager
    def in_vectors(self, extent: int, lanes: int) -> Generator[str]:
        """A loop over at least so many elements that are no whole number of vectors: the last
        vector ends where they do, and begins in the one before it."""
        with self.loop(-(-extent // lanes)) as number, self.loop(lanes) as place:
            start = self.let(f"mul nuw nsw i64 {number}, {lanes}")
            last = extent - lanes
            start = self.let(f"call i64 @llvm.umin.i64(i64 {start}, i64 {last})")
            yield self.let(f"add nuw nsw i64 {start}, {place}")

    def load(self, value: Value, position: Affine, dtype: str | None = None) -> str:
        """The element of a buffer."""
        dtype = dtype or value.type.dtype
        return load(self, dtype, self.pointer(value), self.index(position))

    def length(self, number: int) -> str:
        """How long the tables of a number are."""
        return self.load(LENGTHS, Affine(-2 - number))

    def store(self, value: Value, position: Affine, element: str, dtype: str | None = None) -> None:
        """Write an element of a buffer."""
        dtype = dtype or value.type.dtype
        store(self, dtype, element, self.pointer(value), self.index(position))

    def pull(self, value: Value, position: Affine) -> str:
        """The element of a value at a row-major position."""
        key = (value, position)
        if key not in self.memo:
            op = self.makers.get(value)
            if value in self.held:
                buffer, offset = self.held[value]
                self.memo[key] = self.load(buffer, position + offset)
            elif op is None:
                self.memo[key] = self.load(value, position)
            else:
                self.memo[key] = self.make(op, position)
        return self.memo[key]

    def make(self, op: Op, position: Affine) -> str:
        """The element that an operation gives."""
        if op.name in ELEMENTS:
            return element(self, op, [self.pull(v, position) for v in op.inputs])
        if op.name in VIEWS:
            return self.pull(op.inputs[0], self.through(VIEWS[op.name](op), position))
        if op.name == "reshape":
            return self.pull(op.inputs[0], position)
        if op.name == "iota":
            return self.iota(op, position)
        # A pass of the caller's may fuse what no loop can pull; `compile` says so.
        raise NotImplementedError(f"{op.name} inside a fused loop\n  at {op.place}")

    def through(self, view: View, position: Affine) -> Affine:
        """The position in an operand of what a view of it has at a position."""
        return view.through(position, self.quotient)

    def iota(self, op: Op, position: Affine) -> str:
        shape, axis = op.results[0].type.shape, cast(int, op.attributes["axis"])
        view = View(0, tuple((n, int(i == axis)) for i, n in enumerate(shape)))
        kind, at = register(op.results[0].type.dtype), self.index(self.through(view, position))
        return at if kind == "i64" else self.let(f"trunc i64 {at} to {kind}")


def written(
    ops: Sequence[Op], write: Callable[[Kernel], Any], division: Division = WHOLE
) -> Kernel:
    """The kernel that ``write`` writes."""
    return finished(lambda splits: Kernel(ops, splits, division), write)


def finished(begin: Callable[[Splits], K], write: Callable[[K], Any]) -> K:
    """The kernel that ``write`` writes, begun anew until every loop is split as its views need."""
    splits: Splits = {}
    while True:
        kernel = begin(splits)
        try:
            write(kernel)
        except SplitAxis as wanted:
            var, inner = wanted.var, wanted.inner
            factors = splits[var.axis]
            halves = (var.extent // inner, inner)
            splits[var.axis] = (*factors[: var.position], *halves, *factors[var.position + 1 :])
        else:
            return kernel


PULLED = frozenset(
    [*ELEMENTS, *VIEWS, "reshape", "iota"]
)  # what a fused loop may hold beside reductions
