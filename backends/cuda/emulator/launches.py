"""What of a launch is checked before it runs: sizes against the limits of the device, arguments
against the parameters of the kernel."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import numpy as np

from backends.cuda.device import DeviceError, Grid, Limits, Span
from backends.cuda.emulator.compiler import Kernel, Parameter
from backends.cuda.emulator.engine import Operand
from backends.cuda.limits import STATIC, Usage, check_launch

# What NumPy calls numbers of each kind. A struct may be one of a narrow float too.
KINDS = {"f": "f", "i": "i", "u": "u", "b": "b", "s": "fV"}
WORDS = {
    "f": "a float",
    "i": "an integer",
    "u": "an unsigned integer",
    "b": "a bool",
    "s": "a struct",
}


def check(kernel: Kernel, grid: Grid, block: Grid, shared: int, limits: Limits) -> None:
    """Refuse a launch that the device would refuse.

    Raises:
        DeviceError: it would.
    """
    check_launch(kernel.name, limits, Usage(0, kernel.static), grid, block, shared)
    threads = math.prod(block)
    if kernel.bound and threads > kernel.bound:
        raise DeviceError(
            f"{kernel.name}: a block of {threads} threads; __launch_bounds__ promises no more than "
            f"{kernel.bound}"
        )
    if kernel.static > STATIC:
        raise DeviceError(
            f"{kernel.name}: {kernel.static} bytes of shared memory are declared; without asking "
            f"there are {STATIC}"
        )


def operands(
    engine: ctypes.PyDLL, kernel: Kernel, arguments: Sequence[np.generic | Span]
) -> list[Operand]:
    """The memory that a kernel is given.

    Raises:
        DeviceError: the arguments are not those that it takes.
    """
    if len(arguments) != len(kernel.parameters):
        raise DeviceError(
            f"{kernel.name}: {len(arguments)} arguments for {len(kernel.parameters)} parameters"
        )
    found: list[Operand] = []
    for number, (argument, parameter) in enumerate(zip(arguments, kernel.parameters, strict=True)):
        try:
            if parameter.kind in b"pct":
                begin, end = _memory(engine, argument, parameter)
                found.append(Operand(begin, end, number, parameter.kind == b"p"))
            else:
                _check_number(argument, parameter)
        except ValueError as error:
            raise DeviceError(f"{kernel.name}: argument {number}: {error}") from None
    return found


def _check_number(argument: np.generic | Span, parameter: Parameter) -> None:
    kind: str = parameter.kind.decode()
    what = f"a parameter that is {WORDS[kind]} of {parameter.bytes} bytes"
    if not isinstance(argument, np.generic):
        raise ValueError(f"{type(argument).__name__}, which is no number of NumPy, for {what}")
    if argument.nbytes != parameter.bytes or argument.dtype.kind not in KINDS[kind]:
        raise ValueError(f"{argument.dtype} for {what}")


def _memory(
    engine: ctypes.PyDLL, argument: np.generic | Span, parameter: Parameter
) -> tuple[int, int]:
    """The beginning and the end of what a pointer is given: of a span, or from an address on to the
    end of its buffer."""
    if isinstance(argument, Span):
        begin, room = argument.address, argument.bytes
    elif isinstance(argument, np.generic) and argument.dtype == np.uint64:
        begin = int(argument)
        room = engine.emulator_room(begin)
        if room < 0:
            raise ValueError(f"the address {begin:#x} lies in no buffer")
    else:
        raise ValueError(f"{type(argument).__name__} for a pointer")
    if begin % parameter.alignment:
        raise ValueError(f"the address {begin:#x} is no multiple of {parameter.alignment}")
    return begin, begin + room
