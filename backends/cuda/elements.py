"""`Elements`: the body of a kernel while it is written, line by line.

`Elements.pull` gives the element of a value at a row-major position, as a name or a literal. If the
value is made inside the kernel, that is the text of its operation on elements pulled from its
inputs; views (broadcast, transpose, slice, reshape) only change the position. If not, it is a load.
A position is a sum of loop variables (`backends.affine`), so that indices compose before any text
is written. A kernel that doubles each element of ``x``::

    e = Elements()
    with e.grid_stride("i", x.type.size) as i:
        e.store(out, i, e.let("float", "twice", f"2.0f * {e.load(x, i)}"))
    launch = e.launch("double", blocks(x.type.size))

`Elements.variable` makes a position of what the kernel computes itself (``const int row =
blockIdx.x;``), `Elements.loop` one of a loop. In `Elements.lanes`, neighbouring elements that lie
at a multiple of their number are read and written at once, whatever the views between.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import gcd
from typing import Any, cast

from backends.affine import Affine, Var, View
from backends.cuda.device import Grid
from backends.cuda.expressions import ELEMENTS, NOUNS, element, kind
from backends.cuda.prelude import HELPERS, called
from backends.cuda.steps import Argument, Blocks, Failing, Kernel, Launch, Length
from backends.views import VIEWS
from staging.fusion import FREE
from staging.ir import Op, Value

THREADS = 256  # of a block, unless a kernel wants another number
BLOCKS = 2048  # of a grid that strides: what fills any device twice
LETTERS = "abcdefghmnpqrstuvwxyz"  # what operands are called that the user has no names for
LONG = 1 << 40  # what no length reaches
PULLED = frozenset([*ELEMENTS, *VIEWS, "reshape", "iota"])  # what `pull` goes through
WORDS = """
    alignas and asm auto bool break case catch char class const constexpr continue default delete
    do double else enum error explicit extern false float for friend goto if inline int long main
    namespace new not number operator or private protected public register return short signed
    sizeof static struct switch template this throw true try typedef typename union unsigned using
    virtual void volatile while xor threadIdx blockIdx blockDim gridDim exp log sin cos tan tanh
    sqrt erf pow floor round rint warpSize assert NULL NAN INFINITY linux unix
