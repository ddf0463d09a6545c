"""argsort: lines are sorted by keys and, where those are equal, by places; so no two elements are
equal, every way of sorting is stable, and the result is the same at every run.

Keys are whole numbers (`orders.key_dtype`). A block sorts a tile in shared memory, by a bitonic
network: several short lines side by side, each filled up to a power of two with what is larger than
all. A line longer than a tile is sorted tile by tile; then runs are merged, two by two, in one
launch for each doubling: an element counts by bisection how many of the other run go before it.
None of these kernels may lie over its operand.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import Template
from typing import cast

from backends.cuda.expressions import accumulator, kind
from backends.cuda.expressions import cast as convert
from backends.cuda.orders import BLOCK, Lines, key_dtype, lines_of, written
from backends.cuda.steps import Kernel, Launch, Number, Step
from staging.ir import Op, Type, Value

TILE = 1024  # elements that a block sorts

SORT = """\
__shared__ $key keys[$tile];
__shared__ $where places[$tile];
for (int i = threadIdx.x; i < $tile; i += $threads) {
  const int t = $t, column = $column;
  const $index line = $line;
  const $index place = $place;
  const bool inside = line < $count && place < $length;
  const $index start = $start;
  keys[column * $padded + t] = inside ? $key_of_element : ($key)-1;
  places[column * $padded + t] = place;
}
__syncthreads();
for (int size = 2; size <= $padded; size *= 2) {
  for (int stride = size / 2; stride > 0; stride /= 2) {
    const int i = 2 * threadIdx.x - threadIdx.x % stride, j = i + stride;
    const $key low = keys[i], high = keys[j];
    const $where first = places[i], second = places[j];
    const bool falling = high < low || (high == low && second < first);
    const bool rising = (i % $padded & size) == 0;
    if (falling == rising) {
      keys[i] = high;
      keys[j] = low;
      places[i] = second;
      places[j] = first;
    }
    __syncthreads();
  }
}
for (int i = threadIdx.x; i < $tile; i += $threads) {
  const int t = $t, column = $column;
  const $index line = $line;
  const $index place = $place;
  if (line < $count && place < $length) {
    $store
  }
}
"""

MERGE = """\
const $index i = blockIdx.x * ($index)$block + threadIdx.x;
if (i >= $size) return;
const $index line = i / $length, t = i % $length;
const $index run = t / width, other = (run ^ 1) * width;
const $key* const keys = sorted + line * $length;
const $key own = keys[t];
const bool behind = run & 1;  // what is equal in the run before goes first
$index low = other < $length ? other : $length;
$index high = other + width < $length ? other + width : $length;
while (low < high) {
  const $index middle = low + (high - low) / 2;
  if (behind ? keys[middle] <= own : keys[middle] < own) low = middle + 1;
  else high = middle;
}
const $index before = low - (other < $length ? other : $length);
const $index place = (run & ~($index)1) * width + t % width + before;
$store
"""


def argsort(op: Op) -> Sequence[Step]:
    """The stable order along an axis, nan as the largest."""
    (x,), (out,) = op.inputs, op.results
    if not x.type.size:
        return ()
    lines = lines_of(x, cast(int, op.attributes["axis"]))
    if lines.length <= TILE:
        padded = max(2, 1 << (lines.length - 1).bit_length())
        blocks = -(-lines.count * padded // TILE)
        return (Launch(tiles(op, lines, padded), (blocks, 1, 1), (x, out), (x,), (out,)),)
    shape, key = (lines.count, lines.length), key_dtype(x.type.dtype)
    where = place_dtype(lines)
    keys, places = Value(Type(key, shape), "keys"), Value(Type(where, shape), "places")
    tiled = (-(-lines.length // TILE) * lines.count, 1, 1)
    steps: list[Step] = [
        Launch(tiles(op, lines, TILE), tiled, (x, keys, places), (x,), (keys, places))
    ]
    blocks = (-(-x.type.size // BLOCK), 1, 1)
    width = TILE
    while width < lines.length:
        runs = (keys, places, Number(width, where))
        if 2 * width < lines.length:
            merged = Value(Type(key, shape), "keys"), Value(Type(where, shape), "places")
            kernel = merge(op, lines, last=False)
        else:
            merged = (out,)
            kernel = merge(op, lines, last=True)
        steps.append(Launch(kernel, blocks, (*runs, *merged), (keys, places), merged))
        if len(merged) == 2:
            keys, places = merged
        width *= 2
    return steps


def tiles(op: Op, lines: Lines, padded: int) -> Kernel:
    """Sort lines of at most a tile; or tile by tile longer ones, of which keys and places stay."""
    dtype, order = op.inputs[0].type.dtype, order_of(op)
    side_by_side, whole = TILE // padded, lines.length <= TILE
    # Neighbouring threads read what lies side by side.
    across = lines.inner > 1 and side_by_side > 1
    count = -(-lines.length // TILE)  # tiles of a line
    place = "t" if whole else f"blockIdx.x % {count} * {TILE} + t"
    element = convert(f"x[start + {lines.at('place')}]", dtype, accumulator(dtype))
    words = words_of(op, lines) | {
        "tile": str(TILE), "threads": str(TILE // 2), "padded": str(padded),
        "t": f"i / {side_by_side}" if across else f"i % {padded}",
        "column": f"i % {side_by_side}" if across else f"i / {padded}",
        "line": f"blockIdx.x * ({lines.index}){side_by_side} + column" if whole
        else f"blockIdx.x / {count}",
        "place": place, "count": str(lines.count), "start": lines.start("line"),
        "key_of_element": f"{order}({element})",
    }  # fmt: skip
    found = "places[column * $padded + t]"
    if whole:
        store = f"out[{lines.start('line')} + {lines.at('place')}] = {found};"
        params = ("long long* out",)
    else:
        at = f"line * {lines.length} + place"
        store = f"sorted[{at}] = keys[t];\n    from[{at}] = places[t];"
        params = (f"{words['key']}* sorted", f"{words['where']}* from")
    words["store"] = Template(store).substitute(words)
    text = Template(SORT).substitute(words)
    given = f"const {kind(dtype)}* x"
    stem = f"argsort_{order}" if whole else f"sort_tiles_{order}"
    return written(stem, op, (given, *params), text, TILE // 2)


def merge(op: Op, lines: Lines, last: bool) -> Kernel:
    """Merge each two neighbouring sorted runs of ``width``; the last time only places stay."""
    words = words_of(op, lines) | {"size": str(lines.count * lines.length), "block": str(BLOCK)}
    if last:
        start, params = lines.start("line"), ("long long* out",)
        words["store"] = f"out[{start} + {lines.at('place')}] = from[i];"
    else:
        at = f"line * {lines.length} + place"
        words["store"] = f"merged[{at}] = own;\nto[{at}] = from[i];"
        params = (f"{words['key']}* merged", f"{words['where']}* to")
    given = (
        f"const {words['key']}* sorted",
        f"const {words['where']}* from",
        f"{words['where']} width",
    )
    text = Template(MERGE).substitute(words)
    return written("merge_runs", op, (*given, *params), text, BLOCK)


def words_of(op: Op, lines: Lines) -> dict[str, str]:
    """What stands in both texts."""
    key = kind(key_dtype(op.inputs[0].type.dtype))
    where = kind(place_dtype(lines))
    return {"key": key, "where": where, "index": lines.index, "length": str(lines.length)}


def place_dtype(lines: Lines) -> str:
    """The dtype of places in a line."""
    return "int32" if lines.length + TILE < 2**31 else "int64"


def order_of(op: Op) -> str:
    """The function of C that gives keys which grow from the first to the last."""
    return "descending" if op.attributes["descending"] else "ascending"
