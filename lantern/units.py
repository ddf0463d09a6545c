"""Units: what a path computes (`lantern.paths`), for several calls at once, cut in what waits for
nothing, a chain, and what nobody waits for.

The block of a path is batched, and cut in its halves. Each half is then divided alike: some of what
it reads comes late, and some of what it makes is waited for. On the way there, results of the calls
inside come late, and the own results are waited for; on the way back it is the adjoints of these.
Only the chain between the two runs level by level; all else is one wide operation for all calls,
the products that give the adjoints of weights among them. What one unit hands to another is a
column.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lantern.control import Primitive
from lantern.paths import Path, Refusal, slots
from lantern.primitives.elementwise import add
from lantern.primitives.structure import broadcast_to, reshape
from lantern.regions import Block, Kind, Slot, Step, floating, needed
from staging import agenda as form

ADD: Primitive = add.primitive  # type: ignore[attr-defined]
BROADCAST: Primitive = broadcast_to.primitive  # type: ignore[attr-defined]
RESHAPE: Primitive = reshape.primitive  # type: ignore[attr-defined]


class Sheet(NamedTuple):
    """A path of an `agenda` or `unwind`: its form, and the block of each of its units."""

    path: form.Path
    blocks: tuple[Block, ...]


class Sheets(NamedTuple):
    """The way there and the way back of a path."""

    there: Sheet
    back: Sheet


@dataclass(eq=False)
class _Columns:
    """The columns of a path while they are found."""

    kinds: Sequence[Kind]
    of: dict[Slot, int] = field(default_factory=dict[Slot, int])
    slots: list[Slot] = field(default_factory=list[Slot])

    def new(self, slot: Slot) -> int:
        """A column for a slot."""
        self.of[slot] = len(self.slots)
        self.slots.append(slot)
        return self.of[slot]

    def types(self, first: int) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The dtypes and shapes of the columns from one on, for one row."""
        kinds = (self.kinds[slot.number] for slot in self.slots[first:])
        return tuple((dtype.name, shape[1:]) for shape, dtype in kinds)


def sheets(path: Path, size: int, wanted: tuple[int, ...]) -> Sheets:
    """The units of a path for ``size`` calls at once.

    Args:
        path: what is computed.
        size: how many rows.
        wanted: the captures, by position in the group, whose adjoints are wanted.

    Raises:
        Refusal: what a unit would hand to another one has no row for each call.
    """
    key = size, wanted
    if key not in path.halves:
        path.halves[key] = _Cutter(path, size, wanted).sheets()
    return path.halves[key]


