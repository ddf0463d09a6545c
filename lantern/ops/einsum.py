"""`einsum`: any sum of products, as diagonals, sums and products of matrices two at a time."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lantern.errors import ArgumentTypeError, ShapeError, describe
from lantern.ops.operands import promoted
from lantern.primitives.products import diagonal, matmul
from lantern.primitives.structure import permute, reduce_sum, reshape

__all__ = ["einsum"]

Labels = tuple[
    Any, ...
]  # one for each axis: a letter, or a negative number: an axis of the ellipsis


def einsum(subscripts: Any, /, *operands: Any) -> Any:
    """The sum of products of elements that ``subscripts`` names, in NumPy's notation.

    Args:
        subscripts: a letter for each axis, ``...`` for axes that broadcast, a comma between
            operands, and ``->`` before the result's axes: ``"bqd,bkd->bqk"``. A letter that the
            result lacks is summed over; one repeated in an operand takes a diagonal. Without
            ``->``, the result has the ellipsis and then, in alphabetical order, the letters that
            occur once.
        operands: the arrays. Also ``einsum(x, [0, 1], y, [1, 2], [0, 2])``: a list of numbers (and
            Ellipsis) behind each operand in place of letters, and optionally one for the result.

    Returns:
        the array. Two operands at a time are contracted, those first that leave the least behind;
        each contraction is one product of (stacks of) matrices.

    Raises:
        ShapeError: subscripts that do not fit the operands, or lengths that do not agree.

    Example:
        >>> import lantern as ln
        >>> x = ln.asarray([[1.0, 2.0], [3.0, 4.0]])
        >>> print(ln.einsum("ii", x), ln.einsum("ij,j->i", x, ln.asarray([1.0, 1.0])))
        5.0 [3. 7.]
    """
    if isinstance(subscripts, str):
        inputs, output = _parsed(subscripts)
        arrays = operands
    else:
        arrays, inputs, output = _interleaved((subscripts, *operands))
    if len(arrays) != len(inputs):
        raise ShapeError(
            f"einsum({subscripts!r}): {len(inputs)} operands are named and {len(arrays)} given"
        )
    terms = [
        _Term(x, _labelled(labels, x)) for x, labels in zip(promoted(*arrays), inputs, strict=True)
    ]
    ellipsis = min((n for t in terms for n in t.labels if isinstance(n, int)), default=0)
    result = _result(output, inputs, ellipsis)
    lengths = _lengths(terms, result)
    terms = [_prepared(t, lengths) for t in terms]
    while len(terms) > 1:
        i, j = _next_pair(terms, result, lengths)
        wanted = set(result).union(*(t.labels for k, t in enumerate(terms) if k not in (i, j)))
        y, x = terms.pop(j), terms.pop(i)
        terms.append(_contracted(x, y, wanted, result))
    out = _summed(terms[0], set(result))
    order = tuple(out.labels.index(n) for n in result)
    return out.x if order == tuple(range(len(order))) else permute(out.x, axes=order)


@dataclass
class _Term:
    """An array and the names of its axes."""

    x: Any
    labels: Labels


# Reading the subscripts ---------------------------------------------------------------------------


def _parsed(subscripts: str) -> tuple[list[Labels], Labels | None]:
    """The labels of each operand and of the result; Ellipsis stands among them as itself."""
    text = subscripts.replace(" ", "")
    left, arrow, right = text.partition("->")
    named = [_letters(part, subscripts) for part in left.split(",")]
    return named, _letters(right, subscripts) if arrow else None


def _letters(part: str, subscripts: str) -> Labels:
    head, dots, tail = part.partition("...")
    if not all(c.isascii() and c.isalpha() for c in head + tail):
        raise ShapeError(
            f"einsum({subscripts!r}): {part!r} is not made of letters and at most one '...'"
        )
    return (*head, *((Ellipsis,) if dots else ()), *tail)


def _interleaved(
    arguments: Sequence[Any],
) -> tuple[Sequence[Any], list[Labels], Labels | None]:
    """Operands and lists of numbers by turns; a number n becomes the letter of that place."""

    def letters(numbers: Any) -> Labels:
        return tuple(n if n is Ellipsis else chr(ord("A") + int(n)) for n in numbers)

    pairs = len(arguments) // 2
    if not pairs:
        raise ArgumentTypeError(
            f"einsum of {describe(arguments[0])} alone: expected subscripts first, as 'ij,jk->ik'"
        )
    return (
        arguments[: 2 * pairs : 2],
        [letters(n) for n in arguments[1 : 2 * pairs : 2]],
        letters(arguments[-1]) if len(arguments) % 2 else None,
    )


def _labelled(labels: Labels, x: Any) -> Labels:
    """One label for each axis: those of the ellipsis are …, -2, -1, to align at the right."""
    extra = x.ndim - (len(labels) - (Ellipsis in labels))
    if extra < 0 or (extra and Ellipsis not in labels):
        shown = "".join("..." if n is Ellipsis else n for n in labels)
        raise ShapeError(
            f"einsum: {shown!r} names {len(labels) - (Ellipsis in labels)} axes of {describe(x)}"
        )
    if Ellipsis not in labels:
        return labels
    at = labels.index(Ellipsis)
    return (*labels[:at], *range(-extra, 0), *labels[at + 1 :])


def _result(output: Labels | None, inputs: list[Labels], ellipsis: int) -> Labels:
    counts = Counter(n for labels in inputs for n in labels if n is not Ellipsis)
    dots = tuple(range(ellipsis, 0))
    if output is None:
        return (*dots, *sorted(n for n, k in counts.items() if k == 1))
    letters = [n for n in output if n is not Ellipsis]
    if len(set(letters)) < len(letters) or not set(letters) <= set(counts):
        raise ShapeError(
            f"einsum: the result's axes {''.join(letters)!r} must be different letters of the "
            f"operands, which have {''.join(counts)!r}"
        )
    if dots and Ellipsis not in output:
        raise ShapeError(
            "einsum: the axes behind '...' have no place in the result; write '...' after '->'"
        )
    at = output.index(Ellipsis) if Ellipsis in output else 0
    return (*output[:at], *dots, *output[at + 1 :]) if Ellipsis in output else output


def _lengths(terms: list[_Term], result: Labels) -> dict[Any, int]:
    """The length of every label; 1 broadcasts."""
    lengths: dict[Any, int] = {}
    for t in terms:
        for label, n in zip(t.labels, t.x.shape, strict=True):
            known = lengths.setdefault(label, n)
            if known == 1:
                lengths[label] = n
            elif n not in (1, known):
                name = label if isinstance(label, str) else "..."
                shapes = ", ".join(describe(t.x) for t in terms)
                raise ShapeError(f"einsum: axis {name!r} has lengths {known} and {n} in {shapes}")
    return lengths


# Contracting --------------------------------------------------------------------------


def _prepared(t: _Term, lengths: dict[Any, int]) -> _Term:
    """Take the diagonal of repeated labels, and drop the axes that broadcast."""
    x, labels = t.x, t.labels
    while len(set(labels)) < len(labels):
        twice = next(n for n, k in Counter(labels).items() if k > 1)
        i = labels.index(twice)
        j = labels.index(twice, i + 1)
        if x.shape[i] != x.shape[j]:
            raise ShapeError(
                f"einsum: {twice!r} names two axes of {describe(t.x)} of different lengths"
            )
        rest = tuple(k for k in range(x.ndim) if k not in (i, j))
        x = diagonal(permute(x, axes=(*rest, i, j)), offset=0)
        labels = (*(labels[k] for k in rest), twice)
    kept = tuple(k for k, n in enumerate(labels) if x.shape[k] == lengths[n])
    if len(kept) < len(labels):
        x = reshape(x, shape=tuple(x.shape[k] for k in kept))
        labels = tuple(labels[k] for k in kept)
    return _Term(x, labels)


def _next_pair(terms: list[_Term], result: Labels, lengths: dict[Any, int]) -> tuple[int, int]:
    """The pair whose contraction leaves the least behind; of equal ones, that of the least work."""
    if len(terms) == 2:
        return 0, 1

    def size(labels: set[Any]) -> int:
        return math.prod(lengths[n] for n in labels)

    def cost(pair: tuple[int, int]) -> tuple[int, int]:
        a, b = (set(terms[k].labels) for k in pair)
        others = set(result).union(*(t.labels for k, t in enumerate(terms) if k not in pair))
        return size((a | b) & others) - size(a) - size(b), size(a | b)

    return min(itertools.combinations(range(len(terms)), 2), key=cost)


def _summed(t: _Term, wanted: set[Any]) -> _Term:
    axes = tuple(k for k, n in enumerate(t.labels) if n not in wanted)
    if not axes:
        return t
    return _Term(reduce_sum(t.x, axes=axes), tuple(n for n in t.labels if n in wanted))


def _contracted(x: _Term, y: _Term, wanted: set[Any], result: Labels) -> _Term:
    """The product of two terms, summed over the labels that nobody wants any more.

    (batch, rows, both) @ (batch, both, columns): a weight shared by all leading axes is one product
    of two matrices, and batch axes stay apart, so that views reach BLAS without a copy.
    """
    x = _summed(x, wanted | set(y.labels))
    y = _summed(y, wanted | set(x.labels))
    both = [n for n in x.labels if n in y.labels]
    batch = sorted((n for n in both if n in wanted), key=_place(result))
    contracted = [n for n in both if n not in wanted]
    rows = [n for n in x.labels if n not in both]
    columns = [n for n in y.labels if n not in both]
    if not contracted:
        spread = (*batch, *rows, *columns)
        return _Term(_spread(x, spread) * _spread(y, spread), spread)
    if math.prod(y.x.shape) > math.prod(x.x.shape):  # copy the smaller one, if any
        contracted.sort(key=y.labels.index)
    out = matmul(_grouped(x, batch, rows, contracted), _grouped(y, batch, contracted, columns))
    size = dict(zip(x.labels + y.labels, (*x.x.shape, *y.x.shape), strict=True))
    labels = (*batch, *rows, *columns)
    return _Term(reshape(out, shape=tuple(size[n] for n in labels)), labels)


def _place(result: Labels) -> Any:
    """A key that orders labels as in the result, the others behind."""
    return lambda n: result.index(n) if n in result else len(result)


def _grouped(t: _Term, batch: list[Any], first: list[Any], second: list[Any]) -> Any:
    """The axes as (*batch, first, second), the groups merged into one axis each."""
    order = tuple(t.labels.index(n) for n in (*batch, *first, *second))
    x = t.x if order == tuple(range(len(order))) else permute(t.x, axes=order)
    shape = x.shape
    split = len(batch), len(batch) + len(first)
    merged = (math.prod(shape[split[0] : split[1]]), math.prod(shape[split[1] :]))
    new = (*shape[: split[0]], *merged)
    return x if new == shape else reshape(x, shape=new)


def _spread(t: _Term, labels: Labels) -> Any:
    """The axes in the order of ``labels``, with axes of length 1 for those that the term lacks."""
    order = tuple(t.labels.index(n) for n in labels if n in t.labels)
    x = t.x if order == tuple(range(len(order))) else permute(t.x, axes=order)
    present = iter(x.shape)
    shape = tuple(next(present) if n in t.labels else 1 for n in labels)
    return x if shape == x.shape else reshape(x, shape=shape)
