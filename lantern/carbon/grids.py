"""How much a kilowatt-hour of electricity emits: of a country, of the world, or as given."""

from __future__ import annotations

import difflib
import functools
import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from lantern.errors import ArgumentError, MeterError

__all__ = ["Grid", "grid"]

WORLD = "world"


class Grid(NamedTuple):
    """A source of electricity.

    Attributes:
        name: of the country, and the year of the figure.
        grams: of CO2 equivalents that a kilowatt-hour emits.
        source: who says so.
    """

    name: str
    grams: float
    source: str


def grid(place: str | float) -> Grid:
    """The electricity of a country, from the tables that codecarbon brings along.

    Args:
        place: a country, by its ISO 3166 code of three letters or its English name; ``"world"`` for
            the mean of the world; or a number, the grams of CO2 equivalents a kilowatt-hour, as
            one's supplier states it.

    Raises:
        ArgumentError: no such country is known, or the number is negative or not finite.
        MeterError: codecarbon is not installed.

    Example:
        >>> grid("FRA") == grid("France")
        True
        >>> grid(25.0)
        Grid(name='as given', grams=25.0, source='given')
    """
    if not isinstance(place, str):
        if not (math.isfinite(place) and place >= 0):
            raise ArgumentError(
                f"a grid of {place} g/kWh: it must be a finite number, and not negative"
            )
        return Grid("as given", float(place), "given")
    if place.casefold() == WORLD:
        world = table("carbon_intensity_per_source")
        return Grid("the world's mean", world["world_average"], world["world_average_source"])
    row = countries().get(place.casefold())
    if row is None:
        close = difflib.get_close_matches(place.casefold(), countries(), 3, 0.5)
        near = [f"{countries()[c]['iso_code']} ({countries()[c]['country_name']})" for c in close]
        raise ArgumentError(
            f"no grid of {place!r} is known: expected a code of three letters such as 'FRA', an "
            f"English name, 'world', or a number of g/kWh"
            + (f"; close to it are {', '.join(dict.fromkeys(near))}" if near else "")
        )
    if not row.get("carbon_intensity"):  # none is known, or it is stated as 0, which none is
        raise ArgumentError(
            f"codecarbon's table has no intensity of {row['country_name']}: give a number of g/kWh"
        )
    return Grid(
        f"{row['country_name']} {row['year']}", row["carbon_intensity"],
        "global_energy_mix.json of codecarbon",
    )  # fmt: skip


@functools.cache
def countries() -> dict[str, dict[str, Any]]:
    """Rows of the table by code and by name, in lower case."""
    rows = table("global_energy_mix")
    names = {row["country_name"].casefold(): row for row in rows.values()}
    return names | {code.casefold(): row for code, row in rows.items()}


@functools.cache
def table(name: str) -> dict[str, Any]:
    """One of codecarbon's tables, read without importing the package, which takes a second."""
    path = installed() / "data" / "private_infra" / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise MeterError(f"codecarbon's table {path} cannot be read: {problem}") from None


def installed() -> Path:
    """The folder of codecarbon.

    Raises:
        MeterError: it is not installed.
    """
    found = find_spec("codecarbon")
    if found is None or not found.submodule_search_locations:
        raise MeterError(
            "energy is measured by the package codecarbon, which is not installed: "
            "pip install 'lantern-ad[carbon]', or pip install codecarbon"
        )
    return Path(found.submodule_search_locations[0])