class _Cutter:
    """A path while it is cut."""

    def __init__(self, path: Path, size: int, wanted: tuple[int, ...]) -> None:
        self.path, self.size = path, size
        first, count = len(path.given), len(path.given) + len(path.inner)
        mapped = tuple(i < count for i in range(len(path.block.params)))
        block, _ = path.block.batched(size, mapped, (True,) * len(path.block.results))
        captures = (count + i for i, c in enumerate(path.captures) if c in wanted)
        places = tuple(
            i for i in (*range(first, count), *captures) if floating(block.kind(block.params[i]))
        )
        self.halves = block.halves(places, frozenset(block.params))
        params = self.halves.forward.params
        self.kinds = list(self.halves.forward.kinds)
        self.columns = _Columns(self.kinds)
        for p in params[:count]:
            self.columns.new(p)
        self.inner = params[first:count]
        self.captures = dict(zip(params[count:], path.captures, strict=True))
        self.rows = set(params[:count])  # what differs from call to call

    def sheets(self) -> Sheets:
        there = self.there()
        return Sheets(there, self.back(len(there.path.columns)))

    def there(self) -> Sheet:
        """The way to the results."""
        steps = list(self.halves.forward.steps)
        self.spread(steps)
        count = len(self.path.block.results)
        goals = [self.anchored(r, steps) for r in self.halves.forward.results[:count]]
        kept = [slot for slot in self.halves.saved if slot in self.rows]
        parts = self.divided(steps, self.inner, goals, cheap=False)
        units, blocks = self.units(parts, [*goals, *kept], {})
        links = tuple(
            form.Link(self.columns.of[p], i.call, i.result)
            for p, i in zip(self.inner, self.path.inner, strict=True)
        )
        return self.sheet(0, links, [self.columns.of[r] for r in goals], units, blocks)

    def back(self, known: int) -> Sheet:
        """The way from the adjoints of the results; so many columns are those of the way there."""
        half = self.halves.backward
        seeds = half.params[len(self.halves.frame) :]
        ends = [-1] * len(self.path.block.results)
        for i, seed in zip(self.halves.adjoints, seeds, strict=True):
            ends[i] = self.columns.new(seed)
            self.rows.add(seed)
        steps = [s for s in self.halves.forward.steps if self.rows.isdisjoint(s.results)]
        steps += (s for s in half.steps if not all(r in self.columns.of for r in s.results))
        self.spread(steps)
        first, params = len(self.path.given), self.halves.forward.params
        goals: dict[int, Slot] = {}
        sums: dict[int, Slot] = {}
        for i, r in zip(self.halves.found, half.results, strict=True):
            if params[i] not in self.captures:
                goals[i - first] = self.anchored(r, steps)
            elif type(r) is Slot:
                sums[self.captures[params[i]]] = r
        parts = self.divided(steps, seeds, goals.values(), cheap=True)
        if not {r for step in parts[1] for r in step.results}.isdisjoint(sums.values()):
            raise Refusal("the adjoint of a call depends on the sum of those of several")
        units, blocks = self.units(parts, list(goals.values()), sums)
        links = tuple(
            form.Link(self.columns.of[r], self.path.inner[i].call, self.path.inner[i].result)
            for i, r in goals.items()
        )
        return self.sheet(known, links, ends, units, blocks)

    def spread(self, steps: Sequence[Step]) -> None:
        """What is computed from what differs from call to call does so, too."""
        for step in steps:
            if not self.rows.isdisjoint(slots(step)):
                self.rows.update(step.results)

    def anchored(self, r: Any, steps: list[Step]) -> Slot:
        """A result as a value that has a row for each call, although it may be alike for all."""
        if type(r) is not Slot:
            slot = Slot(len(self.kinds))
            self.kinds.append((r.shape, r.dtype))
            steps.append(Step(BROADCAST, (r,), {"shape": r.shape}, (slot,), False, ""))
            r = slot
        self.rows.add(r)
        return r

    def divided(
        self, steps: Sequence[Step], late: Iterable[Slot], goals: Iterable[Slot], cheap: bool
    ) -> list[list[Step]]:
        """Steps that wait for nothing late, those between that and the goals, and the others. What
        is alike for all calls is in each; so is, on the way back, what waits for nothing: it is
        what the forward half has not saved, being cheap. The same elements in another shape are
        no column of their own: where they are read, they are reshaped again."""
        waiting, feeding = set(late), set(goals)
        for step in steps:
            if not waiting.isdisjoint(slots(step)):
                waiting.update(step.results)
        for step in reversed(steps):
            if not feeding.isdisjoint(step.results):
                feeding.update(slots(step))
        parts: list[list[Step]] = [[], [], []]
        again: list[set[Slot]] = [set(), set(), set()]
        for step in steps:
            early = waiting.isdisjoint(step.results)
            if self.rows.isdisjoint(step.results) or (early and cheap):
                homes = [0, 1, 2]
            else:
                home = 0 if early else 1 if not feeding.isdisjoint(step.results) else 2
                homes = [home]
                if step.primitive is RESHAPE:
                    homes += (behind := range(home + 1, 3))
                    for other in behind:
                        again[other].update(step.results)
            for home in homes:
                parts[home].append(step)
        return [_read(part, some) for part, some in zip(parts, again, strict=True)]

    def units(
        self, parts: Sequence[list[Step]], outputs: Sequence[Slot], sums: dict[int, Slot]
    ) -> tuple[list[form.Unit], list[Block]]:
        """A unit for each part, and the blocks of those that compute something."""
        units: list[form.Unit] = []
        blocks: list[Block] = []
        for number, part in enumerate(parts):
            made = {r for step in part for r in step.results} - self.columns.of.keys()
            later = {
                a
                for other in parts[number + 1 :]
                for a in {a for step in other for a in slots(step)}
                if all(a not in step.results for step in other)
            }
            writes = [r for r in dict.fromkeys(outputs) if r in made]
            writes += sorted((made & self.rows & later) - set(writes))
            own = {i: r for i, r in sums.items() if r in made}
            if not (writes or own):
                units.append(form.Unit((), (), (), ()))
                continue
            unit, block = self.unit(part, writes, own)
            units.append(unit)
            blocks.append(block)
        return units, blocks

    def unit(
        self, part: list[Step], writes: list[Slot], sums: dict[int, Slot]
    ) -> tuple[form.Unit, Block]:
        """One unit: its operands and results, and its block."""
        steps, reads = needed(part, (*writes, *sums.values()))
        kinds = list(self.kinds)
        before: list[Slot] = []
        after: list[Slot] = []
        for r in sums.values():
            total, new = Slot(len(kinds)), Slot(len(kinds) + 1)
            kinds += [kinds[r.number]] * 2
            steps.append(Step(ADD, (total, r), {}, (new,), False, steps[-1].place))
            before.append(total)
            after.append(new)
        columns = [slot for slot in sorted(reads) if slot in self.columns.of]
        captures = [slot for slot in sorted(reads) if slot in self.captures]
        numbers = [self.columns.of[s] for s in columns]
        for r in writes:
            if kinds[r.number][0][:1] != (self.size,):
                raise Refusal("what one call hands on is computed for all calls together")
        unit = form.Unit(
            tuple(numbers), tuple(self.captures[s] for s in captures),
            tuple(map(self.columns.new, writes)), tuple(sums),
        )  # fmt: skip
        block = Block((*columns, *captures, *before), tuple(steps), (*writes, *after), kinds)
        return unit, block

    def sheet(
        self, first: int, links: tuple[form.Link, ...], ends: Sequence[int],
        units: Sequence[form.Unit], blocks: Sequence[Block],
    ) -> Sheet:  # fmt: skip
        """The form of a path, its own columns those from ``first`` on."""
        before, chain, after = units
        own = form.Path(self.columns.types(first), links, tuple(ends), (before, chain, after))
        return Sheet(own, tuple(blocks))


def _read(part: Sequence[Step], again: set[Slot]) -> list[Step]:
    """A part without what is done there again, but not read."""
    kept: list[Step] = []
    reads: set[Slot] = set()
    for step in reversed(part):
        if again.isdisjoint(step.results) or not reads.isdisjoint(step.results):
            kept.append(step)
            reads.update(slots(step))
    return kept[::-1]
