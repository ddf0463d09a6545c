"""Running a program without control flow on the emulated device, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backends.cuda import prelude
from backends.cuda.device import Span
from backends.cuda.emulator import EmulatedDevice
from backends.cuda.lowering import lower
from backends.cuda.steps import Copy, Fill, Gemm, Kernel, Launch, Step
from staging.interpret import numpy_dtype
from staging.ir import Program, Value

Array = np.ndarray[Any, Any]


def on_device(program: Program, arrays: Sequence[Array], seed: int = 7) -> list[Any]:
    """The results of a program, each value of which lies in a buffer of its own."""
    device: Any = EmulatedDevice(seed=seed)
    lowered = [(op, lower(op)) for op in program.block.ops]
    names = {
        step.kernel: f"kernel_{i}"
        for i, step in enumerate(step for _, steps in lowered for step in steps)
        if isinstance(step, Launch)
    }
    functions = device.compile(unit(names), list(names.values()))
    places: dict[Value, Span] = {}

    def span(value: Value) -> Span:
        if value not in places:
            places[value] = Span(device.empty(max(value.type.bytes, 1)), 0, value.type.bytes)
        return places[value]

    def perform(step: Step) -> None:
        match step:
            case Launch():
                arguments = [np.uint64(span(v).address) for v in step.arguments
                             if isinstance(v, Value)]  # fmt: skip
                block = step.block if step.block[0] else (step.kernel.threads, 1, 1)
                function = functions[names[step.kernel]]
                assert isinstance(step.grid, tuple)
                device.launch(function, step.grid, block, step.kernel.dynamic, arguments)
            case Gemm():
                device.gemm(step.product, span(step.x), span(step.y), span(step.out))
            case Copy():
                device.copy(span(step.target), span(step.source))
            case Fill():
                device.fill(span(step.target), step.byte)
            case _:
                raise NotImplementedError(step)

    for value, array in zip(program.block.params, arrays, strict=True):
        if value.type.bytes:
            device.to_device(span(value), np.ascontiguousarray(array))
    for op, steps in lowered:
        if op.name == "reshape":
            places[op.results[0]] = span(op.inputs[0])
        for step in steps:
            perform(step)
    results = [np.empty(v.type.shape, numpy_dtype(v.type.dtype)) for v in program.block.results]
    for value, array in zip(program.block.results, results, strict=True):
        if value.type.bytes:
            device.to_host(span(value), array)
    return results


def unit(names: dict[Kernel, str]) -> str:
    """The translation unit of kernels."""
    helpers = {name for kernel in names for name in kernel.helpers}
    texts = [
        f'extern "C" __global__ void __launch_bounds__({kernel.threads}) {name}'
        f"({', '.join(kernel.params)})\n{{\n{kernel.body}\n}}"
        for kernel, name in names.items()
    ]
    return "\n\n".join([prelude.declarations(helpers), *texts])
