"""What each architecture allows, whether a launch is within that, and how many blocks of a kernel a
multiprocessor holds at a time.

The numbers are those of the table "Technical Specifications per Compute Capability" of the CUDA C++
Programming Guide; the multiprocessors are those of the full product of the architecture (A100, H100
SXM, B200), and a real device says how many it has.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from backends.cuda.device import DeviceError, Grid, Limits
from staging.machine import ACCELERATORS

KIB = 1024
WARP = 32
GRANULE = 256  # registers are given to a warp by so many
RESERVED = 1 * KIB  # of shared memory, by the system for each block
STATIC = 48 * KIB  # of shared memory without being asked for

MEMORY = {"sm_80": 164 * KIB, "sm_90": 228 * KIB, "sm_100": 228 * KIB}  # shared, of a processor
ARCHITECTURES = {
    one.architecture: Limits(
        one.architecture,
        shared=MEMORY[one.architecture] - RESERVED,
        processors=one.threads,
        memory=MEMORY[one.architecture],
    )
    for one in ACCELERATORS.values()
}


class Usage(NamedTuple):
    """What a compiled kernel takes, as the assembler says.

    Attributes:
        registers: of a thread.
        shared: bytes of static shared memory of a block.
        spills: bytes of registers that a thread stores to memory and loads from there.
        stack: bytes of a thread's own memory, which lies in global memory.
    """

    registers: int
    shared: int = 0
    spills: int = 0
    stack: int = 0


class Occupancy(NamedTuple):
    """How full a multiprocessor is.

    Attributes:
        blocks: how many it holds at a time; 0 if a launch fails.
        share: of the threads that it could hold.
        bound: what there is no more of: ``"threads"``, ``"blocks"``, ``"registers"`` or
            ``"shared memory"``.
    """

    blocks: int
    share: float
    bound: str


def up(number: int, step: int) -> int:
    """The multiple of a step that is not less."""
    return -(-number // step) * step


def occupancy(limits: Limits, usage: Usage, threads: int, dynamic: int = 0) -> Occupancy:
    """How many blocks of a kernel a multiprocessor holds at a time.

    Args:
        limits: of the architecture.
        usage: of the kernel.
        threads: of a block.
        dynamic: bytes of shared memory that a launch asks for.

    Example:
        >>> occupancy(ARCHITECTURES["sm_90"], Usage(registers=64), threads=256)
        Occupancy(blocks=4, share=0.5, bound='registers')
    """
    warps = -(-threads // WARP)
    shared = usage.shared + dynamic
    room = {
        "threads": limits.resident // (warps * WARP),
        "blocks": limits.blocks,
        "registers": limits.file // (up(usage.registers * WARP, GRANULE) * warps),
        "shared memory": limits.memory // (up(shared, 128) + RESERVED),
    }
    bound = min(room, key=room.__getitem__)
    return Occupancy(room[bound], room[bound] * warps * WARP / limits.resident, bound)


def check_launch(
    name: str, limits: Limits, usage: Usage, grid: Grid, block: Grid, dynamic: int
) -> None:
    """Refuse a launch that the device would refuse, or not answer for.

    Args:
        name: of the kernel.
        limits: of the device.
        usage: of the kernel.
        grid, block: of the launch.
        dynamic: bytes of shared memory that it asks for.

    Raises:
        DeviceError: it cannot be; says what is asked for and what there is.

    Example:
        >>> limits = ARCHITECTURES["sm_80"]
        >>> check_launch("k", limits, Usage(40), (1, 1, 1), (2048, 1, 1), 0)
        Traceback (most recent call last):
        backends.cuda.device.DeviceError: k: a block of 2048 threads; sm_80 allows 1024
    """
    threads = math.prod(block)
    registers = up(usage.registers * WARP, GRANULE) * -(-threads // WARP)
    shared = usage.shared + dynamic
    wrong = {
        f"a grid of {grid}; {limits.architecture} allows {limits.grid}": any(
            not 1 <= n <= most for n, most in zip(grid, limits.grid, strict=True)
        ),
        f"a block of {block}: its third axis may be 64 long": not 1 <= block[2] <= 64,
        f"a block of {threads} threads; {limits.architecture} allows {limits.threads}": (
            not 1 <= threads <= limits.threads
        ),
        f"{shared} bytes of shared memory for a block; {limits.architecture} allows "
        f"{limits.shared}": shared > limits.shared,
        f"{usage.registers} registers for each of {threads} threads; a multiprocessor has "
        f"{limits.file}": registers > limits.file,
    }
    for what, is_so in wrong.items():
        if is_so:
            raise DeviceError(f"{name}: {what}")
