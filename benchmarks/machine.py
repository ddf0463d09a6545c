"""What a machine can do at best, measured: cores, bandwidth of memory, products of matrices."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Contender, Options, started
from benchmarks.worker import TOTAL, Clock, Job

TRIAD = """
define void @triad(ptr noalias %a, ptr noalias %b, ptr noalias %c, i64 %n) #0 {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %from = getelementptr float, ptr %c, i64 %i
  %x = load float, ptr %from
  %scaled = fmul float %x, 3.0
  %with = getelementptr float, ptr %b, i64 %i
  %y = load float, ptr %with
  %sum = fadd float %y, %scaled
  %to = getelementptr float, ptr %a, i64 %i
  store float %sum, ptr %to
  %next = add nuw nsw i64 %i, 1
  %done = icmp eq i64 %next, %n
  br i1 %done, label %end, label %loop
end:
  ret void
}
attributes #0 = { "prefer-vector-width"="512" }
"""
LENGTH = 1 << 25  # elements of each array of the triad: 128 MiB


def cores(count: int) -> float:
    """How many of ``count`` cores are really there: the speed of that many processes over one's."""
    loop = (
        "import time; t = time.perf_counter(); sum(range(10_000_000)); "
        "print(time.perf_counter() - t)"
    )

    def slowest(n: int) -> float:
        running = [
            subprocess.Popen([sys.executable, "-S", "-c", loop], stdout=subprocess.PIPE, text=True)
            for _ in range(n)
        ]
        return max(float(p.communicate()[0]) for p in running)

    return count * min(slowest(1) for _ in range(3)) / min(slowest(count) for _ in range(3))


def triad(threads: int) -> Job:
    """a = b + 3 c over arrays out of cache, each thread on a core and a share of its own."""
    import ctypes

    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3
    )
    module = llvm.parse_assembly(TRIAD)
    module.triple = llvm.get_default_triple()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = True
    llvm.create_pass_builder(target, options).getModulePassManager().run(
        module, llvm.create_pass_builder(target, options)
    )
    engine = llvm.create_mcjit_compiler(module, target)
    engine.finalize_object()
    prototype = ctypes.CFUNCTYPE(None, *(ctypes.c_void_p,) * 3, ctypes.c_int64)
    native = prototype(engine.get_function_address("triad"))
    arrays = [np.ones(LENGTH, np.float32) for _ in range(3)]
    share = LENGTH // threads
    places = sorted(os.sched_getaffinity(0))

    def work(number: int) -> None:
        os.sched_setaffinity(0, {places[number % len(places)]})
        native(*(x.ctypes.data + 4 * share * number for x in arrays), share)

    def run(clock: Clock) -> Any:
        running = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        return engine  # which must outlive the calls

    return Job(lambda: [np.zeros(1)], run)


def product(size: int) -> Job:
    """A product of square float32 matrices by NumPy's BLAS."""
    x, y = (np.ones((size, size), np.float32) for _ in range(2))
    out = np.empty_like(x)
    return Job(lambda: [np.zeros(1)], lambda clock: np.matmul(x, y, out=out))


def probed(name: str, arguments: dict[str, Any], options: Options) -> float:
    """The median seconds of a probe."""
    with started(Contender(name, f"benchmarks.machine:{name}", arguments), options) as worker:
        worker.ask("check")
        worker.ask("run", 2)
        return statistics.median(t[TOTAL] for t in worker.ask("run", 9))


def bandwidth(options: Options) -> float:
    """Bytes a second of the triad, as STREAM counts them: two arrays read and one written."""
    return 12 * LENGTH / probed("triad", {"threads": options.threads}, options)


def sgemm(options: Options) -> float:
    """Operations a second of a product of float32 matrices, 1,536 by 1,536."""
    return 2 * 1536**3 / probed("product", {"size": 1536}, options)


def about(options: Options) -> dict[str, Any]:
    """The circumstances of a run."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in ("lantern-ad", "numpy", "llvmlite", "scipy-openblas32", "torch", "jax", "autograd"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "cores_seen": round(cores(options.threads), 2),
        "bandwidth": attempted(bandwidth, options),
        "sgemm": attempted(sgemm, options),
        "python": platform.python_version(),
        "versions": versions,
    }


def attempted(probe: Callable[[Options], float], options: Options) -> float | None:
    """What a probe finds; None where what it needs is not installed."""
    try:
        return probe(options)
    except RuntimeError:
        return None


def processor() -> dict[str, Any]:
    """The processor's model, and which vector instructions it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {"model": platform.processor() or platform.machine(), "features": []}
    fields = dict(reversed([[s.strip() for s in x.split(":", 1)] for x in lines if ":" in x]))
    flags = fields.get("flags", fields.get("Features", "")).split()
    wanted = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
    model = (
        f"{fields.get('model name', platform.machine())}, family {fields.get('cpu family', '?')}"
    )
    return {
        "model": f"{model}, model {fields.get('model', '?')}",
        "features": [f for f in wanted if f in flags],
    }
