"""The rows that `make bench-gpu` measures, in small: lantern on the emulated GPU agrees with
PyTorch and JAX on the CPU; and what is said where there is no GPU."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.cuda.device import Device
from backends.cuda.runtime import has_driver
from benchmarks import gpu, gpu_kernels, gpu_machine, treelstm
from benchmarks.gpu_kernels import SMALL
from benchmarks.harness import Contender, Workload, agree
from benchmarks.report import circumstances
from benchmarks.worker import made

EMULATED = {"backend": "cuda-emulated", "device": "cpu"}


def validate(work: Workload) -> None:
    """Have contenders compute here and compare; torch.compile would take minutes, and is PyTorch's
    own text."""
    taking: list[Contender] = [c for c in work.contenders if c.name != gpu.COMPILED and c.present]
    if len(taking) < 2:
        pytest.skip("neither PyTorch nor JAX is installed")
    agree(work, taking, [made(c.make, dict(c.arguments)).check() for c in taking])


@pytest.mark.peer
@pytest.mark.parametrize("name", gpu_kernels.names())
def test_kernels(name: str) -> None:
    validate(gpu.kernel(name, SMALL, "float32", None, **EMULATED, repeats=2))


@pytest.mark.peer
@pytest.mark.parametrize("name", gpu_kernels.COMPUTING)
def test_kernels_in_bfloat16(name: str) -> None:
    validate(gpu.kernel(name, SMALL, "bfloat16", None, **EMULATED, repeats=1))


@pytest.mark.peer
@pytest.mark.parametrize("bf16", [False, True])
def test_training(bf16: bool) -> None:
    validate(gpu.training("tiny", bf16, **EMULATED))


@pytest.mark.peer
def test_decoding() -> None:
    validate(gpu.decoding("tiny", 4, **EMULATED))


@pytest.mark.peer
def test_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"TREES": 3, "LEAST": 2, "MOST": 4, "HIDDEN": 6, "EMBEDDING": 8, "WORDS": 20}
    for name, value in small.items():
        monkeypatch.setattr(treelstm, name, value)
    validate(gpu.trees(**EMULATED))


def test_every_contender_has_a_function() -> None:
    works: list[Callable[[], Workload]] = [
        lambda: gpu.training("G", True),
        lambda: gpu.decoding("G", 8),
        lambda: gpu.kernel("gelu", gpu_kernels.Size(), "float32", 1e12),
        gpu.trees,
    ]
    for work in works:
        for contender in work().contenders:
            module, function = contender.make.split(":")
            assert callable(getattr(importlib.import_module(module), function))


def test_amounts() -> None:
    """Of a softmax two arrays; of attention the half of two products of T by T by C."""
    size = gpu_kernels.Size(rows=8, columns=16, side=4, batch=2, time=8, heads=3, head_dim=5)
    assert gpu_kernels.amount("softmax", size) == 2 * 8 * 16 * 4
    assert gpu_kernels.amount("matmul", size) == 2 * 4**3
    assert gpu_kernels.amount("attention", size) == 2 * (2 * 2 * 3 * 8 * 8 * 5) // 2
    assert gpu_kernels.amount("attention backward", size) == 5 * (2 * 2 * 3 * 8 * 8 * 5) // 2


def test_the_roofline_is_measured(cuda: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_machine, "TIMES", 2)
    assert gpu_machine.bandwidth(cuda, 1 << 16) > 0
    for dtype in ("float32", "bfloat16"):
        assert gpu_machine.products(cuda, dtype, 32) > 0


def test_the_report_says_what_was_measured_on() -> None:
    about: dict[str, Any] = {
        "gpu": {"name": "NVIDIA X", "architecture": "sm_90", "processors": 132,
                "bandwidth": 3e12, "float32": 5e13, "bfloat16": 8e14},
        "cpu": {"model": "a", "features": []}, "cores": 2, "cores_seen": 2.0, "threads": 2,
        "bandwidth": None, "sgemm": None, "python": "3.11", "versions": {},
    }  # fmt: skip
    assert circumstances(about)[0] == (
        "- GPU: NVIDIA X (sm_90); copy 3e+03 GB/s, float32 product 5e+04 GFLOP/s, bfloat16 product "
        "8e+05 GFLOP/s"
    )
    del about["gpu"]
    assert circumstances(about)[0].startswith("- processor")


def test_says_that_there_is_no_gpu(root: Path) -> None:
    if has_driver():
        pytest.skip("there is a GPU")
    command = [sys.executable, "-m", "benchmarks.gpu", "--row", "gpu-kernels"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 1
    assert "finds none here: there is no driver. Nothing was measured" in done.stderr
    assert np.all([word not in done.stdout for word in ("median", "lantern")])
