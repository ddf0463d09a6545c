"""The energy that a run takes, and what making it emits, while it runs.

The readings are those of codecarbon's offline tracker: of the counters of the CPU (RAPL) and the
GPU (NVML) where they can be read, of a model of the load elsewhere, which every reading then says.
The tracker takes seconds to find out what machine it is on, so it lives on a thread of its own; it
keeps nothing on disk and asks nothing of the network.
"""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Callable
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any, Literal, NamedTuple

from lantern.carbon.grids import Grid, grid, installed
from lantern.errors import ArgumentError, MeterError

__all__ = ["Meter", "Reading"]

JOULES = 3.6e6  # a kilowatt-hour
# The tracker's own clock never ticks: the meter asks, so that no two threads count the same second.
NEVER = 1e6
# The tracker takes no sample sooner than this after the last one.
PAUSE = 0.06
# What the first sample lasts. Its power stands for the time in which the tracker set itself up.
MOMENT = 0.2
SILENT = "codecarbon's tracker gives no readings"
# How the power of a CPU becomes known, by codecarbon's name of it: whether it is measured, and how.
CPU_MODES = {
    "intel_rapl": (True, "CPU by RAPL"),
    "windows_emi": (True, "CPU by Windows' energy meter"),
    "intel_power_gadget": (True, "CPU by Intel's Power Gadget"),
    "cpu_load": (False, "CPU from its load, {tdp:g} W at most ({model})"),
    "constant": (False, "CPU at half of {tdp:g} W ({model})"),
}


class Reading(NamedTuple):
    """What a run took, from its begin to a moment.

    Attributes:
        seconds: of time.
        joules: of electricity, the share of the data centre's cooling and the like included.
        grams: of CO2 equivalents that making this electricity emitted.
        source: what is measured and what is estimated, and from what; empty before the first
            reading is there.
    """

    seconds: float
    joules: float
    grams: float
    source: str

    @property
    def watts(self) -> float:
        """The mean power."""
        return self.joules / self.seconds if self.seconds > 0 else 0.0

    @property
    def estimated(self) -> bool:
        """Whether a part of it is an estimate."""
        return "estimated" in self.source

    def since(self, earlier: Reading) -> Reading:
        """What was taken since an earlier reading of the same meter.

        Example:
            >>> Reading(3.0, 60.0, 0.01, "x").since(Reading(1.0, 20.0, 0.01, "x")).watts
            20.0
        """
        return Reading(
            self.seconds - earlier.seconds, self.joules - earlier.joules,
            self.grams - earlier.grams, self.source,
        )  # fmt: skip


