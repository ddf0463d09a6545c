"""`batch`: a recursive function of one item becomes a function of many, of different shapes.

The function is recorded once, as one that the items call; it, and the functions that it calls, are
performed by an agenda (`lantern.agendas`): all calls for all items are found first, and equal work
of independent calls is done together.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import lantern as ln
from lantern import tree
from lantern.agendas import planned, prompts_of, recurse
from lantern.batch import Batch
from lantern.control import box
from lantern.convert import asarray
from lantern.errors import ArgumentError, ShapeError, StagingError, UnbatchedWarning
from lantern.kinds import is_number
from lantern.lengths import counted_by, is_table
from lantern.paths import Refusal
from lantern.recursion import recorded_group
from lantern.regions import Recording, Slot, floating
from lantern.stepping import loops_as_calls
from lantern.syntax.calls import rewritten
from lantern.tensor import Tensor
from lantern.traces import current_trace

__all__ = ["batch"]

PyTree = Any


def batch(
    f: Callable[..., PyTree], in_axes: Sequence[int | None] | None = None
) -> Callable[..., PyTree]:
    """A function that applies ``f`` to each item of a list, and stacks the results.

    Items may differ in shape: trees, sequences, graphs, as tables of any length. In a compiled
    function, calls of recursive functions (`lantern.recursive`) for all items are found first; then
    equal work of independent calls is done together, as wide products, on the way there and on the
    way back. Steps of a loop along arrays of an item, `lantern.scan` or ``for``, that compute a
    state and nothing else are such calls too. Results are those of ``f`` on one item after the
    other, but for rounding; that is what happens eagerly.

    Calls can be found first where neither conditions nor the integers that calls are given depend
    on what calls compute. Where they do, a warning says so, and items go one after the other.

    Args:
        f: a function of one item; arguments and result are pytrees.
        in_axes: for each argument 0 where it is a list with an element for each item, None where it
            is the same for all. By default the last one is such a list.

    Returns:
        A function with the arguments of ``f``, lists in place of those that ``in_axes`` says.

    Raises:
        ArgumentError: there are no items, lists differ in length, or ``in_axes`` does not fit.
        ShapeError: items differ in structure or dtype.

    Example:
        >>> import lantern as ln
        >>> def total(w, xs):
        ...     @ln.recursive
        ...     def upto(i):
        ...         return ln.cond(i < 0, lambda: 0.0, lambda: upto(i - 1) + w * xs["x"][i])
        ...     return upto(xs["last"])
        >>> lists = [{"x": ln.asarray([1.0, 2.0]), "last": 1}, {"x": ln.asarray([3.0]), "last": 0}]
        >>> print(ln.batch(total)(2.0, lists))
        [6. 6.]
    """

    @functools.wraps(f)
    def batched(*args: PyTree) -> PyTree:
        axes = (None,) * (len(args) - 1) + (0,) if in_axes is None else tuple(in_axes)
        places = _lists(axes, args)
        count = len(args[places[0]])
        items = [[tree.map(_boxed, args[p][k]) for p in places] for k in range(count)]

        def one(item: Sequence[PyTree]) -> PyTree:
            given = list(args)
            for p, x in zip(places, item, strict=True):
                given[p] = x
            return rewritten(f)(*given) if current_trace() is not None else f(*given)

        if current_trace() is not None and count > 1:
            try:
                return _together(one, items)
            except Refusal as reason:
                warnings.warn(
                    f"batch: {getattr(f, '__name__', f)} takes one item after the other: {reason}",
                    UnbatchedWarning,
                    stacklevel=2,
                )
        results = [one(item) for item in items]
        return tree.map(lambda *ys: ln.stack([asarray(y) for y in ys]), *results)

    return batched


def _boxed(x: Any) -> Any:
    """Numbers and arrays as Tensors."""
    return asarray(x) if is_number(x) else box(x)


def _lists(axes: Sequence[int | None], args: Sequence[PyTree]) -> list[int]:
    """The positions of the arguments that are lists, all of one length."""
    places = [p for p, axis in enumerate(axes) if axis is not None]
    if len(axes) != len(args) or not places or any(axes[p] != 0 for p in places):
        raise ArgumentError(
            f"batch: in_axes is {tuple(axes)} for {len(args)} arguments; it has 0 for each list of "
            "items, of which there is one at least, and None for all else"
        )
    for p in places:
        if not isinstance(args[p], (list, tuple)):
            raise ArgumentError(
                f"batch: argument {p} is {type(args[p]).__name__}; expected a list of items"
            )
    lengths = {len(args[p]) for p in places}
    if len(lengths) > 1 or lengths == {0}:
        shown = ", ".join(str(len(args[p])) for p in places)
        raise ArgumentError(f"batch: the lists have {shown} items; expected equally many, not 0")
    return places


def _together(one: Callable[[Sequence[PyTree]], PyTree], items: Sequence[PyTree]) -> PyTree:
    """Perform a function on all items by one agenda.

    It is recorded on the first item, in a region around its group: what the group captures of this
    differs from item to item.

    Raises:
        Refusal: that is not possible.
    """
    rows, structure = _leaves(items)
    region = Recording()
    places = [i for i, x in enumerate(rows[0]) if type(x) is Tensor]
    inside = list(rows[0])
    for i in places:
        inside[i] = region.parameter(inside[i].shape, inside[i].dtype)
    with region:
        given = tree.unflatten(structure, inside)
        _, none = tree.flatten(((), {}))
        try:
            with loops_as_calls(True), counted_by(inside[i] for i in places):
                group, captures, signature = recorded_group(lambda: one(given), [], none)
        except StagingError as problem:  # which comes again, if it is not because of the batch
            raise Refusal(str(problem)) from None
    own = [x for x in captures if type(x) is Tensor and x.prompt is region]
    block = region.block(own)
    made = [block(*(row[i] for i in places), *region.captures) for row in rows]
    each = dict(zip(map(id, own), zip(*made, strict=True), strict=True))
    differs = _dependent(region)
    values: list[Any] = []
    mapped: list[bool] = []
    for x in captures:
        some = each.get(id(x), (x,))
        mapped.append(id(x) in each and x.mark in differs)
        values += some if mapped[-1] else some[:1]
        if mapped[-1]:
            _check_alike(some)
    if any(type(p) is Batch for x in values for p in prompts_of(x)):
        raise Refusal("it runs inside ln.vmap")
    plan = planned(group, 0, len(rows), mapped)
    found = recurse(*values, plan=plan)
    return tree.unflatten(signature.structure, [box(y) for y in found])


def _leaves(items: Sequence[PyTree]) -> tuple[list[list[Any]], tree.Structure]:
    """The leaves of each item, and the structure of all."""
    rows: list[list[Any]] = []
    structures: list[tree.Structure] = []
    for item in items:
        leaves, structure = tree.flatten(item)
        rows.append(leaves)
        structures.append(structure)
    for k, (row, structure) in enumerate(zip(rows, structures, strict=True)):
        if structure != structures[0]:
            raise ShapeError(f"batch: item 0 is {structures[0]} and item {k} is {structure}")
        for x, y in zip(rows[0], row, strict=True):
            if type(x) is not Tensor and x != y:
                raise Refusal(f"an element that is no array is {x!r} in item 0, {y!r} in item {k}")
    return rows, structures[0]


def _dependent(region: Recording) -> set[Slot]:
    """What differs from item to item: parameters, and what is computed from them."""
    differs = set(region.params)
    for step in region.steps:
        if not differs.isdisjoint(a for a in step.args if type(a) is Slot):
            differs.update(step.results)
    return differs


def _check_alike(xs: Sequence[Any]) -> None:
    """Refuse arrays of items that are neither of one shape nor tables, or that are differentiated.

    Raises:
        Refusal: they are.
        ShapeError: they differ in dtype.
    """
    first = xs[0]
    for k, x in enumerate(xs):
        tables = is_table(x.shape) and is_table(first.shape)
        if x.dtype != first.dtype:
            raise ShapeError(
                f"batch: an array is {first.dtype} in item 0 and {x.dtype} in item {k}"
            )
        if not tables and (is_table(x.shape) or is_table(first.shape) or x.shape != first.shape):
            raise Refusal(
                f"an array has the shape {first.shape} in item 0 and {x.shape} in item {k}, and "
                "the function needs its length; ln.compile(dynamic=...) lets it go along any"
            )
        if floating(((), x.dtype)) and any(type(p) is not Recording for p in prompts_of(x)):
            raise Refusal("it is differentiated with respect to arrays of the items")
