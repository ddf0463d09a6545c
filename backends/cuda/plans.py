"""How teams of threads go over the rows of a loop nest: how many threads take a row, how many
neighbouring columns each reads at once, and where what several passes want is kept."""

from __future__ import annotations

from dataclasses import dataclass

from backends.cuda.elements import THREADS
from backends.cuda.expressions import accumulator
from backends.cuda.limits import ARCHITECTURES
from backends.cuda.nests import Nest
from backends.cuda.reductions import MANY, WARP, lanes_of
from staging.ir import ITEMSIZE, Op, Value

WORDS = 64  # registers of a thread for what is kept
FEW = 16  # elements of a thread up to which a part of a warp takes a row; all of it: twice as many
LONG = 8192  # groups of a row that chunks share, if there are few rows
SHARED = ARCHITECTURES["sm_80"].shared - 4096  # bytes of a row that is kept; the rest: totals


@dataclass(frozen=True, slots=True)
class Plan:
    """How teams go over rows.

    Attributes:
        team: threads of one.
        lanes: neighbouring columns that a thread reads at once.
        groups: of neighbours, in a row.
        kept: where what several passes want lies: in ``"registers"``, as the sums of columns do
            then; ``"shared"`` memory; or ``"nowhere"``.
    """

    team: int
    lanes: int
    groups: int
    kept: str

    @property
    def threads(self) -> int:
        """Of a block."""
        return max(self.team, THREADS) if self.team <= WARP else self.team

    @property
    def items(self) -> int:
        """The groups of a thread."""
        return -(-self.groups // self.team)


def planned(nest: Nest) -> Plan | None:
    """How teams go over rows; None: these are few, and too long for one."""
    lanes = lanes_of(nest.columns, nest.sources() or nest.block.results)
    groups = nest.columns // lanes
    words = {v: words_of(v.type.dtype) for v in nest.kept}
    live = nest.live(words) + sum(words_of(wide_of(op)) for op in nest.down)
    if nest.rows * 1024 < MANY and groups > LONG:
        return None
    found: Plan | None = None
    for team in (1, 2, 4, 8, 16, 32, 128, 256, 512, 1024):
        plan = Plan(team, lanes, groups, "registers")
        elements = plan.items * lanes
        small = team > WARP or elements <= (2 * FEW if team == WARP else FEW)
        if not small or elements * live > (WORDS if team < 1024 else WORDS // 3):
            continue
        found = plan
        if nest.rows * team >= MANY // 2 or 2 * team > groups:
            break
    if found is not None or nest.rows * 1024 < MANY:
        return found
    _, bytes = in_shared(nest)
    return Plan(1024, lanes, groups, "shared" if 0 < bytes <= SHARED else "nowhere")


def words_of(dtype: str) -> int:
    """How many registers a number takes."""
    return max(1, ITEMSIZE[dtype] // 4)


def in_shared(nest: Nest) -> tuple[dict[Value, int], int]:
    """Where what is kept of a row lies in shared memory, and how much that is. A value takes the
    place of one that is read for the last time where it is made itself."""
    places: dict[Value, int] = {}
    total = 0
    for value, kept in sorted(nest.kept.items(), key=lambda item: item[1].first):
        for other in places:
            free = all(
                nest.kept[v].last <= kept.first for v in places if places[v] == places[other]
            )
            if free and other.type.dtype == value.type.dtype:
                places[value] = places[other]
                break
        else:
            places[value] = total
            total += -(-nest.columns * ITEMSIZE[value.type.dtype] // 16) * 16
    return places, total


def wide_of(op: Op) -> str:
    """The dtype that a reduction accumulates in."""
    return accumulator(op.results[0].type.dtype)
