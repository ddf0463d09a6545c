"""What a GPU allows of a launch, and how many blocks it runs at once."""

from __future__ import annotations

import pytest

from backends.cuda.device import DeviceError
from backends.cuda.limits import ARCHITECTURES, STATIC, Usage, check_launch, occupancy


@pytest.mark.parametrize(
    ("threads", "usage", "dynamic", "blocks", "bound"),
    [
        (256, Usage(32), 0, 8, "threads"),
        (32, Usage(16), 0, 32, "blocks"),
        (256, Usage(65), 0, 3, "registers"),  # 72 for each, by whole granules of a warp
        (256, Usage(255), 0, 1, "registers"),
        (128, Usage(32, shared=40 * 1024), 72 * 1024, 2, "shared memory"),
        (1024, Usage(80), 0, 0, "registers"),
    ],
)
def test_occupancy(threads: int, usage: Usage, dynamic: int, blocks: int, bound: str) -> None:
    found = occupancy(ARCHITECTURES["sm_90"], usage, threads, dynamic)
    assert (found.blocks, found.bound) == (blocks, bound)
    assert found.share == blocks * threads / 2048


@pytest.mark.parametrize(
    ("grid", "block", "usage", "dynamic", "said"),
    [
        ((1, 65536, 1), (32, 1, 1), Usage(8), 0, "a grid of (1, 65536, 1)"),
        ((0, 1, 1), (32, 1, 1), Usage(8), 0, "a grid of (0, 1, 1)"),
        ((1, 1, 1), (32, 33, 1), Usage(8), 0, "a block of 1056 threads; sm_80 allows 1024"),
        ((1, 1, 1), (1, 1, 65), Usage(8), 0, "its third axis"),
        ((1, 1, 1), (32, 1, 1), Usage(8, STATIC), 116 * 1024, "167936 bytes of shared memory"),
        ((1, 1, 1), (512, 1, 1), Usage(136), 0, "136 registers for each of 512 threads"),
    ],
)
def test_refuses_launches(
    grid: tuple[int, int, int], block: tuple[int, int, int], usage: Usage, dynamic: int, said: str
) -> None:
    with pytest.raises(DeviceError) as raised:
        check_launch("k", ARCHITECTURES["sm_80"], usage, grid, block, dynamic)
    assert said in str(raised.value)


def test_allows_the_largest_launches() -> None:
    for limits in ARCHITECTURES.values():
        check_launch("k", limits, Usage(64), limits.grid, (1024, 1, 1), limits.shared)
