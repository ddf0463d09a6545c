"""Operations along one axis in order: cumulate and argreduce; `sorting` has argsort.

A *line* is what stands along the axis at one place of the other axes. Along the last axis a line
is contiguous, and a team of neighbouring threads goes over it together: a warp, or a block where it
is long. Along another axis neighbouring lines lie side by side, and each thread has its own.

A few long lines would leave most of a device idle: they are cut into chunks. One launch leaves in
scratch what each chunk comes to, another one combines those in the order of the chunks; so results
are the same on every device and at every run. None of these kernels may lie over its operand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import Template
from typing import NamedTuple, cast

from backends.cuda.expressions import accumulator, combine, identity, kind
from backends.cuda.expressions import cast as convert
from backends.cuda.prelude import called
from backends.cuda.steps import Kernel, Launch, Step
from staging.ir import ITEMSIZE, Op, Type, Value

BLOCK = 256  # threads
MANY = 1 << 16  # threads that keep a device busy
LONG = 2048  # elements of a line from which a block goes over it, not a warp
CHUNKS = 256  # at most, of a line


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of an array along an axis: how many stand before each other, how long they are, and
    how many stand side by side."""

    outer: int
    length: int
    inner: int

    @property
    def count(self) -> int:
        """How many there are."""
        return self.outer * self.inner

    @property
    def index(self) -> str:
        """The type of C in which places are computed."""
        return "int" if self.count * self.length < 1 << 30 else "long long"

    def start(self, line: str) -> str:
        """Where a line begins."""
        if self.inner == 1:
            return f"{line} * {self.length}"
        return f"{line} / {self.inner} * {self.length * self.inner} + {line} % {self.inner}"

    def at(self, place: str) -> str:
        """How far behind the start of its line a place of it lies."""
        return place if self.inner == 1 else f"{place} * {self.inner}"


def lines_of(x: Value, axis: int) -> Lines:
    """The lines of a value along an axis."""
    outer, inner = 1, 1
    for n in x.type.shape[:axis]:
        outer *= n
    for n in x.type.shape[axis + 1 :]:
        inner *= n
    return Lines(outer, x.type.shape[axis], inner)


