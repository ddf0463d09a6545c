"""Transformations: functions from functions to functions. Each opens a prompt and runs inside."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from lantern import tree
from lantern.collector import relaxed_collector
from lantern.control import Primitive, Reverse, bound, box, unbox
from lantern.convert import asarray
from lantern.declare import declared_rule
from lantern.errors import (
    ArgumentTypeError,
    DifferentiationError,
    ShapeError,
    describe,
    short_traceback,
)
from lantern.forward import Forward, tangent_of
from lantern.primitives.structure import convert
from lantern.ragged import Empty, cleared
from lantern.regions import Recording
from lantern.symbol import Symbol
from lantern.syntax.calls import rewritten
from lantern.tensor import Tensor

PyTree: TypeAlias = Any
Function: TypeAlias = Callable[..., Any]
_INPUT = Primitive("input", None, None)


def vjp(f: Function, *primals: PyTree, has_aux: bool = False) -> Any:
    """The value of ``f`` at ``primals``, and its pullback: the reverse-mode derivative there.

    Args:
        f: a function of the primals; its result is any pytree of Tensors.
        primals: pytrees with floating leaves.
        has_aux: whether ``f`` returns (result, auxiliary data); the latter is not differentiated.

    Returns:
        (result, pullback), or (result, pullback, aux). ``pullback(cotangent)``, the cotangent of
        the result's structure, shapes and dtypes, returns a tuple of one pytree for each primal. A
        continuation is resumed once: the first call resumes the rules that are suspended, each
        further call runs ``f`` again first.

    Raises:
        DifferentiationError: a leaf of the primals is not of a floating dtype.

    Example:
        >>> import lantern as ln
        >>> y, pullback = ln.vjp(lambda a, b: a * b, 2.0, 3.0)
        >>> print(y, *pullback(1.0))
        6.0 3.0 2.0
    """
    leaves, structure = tree.flatten(primals)
    leaves = [floating(x, "vjp", primals, i) for i, x in enumerate(leaves)]

    def run() -> tuple[Reverse, list[Tensor], list[Any], tree.Structure, Any]:
        prompt = Reverse()
        variables = [prompt.variable(unbox(x)) for x in leaves]
        with relaxed_collector(), short_traceback(), prompt:
            out = rewritten(f)(*tree.unflatten(structure, variables))
        out, aux = pair(out, "vjp") if has_aux else (out, None)
        outs, out_structure = tree.flatten(out)
        return prompt, variables, outs, out_structure, tree.map(lambda a: released(a, prompt), aux)

    prompt, variables, outs, out_structure, aux = run()
    values = [released(y, prompt) for y in outs]
    kept: list[Any] = [(prompt, variables, outs)]
    del prompt, variables, outs

    def pullback(cotangent: PyTree) -> tuple[PyTree, ...]:
        cotangents = like_result(cotangent, values, out_structure)
        try:
            prompt, variables, outs = kept.pop()  # atomic: only one thread takes it
        except IndexError:
            prompt, variables, outs, *_ = run()
        for y, ct in zip(outs, cotangents, strict=True):
            if type(y) is Tensor and y.prompt is prompt:
                prompt.accumulate(y.mark, ct, _INPUT)
        del outs
        with relaxed_collector():
            prompt.unwind()
        return tree.unflatten(structure, [adjoint(prompt, v) for v in variables])

    value = tree.unflatten(out_structure, values)
    return (value, pullback, aux) if has_aux else (value, pullback)


def adjoint(prompt: Reverse, variable: Tensor) -> Tensor:
    """What arrived at a variable, as a Tensor; zeros where nothing did."""
    found = prompt.adjoint_of(variable)
    if found is None:
        found = cleared(variable.shape, variable.dtype)
    return box(found if isinstance(found, (Tensor, Symbol, Empty)) else np.asarray(found)[()])


def value_and_grad(
    f: Function, argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Function:
    """A function that returns ``f``'s value and its gradient.

    Args:
        f: a function whose result is one floating scalar (with ``has_aux``, a pair of that and
        anything).
        argnums: the positions of the arguments, pytrees with floating leaves, to differentiate
        with respect to.
        has_aux: whether ``f`` returns (scalar, auxiliary data).

    Returns:
        A function of the arguments of ``f``. It returns (value, gradient), or ((value, aux),
        gradient); the gradient has the structure of the argument, or is a tuple of those if
        ``argnums`` is a tuple.

    Raises:
        ShapeError: the result of ``f`` is not a scalar.
        DifferentiationError: the result or a leaf of an argument is not of a floating dtype.

    Example:
        >>> import lantern as ln
        >>> value, gradient = ln.value_and_grad(lambda x: ln.sum(x * x))(ln.asarray([1.0, 2.0]))
        >>> print(value, gradient)
        5.0 [2. 4.]
    """
    numbers = positions(argnums, "grad")

    @functools.wraps(f)
    def value_and_gradient(*args: PyTree, **kwargs: Any) -> Any:
        chosen, rest = split_arguments(f, args, numbers, "grad")
        prompt = Reverse()
        leaves, structure = tree.flatten(chosen)
        variables = [
            prompt.variable(unbox(floating(x, "grad", chosen, i))) for i, x in enumerate(leaves)
        ]
        with relaxed_collector(), short_traceback(), prompt:
            out = rewritten(f)(*rest(tree.unflatten(structure, variables)), **kwargs)
            value, aux = pair(out, "value_and_grad") if has_aux else (out, None)
            value = scalar(value)
            if type(value) is Tensor and value.prompt is prompt:
                one = np.ones((), value.dtype)[()]
                prompt.accumulate(value.mark, one, _INPUT)
            value = released(value, prompt)
            aux = tree.map(lambda a: released(a, prompt), aux)
            del out
            prompt.unwind()
        gradients = tree.unflatten(structure, [adjoint(prompt, v) for v in variables])
        gradient = gradients if several(argnums) else gradients[0]
        return ((value, aux), gradient) if has_aux else (value, gradient)

    return value_and_gradient


def grad(f: Function, argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Function:
    """A function that returns the gradient of ``f``.

    Arguments and errors are those of `value_and_grad`.

    Returns:
        A function of the arguments of ``f`` that returns the gradient, or (gradient, aux).

    Example:
        >>> import lantern as ln
        >>> def power(x, n):                       # any Python: here, recursion
        ...     return x if n == 1 else x * power(x, n - 1)
        >>> print(ln.grad(power)(2.0, 3), ln.grad(ln.grad(power))(2.0, 3))
        12.0 12.0
    """
    with_value = value_and_grad(f, argnums, has_aux)

    @functools.wraps(f)
    def gradient(*args: PyTree, **kwargs: Any) -> Any:
        value, g = with_value(*args, **kwargs)
        return (g, value[1]) if has_aux else g

    return gradient


def jvp(
    f: Function, primals: tuple[PyTree, ...], tangents: tuple[PyTree, ...], has_aux: bool = False
) -> Any:
    """The value of ``f`` and its derivative in a direction: forward mode.

    Args:
        f: a function of the primals.
        primals: a tuple of pytrees with floating leaves.
        tangents: the direction: the same structure, shapes and dtypes.
        has_aux: whether ``f`` returns (result, auxiliary data).

    Returns:
        (result, tangent of the result), or (result, tangent, aux). Memory is that of one step: no
        trace is kept.

    Raises:
        ShapeError: a tangent has another shape than its primal.
        TypeError: the primals or the tangents are not a tuple.
        DifferentiationError: a leaf is not floating, or a rule is not known to be linear in its
        adjoint.

    Example:
        >>> import lantern as ln
        >>> print(*ln.jvp(lambda x: x * x, (3.0,), (1.0,)))
        9.0 6.0
    """
    require_tuples("jvp", primals, tangents)
    leaves, structure = tree.flatten(tuple(primals))
    directions, direction_structure = tree.flatten(tuple(tangents))
    if structure != direction_structure:
        raise ShapeError(f"jvp: primals are {structure} and tangents {direction_structure}")
    prompt = Forward()
    variables = []
    for i, (x, t) in enumerate(zip(leaves, directions, strict=True)):
        x = floating(x, "jvp", primals, i)
        variables.append(Tensor(unbox(x), prompt, unbox(matching(t, x, "jvp, tangent"))))
    with short_traceback():
        out = rewritten(f)(*tree.unflatten(structure, variables))
    out, aux = pair(out, "jvp") if has_aux else (out, None)

    def tangent(y: Any) -> Tensor:
        t = tangent_of(y, prompt)
        return box(cleared(np.shape(released(y, prompt)), result_dtype(y)) if t is None else t)

    result = tree.map(lambda y: released(y, prompt), out), tree.map(tangent, out)
    return (*result, tree.map(lambda a: released(a, prompt), aux)) if has_aux else result


def stop_gradient(x: PyTree) -> PyTree:
    """The same values, constant for every derivative that is being taken.

    Example:
        >>> import lantern as ln
        >>> print(ln.grad(lambda x: x * ln.stop_gradient(x))(3.0))
        3.0
    """

    def stop(leaf: Any) -> Any:
        if type(leaf) is not Tensor or leaf.prompt is None:
            return leaf
        if isinstance(leaf.prompt, (Reverse, Forward)):
            return stop(box(leaf.value))
        if isinstance(leaf.prompt, Recording):  # differentiated later: by a step without a rule
            return convert(leaf, dtype=leaf.dtype)
        return Tensor(unbox(stop(box(leaf.value))), leaf.prompt)

    return tree.map(stop, x)


def custom_vjp(rule: Function | None = None, *, linear: bool = False) -> Any:
    """Decorator: a function with a derivative of your own, written as a generator.

    Before its one ``yield`` the generator computes; the ``yield`` gives the result (a Tensor or a
    tuple of Tensors) and receives the adjoint of the result; it returns one adjoint for each
    positional argument (a Tensor, a function without arguments that computes one if it is wanted,
    or None). Positional arguments are arrays, also where an array is given by its name; other
    keyword arguments are static.

    Args:
        rule: the generator function.
        linear: promise that the adjoints it returns are linear in the one it receives, so that
            forward mode may go through it; otherwise `jvp` refuses.

    Raises:
        RuleError: not exactly one ``yield``, or one inside ``with``, ``try`` or a loop.

    Example:
        >>> import lantern as ln
        >>> @ln.custom_vjp
        ... def clipped(x):                        # the identity, its gradient clipped to [-1, 1]
        ...     dz = yield x
        ...     return ln.clip(dz, -1, 1)
        >>> print(ln.grad(lambda x: 5 * clipped(x))(2.0))
        1.0
    """
    if rule is None:
        return functools.partial(custom_vjp, linear=linear)
    perform = bound(
        Primitive(rule.__name__, None, declared_rule(rule, rewritten), None, linear, boxed=True),
        rule,
    )

    parameters = [
        p for p in inspect.signature(rule).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    names = {p.name for p in parameters}

    @functools.wraps(rule)
    def call(*args: Any, **static: Any) -> Any:
        named = {n for n in names & static.keys() if isinstance(static[n], (Tensor, np.ndarray))}
        while named and len(args) < len(parameters):
            p = parameters[len(args)]
            if p.name not in static and p.default is p.empty:
                break  # it is missing, as calling the rule will say
            args = (*args, static.pop(p.name, p.default))
            named.discard(p.name)
        return perform(*(a if type(a) is Tensor else asarray(a) for a in args), **static)

    del call.__wrapped__  # what stands behind it is a generator, and calling it gives a Tensor
    return call


# Arguments and results.


def floating(x: Any, what: str, whole: PyTree, position: int) -> Tensor:
    """A leaf as a Tensor, or an error that names its pytree path."""
    if type(x) is not Tensor:
        if not isinstance(x, (bool, int, float, np.ndarray, np.generic)):
            raise DifferentiationError(
                f"{what}: the leaf {tree.paths(whole)[position]} is {describe(x)}, not an array. "
                "Choose the arguments with argnums, or close over the others."
            )
        x = asarray(x)
    if x.dtype.kind in "biu":
        raise DifferentiationError(
            f"{what}: the leaf {tree.paths(whole)[position]} is {describe(x)}; derivatives exist "
            "for floating dtypes only. Convert it with ln.astype, or choose others with argnums."
        )
    return x


def several(argnums: Any) -> bool:
    """Whether ``argnums`` asks for a tuple of derivatives."""
    return isinstance(argnums, (tuple, list))


def positions(argnums: int | tuple[int, ...], what: str) -> tuple[int, ...]:
    """``argnums`` as a tuple."""
    given: Any = argnums if several(argnums) else (argnums,)
    try:
        return tuple(map(operator.index, given))
    except TypeError:
        raise ArgumentTypeError(
            f"{what}: argnums is {argnums!r}, expected an integer or a tuple of integers"
        ) from None


def split_arguments(
    f: Function, args: tuple[PyTree, ...], numbers: tuple[int, ...], what: str
) -> tuple[tuple[PyTree, ...], Callable[[tuple[PyTree, ...]], list[PyTree]]]:
    """The chosen arguments, and a function that puts others in their places."""
    for n in numbers:
        if not -len(args) <= n < len(args):
            name = getattr(f, "__name__", "the function")
            raise DifferentiationError(
                f"{what}: argnums {n} of {name}, called with {len(args)} positional arguments"
            )
    places = [n % len(args) for n in numbers]
    if len(set(places)) < len(places):
        raise DifferentiationError(f"{what}: argnums {numbers} names an argument twice")

    def put(chosen: tuple[PyTree, ...]) -> list[PyTree]:
        full = list(args)
        for place, value in zip(places, chosen, strict=True):
            full[place] = value
        return full

    return tuple(args[p] for p in places), put


def require_tuples(what: str, primals: Any, tangents: Any) -> None:
    """Raise unless both are tuples (or lists), one entry for each argument."""
    for name, given in (("primals", primals), ("tangents", tangents)):
        if not isinstance(given, (tuple, list)):
            raise ArgumentTypeError(
                f"{what}: {name} is {describe(given)}, expected a tuple with one entry for each "
                f"argument"
            )


def pair(out: Any, what: str) -> tuple[Any, Any]:
    """The (result, aux) that ``has_aux`` promises."""
    if not isinstance(out, tuple) or len(out) != 2:
        found = type(out).__name__
        raise TypeError(
            f"{what}(has_aux=True): expected (result, aux) of the function, not {found}"
        )
    return out


def scalar(value: Any) -> Any:
    """The loss, or an error if it is not one floating scalar."""
    if type(value) is not Tensor:
        if not isinstance(value, (int, float, np.ndarray, np.generic)):
            raise DifferentiationError(
                f"grad: the function returned {type(value).__name__}, not a scalar Tensor"
            )
        value = asarray(value)
    if value.shape != ():
        raise ShapeError(
            f"grad: the function returned {describe(value)}; a gradient needs a scalar of shape "
            "[]. Reduce it, for example with ln.sum or ln.mean, or use ln.jacrev or ln.vjp."
        )
    if value.dtype.kind in "biu":
        raise DifferentiationError(
            f"grad: the function returned {describe(value)}; only floating results have a "
            f"derivative"
        )
    return value


def released(x: Any, prompt: Any) -> Any:
    """A result without the prompt that is closing."""
    return box(x.value) if type(x) is Tensor and x.prompt is prompt else x


def result_dtype(x: Any) -> Any:
    """The dtype of a result leaf, which may be a Python number."""
    return x.dtype if hasattr(x, "dtype") else asarray(x).dtype


def matching(x: Any, like: Any, what: str) -> Tensor:
    """A tangent or cotangent as a Tensor of the shape and dtype of ``like``."""
    t = x if type(x) is Tensor else asarray(x, dtype=result_dtype(like))
    if t.shape != np.shape(like) if type(like) is not Tensor else t.shape != like.shape:
        raise ShapeError(f"{what} is {describe(t)} for a value {describe(like)}")
    if t.dtype != result_dtype(like):
        raise DifferentiationError(f"{what} is {describe(t)} for a value {describe(like)}")
    return t


def like_result(cotangent: PyTree, values: list[Any], structure: tree.Structure) -> list[Any]:
    """The leaves of a cotangent, one level down, checked against the result."""
    leaves, found = tree.flatten(cotangent)
    if found != structure:
        raise ShapeError(f"pullback: the cotangent is {found}, the result {structure}")
    return [
        unbox(matching(ct, y, "pullback: the cotangent"))
        for ct, y in zip(leaves, values, strict=True)
    ]
