"""Loops side by side in one launch, whose blocks choose by their number the arrays to work on.

What a `call` of kind "loops" holds (`backends.cuda.merging`) is alike, so that one text does for
all: the pointers in it are variables. Where the loops are *totals*, each the reduction of a whole
array, every block leaves what its share comes to, and a second launch combines those, a block for
each array; unless no array has more than one. Shares are fixed by the sizes, so that results are
the same at every run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, takewhile

from backends.affine import Affine
from backends.cuda.elements import BLOCKS, LETTERS, LONG, THREADS, Elements
from backends.cuda.elementwise import lanes, stem, write
from backends.cuda.expressions import cast, combine, identity, kind
from backends.cuda.merging import parts, total_of
from backends.cuda.plans import wide_of
from backends.cuda.prelude import called
from backends.cuda.reductions import CHUNKS, team_totals
from backends.cuda.steps import Kernel, Launch, Step
from staging.ir import Op, Type, Value

EACH = 4  # vectors of a thread, before an array that is reduced has another block


def loops(op: Op) -> Sequence[Step]:
    """A `call` of kind "loops"."""
    own = parts(op)
    reduce = total_of(own[0])
    return (elementwise(own),) if reduce is None else totals(own, reduce)


def elementwise(own: Sequence[Op]) -> Step:
    """Loops that make an element for each place."""
    template, results = own[0].blocks[0], own[0].results
    sizes = [part.results[0].type.size for part in own]
    count = lanes([*template.params, *template.results], sizes[0])
    sides = Sides(template.ops)
    sides.operands(own)
    for column in zip(*(part.results for part in own), strict=True):
        sides.array(column[0], column, "out", written=True)
    sides.share(sizes, count, BLOCKS)
    sides.each(count, lambda place: write(sides.e, template.results, results, place))
    return sides.launch("loops", [part.results[0].type for part in own])


def totals(own: Sequence[Op], reduce: Op) -> Sequence[Step]:
    """Loops that come to a number each."""
    template, results = own[0].blocks[0], [part.results[0] for part in own]
    (x,), how, wide = reduce.inputs, str(reduce.attributes["kind"]), wide_of(reduce)
    types = [v.type for part in own if (inner := total_of(part)) for v in inner.inputs]
    count = lanes([*template.params, x], x.type.size)
    sides = Sides([inner for inner in template.ops if inner is not reduce])
    sides.operands(own)
    blocks = spread([type.size // count for type in types], CHUNKS, EACH)
    apart = len(own) == sum(blocks)
    if apart:
        sides.array(results[0], results, "out", written=True)
    sides.share([type.size for type in types], count, CHUNKS, EACH)
    target = results[0] if apart else Value(Type(wide, (sum(blocks),)), "partial")
    place = Affine() if apart else sides.e.variable("blockIdx.x", sum(blocks))
    with sides.total(how, wide, target, place) as add:
        sides.each(count, lambda at: add(x, at))
    first = sides.launch(f"{how}_totals", types)
    return (first,) if apart else (first, combined(how, target, results, blocks))


def combined(how: str, partial: Value, results: Sequence[Value], blocks: Sequence[int]) -> Step:
    """What the blocks of each of some arrays left, as one number each."""
    sides = Sides(())
    sides.array(results[0], results, "out", written=True)
    starts = [0, *accumulate(blocks)]
    sides.choose([1] * len(blocks), {"first": starts[:-1], "size": blocks})
    first = sides.e.variable("first", starts[-1])
    with (
        sides.total(how, partial.type.dtype, results[0], Affine()) as add,
        sides.e.loop("i", "size", "threadIdx.x", str(THREADS)) as i,
    ):
        add(partial, first + i)
    return sides.launch(f"{how}_of_blocks", [v.type for v in results])


def spread(vectors: Sequence[int], most: int, each: int = 1) -> list[int]:
    """How many blocks go over each of some arrays of so many vectors."""
    return [max(1, min(-(-n // (each * THREADS)), most)) for n in vectors]


@dataclass(frozen=True, slots=True)
class Array:
    """What loops read or write at one place of their text.

    Attributes:
        type: the C++ type of a pointer to it.
        name: what it is called there.
        values: it, of each loop.
        names: the parameters, of each loop; none if all loops are given the same.
        written: whether the loops write it.
    """

    type: str
    name: str
    values: Sequence[Value]
    names: Sequence[str]
    written: bool


class Sides:
    """The kernel of loops that are alike, while it is written.

    Args:
        ops: those of the first loop, which stand for all.

    Attributes:
        e: its body.
    """

    def __init__(self, ops: Sequence[Op]) -> None:
        self.e = Elements(ops)
        self.arrays: dict[Value, Array] = {}
        self.blocks = 0
        self.left = False

    def operands(self, own: Sequence[Op]) -> None:
        """The arrays that loops read."""
        for k, column in enumerate(zip(*(op.inputs for op in own), strict=True)):
            self.array(own[0].blocks[0].params[k], column, LETTERS[k % len(LETTERS)])

    def array(
        self, value: Value, column: Sequence[Value], stem: str, written: bool = False
    ) -> None:
        """An array of each loop: what the text calls a value of the first one's."""
        name = self.e.pointers[value] = self.e.fresh(common(column) or stem)
        several = len(set(column)) > 1
        names = [self.e.fresh(f"{name}_of_{n + 1}") for n in range(len(column) * several)]
        type = f"{'' if written else 'const '}{kind(column[0].type.dtype)}*"
        self.arrays[value] = Array(type, name, column, names, written)

    def share(self, sizes: Sequence[int], count: int, most: int, each: int = 1) -> None:
        """Let the blocks of a loop share the vectors of ``count`` elements of its arrays."""
        vectors, left = [n // count for n in sizes], [n % count for n in sizes]
        blocks = spread(vectors, most, each)
        starts = [0, *accumulate(blocks)]
        own = [f"blockIdx.x - {start}" if start else "blockIdx.x" for start in starts[:-1]]
        self.left = any(left)
        rest = {"left": left} if self.left else {}
        self.choose(blocks, {"size": vectors, **rest, "block": own, "blocks": blocks})

    def choose(self, blocks: Sequence[int], numbers: Mapping[str, Sequence[object]]) -> None:
        """Write how a block finds what is its loop's: the arrays, and numbers by name. Each loop
        has so many blocks."""
        several = [array for array in self.arrays.values() if array.names]
        for array in several:
            self.e.do(f"{array.type} {array.name};")
        self.e.do(f"int {', '.join(numbers)};")
        for n, end in enumerate(accumulate(blocks)):
            head = f"if (blockIdx.x < {end}) {{" if n + 1 < len(blocks) else "{"
            self.e.do(f"}} else {head}" if n else head)
            for array in several:
                self.e.do(f"  {array.name} = {array.names[n]};")
            for name, values in numbers.items():
                self.e.do(f"  {name} = {values[n]};")
        self.e.do("}")
        self.blocks = sum(blocks)

    def each(self, count: int, line: Callable[[Affine], None]) -> None:
        """Write lines for each place of the arrays that blocks share."""
        e, start = self.e, f"block * {THREADS} + threadIdx.x"
        with e.loop("i", "size", start, f"blocks * {THREADS}") as i, e.lanes(count) as k:
            line(i.scaled(count) + k)
        if self.left:
            with e.braces("if (block == 0 && threadIdx.x < left)"):
                line(e.variable(e.let("int", "at", f"{count} * size + threadIdx.x"), LONG))

    @contextmanager
    def total(
        self, how: str, wide: str, target: Value, place: Affine
    ) -> Generator[Callable[[Value, Affine], None]]:
        """Lines that add elements to a total of this block's, which is then stored."""
        e, total = self.e, self.e.slot(kind(wide), "total", identity(how, wide))

        def add(x: Value, at: Affine) -> None:
            element = cast(e.pull(x, at), x.type.dtype, wide)
            e.do(f"{total} = {combine(how, wide, total, element)};")

        yield add
        team_totals(e, THREADS, [(how, wide, total)])
        with e.braces("if (threadIdx.x == 0)"):
            e.store(target, place, cast(total, wide, target.type.dtype))

    def launch(self, suffix: str, types: Sequence[Type]) -> Launch:
        """The kernel that has been written, for loops over such types."""
        e, params = self.e, dict[str, Value]()
        for array in self.arrays.values():
            names = array.names or [array.name]
            params |= {f"{array.type} {n}": v for n, v in zip(names, array.values, strict=False)}
        for value in (v for v in e.pointers if v not in self.arrays):
            const = "" if value in e.writes else "const "
            params[f"{const}{kind(value.type.dtype)}* {e.pointers[value]}"] = value
        text = e.body()
        header = (*(f"{number}: {type}" for number, type in enumerate(types, 1)), *e.places())
        name = "_".join(filter(None, [stem(e.ops), suffix]))
        kernel = Kernel(name, header, tuple(params), text, THREADS, called(text, *params))
        read, written = (
            tuple(dict.fromkeys(v for text, v in params.items() if text.startswith("const") is so))
            for so in (True, False)
        )
        arguments = tuple(params.values())
        return Launch(kernel, (self.blocks, 1, 1), arguments, read, written, (THREADS, 1, 1))


def common(values: Sequence[Value]) -> str:
    """What the user's names of some values begin with, as one name.

    Example:
        >>> from staging.ir import Type
        >>> common([Value(Type("int8"), f"state.first['{name}']") for name in ("a", "b")])
        'state_first'
    """
    words = [re.findall(r"[A-Za-z_]\w*", v.hint, re.ASCII) for v in values]
    same = takewhile(lambda column: len(set(column)) == 1, zip(*words, strict=False))
    return "_".join(column[0] for column in same)
