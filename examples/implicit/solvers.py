"""Solvers: loops of Python that go on until they are close enough."""

from __future__ import annotations

from collections.abc import Callable

import lantern as ln
from lantern import Tensor

Equation = Callable[..., Tensor]
"""What is to vanish: from an unknown array and parameters to an array of the unknown's shape."""


def newton(f: Equation, x: Tensor, *params: Tensor, tolerance: float = 1e-12) -> Tensor:
    """A root of ``f``, from a first guess ``x``, by Newton's method.

    Each step solves the equation's tangent: the Jacobian is n × n for an unknown of n elements.

    Args:
        f: the equation.
        x: the first guess: an array of one axis.
        params: the equation's parameters.
        tolerance: of the largest residual at which it stops.
    """
    residual = f(x, *params)
    while ln.max(abs(residual)) > tolerance:
        jacobian = ln.jacfwd(lambda y: f(y, *params))(x)
        x = x - ln.linalg.solve(jacobian, residual)
        residual = f(x, *params)
    return x


def fixed_point(f: Equation, x: Tensor, *params: Tensor, tolerance: float = 1e-12) -> Tensor:
    """A root of ``f`` by repeating ``x + f(x)``, which converges where that map contracts.

    Args:
        f: the equation.
        x: the first guess.
        params: the equation's parameters.
        tolerance: of the largest residual at which it stops.
    """
    residual = f(x, *params)
    while ln.max(abs(residual)) > tolerance:
        x = x + residual
        residual = f(x, *params)
    return x
