"""Energy and emissions: hand-computed figures, codecarbon's own numbers, accounts that survive.

What is faked is the hardware, where codecarbon reads it: a folder of counters stands for RAPL.
"""

from __future__ import annotations

import json
import math
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lantern as ln
from lantern.carbon import Entry, Meter, Range, Reading, abandon, entries, grid, hardware, total
from lantern.carbon import grids as grids_module
from lantern.carbon.hardware import found
from lantern.carbon.ledger import append
from lantern.errors import ArgumentError, MeterError

pytest.importorskip("codecarbon")

amounts = st.floats(0, 1e9, allow_subnormal=False)
positive = st.floats(1e-3, 1e6)


few = settings(max_examples=25)


def ranges(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[Range]:
    return st.lists(numbers, min_size=3, max_size=3).map(lambda x: Range(*sorted(x)))


work = st.builds(
    Entry, st.sampled_from(ln.carbon.PHASES), amounts, amounts, amounts, ranges(amounts),
    st.integers(0, 10**12), st.text(max_size=9), st.text(max_size=9), st.floats(1, 3),
    st.text(max_size=9), st.lists(st.text(max_size=9), max_size=2, unique=True).map(tuple),
)  # fmt: skip


class Counter:
    """A folder as Linux shows RAPL's, with one package."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "intel-rapl"
        package = self.folder / "intel-rapl:0"
        package.mkdir(parents=True)
        (package / "name").write_text("package-0\n")
        (package / "max_energy_range_uj").write_text("262143328850\n")
        self.file, self.microjoules = package / "energy_uj", 1_000_000_000
        self.add(0.0)

    def add(self, joules: float) -> None:
        self.microjoules += round(joules * 1e6)
        self.file.write_text(f"{self.microjoules}\n")


@pytest.fixture
def counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counter:
    """A machine whose CPU has counters."""
    from codecarbon.core import cpu, hardware_cache
    from codecarbon.external import hardware as external

    counter = Counter(tmp_path)
    rapl = external.IntelRAPL

    def here(**options: Any) -> Any:
        return rapl(**{**options, "rapl_dir": str(counter.folder.parent)})

    monkeypatch.setattr(external, "IntelRAPL", here)
    monkeypatch.setattr(cpu, "is_rapl_available", lambda *_: True)
    monkeypatch.setattr(hardware_cache, "_plans", {})
    return counter


def memory_watts(reading: Reading) -> float:
    return float(reading.source.split("memory at ")[1].split(" W")[0])


@pytest.mark.parametrize("pue", [1.0, 1.5])
def test_counters_are_read(counter: Counter, pue: float) -> None:
    with Meter(grid=1000.0, pue=pue) as meter:
        first = meter.read(fresh=True)
        time.sleep(0.1)
        counter.add(50.0)
        took = meter.read(fresh=True).since(first)
    assert "measured: CPU by RAPL" in took.source
    memory = memory_watts(took) * took.seconds
    assert took.joules == pytest.approx(pue * (50.0 + memory), abs=1.0)
    assert took.grams == pytest.approx(took.joules / 3.6e6 * 1000.0, rel=1e-6)


def test_numbers_are_those_of_codecarbon(counter: Counter, tmp_path: Path) -> None:
    from codecarbon import OfflineEmissionsTracker

    own = OfflineEmissionsTracker(
        country_iso_code="FRA", output_methods=[], log_level="critical", output_dir=str(tmp_path)
    )
    own.get_detected_hardware()  # takes a while, in which memory takes power
    with Meter(grid="FRA") as meter:
        first = meter.read(fresh=True)
        own.start()
        time.sleep(0.1)
        counter.add(2000.0)
        own.stop()
        took = meter.read(fresh=True).since(first)
    theirs = own.final_emissions_data
    assert took.joules == pytest.approx(theirs.energy_consumed * 3.6e6, rel=0.03)
    per_joule = theirs.emissions * 1000 / (theirs.energy_consumed * 3.6e6)
    assert took.grams / took.joules == pytest.approx(per_joule, rel=1e-6)


def test_an_estimate_says_so_and_what_it_assumes() -> None:
    with Meter(scope="process", cpu_watts=100.0) as meter:
        assert meter.read() == Reading(0.0, 0.0, 0.0, "")
        reading = meter.read(fresh=True)
    assert reading.estimated and "100 W at most" in reading.source and "memory at" in reading.source
    assert "measured" not in reading.source
    after = meter.read()
    assert after.seconds >= reading.seconds and after.joules >= reading.joules
    assert meter.read(fresh=True) == after


def test_offline_quiet_and_nothing_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever the user's configuration of codecarbon turns on."""
    settings = "[codecarbon]\nemissions_endpoint=http://127.0.0.1:9/\nlog_level=debug\npue=7\n"
    (tmp_path / ".codecarbon.config").write_text(settings)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("CODECARBON_SAVE_TO_FILE", "true")
    monkeypatch.setenv("CODECARBON_ELECTRICITYMAPS_API_TOKEN", "token")
    calls: list[Any] = []
    monkeypatch.setattr(socket.socket, "connect", lambda *address: calls.append(address))
    monkeypatch.setattr("tempfile.tempdir", None)
    with Meter(grid=100.0) as meter:
        reading = meter.read(fresh=True)
    assert reading.joules > 0 and not calls
    assert [p.name for p in tmp_path.iterdir()] == [".codecarbon.config"]
    assert capfd.readouterr() == ("", "")
    assert reading.grams == pytest.approx(reading.joules / 3.6e6 * 100.0, rel=1e-6)


def test_a_tracker_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from codecarbon import OfflineEmissionsTracker

    monkeypatch.setattr(OfflineEmissionsTracker, "flush", lambda _: None)
    with pytest.raises(MeterError, match="no energy can be measured"), Meter():
        pass
    with pytest.raises(ZeroDivisionError), Meter():
        _ = 1 / 0  # what stopped the work is what is told


def test_without_codecarbon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grids_module, "find_spec", lambda _: None)
    with pytest.raises(MeterError, match=r"pip install 'lantern-ad\[carbon\]'"):
        Meter()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": "Frence"}, r"no grid of 'Frence'.*FRA \(France\)"),
        ({"grid": "CAF"}, "no intensity of Central African Republic"),
        ({"grid": -1.0}, "must be a finite number"),
        ({"grid": math.nan}, "must be a finite number"),
        ({"pue": 0.9}, "at least 1"),
        ({"pue": math.inf}, "at least 1"),
        ({"scope": "room"}, "expected 'machine' or 'process'"),
        ({"cpu_watts": 0.0}, "positive"),
        ({"interval": 0.01}, "at least 0.05"),
    ],
)
def test_arguments_that_mean_nothing(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Meter(**options)


def test_grids() -> None:
    assert grid("fra").grams == grid("FRANCE").grams == pytest.approx(56.039)
    assert grid("world").grams == 475 and "iea.org" in grid("world").source
    assert grid(0).grams == 0


def test_an_hour_of_a_server_by_hand() -> None:
    """1000 kg over 4 years of which half are use: 500 kg a year of 8766 hours. The lowest is 462 kg
    over 6 years at 85 %, the highest 2500 kg over 3 years at 30 %."""
    hour = hardware("server").embodied(3600.0)
    assert hour.typical == pytest.approx(500_000 / 8766)
    assert hour.low == pytest.approx(462_000 / (6 * 0.85) / 8766)
    assert hour.high == pytest.approx(2_500_000 / (3 * 0.3) / 8766)
    half = hardware("virtual", cpus=32).embodied(3600.0)
    assert half.typical == pytest.approx(hour.typical / 2)
    assert hardware("virtual", cpus=10_000).share == Range(1.0, 1.0, 1.0)
    with_gpus = hardware("server", gpus=8).embodied(3600.0)
    assert with_gpus.typical == pytest.approx(2200 / 1000 * hour.typical)
    for bad in ({"kind": "toaster"}, {"gpus": -1}, {"cpus": 0}):
        with pytest.raises(ArgumentError):
            hardware(**bad)
    with pytest.raises(ArgumentError):
        hardware("server").embodied(-1.0)


@pytest.mark.parametrize("figure", ln.carbon.FIGURES.values(), ids=list(ln.carbon.FIGURES))
def test_figures_are_cited(figure: ln.carbon.Figure) -> None:
    assert figure.unit and len(figure.source) > 30


def test_this_machine_is_of_some_kind(tmp_path: Path) -> None:
    assert found() in ("virtual", "laptop", "desktop")
    assert found(tmp_path) == "desktop"
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("flags : fpu vme\n")
    assert found(tmp_path) == "desktop"
    (tmp_path / "sys/class/power_supply/BAT0").mkdir(parents=True)
    assert found(tmp_path) == "laptop"
    (tmp_path / "proc/cpuinfo").write_text("flags : fpu hypervisor\n")
    assert found(tmp_path) == "virtual"


@given(ranges(positive), ranges(positive), positive)
def test_ranges_stay_ordered(a: Range, b: Range, factor: float) -> None:
    for result in (a + b, a * b, a / b, a * factor, a / factor, a + factor):
        assert 0 <= result.low <= result.typical <= result.high


@pytest.mark.parametrize("numbers", [(2, 1, 3), (-1, 0, 1), (0, 1, math.inf), (math.nan, 1, 2)])
def test_what_is_no_range(numbers: tuple[float, float, float]) -> None:
    with pytest.raises(ArgumentError, match="a range from"):
        Range(*numbers)


@given(ranges(positive), ranges(positive), positive, positive)
def test_embodied_is_linear_in_time(making: Range, life: Range, a: float, b: float) -> None:
    machine = ln.carbon.Hardware("x", making, life, Range(1.0, 1.0, 1.0))
    both, apart = machine.embodied(a + b), machine.embodied(a) + machine.embodied(b)
    assert (both.low, both.high) == pytest.approx((apart.low, apart.high))
    assert both.low <= both.typical <= both.high


@few
@given(st.lists(work, max_size=8))
def test_phases_add_up(found: list[Entry]) -> None:
    phases = [total([e for e in found if e.phase == p], p) for p in ln.carbon.PHASES]
    whole, again = total(found, "training"), total(phases, "training")
    for name in ("seconds", "joules", "operational", "tokens"):
        assert getattr(again, name) == pytest.approx(getattr(whole, name))
    assert again.grams.typical == pytest.approx(whole.grams.typical)
    assert whole.grams.low <= whole.grams.typical <= whole.grams.high
    million = whole.per_million_tokens()
    if whole.tokens:
        assert million is not None
        assert million.joules == pytest.approx(whole.joules * 1e6 / whole.tokens)


@few
@given(st.lists(work, max_size=4), st.data())
def test_an_account_cut_off_anywhere_goes_on(
    tmp_path_factory: pytest.TempPathFactory, written: list[Entry], data: st.DataObject
) -> None:
    """What a crash leaves is a prefix of the file: whole lines count, and more can be appended."""
    path = Path(str(tmp_path_factory.getbasetemp()), ln.carbon.LEDGER)
    path.unlink(missing_ok=True)
    for entry in written:
        append(path, entry)
    assert entries(path) == written
    whole = path.read_bytes() if written else b""
    left = whole[: data.draw(st.integers(0, len(whole)))]
    path.write_bytes(left)
    kept = written[: left.count(b"\n")]
    assert entries(path) == kept
    more = data.draw(work)
    append(path, more)
    assert entries(path) == [*kept, more]


@few
@given(work, st.data())
def test_a_damaged_account_is_an_error_or_numbers(
    tmp_path_factory: pytest.TempPathFactory, entry: Entry, data: st.DataObject
) -> None:
    path = Path(str(tmp_path_factory.getbasetemp()), ln.carbon.LEDGER)
    path.unlink(missing_ok=True)
    append(path, entry)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        found = entries(path)
    except MeterError as problem:
        assert f"{path}, line" in str(problem)
    else:
        assert all(math.isfinite(e.joules) and e.joules >= 0 for e in found)


@pytest.mark.parametrize(
    "line", ["[" * 100_000, "null", "{}", '{"given up": 1, "phase": 2}', "1e999", "\xff"]
)
def test_lines_that_are_no_entries(tmp_path: Path, line: str) -> None:
    path = tmp_path / ln.carbon.LEDGER
    path.write_bytes(line.encode("latin-1") + b"\n")
    with pytest.raises(MeterError, match="line 1, is no entry"):
        entries(path)


def test_an_account_of_a_run_that_is_resumed_and_given_up(counter: Counter, tmp_path: Path) -> None:
    path = tmp_path / "run" / ln.carbon.LEDGER

    def train(joules: float, tokens: int) -> None:
        with ln.carbon.Account(path, "data", Meter(grid=500.0), hardware("server")) as account:
            account.enter("data")
            account.enter("training")
            counter.add(joules)
            account.add(tokens=tokens)

    abandon(path)
    train(100.0, 1000)
    train(300.0, 2000)
    found = entries(path)
    assert [e.phase for e in found] == ["data", "training"] * 2
    training = total([e for e in found if e.phase == "training"], "training")
    assert training.tokens == 3000
    memory = float(training.source.split("memory at ")[1].split(" W")[0]) * training.seconds
    assert training.joules == pytest.approx(400.0 + memory, abs=2.0)
    assert training.operational == pytest.approx(training.joules / 3.6e6 * 500.0, rel=1e-5)
    assert training.embodied.typical == pytest.approx(
        hardware("server").embodied(training.seconds).typical
    )
    abandon(path)
    train(10.0, 10)
    assert [e.phase for e in entries(path)] == ["experimentation"] * 4 + ["data", "training"]


def test_work_is_written_while_it_goes_on(counter: Counter, tmp_path: Path) -> None:
    path = tmp_path / ln.carbon.LEDGER
    with ln.carbon.Account(path, "training", Meter(interval=0.05), every=0.0) as account:
        account.add(tokens=1)  # no sample is there yet, or this is it
        account.meter.read(fresh=True)
        account.add(tokens=2)
        before = entries(path)
        assert sum(e.tokens for e in before) == 3
        assert account.read().joules > 0
    assert entries(path)[: len(before)] == before


def test_an_account_that_cannot_begin(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="phase 'lunch'"):
        ln.carbon.Account(tmp_path / "x", "lunch", Meter())
    path = tmp_path / ln.carbon.LEDGER
    path.write_text("{}\n")
    with pytest.raises(MeterError, match="line 1"), ln.carbon.Account(path, "data", Meter()):
        pass
    assert json.loads(path.read_text()) == {}
