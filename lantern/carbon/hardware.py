"""The share of a computer's making that a run has used up: embodied emissions, amortised.

    grams = making / (life x use) x seconds x share

A computer serves for some years, and is in use for a share of that time; a second of use carries
its part of what making the computer emitted. Of a machine that others share it carries a share.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from lantern.carbon.figures import FIGURES, Figure, Range
from lantern.errors import ArgumentError

__all__ = ["HARDWARE", "Hardware", "hardware"]

YEAR = 365.25 * 24 * 3600.0
WHOLE = Range(1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Hardware:
    """A computer, as far as its making goes.

    Attributes:
        name: what it is.
        making: kilograms of CO2 equivalents.
        life: years.
        use: the share of its life in which it works.
        share: of it that is ours.
        figures: names of what of `lantern.carbon.FIGURES` it rests on.
    """

    name: str
    making: Range
    life: Range
    use: Range
    share: Range = WHOLE
    figures: tuple[str, ...] = ()

    def embodied(self, seconds: float) -> Range:
        """Grams of CO2 equivalents that so many seconds of work carry.

        Example:
            >>> year = 365.25 * 24 * 3600.0
            >>> plain = Hardware("x", Range.of(100.0), Range.of(4.0), Range.of(0.5))
            >>> plain.embodied(year / 100).typical
            500.0
        """
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ArgumentError(f"{seconds} s of work: expected a finite number, not negative")
        return self.making * 1000.0 / (self.life * self.use) * (seconds / YEAR) * self.share


# Kinds of computers: what they are, the figure of their making, and that of their use.
HARDWARE = {
    "laptop": ("a laptop", "a laptop", "use of a computer of one's own"),
    "desktop": ("a desktop", "a desktop", "use of a computer of one's own"),
    "server": ("a server", "a server", "use of a server"),
    "virtual": ("a share of a server", "a server", "use of a server"),
}


def hardware(kind: str = "auto", *, gpus: int = 0, cpus: int | None = None) -> Hardware:
    """A computer of a kind, with the published figures of its making.

    Args:
        kind: ``"laptop"``, ``"desktop"``, ``"server"``, or ``"virtual"``, a virtual machine that
            has some of a server's threads; ``"auto"`` looks which of them this one is: a virtual
            machine says so, a laptop has a battery, anything else counts as a desktop.
        gpus: how many cards for computing are in it.
        cpus: the threads that a virtual machine has; None counts them.

    Raises:
        ArgumentError: an unknown kind, or a number that cannot be.

    Example:
        >>> laptop = hardware("laptop").embodied(3600.0)  # an hour
        >>> laptop.low < laptop.typical < laptop.high
        True
        >>> hardware("virtual", cpus=2).share.typical
        0.03125
    """
    kind = found() if kind == "auto" else kind
    if kind not in HARDWARE:
        raise ArgumentError(f"hardware {kind!r}: expected one of auto, {', '.join(HARDWARE)}")
    cpus = (os.cpu_count() or 1) if cpus is None else cpus
    if gpus < 0 or cpus < 1:
        raise ArgumentError(f"{gpus} GPUs and {cpus} CPUs: expected 0 or more, and 1 or more")
    name, making, use = HARDWARE[kind]
    names = (making, "life of a computer", use)
    whole: Range = FIGURES[making]
    share = WHOLE
    if kind == "virtual":
        name, names = f"{name} ({cpus} threads)", (*names, "threads of a server")
        share = portion(cpus, FIGURES["threads of a server"])
    if gpus:
        name, names = f"{name} with {gpus} GPUs", (*names, "a GPU")
        whole = whole + FIGURES["a GPU"] * float(gpus)
    return Hardware(name, whole, FIGURES["life of a computer"], FIGURES[use], share, names)


def portion(cpus: int, threads: Figure) -> Range:
    """So many threads of a server's, which are not more than all."""
    part = Range.of(float(cpus)) / threads
    return Range(*(min(1.0, x) for x in (part.low, part.typical, part.high)))


def found(system: Path = Path("/")) -> str:
    """Which kind of computer this is, by what Linux shows of it."""
    try:
        if "hypervisor" in (system / "proc/cpuinfo").read_text(encoding="utf-8"):
            return "virtual"
        batteries = list((system / "sys/class/power_supply").glob("BAT*"))
    except OSError:
        return "desktop"
    return "laptop" if batteries else "desktop"
