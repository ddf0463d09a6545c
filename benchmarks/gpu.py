"""Lantern on a GPU beside PyTorch, torch.compile and JAX there: ``make bench-gpu``.

    python -m benchmarks.gpu [--row gpu-kernels ...] [--only lantern] [--quick] [--save DIR]

Without a GPU it says so, and ends with an error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from backends.cuda.device import DeviceError
from backends.cuda.runtime import CupyDevice, DeviceMissing, has_driver
from benchmarks import gpu_kernels, gpu_machine
from benchmarks.gpu_kernels import Size
from benchmarks.harness import Contender, Options, Result, Row, Workload, measure, team
from benchmarks.llama3_data import SHAPES

SHARE = {"B": 0.85, "FLOP": 0.7}  # of the roofline that a kernel should reach
REPEATS = 50  # of a kernel in a run
WRITTEN = 128  # tokens of a text
# JAX takes most of a GPU's memory when it starts, which leaves none to the others.
SHARING = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
LANTERN, TORCH, COMPILED, JAX = "lantern", "PyTorch", "torch.compile", "JAX"
AT_LEAST: Mapping[str, float | None] = {TORCH: 1.0, COMPILED: 1.0, JAX: 1.0}


def contenders(make: Mapping[str, tuple[str, Mapping[str, Any]]]) -> list[Contender]:
    """Who takes part: of each the function that makes its job, and the arguments."""
    needs = {LANTERN: (), TORCH: ("torch",), COMPILED: ("torch",), JAX: ("jax",)}
    return [
        Contender(
            name, function, arguments, needs[name], SHARING if name == JAX else {},
            AT_LEAST.get(name),
        )
        for name, (function, arguments) in make.items()
    ]  # fmt: skip


def training(
    shape: str, bf16: bool, backend: str = "cuda", device: str = "cuda", rounds: int = 5
) -> Workload:
    """A training step of a Llama-3 network."""
    s = SHAPES[shape]
    lantern = {"shape": shape, "compiled": True, "bf16": bf16, "backend": backend}
    torch = {"shape": shape, "threads": 1, "bf16": bf16, "device": device}
    made = {
        LANTERN: ("benchmarks.llama3_lantern:step", lantern),
        TORCH: ("benchmarks.llama3_torch:step", {**torch, "compiled": False}),
        COMPILED: ("benchmarks.llama3_torch:step", {**torch, "compiled": True}),
        JAX: ("benchmarks.llama3_jax:step", {"shape": shape, "bf16": bf16}),
    }
    how = "bfloat16, float32 parameters" if bf16 else "float32"
    return Workload(
        "gpu-llama3-bf16" if bf16 else "gpu-llama3",
        f"a Llama-3 training step on the GPU, {how}: dim {s.dim}, {s.layers} layers, {s.heads} "
        f"heads on {s.kv_heads}, hidden {s.ffn}, {s.batch} by {s.context} tokens",
        contenders(made),
        s.batch * s.context,
        "token",
        rtol=0.1 if bf16 else 2e-3,
        rounds=rounds,
    )


def decoding(
    shape: str, tokens: int, backend: str = "cuda", device: str = "cuda", rounds: int = 5
) -> Workload:
    """A Llama-3 network that writes."""
    s = SHAPES[shape]
    here = "benchmarks.gpu_decode:"
    common = {"shape": shape, "tokens": tokens}
    made = {
        LANTERN: (here + "in_lantern", {**common, "backend": backend}),
        TORCH: (here + "in_torch", {**common, "device": device, "compiled": False}),
        COMPILED: (here + "in_torch", {**common, "device": device, "compiled": True}),
        JAX: (here + "in_jax", common),
    }
    return Workload(
        "gpu-decode",
        f"{tokens} tokens of {s.batch} texts on the GPU, one after the other: dim {s.dim}, "
        f"{s.layers} layers, float32",
        contenders(made),
        s.batch * tokens,
        "token",
        rtol=2e-3,
        rounds=rounds,
    )


def kernel(
    name: str, size: Size, dtype: str, limit: float | None, backend: str = "cuda",
    device: str = "cuda", repeats: int = REPEATS, rounds: int = 3,
) -> Workload:  # fmt: skip
    """One kernel beside the roofline."""
    common = {"name": name, "size": size, "dtype": dtype, "repeats": repeats}
    here = "benchmarks.gpu_kernels:job"
    made = {
        LANTERN: (here, {**common, "library": "lantern", "backend": backend}),
        TORCH: (here, {**common, "library": "torch", "device": device, "compiled": False}),
        COMPILED: (here, {**common, "library": "torch", "device": device, "compiled": True}),
        JAX: (here, {**common, "library": "jax"}),
    }
    moving = name in gpu_kernels.MOVING
    unit = "B" if moving else "FLOP"
    count = gpu_kernels.amount(name, size, 2 if dtype == "bfloat16" else 4)
    return Workload(
        "gpu-kernels",
        f"{name} in {dtype} on the GPU, " + (
            f"{size.rows:,} by {size.columns:,}" if moving
            else f"{size.side:,} by {size.side:,}" if name == "matmul"
            else f"{size.batch} by {size.time:,}, {size.heads} heads of {size.head_dim}"
        ),
        contenders(made),
        count * repeats,
        unit,
        rtol=5e-2 if dtype == "bfloat16" else 1e-4,
        rounds=rounds,
        limit=limit,
        share=SHARE[unit] if limit else None,
    )  # fmt: skip


def trees(backend: str = "cuda", device: str = "cuda", rounds: int = 5) -> Workload:
    """A training step of a TreeLSTM, 25 trees at a time."""
    here = "benchmarks.treelstm:"
    torch = {"together": True, "threads": 1, "device": device}
    made = {
        LANTERN: (here + "in_lantern", {"together": True, "threads": 1, "backend": backend}),
        TORCH: (here + "in_torch", {**torch, "levels": True}),
    }
    return Workload(
        "gpu-treelstm",
        "a TreeLSTM's training step on the GPU: 25 trees a step, levels by hand in PyTorch",
        contenders(made),
        25,
        "tree",
        rtol=5e-3,
        rounds=rounds,
    )


def alone(make: Callable[..., Workload], quick: Mapping[str, Any], full: Mapping[str, Any]) -> Row:
    """A row of one workload, in small if that is asked for."""
    return lambda options: [measure(make(**(quick if options.quick else full)), options)]


def kernel_rows(options: Options) -> list[Result]:
    """Every kernel: what goes over memory in float32, what computes in both dtypes."""
    device = CupyDevice()
    size = Size(rows=1 << 10, side=1024, time=256) if options.quick else Size()
    memory = gpu_machine.bandwidth(device)
    peaks = {dtype: gpu_machine.products(device, dtype) for dtype in ("float32", "bfloat16")}
    works = [kernel(name, size, "float32", memory) for name in gpu_kernels.MOVING]
    works += [
        kernel(name, size, dtype, peaks[dtype])
        for name in gpu_kernels.COMPUTING
        for dtype in ("float32", "bfloat16")
    ]
    del device
    with team() as workers:
        return [measure(work, options, workers) for work in works]


TINY = {"shape": "tiny"}
ROWS: dict[str, Row] = {
    "gpu-llama3": alone(training, {**TINY, "bf16": False}, {"shape": "G", "bf16": False}),
    "gpu-llama3-bf16": alone(training, {**TINY, "bf16": True}, {"shape": "G", "bf16": True}),
    "gpu-decode": alone(decoding, {**TINY, "tokens": 8}, {"shape": "G", "tokens": WRITTEN}),
    "gpu-kernels": kernel_rows,
    "gpu-treelstm": alone(trees, {}, {}),
}


def check() -> None:
    """End with an error where there is no GPU, before anything is installed for one."""
    if not has_driver():
        sys.exit(
            "make bench-gpu measures on an NVIDIA GPU, and finds none here: there is no driver. "
            "Nothing was measured; `make bench` measures on the CPU"
        )


def main(arguments: list[str]) -> None:
    """The command line: that of `benchmarks`, on these rows."""
    from benchmarks.__main__ import main

    check()
    if arguments == ["--check"]:
        return
    try:
        main(ROWS, arguments, lambda: gpu_machine.about(CupyDevice()))
    except (DeviceMissing, DeviceError) as problem:
        sys.exit(f"make bench-gpu: {problem}")


if __name__ == "__main__":
    main(sys.argv[1:])
