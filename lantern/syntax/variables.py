"""Variables of a function, read and written from outside: the cells that its parts share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import CellType
from typing import Any, NoReturn

from lantern.errors import StagingError


class Undefined:
    """Stands in a variable that has no value on one of the ways there, or none that fits.

    Attributes:
        why: what an error says that reads the variable.
    """

    def __init__(self, why: str) -> None:
        self.why = why

    def refuse(self) -> NoReturn:
        """Say why there is no value.

        Raises:
            StagingError: always.
        """
        raise StagingError(self.why)

    def __repr__(self) -> str:
        return f"Undefined({self.why!r})"


class Unbound(Undefined):
    """What a variable holds before anything has been assigned to it."""


UNBOUND = Unbound("the variable has no value yet")


class Variables:
    """The variables of a function that some of its parts bind.

    Attributes:
        cells: by name; absent are those that are not shared with any of the parts.
    """

    def __init__(self, parts: Iterable[Callable[..., Any] | None], names: Iterable[str]) -> None:
        found: dict[str, CellType] = {}
        for part in parts:
            if part is not None:
                found |= zip(part.__code__.co_freevars, part.__closure__ or (), strict=True)
        self.cells = {name: found[name] for name in names if name in found}

    def read(self) -> dict[str, Any]:
        """What the variables hold."""
        return {name: _content(cell) for name, cell in self.cells.items()}

    def write(self, values: dict[str, Any]) -> None:
        """Give some variables other values."""
        for name, value in values.items():
            if value is not UNBOUND:
                self.cells[name].cell_contents = value
            elif _content(self.cells[name]) is not UNBOUND:
                del self.cells[name].cell_contents

    @contextmanager
    def restored(self) -> Iterator[None]:
        """A context behind which the variables hold what they held before."""
        before = self.read()
        try:
            yield
        finally:
            self.write(before)


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return UNBOUND
