"""Settings for all tests: no deadlines, repeatable on CI, plots without a display."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests import kernel_checks

os.environ.setdefault("MPLBACKEND", "Agg")

# Programs are compiled anew, and nothing is left in the cache of the user.
CACHE = tempfile.TemporaryDirectory()
os.environ["XDG_CACHE_HOME"] = CACHE.name

# Tests interrupt loops, and a process that a shell starts in the background ignores interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Machines differ in speed, so no example has a deadline. On CI the same examples run every time: a
# change is judged by what it does, not by chance; at home each run tries new ones.
settings.register_profile("home", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("home"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "home")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's top folder."""
    return Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """Compile the kernels that tests generate for GPUs, when all have run."""
    kernel_checks.install(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what takes a device on the emulated one, and on a GPU if there is one or it is asked."""
    from backends.cuda.runtime import has_driver

    if "cuda" in metafunc.fixturenames:
        asked = "gpu" in metafunc.config.option.markexpr or has_driver()
        real = [pytest.param("gpu", marks=pytest.mark.gpu)] if asked else []
        metafunc.parametrize("cuda", ["emulated", *real], indirect=True, scope="session")


@pytest.fixture(scope="session")
def emulated_folder(request: pytest.FixtureRequest) -> str:
    """Where the emulated device keeps what it compiles, from one run of the tests to the next."""
    return str(request.config.cache.mkdir("emulated"))


@pytest.fixture(scope="session")
def cuda(request: pytest.FixtureRequest, emulated_folder: str) -> Any:
    """A device of the CUDA backend: an emulated one, and a real one where there is one."""
    from backends.cuda.emulator import EmulatedDevice
    from backends.cuda.runtime import CupyDevice, DeviceMissing

    if request.param == "emulated":
        return EmulatedDevice(folder=emulated_folder)
    try:
        return CupyDevice()
    except DeviceMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session", autouse=True)
def kernels_are_kept(request: pytest.FixtureRequest) -> Iterator[None]:
    """Write down what the emulator is given, but for what its own tests make it refuse."""
    from backends.cuda.emulator import EmulatedDevice

    compiled = EmulatedDevice.compile
    checks = request.config.pluginmanager.get_plugin("kernel-checks")

    def compile(
        device: EmulatedDevice, source: str, names: Sequence[str], keep: Any = None
    ) -> dict[str, Any]:
        test = os.environ.get("PYTEST_CURRENT_TEST", "")
        if "test_cuda_emulator" not in test:
            checks.keep(source, drawn="test_cuda_conformance" in test)
        return compiled(device, source, names, keep)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EmulatedDevice, "compile", compile)
        yield
