"""Recursion by an agenda: equal work of independent calls together, as wide operations.

Where the calls of a recursion can be found before anything is computed (`lantern.paths`), a program
finds them first, those of all roots, and then performs each unit (`lantern.units`) for many of them
at once. The adjoint goes the same way back through the same tables.

The meaning is that of `lantern.activations.recurse`, one root after the other. That also gives what
nobody needs fast: the derivative of the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from lantern.activations import recurse as perform
from lantern.blocks import at_positions, call_rule
from lantern.control import Primitive, Prompt, Reverse, bound, unbox
from lantern.declare import declared_rule
from lantern.errors import BatchingError
from lantern.groups import Function, Group
from lantern.joins import joined
from lantern.paths import Refusal, Survey, slots, surveyed
from lantern.primitives.products import matmul
from lantern.primitives.structure import concat, reshape, split
from lantern.ragged import zeros
from lantern.regions import RESULT, Block, Kind, Recording, floating
from lantern.tensor import Tensor
from lantern.units import Sheet, sheets
from staging import agenda as form

HANDLE: Kind = (form.HANDLE.shape, np.dtype(form.HANDLE.dtype))
MATMUL: Primitive = matmul.primitive  # type: ignore[attr-defined]  # see `bound`
# For how many rows units are compiled that run over all rows, and chains, from how many roots on.
ROWS = {1: ((8, 32), (2, 8)), 2: ((32, 256), (8, 64)), 16: ((48, 240), (12, 48))}


class Half(NamedTuple):
    """One direction of an agenda.

    Attributes:
        form: what its operation says.
        blocks: control, if it is the way there, and of each unit one for each size.
        reads: the positions of the captures that it takes.
    """

    form: form.Agenda
    blocks: tuple[Block, ...]
    reads: tuple[int, ...]


class Cut(NamedTuple):
    """Both directions of an agenda.

    Attributes:
        plan: of which it is.
        there: to the results, and the handle of the tables.
        back: from the handle and the adjoints of the results.
        adjoints: the positions of the results that are floating.
        found: the positions of the captures that have an adjoint.
    """

    plan: Plan
    there: Half
    back: Half
    adjoints: tuple[int, ...]
    found: tuple[int, ...]


@dataclass(eq=False)
class Plan:
    """A recursion whose calls can be found first.

    Attributes:
        group: its functions.
        entry: the one that the roots call.
        roots: how many roots there are.
        mapped: which captures there are one of for each root.
        survey: the paths through the functions.
    """

    group: Group
    entry: int
    roots: int
    mapped: tuple[bool, ...]
    survey: Survey
    cuts: dict[tuple[int, ...], Cut] = field(default_factory=dict[tuple[int, ...], Cut])
    vjps: dict[tuple[int, ...], Block] = field(default_factory=dict[tuple[int, ...], Block])

    @property
    def sizes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """For how many rows units are compiled that run over all rows, and chains."""
        return ROWS[max(n for n in ROWS if n <= max(self.roots, 1))]

    @property
    def results(self) -> tuple[Kind, ...]:
        """The kinds of the results of a root."""
        return self.group.functions[self.entry].results

    @property
    def arity(self) -> int:
        """The number of arguments of a root."""
        return len(self.group.functions[self.entry].args)

    def captured(self, values: Sequence[Any]) -> list[list[Any]]:
        """Of all operands those for each capture: one, or one for each root."""
        rest = iter(values[self.arity :])
        return [[next(rest) for _ in range(self.roots if m else 1)] for m in self.mapped]

    def places(self) -> dict[int, int]:
        """The captures, by position, behind the operands that there are one of."""
        found: dict[int, int] = {}
        at = self.arity
        for k, m in enumerate(self.mapped):
            if not m:
                found[at] = k
            at += self.roots if m else 1
        return found

    def cut(self, wanted: tuple[int, ...]) -> Cut:
        """Both directions, for the adjoints of some captures."""
        if wanted not in self.cuts:
            self.cuts[wanted] = self.make_cut(wanted)
        return self.cuts[wanted]

    def make_cut(self, wanted: tuple[int, ...]) -> Cut:
        sizes = sorted({size for some in self.sizes for size in some})
        made = [{n: sheets(path, n, wanted) for n in sizes} for path in self.survey.paths]
        there = [{n: s.there for n, s in some.items()} for some in made]
        back = [{n: s.back for n, s in some.items()} for some in made]
        paths, returning = ([some[sizes[0]].path for some in way] for way in (there, back))
        units = [u for path in returning for u in path.units]
        found = sorted({i for u in units for i in u.sums})
        reads = sorted({i for u in units for i in u.captures})
        forward = tuple(paths)
        returned = [_renumbered(path, reads, found) for path in returning]
        return Cut(
            self,
            Half(self.form((), forward, self.mapped), (*self.survey.controls, *self.blocks(there)),
                 tuple(range(len(self.mapped)))),
            Half(self.form(forward, returned, (False,) * len(reads)), self.blocks(back),
                 tuple(reads)),
            tuple(i for i, kind in enumerate(self.results) if floating(kind)),
            tuple(found),
        )  # fmt: skip

    def form(
        self, there: tuple[form.Path, ...], paths: Sequence[form.Path], mapped: tuple[bool, ...]
    ) -> form.Agenda:
        args = tuple(len(f.args) for f in self.group.functions)
        return form.Agenda(
            self.roots, self.entry, args, mapped, self.survey.ways, there, tuple(paths), *self.sizes
        )

    def blocks(self, made: Sequence[dict[int, Sheet]]) -> tuple[Block, ...]:
        """The blocks of each path, of each of its units, for each number of rows."""
        found: list[Block] = []
        for some in made:
            first = next(iter(some.values())).path
            if any(sheet.path != first for sheet in some.values()):
                raise Refusal("a function computes differently with batches of other sizes")
            full = [u for u, unit in enumerate(first.units) if not unit.empty]
            for k, u in enumerate(full):
                found += (some[n].blocks[k] for n in self.sizes[u == form.CHAIN])
        return tuple(found)

    def one_by_one(self, *values: Any) -> tuple[Any, ...]:
        """The results of the roots, one after the other, stacked."""
        args = [_elements(x) for x in values[: self.arity]]
        captures = [some * (self.roots // len(some)) for some in self.captured(values)]
        found = [
            perform(*(some[root] for some in (*args, *captures)),
                    group=self.group, entry=self.entry)
            for root in range(self.roots)
        ]  # fmt: skip
        return tuple(_stacked(some) for some in zip(*found, strict=True))

    def vjp(self, cut: Cut, kinds: Sequence[Kind]) -> Block:
        """What `_BACK` computes, one root after the other: a block of its operands."""
        if cut.found not in self.vjps:
            region, prompt = Recording(), Reverse()
            params = [region.parameter(*kind) for kind in kinds]
            seeds, given = params[1 : 1 + len(cut.adjoints)], params[1 + len(cut.adjoints) :]
            places = [i for i, k in self.places().items() if k in cut.found]
            inside = [prompt.variable(x) if i in places else x for i, x in enumerate(given)]
            with region, prompt:
                outs = self.one_by_one(*inside)
                for i, seed in zip(cut.adjoints, seeds, strict=True):
                    if type(outs[i]) is Tensor and outs[i].prompt is prompt:
                        prompt.accumulate(outs[i].mark, seed, RESULT)
                prompt.unwind()
            arrived = [prompt.adjoint_of(inside[i]) for i in places]
            self.vjps[cut.found] = region.block(arrived)
        return self.vjps[cut.found]


def _elements(x: Any) -> list[Any]:
    """The elements along the first axis."""
    parts = split(x, sizes=(1,) * x.shape[0], axis=0)
    return [reshape(part, shape=x.shape[1:]) for part in parts]


def _stacked(xs: Sequence[Any]) -> Any:
    return concat(*(reshape(x, shape=(1, *x.shape)) for x in xs), axis=0)


def _renumbered(path: form.Path, reads: Sequence[int], found: Sequence[int]) -> form.Path:
    """A path whose units number the captures and sums as they are handed to them."""
    before, chain, after = (
        u._replace(captures=tuple(map(reads.index, u.captures)),
                   sums=tuple(map(found.index, u.sums)))
        for u in path.units
    )  # fmt: skip
    return path._replace(units=(before, chain, after))


def planned(group: Group, entry: int, roots: int, mapped: Sequence[bool]) -> Plan:
    """How to perform a recursion by an agenda.

    Args:
        group: the functions.
        entry: the one that is called from outside.
        roots: how many calls from outside there are.
        mapped: which captures there are one of for each of these.

    Raises:
        Refusal: it is not possible.
    """
    group = joined(group, entry)
    plan = Plan(group, 0, roots, tuple(mapped), surveyed(group, mapped))
    floats = (i for i, kind in enumerate(group.captures) if floating(kind) and not mapped[i])
    plan.cut(tuple(floats))
    return plan


def recurse(*values: Any, plan: Plan) -> tuple[Any, ...]:
    """Perform a recursion.

    Args:
        *values: the arguments of the roots, stacked; then the captures, one for each root of those
            that the plan says.
        plan: from `planned`.

    Returns:
        The results of the roots, stacked.
    """
    return _AGENDA[plan.group.linear](*values, plan=plan)


def by_agenda(
    group: Group, args: Sequence[Tensor], captures: Sequence[Tensor]
) -> Sequence[Any] | None:
    """Perform the first function of a group by an agenda, if that is possible and worth it: where
    calls multiply by matrices that all of them read. None if not."""
    worth = any(_multiplies(f, len(captures)) for f in group.functions)
    if not worth or not _plain((*args, *captures)):
        return None
    try:
        plan = planned(group, 0, 1, (False,) * len(captures))
    except Refusal:
        return None
    outs = recurse(*(reshape(x, shape=(1, *x.shape)) for x in args), *captures, plan=plan)
    return [reshape(y, shape=y.shape[1:]) for y in outs]


def _multiplies(function: Function, captured: int) -> bool:
    """Whether a function multiplies by a matrix that comes from captures alone."""
    for body in function.body.all():
        block = body.block
        known = set(block.params[len(block.params) - captured :])
        for step in block.steps:
            if step.primitive is MATMUL and not known.isdisjoint(slots(step)):
                return True
            if known.issuperset(slots(step)):
                known.update(step.results)
    return False


def prompts_of(x: Any) -> Iterator[Prompt]:
    """The prompts that a value belongs to, the innermost first."""
    while type(x) is Tensor and x.prompt is not None:
        yield x.prompt
        x = x.value


def _plain(values: Sequence[Any]) -> bool:
    """Whether values belong to no batch, to no forward mode and to one derivative at most."""
    found = {p for x in values for p in prompts_of(x) if type(p) is not Recording}
    return len(found) <= 1 and all(type(p) is Reverse for p in found)


def _wanted(values: Sequence[Any], plan: Plan, wanted: tuple[int, ...] | None) -> Cut:
    """Both directions for the adjoints of some operands; None: of all."""
    some = range(len(values)) if wanted is None else wanted
    places = plan.places()
    floats = (places[i] for i in some if i in places and floating(((), values[i].dtype)))
    return plan.cut(tuple(floats))


def _agenda_rule(*values: Any, plan: Plan, wanted: tuple[int, ...] | None = None) -> Any:
    cut = _wanted(values, plan, wanted)
    linear = plan.group.linear
    *outs, handle = _THERE[linear](*values, cut=cut)
    dz = yield tuple(outs)
    return _unwound(cut, handle, dz, values)


def _there_rule(*values: Any, cut: Cut, wanted: tuple[int, ...] | None = None) -> Any:
    cut = _wanted(values, cut.plan, wanted)
    *outs, handle = _THERE[cut.plan.group.linear](*values, cut=cut)
    dz = yield (*outs, handle)
    return _unwound(cut, handle, dz, values)


def _unwound(cut: Cut, handle: Any, dz: Sequence[Any], values: Sequence[Any]) -> tuple[Any, ...]:
    """The adjoints of the operands."""
    places = [i for i, k in cut.plan.places().items() if k in cut.found]
    if not places:
        return (None,) * len(values)
    seeds = (dz[i] for i in cut.adjoints)
    found = _BACK[cut.plan.group.linear](handle, *seeds, *values, cut=cut)
    return at_positions(len(values), places, found)


def _back_rule(*values: Any, cut: Cut, wanted: tuple[int, ...] | None = None) -> Any:
    kinds = [(x.shape, x.dtype) for x in values]
    return call_rule(*values, block=cut.plan.vjp(cut, kinds), run=None, wanted=wanted)


def _agenda_kernel(*values: Any, plan: Plan) -> tuple[Any, ...]:
    return tuple(map(unbox, plan.one_by_one(*values)))


def _there_kernel(*values: Any, cut: Cut) -> tuple[Any, ...]:
    """On arrays there are no tables, and nothing reads the handle."""
    return (*_agenda_kernel(*values, plan=cut.plan), zeros(*HANDLE))


def _back_kernel(*values: Any, cut: Cut) -> tuple[Any, ...]:
    block = cut.plan.vjp(cut, [(x.shape, x.dtype) for x in values])
    return tuple(map(unbox, block(*values)))


def _batch(*_: Any, **static: Any) -> Any:
    raise BatchingError(
        "ln.vmap of a recursion whose calls are batched already; use ln.vmap inside of ln.batch"
    )


def _declared(name: str, kernel: Any, rule: Any) -> dict[bool, Callable[..., Any]]:
    return {
        linear: bound(Primitive(name, kernel, rule, _batch, linear, selective=True))
        for linear in (True, False)
    }


_AGENDA = _declared("agenda", _agenda_kernel, declared_rule(_agenda_rule))
_THERE = _declared("agenda", _there_kernel, declared_rule(_there_rule))
_BACK = _declared("unwind", _back_kernel, _back_rule)
AGENDAS, WAYS_THERE, WAYS_BACK = (tuple(some.values()) for some in (_AGENDA, _THERE, _BACK))
