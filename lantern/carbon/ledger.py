"""The account of a run: what each phase of a model's life took, in a file that outlives crashes.

The phases are those of Wu et al., *Sustainable AI* (arXiv 2111.00364): data, experimentation,
training, inference; each has operational and embodied emissions. The file has a line of JSON for
each stretch of work, appended in one write: a run that was killed and resumed adds up, short of
what came after the last line. A run that is given up does not vanish: its training was an
experiment, and a line says so.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from lantern.carbon.figures import Range
from lantern.carbon.hardware import Hardware
from lantern.carbon.hardware import hardware as hardware_of
from lantern.carbon.meter import Meter, Reading
from lantern.errors import ArgumentError, MeterError

__all__ = ["LEDGER", "PHASES", "Account", "Entry", "abandon", "entries", "total"]

PHASES = ("data", "experimentation", "training", "inference")
LEDGER = "carbon.jsonl"  # in the folder of a run
GIVEN_UP = {"given up": True}
# What JSON makes of the types of an entry's fields.
KINDS: dict[str, Any] = {
    "float": (int, float), "int": int, "str": str, "Range": dict, "tuple[str, ...]": list,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A stretch of work, or several of a phase together.

    Attributes:
        phase: one of `PHASES`.
        seconds: of work.
        joules: of electricity.
        operational: grams of CO2 equivalents, of the electricity.
        embodied: grams, of the computer's making.
        tokens: that were read, trained on or written.
        source: how the energy is known.
        grid: whose electricity it was.
        pue: of the data centre.
        hardware: what the work ran on.
        figures: names of what of `lantern.carbon.FIGURES` the embodied emissions rest on.
    """

    phase: str
    seconds: float
    joules: float
    operational: float
    embodied: Range
    tokens: int
    source: str
    grid: str
    pue: float
    hardware: str
    figures: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise ArgumentError(f"phase {self.phase!r}: expected one of {', '.join(PHASES)}")
        for name in ("seconds", "joules", "operational", "tokens"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ArgumentError(f"{name} of {value}: expected a finite number, not negative")

    @property
    def grams(self) -> Range:
        """Operational and embodied emissions together."""
        return self.embodied + self.operational

    def per_million_tokens(self) -> Entry | None:
        """The same work for a million tokens; None where there were no tokens.

        Example:
            >>> work = Entry("training", 60.0, 1e3, 0.1, Range(0, 0, 0), 500_000, "", "", 1.0, "")
            >>> work.per_million_tokens().joules
            2000.0
        """
        if not self.tokens:
            return None
        times = 1e6 / self.tokens
        return dataclasses.replace(
            self, seconds=self.seconds * times, joules=self.joules * times,
            operational=self.operational * times, embodied=self.embodied * times, tokens=1_000_000,
        )  # fmt: skip


def total(work: Sequence[Entry], phase: str) -> Entry:
    """What several stretches took together, counted as one phase.

    Args:
        work: the stretches; those of other phases are counted too.
        phase: of the result.

    Example:
        >>> total([], "training").joules
        0.0
    """

    def listed(values: Sequence[str]) -> str:
        return " | ".join(dict.fromkeys(v for v in values if v))

    embodied = sum((e.embodied for e in work), Range(0.0, 0.0, 0.0))
    return Entry(
        phase=phase,
        seconds=math.fsum(e.seconds for e in work),
        joules=math.fsum(e.joules for e in work),
        operational=math.fsum(e.operational for e in work),
        embodied=embodied,
        tokens=sum(e.tokens for e in work),
        source=listed([e.source for e in work]),
        grid=listed([e.grid for e in work]),
        pue=max((e.pue for e in work), default=1.0),
        hardware=listed([e.hardware for e in work]),
        figures=tuple(dict.fromkeys(f for e in work for f in e.figures)),
    )


class Account:
    """A context in which work is measured and written down, phase by phase.

    Args:
        path: the file, created if missing, appended to otherwise.
        phase: the one that the work begins with.
        meter: a new `Meter`, which the account opens and closes.
        hardware: what the work runs on; None looks.
        every: seconds of work that are lost at most when the process is killed.

    Raises:
        ArgumentError: an unknown phase.
        MeterError: the file is damaged, or there are no readings.

    Example:
        >>> import lantern as ln, os, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = os.path.join(folder.name, ln.carbon.LEDGER)
        >>> with ln.carbon.Account(path, "training", ln.carbon.Meter(grid="SWE")) as account:
        ...     account.add(tokens=4096)  # after each step
        ...     account.enter("inference")
        ...     account.add(tokens=100)
        >>> [(e.phase, e.tokens) for e in ln.carbon.entries(path)]
        [('training', 4096), ('inference', 100)]
        >>> folder.cleanup()
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        phase: str,
        meter: Meter,
        hardware: Hardware | None = None,
        every: float = 30.0,
    ) -> None:
        self.path, self.meter = Path(path), meter
        self.hardware = hardware_of() if hardware is None else hardware
        self._phase, self._tokens, self._every = known(phase), 0, every
        self._counted = Reading(0.0, 0.0, 0.0, "")
        self._written = time.perf_counter()

    def __enter__(self) -> Account:
        entries(self.path)  # a damaged file is refused now, not when the work is done
        self.meter.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.meter.__exit__(kind, problem, traceback)
        if problem is not None and not self.path.parent.exists():
            return  # a run that never came to have a folder has no account
        try:
            self._write(self.meter.read())
        except (MeterError, OSError):
            if problem is None:  # what stopped the work matters more than that it was not measured
                raise

    def add(self, tokens: int = 0) -> None:
        """Count tokens, and write the work down if enough of it has gathered. Cheap."""
        self._tokens += tokens
        if time.perf_counter() - self._written >= self._every:
            now = self.meter.read()
            if now is not self._counted:
                self._write(now)

    def enter(self, phase: str) -> None:
        """End a phase and begin another; staying in the same one changes nothing."""
        if known(phase) != self._phase:
            self._write(self.meter.read(fresh=True))
            self._phase = phase

    def read(self) -> Reading:
        """What was taken since the account was opened, as of the last sample."""
        return self.meter.read()

    def _write(self, now: Reading) -> None:
        """Append what was taken since the last line."""
        self._written = time.perf_counter()
        if not now.source:  # no sample is there yet: the next line has this stretch too
            return
        took = now.since(self._counted)
        append(self.path, Entry(
            phase=self._phase, seconds=took.seconds, joules=took.joules, operational=took.grams,
            embodied=self.hardware.embodied(took.seconds), tokens=self._tokens, source=now.source,
            grid=f"{self.meter.grid.name}, {self.meter.grid.grams:g} g/kWh", pue=self.meter.pue,
            hardware=self.hardware.name, figures=self.hardware.figures,
        ))  # fmt: skip
        self._counted, self._tokens = now, 0


def known(phase: str) -> str:
    """A phase, if it is one."""
    if phase not in PHASES:
        raise ArgumentError(f"phase {phase!r}: expected one of {', '.join(PHASES)}")
    return phase


def append(path: Path, entry: Entry) -> None:
    """Add a line to an account, whole or not at all."""
    _append(path, dataclasses.asdict(entry))


def abandon(path: str | os.PathLike[str]) -> None:
    """Count all work in an account up to now as experimentation: the run is given up, or replaced
    by another in the same folder. Nothing happens where there is none.

    Args:
        path: of the account.

    Example:
        >>> abandon("nowhere/carbon.jsonl")
    """
    if entries(path):
        _append(Path(path), GIVEN_UP)


def _append(path: Path, row: dict[str, Any]) -> None:
    """Add a line behind the last whole one, in one write, and see it to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    with open(path, "ab+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        if whole < size:  # a line that a crash of the system cut off
            file.truncate(whole)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def entries(path: str | os.PathLike[str]) -> list[Entry]:
    """What an account says, oldest first; nothing where there is none.

    A last line that was cut off is left out. What came before a run was given up is
    experimentation.

    Args:
        path: of the account.

    Raises:
        MeterError: the file is not an account, or damaged; the message names the line.

    Example:
        >>> entries("nowhere/carbon.jsonl")
        []
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return []
    found: list[Entry] = []
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
        try:
            row = json.loads(line)
            if row == GIVEN_UP:
                found = [dataclasses.replace(e, phase="experimentation") for e in found]
            else:
                found.append(parsed(row))
        except (ValueError, TypeError, RecursionError) as problem:
            reason = problem.args[0] if problem.args else problem
            raise MeterError(
                f"{path}, line {number}, is no entry of an account: {reason}"
            ) from None
    return found


def parsed(row: Any) -> Entry:
    """An entry from plain data.

    Raises:
        ValueError: it is none.
        TypeError: a part of it is of the wrong kind.
    """
    fields = {f.name: str(f.type) for f in dataclasses.fields(Entry)}
    if not isinstance(row, dict) or row.keys() != fields.keys():
        raise ValueError(f"expected the fields {', '.join(fields)}")
    for name, value in row.items():
        if isinstance(value, bool) or not isinstance(value, KINDS[fields[name]]):
            raise ValueError(f"{name} is {value!r:.40}")
    if not all(isinstance(name, str) for name in row["figures"]):
        raise ValueError("figures are not names")
    whole = {"embodied": Range(**row["embodied"]), "figures": tuple(row["figures"])}
    return Entry(**{**row, **whole})
