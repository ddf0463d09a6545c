"""Whole derivatives out of directional ones: Jacobians, Hessians and linear maps."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from lantern import tree
from lantern.control import box, unbox
from lantern.convert import asarray
from lantern.errors import DifferentiationError, describe
from lantern.primitives.structure import reshape, split
from lantern.syntax.calls import rewritten
from lantern.tensor import Tensor
from lantern.transform import (
    floating,
    grad,
    jvp,
    positions,
    require_tuples,
    result_dtype,
    several,
    split_arguments,
    vjp,
)
from lantern.vectorize import vmap

__all__ = ["hessian", "hvp", "jacfwd", "jacobian", "jacrev", "linearize"]

PyTree = Any
Function = Callable[..., PyTree]


def jacrev(f: Function, argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Function:
    """A function that returns the Jacobian of ``f``, all rows at once by a batch of pullbacks.

    It suits functions with fewer results than arguments; `jacfwd` suits the others.

    Args:
        f: a function whose result is a pytree of floating arrays.
        argnums: the positions of the arguments, pytrees with floating leaves, to differentiate
            with respect to.
        has_aux: whether ``f`` returns (result, auxiliary data).

    Returns:
        A function of the arguments of ``f``. Its result has the structure of the result of ``f``;
        in place of a leaf of shape S stands the structure of the argument (a tuple of those if
        ``argnums`` is a tuple), with a leaf of shape (*S, *T) for each leaf of shape T. With
        ``has_aux`` it is (Jacobian, aux).

    Raises:
        DifferentiationError: a leaf of an argument or of the result is not floating.

    Example:
        >>> import lantern as ln
        >>> print(ln.jacrev(lambda x: x * x)(ln.asarray([1.0, 2.0])))
        [[2. 0.]
         [0. 4.]]
    """

    @functools.wraps(f)
    def jacobian(*args: PyTree, **kwargs: Any) -> PyTree:
        chosen, put = _arguments(f, args, argnums, "jacrev")
        out = vjp(lambda *xs: rewritten(f)(*put(xs), **kwargs), *chosen, has_aux=has_aux)
        _require_floating(out[0], "jacrev")
        leaves, structure = tree.flatten(out[0])
        results = [asarray(y) for y in leaves]
        shapes = [tuple(y.shape) for y in results]
        basis = tree.unflatten(structure, _basis(results))
        rows = vmap(out[1])(basis) if results else ()
        inputs, input_structure = tree.flatten(rows)
        blocks = [_split(x, shapes, 0) for x in inputs]
        jacobians = []
        for i in range(len(results)):
            of_result = tree.unflatten(input_structure, [b[i] for b in blocks])
            jacobians.append(of_result if several(argnums) else of_result[0])
        whole = tree.unflatten(structure, jacobians)
        return (whole, out[2]) if has_aux else whole

    return jacobian


def jacfwd(f: Function, argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Function:
    """A function that returns the Jacobian of ``f``, all columns at once by a batch of `jvp`.

    It suits functions with fewer arguments than results; `jacrev` suits the others. Arguments,
    result and errors are those of `jacrev`.

    Example:
        >>> import lantern as ln
        >>> j = ln.jacfwd(lambda x, y: {"sum": x + y, "product": x * y}, argnums=(0, 1))(2.0, 3.0)
        >>> print(*j["product"])
        3.0 2.0
    """

    @functools.wraps(f)
    def jacobian(*args: PyTree, **kwargs: Any) -> PyTree:
        chosen, put = _arguments(f, args, argnums, "jacfwd")
        leaves, structure = tree.flatten(chosen)
        leaves = [floating(x, "jacfwd", chosen, i) for i, x in enumerate(leaves)]
        primals = tree.unflatten(structure, leaves)

        def along(tangents: PyTree) -> Any:
            out = jvp(
                lambda *xs: rewritten(f)(*put(xs), **kwargs), primals, tangents, has_aux=has_aux
            )
            _require_floating(out[0], "jacfwd")
            return out[1:] if has_aux else (out[1], None)

        basis = tree.unflatten(structure, _basis(leaves))
        columns, aux = vmap(along, out_axes=(-1, None))(basis)
        shapes = [tuple(x.shape) for x in leaves]

        def of_result(column: Tensor) -> PyTree:
            whole = tree.unflatten(structure, _split(column, shapes, column.ndim - 1))
            return whole if several(argnums) else whole[0]

        whole = tree.map(of_result, columns)
        return (whole, aux) if has_aux else whole

    return jacobian


def jacobian(f: Function, argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Function:
    """The Jacobian in reverse mode: `jacrev` under its plain name.

    Example:
        >>> import lantern as ln
        >>> print(ln.jacobian(lambda x: 3 * x)(2.0))
        3.0
    """
    return jacrev(f, argnums, has_aux)


def hessian(f: Function, argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Function:
    """A function that returns the second derivatives of ``f``: forward over reverse mode.

    Args:
        f: a function whose result is a pytree of floating arrays, most often one scalar.
        argnums: the positions of the arguments to differentiate with respect to.
        has_aux: whether ``f`` returns (result, auxiliary data).

    Returns:
        A function of the arguments of ``f``. Its result nests as `jacrev` of `jacfwd` does: result,
        argument, argument; a leaf has the axes of the result and twice those of the argument.

    Example:
        >>> import lantern as ln
        >>> print(ln.hessian(lambda x: ln.sum(x * x * x))(ln.asarray([1.0, 2.0])))
        [[ 6.  0.]
         [ 0. 12.]]
    """
    return jacfwd(jacrev(f, argnums, has_aux), argnums, has_aux)


def hvp(f: Function, primals: tuple[PyTree, ...], tangents: tuple[PyTree, ...]) -> PyTree:
    """The Hessian of ``f`` times a vector, without the Hessian: forward over reverse mode.

    Args:
        f: a function of the primals whose result is one floating scalar.
        primals: a tuple of pytrees with floating leaves.
        tangents: the vector: a tuple of the same structure, shapes and dtypes.

    Returns:
        A pytree like the primal if there is one, a tuple of those if there are several.

    Example:
        >>> import lantern as ln
        >>> print(ln.hvp(lambda x: x * x * x, (2.0,), (1.0,)))
        12.0
    """
    require_tuples("hvp", primals, tangents)
    argnums = 0 if len(primals) == 1 else tuple(range(len(primals)))
    return jvp(grad(f, argnums), primals, tangents)[1]


def linearize(f: Function, *primals: PyTree) -> tuple[PyTree, Function]:
    """The value of ``f`` at ``primals``, and its derivative there as a linear function.

    A continuation is resumed once, so there is nothing that could be kept and run for each
    tangent: each call of the linear function runs ``f`` again in forward mode, with the memory of
    one step. `vmap` of it runs ``f`` once for a whole batch of tangents.

    Args:
        f: a function of the primals; its result is any pytree of Tensors.
        primals: pytrees with floating leaves.

    Returns:
        (result, linear); ``linear(*tangents)`` takes one tangent for each primal, of the same
        structure, shapes and dtypes, and returns the tangent of the result.

    Raises:
        DifferentiationError: a leaf of the primals is not floating.

    Example:
        >>> import lantern as ln
        >>> y, linear = ln.linearize(lambda x: x * x, 3.0)
        >>> print(y, linear(1.0), linear(10.0))
        9.0 6.0 60.0
    """
    leaves, structure = tree.flatten(primals)
    leaves = [floating(x, "linearize", primals, i) for i, x in enumerate(leaves)]
    primals = tree.unflatten(structure, leaves)

    def linear(*tangents: PyTree) -> PyTree:
        return jvp(f, primals, tangents)[1]

    return rewritten(f)(*primals), linear


def _arguments(
    f: Function, args: tuple[PyTree, ...], argnums: int | tuple[int, ...], what: str
) -> tuple[tuple[PyTree, ...], Callable[[tuple[PyTree, ...]], list[PyTree]]]:
    """The arguments at ``argnums``, and a function that puts others in their places."""
    return split_arguments(f, args, positions(argnums, what), what)


def _require_floating(result: PyTree, what: str) -> None:
    """Raise unless every leaf of a result has a derivative."""
    for i, y in enumerate(tree.leaves(result)):
        array = isinstance(y, (bool, int, float, np.ndarray, np.generic, Tensor))
        if not array or result_dtype(y).kind in "biu":
            raise DifferentiationError(
                f"{what}: the result{tree.paths(result)[i]} is {describe(y)}; only floating "
                "results have a derivative. Return others with has_aux."
            )


def _basis(leaves: list[Tensor]) -> list[Tensor]:
    """The unit vectors of the space of all leaves together, as a batch along axis 0."""
    sizes = [x.size for x in leaves]
    basis, start = [], 0
    for x, size in zip(leaves, sizes, strict=True):
        units = np.eye(sum(sizes), size, -start, dtype=x.dtype)
        basis.append(Tensor(units.reshape(sum(sizes), *x.shape)))
        start += size
    return basis


def _split(x: Tensor, shapes: list[tuple[int, ...]], axis: int) -> list[Tensor]:
    """Cut an axis over all elements of leaves into their parts, and give each its leaf's shape."""
    sizes = tuple(int(np.prod(shape, dtype=np.int64)) for shape in shapes)
    parts = split(unbox(x), sizes=sizes, axis=axis)
    return [
        box(reshape(part, shape=(*x.shape[:axis], *shape, *x.shape[axis + 1 :])))
        for part, shape in zip(parts, shapes, strict=True)
    ]
