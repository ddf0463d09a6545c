"""What goes wrong, in the user's terms.

Every error says what was found, what was expected, and the user's own line. Each class also
derives from the built-in exception that NumPy users would catch (``ValueError``, ``TypeError``,
``IndexError``).
"""

from __future__ import annotations

import functools
import linecache
import os
import sys
from types import CodeType, FrameType, TracebackType
from typing import Any
from weakref import WeakKeyDictionary

import optree

# Files below these are not the user's: lantern's own, and those of optree, which call functions
# of the user's on the leaves of trees.
_PACKAGES = tuple(
    os.path.dirname(os.path.abspath(str(file))) + os.sep for file in (__file__, optree.__file__)
)


class LanternError(Exception):
    """Base class of all errors that lantern raises on purpose: a message, and the user's line.

    Attributes:
        place: the innermost line outside lantern at which it was raised.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.place = user_line()

    def __str__(self) -> str:
        return f"{super().__str__()}\n  at {self.place}"


class ArgumentError(LanternError, ValueError):
    """An argument outside of what a function takes."""


class ArgumentTypeError(LanternError, TypeError):
    """An argument of a kind that a function does not take."""


class ShapeError(LanternError, ValueError):
    """Shapes that do not fit together."""


class DTypeError(LanternError, TypeError):
    """Data types that an operation does not take or cannot combine."""


class NumberRangeError(DTypeError, OverflowError):
    """A Python number that the dtype it should take does not hold."""


class IndexRangeError(LanternError, IndexError):
    """An index outside the array, or an index of an unknown kind."""


class RuleError(LanternError, RuntimeError):
    """A primitive's rule that breaks the protocol of one ``yield`` and one adjoint per argument."""


class DifferentiationError(LanternError, TypeError):
    """A derivative that was asked for and does not exist."""


class BatchingError(LanternError, TypeError):
    """Something that is not one value, but a batch of them, was used as one value."""


class ImmutableError(LanternError, TypeError):
    """An attempt to write into a Tensor."""


class CheckpointError(LanternError, ValueError):
    """A checkpoint that cannot be written, or is missing, damaged, or not what was expected."""


class NonFiniteError(LanternError, ArithmeticError):
    """A nan or an infinity that an operation's operands did not have, inside `debug.check_nans`."""


class MeterError(LanternError, RuntimeError):
    """Energy that cannot be measured, or accounts of it that cannot be read."""


class AssertionFailedError(LanternError, AssertionError):
    """An ``assert`` of a value of a compiled program that does not hold."""


class DerivativeLostWarning(UserWarning):
    """A number was read out of a Tensor that is being differentiated; no derivative follows it."""


class LimitError(LanternError, RuntimeError):
    """A loop or a recursion that goes on beyond the limit that it was given."""


class FrameMemoryError(LanternError, MemoryError):
    """No memory is left for what loops of a compiled function save for their derivatives."""


class StagingError(LanternError, TypeError):
    """Something that a compiled function cannot do, or cannot do yet."""


class DonatedError(LanternError, RuntimeError):
    """A Tensor that cannot be given away, or that is used after it has been."""


class CacheWarning(UserWarning):
    """Compiled programs that cannot be kept on disk, or were damaged there."""


class BackendWarning(UserWarning):
    """Something that a backend would need is missing; what runs instead is slower."""


class UnbatchedWarning(UserWarning):
    """What was to be done for several items together is done for one after the other."""


class RecompilationWarning(UserWarning):
    """A function that is compiled again and again."""


class UnrolledWarning(UserWarning):
    """A compiled function that grows and grows, such as by a loop of Python over numbers."""


@functools.cache
def is_ours(filename: str) -> bool:
    """Whether a file of source belongs to lantern, or to what calls for it."""
    return os.path.abspath(filename).startswith(_PACKAGES)


def user_frame() -> FrameType:
    """The innermost frame outside lantern."""
    frame = sys._getframe(1)
    while frame.f_back is not None and is_ours(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def user_line(line: int | None = None) -> str:
    """The innermost line outside lantern, or another one of that file, as ``file:line in function:
    source``.

    Example:
        >>> print(user_line().split(" in ")[1].split(":")[0])
        <module>
    """
    frame = user_frame()
    name, number = frame.f_code.co_filename, line or frame.f_lineno
    source = linecache.getline(name, number).strip()
    where = f"{name}:{number} in {frame.f_code.co_name}"
    return f"{where}: {source}" if source else where


def user_place() -> str:
    """The innermost line outside lantern, as ``file:line``."""
    frame = user_frame()
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


# Functions whose control flow `lantern.syntax` could not rewrite, and why.
unrewritten: WeakKeyDictionary[CodeType, str] = WeakKeyDictionary()


def why_not_rewritten() -> str:
    """Why the user's innermost function has its control flow as it is written, as a sentence; empty
    where nothing is known."""
    frame = user_frame()
    reason = unrewritten.get(frame.f_code)
    if reason is None:
        return ""
    return f". In {frame.f_code.co_name} `if`, `while` and `for` are those of Python: {reason}"


def defined(f: Any) -> str:
    """Where a function of the user's is defined, as `` (file:line)``; nothing of another one.

    Example:
        >>> import lantern as ln
        >>> defined(lambda x: x).strip(" ()").rsplit(":", 1)[1], defined(ln.Tensor)
        ('1', '')
    """
    while isinstance(f, functools.partial) or hasattr(f, "__wrapped__"):
        f = f.func if isinstance(f, functools.partial) else f.__wrapped__
    code = getattr(f, "__code__", None)
    if code is None or is_ours(code.co_filename):
        return ""
    return f" ({code.co_filename}:{code.co_firstlineno})"


class short_traceback:
    """A context for a user's function: the traceback of a `LanternError` ends in the user's line.

    Lantern's frames below that line are cut off; other exceptions, which may be bugs, keep all.

    Example:
        >>> import lantern as ln
        >>> with short_traceback():
        ...     raise LanternError("shown with the user's frames only")
        Traceback (most recent call last):
            ...
        lantern.errors.LanternError: shown with the user's frames only
          at ...
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        if not isinstance(error, LanternError):
            return
        last = None
        while trace is not None:
            if not is_ours(trace.tb_frame.f_code.co_filename):
                last = trace
            trace = trace.tb_next
        if last is not None:
            last.tb_next = None


def describe(x: Any) -> str:
    """An operand as ``float32[2, 3]``, or the Python value itself.

    Example:
        >>> import numpy as np
        >>> describe(np.zeros((2, 3), np.float32))
        'float32[2, 3]'
    """
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return f"{x.dtype}{list(x.shape)}"
    return f"{type(x).__name__} {x!r}"


def explain(operation: str, operands: tuple[Any, ...], problem: Exception) -> Exception:
    """The error to raise for a kernel's ``problem``: with the operands and the user's line."""
    if isinstance(problem, LanternError):
        return problem
    kind: type[LanternError]
    if isinstance(problem, IndexError):
        kind = IndexRangeError
    elif isinstance(problem, ValueError):
        kind = ShapeError
    elif isinstance(problem, TypeError):
        kind = DTypeError
    else:
        return problem
    shown = ", ".join(describe(x) for x in operands)
    return kind(f"{operation}({shown}): {problem}")
