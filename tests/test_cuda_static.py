"""NVRTC: what it compiles without a GPU, what it says of kernels, and that it is asked once."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backends.cuda.device import DeviceError
from backends.cuda.limits import ARCHITECTURES, Usage
from backends.cuda.nvrtc import Code, CompilerMissing, compiled, compiler, find, pack, unpack
from tests.kernel_checks import Checks, kernels

try:
    find()
except CompilerMissing as missing:
    pytestmark = pytest.mark.skip(reason=str(missing))

ROWS = """
#include <cuda_fp16.h>
#include <cuda_bf16.h>

extern "C" __global__ void __launch_bounds__(256) rows(const __half* x, __nv_bfloat16* y) {
  __shared__ float staged[64];
  if (threadIdx.x < 64) staged[threadIdx.x] = __half2float(x[threadIdx.x]);
  __syncthreads();
  y[threadIdx.x] = __float2bfloat16(staged[threadIdx.x % 64]);
}

extern "C" __global__ void doubled(float* x) {
  x[threadIdx.x] += x[threadIdx.x];
}
"""
HUNGRY = """
extern "C" __global__ void __launch_bounds__(1024) hungry(const float* x, float* y, int n) {
  float a[96];
#pragma unroll
  for (int i = 0; i < 96; i++) a[i] = x[i * n + threadIdx.x];
  for (int j = 0; j < n; j++) {
#pragma unroll
    for (int i = 0; i < 96; i++) a[i] = a[i] * a[(i + 1) % 96] + a[(i + 7) % 96];
  }
#pragma unroll
  for (int i = 0; i < 96; i++) y[i * n + threadIdx.x] = a[i];
}
"""


class Memory:
    """A place to keep code, that counts."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.reads = 0

    def get(self, key: str) -> bytes | None:
        self.reads += key in self.files
        return self.files.get(key)

    def put(self, key: str, data: bytes) -> None:
        self.files[key] = data


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_says_what_kernels_take(architecture: str) -> None:
    code = compiled(ROWS, architecture)
    assert code.cubin.startswith(b"\x7fELF")
    assert set(code.usage) == {"rows", "doubled"}
    assert code.usage["rows"].shared == 256
    assert code.usage["doubled"].shared == 0
    for usage in code.usage.values():
        assert 0 < usage.registers <= 32
        assert usage.spills == usage.stack == 0


def test_sees_spills() -> None:
    usage = compiled(HUNGRY, "sm_90").usage["hungry"]
    assert usage.registers <= 64
    assert usage.spills > 0
    assert usage.stack > 0


@pytest.mark.parametrize("text", ["float x = INFINITY;", "uint32_t x = 0;"])
def test_refuses_what_it_does_not_know(text: str) -> None:
    """What nvcc takes from headers of the host."""
    with pytest.raises(DeviceError, match=r"lantern\.cu\(1\): error: identifier") as raised:
        compiled(f'extern "C" __global__ void k() {{ {text} }}', "sm_80")
    assert "NVRTC for sm_80: NVRTC_ERROR_COMPILATION" in str(raised.value)


def test_refuses_an_unknown_architecture() -> None:
    with pytest.raises(DeviceError, match="sm_31"):
        compiled(ROWS, "sm_31")


def test_keeps_code_by_content_and_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = Memory()
    first = compiled(ROWS, "sm_90", keep)
    assert compiled(ROWS, "sm_80", keep).cubin != first.cubin
    compiled(ROWS + " ", "sm_90", keep)
    assert len(keep.files) == 3
    assert keep.reads == 0
    monkeypatch.setattr(type(compiler()), "compile", None)  # nothing is compiled now
    assert compiled(ROWS, "sm_90", keep) == first
    assert keep.reads == 1


def test_code_survives_as_bytes() -> None:
    code = Code(b"\x7fELF\n\0{}\n", {"k": Usage(10, 20, 30, 40)})
    assert unpack(pack(code)) == code


# What is done with the kernels of all tests (`kernel_checks`).


@pytest.fixture
def checks(tmp_path: Path) -> Checks:
    for name in ("written", "known"):
        (tmp_path / name).mkdir()
    return Checks(tmp_path / "written", tmp_path / "known", is_last=True)


def finished(checks: Checks) -> Any:
    session = SimpleNamespace(exitstatus=0)
    checks.said.clear()
    checks.wrong.clear()
    checks.pytest_sessionfinish(session)  # type: ignore[arg-type]
    return session.exitstatus


def test_kernels_of_one_text_are_compiled_once(checks: Checks) -> None:
    twice = ROWS + ROWS[ROWS.index("extern") :].replace(" rows(", " rows_2(")
    checks.keep(twice.replace(" doubled(", " doubled_2("))
    checks.keep(ROWS)
    assert finished(checks) == 0
    assert checks.said == [
        "kernels compiled for sm_80, sm_90, sm_100: 2, 2 of them now; complaints: 0"
    ]
    (path,) = (p for p in checks.known.iterdir() if json.loads(p.read_text())[""] == "rows")
    assert json.loads(path.read_text())["sm_90"][1] == 256
    checks.written.mkdir()
    checks.keep(ROWS)
    assert finished(checks) == 0
    assert "2, 0 of them now" in checks.said[0]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (HUNGRY, "hungry for sm_90: spills"),
        (ROWS.replace("[64]", "[20000]"), "uses too much shared data"),
        (ROWS.replace("y[", "z["), 'identifier "z" is undefined'),
    ],
)
def test_kernels_beyond_the_budgets_fail_the_run(checks: Checks, source: str, said: str) -> None:
    checks.keep(source)
    assert finished(checks) == pytest.ExitCode.TESTS_FAILED
    assert said in "\n".join(checks.wrong)
    left = {json.loads(p.read_text())[""] for p in checks.known.iterdir()}
    assert left == {k.stem for k in kernels(source)} - {"hungry", "rows"}


@pytest.mark.parametrize(
    ("source", "status"),
    [(HUNGRY, 0), (ROWS.replace("y[", "z["), pytest.ExitCode.TESTS_FAILED)],
)
def test_kernels_of_programs_drawn_at_random_must_only_compile(
    checks: Checks, source: str, status: int
) -> None:
    checks.keep(source, drawn=True)
    assert finished(checks) == status


def test_other_processes_leave_it_to_the_last(checks: Checks) -> None:
    checks.is_last = False
    checks.keep(HUNGRY)
    assert finished(checks) == 0
    assert not checks.said
