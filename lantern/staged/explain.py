"""Why a function was compiled again: what differs from an earlier time."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lantern.errors import RecompilationWarning
from lantern.staged.fingerprint import Read

if TYPE_CHECKING:
    from lantern.staged.specialization import Specialization

OFTEN = 8  # compilations, after which a function's user is told, and again after twice as many


class Difference(NamedTuple):
    """Something that was another before."""

    what: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.what} was {self.before}, is {self.after}"


def differences(old: Specialization, new: Specialization) -> list[Difference]:
    """All that differs between two times."""
    return [*of_arguments(old, new), *of_reads(old.fingerprint.reads, new.reads)]


def of_arguments(old: Specialization, new: Specialization) -> Iterator[Difference]:
    before, after = (dict(zip(s.names, s.shown, strict=True)) for s in (old, new))
    for name in [*before, *(n for n in after if n not in before)]:
        one, other = before.get(name, "absent"), after.get(name, "absent")
        if one != other:
            yield Difference(name, one, other)
    if before.keys() == after.keys() and old.structure != new.structure:
        yield Difference("the structure of the arguments", str(old.structure), str(new.structure))


def of_reads(old: Sequence[Read], new: Sequence[Read]) -> Iterator[Difference]:
    before, after = ({(r.path, r.reader): r for r in reads} for reads in (old, new))
    for key in [*before, *(k for k in after if k not in before)]:
        one, other = before.get(key), after.get(key)
        if one is None or other is None or one.value != other.value:
            path, reader = key
            shown = [r.shown if r else "absent" for r in (one, other)]
            if shown[0] == shown[1]:
                shown[1] = f"another: {shown[1]}"
            yield Difference(f"{path}, which {reader} reads," if reader else path, *shown)


def nearest(new: Specialization, earlier: Sequence[Specialization]) -> list[Difference]:
    """The differences from the time that differs least."""
    return min((differences(old, new) for old in reversed(earlier)), key=len)


def explanation(name: str, new: Specialization, earlier: Sequence[Specialization]) -> str:
    """Why the last compilation was, as text."""
    count = len(earlier) + 1
    if not earlier:
        return f"{name} was compiled once: at its first call"
    found = nearest(new, earlier)
    lines = [f"  {difference}" for difference in found]
    return "\n".join([f"{name} was compiled {count} times, the last time because", *lines])


def warn_if_often(name: str, history: Sequence[Specialization]) -> None:
    """Say what keeps changing, where a function has been compiled many times."""
    count = len(history)
    if count < OFTEN or count & (count - 1):
        return
    found: Counter[str] = Counter()
    examples: dict[str, Difference] = {}
    for i in range(1, count):
        for difference in nearest(history[i], history[:i]):
            found[difference.what] += 1
            examples[difference.what] = difference
    most = [examples[what] for what, _ in found.most_common(3)]
    shown = "; ".join(map(str, most))
    warnings.warn(
        f"{name} has been compiled {count} times. What keeps changing: {shown}. An array or a "
        "number that changes is best an argument of the function: then one program serves for all",
        RecompilationWarning,
        stacklevel=4,
    )
