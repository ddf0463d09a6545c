"""Looking into a program while it runs, eager or compiled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from string import Formatter
from typing import Any

import numpy as np

from lantern.checks import checking
from lantern.errors import ArgumentError, StagingError
from lantern.places import staging
from lantern.primitives.effects import show
from lantern.symbol import is_known
from lantern.tensor import Tensor

__all__ = ["check_nans", "print"]


def print(text: str, /, *values: Any, **named: Any) -> None:
    """Print values where Python's ``print`` cannot: while a function is compiled, or transformed.

    In a compiled function it is part of the program, which prints whenever it comes by, in the
    order of the program. Inside `grad` and `jvp` it prints the values themselves, once, in the
    forward half; what `checkpoint` runs again prints again. Inside `vmap` it prints a line for each
    element of the batch, in order; in a branch or a loop in which the elements part it is refused.

    Args:
        text: as `str.format` takes it: ``"loss {:.3f} at {step}"``.
        *values: Tensors, for the fields without a name; anything else is formatted at once.
        **named: the same, for the fields with a name.

    Raises:
        ArgumentError: a field without a value, or a format that the value does not have.
        StagingError: in a compiled function, and none of the values is one of its program.
        BatchingError: in a branch or a loop that not all elements of a batch go through.

    Example:
        >>> import lantern as ln
        >>> def loss(x):
        ...     y = ln.sum(x * x)
        ...     ln.debug.print("{name} = {:.1f}", y, name="loss")
        ...     return y
        >>> ln.compile(ln.grad(loss))(ln.asarray([1.0, 2.0]))
        loss = 5.0
        Tensor([2., 4.], dtype=float32)
    """
    formatter, numbers = Formatter(), count()
    pieces: list[str] = []
    shown: list[Tensor] = []

    def fields(text: str) -> Iterator[tuple[str, Any, str, Any]]:
        """Texts, and the value, format and conversion of the field behind each, if any."""
        for literal, field, spec, conversion in formatter.parse(text):
            if field is None:
                yield literal, "", "", None
                continue
            if not field or field[0] in ".[":
                field = f"{next(numbers)}{field}"
            value, _ = formatter.get_field(field, values, named)
            inner = "".join(f"{before}{part}" for before, part, _, _ in fields(spec or ""))
            yield literal, value, inner, conversion

    try:
        for literal, value, spec, conversion in fields(text):
            pieces.append(escaped(literal))
            if type(value) is Tensor:
                rest = (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
                pieces.append(f"{{{len(shown)}{rest}}}")
                shown.append(value)
            else:
                value = formatter.convert_field(value, conversion)
                pieces.append(escaped(format(value, spec)))
        line = "".join(pieces)
        line.format(*(np.zeros(x.shape, x.dtype) for x in shown))
    except (LookupError, AttributeError, ValueError, TypeError) as problem:
        raise ArgumentError(f"debug.print({text!r}): {problem}") from None
    if staging.get() and all(map(is_known, shown)):
        raise StagingError(
            f"debug.print({text!r}) shows no value of the program that is being compiled, so it "
            "would print now, and not when the program runs; show one, or use Python's print"
        )
    show(*shown, format=line, batches=())


def escaped(text: str) -> str:
    """Text that a format leaves as it is."""
    return text.replace("{", "{{").replace("}", "}}")


@contextmanager
def check_nans() -> Iterator[None]:
    """A context in which the first operation that makes a nan or an infinity is an error.

    It is one whose result has a nan that no operand of it has, or an infinity where the operands
    are finite: one that was there before, such as the -inf of a mask, is no error, nor is an
    operation that takes it away. The error names the operation, the shapes, the user's line, and
    whether it was the forward or the backward half. A compiled function that is called here is
    compiled again with the checks as a part of its program (`ln.compile(f, check_nans=True)` always
    does that); everything takes several times as long.

    Raises:
        NonFiniteError: at the first such operation.

    Example:
        >>> import lantern as ln
        >>> with ln.debug.check_nans():
        ...     ln.log(ln.asarray([1.0, 0.0]))
        Traceback (most recent call last):
            ...
        lantern.errors.NonFiniteError: log(float32[2]) gives -inf at [1] of float32[2]; ...
          at ...
    """
    with checking():
        yield
