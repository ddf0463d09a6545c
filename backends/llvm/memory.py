"""The arena: one block of memory for every buffer of a program, laid out when it is compiled."""

from __future__ import annotations

ALIGNMENT = 64


class Arena:
    """Gives out ranges of one block and takes them back; ``size`` is the most that was in use.

    Example:
        >>> arena = Arena()
        >>> a, b = arena.take(10), arena.take(100)
        >>> arena.give(a)
        >>> arena.take(64)[0] == a[0], arena.size
        (True, 192)
    """

    def __init__(self) -> None:
        self.size = 0
        self.free: list[tuple[int, int]] = []  # (start, bytes) in order, no two adjacent

    def take(self, size: int) -> tuple[int, int]:
        """A range of at least so many bytes, aligned: its start and length."""
        size = max(1, -(-size // ALIGNMENT)) * ALIGNMENT
        fitting = [hole for hole in self.free if hole[1] >= size]
        if fitting:
            hole = min(fitting, key=lambda h: h[1])
            self.free.remove(hole)
            if hole[1] > size:
                self.give((hole[0] + size, hole[1] - size))
            return hole[0], size
        start = self.size
        if self.free and sum(self.free[-1]) == self.size:
            start = self.free.pop()[0]  # the last hole grows
        self.size = start + size
        return start, size

    def give(self, taken: tuple[int, int]) -> None:
        """Take a range back."""
        holes: list[tuple[int, int]] = []
        for start, size in sorted([*self.free, taken]):
            if holes and sum(holes[-1]) == start:
                holes[-1] = (holes[-1][0], holes[-1][1] + size)
            else:
                holes.append((start, size))
        self.free = holes
