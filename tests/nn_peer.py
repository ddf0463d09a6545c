"""What the tests of `lantern.nn` share: a comparison with PyTorch in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lantern as ln


def drawn(*shapes: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    """Normal float64 arrays."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s) for s in shapes]


def compare(
    ours: Callable[..., Any], theirs: Callable[..., Any], *arrays: np.ndarray, tol: float = 1e-10
) -> None:
    """Check that two functions of arrays have one value, and one gradient for a random adjoint."""
    torch = pytest.importorskip("torch")
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    expected = theirs(*tensors)
    value, pullback = ln.vjp(ours, *map(ln.asarray, arrays))
    assert value.dtype == np.float64
    np.testing.assert_allclose(np.asarray(value), expected.detach().numpy(), rtol=tol, atol=tol)
    adjoint = np.random.default_rng(9).standard_normal(value.shape)
    expected.backward(torch.tensor(adjoint))
    for i, (g, t) in enumerate(zip(pullback(ln.asarray(adjoint)), tensors, strict=True)):
        wanted = np.zeros(t.shape) if t.grad is None else t.grad.numpy()
        np.testing.assert_allclose(
            np.asarray(g), wanted, rtol=tol, atol=tol, err_msg=f"argument {i}"
        )
