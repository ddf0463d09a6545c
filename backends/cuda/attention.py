"""Attention and its adjoint as kernels of tiles, which never hold the scores of all queries.

The rows of a head are its queries, those that share their keys side by side: T places of G. A block
has some rows and goes over the keys, a tile after the other (Dao et al., 2022). It multiplies the
tile's scores, and what they weigh; it keeps for each row the largest score so far, the sum of the
exponentials relative to that, and the weighed sum of the values, and when a larger score comes it
scales what it has. The logarithm of each row's sum is all that the adjoint needs of this, from
which it computes the weights again: some blocks, again with some rows each, for the queries; others
with some keys each for keys and values. They are one launch where they need the same shared memory.
So nothing is added by atomics, and results are the same from run to run.

Sums are float32, or float64. A result that is wide is cut into chunks, each a block's. What
must not be seen, and what lies behind the last row or key, has weight 0.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

from backends.cuda.device import Grid
from backends.cuda.heads import Attention, HeadKernel, shifted
from backends.cuda.steps import Launch, Step
from staging.ir import Op

LOWEST = -1e30  # of the logarithm of a sum: that of nothing is finite
LARGER = {"float32": "fmaxf", "float64": "fmax"}


def attention(op: Op) -> Sequence[Step]:
    """A `call` of kind "attention"."""
    a = Attention.of(op)
    return a.launches(_Forward, a.rows)


def attention_adjoint(op: Op) -> Sequence[Step]:
    """A `call` of kind "attention_adjoint"."""
    a = Attention.of(op)
    both = (*a.launches(_OfQueries, a.rows), *a.launches(_OfKeys, a.s))
    return beside(*both, stem="attention_adjoint") if len(both) == 2 else both


def beside(first: Launch, second: Launch, stem: str) -> Sequence[Launch]:
    """Two kernels as one launch, in which the blocks of the second come behind those of the first;
    or both, if they do not declare the same shared memory."""
    (shared, one), (others, other) = (declared(launch.kernel.body) for launch in (first, second))
    given = dict(zip(first.kernel.params, first.arguments, strict=True))
    rest = dict(zip(second.kernel.params, second.arguments, strict=True))
    if shared != others or any(given.get(name, value) is not value for name, value in rest.items()):
        return first, second
    (count, *_), (more, *_) = (cast("Grid", launch.grid) for launch in (first, second))
    body = [
        *shared,
        f"  if (blockIdx.x < {count}) {{",
        *one,
        "  } else {",
        f"    const int block = blockIdx.x - {count};",
        *(line.replace("blockIdx.x", "block") for line in other),
        "  }",
    ]
    arguments = {**given, **rest}
    header = dict.fromkeys((*first.kernel.header, *second.kernel.header))
    kernel = replace(
        first.kernel,
        stem=stem,
        header=tuple(sorted(header, key=lambda line: " at " in line)),  # the user's lines below
        params=tuple(arguments),
        body="\n".join(body),
        helpers=tuple(dict.fromkeys((*first.kernel.helpers, *second.kernel.helpers))),
    )
    reads, writes = (
        tuple(dict.fromkeys((*a, *b)))
        for a, b in ((first.reads, second.reads), (first.writes, second.writes))
    )
    return (Launch(kernel, (count + more, 1, 1), (*arguments.values(),), reads, writes),)


def declared(body: str) -> tuple[list[str], list[str]]:
    """The lines of a body that declare shared memory, and the others, further in."""
    lines = body.strip("\n").split("\n")
    shared = [line for line in lines if line.startswith("  __shared__")]
    return shared, [f"  {line}" if line else "" for line in lines if line not in shared]


class _Forward(HeadKernel):
    """Some rows: what they see, and the logarithms of their sums."""

    stem = "attention"
    reads, writes, cut = ("q", "k", "v"), ("out", "sums"), ("out",)

    def body(self) -> None:
        a, e, t = self.a, self.e, self.tiles
        count, larger = t.rows.each, LARGER[a.sum]
        e.do(f"{self.type} top[{count}], total[{count}] = {{}};")
        t.sums("sum", self.results)
        with t.rows_of_thread():
            e.do(f"top[i] = {self.number(LOWEST)};")
        with self.every_key():
            t.sums("score", self.scores)
            q = self.by_place("q", e.index(self.first), self.own)
            k = self.by_place("k", "first_key", self.other)
            t.accumulate("score", q, k, self.scores, a.d)
            with t.rows_of_thread():
                self.rescale(larger)
            t.accumulate("sum", "weights", self.by_column("v", "first_key"), self.results,
                         self.other)  # fmt: skip
        with t.rows_of_thread():
            self.across("total[i]", "{x} + {y}")
            self.own_place("row")
            with e.braces(f"if (row < {a.rows})"):
                zero, one = self.number(0), self.number(1)
                e.do(f"const {self.type} whole = total[i] == {zero} ? {one} : total[i];")
                self.store("out", "row", "sum[i][j] / whole")
                first = f" && {e.index(self.column)} == 0" if self.column.terms else ""
                level = f"top[i] + {self.compute('log', 'whole')}"
                e.do(f"if (along == 0{first}) {self.names['sums']}[row] = {level};")

    def rescale(self, larger: str) -> None:
        """Make weights of a row's scores, relative to the largest so far."""
        e, t = self.e, self.tiles
        if self.visible():
            self.own_place("row")
        e.do(f"{self.type} upper = top[i];")
        with t.columns_of_thread(self.scores):
            if self.visible():
                self.place("key", "first_key", self.scores, "along", "j")
                e.do(f"const bool visible = {self.visible()};")
                e.do(f"if (!visible) score[i][j] = {self.number(float('-inf'))};")
            e.do(f"upper = {larger}(upper, score[i][j]);")
        self.across("upper", f"{larger}({{x}}, {{y}})")
        e.do(f"const {self.type} scale = {self.compute('exp', 'top[i] - upper')};")
        e.do("top[i] = upper;")
        e.do("total[i] = total[i] * scale;")
        with t.columns_of_thread(self.results):
            e.do("sum[i][j] = sum[i][j] * scale;")
        with t.columns_of_thread(self.scores):
            e.do(f"const {self.type} weight = {self.compute('exp', 'score[i][j] - upper')};")
            e.do("total[i] = total[i] + weight;")
            self.weigh("weight")


