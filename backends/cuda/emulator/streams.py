"""Streams: queues of work that are drained when somebody waits, in a random order that a seed
gives, so that a result which depends on a `wait` that was forgotten is a wrong one at times."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

Work: TypeAlias = Callable[[], object]


@dataclass(eq=False, slots=True)
class Event:
    """A place in a stream that another one waits for.

    Attributes:
        passed: whether all before it is done.
    """

    passed: bool = False


@dataclass(eq=False, frozen=True, slots=True)
class Wait:
    """Go on when an event has passed."""

    event: Event


Item: TypeAlias = "Work | Event | Wait"


@dataclass(eq=False, slots=True)
class EmulatedStream:
    """A queue of work, of events, and of those that are waited for."""

    queue: deque[Item] = field(default_factory=deque)

    @property
    def ready(self) -> bool:
        """Whether something can be done now."""
        return bool(self.queue) and not (
            isinstance(first := self.queue[0], Wait) and not first.event.passed
        )

    def step(self) -> None:
        """Do what stands first."""
        match self.queue.popleft():
            case Event() as event:
                event.passed = True
            case Wait():
                pass
            case work:
                work()


def drain(wanted: Iterable[EmulatedStream], every: list[EmulatedStream], choice: random.Random):
    """Do all of some streams, and at random what stands in the others meanwhile.

    Example:
        >>> done = []
        >>> a, b = EmulatedStream(), EmulatedStream()
        >>> a.queue.append(lambda: done.append("a"))
        >>> wait(b, a)
        >>> b.queue.append(lambda: done.append("b"))
        >>> drain([b], [a, b], random.Random(0))
        >>> done
        ['a', 'b']
    """
    try:
        for stream in wanted:
            while stream.queue:
                choice.choice([each for each in every if each.ready]).step()
    except BaseException:
        for stream in every:  # as after an error of a GPU: what waits is given up
            stream.queue.clear()
        raise


def wait(stream: EmulatedStream, other: EmulatedStream) -> None:
    """Let what comes later in a stream wait for all that is in another one now."""
    event = Event()
    other.queue.append(event)
    stream.queue.append(Wait(event))


def again(queues: Iterable[Iterable[Item]]) -> list[EmulatedStream]:
    """Streams with the items of these queues, and with events of their own."""
    events: dict[Event, Event] = {}

    def renewed(item: Item) -> Item:
        match item:
            case Event():
                return events.setdefault(item, Event())
            case Wait(event):
                return Wait(events.setdefault(event, Event()))
            case _:
                return item

    return [EmulatedStream(deque(map(renewed, queue))) for queue in queues]
