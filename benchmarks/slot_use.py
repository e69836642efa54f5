"""Who used the servers' slots, and which stood idle, by the servers' own logs of each request's start and end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

import orjson

_ENDS = frozenset({"sent", "failed"})


@dataclass(frozen=True, slots=True)
class Use:
    """One request's use of one slot: seconds on the machine's monotonic clock."""

    server: int
    sample_id: str
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time."""

    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """Its length; none is shorter than nothing."""
        return max(0.0, self.ended - self.began)

    def within(self, use: Use) -> float:
        """Seconds of a use that lie within."""
        return max(0.0, min(use.ended, self.ended) - max(use.began, self.began))


@dataclass(frozen=True, slots=True)
class Idle:
    """Slots that stood free in a window.

    Attributes:
        share: of all slot time.
        gaps: seconds from the end of a request to the beginning of the next one on the same server (the slot that was
            free longest is taken to be filled first), of those that began within the window.
    """

    share: float
    gaps: tuple[float, ...]

    def percentile(self, percent: int) -> float:
        """Of the gaps, in seconds; 0.0 where there are too few."""
        return quantiles(self.gaps, n=100)[percent - 1] if len(self.gaps) > 1 else 0.0


def read_uses(logs: Iterable[Path]) -> list[Use]:
    """The uses in the logs of servers, one log each, by their beginnings; a request that never ended is none."""
    uses = []
    for server, path in enumerate(logs):
        began: dict[tuple[str, int], float] = {}
        for line in path.read_bytes().splitlines():
            event = orjson.loads(line)
            key = event["request_id"], event["attempt"]
            if event["event"] == "received":
                began[key] = event["at"]
            elif event["event"] in _ENDS and key in began:
                uses.append(Use(server, key[0], began.pop(key), event["at"]))
    return sorted(uses, key=lambda use: use.began)


def all_waiting(uses: Iterable[Use], job_of: Mapping[str, str]) -> Window:
    """When every job had begun and none had sent its last request: all of them had samples that waited."""
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    for use in uses:
        job = job_of[use.sample_id]
        first[job] = min(use.began, first.get(job, use.began))
        last[job] = max(use.began, last.get(job, use.began))
    return Window(max(first.values()), min(last.values()))


def slot_seconds(uses: Iterable[Use], job_of: Mapping[str, str], window: Window) -> dict[str, float]:
    """Seconds of slots that each job used in a window."""
    seconds = dict.fromkeys(job_of.values(), 0.0)
    for use in uses:
        seconds[job_of[use.sample_id]] += window.within(use)
    return seconds


def while_work_waited(uses: Sequence[Use], slots: int) -> Window:
    """From when all slots of all servers were first in use (or from the first request) to the last request sent.

    Args:
        slots: of all servers together.
    """
    running = 0
    began = uses[0].began
    steps = sorted([(use.began, 1) for use in uses] + [(use.ended, -1) for use in uses])
    for at, step in steps:
        running += step
        if running >= slots:
            began = at
            break
    return Window(began, uses[-1].began)


def idle_in(uses: Sequence[Use], servers: int, slots: int, window: Window) -> Idle:
    """The slots that stood free in a window.

    Args:
        slots: of each server.
    """
    used = sum(map(window.within, uses))
    gaps = [gap for server in range(servers) for gap in _gaps(uses, server, window)]
    return Idle(1.0 - used / (servers * slots * window.seconds) if window.seconds else 0.0, tuple(gaps))


def _gaps(uses: Sequence[Use], server: int, window: Window) -> Iterable[float]:
    """Each beginning takes the slot that was free longest. Ends come before beginnings of the same moment."""
    free: deque[float] = deque()
    mine = [use for use in uses if use.server == server]
    steps = sorted([(use.ended, 0) for use in mine] + [(use.began, 1) for use in mine])
    for at, begins in steps:
        if not begins:
            free.append(at)
        elif free and (ended := free.popleft()) >= window.began and at <= window.ended:
            yield at - ended


def shares_of(seconds: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """Each one's share of the seconds over its share of the weights: 1.0 is what is fair; 0.0 for all where there
    are no seconds to share."""
    all_seconds, all_weights = sum(seconds.values()), sum(weights.values())
    if not all_seconds:
        return dict.fromkeys(weights, 0.0)
    return {name: seconds[name] / all_seconds / (weight / all_weights) for name, weight in weights.items()}
