"""Hares and lynxes: the equations of Lotka and Volterra, and how many there were."""

from __future__ import annotations

import numpy as np

import lantern as ln
from examples.ode.solver import solution
from lantern import Tensor

YEARS = np.arange(1900.0, 1921.0)
# Thousands of pelts: Elton and Nicholson (1942), as in Carpenter (2018), a case study for Stan.
HARES = (30.0, 47.2, 70.2, 77.4, 36.3, 20.6, 18.1, 21.4, 22.0, 25.4, 27.1, 40.3, 57.0, 76.6, 52.3,
         19.5, 11.2, 7.6, 14.6, 16.2, 24.7)  # fmt: skip
LYNXES = (4.0, 6.1, 9.8, 35.2, 59.4, 41.7, 19.0, 13.0, 8.3, 9.1, 7.4, 8.0, 12.3, 19.5, 45.7, 51.1,
          29.7, 15.8, 9.7, 10.1, 8.6)  # fmt: skip
PELTS = np.stack((HARES, LYNXES), axis=1)
NAMES = ("hares grow", "hares are eaten", "lynxes die", "lynxes grow", "hares in 1900",
         "lynxes in 1900")  # fmt: skip
GUESS = np.log((0.4, 0.02, 0.6, 0.02, 35.0, 5.0))


def lotka_volterra(t: Tensor, y: Tensor, rates: Tensor) -> Tensor:
    """Hares u grow, and are eaten when they meet lynxes v, who die, and grow when they meet hares:
    u' = (α - β v) u and v' = (-γ + δ u) v."""
    u, v = y[0], y[1]
    return ln.stack(((rates[0] - rates[1] * v) * u, (rates[3] * u - rates[2]) * v))


def populations(log_params: Tensor, times: Tensor) -> Tensor:
    """Hares and lynxes at each time, from the logarithms of the rates and of the first numbers."""
    params = ln.exp(log_params)
    return solution(lotka_volterra, times, params[4:], params[:4])


def loss(log_params: Tensor, times: Tensor, pelts: Tensor) -> Tensor:
    """The mean square of how far the logarithms of the numbers are off."""
    return ln.mean((ln.log(populations(log_params, times)) - ln.log(pelts)) ** 2)
