"""A machine as far as predictions know it."""

from __future__ import annotations

from dataclasses import dataclass

from staging.table import quantity


@dataclass(frozen=True, slots=True)
class Machine:
    """The roofline of a machine, all of its cores together.

    Attributes:
        flops: float32 operations a second at best, a fused multiply-add counted as two.
        bandwidth: how many bytes are within reach, and how many of them come a second; from the
            nearest cache to the memory, whose reach is unlimited.
        threads: how many cores that is.
    """

    flops: float
    bandwidth: tuple[tuple[float, float], ...]
    threads: int = 1

    def rate(self, distance: float) -> float:
        """The bytes a second from where they lie if so many others were touched since."""
        for reach, rate in self.bandwidth:
            if distance <= reach:
                return rate
        return self.bandwidth[-1][1]

    def __str__(self) -> str:
        near = [f"{quantity(r, 'B/s')} within {quantity(n, 'B')}, " for n, r in self.bandwidth[:-1]]
        beyond = quantity(self.bandwidth[-1][1], "B/s")
        return (
            f"{quantity(self.flops, 'FLOP/s')} on {self.threads} threads; "
            f"{''.join(near)}{beyond}{' beyond' if near else ''}"
        )
