"""A plugin of pytest: every kernel that the tests generate is compiled by NVRTC for each
architecture, and held to budgets.

While tests run, translation units that the emulator is given are written to a folder. When all have
run, in whatever processes, their distinct kernels are compiled, many in one unit; those that were
compiled by an earlier run are known by their text.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from backends.cuda import nvrtc
from backends.cuda.device import DeviceError
from backends.cuda.limits import ARCHITECTURES, STATIC, Usage, occupancy
from backends.cuda.prelude import called, declarations

DRAWN = "drawn-"  # begins the names of translation units of programs that are drawn at random
TOGETHER = 24  # kernels in a unit: enough that headers count for little
REGISTERS = 128  # of a thread, so that 256 threads and another block fit
KERNEL = re.compile(
    r'^extern "C" __global__ void (?:__launch_bounds__\((\d+(?:, \d+)?)\) )?(\w+)(\(.*?^\})$',
    re.M | re.S,
)
# sin and cos of more than about 1e5 are computed with a table in the thread's own memory, by a
# function around whose call ptxas may spill a register.
TRIGONOMETRY = re.compile(r"\b(sin|cos|tan|sincos)f?\(")
TABLE = 64  # bytes of it
# What may go beyond a budget otherwise: (stem of the kernel, budget) with the reason.
EXCEPTIONS: dict[tuple[str, str], str] = {}


class Kernel(NamedTuple):
    """A kernel that a test has generated.

    Attributes:
        stem: its name without a number.
        bounds: what ``__launch_bounds__`` says: threads of a block, and perhaps blocks.
        text: from its parameters on.
    """

    stem: str
    bounds: str
    text: str

    @property
    def threads(self) -> int:
        """Of a block."""
        return int(self.bounds.split(",")[0])

    @property
    def key(self) -> str:
        """What tells it from others: its text, that of what it calls, and how it is compiled."""
        parts = [self.bounds, self.text, declarations(called(self.text))]
        return hashlib.sha256("\n".join([nvrtc.compiler().key, *parts]).encode()).hexdigest()


def kernels(source: str) -> Iterator[Kernel]:
    """The kernels of a translation unit.

    >>> [k.stem for k in kernels('extern "C" __global__ void add_2(float* x) {\\n  x[0] = 1;\\n}')]
    ['add']
    """
    for bounds, name, text in KERNEL.findall(source):
        yield Kernel(re.sub(r"_\d+$", "", name), bounds or "1024", text)


def unit(group: Sequence[Kernel]) -> str:
    """One translation unit of several kernels, called by their numbers."""
    texts = [
        f'extern "C" __global__ void __launch_bounds__({k.bounds}) kernel_{i}{k.text}'
        for i, k in enumerate(group)
    ]
    return "\n\n".join([declarations(called(*texts)), *texts])


def complaints(kernel: Kernel, architecture: str, usage: Usage) -> Iterator[str]:
    """What is beyond a budget."""
    blocks = occupancy(ARCHITECTURES[architecture], usage, kernel.threads).blocks
    table = TABLE if TRIGONOMETRY.search(kernel.text) else 0
    wrong = {
        "spills": usage.spills > table,
        "stack": usage.stack > table,
        "registers": usage.registers > REGISTERS and kernel.threads >= 256,
        "shared": usage.shared > STATIC,
        "occupancy": blocks == 0,
    }
    for budget, is_so in wrong.items():
        if is_so and (kernel.stem, budget) not in EXCEPTIONS:
            yield f"{kernel.stem} for {architecture}: {budget}: {usage}\n{kernel.text}"


def check(group: Sequence[Kernel], folder: Path, held: bool = True) -> list[str]:
    """Compile kernels, remember those that are within the budgets, and say which are not; unless
    they are not held to them: those of programs that are drawn at random, which must compile."""
    found: dict[Kernel, list[str]] = {kernel: [] for kernel in group}
    usages: dict[Kernel, dict[str, Usage]] = {kernel: {} for kernel in group}
    for architecture in ARCHITECTURES:
        try:
            usage = nvrtc.compiler().compile(unit(group), architecture).usage
        except DeviceError as problem:
            if len(group) == 1:
                return [f"{problem}\n{unit(group)}"]
            return [one for kernel in group for one in check([kernel], folder, held)]
        for i, kernel in enumerate(group):
            usages[kernel][architecture] = usage[f"kernel_{i}"]
            found[kernel] += complaints(kernel, architecture, usage[f"kernel_{i}"])
    for kernel in group:
        if not found[kernel]:
            (folder / kernel.key).write_text(json.dumps({"": kernel.stem, **usages[kernel]}))
    return [one for each in found.values() for one in each if held]


class Checks:
    """The plugin.

    Args:
        written: where translation units are written in this run.
        known: where it is remembered which kernels were compiled.
        is_last: whether this process ends when all tests have run.
    """

    def __init__(self, written: Path, known: Path, is_last: bool) -> None:
        self.written, self.known, self.is_last = written, known, is_last
        self.said: list[str] = []
        self.wrong: list[str] = []

    def keep(self, source: str, drawn: bool = False) -> None:
        """Write a translation unit down; whether its program was drawn at random."""
        name = f"{DRAWN if drawn else ''}{hashlib.sha256(source.encode()).hexdigest()}"
        path = self.written / name
        if not path.exists():
            path.write_text(source, encoding="utf-8")

    def pytest_configure_node(self, node: Any) -> None:
        """Tell a process of pytest-xdist where to write."""
        node.workerinput["kernels"] = str(self.written)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Compile what the tests have generated."""
        if not self.is_last:
            return
        paths = sorted(self.written.iterdir())
        sources = {path.name: path.read_text(encoding="utf-8") for path in paths}
        shutil.rmtree(self.written)
        if not sources:
            return
        try:
            nvrtc.compiler()
        except nvrtc.CompilerMissing as missing:
            self.said.append(f"not compiled for a GPU: {missing}")
            return
        found: dict[str, tuple[Kernel, bool]] = {}
        for name, source in sources.items():
            held = not name.startswith(DRAWN)
            for kernel in kernels(source):
                found[kernel.key] = kernel, held or found.get(kernel.key, (kernel, False))[1]
        new = {key: one for key, one in found.items() if not (self.known / key).exists()}
        groups: list[tuple[list[Kernel], bool]] = []
        for held in (True, False):
            some = [kernel for kernel, its in new.values() if its == held]
            groups += ((some[i : i + TOGETHER], held) for i in range(0, len(some), TOGETHER))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for wrong in pool.map(lambda one: check(one[0], self.known, one[1]), groups):
                self.wrong += wrong
        self.said.append(
            f"kernels compiled for {', '.join(ARCHITECTURES)}: {len(found)}, {len(new)} of them "
            f"now; complaints: {len(self.wrong)}"
        )
        if self.wrong:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say what came out."""
        if self.said:
            terminalreporter.section("CUDA kernels")
            for line in (*self.wrong, *self.said):
                terminalreporter.line(line)


def install(config: pytest.Config) -> Checks:
    """The plugin of this process."""
    given = getattr(config, "workerinput", None)
    cache = getattr(config, "cache", None)
    known = cache.mkdir("cuda-kernels") if cache else Path(tempfile.mkdtemp())
    written = Path(given["kernels"] if given else tempfile.mkdtemp(prefix="lantern-kernels-"))
    checks = Checks(written, known, given is None)
    config.pluginmanager.register(checks, "kernel-checks")
    return checks
