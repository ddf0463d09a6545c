"""What making a computer emits, and how long it serves: published figures, each with its range.

Published figures of one kind of machine differ by a factor of two to five, so a number here is
three: the lowest and the highest that a source defends, and a typical one. Arithmetic keeps them
apart, and what comes of it has its range too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lantern.errors import ArgumentError

__all__ = ["FIGURES", "Figure", "Range"]


@dataclass(frozen=True)
class Range:
    """A quantity that is known within bounds, none of them negative.

    Args:
        low, typical, high: in this order.

    Raises:
        ArgumentError: out of order, negative or not finite.

    Example:
        >>> Range(1.0, 2.0, 4.0) / Range(1.0, 2.0, 2.0) + 1.0
        Range(low=1.5, typical=2.0, high=5.0)
    """

    low: float
    typical: float
    high: float

    def __post_init__(self) -> None:
        if not (0 <= self.low <= self.typical <= self.high and math.isfinite(self.high)):
            raise ArgumentError(
                f"a range from {self.low} by {self.typical} to {self.high}: expected finite "
                "numbers of which none is negative, in ascending order"
            )

    @staticmethod
    def of(value: Range | float) -> Range:
        """A number as a range that is no wider than it."""
        return value if isinstance(value, Range) else Range(value, value, value)

    def __add__(self, other: Range | float) -> Range:
        o = Range.of(other)
        return Range(self.low + o.low, self.typical + o.typical, self.high + o.high)

    def __mul__(self, other: Range | float) -> Range:
        o = Range.of(other)
        return Range(self.low * o.low, self.typical * o.typical, self.high * o.high)

    def __truediv__(self, other: Range | float) -> Range:
        o = Range.of(other)
        return Range(self.low / o.high, self.typical / o.typical, self.high / o.low)


@dataclass(frozen=True)
class Figure(Range):
    """A published quantity.

    Attributes:
        unit: of the three numbers.
        source: where each of them stands.
    """

    unit: str
    source: str


KG, YEARS, SHARE = "kg CO2e", "years", "share"
FIGURES: dict[str, Figure] = {
    "a laptop": Figure(
        150, 200, 500, KG,
        "O'Connell & Stutz, Product carbon footprint assessment of Dell laptop (2010): 300 to 400 "
        "kg over four years of life, about half of it manufacturing; high: the largest total of "
        "business laptops in Boavizta's database, 280 (150 to 500)",
    ),
    "a desktop": Figure(
        210, 350, 900, KG,
        "EcoDiag, CNRS EcoInfo, devices.js: desktop 350; 210 the smallest (OptiPlex Micro), 900 a "
        "workstation (Mac Pro)",
    ),
    "a server": Figure(
        462, 1000, 2500, KG,
        "low: BoaviztAPI, platform_compute_medium, embedded 900 (462 to 2089); typical: Cloud "
        "Carbon Coefficients, a rack server of one socket, 1000, which is also what Wu et al., "
        "Sustainable AI (arXiv 2111.00364, embodied carbon footprint), take for a system without "
        "GPUs: half of the 2000 with them, after a Mac Pro; high: Luccioni et al., Estimating the "
        "carbon footprint of BLOOM (JMLR 2023, section 4.1), an HPE ProLiant DL345 Gen10 Plus, "
        "about 2500 without GPUs",
    ),
    "a GPU": Figure(
        60, 150, 318, KG,
        "low: EcoDiag, a powerful GPU 60 (deviation 85 %); typical: Cloud Carbon Coefficients, "
        "150, and Luccioni et al. (2023, section 4.1), who call it a lower bound; high: Chien et "
        "al., Reducing the carbon impact of generative AI inference (HotCarbon 2023), an A100 with "
        "its eighth of the instance 318",
    ),
    "life of a computer": Figure(
        3, 4, 6, YEARS,
        "Wu et al. (2111.00364): 3 to 5 years; Dell and Cloud Carbon Coefficients: 4; Luccioni et "
        "al. (2023, section 4.1): 6, the replacement rate of the supercomputer Jean Zay",
    ),
    "use of a server": Figure(
        0.3, 0.5, 0.85, SHARE,
        "Wu et al. (2111.00364): 30 to 60 % at Facebook; Luccioni et al. (2023, section 4.1): 85 % "
        "at Jean Zay",
    ),
    "use of a computer of one's own": Figure(
        0.18, 0.23, 1.0, SHARE,
        "EcoDiag: 7 or 9 hours of a working day (220 of them a year), or always on",
    ),
    "threads of a server": Figure(
        64, 64, 256, "threads",
        "low and typical: Tailpipe's methodology of embodied emissions, c6gd.metal, 64; high: two "
        "sockets of AMD's EPYC 7763, 64 cores of two threads each",
    ),
}  # fmt: skip
