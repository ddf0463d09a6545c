"""What loops and recursions keep for their derivatives: policies of `lantern.checkpoint`.

A loop of n steps keeps n frames: for each step, what its backward half reads. A policy keeps less,
and runs steps again on the way back.

| policy | keeps | runs each step forward |
|---|---|---|
| none | n frames | once |
| `sqrt` | about √n states and √n frames | twice |
| `binomial`, s slots | s states, one frame | at most 2 + r times, n ≤ (s + r)! / (s! r!) |
| `budget` | what fits into so many bytes | as few times as that allows |

A recursion keeps a node for each call; under `sqrt` and `budget` the calls at some depths, and the
nodes between two of these while it walks back there (`lantern.borders`). It makes each call two or
three times.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias

from lantern.errors import ArgumentError, ArgumentTypeError

__all__ = ["Binomial", "Budget", "Sqrt", "binomial", "budget", "sqrt"]


@dataclass(frozen=True)
class Sqrt:
    """About √n segments of about √n steps each."""


@dataclass(frozen=True)
class Binomial:
    """A fixed number of states, placed as Griewank and Walther's Revolve does."""

    slots: int


@dataclass(frozen=True)
class Budget:
    """So many bytes for what a loop keeps."""

    bytes: int


Policy: TypeAlias = Sqrt | Binomial | Budget
SCALE = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def sqrt() -> Sqrt:
    """A loop of n steps in about √n segments; the same as ``policy="sqrt"``.

    The state before each segment is kept. On the way back a segment runs once more, with the
    frames of its steps. Where the number of steps is known only when the loop has ended, the
    segments grow by one step each.

    Returns:
        A policy of `lantern.checkpoint`.

    Example:
        >>> import lantern as ln
        >>> def rate(r):                                       # the logistic map
        ...     return ln.fori_loop(0, 100, lambda i, x: r * x * (1 - x), 0.5)
        >>> kept = ln.checkpoint(rate, policy=ln.checkpoint_policies.sqrt())
        >>> print(f"{ln.grad(kept)(2.5):.4f} {ln.grad(rate)(2.5):.4f}")
        0.1600 0.1600
    """
    return Sqrt()


def binomial(slots: int) -> Binomial:
    """Keep a fixed number of states, whatever the number of steps (Griewank and Walther 2000).

    The way back begins with the state before the loop. To reach the last step it runs the loop
    again, and leaves states in free slots on its way, where binomial coefficients say; to reach the
    step before, it starts from the last of these. With s slots and n ≤ (s + r)! / (s! r!) steps no
    step is run again more than r times, beside its own backward half, and no other placement needs
    fewer runs.

    Args:
        slots: how many states, the first included.

    Returns:
        A policy of `lantern.checkpoint`.

    Raises:
        ArgumentError: there is no slot.

    Example:
        >>> import lantern as ln
        >>> def root(a):
        ...     better = lambda x: (x + a / x) / 2
        ...     return ln.while_loop(lambda x: ln.abs(x * x - a) > 1e-6, better, a)
        >>> kept = ln.checkpoint(root, policy=ln.checkpoint_policies.binomial(slots=3))
        >>> print(f"{ln.grad(kept)(4.0):.4f}")
        0.2500
    """
    if type(slots) is not int or slots < 1:
        raise ArgumentError(f"binomial: slots is {slots!r}; expected an integer, 1 or more")
    return Binomial(slots)


def budget(size: int | str) -> Budget:
    """What fits into so many bytes, with as few runs as that allows; the same as ``policy=size``.

    All frames are kept if they fit; else the states before segments, if there are segments that
    fit; else as many states as fit, as by `binomial`. A loop whose number of steps is known only
    when it has ended keeps frames in one half of the bytes, and is `binomial` in the other half
    from where these are full. Where the frame of one step of a loop does not fit, the loops inside
    that step get one half for themselves.

    Args:
        size: the bytes, as a number or such as ``"64MB"`` (10⁶) or ``"64MiB"`` (2²⁰).

    Returns:
        A policy of `lantern.checkpoint`.

    Raises:
        ArgumentError: ``size`` is no number of bytes.

    Example:
        >>> import lantern as ln
        >>> ln.checkpoint_policies.budget("64MiB")
        Budget(bytes=67108864)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]i?)?b?\s*", str(size).lower())
    if found is None or isinstance(size, bool):
        raise ArgumentError(f'budget: {size!r} is no number of bytes; such as 10**6 or "64MB"')
    number, unit = found.groups()
    return Budget(int(float(number) * SCALE[unit or ""]))


def policy_of(given: Any) -> Policy | None:
    """What a user gave as a policy.

    Raises:
        ArgumentError: a string that is none.
        ArgumentTypeError: something else.
    """
    if given is None or isinstance(given, (Sqrt, Binomial, Budget)):
        return given
    if given == "sqrt":
        return Sqrt()
    if type(given) is int or (type(given) is str and given[:1].isdigit()):
        return budget(given)
    kind = ArgumentError if isinstance(given, str) else ArgumentTypeError
    raise kind(
        f'checkpoint: policy is {given!r}; expected None, "sqrt", a number of bytes or such as '
        '"64MB", or ln.checkpoint_policies.binomial(slots=…)'
    )


_policy: ContextVar[Policy | None] = ContextVar("policy", default=None)


def current_policy() -> Policy | None:
    """The policy of the loops that are met here."""
    return _policy.get()


@contextmanager
def applied(policy: Policy | None) -> Iterator[None]:
    """A context in which loops have a policy."""
    token = _policy.set(policy)
    try:
        yield
    finally:
        _policy.reset(token)
