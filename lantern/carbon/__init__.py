"""Energy and emissions of a run: of the electricity while it runs, and of the computer's making.

`Meter` measures a stretch of work; `Account` writes it down, by the phases of a model's life, with
the share of the computer's making that it used up (`hardware`). docs/carbon.md says what the
numbers mean, what they assume, and where each figure stands. Needs the package codecarbon.
"""

from lantern.carbon.figures import FIGURES, Figure, Range
from lantern.carbon.grids import Grid, grid
from lantern.carbon.hardware import HARDWARE, Hardware, hardware
from lantern.carbon.ledger import LEDGER, PHASES, Account, Entry, abandon, entries, total
from lantern.carbon.meter import Meter, Reading

__all__ = [
    "FIGURES",
    "HARDWARE",
    "LEDGER",
    "PHASES",
    "Account",
    "Entry",
    "Figure",
    "Grid",
    "Hardware",
    "Meter",
    "Range",
    "Reading",
    "abandon",
    "entries",
    "grid",
    "hardware",
    "total",
]
