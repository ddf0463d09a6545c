"""What a GPU is, and what it does at best, measured: copies inside its memory, and products of
large matrices by cuBLAS. The roofline that kernels are compared with is of these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backends.cuda.device import Device, Product, Span
from backends.cuda.runtime import CupyDevice

COPIED = 1 << 30  # bytes
SIDE = 8192  # of the matrices
TIMES = 20


def seconds(device: Device, work: Callable[[], None]) -> float:
    """How long a piece of work takes, the best of some times after it was done once."""
    work()
    found: list[float] = []
    for _ in range(TIMES):
        first = device.mark()
        work()
        found.append(device.elapsed(first, device.mark()))
    return min(found)


def room(device: Device, bytes: int) -> Span:
    """Memory, filled with zeros."""
    span = Span(device.empty(bytes, "the roofline"), 0, bytes)
    device.fill(span, 0)
    return span


def bandwidth(device: Device, bytes: int = COPIED) -> float:
    """Bytes a second that a copy reads and writes."""
    source, target = room(device, bytes), room(device, bytes)
    return 2 * bytes / seconds(device, lambda: device.copy(target, source))


def products(device: Device, dtype: str, side: int = SIDE) -> float:
    """Operations a second of a product of square matrices, accumulated in float32."""
    itemsize = {"float32": 4, "bfloat16": 2}[dtype]
    x, y, z = (room(device, itemsize * side * side) for _ in range(3))
    product = Product(1, side, side, side, False, False, dtype, dtype)
    return 2 * side**3 / seconds(device, lambda: device.gemm(product, x, y, z))


def about(device: CupyDevice) -> dict[str, Any]:
    """What a report says of the GPU."""
    return {
        "name": device.name,
        "architecture": device.limits.architecture,
        "processors": device.limits.processors,
        "bandwidth": bandwidth(device),
        "float32": products(device, "float32"),
        "bfloat16": products(device, "bfloat16"),
    }
