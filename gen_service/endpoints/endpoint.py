"""One server as the fleet sees it: a pure state machine that owns no task, no clock and no connection."""

from __future__ import annotations

from typing import Literal

from gen_service.errors import EndpointError, Overloaded, Stalled, Unreachable

State = Literal["healthy", "ejected", "trial"]

# A cut follows the measured rule "x0.85 on 429/503 or connect errors, with a cool-down".
CUT = 0.85
CUT_COOLDOWN_S = 5.0
# Each ejection doubles the time to the next probe, up to this.
LONGEST_EJECTION_S = 30.0


class Endpoint:
    """Health, load and limit of one server.

    The whole rule:

    - `healthy`: takes requests while it has fewer than its limit. `eject_after` failures in a row, or one stall while
      nothing else succeeded on it, make it `ejected`.
    - `ejected`: takes nothing. From `probe_at` on it may be probed; an answered probe makes it `trial`, a failed one
      doubles the time to the next.
    - `trial` (half-open): takes one request. Success makes it `healthy`; failure ejects it again, for longer, and is
      not held against the sample.
    - The limit starts at the cap. 429, 503 and refused connections cut it by 0.85 at most every 5 s; each success adds
      1/limit, so it grows by about one a round. `Retry-After` keeps the server at rest until then.

    Args:
        url: base URL.
        cap: most requests in flight at this server.
        eject_after: failures in a row that eject.
        probe_s: seconds from the first ejection to the first probe.
    """

    def __init__(self, url: str, cap: int, eject_after: int, probe_s: float) -> None:
        self.url = url
        self.cap = cap
        self.in_flight = 0
        self.limit = float(cap)
        self.state: State = "healthy"
        self.reason = ""
        self.probe_at = 0.0
        self.rests_until = 0.0
        self.ejections = 0
        self.completed = 0
        self.failures: dict[str, int] = {}
        self._eject_after = eject_after
        self._probe_s = probe_s
        self._failures_in_row = 0
        self._ejections_in_row = 0
        self._succeeded_at = float("-inf")
        self._cut_at = float("-inf")

    def has_room(self, now: float) -> bool:
        """Whether one more request may be sent at loop time `now`."""
        if self.state == "trial":
            return self.in_flight == 0
        return self.state == "healthy" and self.in_flight < int(self.limit) and now >= self.rests_until

    def load(self) -> float:
        """Share of the limit in use. A server on trial comes first: one request decides whether it is back."""
        return -1.0 if self.state == "trial" else self.in_flight / self.limit

    def sent(self) -> None:
        """A request is bound to this server."""
        self.in_flight += 1

    def finished(self) -> None:
        """The request is over, whatever came of it. Each `sent` has exactly one `finished`."""
        self.in_flight -= 1

    def succeeded(self, now: float) -> None:
        """A whole answer came."""
        self.completed += 1
        self._succeeded_at = now
        self._failures_in_row = 0
        if self.state == "trial":
            self.state = "healthy"
            self.reason = ""
            self._ejections_in_row = 0
        self.limit = min(float(self.cap), self.limit + 1.0 / self.limit)

    def failed(self, error: EndpointError, now: float, sent_at: float) -> bool:
        """A request failed.

        Args:
            now: loop time.
            sent_at: loop time when that request was sent.

        Returns:
            Whether the failure counts against the sample. It does not when the request never arrived, when the server
            asked for rest, when the server was on trial, or when it was already ejected for the same outage.
        """
        self.failures[error.cause] = self.failures.get(error.cause, 0) + 1
        if isinstance(error, Overloaded):
            self._cut(now)
            self.rests_until = max(self.rests_until, now + (error.retry_after_s or 0.0))
            if self.state == "trial":
                self.state = "healthy"
            return False
        if self.state != "healthy":
            if self.state == "trial":
                self._eject(error, now)
            return False
        if isinstance(error, Unreachable):
            self._cut(now)
        self._failures_in_row += 1
        alone = isinstance(error, Stalled) and self._succeeded_at < sent_at
        if alone or self._failures_in_row >= self._eject_after:
            self._eject(error, now)
        return not isinstance(error, Unreachable)

    def probed(self, failure: str | None, now: float) -> None:
        """The answer to a probe of an ejected server: None when it is well, else what was wrong."""
        if self.state != "ejected":
            return
        if failure is None:
            self.state = "trial"
            self.rests_until = now
        else:
            self.reason = failure
            self._put_off(now)

    def eject(self, reason: str, now: float) -> None:
        """Take nothing until a probe is answered."""
        self.state = "ejected"
        self.reason = reason
        self.ejections += 1
        self._failures_in_row = 0
        self._put_off(now)

    def _eject(self, error: EndpointError, now: float) -> None:
        self.eject(str(error), now)

    def _put_off(self, now: float) -> None:
        self._ejections_in_row += 1
        self.probe_at = now + min(LONGEST_EJECTION_S, self._probe_s * 2.0 ** min(self._ejections_in_row - 1, 16))

    def _cut(self, now: float) -> None:
        if now - self._cut_at >= CUT_COOLDOWN_S:
            self._cut_at = now
            self.limit = max(1.0, min(self.limit, float(max(1, self.in_flight))) * CUT)