class Shares(NamedTuple):
    """How lines are shared out: the threads of a team, the chunks of a line, and elements in each;
    a chunk but the last is whole rounds of its team."""

    team: int
    chunks: int
    chunk: int

    def grid(self, lines: int) -> tuple[int, int, int]:
        """The blocks: teams along x, chunks along y."""
        return (-(-lines * self.team // BLOCK), self.chunks, 1)


def shares(lines: Lines, items: int) -> Shares:
    """How lines are shared out, where a thread takes so many elements in a round."""
    team = 1 if lines.inner > 1 else 32 if lines.length < LONG else BLOCK
    round = team * (items if team > 1 else 1)
    wanted = min(CHUNKS, MANY // (lines.count * team) or 1, lines.length // (8 * round) or 1)
    chunk = -(-lines.length // (wanted * round)) * round
    return Shares(team, -(-lines.length // chunk), chunk)


# cumulate

ITEMS = 4  # neighbouring elements that a thread of a team takes in a round

HEAD = """\
const $index line = blockIdx.x * ($index)$lines_a_block + threadIdx.x / $team;
$leave
const $index start = $start;
const $index first = blockIdx.y * ($index)$chunk;
const $index end = $end;
"""

# What the chunks before this one come to.
EARLIER = """\
for (unsigned int chunk = 0; chunk < blockIdx.y; ++chunk) {
  carry = $carry_total;
}
"""

# A thread for each line.
ALONE = """\
for ($index t = first; t < end; ++t) {
  carry = $carry_element;
  $store_carry
}
"""

# A team for each line. In a round each thread first goes over its own elements; then it learns what
# the threads before it come to (`before`), and what all of them do (`whole`).
TEAM = """\
for ($index round = first; round < end; round += $round) {
  const $index own = round + threadIdx.x % $team * $items;
  $wide running[$items];
  $wide total = $identity;
  #pragma unroll
  for (int k = 0; k < $items; ++k) {
    const $index t = own + k;
    if (t < end) total = $total_element;
    running[k] = total;
  }
  #pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const $wide other = __shfl_up_sync(0xffffffffu, total, step);
    if (threadIdx.x % 32 >= step) total = $other_total;
  }
  $wide whole = __shfl_sync(0xffffffffu, total, 31);
  $wide before = __shfl_up_sync(0xffffffffu, total, 1);
  if (threadIdx.x % 32 == 0) before = $identity;
$warps  before = $carry_before;
$store_running  carry = $carry_whole;
}
"""

WARPS = """\
  __shared__ $wide warps[$count];
  if (threadIdx.x % 32 == 31) warps[threadIdx.x / 32] = total;
  __syncthreads();
  whole = $identity;
  for (int warp = 0; warp < $count; ++warp) {
    if (warp == threadIdx.x / 32) before = $whole_before;
    whole = $whole_warp;
  }
  __syncthreads();
"""

RUNNING = """\
  #pragma unroll
  for (int k = 0; k < $items; ++k) {
    const $index t = own + k;
    if (t < end) $store
  }
"""


def cumulate(op: Op) -> Sequence[Step]:
    """A running total along an axis."""
    (x,), (out,) = op.inputs, op.results
    if not x.type.size:
        return ()
    lines = lines_of(x, cast(int, op.attributes["axis"]))
    shared = shares(lines, ITEMS)
    grid = shared.grid(lines.count)
    if shared.chunks == 1:
        return (Launch(scan(op, lines, shared), grid, (x, out), (x,), (out,)),)
    wide = accumulator(x.type.dtype)
    totals = Value(Type(wide, (shared.chunks, lines.count)), "totals")
    return (
        Launch(scan(op, lines, shared, "totals"), grid, (x, totals), (x,), (totals,)),
        Launch(scan(op, lines, shared, "rest"), grid, (x, totals, out), (x, totals), (out,)),
    )


def scan(op: Op, lines: Lines, shared: Shares, part: str = "whole") -> Kernel:
    """The kernel of a running total.

    Args:
        op: a `cumulate`.
        lines: of its operand.
        shared: how they are shared out.
        part: ``"whole"``, or where lines are cut into chunks ``"totals"``, which says what each
            comes to, and then ``"rest"``.
    """
    dtype, name = op.inputs[0].type.dtype, str(op.attributes["kind"])
    wide, totals = accumulator(dtype), part == "totals"
    place = f"({lines.length - 1} - t)" if op.attributes["reverse"] else "t"
    at = f"start + {lines.at(place)}"
    element = convert(f"x[{at}]", dtype, wide)

    def both(first: str, second: str) -> str:
        return combine(name, wide, first, second)

    def store(what: str) -> str:
        return "" if totals else f"out[{at}] = {convert(what, wide, dtype)};"

    words = head_words(lines, shared) | {
        "wide": kind(wide), "identity": identity(name, wide), "items": str(ITEMS),
        "round": str(shared.team * ITEMS), "count": str(BLOCK // 32),
        "carry_total": both("carry", f"totals[chunk * ({lines.index}){lines.count} + line]"),
        "carry_element": both("carry", element), "total_element": both("total", element),
        "other_total": both("other", "total"), "carry_before": both("carry", "before"),
        "carry_whole": both("carry", "whole"), "whole_before": both("whole", "before"),
        "whole_warp": both("whole", "warps[warp]"), "store_carry": store("carry"),
        "store": store(both("before", "running[k]")),
    }  # fmt: skip
    words["warps"] = Template(WARPS).substitute(words) if shared.team > 32 else ""
    words["store_running"] = "" if totals else Template(RUNNING).substitute(words)
    text = HEAD + "$wide carry = $identity;\n" + (EARLIER if part == "rest" else "")
    text += ALONE if shared.team == 1 else TEAM
    if totals:
        text += f"{first_of(shared)}totals[blockIdx.y * ($index){lines.count} + line] = carry;\n"
    held, result = kind(wide), kind(dtype)
    params = {
        "whole": (f"const {result}* x", f"{result}* out"),
        "totals": (f"const {result}* x", f"{held}* totals"),
        "rest": (f"const {result}* x", f"const {held}* totals", f"{result}* out"),
    }[part]
    stem = f"cumulate_{name}" + {"totals": "_of_chunks", "rest": "_on", "whole": ""}[part]
    return written(stem, op, params, Template(text).substitute(words), BLOCK)


# argreduce

BEST = """\
$key best = 0;
$index place = $length;
for ($index t = first + threadIdx.x % $team; t < end; t += $team) {
  const $key key = $element;
  if (key > best || (key == best && t < place)) {
    best = key;
    place = t;
  }
}
"""

BEST_OF_WARP = """\
#pragma unroll
for (int step = 16; step > 0; step /= 2) {
  const $key key = __shfl_xor_sync(0xffffffffu, best, step);
  const $index other = __shfl_xor_sync(0xffffffffu, place, step);
  if (key > best || (key == best && other < place)) {
    best = key;
    place = other;
  }
}
"""

BEST_OF_BLOCK = """\
__shared__ $key warp_bests[$warps];
__shared__ $index warp_places[$warps];
if (threadIdx.x % 32 == 0) {
  warp_bests[threadIdx.x / 32] = best;
  warp_places[threadIdx.x / 32] = place;
}
__syncthreads();
for (int warp = 0; warp < $warps; ++warp) {
  const $key key = warp_bests[warp];
  const $index other = warp_places[warp];
  if (key > best || (key == best && other < place)) {
    best = key;
    place = other;
  }
}
"""

BEST_OF_CHUNKS = """\
const int line = blockIdx.x * $block + threadIdx.x;
if (line >= $count) return;
$key best = 0;
long long place = $length;
for (int chunk = 0; chunk < $chunks; ++chunk) {
  const $key key = bests[chunk * $count + line];
  if (key > best || place == $length) {
    best = key;
    place = places[chunk * $count + line];
  }
}
out[line] = place;
"""


def argreduce(op: Op) -> Sequence[Step]:
    """Where the first largest or smallest along an axis is, nan before all: the largest *key*
    (`key_dtype`), and of its places the least."""
    (x,), (out,) = op.inputs, op.results
    if not x.type.size:
        return ()
    lines = lines_of(x, cast(int, op.attributes["axis"]))
    shared = shares(lines, 1)
    dtype, name = x.type.dtype, str(op.attributes["kind"])
    key = key_dtype(dtype)
    element = convert(f"x[start + {lines.at('t')}]", dtype, accumulator(dtype))
    words = head_words(lines, shared) | {
        "key": kind(key), "length": str(lines.length), "warps": str(BLOCK // 32),
        "block": str(BLOCK), "count": str(lines.count), "chunks": str(shared.chunks),
        "element": f"key_of_{name}({element})",
    }  # fmt: skip
    text = HEAD + BEST + (BEST_OF_WARP if shared.team > 1 else "")
    text += BEST_OF_BLOCK if shared.team > 32 else ""
    given, grid = f"const {kind(dtype)}* x", shared.grid(lines.count)

    def kernel(stem: str, text: str, *params: str) -> Kernel:
        return written(stem, op, params, Template(text).substitute(words), BLOCK)

    if shared.chunks == 1:
        text += f"{first_of(shared)}out[line] = place;\n"
        found = kernel(f"arg{name}", text, given, "long long* out")
        return (Launch(found, grid, (x, out), (x,), (out,)),)
    bests, places = (Value(Type(d, (shared.chunks, lines.count))) for d in (key, "int64"))
    at = f"blockIdx.y * {lines.count} + line"
    text += f"{first_of(shared)}{{\n  bests[{at}] = best;\n  places[{at}] = place;\n}}\n"
    held = (f"{kind(key)}* bests", "long long* places")
    found = kernel(f"arg{name}_of_chunks", text, given, *held)
    best = kernel("best_of_chunks", BEST_OF_CHUNKS, *(f"const {p}" for p in held), "long long* out")
    blocks = (-(-lines.count // BLOCK), 1, 1)
    return (
        Launch(found, grid, (x, bests, places), (x,), (bests, places)),
        Launch(best, blocks, (bests, places, out), (bests, places), (out,)),
    )


def key_dtype(dtype: str) -> str:
    """The dtype of keys, which are whole numbers without sign, ordered as numbers of a dtype are,
    where -0 is 0 and nan the largest; the functions ``key_of_max`` and so on of C give them."""
    return "uint64" if ITEMSIZE[dtype] == 8 else "uint32"


# What all have in common.


def written(stem: str, op: Op, params: Sequence[str], text: str, threads: int) -> Kernel:
    """A kernel of a text, without lines that stayed empty."""
    lines = [f"  {line}" for line in text.splitlines() if line.strip()]
    what = f"{op.name} along axis {op.attributes['axis']} of {op.inputs[0].type}"
    header = f"{what} at {op.place}" if op.place else what
    body = "\n".join(lines)
    return Kernel(stem, (header,), tuple(params), body, threads, called(text, *params), resident=1)


def first_of(shared: Shares) -> str:
    """That a thread is the first of its team, before what only that one does."""
    return f"if (threadIdx.x % {shared.team} == 0) " if shared.team > 1 else ""


def head_words(lines: Lines, shared: Shares) -> dict[str, str]:
    """What stands in `HEAD`."""
    end = f"first + {shared.chunk} < {lines.length} ? first + {shared.chunk} : {lines.length}"
    return {
        "index": lines.index, "team": str(shared.team),
        "lines_a_block": str(BLOCK // shared.team),
        "leave": f"if (line >= {lines.count}) return;" if shared.team < BLOCK else "",
        "start": lines.start("line"), "chunk": str(shared.chunk), "end": end,
    }  # fmt: skip
