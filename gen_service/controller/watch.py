"""What others may watch of the controller: that something of a job changed, and how late the event loop wakes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from weakref import WeakValueDictionary

# Well below the 100 ms that nothing may block the loop for, and 20 wakes a second cost nothing.
LAG_STEP_S = 0.05
# The last minute's lags.
LAGS_KEPT = 1200


class Changes:
    """Wakes whoever watches a job: `changed` before reading its state, then wait; no change is missed between."""

    def __init__(self) -> None:
        self._events: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    def changed(self, job_id: str) -> asyncio.Event:
        """An event that the job's next change sets. After a change, ask for a new one."""
        event = self._events.get(job_id)
        if event is None:
            event = self._events[job_id] = asyncio.Event()
        return event

    def tell(self, job_id: str) -> None:
        """Something of a job changed."""
        event = self._events.pop(job_id, None)
        if event is not None:
            event.set()

    def tell_all(self) -> None:
        """Something of every job changed, such as that the service drains."""
        for job_id in list(self._events):
            self.tell(job_id)


class LoopLag:
    """How late the event loop woke from a timed sleep, in seconds; the last minute's lags are kept.

    Args:
        on_lag: told each lag.
    """

    def __init__(self, on_lag: Callable[[float], None]) -> None:
        self.recent: deque[float] = deque(maxlen=LAGS_KEPT)
        self._on_lag = on_lag

    @property
    def largest(self) -> float:
        """The largest of the last minute; 0.0 before the first."""
        return max(self.recent, default=0.0)

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_STEP_S
            await asyncio.sleep(LAG_STEP_S)
            lag = max(0.0, loop.time() - due)
            self.recent.append(lag)
            self._on_lag(lag)
