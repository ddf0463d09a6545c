"""Two equations: one whose derivative is known in closed form, and one that is a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import lantern as ln
from examples.implicit.solvers import Equation, fixed_point, newton
from lantern import Tensor


def kepler(anomaly: Tensor, eccentricity: Tensor, time: Tensor) -> Tensor:
    """Kepler's equation E - e sin E - M: where is a planet on its ellipse at a time M?"""
    return anomaly - eccentricity * ln.sin(anomaly) - time


def equilibrium(z: Tensor, w: Tensor, x: Tensor) -> Tensor:
    """The layer that is its own input, z = tanh(W z + x) (Bai, Kolter and Koltun 2019)."""
    return ln.tanh(w @ z + x) - z


class Problem(NamedTuple):
    """An equation to solve.

    Attributes:
        name: for people.
        equation: what is to vanish.
        solver: how a root is found.
        start: the first guess.
        params: the parameters, in which the sum of the squares of the root is differentiated.
        exact: from a root and the parameters the derivative with respect to the last of them, if it
            is known in closed form.
    """

    name: str
    equation: Equation
    solver: Callable[..., Tensor]
    start: Tensor
    params: tuple[Tensor, ...]
    exact: Callable[..., np.ndarray] | None = None


def kepler_slope(anomaly: np.ndarray, eccentricity: np.ndarray, time: np.ndarray) -> np.ndarray:
    """d(Σ E²)/dM = 2 E / (1 - e cos E), for a time for each of many planets."""
    return 2 * anomaly / (1 - eccentricity * np.cos(anomaly))


def problems(size: int, seed: int = 0) -> list[Problem]:
    """The equations with ``size`` unknowns, float64."""
    rng = np.random.default_rng(seed)
    times = ln.asarray(np.linspace(0.1, 3.0, size))
    # An orthogonal matrix times 0.9 contracts: fixed-point iteration gains a digit in 22 steps.
    w = ln.asarray(0.9 * np.linalg.qr(rng.normal(size=(size, size)))[0])
    x = ln.asarray(rng.normal(size=size))
    e = ln.asarray(np.float64(0.6))
    return [
        Problem("Kepler, Newton", kepler, newton, times, (e, times), kepler_slope),
        Problem("layer, Newton", equilibrium, newton, ln.zeros_like(x), (w, x)),
        Problem("layer, iteration", equilibrium, fixed_point, ln.zeros_like(x), (w, x)),
    ]
