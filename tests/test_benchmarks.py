"""The benchmarks run, contenders agree, and the harness refuses those that do not."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import eager_overhead
from benchmarks.harness import TOTAL, Clock, Contender, Workload, measure, validate


def answer(value: float, name: str = "lantern") -> Contender:
    def run(clock: Clock) -> list[np.ndarray]:
        clock.lap("thinking")
        return [np.full(3, value)]

    return Contender(name, run, at_most=2.0)


def test_measures_every_contender_in_every_phase() -> None:
    both = [answer(42.0), answer(42.0, "peer")]
    timings = measure(Workload("w", both, 1, "op", rtol=0.0, rounds=3))
    assert {(t.contender, t.phase) for t in timings} == {
        (name, phase) for name in ("lantern", "peer") for phase in ("thinking", TOTAL)
    }
    assert all(len(t.rounds) == 3 and t.median > 0 for t in timings)
    assert all((t.met is None) == (t.phase != TOTAL) for t in timings)


def test_refuses_contenders_that_disagree() -> None:
    with pytest.raises(AssertionError, match=r"differ by 1, where the largest entry is 42"):
        validate(Workload("w", [answer(42.0), answer(43.0, "peer")], 1, "op", rtol=1e-6))


def test_chains_agree_with_peers() -> None:
    for workload in eager_overhead.workloads(quick=True):
        if workload.count == 1_000:
            validate(workload)
