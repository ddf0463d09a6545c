"""Loops over arrays, and functions that a program holds once.

Eagerly a loop is a loop of Python, differentiated like any code. While a program is written its
body is recorded once (`lantern.regions`), and the program holds a loop.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import lantern as ln
from lantern import blocks, plans, tree
from lantern.checkpoint import undifferentiated
from lantern.checkpoint_policies import current_policy
from lantern.control import box
from lantern.convert import asarray
from lantern.errors import (
    ArgumentError,
    DTypeError,
    ShapeError,
    StagingError,
    defined,
    describe,
    short_traceback,
)
from lantern.lengths import Length, as_long
from lantern.primitives.indexing import length_of
from lantern.probing import Unfinished, stand_ins
from lantern.regions import Block, Recording, recorded, union
from lantern.symbol import is_known
from lantern.syntax.calls import rewritten
from lantern.tensor import Tensor
from lantern.traces import current_trace
from lantern.unbounded import beyond_limit

__all__ = ["fori_loop", "map", "outline", "scan", "while_loop"]

PyTree = Any


def scan(
    f: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]],
    init: PyTree,
    xs: PyTree = None,
    length: int | None = None,
    *,
    reverse: bool = False,
) -> tuple[PyTree, PyTree]:
    """Carry a state through a loop over the elements of arrays, and stack what each step returns.

    The same as ::

        carry, ys = init, []
        for x in xs:                    # over the first axis of every leaf
            carry, y = f(carry, x)
            ys.append(y)
        return carry, ln.stack(ys)

    In a compiled function the body is compiled once, whatever the number of steps.

    Args:
        f: from the carry and one element of ``xs`` to the next carry and a result.
        init: the first carry: a pytree of arrays, whose shapes and dtypes every step keeps.
        xs: a pytree of arrays with one element a step along their first axis, or None.
        length: the number of steps; needed where ``xs`` has no leaf.
        reverse: whether to go from the last element to the first; results stay in place.

    Returns:
        The last carry, and the results of the steps stacked along a new first axis.

    Raises:
        ShapeError: a step changes the structure, a shape or a dtype of the carry, or the leaves of
            ``xs`` differ in length.
        ArgumentError: nothing says how many steps there are.

    Example:
        >>> import lantern as ln
        >>> total, sums = ln.scan(lambda c, x: (c + x, c + x), 0.0, ln.asarray([1.0, 2.0, 3.0]))
        >>> print(total, sums)
        6.0 [1. 3. 6.]
    """
    init = tree.map(asarray, init)
    xs = tree.map(asarray, xs)
    count = _length(tree.leaves(xs), length)
    if current_trace() is not None or current_policy() is not None or count == 0:
        return _recorded_scan(rewritten(f), init, xs, count, reverse)
    carry, results = init, []
    for i in reversed(range(count)) if reverse else range(count):
        out = f(carry, tree.map(lambda x, i=i: x[i], xs))
        after, y = _pair(out)
        carry = _same_types("scan", "carry", init, after, f)
        results.append(tree.map(asarray, y))
    if reverse:
        results.reverse()
    return carry, tree.map(lambda *ys: ln.stack(ys), *results)


def map(f: Callable[[PyTree], PyTree], xs: PyTree) -> PyTree:
    """Apply a function to each element along the first axis, and stack the results.

    The elements are independent of each other: a compiled function divides them among threads.
    `lantern.vmap` computes all of them at once instead, which takes more memory.

    Args:
        f: a function of one element.
        xs: a pytree of arrays of one length along their first axis.

    Returns:
        The results, stacked along a new first axis.

    Raises:
        ShapeError: the leaves of ``xs`` differ in length.

    Example:
        >>> import lantern as ln
        >>> print(ln.map(lambda x: ln.sum(x * x), ln.asarray([[1.0, 2.0], [3.0, 4.0]])))
        [ 5. 25.]
    """
    return scan(lambda _, x: (None, rewritten(f)(x)), None, xs)[1]


def fori_loop(
    lower: int, upper: int, body: Callable[[Tensor, PyTree], PyTree], init: PyTree
) -> Any:
    """Carry a state through a loop over the integers from ``lower`` up to ``upper``.

    Args:
        lower: the first integer.
        upper: the one behind the last.
        body: from an integer (int64, shape ()) and the state to the next state.
        init: the first state: a pytree of arrays, whose shapes and dtypes every step keeps.

    Returns:
        The state after the last step.

    Raises:
        ShapeError: a step changes the structure, a shape or a dtype of the state.

    Example:
        >>> import lantern as ln
        >>> print(ln.fori_loop(1, 5, lambda i, product: product * i, 1))
        24
    """
    init = tree.map(asarray, init)
    try:
        if type(upper) is Length and lower == 0:
            return _counted_loop(upper, body, init)
        numbers = ln.arange(lower, max(lower, upper))
        return scan(lambda state, i: (rewritten(body)(i, state), None), init, numbers)[0]
    except Unfinished as signal:
        carry, structure = tree.flatten(init)
        return tree.unflatten(structure, stand_ins(signal, carry))


def _counted_loop(length: Any, body: Callable[[Tensor, PyTree], PyTree], init: PyTree) -> PyTree:
    """`fori_loop` from 0 to a length that is known only when the program runs."""

    def step(state: PyTree, _: None) -> tuple[PyTree, None]:
        i, inner = state
        return (i + 1, rewritten(body)(i, inner)), None

    return scan(step, (np.int64(0), init), length=length)[0][1]


def while_loop(
    cond_fun: Callable[[PyTree], Any],
    body_fun: Callable[[PyTree], PyTree],
    init: PyTree,
    *,
    limit: int | None = None,
) -> PyTree:
    """Carry a state through a loop that goes on while a condition holds.

    The same as ::

        state = init
        while cond_fun(state):
            state = body_fun(state)
        return state

    It is differentiated in both modes, to any order, however many steps it takes: each step saves
    for the way back what that reads. Under `lantern.vmap` each element takes its own number of
    steps.

    Args:
        cond_fun: from the state to a boolean, shape ().
        body_fun: from the state to the next one.
        init: the first state: a pytree of arrays, whose shapes and dtypes every step keeps.
        limit: after how many steps a further one is an error, for a loop that may not end; None:
            there is no limit. Ctrl-C stops a compiled loop too.

    Returns:
        The first state for which the condition does not hold.

    Raises:
        ShapeError: a step changes the structure, a shape or a dtype of the state.
        DTypeError: the condition is not a boolean of shape ().
        LimitError: the condition still holds after ``limit`` steps.
        FrameMemoryError: a compiled loop has no memory left for what its steps save for the way
            back; `lantern.checkpoint` bounds that.
        ArgumentError: ``limit`` is negative.

    Example:
        >>> import lantern as ln
        >>> def root(a):                                   # Newton's method
        ...     better = lambda x: (x + a / x) / 2
        ...     return ln.while_loop(lambda x: ln.abs(x * x - a) > 1e-6, better, a)
        >>> print(root(4.0))
        2.0
        >>> doubled = lambda x: ln.while_loop(lambda x: x < 9, lambda x: 2 * x, x)
        >>> print(ln.grad(doubled)(3.0))
        4.0
    """
    if limit is not None and limit < 0:
        raise ArgumentError(f"while_loop: limit {limit}; expected 0 or more, or None")
    state, count = tree.map(asarray, init), 0
    while current_trace() is None and current_policy() is None:
        going = undifferentiated(_predicate(cond_fun(state)))
        if not is_known(going):
            break
        if not going:
            return state
        if count == limit:
            raise beyond_limit(count)
        state = _same_types("while_loop", "state", state, body_fun(state), body_fun)
        count += 1
    rest = None if limit is None else limit - count
    return _recorded_while(rewritten(cond_fun), rewritten(body_fun), state, rest)


def _predicate(going: Any) -> Tensor:
    going = asarray(going)
    if going.shape != () or going.dtype.kind != "b":
        raise DTypeError(f"while_loop: the condition is {describe(going)}; expected bool[]")
    return going


def _recorded_while(
    cond_fun: Callable[[PyTree], Any],
    body_fun: Callable[[PyTree], PyTree],
    init: PyTree,
    limit: int | None,
) -> PyTree:
    """`while_loop` as a primitive that performs the recorded condition and body."""
    carry, structure = tree.flatten(init)

    def going(*xs: Tensor) -> Tensor:
        return _predicate(cond_fun(tree.unflatten(structure, xs)))

    def step(*xs: Tensor) -> PyTree:
        after = body_fun(tree.unflatten(structure, xs))
        return _same_types("while_loop", "state", init, after, body_fun)

    def both() -> tuple[list[Tensor], Block, Block]:
        """What the condition and the body captured, and these."""
        recordings = [recorded(f, carry) for f in (going, step)]
        captures = union([region for region, _, _ in recordings])
        test, body = (region.block(ys, captures=captures) for region, ys, _ in recordings)
        return captures, test, body

    try:
        captures, test, body = plans.body_recorded(
            both, lambda made: (made[2], len(carry), len(made[0]))
        )
    except Unfinished as signal:
        return tree.unflatten(structure, stand_ins(signal, carry))
    found = plans.while_(test, body, *carry, *captures, carried=len(carry), limit=limit)
    return tree.unflatten(structure, [box(y) for y in found])


def outline(f: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """The same function; a compiled program holds its code once, however often it is called.

    Where the layers of a network are calls of an outlined function, the time to compile does not
    grow with their number. Calls share code if they agree in the shapes and dtypes of arrays and
    in all other arguments. Outside of compiled functions nothing changes.

    Args:
        f: a function of pytrees. Its arguments that are not arrays must be hashable.

    Example:
        >>> import lantern as ln
        >>> layer = ln.outline(lambda w, x: ln.tanh(w * x))
        >>> deep = ln.compile(lambda w, x: layer(w, layer(w, layer(w, x))))
        >>> print(deep(1.0, 0.0))
        0.0
    """

    @functools.wraps(f)
    def outlined(*args: PyTree, **kwargs: PyTree) -> PyTree:
        trace = current_trace()
        if trace is None:
            return f(*args, **kwargs)
        from lantern.staged.fingerprint import Fingerprint  # when something is staged

        leaves, structure = tree.flatten((args, kwargs))
        leaves = [box(x) for x in leaves]
        arrays = [x for x in leaves if type(x) is Tensor]
        shown = tuple((x.shape, x.dtype.name) if type(x) is Tensor else x for x in leaves)
        fingerprint = trace.fingerprints.get(f)
        if fingerprint is None or not fingerprint.unchanged():
            fingerprint = trace.fingerprints[f] = Fingerprint(f)
        key = (fingerprint.key, structure, shown, current_policy())
        if key not in trace.blocks:
            trace.blocks[key] = (*record(f, leaves, structure), fingerprint)
        block, captures, out_structure, _ = trace.blocks[key]
        results = blocks.call(block, *arrays, *captures)
        return tree.unflatten(out_structure, [box(y) for y in results])

    return outlined


def record(
    f: Callable[..., PyTree], leaves: list[Any], structure: Any
) -> tuple[Block, list[Tensor], Any]:
    """A function of these arguments as a block, the tensors it closed over, and the structure of
    its results."""

    def of_leaves(*xs: Any) -> PyTree:
        args, kwargs = tree.unflatten(structure, xs)
        return rewritten(f)(*args, **kwargs)

    region, results, out_structure = recorded(of_leaves, leaves)
    return region.block(results), region.captures, out_structure


def _recorded_scan(
    f: Callable[..., Any], init: PyTree, xs: PyTree, count: int | Length, reverse: bool
) -> tuple[PyTree, PyTree]:
    """`scan` as a primitive that performs the recorded body."""
    carry, structure = tree.flatten(init)
    rows, row_structure = tree.flatten(xs)

    def body() -> tuple[list[Tensor], Block, tree.Structure]:
        """What a step captured, its block, and the structure of its result."""
        region = Recording()
        states = [region.parameter(x.shape, x.dtype) for x in carry]
        parts = [region.parameter(x.shape[1:], x.dtype) for x in rows]
        with short_traceback(), region:
            out = f(tree.unflatten(structure, states), tree.unflatten(row_structure, parts))
            after, y = _pair(out)
            after = tree.leaves(_same_types("scan", "carry", init, after, f))
            results, result_structure = tree.flatten(y)
        block = region.block([*after, *(asarray(v) for v in results)], len(carry))
        return region.captures, block, result_structure

    captures, block, result_structure = plans.body_recorded(
        body, lambda made: (made[1], len(carry), len(made[0]))
    )
    found = plans.scan(
        block, *steps(count), *carry, *captures, *rows,
        carried=len(carry), captured=len(captures), length=count, reverse=reverse,
    )  # fmt: skip
    outs = [box(v) for v in found]
    return (
        tree.unflatten(structure, outs[: len(carry)]),
        tree.unflatten(result_structure, outs[len(carry) :]),
    )


def steps(count: int | Length) -> list[Any]:
    """The number of steps as a scan takes it, if it is known only when the program runs."""
    return [length_of(as_long(count))] if type(count) is Length else []


def _length(rows: Sequence[Tensor], length: int | None) -> int | Length:
    """The number of steps."""
    for x in rows:
        if x.ndim == 0:
            raise ShapeError(f"scan: {describe(x)} has no first axis to go along")
    counts = {x.shape[0] for x in rows} | ({length} if length is not None else set())
    if len(counts) > 1:
        shown = ", ".join(describe(x) for x in rows)
        given = "" if length is None else f", and length is {length}"
        raise ShapeError(f"scan: the first axes differ in length: {shown}{given}")
    if not counts:
        raise ArgumentError("scan: there are no xs; say how many steps there are by length=")
    (count,) = counts
    if type(count) is not Length and count < 0:
        raise ArgumentError(f"scan: length is {count}")
    return count


def _pair(out: Any) -> tuple[PyTree, PyTree]:
    """What a step returned."""
    if not isinstance(out, tuple) or len(out) != 2:
        raise StagingError(
            f"scan: a step returned {type(out).__name__}; expected a tuple (carry, result), "
            "the result None if there is none"
        )
    return out


def _same_types(
    loop: str, what: str, before: PyTree, after: PyTree, f: Callable[..., PyTree]
) -> PyTree:
    """The carry after a step of ``f``, if it is of the types of the one before."""
    old, structure = tree.flatten(before)
    new, found = tree.flatten(after)
    if found != structure:
        raise ShapeError(
            f"{loop}: the {what} is {structure} before a step{defined(f)} and {found} after it; a "
            "step keeps the structure"
        )
    new = [
        x if isinstance(x, Tensor) else asarray(x, dtype=o.dtype)
        for x, o in zip(new, old, strict=True)
    ]
    for path, x, y in zip(tree.paths(before), old, new, strict=True):
        if x.shape != y.shape or x.dtype != y.dtype:
            raise ShapeError(
                f"{loop}: the {what}{path} is {describe(x)} before a step{defined(f)} and "
                f"{describe(y)} after it; a step keeps shape and dtype: give the first {what} "
                "those, or convert"
            )
    return tree.unflatten(structure, new)
