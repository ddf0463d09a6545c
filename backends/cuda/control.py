"""Operations that hold blocks, and those with effects: what the host does for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from backends.cuda.agenda import AGENDA
from backends.cuda.device import Span
from backends.cuda.host import Control, Host, Place, Scope
from backends.cuda.lists import Rows, aligned
from backends.cuda.memory import is_placed
from backends.cuda.recursion import RECURSION
from staging.activations import Node
from staging.failures import BEYOND, failure
from staging.ir import Op, Type, Value
from staging.memory import Plan, spares


def call(
    host: Host, scope: Scope, op: Op, given: Sequence[Any], targets: Sequence[Any]
) -> Sequence[Place]:
    """The block once."""
    inner = Scope(scope.plan.nested[op], scope.frame.inner(scope.plan, op, 0))
    sources = [*given]
    for k, j in enumerate(inner.plan.kept):
        if j is not None and targets[k] is not None:  # it may lie in a node, which others read
            host.copy(targets[k], given[j])
            sources[j] = targets[k]
    return host.block(op.blocks[0], inner, sources, targets)


def switch(
    host: Host, scope: Scope, op: Op, given: Sequence[Any], targets: Sequence[Any]
) -> Sequence[Place]:
    """The block that the index names."""
    chosen = min(max(host.read(given[0]), 0), len(op.blocks) - 1)
    plan = scope.plan.branches[op][chosen]
    inner = Scope(plan, scope.frame.inner(scope.plan, op, chosen))
    return host.block(op.blocks[chosen], inner, given[1:], targets)


class Carry:
    """The carry of a loop while it runs. What a step cannot write in place goes back and forth
    between two buffers.

    Args:
        host: the call.
        scope: where the loop stands.
        plan: of its body.
        op: the loop.
        results: the last carry.
        given: where the first one lies.
        targets: where the last one shall lie.
        count: how many steps are made, if that is known.
    """

    def __init__(
        self, host: Host, scope: Scope, plan: Plan, op: Op, results: Sequence[Value],
        given: Sequence[Any], targets: Sequence[Any], count: int | None,
    ) -> None:  # fmt: skip
        self.host, self.targets = host, targets
        twice = spares(op, plan)
        self.now: list[Any] = [*given]
        self.pairs: list[tuple[Any, Any]] = []  # where this step writes, and where the next one
        for k, value in enumerate(results):
            target = targets[k]
            if not is_placed(value.type):
                self.pairs.append((None, None))
            elif value not in twice:
                host.copy(target, given[k])
                self.now[k] = target
                self.pairs.append((target, target))
            else:
                spare = scope.frame.room((scope.plan, value), value.type)
                odd = count is None or count % 2 == 1
                self.pairs.append((target, spare) if odd else (spare, target))
                if given[k].address == self.pairs[k][0].address:
                    host.copy(self.pairs[k][1], given[k])
                    self.now[k] = self.pairs[k][1]

    @property
    def then(self) -> list[Any]:
        """Where this step writes."""
        return [pair[0] for pair in self.pairs]

    def advance(self, made: Sequence[Any]) -> None:
        """At the end of a step, which made the next carry."""
        self.now = [*made]
        self.pairs = [(b, a) for a, b in self.pairs]

    def finish(self) -> list[Place]:
        """Where the last carry lies."""
        for k, target in enumerate(self.targets):
            if target is not None:
                self.host.copy(target, self.now[k])
                self.now[k] = target
        return self.now


class Slices:
    """What a loop reads of a stacked array, or list, at each step.

    Args:
        host: the call.
        scope: where the loop stands.
        place: of the stacked value.
        row: the type of a row.
    """

    def __init__(self, host: Host, scope: Scope, place: Any, row: Type) -> None:
        self.host, self.place, self.row = host, place, row
        self.bytes = scope.frame.bytes(row) if is_placed(row) else 0
        self.apart = isinstance(place, Span) and aligned(self.bytes) != self.bytes

    def __getitem__(self, i: int) -> Any:
        """The slice of a step, where kernels may read it; behind the end of a list, zeros."""
        if isinstance(self.place, Span):
            part = self.place.part(i * self.bytes, self.bytes)
            if not self.apart:
                return part
            span = self.host.frame.fresh(self.row)
            self.host.copy(span, part)
            return span
        return self.place[i] if i < len(self.place) else self.host.zeros(self.row)


class Outputs:
    """What the steps of a loop give besides the carry.

    Args:
        host: the call.
        scope: where the loop stands.
        op: the loop.
        target: where that shall lie, if it is an array.
        row: the type of what a step gives.
        count: how many steps are made, if that is known.
    """

    def __init__(
        self, host: Host, scope: Scope, op: Op, target: Any, row: Type, count: int | None
    ) -> None:
        self.host, self.op, self.row = host, op, row
        self.bytes = scope.frame.bytes(row) if is_placed(row) else 0
        self.apart = aligned(self.bytes) != self.bytes
        self.place: Any = target
        if target is None and is_placed(row):
            self.place = Rows(host.frame, row, count or 0)
        elif target is None:
            self.place = [None] * (count or 0)

    def room(self, i: int) -> Any:
        """Where a step shall write.

        Raises:
            FrameFailure: there is no memory for another row.
        """
        if isinstance(self.place, Rows):
            return self.grown(i)
        if not isinstance(self.place, Span):
            return None
        return None if self.apart else self.place.part(i * self.bytes, self.bytes)

    def grown(self, i: int) -> Any:
        while len(self.place) <= i:
            before = self.place.bytes
            try:
                self.place.grow()
            except MemoryError:
                raise failure(self.op, before, self.host.saved) from None
            self.host.saved += self.place.bytes - before
        return self.place[i]

    def take(self, i: int, made: Any) -> None:
        """What a step gave."""
        if isinstance(self.place, Span):
            self.host.copy(self.place.part(i * self.bytes, self.bytes), made)
        elif not isinstance(self.place, Rows):
            if i == len(self.place):
                self.place.append(made)
            else:
                self.place[i] = made


def scan(
    host: Host, scope: Scope, op: Op, given: Sequence[Any], targets: Sequence[Any]
) -> Sequence[Place]:
    """Carry, captured, a step's slices → carry, a step's outputs; from the end if reversed."""
    count, carried, captured = (
        cast(int, op.attributes[k]) for k in ("length", "carried", "captured")
    )
    if count == -1:
        count, given = host.read(given[0]), given[1:]
    elif count < -1:
        count = host.lengths[count]
    (block,) = op.blocks
    plan = scope.plan.nested[op]
    inner = Scope(plan, scope.frame.inner(scope.plan, op, 0))
    ends, first = op.results[:carried], given[:carried]
    carry = Carry(host, scope, plan, op, ends, first, targets[:carried], count)
    fixed = given[carried : carried + captured]
    slices = [
        Slices(host, scope, place, v.type)
        for place, v in zip(given[carried + captured :], block.params[carried + captured :],
                            strict=True)
    ]  # fmt: skip
    outputs = [
        Outputs(host, scope, op, target, v.type, count)
        for target, v in zip(targets[carried:], block.results[carried:], strict=True)
    ]
    steps = range(count)
    for i in reversed(steps) if op.attributes["reverse"] else steps:
        made = host.block(
            block, inner, [*carry.now, *fixed, *(s[i] for s in slices)],
            [*carry.then, *(o.room(i) for o in outputs)],
        )  # fmt: skip
        carry.advance(made[:carried])
        for output, place in zip(outputs, made[carried:], strict=True):
            output.take(i, place)
    return [*carry.finish(), *(o.place for o in outputs)]


def while_(
    host: Host, scope: Scope, op: Op, given: Sequence[Any], targets: Sequence[Any]
) -> Sequence[Place]:
    """Count, carry, lists of what the steps give."""
    if op in host.loaded.module.loops:
        return while_of_numbers(host, op, given, targets)
    test, body = op.blocks
    plans = scope.plan.branches[op]
    scopes = [Scope(plan, scope.frame.inner(scope.plan, op, k)) for k, plan in enumerate(plans)]
    carried = cast(int, op.attributes["carried"])
    fixed, ends = given[carried:], op.results[1 : 1 + carried]
    carry = Carry(host, scope, plans[1], op, ends, given[:carried], targets[1 : 1 + carried], None)
    outputs = [Outputs(host, scope, op, None, v.type, None) for v in body.results[carried:]]
    holds = host.frame.fresh(Type("bool"))
    count, limit = 0, op.attributes.get("limit")
    while True:
        host.block(test, scopes[0], [*carry.now, *fixed], [holds])
        if not host.read(holds, "bool"):
            break
        if count == limit:
            raise failure(op, count, BEYOND)
        rooms = [o.room(count) for o in outputs]
        made = host.block(body, scopes[1], [*carry.now, *fixed], [*carry.then, *rooms])
        carry.advance(made[:carried])
        for output, place in zip(outputs, made[carried:], strict=True):
            output.take(count, place)
        count += 1
    host.write(targets[0], count)
    return [targets[0], *carry.finish(), *(o.place for o in outputs)]


def while_of_numbers(
    host: Host, op: Op, given: Sequence[Any], targets: Sequence[Any]
) -> Sequence[Place]:
    """A `while` that a kernel performs, launched again until it has ended."""
    launch, going = host.loaded.module.loops[op]
    host.write(targets[0], 0)
    for target, place in zip(targets[1:], given, strict=False):
        host.copy(target, place)
    places = dict(zip(op.inputs, given, strict=True)) | dict(zip(op.results, targets, strict=True))
    places[going] = host.frame.fresh(going.type)
    while True:
        host.queue.step(host, op, launch, places)
        if not host.read(places[going], "bool"):
            return targets


def empty(
    host: Host, scope: Scope, op: Op, given: Sequence[Any], targets: Sequence[Any]
) -> Sequence[Place]:
    """No list at all, a node that holds nothing, or a table of zeros."""
    if targets[0] is None:
        return (host.zeros(op.results[0].type),)
    host.clear(targets[0])
    return targets


def extent(
    host: Host, scope: Scope, op: Op, given: Sequence[Any], targets: Sequence[Any]
) -> Sequence[Place]:
    """How long tables are."""
    host.write(targets[0], host.lengths[cast(int, op.attributes["length"])])
    return targets


def reshape(
    host: Host, scope: Scope, op: Op, given: Sequence[Any], targets: Sequence[Any]
) -> Sequence[Place]:
    """The same bytes."""
    if targets[0] is None:
        return given
    host.copy(targets[0], given[0])
    return targets


def add(
    host: Host, scope: Scope, op: Op, given: Sequence[Any], targets: Sequence[Any]
) -> Sequence[Place]:
    """The sum of two lists; the shorter one goes on with zeros."""
    type = op.results[0].type
    row = Type(type.dtype, type.shape[type.shape.index(-1) + 1 :])
    return (summed(host, row, given[0], given[1], len(type.shape) - len(row.shape)),)


def summed(host: Host, row: Type, x: Any, y: Any, depth: int) -> Any:
    """The sum of two lists, or of lists of lists that are so deep."""
    if not depth:
        span = host.frame.fresh(row)
        host.into(host.loaded.module.adders[row], [x, y], span)
        return span
    few, many = sorted((x, y), key=len)
    found = [summed(host, row, few[i], many[i], depth - 1) for i in range(len(few))]
    return [*found, *(many[i] for i in range(len(few), len(many)))]


def show(
    host: Host, scope: Scope, op: Op, given: Sequence[Any], targets: Sequence[Any]
) -> Sequence[Place]:
    """Print values, once all that comes before them has been computed."""
    arrays = [host.fetch(place, v.type) for place, v in zip(given, op.inputs, strict=True)]
    host.check()
    print(str(op.attributes["format"]).format(*arrays))
    return ()


def require(
    host: Host, scope: Scope, op: Op, given: Sequence[Any], targets: Sequence[Any]
) -> Sequence[Place]:
    """Go on only if it holds."""
    if not host.read(given[0], "bool"):
        raise failure(op)
    return ()


def pack(
    host: Host, scope: Scope, op: Op, given: Sequence[Any], targets: Sequence[Any]
) -> Sequence[Place]:
    """A node of copies: the memory of a block is used again when it ends."""
    return (Node(cast(int, op.attributes["tag"]), tuple(map(host.kept, given))),)


def tag(
    host: Host, scope: Scope, op: Op, given: Sequence[Any], targets: Sequence[Any]
) -> Sequence[Place]:
    """The number of a node."""
    host.write(targets[0], 0 if given[0] is None else given[0].tag)
    return targets


CONTROL: Mapping[str, Control] = {
    "call": call,
    "switch": switch,
    "scan": scan,
    "while": while_,
    "empty": empty,
    "extent": extent,
    "reshape": reshape,
    "add": add,
    "print": show,
    "require": require,
    "pack": pack,
    "tag": tag,
    **RECURSION,
    **AGENDA,
}