class _OfQueries(HeadKernel):
    """Some rows: the adjoints of their queries."""

    stem = "attention_of_queries"
    reads, writes, cut = ("q", "k", "v", "sums", "dout", "mean"), ("dq",), ("dq",)

    def body(self) -> None:
        a, e, t = self.a, self.e, self.tiles
        count = t.rows.each
        e.do(f"{self.type} level[{count}], average[{count}];")
        t.sums("sum", self.results)
        with t.rows_of_thread():
            self.own_place("row")
            for name, source in (("level", "sums"), ("average", "mean")):
                test = f"row < {a.rows} ? " if a.rows % self.own else ""
                rest = f" : {self.number(0)}" if test else ""
                e.do(f"{name}[i] = {test}{self.names[source]}[row]{rest};")
        with self.every_key():
            t.sums("score", self.scores)
            t.sums("less", self.scores)
            first = e.index(self.first)
            for name, rows, keys, length in (("score", "q", "k", a.d), ("less", "dout", "v", a.e)):
                left, right = (rows, first, self.own), (keys, "first_key", self.other)
                t.accumulate(name, self.by_place(*left), self.by_place(*right), self.scores, length)
            with t.rows_of_thread(), t.columns_of_thread(self.scores):
                if self.visible():
                    self.own_place("row")
                    self.place("key", "first_key", self.scores, "along", "j")
                    e.do(f"const bool visible = {self.visible()};")
                weight = self.compute("exp", "score[i][j] - level[i]")
                self.weigh(self.if_visible(f"{weight} * (less[i][j] - average[i])"))
            t.accumulate("sum", "weights", self.by_column("k", "first_key"), self.results,
                         self.other)  # fmt: skip
        with t.rows_of_thread():
            self.own_place("row")
            with e.braces(f"if (row < {a.rows})"):
                self.store("dq", "row", "sum[i][j]")


class _OfKeys(HeadKernel):
    """Some keys: the adjoints of them and of their values."""

    stem = "attention_of_keys"
    reads, writes, cut = ("q", "k", "v", "sums", "dout", "mean"), ("dk", "dv"), ("dk", "dv")
    along = ("s", "rows")

    def body(self) -> None:
        a, e, t = self.a, self.e, self.tiles
        for name in ("sum_of_keys", "sum_of_values"):
            t.sums(name, self.results)
        with self.every_row():
            t.sums("score", self.scores)
            t.sums("less", self.scores)
            first = e.index(self.first)
            for name, keys, rows, length in (("score", "k", "q", a.d), ("less", "v", "dout", a.e)):
                left, right = (keys, first, self.own), (rows, "first_row", self.other)
                t.accumulate(name, self.by_place(*left), self.by_place(*right), self.scores, length)
            with t.columns_of_thread(self.scores):
                self.weights_of_row()
            t.accumulate("sum_of_values", "weights", self.by_column("dout", "first_row"),
                         self.results, self.other)  # fmt: skip
            e.do("__syncthreads();  // all have read the weights")
            with t.columns_of_thread(self.scores), t.rows_of_thread():
                self.weigh("less[i][j]")
            t.accumulate("sum_of_keys", "weights", self.by_column("q", "first_row"), self.results,
                         self.other)  # fmt: skip
        with t.rows_of_thread():
            self.own_place("key")
            with e.braces(f"if (key < {a.s})"):
                self.store("dk", "key", "sum_of_keys[i][j]")
                self.store("dv", "key", "sum_of_values[i][j]")

    @contextmanager
    def every_row(self) -> Generator[None]:
        """A loop over the tiles of the rows that see any key of the block."""
        a, begin = self.a, "0"
        if a.causal:
            query = f"max(0, {shifted(self.e.index(self.first), a.t - a.s)})"
            begin = f"{query} * {a.g} / {self.other} * {self.other}"
        head = f"for (int first_row = {begin}; first_row < {a.rows}; first_row += {self.other})"
        with self.e.braces(head):
            yield

    def weights_of_row(self) -> None:
        """Make weights of a row's scores, and of them what changes the scores."""
        a, e, zero = self.a, self.e, self.number(0)
        self.place("row", "first_row", self.scores, "along", "j")
        for name, source in (("level", "sums"), ("average", "mean")):
            test = f"row < {a.rows} ? " if a.rows % self.other else ""
            rest = f" : {zero}" if test else ""
            e.do(f"const {self.type} {name} = {test}{self.names[source]}[row]{rest};")
        with self.tiles.rows_of_thread():
            if self.visible():
                self.own_place("key")
                e.do(f"const bool visible = {self.visible()};")
            weight = self.if_visible(self.compute("exp", "score[i][j] - level"))
            e.do(f"const {self.type} weight = {weight};")
            e.do(f"less[i][j] = {self.if_visible('weight * (less[i][j] - average)')};")
            self.weigh("weight")
