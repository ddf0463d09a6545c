"""The table of what optimisations save: ways agree, ratios are those of the readings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks import carbon
from benchmarks import llama3_data as data
from benchmarks.carbon import Decoding, Saving, Way, agree, markdown, measured
from lantern.carbon import Reading, grid


class Steady:
    """A meter of work that takes three joules a second of a clock, which only the work advances."""

    grid = grid(3.6e6)  # a gram a joule

    def __init__(self) -> None:
        self.seconds = 0.0

    def read(self, *, fresh: bool = False) -> Reading:
        return Reading(self.seconds, 3 * self.seconds, 3 * self.seconds, "estimated: by hand")


def test_ratios_are_those_of_the_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    meter: Any = Steady()
    monkeypatch.setattr(carbon.time, "perf_counter", lambda: meter.seconds)

    def taking(seconds: float, tokens: int) -> Way:
        def run() -> np.ndarray[Any, Any]:
            meter.seconds += seconds
            return np.ones(2)

        return Way(f"{seconds} s", run, tokens)

    saving = Saving("work", taking(1.0, 1), taking(0.5, 4), 0.0)
    saved = measured(saving, meter, rounds=3, seconds=2.0)
    assert saved.per_token == pytest.approx((3.0, 0.375))
    assert saved.ratio == pytest.approx(8.0) and saved.seconds == pytest.approx(8.0)
    row = markdown([saved], meter).splitlines()[2]
    assert row.startswith("| work: 1.0 s → 0.5 s | 3,000,000 → 375,000 | 3e+06 → 3.75e+05 | ÷ 8.00")


def test_ways_that_differ_are_refused() -> None:
    ways = (Way(str(x), lambda x=x: np.full(2, x), 1) for x in (1.0, 1.1))
    with pytest.raises(AssertionError, match="results differ by 0"):
        agree(Saving("work", *ways, 0.01))


def test_ways_to_write_a_token_agree() -> None:
    writing = Decoding(data.SHAPES["tiny"], 8)
    agree(Saving("cache", writing.again("again"), writing.way("cached"), 1e-4))
    agree(Saving("batch", writing.one_by_one("one", 3), writing.way("all", batch=3), 1e-4))
