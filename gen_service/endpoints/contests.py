"""Contenders with tags: the arithmetic of start-time fair queueing, apart from who contends for what."""

from __future__ import annotations

from operator import attrgetter
from typing import Generic, TypeVar


class Contender:
    """Anything with a tag. A rate is what one slot-second adds to it.

    Attributes:
        tag: slot-seconds charged so far, each times its rate.
    """

    __slots__ = ("_began", "_pace", "_promised", "tag")

    def __init__(self) -> None:
        self.tag = 0.0
        # Over the places that it has now: what they are charged, their rates, and their rates times when they began.
        self._promised = self._pace = self._began = 0.0

    def begin(self, rate: float, now: float) -> None:
        """It has one place more."""
        self._pace += rate
        self._began += rate * now

    def charge(self, more: float) -> None:
        """Its places are charged more, in slot-seconds times their rates."""
        self.tag += more
        self._promised += more

    def end(self, rate: float, charged_s: float, since: float) -> None:
        """It has one place less: one that it had since then, and is charged for in full."""
        self._pace -= rate
        self._began -= rate * since
        self._promised -= rate * charged_s

    def served(self, now: float) -> float:
        """The tag, without what is charged for the time to come."""
        return self.tag - max(0.0, self._promised - (self._pace * now - self._began))


C = TypeVar("C", bound=Contender)
_tag = attrgetter("tag")


class Contest(Generic[C]):
    """Contenders for the same places, of which the ready ones have something to send.

    Attributes:
        clock: how far the one that was chosen last had been served: who becomes ready begins there, without credit
            for its absence. What others are charged for the time to come is not counted, since it may never be.
    """

    __slots__ = ("clock", "ready")

    def __init__(self) -> None:
        self.clock = 0.0
        self.ready: dict[C, None] = {}

    def enter(self, one: C) -> None:
        """One becomes ready."""
        one.tag = max(one.tag, self.clock)
        self.ready[one] = None

    def first(self) -> C:
        """The ready one with the least tag."""
        return min(self.ready, key=_tag)

    def chose(self, one: C, now: float) -> float:
        """The one with the least tag is next: the clock follows it, and is returned."""
        self.clock = one.served(now)
        return self.clock

    def gave(self, one: C, now: float) -> float:
        """One gets a place, though others may be behind it who have nothing to send: the clock never goes back."""
        self.clock = max(self.clock, one.served(now))
        return self.clock


class Mean:
    """The mean of what it was given."""

    __slots__ = ("_count", "_sum")

    def __init__(self) -> None:
        self._count = 0
        self._sum = 0.0

    def add(self, value: float) -> None:
        """One more."""
        self._count += 1
        self._sum += value

    def or_else(self, default: float) -> float:
        """The mean, or the default before the first."""
        return self._sum / self._count if self._count else default