"""  # that no name in a kernel may be
RESERVED = frozenset([*WORDS.split(), *HELPERS])


def blocks(threads: int, each: int = THREADS) -> Grid:
    """The grid of a kernel that strides, for so many threads."""
    return max(1, min(-(-threads // each), BLOCKS)), 1, 1


@dataclass(slots=True)
class Scope:
    """Lines between two braces, and what is known there."""

    indent: str
    lines: list[str] = field(default_factory=list[str])
    memo: dict[Any, Any] = field(default_factory=dict[Any, Any])


@dataclass(slots=True)
class Lanes:
    """The loop over neighbouring elements that are read and written at once."""

    var: Var
    count: int
    depth: int  # of the scope of its lines
    writes: list[str] = field(default_factory=list[str])


class Elements:
    """The body of a kernel while it is written.

    Args:
        ops: the operations made inside the kernel; all other values are buffers.
        outside: for parameters of a nested block, the values that they are given.
        long: whether indices take 64 bits: where a value has 2³¹ elements or nearly so.
        apart: whether no result lies where an operand does, so that pointers may promise it.

    Attributes:
        error: the operation that fails where an index is bad, if the kernel may fail.
    """

    def __init__(
        self,
        ops: Iterable[Op] = (),
        outside: Mapping[Value, Value] | None = None,
        long: bool = False,
        apart: bool = False,
    ) -> None:
        self.ops = tuple(ops)
        self.makers = {result: op for op in self.ops for result in op.results}
        self.outside = outside or {}
        self.integer = "long long" if long else "int"
        self.apart = apart
        self.names: dict[str, int] = {}
        self.pointers: dict[Value, str] = {}
        self.reads: dict[Value, None] = {}
        self.writes: dict[Value, None] = {}
        self.extra: dict[str, Argument] = {}  # declarations of parameters that are no values
        self.error: Op | None = None
        self.depths: dict[Var, int] = {}
        self.scopes = [Scope("  ")]
        self.divisions: dict[str, tuple[str, int]] = {}  # the names of quotients: of what by what
        self.lane: Lanes | None = None

    # Names and lines.

    def fresh(self, stem: str) -> str:
        """A name that the kernel does not have yet."""
        stem = stem if stem not in RESERVED else stem + "_"
        self.names[stem] = self.names.get(stem, 0) + 1
        count = self.names[stem]
        return stem if count == 1 else self.fresh(f"{stem}_{count}")

    def do(self, line: str, depth: int = -1) -> None:
        """Write a line, in the innermost scope or in that of a depth."""
        scope = self.scopes[depth]
        scope.lines.append(scope.indent + line if line else "")

    def let(self, kind: str, stem: str, text: str, depth: int = -1) -> str:
        """Name what a text gives, which never changes."""
        name = self.fresh(stem)
        self.do(f"const {kind} {name} = {text};", depth)
        return name

    def slot(self, kind: str, stem: str, text: str) -> str:
        """Name a variable that assignments change; give what it starts with."""
        name = self.fresh(stem)
        self.do(f"{kind} {name} = {text};")
        return name

    @contextmanager
    def braces(self, head: str, above: str = "") -> Generator[None]:
        """Lines in a pair of braces behind a head, such as ``"if (x > 0)"``, and a line above."""
        self.scopes.append(Scope(self.scopes[-1].indent + "  "))
        yield
        scope = self.scopes.pop()
        if above:
            self.do(above)
        self.do(f"{head} {{")
        self.scopes[-1].lines += scope.lines
        self.do("}")

    # Positions.

    def variable(self, name: str, extent: int) -> Affine:
        """The position that an integer has which the kernel knows by a name, 0 ≤ it < extent."""
        var = Var(name, extent)
        self.depths[var] = len(self.scopes) - 1
        return Affine(0, ((var, 1),)) if extent > 1 else Affine()

    @contextmanager
    def loop(
        self, name: str, extent: int | str, start: str = "0", step: str = "1"
    ) -> Generator[Affine]:
        """A loop; gives its variable. The extent may be the text of what only the kernel knows."""
        var, most = self.fresh(name), extent if isinstance(extent, int) else LONG
        advance = f"++{var}" if step == "1" else f"{var} += {step}"
        with self.braces(f"for ({self.integer} {var} = {start}; {var} < {extent}; {advance})"):
            yield self.variable(var, most)
        if var == name:
            self.names.pop(name)  # another loop may have it

    @contextmanager
    def grid_stride(
        self, name: str, extent: int | str, threads: int = THREADS
    ) -> Generator[Affine]:
        """A loop whose steps all threads of the grid share."""
        block = "(long long)blockIdx.x" if self.integer == "long long" else "blockIdx.x"
        start, step = f"{block} * {threads} + threadIdx.x", f"gridDim.x * {threads}"
        with self.loop(name, extent, start, step) as position:
            yield position

    @contextmanager
    def lanes(self, count: int) -> Generator[Affine]:
        """A loop over a few neighbours, unrolled; where these lie side by side in memory, at a
        multiple of their number, they are loaded before it and stored behind it, at once."""
        if count == 1:
            yield Affine()
            return
        name = self.fresh("k")
        with self.braces(f"for (int {name} = 0; {name} < {count}; ++{name})", "#pragma unroll"):
            position = self.variable(name, count)
            lane = self.lane = Lanes(position.terms[0][0], count, len(self.scopes) - 1)
            yield position
            self.lane = None
        for line in lane.writes:
            self.do(line)

    def depth(self, position: Affine) -> int:
        """The innermost scope whose variables a position takes."""
        return max((self.depths[var] for var, _ in position.terms), default=0)

    def index(self, position: Affine) -> str:
        """A position as text."""
        text = ""
        for var, factor in sorted(position.terms, key=lambda term: -abs(term[1])):
            term = var.name if abs(factor) == 1 else f"{abs(factor)} * {var.name}"
            sign = "-" if factor < 0 else "+"
            text = f"{text} {sign} {term}" if text else term if factor > 0 else f"-{term}"
        if position.const and text:
            return f"{text} {'-' if position.const < 0 else '+'} {abs(position.const)}"
        return text or str(position.const)

    def quotient(self, position: Affine, n: int) -> tuple[Affine, Affine]:
        """Quotient and remainder of a position, by a division in the kernel where nothing else
        helps."""
        found = position.divided(n)
        if found is not None:
            return found
        whole = tuple((v, c) for v, c in position.terms if c % n == 0)
        if whole:
            rest = Affine(position.const, tuple(t for t in position.terms if t not in whole))
            high, low = self.quotient(rest, n)
            return high + Affine(0, tuple((v, c // n) for v, c in whole)), low
        least = position.bounds()[0]
        if least < 0:  # C++ divides towards zero
            more = -(least // n)
            high, low = self.quotient(position + Affine(more * n), n)
            return high + Affine(-more), low
        common, rest = self.common(position, n)
        if common > 1:
            part = tuple((v, c // common) for v, c in position.terms if v not in dict(rest.terms))
            high, low = self.quotient(Affine(position.const // common, part), n // common)
            return high, low.scaled(common) + rest
        return self.divide(position, n)

    def common(self, position: Affine, n: int) -> tuple[int, Affine]:
        """The greatest factor of ``n`` and some terms that the rest of the position stays below."""
        terms = sorted(position.terms, key=lambda t: -abs(t[1]))
        for count in range(len(terms), 0, -1):
            factor = gcd(n, *(c for _, c in terms[:count]))
            rest = Affine(position.const % factor) + Affine(0, tuple(terms[count:]))
            least, most = rest.bounds()
            if factor > 1 and least >= 0 and most < factor:
                return factor, rest
        return 1, Affine()

    def divide(self, position: Affine, n: int) -> tuple[Affine, Affine]:
        """Quotient and remainder by a division."""
        depth, key = self.depth(position), ("divided", position, n)
        memo = self.scopes[depth].memo
        if key not in memo:
            name = self.index(position)
            if not re.fullmatch(r"\w+", name):
                name = self.let(self.integer, "at", name, depth)
            whole, by = self.divisions.get(name, (name, 1))  # the name is that of whole / by
            high = self.let(self.integer, f"{whole}_div_{by * n}", f"{whole} / {by * n}", depth)
            low = self.let(self.integer, f"{name}_mod_{n}", f"{name} % {n}", depth)
            self.divisions[high] = whole, by * n
            parts = self.variable(high, position.bounds()[1] // n + 1), self.variable(low, n)
            self.depths |= {var: depth for part in parts for var, _ in part.terms}
            memo[key] = parts
        return memo[key]

    def through(self, view: View, position: Affine) -> Affine:
        """The position in an operand of what a view of it has at a position."""
        return view.through(position, self.quotient)

    # Elements.

    def call(self, value: Value, stem: str) -> None:
        """Say what a buffer is called if the user has no name for it."""
        value = self.outside.get(value, value)
        if value not in self.pointers:
            self.pointers[value] = self.fresh(identifier(value.hint) or stem)

    def pointer(self, value: Value) -> str:
        """The parameter that points at a value."""
        self.call(value, LETTERS[len(self.pointers) % len(LETTERS)])
        return self.pointers[self.outside.get(value, value)]

    def read(self, value: Value) -> str:
        """The parameter that points at a value that the kernel reads."""
        self.reads[self.outside.get(value, value)] = None
        return self.pointer(value)

    def written(self, value: Value) -> str:
        """The parameter that points at a value that the kernel writes."""
        self.call(value, "out")
        self.writes[self.outside.get(value, value)] = None
        return self.pointer(value)

    def at(self, value: Value, position: Affine, unit: int = 1) -> str:
        """The text of an element of a buffer that is read, or of ``unit`` at once: the position
        counts these."""
        pointer, dtype = self.read(value), unit_kind(value, unit)
        pointer = pointer if unit == 1 else f"((const {dtype}*){pointer})"
        return f"{pointer}[{self.index(position)}]"

    def load(self, value: Value, position: Affine) -> str:
        """The element of a buffer, by name."""
        pointer, dtype = self.read(value), kind(value.type.dtype)
        packed = self.packed(position)
        if packed is not None:
            assert self.lane is not None
            name = self.all_lanes(pointer, dtype, packed)
            return f"{name}.at[{self.lane.var.name}]"
        depth = -1
        if self.lane is not None and self.lane.var not in dict(position.terms):
            depth = max(self.lane.depth - 1, self.depth(position))
        return self.let(dtype, f"{pointer}_at", self.at(value, position), depth)

    def packed(self, position: Affine) -> Affine | None:
        """Which group of lanes a position is in, where it goes along a whole one."""
        if self.lane is None or dict(position.terms).get(self.lane.var) != 1:
            return None
        start = position + Affine(0, ((self.lane.var, -1),))
        if any(n % self.lane.count for n in (start.const, *(c for _, c in start.terms))):
            return None
        groups = start.divided(self.lane.count)
        return None if groups is None else groups[0]

    def all_lanes(self, pointer: str, dtype: str, group: Affine) -> str:
        """Load neighbours, before the loop over them."""
        assert self.lane is not None
        key, memo = ("lanes", pointer, group), self.scopes[self.lane.depth - 1].memo
        if key not in memo:
            packed = f"Lanes<{dtype}, {self.lane.count}>"
            text = f"((const {packed}*){pointer})[{self.index(group)}]"
            stem = f"{pointer}_{self.lane.count}"
            memo[key] = self.let(packed, stem, text, self.lane.depth - 1)
        return memo[key]

    def store(self, value: Value, position: Affine, text: str, unit: int = 1) -> None:
        """Write an element of a buffer, or ``unit`` at once."""
        pointer, group = self.written(value), self.packed(position)
        if unit > 1:
            pointer = f"(({unit_kind(value, unit)}*){pointer})"
        if group is None or self.lane is None:
            self.do(f"{pointer}[{self.index(position)}] = {text};")
            return
        packed = f"Lanes<{kind(value.type.dtype)}, {self.lane.count}>"
        name = self.fresh(f"{pointer}_{self.lane.count}")
        self.do(f"{packed} {name};", self.lane.depth - 1)
        self.do(f"{name}.at[{self.lane.var.name}] = {text};")
        self.lane.writes.append(f"(({packed}*){pointer})[{self.index(group)}] = {name};")

    def pull(self, value: Value, position: Affine) -> str:
        """The element of a value at a row-major position: a name or a literal."""
        key = (value, position)
        for scope in reversed(self.scopes):
            if key in scope.memo:
                return scope.memo[key]
        op = self.makers.get(value)
        text = self.load(value, position) if op is None else self.make(op, position)
        self.scopes[-1].memo[key] = text
        return text

    def know(self, value: Value, position: Affine, name: str) -> None:
        """Let what is pulled from here on be what the kernel has already."""
        self.scopes[-1].memo[value, position] = name

    def make(self, op: Op, position: Affine) -> str:
        """The element that an operation gives."""
        (result,) = op.results
        if op.name == "constant":
            return element(op, ())
        if op.name in ELEMENTS:
            text = element(op, [self.pull(v, position) for v in op.inputs])
            if re.fullmatch(r"\w+", text):
                return text
            return self.let(
                kind(result.type.dtype), identifier(result.hint) or NOUNS[op.name], text
            )
        if op.name in VIEWS:
            return self.pull(op.inputs[0], self.through(VIEWS[op.name](op), position))
        if op.name == "reshape":
            return self.pull(op.inputs[0], position)
        if op.name == "iota":
            return self.iota(op, position)
        # A pass of the caller's may fuse what no loop can pull; `compile` says so.
        raise NotImplementedError(f"{op.name} inside a fused loop\n  at {op.place}")

    def iota(self, op: Op, position: Affine) -> str:
        shape, axis = op.results[0].type.shape, cast(int, op.attributes["axis"])
        view = View(0, tuple((n, int(i == axis)) for i, n in enumerate(shape)))
        text = self.index(self.through(view, position))
        return self.let(kind(op.results[0].type.dtype), "iota", text)

    # What a launch is given.

    def length(self, number: int) -> str:
        """How long the tables of a number are."""
        name = f"length_{-number}"
        self.extra[f"long long {name}"] = Length(number)
        return name

    def fail(self, op: Op, place: str, value: str, axis: str) -> str:
        """The call that reports a bad index of an operation."""
        self.error = op
        return f"fail(error, number, {place}, {value}, {axis});"

    def launch(
        self, stem: str, grid: Blocks, threads: int = THREADS, block: Grid | None = None
    ) -> Launch:
        """The kernel that has been written, on its operands."""
        params: list[str] = []
        arguments: list[Argument] = []
        for value, name in self.ordered():
            const = "" if value in self.writes else "const "
            promise = " __restrict__" if self.apart else ""
            params.append(f"{const}{kind(value.type.dtype)}*{promise} {name}")
            arguments.append(value)
        for declaration, argument in self.extra.items():
            params.append(declaration)
            arguments.append(argument)
        if self.error is not None:
            params += ["unsigned long long* error", "unsigned int number"]
            arguments.append(Failing(self.error))
        body = self.body()
        kernel = Kernel(stem, self.header(), tuple(params), body, threads, called(body, *params))
        shape = block or (threads, 1, 1)
        return Launch(kernel, grid, tuple(arguments), tuple(self.reads), tuple(self.writes), shape)

    def body(self) -> str:
        """The lines, without quotients and remainders that nothing reads."""
        text = "\n".join(self.scopes[0].lines)
        lines: list[str] = []
        words = Counter(re.findall(r"\w+", text))
        for line in reversed(self.scopes[0].lines):
            division = re.fullmatch(r" *const [a-z ]+ (\w+) = \w+ [/%] \d+;", line)
            if division and words[division[1]] == 1:
                words.subtract(re.findall(r"\w+", line))
            else:
                lines.append(line)
        return "\n".join(reversed(lines))

    def ordered(self) -> list[tuple[Value, str]]:
        """The values that the kernel is given, what it only reads first."""
        return sorted(self.pointers.items(), key=lambda item: item[0] in self.writes)

    def header(self) -> tuple[str, ...]:
        """The values with their shapes, and the user's lines with what they do here."""
        lines: list[str] = []
        for value, name in self.ordered():
            known = f" ({value.hint})" if value.hint and value.hint != name else ""
            lines.append(f"{name}{known}: {value.type}")
        return (*lines, *self.places())

    def places(self) -> tuple[str, ...]:
        """The user's lines, with what they do in this kernel."""
        found: dict[str, list[str]] = {}
        for op in self.ops:
            if op.place and (op.name not in FREE or len(self.ops) == 1):
                found.setdefault(op.place, []).append(op.name)
        return tuple(f"{', '.join(names)} at {place}" for place, names in found.items())


def unit_kind(value: Value, unit: int) -> str:
    """The C++ type of so many neighbouring elements of a value."""
    dtype = kind(value.type.dtype)
    return dtype if unit == 1 else f"Lanes<{dtype}, {unit}>"


def identifier(hint: str) -> str:
    """The last name in a value's hint.

    Example:
        >>> identifier("params['layers'][0].weight"), identifier("")
        ('weight', '')
    """
    names: Sequence[str] = re.findall(r"[A-Za-z_]\w*", hint, re.ASCII)
    return names[-1] if names else ""


def is_long(values: Iterable[Value]) -> bool:
    """Whether indices of values, and steps beyond their ends, take 64 bits."""
    return any(v.type.is_table or v.type.size + BLOCKS * 1024 * 16 >= 2**31 for v in values)
