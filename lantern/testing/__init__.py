"""For users' tests: `check_grads` checks derivatives numerically; `strategies` draws tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lantern import tree
from lantern.errors import describe
from lantern.tensor import Tensor
from lantern.transform import jvp, vjp

__all__ = ["check_grads"]

PyTree = Any
Arrays = list[np.ndarray[Any, Any]]
_NAMES = {"fwd": "forward mode", "rev": "reverse mode"}


def check_grads(
    f: Callable[..., PyTree],
    args: tuple[PyTree, ...],
    order: int = 2,
    modes: Sequence[str] = ("fwd", "rev"),
    eps: float | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    *,
    seed: int = 0,
) -> None:
    """Check the derivatives of ``f`` against finite differences in random directions.

    With v a random direction in the arguments and u one in the result, forward mode must give
    u·(Jv) and reverse mode (uJ)·v, both equal to the numeric derivative of u·f along v. The
    function that computed the derivative is then checked in the same way, with respect to the
    arguments and the direction, until ``order`` is reached: ``order=2`` with both modes covers
    forward over forward, reverse over forward and so on. The idea is that of ``check_grads`` in
    HIPS autograd.

    Args:
        f: a function whose result is a pytree; its leaves that are not floating are left out.
        args: a tuple of pytrees. Floating leaves become float64 and are differentiated; others are
            constant.
        order: how often to differentiate.
        modes: ``"fwd"``, ``"rev"`` or both.
        eps: the step of the differences, a length in the space of all arguments; 1e-5 unless given.
            Four points at ±eps and ±2 eps are evaluated, so the error is of order eps⁴.
        atol: the absolute tolerance, 1e-7 unless given.
        rtol: the tolerance relative to the larger of the two numbers, 1e-6 unless given.
        seed: for the random directions.

    Raises:
        AssertionError: a derivative is wrong: says which mode and order, both numbers, and the
            arguments it is wrong for.
        ValueError: an unknown mode; no floating leaf; or a result that is not float64 although the
            arguments are.

    Example:
        >>> import lantern as ln
        >>> from lantern.testing import check_grads
        >>> check_grads(lambda x, y: ln.sin(x) * y["b"], (1.0, {"b": 2.0}))
        >>> @ln.custom_vjp
        ... def wrong(x):
        ...     dz = yield x * x
        ...     return dz * x
        >>> check_grads(wrong, (3.0,), modes=("rev",))
        Traceback (most recent call last):
            ...
        AssertionError: check_grads(wrong), order 1, reverse mode: ...
    """
    if isinstance(modes, str):
        modes = (modes,)
    for mode in modes:
        if mode not in _NAMES:
            raise ValueError(f"check_grads: mode {mode!r} is not one of {tuple(_NAMES)}")
    if not isinstance(args, tuple):
        args = (args,)
    leaves, structure = tree.flatten(args)
    wanted = [i for i, x in enumerate(leaves) if _is_floating(x)]
    if not wanted:
        raise ValueError(f"check_grads: no floating leaf among the arguments {structure}")
    paths = tree.paths(args)

    def flat(*xs: Tensor) -> list[Tensor]:
        full = list(leaves)
        for i, x in zip(wanted, xs, strict=True):
            full[i] = x
        return [y for y in tree.leaves(f(*tree.unflatten(structure, full))) if _is_floating(y)]

    point = [np.asarray(leaves[i], np.float64) for i in wanted]
    check = _Check(
        getattr(f, "__name__", type(f).__name__),
        tuple(modes),
        1e-5 if eps is None else eps,
        1e-7 if atol is None else atol,
        1e-6 if rtol is None else rtol,
        np.random.default_rng(seed),
    )
    check.derivatives(flat, point, [f"args{paths[i]}" for i in wanted], order, ())


@dataclass
class _Check:
    """The settings of one call of `check_grads`; ``done`` below is the modes taken so far."""

    name: str
    modes: tuple[str, ...]
    eps: float
    atol: float
    rtol: float
    random: np.random.Generator

    def derivatives(
        self,
        f: Callable[..., list[Tensor]],
        point: Arrays,
        paths: list[str],
        order: int,
        done: tuple[str, ...],
    ) -> None:
        """Check the first derivative of ``f`` in every mode, then those of the derivative."""
        if order < 1:
            return
        value = self.evaluate(f, point)
        count = len(point)
        u, v = self.direction(value), self.direction(point)

        def forward(*xs: Tensor) -> list[Tensor]:
            return jvp(f, xs[:count], xs[count:])[1]

        def reverse(*xs: Tensor) -> list[Tensor]:
            return list(vjp(f, *xs[:count])[1](list(xs[count:])))

        for mode in self.modes:
            derived, seed = (forward, v) if mode == "fwd" else (reverse, u)

            def analytic(
                direction: Arrays, derived: Any = derived, forwards: bool = mode == "fwd"
            ) -> float:
                if forwards:
                    return _dot(u, self.evaluate(derived, [*point, *direction]))
                return _dot(self.evaluate(derived, [*point, *u]), direction)

            def numeric(direction: Arrays) -> float:
                return self.difference(f, point, direction, u)

            if not self.agree(analytic(v), numeric(v)):
                raise AssertionError(
                    self.report((*done, mode), analytic, numeric, point, value, v, paths)
                )
            of = "tangent of" if mode == "fwd" else "cotangent of"
            given = paths if mode == "fwd" else [f"result {i}" for i in range(len(value))]
            self.derivatives(
                derived,
                [*point, *seed],
                [*paths, *(f"{of} {p}" for p in given)],
                order - 1,
                (*done, mode),
            )

    def evaluate(self, f: Callable[..., list[Tensor]], point: Arrays) -> Arrays:
        """The results of ``f``, which are float64."""
        results = f(*(Tensor(x[()]) for x in point))
        for i, y in enumerate(results):
            if np.asarray(y).dtype != np.float64:
                raise ValueError(
                    f"check_grads({self.name}): result {i} is {describe(y)}; with arguments in "
                    "float64 all of it must be computed in float64, or differences say nothing"
                )
        return [np.asarray(y) for y in results]

    def direction(self, like: Arrays) -> Arrays:
        """A random direction of length 1, however many elements there are."""
        parts = [self.random.standard_normal(x.shape) for x in like]
        length = np.sqrt(sum(np.sum(p * p) for p in parts))
        return [p / length if length else p for p in parts]

    def difference(
        self, f: Callable[..., list[Tensor]], point: Arrays, direction: Arrays, u: Arrays
    ) -> float:
        """The derivative of u·f along a direction: central differences of fourth order."""

        def slope(step: float) -> float:
            sides = [
                self.evaluate(f, [x + s * step * d for x, d in zip(point, direction, strict=True)])
                for s in (1, -1)
            ]
            ends = zip(*sides, strict=True)
            return _dot(u, [(right - left) / (2 * step) for right, left in ends])

        return (4 * slope(self.eps) - slope(2 * self.eps)) / 3

    def agree(self, a: float, b: float) -> bool:
        """Whether two numbers agree; a number that is not finite agrees with none."""
        return bool(abs(a - b) <= self.atol + self.rtol * max(abs(a), abs(b)))

    def report(
        self,
        modes: tuple[str, ...],
        analytic: Callable[[Arrays], float],
        numeric: Callable[[Arrays], float],
        point: Arrays,
        value: Arrays,
        v: Arrays,
        paths: list[str],
    ) -> str:
        """The message: both numbers for the whole direction, and for its part in each argument."""
        kind = " over ".join(_NAMES[m] for m in reversed(modes))
        lines = [
            f"check_grads({self.name}), order {len(modes)}, {kind}: "
            f"{self.compared(analytic(v), numeric(v))} (atol {self.atol:g}, rtol {self.rtol:g})",
            f"  result: {', '.join(map(describe, value)) or 'no floating leaf'}",
        ]
        for i, (x, path) in enumerate(zip(point, paths, strict=True)):
            part = [d if j == i else np.zeros_like(d) for j, d in enumerate(v)]
            a, n = analytic(part), numeric(part)
            verdict = "agrees" if self.agree(a, n) else f"WRONG: {self.compared(a, n)}"
            lines.append(f"  {path} {describe(x)}: {verdict}")
        return "\n".join(lines)

    def compared(self, a: float, n: float) -> str:
        """Both numbers and how far they are apart."""
        largest = max(abs(a), abs(n))
        error = abs(a - n) / largest if largest else 0.0
        return f"analytic {a:.10g}, numeric {n:.10g}, relative error {error:.2g}"


def _is_floating(x: Any) -> bool:
    """Whether a leaf is a floating number or array; to NumPy, bfloat16 is of kind V."""
    if isinstance(x, (bool, int)):
        return False
    dtype = getattr(x, "dtype", None)
    return isinstance(x, float) if dtype is None else np.dtype(dtype).kind not in "biuOUSmMc"


def _dot(a: Arrays, b: Arrays) -> float:
    return float(sum(np.sum(x * y) for x, y in zip(a, b, strict=True)))
