"""A machine as far as predictions know it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from staging.table import quantity


@dataclass(frozen=True, slots=True)
class Machine:
    """The roofline of a machine, all of its cores together.

    Attributes:
        flops: float32 operations a second at best, a fused multiply-add counted as two.
        bandwidth: how many bytes are within reach, and how many of them come a second; from the
            nearest cache to the memory, whose reach is unlimited.
        threads: how many cores that is.
    """

    flops: float
    bandwidth: tuple[tuple[float, float], ...]
    threads: int = 1

    def rate(self, distance: float) -> float:
        """The bytes a second from where they lie if so many others were touched since."""
        for reach, rate in self.bandwidth:
            if distance <= reach:
                return rate
        return self.bandwidth[-1][1]

    def __str__(self) -> str:
        near = [f"{quantity(r, 'B/s')} within {quantity(n, 'B')}, " for n, r in self.bandwidth[:-1]]
        beyond = quantity(self.bandwidth[-1][1], "B/s")
        return (
            f"{quantity(self.flops, 'FLOP/s')} on {self.threads} threads; "
            f"{''.join(near)}{beyond}{' beyond' if near else ''}"
        )


@dataclass(frozen=True, slots=True)
class Accelerator(Machine):
    """The roofline of a GPU; ``threads`` is its multiprocessors, and what is near is its L2 cache.

    Attributes:
        name: of the product.
        architecture: such as ``"sm_90"``.
        double: float64 operations a second at best.
        products: operations a second of matrix products, by the dtype of the operands.
        start: the seconds from one kernel of a graph to the next where it has nothing to do.
        latency: the seconds from when a thread asks the memory for something until it comes.
    """

    name: str = ""
    architecture: str = ""
    double: float = 0.0
    products: Mapping[str, float] = field(default_factory=dict[str, float])
    start: float = 2e-6
    latency: float = 600e-9

    def __str__(self) -> str:
        tensor = quantity(self.products.get("bfloat16", self.flops), "FLOP/s")
        return (
            f"{self.name} ({self.architecture}): {quantity(self.flops, 'FLOP/s')} of float32, "
            f"{tensor} of products of bfloat16; {quantity(self.bandwidth[-1][1], 'B/s')}"
        )


def accelerator(
    name: str, architecture: str, processors: int, tera: Mapping[str, float], memory: float,
    cache: float,
) -> Accelerator:  # fmt: skip
    """A GPU from its data sheet.

    Args:
        name: of the product.
        architecture: such as ``"sm_90"``.
        processors: multiprocessors.
        tera: 10¹² operations a second: ``float32`` and ``float64`` of the ordinary units,
            ``narrow`` of products of float16 and bfloat16, ``double`` of those of float64, neither
            of sparse matrices. Products of float32 run on the ordinary units: TF32 is not float32.
        memory: 10¹² bytes a second.
        cache: the bytes of the L2 cache. How fast it is no data sheet says: it is taken to be twice
            as fast as the memory, which microbenchmarks exceed.
    """
    products = {
        "float16": tera["narrow"], "bfloat16": tera["narrow"], "float32": tera["float32"],
        "float64": tera["double"],
    }  # fmt: skip
    return Accelerator(
        tera["float32"] * 1e12,
        ((cache, 2e12 * memory), (float("inf"), 1e12 * memory)),
        processors, name, architecture, tera["float64"] * 1e12,
        {dtype: 1e12 * rate for dtype, rate in products.items()},
    )  # fmt: skip


# NVIDIA's data sheets: "A100 Tensor Core GPU" (SXM, 80 GB), "H100 Tensor Core GPU" (SXM) and "HGX
# B200" (an eighth of it); multiprocessors and caches from the white papers of the architectures.
ACCELERATORS: dict[str, Accelerator] = {
    "a100": accelerator(
        "A100 SXM", "sm_80", 108,
        {"float32": 19.5, "float64": 9.7, "double": 19.5, "narrow": 312.0}, 2.039, 40e6,
    ),
    "h100": accelerator(
        "H100 SXM", "sm_90", 132,
        {"float32": 67.0, "float64": 34.0, "double": 67.0, "narrow": 989.4}, 3.35, 50e6,
    ),
    "b200": accelerator(
        "B200", "sm_100", 148,
        {"float32": 75.0, "float64": 37.0, "double": 37.0, "narrow": 2250.0}, 7.7, 126e6,
    ),
}  # fmt: skip
