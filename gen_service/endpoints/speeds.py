"""Which server is much slower than the others: pure numbers, no clock and no connection."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

# A server this much slower than the median holds its requests back for hours; servers that only differ in their load
# or their build stay well above.
SLOW = 1 / 3
# What is judged is this much time: tokens come in chunks, and a prompt of 30k tokens stops the others for seconds.
WINDOW_S = 60.0
# One stream alone may be slow for its own reasons, such as a prompt that is computed again.
FEWEST_STREAMS = 2
# Looks are 5 s apart while anything is in flight; a longer time between two was idle, which is not slow.
LONGEST_LOOK_S = 15.0
# The median of two says nothing.
FEWEST_SERVERS = 3
# A slow server is tried again after this, twice as long each time up to the longest: each try moves its streams twice.
REST_S = 60.0
LONGEST_REST_S = 1800.0
# A server that wrote to anybody within this time does not stand still: two looks.
WRITES_S = 10.0
# It was slow once, not again, when it has been back for this long.
FORGOTTEN_S = 600.0
# On trial its request is judged after this, or when its answer is whole and has at least these tokens.
JUDGED_AFTER_S = 30.0
JUDGED_TOKENS = 64

Server = TypeVar("Server")


@dataclass(slots=True, eq=False, kw_only=True)
class Stream:
    """One answer as it comes.

    Attributes:
        tokens: completion tokens that came; raised by whoever reads the answer.
    """

    tokens: int = 0
    _seen: int = 0
    _wrote_at: float = float("-inf")

    def runs(self, now: float) -> bool:
        """Whether looks, of which this is one at loop time `now`, saw it get tokens in the last minute: one that did
        not waits inside the server, for the first time or preempted."""
        if self.tokens > self._seen:
            self._seen, self._wrote_at = self.tokens, now
        return now - self._wrote_at <= WINDOW_S


class Pace:
    """How fast one server writes, over its last minute of looks at which at least two requests ran.

    A look with fewer, or long after the one before, begins anew.
    """

    __slots__ = ("_last", "_looks", "_seconds")

    def __init__(self) -> None:
        self._looks: deque[tuple[float, float, float]] = deque()
        self._seconds = 0.0
        self._last: tuple[float, int, int] | None = None

    def look(self, now: float, tokens: int, streams: int) -> None:
        """What is seen at loop time `now`.

        Args:
            tokens: completion tokens that came from the server, since it is known.
            streams: requests at the server that run.
        """
        last, self._last = self._last, (now, tokens, streams)
        if last is None or now - last[0] > LONGEST_LOOK_S or min(streams, last[2]) < FEWEST_STREAMS:
            self._looks.clear()
            self._seconds = 0.0
            return
        seconds = now - last[0]
        self._looks.append((seconds, tokens - last[1], seconds * (streams + last[2]) / 2))
        self._seconds += seconds
        while self._seconds - self._looks[0][0] >= WINDOW_S:
            self._seconds -= self._looks.popleft()[0]

    def forget(self) -> None:
        """Begin anew: the server was taken out."""
        self._looks.clear()
        self._seconds = 0.0
        self._last = None

    def speed(self) -> float | None:
        """Tokens per second of one request; None before a minute was seen."""
        if self._seconds < WINDOW_S:
            return None
        return sum(look[1] for look in self._looks) / sum(look[2] for look in self._looks)

    def throughput(self) -> float | None:
        """Tokens per second of all requests together; None before a minute was seen."""
        if self._seconds < WINDOW_S:
            return None
        return sum(look[1] for look in self._looks) / self._seconds


class Queueing:
    """Whether a request that gets no tokens may be waiting inside a server that works.

    Attributes:
        waiting: requests that wait there, by its last readings.
    """

    __slots__ = ("_wrote", "_wrote_at", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self._wrote, self._wrote_at = 0, float("-inf")

    def look(self, now: float, tokens: int) -> None:
        """At loop time `now` so many completion tokens have come from the server."""
        if tokens > self._wrote:
            self._wrote, self._wrote_at = tokens, now

    def explains_silence(self, now: float) -> bool:
        """Whether others get tokens and some wait: then a silent request was preempted, and is not forgotten."""
        return self.waiting > 0 and now - self._wrote_at <= WRITES_S


class Slowness:
    """What a server that was slow has to show, and how long it rests.

    Attributes:
        usual: tokens per second of one request at the other servers, when it was last found slow.
    """

    __slots__ = ("_back_at", "_times", "usual")

    def __init__(self) -> None:
        self.usual: float | None = None
        self._times = 0
        self._back_at = float("inf")

    def begins(self, usual: float, now: float) -> float:
        """It was found slow at loop time `now`; the seconds that it rests."""
        if now - self._back_at > FORGOTTEN_S:
            self._times = 0
        self.usual = usual
        self._times += 1
        return min(LONGEST_REST_S, REST_S * 2.0 ** min(self._times - 1, 16))

    def ends(self, now: float) -> None:
        """It was fast enough, at loop time `now`."""
        self.usual = None
        self._back_at = now

    def verdict(self, tokens: int, seconds: float, is_whole: bool) -> bool | None:
        """Whether its request on trial is fast enough; None where it was not slow, or while it is too early to say.

        Args:
            tokens: completion tokens that came.
            seconds: how long the request has been there.
            is_whole: whether its answer ended. One of a few tokens says nothing, and is let pass.
        """
        if self.usual is None or (not is_whole and seconds < JUDGED_AFTER_S):
            return None
        return tokens >= SLOW * self.usual * seconds or (is_whole and tokens < JUDGED_TOKENS)


def straggler(paces: Mapping[Server, Pace]) -> tuple[Server, float, float] | None:
    """The slowest of the servers of one model, if it is much slower than they are.

    It is one whose requests get less than a third of the median's tokens per second, while it makes fewer tokens in
    all than the median too: one that is only busier than the others makes more. Without three servers that were
    seen for a minute none is slow, so two healthy ones are always left.

    Returns:
        The server, its tokens per second and request, and the median of that; or None.
    """
    seen = {
        server: (speed, total)
        for server, pace in paces.items()
        if (speed := pace.speed()) is not None and (total := pace.throughput()) is not None
    }
    if len(seen) < FEWEST_SERVERS:
        return None
    usual = median(speed for speed, _ in seen.values())
    usual_total = median(total for _, total in seen.values())
    slowest = min(seen, key=lambda server: seen[server][0])
    speed, total = seen[slowest]
    return (slowest, speed, usual) if speed < SLOW * usual and total < usual_total else None
