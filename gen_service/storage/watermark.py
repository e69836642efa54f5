"""How much of the journal is published."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from gen_service.storage.frames import ORIGIN, JournalPosition


class Watermark:
    """The lowest journal position that is not yet published.

    The whole rule: a row is open from the moment it is durable until a manifest names it. `low` is the smallest of
    the open rows, of the place an unfinished replay has reached, and of the journal's end. So every row before `low`
    is published, although rows are published in another order than they were journaled. Memory is one entry per open
    row. Called from several threads.
    """

    def __init__(self, covered: JournalPosition = ORIGIN) -> None:
        self._lock = threading.Lock()
        # When each became durable, or was found by a replay; in that order.
        self._open: dict[JournalPosition, float] = {}
        self._replayed_to: JournalPosition | None = covered
        self._end = covered

    def opened(self, positions: Iterable[JournalPosition], end: JournalPosition) -> None:
        """These rows are durable; later ones will not lie before `end`. Calls come in journal order."""
        now = time.monotonic()
        with self._lock:
            self._open.update(dict.fromkeys(positions, now))
            self._end = max(self._end, end)

    def replaying(self, position: JournalPosition, is_open: bool) -> None:
        """A replay has reached this row, which is published already unless it `is_open`."""
        with self._lock:
            if is_open:
                self._open[position] = time.monotonic()
            self._replayed_to = position._replace(row=position.row + 1)

    def replayed(self) -> None:
        """The replay has seen every row of earlier runs."""
        with self._lock:
            self._replayed_to = None

    def settled(self, positions: Iterable[JournalPosition]) -> None:
        """These rows are in parts that the next manifest names."""
        with self._lock:
            for position in positions:
                self._open.pop(position, None)

    @property
    def open_rows(self) -> int:
        """Rows that are durable here, and neither published nor being so."""
        return len(self._open)

    def oldest_s(self) -> float:
        """Seconds since the oldest of the open rows became durable, or was found by a replay; 0.0 without any."""
        with self._lock:
            return time.monotonic() - next(iter(self._open.values())) if self._open else 0.0

    def low(self) -> JournalPosition:
        """Every row before this position is published, or will be with the rows settled so far."""
        with self._lock:
            reached = self._end if self._replayed_to is None else min(self._end, self._replayed_to)
            return min(reached, min(self._open, default=reached))
