"""`checkpoint`: keep the arguments of a computation, not its insides, and run it again.

That is one function without a policy. With one, see `lantern.checkpoint_policies`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from lantern import tree
from lantern.checkpoint_policies import Policy, applied, current_policy, policy_of
from lantern.control import Primitive, Prompt, Reverse, bound, box, unbox
from lantern.declare import declared_rule
from lantern.errors import RuleError, short_traceback
from lantern.forward import Forward
from lantern.places import recording
from lantern.regions import Recording, recorded
from lantern.symbol import Symbol
from lantern.syntax.calls import rewritten
from lantern.tensor import Tensor
from lantern.traces import current_trace
from lantern.transform import vjp

__all__ = ["checkpoint"]

PyTree = Any
_CHANGED = (
    "checkpoint: the function met other tensors in its second run than in its first; it must do "
    "the same whenever it is run"
)


def checkpoint(f: Callable[..., PyTree] | None = None, *, policy: Any = None) -> Any:
    """The same function, with less kept for its derivative, and computed again instead.

    Without a policy, ``f`` runs without differentiation first. Only its arguments, and the tensors
    being differentiated that it closes over, stay alive until the backward half, which runs ``f``
    once more, with differentiation, and unwinds that. This trades one more run of ``f`` for the
    memory of everything between its arguments and its result.

    With a policy it is the loops inside ``f`` (`scan`, `map`, `fori_loop`, `while_loop`), and the
    loops inside these, that keep less: segments of a loop are replayed on the way back. So are
    those of a recursion (`recursive`): the calls at some depths are kept, and no other one. What
    ``f`` computes outside of loops and recursions is kept as usual.

    Derivatives are the same, to any order and under every other transformation.

    Args:
        f: a function of pytrees that does the same whenever it is run. What it computes from
            closed-over tensors alone, without its arguments, is kept as if it stood outside.
            Without it, `checkpoint` is a decorator with a policy.
        policy: ``"sqrt"``: about √n segments of a loop, or of calls inside of each other;
            `lantern.checkpoint_policies.binomial`: a fixed number of states of a loop; a number of
            bytes, or such as ``"64MB"``: what fits into these, or, of a recursion, a first segment
            whose nodes fit into half of them.

    Returns:
        A function with the arguments and the result of ``f``.

    Raises:
        RuleError: the second run met other tensors than the first one.
        ArgumentError: a policy that there is not; or that is for loops, and ``f`` is recursive.
        StagingError: it is called inside of the recursion that it would be for.

    Example:
        >>> import lantern as ln
        >>> block = ln.checkpoint(lambda w, x: ln.sin(w * x))
        >>> print(ln.grad(block)(0.0, 2.0))
        2.0
        >>> @ln.checkpoint(policy="sqrt")
        ... def grown(x):
        ...     return ln.fori_loop(0, 1000, lambda i, x: x + 0.001 * ln.sin(x), x)
        >>> print(f"{float(ln.grad(grown)(0.0)):.4f}")
        2.7169
    """
    if f is None:
        return functools.partial(checkpoint, policy=policy)
    chosen = policy_of(policy)
    return _replayed(f) if chosen is None else _with_policy(f, chosen)


def _with_policy(f: Callable[..., PyTree], policy: Policy) -> Callable[..., PyTree]:
    """``f``, its loops under a policy."""

    @functools.wraps(f)
    def with_policy(*args: PyTree, **kwargs: PyTree) -> PyTree:
        with applied(policy), short_traceback():
            return rewritten(f)(*args, **kwargs)

    return with_policy


def _replayed(f: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """``f``, run again by its backward half."""

    @functools.wraps(f)
    def checkpointed(*args: PyTree, **kwargs: PyTree) -> PyTree:
        leaves, structure = tree.flatten((args, kwargs))
        leaves = [box(x) for x in leaves]
        places = [i for i, x in enumerate(leaves) if type(x) is Tensor]
        given = [leaves[i] for i in places]
        policy = current_policy()

        def run(region: Region, values: Sequence[Any]) -> PyTree:
            """``f`` inside a region, its array arguments given by their values outside of it."""
            inside = list(leaves)
            for i, value in zip(places, values, strict=True):
                inside[i] = Tensor(unbox(value), region)
            again_args, again_kwargs = tree.unflatten(structure, inside)
            with applied(policy), short_traceback():
                return rewritten(f)(*again_args, **again_kwargs)

        first = Region(undifferentiated)
        out = run(first, [undifferentiated(x) for x in given])
        results, out_structure = tree.flatten(out)
        own = [i for i, y in enumerate(results) if type(y) is Tensor and y.prompt is first]
        for i in own:
            results[i] = box(results[i].value)
        known = [i for i in own if has_derivative(results[i])]
        operands = [*given, *first.met]
        wanted = [i for i, x in enumerate(operands) if differentiated(x) and has_derivative(x)]

        def backward(values: Sequence[Tensor], adjoints: Sequence[Tensor]) -> list[Any]:
            """The adjoints of all operands, from their values, by a second run."""

            def again(now: Sequence[Tensor]) -> Callable[..., list[Any]]:
                """The second run, as a function of the operands whose adjoints are wanted."""

                def of_wanted(*xs: Tensor) -> list[Any]:
                    inside = list(now)
                    for i, x in zip(wanted, xs, strict=True):
                        inside[i] = x
                    region = Region(None, inside[len(places) :])
                    ys = tree.leaves(run(region, inside[: len(places)]))
                    if len(region.met) != len(region.others):
                        raise RuleError(_CHANGED)
                    return [box(ys[i].value) for i in known]

                return of_wanted

            def unwound(*given: Tensor) -> tuple[Tensor, ...]:
                now = given[: len(values)]
                return vjp(again(now), *(now[i] for i in wanted))[1](list(given[len(values) :]))

            # In a program the second run is a block of its own: else it would share with the first
            # what the two have in common, which is all.
            run_again = unwound if current_trace() is None else outlined(unwound)
            found = run_again(*values, *adjoints)
            every: list[Any] = [None] * len(values)
            for i, adjoint in zip(wanted, found, strict=True):
                every[i] = adjoint
            return every

        if known and wanted:
            outs = _known[first.linear](
                *(results[i] for i in known), *operands, count=len(known), backward=backward
            )
            for i, y in zip(known, outs, strict=True):
                results[i] = y
        return tree.unflatten(out_structure, results)

    return checkpointed


def _declare(linear: bool) -> Callable[..., Any]:
    """The primitive that has certain results, which are known already, and a backward half.

    The results ride along as operands without an adjoint. The forward half performs the same
    primitive one level down, and so each prompt in turn gets its share, until no prompt that
    differentiates is left and the results themselves are the answer.
    """

    def checkpoint(*values: Any, count: int, backward: Callable[..., list[Any]]) -> Any:
        outs, operands = values[:count], values[count:]
        if any(map(differentiated, operands)):
            outs = perform(*outs, *operands, count=count, backward=backward)
        dzs = yield outs
        return (*(None,) * count, *backward(operands, dzs))

    rule = declared_rule(checkpoint)
    perform = bound(Primitive("checkpoint", None, rule, None, linear, boxed=True))
    return perform


_known = {linear: _declare(linear) for linear in (True, False)}


def outlined(f: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    """A function of Tensors that is performed as a block (`lantern.regions`)."""

    def performed(*given: Tensor) -> tuple[Tensor, ...]:
        from lantern.blocks import call  # blocks are written on primitives, which know checkpoints

        region, results, _ = recorded(f, given)
        block = region.block(results)
        return tuple(box(y) for y in call(block, *given, *region.captures))

    return performed


class Region(Prompt):
    """A prompt that shuts a computation off from the prompts around it.

    A tensor of this prompt holds its value outside. A tensor from outside that meets one has come
    in through a closure. In the first run such tensors are recorded, and ``replace`` says what
    stands for them; in a second one, they are replaced by ``others`` in the order they are met.
    """

    __slots__ = ("linear", "met", "others", "replace", "seen")

    def __init__(self, replace: Callable[[Tensor], Any] | None, others: Sequence[Any] = ()) -> None:
        super().__init__()
        self.replace, self.others = replace, others
        self.met: list[Tensor] = []
        self.seen: dict[int, Any] = {}
        self.linear = True

    def __repr__(self) -> str:
        return "checkpoint"

    def handle(self, prim: Primitive, args: Sequence[Any], params: dict[str, Any]) -> Any:
        if (region := recording.get()) is not None and region.level > self.level:
            return region.handle(prim, args, params)
        self.linear = self.linear and prim.linear
        out = prim.perform(*(self.outside(a) for a in args), **params)
        if prim.boxed:
            self.refuse_captured(prim, out if type(out) is tuple else (out,))
        if type(out) is tuple:
            return tuple(Tensor(unbox(v), self) for v in out)
        return Tensor(unbox(out), self)

    def outside(self, x: Any) -> Any:
        """An operand one level down."""
        if type(x) is Symbol:
            x = Tensor(x)
        if type(x) is not Tensor:
            return x
        # A value of the program around is one from outside too: where a region is recorded in
        # between, it becomes a parameter of that, and the second run may not go past it.
        if x.prompt is self or (x.prompt is None and type(x.value) is not Symbol):
            return x.value
        key = id(x.value) if x.prompt is None else id(x)
        if key not in self.seen:
            count = len(self.met)
            self.met.append(x)  # which also keeps its id from being used again
            if self.replace is not None:
                self.seen[key] = unbox(self.replace(x))
            elif count < len(self.others) and self.others[count].shape == x.shape:
                self.seen[key] = unbox(self.others[count])
            else:
                raise RuleError(_CHANGED)
        return self.seen[key]


def undifferentiated(x: Tensor) -> Tensor:
    """The same value out of every prompt that differentiates; batches stay batches."""
    if x.prompt is None or isinstance(x.prompt, Recording):
        return x
    below = undifferentiated(box(x.value))
    if isinstance(x.prompt, (Reverse, Forward)):
        return below
    return Tensor(unbox(below), x.prompt)


def has_derivative(x: Tensor) -> bool:
    """Whether the dtype is floating."""
    return x.dtype.kind not in "biu"


def differentiated(x: Any) -> bool:
    """Whether some prompt that differentiates holds ``x``, at any level, or may later: what is
    recorded may be differentiated."""
    while type(x) is Tensor and x.prompt is not None:
        if isinstance(x.prompt, (Reverse, Forward, Recording)):
            return True
        x = x.value
    return False
