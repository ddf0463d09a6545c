"""Solutions of differential equations by a method that chooses its own steps."""

from __future__ import annotations

from collections.abc import Callable

import lantern as ln
from lantern import Tensor

Field = Callable[..., Tensor]
"""The right-hand side of dy/dt = f(t, y, params): from these to an array like y."""

# Dormand and Prince (1980): seven slopes, of which the last is the first of the next step; the
# result is of fifth order, and `ERROR` its difference from one of fourth order.
NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0)
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
)
RESULT = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
SMALLEST = 1e-10  # step, of the whole interval


def combined(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """The sum of slopes times weights."""
    products = [w * k for w, k in zip(weights, slopes, strict=True) if w]
    return sum(products[1:], products[0])


def integrate(
    f: Field, start: Tensor, end: Tensor, y: Tensor, h: Tensor, params: Tensor,
    relative: float = 1e-6, absolute: float = 1e-8,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The solution at ``end`` of dy/dt = f(t, y, params).

    Its derivative is that of the steps which were made: how long those are is not differentiated.

    Args:
        f: the right-hand side.
        start: the first time.
        end: the last time, after the first.
        y: the solution at the start.
        h: the size of the step to try first.
        params: of the equation.
        relative: the error of a step that is allowed, relative to the solution.
        absolute: what is allowed in addition.

    Returns:
        The solution, and the size of the step to try next.

    Raises:
        AssertionFailedError: steps get too small: the solution blows up, or is too stiff.
    """
    t, slope = start, f(start, y, params)
    while t < end:
        last = end - t <= h
        size = end - t if last else h
        slopes = [slope]
        for node, weights in zip(NODES, STAGES, strict=True):
            slopes.append(f(t + node * size, y + size * combined(weights, slopes), params))
        proposed = y + size * combined(RESULT, slopes)
        slopes.append(f(t + size, proposed, params))
        allowed = absolute + relative * ln.maximum(abs(y), abs(proposed))
        error = ln.stop_gradient(size * combined(ERROR, slopes) / allowed)
        ratio = ln.sqrt(ln.mean(error * error))
        scale = ln.clip(0.9 * ln.maximum(ratio, 1e-9) ** -0.2, 0.2, 5.0)
        if ratio <= 1:
            t, y, slope = end if last else t + size, proposed, slopes[-1]
            h = h if last else size * scale
        else:
            h = size * scale
        assert h > SMALLEST * (end - start), "the steps get too small: is the equation stiff?"
    return y, h


def solution(f: Field, times: Tensor, y: Tensor, params: Tensor) -> Tensor:
    """The solution of dy/dt = f(t, y, params) at each of some times, of which ``y`` is the first.

    Args:
        f: the right-hand side.
        times: ascending.
        y: the solution at the first of them.
        params: of the equation.

    Returns:
        One row for each time.
    """

    def onward(state: tuple[Tensor, Tensor, Tensor], end: Tensor) -> tuple[object, Tensor]:
        start, y, h = state
        y, h = integrate(f, start, end, y, h, params)
        return (end, y, h), y

    first = ln.stop_gradient((times[1] - times[0]) / 10)
    _, rows = ln.scan(onward, (times[0], y, first), times[1:])
    return ln.concat((y[None], rows))