class Meter:
    """A context in which energy and operational emissions are measured.

    It begins at once; the first reading is there when codecarbon knows the machine, which takes a
    few seconds the first time in a process. What was taken before is counted at the power of that
    first reading. Work in the background is a few milliseconds a second, or a dozen for a process.

    Args:
        grid: where the electricity comes from, as `lantern.carbon.grid` takes it.
        pue: power usage effectiveness: all that the building takes, for each watt of the computer.
            1 at home, 1.1 to 1.6 in a data centre.
        scope: ``"machine"``, or ``"process"`` for the share of this process in load and memory,
            where other programs run beside it. Counters of hardware always tell of the machine.
        cpu_watts: what the CPU takes at full load, where this is known better than codecarbon's
            table knows it; the CPU's power is then estimated from its load.
        interval: seconds between samples.

    Raises:
        ArgumentError: an argument that means nothing, such as an unknown country.
        MeterError: codecarbon is not installed, or gives no readings.

    Example:
        >>> import lantern as ln
        >>> with ln.carbon.Meter(grid="FRA", scope="process") as meter:
        ...     total = sum(range(1_000_000))
        >>> reading = meter.read()
        >>> reading.joules > 0 and reading.grams > 0, reading.estimated
        (True, True)
    """

    def __init__(
        self,
        *,
        grid: str | float = "world",
        pue: float = 1.0,
        scope: Literal["machine", "process"] = "machine",
        cpu_watts: float | None = None,
        interval: float = 1.0,
    ) -> None:
        installed()
        if not (math.isfinite(pue) and pue >= 1):
            raise ArgumentError(f"a PUE of {pue}: it must be a finite number of at least 1")
        if scope not in ("machine", "process"):
            raise ArgumentError(f"scope {scope!r}: expected 'machine' or 'process'")
        if cpu_watts is not None and not (math.isfinite(cpu_watts) and cpu_watts > 0):
            raise ArgumentError(f"a CPU of {cpu_watts} W: it must be a positive, finite number")
        if not 0.05 <= interval <= NEVER:  # codecarbon takes no sample sooner after the last one
            raise ArgumentError(f"samples every {interval} s: expected at least 0.05")
        self.grid: Grid = named(grid)
        self.pue, self.scope = pue, scope
        self._cpu_watts, self._interval = cpu_watts, interval
        self._latest = Reading(0.0, 0.0, 0.0, "")
        self._before = self._latest
        self._source, self._sampled = "", 0.0
        self._tracker: Any = None
        self._problem: Exception | None = None
        self._known, self._over, self._one = Event(), Event(), Lock()
        self._thread = Thread(target=self._follow, name="lantern meter", daemon=True)

    def __enter__(self) -> Meter:
        self._began = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        if problem is None:
            self._check()

    def read(self, *, fresh: bool = False) -> Reading:
        """What was taken so far.

        Args:
            fresh: take a sample now, and wait for the tracker to begin if it has not. Otherwise the
                last one is given, which costs nothing and is as old as ``interval``.

        Raises:
            MeterError: there are no readings.
        """
        if fresh and not self._over.is_set():
            self._known.wait()
            self._check()
            self._sample()
        self._check()
        return self._latest

    def _check(self) -> None:
        """Raise what went wrong on the other thread."""
        if self._problem is not None:
            raise MeterError(f"no energy can be measured: {self._problem}") from self._problem

    def _follow(self) -> None:
        """What the thread does: begin, sample, end."""
        try:
            # Old drivers of macOS write a log where the tracker is told to write; it goes with us.
            with tempfile.TemporaryDirectory() as scratch:
                self._tracker = self._begun(scratch)
                self._known.set()
                while not self._over.wait(self._interval):
                    self._sample()
                with self._one:
                    self._pause()
                    self._tracker.stop()
        except Exception as problem:  # of codecarbon or a driver: told where the meter is read
            self._problem = problem
        finally:
            self._known.set()

    def _begun(self, scratch: str) -> Any:
        """A tracker of codecarbon's that has begun."""
        from codecarbon import OfflineEmissionsTracker
        from codecarbon.output_methods.base_output import BaseOutput

        class Handler(BaseOutput):
            """Takes the totals that the tracker gives out."""

            def __init__(self, take: Callable[[Any], None]) -> None:
                self.take = take

            def out(self, total: Any, delta: Any) -> None:
                self.take(total)

        logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
        # Everything that a configuration file or the environment could turn on is named here.
        tracker = OfflineEmissionsTracker(
            country_iso_code="", region=None, cloud_provider=None, cloud_region=None,
            country_2letter_iso_code=None, force_carbon_intensity_g_co2e_kwh=self.grid.grams,
            pue=self.pue, wue=0.0, tracking_mode=self.scope, force_cpu_power=self._cpu_watts,
            force_ram_power=None, force_mode_cpu_load=False, rapl_include_dram=False,
            rapl_prefer_psys=False, gpu_ids=None, measure_power_secs=NEVER, output_methods=[],
            output_handlers=[Handler(self._take)], output_dir=scratch, emissions_endpoint=None,
            electricitymaps_api_token="", api_call_interval=-1, log_level="critical",
            allow_multiple_runs=True,
        )  # fmt: skip
        tracker.start()
        tracker.flush()  # reads its tables, which takes a while once
        self._source = source(tracker)
        time.sleep(MOMENT)
        tracker.flush()
        if not self._latest.source:
            raise RuntimeError(SILENT)
        return tracker

    def _sample(self) -> None:
        """Let the tracker measure and give out its totals. Its errors end in its log: what shows
        is that nothing comes out."""
        with self._one:
            if self._over.is_set():
                return
            known = self._latest
            self._pause()
            self._tracker.flush()
            if self._latest is known:
                raise RuntimeError(SILENT)

    def _pause(self) -> None:
        """Wait until the tracker takes a sample again."""
        time.sleep(max(0.0, self._sampled + PAUSE - time.perf_counter()))

    def _take(self, total: Any) -> None:
        """Keep the tracker's totals. The time before it began is counted at its first power."""
        if not self._source:
            return
        took = Reading(
            total.duration, total.energy_consumed * JOULES, total.emissions * 1000, self._source
        )
        if not self._latest.source:
            setup = time.perf_counter() - self._began - took.seconds
            times = setup / took.seconds
            self._before = Reading(setup, took.joules * times, took.grams * times, "")
        self._sampled = time.perf_counter()
        b = self._before
        self._latest = Reading(
            took.seconds + b.seconds, took.joules + b.joules, took.grams + b.grams, took.source
        )


named = grid


def source(tracker: Any) -> str:
    """What of a tracker's readings is measured and what is estimated, and from what.

    Example:
        >>> class CPU:
        ...     _mode, _tdp, _model = "cpu_load", 65, "a CPU"
        >>> class Tracker:
        ...     _hardware = [CPU()]
        >>> source(Tracker())
        'estimated: CPU from its load, 65 W at most (a CPU)'
    """
    parts: dict[bool, list[str]] = {True: [], False: []}
    for part in tracker._hardware:
        known, text = described(part)
        parts[known].append(text)
    titles = {True: "measured", False: "estimated"}
    return "; ".join(f"{titles[k]}: {', '.join(found)}" for k, found in parts.items() if found)


def described(part: Any) -> tuple[bool, str]:
    """Whether a piece of hardware is measured, and how its power becomes known."""
    kind = type(part).__name__
    if kind == "CPU":
        known, text = CPU_MODES[part._mode]
        return known, text.format(tdp=part._tdp or 0, model=part._model)
    if kind == "RAM":
        return False, f"memory at {part.total_power().W:.3g} W"
    if kind == "GPU":
        return True, "GPU by its driver"
    return True, f"{getattr(part, 'chip_part', 'the machine')} by {kind}"
