"""The implicit function theorem, as the backward half of a primitive.

Where f(x, p) = 0 and ∂f/∂x is regular, x is a function of p there, whose derivative needs no
solver: 0 = ∂f/∂x dx + ∂f/∂p dp. Read backward, an adjoint x̄ becomes

    p̄ = -(∂f/∂p)ᵀ u    with    (∂f/∂x)ᵀ u = x̄,

one linear system, which is solved at the solution. Nothing of how that was found is kept
(Christianson 1994; Bai, Kolter and Koltun 2019 train networks so).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lantern as ln
from examples.implicit.solvers import Equation
from lantern import Tensor

Solver = Callable[..., Tensor]


def implicit(solver: Solver, f: Equation) -> Callable[..., Tensor]:
    """The solution of an equation as a function of its parameters, differentiated by the theorem.

    Args:
        solver: finds a root of an equation from a first guess, as those of `solvers` do.
        f: the equation; its unknown has one axis.

    Returns:
        From a first guess, which has no influence on the derivative, and the parameters to a root.
    """

    @ln.custom_vjp
    def solution(start: Tensor, *params: Tensor) -> Any:
        x = solver(f, start, *params)
        dx = yield x
        jacobian = ln.jacrev(lambda y: f(y, *params))(x)
        u = ln.linalg.solve(jacobian.mT, dx)
        _, pullback = ln.vjp(lambda *ps: f(x, *ps), *params)
        return None, *(-dp for dp in pullback(u))

    return solution
