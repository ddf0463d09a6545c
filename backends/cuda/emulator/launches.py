"""What of a launch is checked before it runs: sizes against the limits of the device, arguments
against the parameters of the kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from backends.cuda.device import Grid, Limits
from backends.cuda.emulator.compiler import Kernel, Parameter

BLOCK: Grid = (1024, 1024, 64)  # the most threads of a block along x, y and z
DECLARED = 48 * 1024  # the most bytes of shared memory that a kernel may declare
# What NumPy calls numbers of each kind. A struct may be one of a narrow float too.
KINDS = {"f": "f", "i": "i", "u": "u", "b": "b", "s": "fV"}
WORDS = {"f": "a float", "i": "an integer", "u": "an unsigned integer", "b": "a bool"}


def unlaunchable(kernel: Kernel, grid: Grid, block: Grid, shared: int, limits: Limits) -> str:
    """Why the device refuses a launch; empty if it does not."""
    for what, sizes, most in (("grid", grid, limits.grid), ("block", block, BLOCK)):
        if any(not 1 <= size <= limit for size, limit in zip(sizes, most, strict=True)):
            return f"a {what} of {sizes} is outside of 1 to {most}"
    threads = block[0] * block[1] * block[2]
    if threads > limits.threads:
        return f"a block of {threads} threads is larger than {limits.threads}"
    if kernel.bound and threads > kernel.bound:
        return f"a block of {threads} threads, while __launch_bounds__ promises {kernel.bound}"
    if kernel.static > DECLARED:
        return f"it declares {kernel.static} bytes of shared memory, more than {DECLARED}"
    if kernel.static + shared > limits.shared:
        return (
            f"it takes {kernel.static} + {shared} bytes of shared memory, more than {limits.shared}"
        )
    return ""


def unfit(engine: ctypes.CDLL, kernel: Kernel, arguments: Sequence[np.generic]) -> str:
    """Why a kernel cannot take arguments; empty if it can."""
    if len(arguments) != len(kernel.parameters):
        return f"{len(arguments)} arguments for {len(kernel.parameters)} parameters"
    for number, (argument, parameter) in enumerate(zip(arguments, kernel.parameters, strict=True)):
        problem = _unfit(engine, argument, parameter)
        if problem:
            return f"argument {number}: {problem}"
    return ""


def _unfit(engine: ctypes.CDLL, argument: np.generic, parameter: Parameter) -> str:
    if not isinstance(argument, np.generic):
        return f"{type(argument).__name__} {argument!r} is no number of NumPy, so its width is open"
    kind: str = parameter.kind.decode()
    if kind in "pc":
        return _misplaced(engine, argument, parameter)
    if argument.nbytes != parameter.bytes or argument.dtype.kind not in KINDS[kind]:
        what = WORDS.get(kind, "a struct")
        return f"{argument.dtype} for a parameter that is {what} of {parameter.bytes} bytes"
    return ""


def _misplaced(engine: ctypes.CDLL, argument: np.generic, parameter: Parameter) -> str:
    """Why an argument is no address of what a parameter points to."""
    if argument.dtype != np.uint64:
        return f"{argument.dtype} for a pointer, whose address is a uint64"
    address = int(argument)
    room = engine.emulator_room(address)
    if room < 0:
        return f"the address {address:#x} lies in no buffer"
    if address % parameter.alignment:
        return f"the address {address:#x} is no multiple of {parameter.alignment}"
    return ""
