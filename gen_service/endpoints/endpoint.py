"""One server as the fleet sees it: a pure state machine that owns no task, no clock and no connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gen_service.endpoints.shares import Turn
from gen_service.errors import EndpointError, Overloaded, Stalled, Unreachable

State = Literal["healthy", "ejected", "trial"]

# The measured rule: "x0.85 on 429/503 or connect errors, with a cool-down".
CUT = 0.85
CUT_COOLDOWN_S = 5.0
# Share of the cap by which the limit grows while a whole round of requests succeeds: a cut is made good in three
# rounds, and a round of long traces takes a quarter of an hour.
GROWTH = 0.05
# Each ejection doubles the time to the next probe, up to this.
LONGEST_EJECTION_S = 30.0
# A longer Retry-After than this is not waited for.
LONGEST_REST_S = 3600.0


@dataclass(slots=True, eq=False)
class Place:
    """One request's place at a server.

    Attributes:
        era: how often the server had been ejected when the place was given.
        sent_at: loop time then.
        answered: whether the server has begun to answer.
        turn: whose it is, in the books of the shares.
    """

    endpoint: Endpoint
    era: int
    sent_at: float
    answered: bool = False
    turn: Turn | None = None


class Endpoint:
    """Health, load and limit of one server.

    The whole rule:

    - `healthy`: takes requests while it has fewer than its limit. It is made `ejected` by `eject_after` requests that
      failed without a token while no other got one (refusals are at once, a whole answer may take a quarter of an
      hour), by as many answers that broke while none was finished, or by one stall while nothing else succeeded.
    - `ejected`: takes nothing. From `probe_at` on it may be probed; an answered probe makes it `trial`, a failed one
      doubles the time to the next.
    - `trial` (half-open): takes one request. Its first token makes the server `healthy` (a whole answer may take a
      quarter of an hour); its failure ejects again, for longer.
    - What becomes of requests from before an ejection says nothing new: it changes no state.
    - The limit starts at the cap. 429, 503 and refused connections cut it by 0.85 at most every 5 s; a round of
      successes adds a twentieth of the cap. `Retry-After` keeps the server at rest until then.
    - 429 and 503 are failures only while the server holds no other request of ours: one that is too busy for the
      only request is not busy but unwell.

    Args:
        url: base URL.
        cap: most requests in flight at this server.
        eject_after: failures in a row that eject.
        probe_s: seconds from the first ejection to the first probe.

    Attributes:
        models: what it was last heard to serve, each with its longest context in tokens where it says so.
        heard: whether it ever said what it serves.
    """

    def __init__(self, url: str, cap: int, eject_after: int, probe_s: float) -> None:
        self.url = url
        self.cap = cap
        self.models: dict[str, int | None] = {}
        self.heard = False
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
        self._in_era = 0
        self._refused_in_row = 0
        self._broken_in_row = 0
        self._ejections_in_row = 0
        self._succeeded_at = float("-inf")
        self._cut_at = float("-inf")

    def has_room(self, now: float) -> bool:
        """Whether one more request may be sent at loop time `now`."""
        if self.state == "ejected" or self.in_flight >= int(self.limit) or now < self.rests_until:
            return False
        return self.state == "healthy" or self._in_era == 0

    def load(self) -> float:
        """Share of the limit in use. A server on trial comes first: one request decides whether it is back."""
        return -1.0 if self.state == "trial" else self.in_flight / self.limit

    def sent(self, now: float) -> Place:
        """A request is bound to this server."""
        self.in_flight += 1
        self._in_era += 1
        return Place(self, self.ejections, now)

    def finished(self, place: Place) -> None:
        """The request is over, whatever came of it. Each `sent` has exactly one `finished`."""
        self.in_flight -= 1
        self._in_era -= self._is_of_now(place)

    def answers(self, place: Place) -> None:
        """The first token came, or another sign that the server does its work."""
        place.answered = True
        if not self._is_of_now(place):
            return
        self._refused_in_row = 0
        if self.state == "trial":
            self.state = "healthy"
            self.reason = ""

    def succeeded(self, place: Place, now: float) -> None:
        """A whole answer came."""
        self.completed += 1
        if not self._is_of_now(place):
            return
        self.answers(place)
        self._succeeded_at = now
        self._broken_in_row = 0
        self._ejections_in_row = 0
        self.limit = min(float(self.cap), self.limit + max(1.0, GROWTH * self.cap) / self.limit)

    def failed(self, error: EndpointError, place: Place, now: float) -> bool:
        """A request failed at loop time `now`.

        Returns:
            Whether the failure counts against the sample. It does not when the request never arrived, when the server
            asked for rest, when it was on trial, or when it was ejected for the same outage already.
        """
        self.failures[error.cause] = self.failures.get(error.cause, 0) + 1
        if not self._is_of_now(place):
            return False
        if isinstance(error, Overloaded):
            self.rests_until = max(self.rests_until, now + min(error.retry_after_s or 0.0, LONGEST_REST_S))
        blameless = isinstance(error, Overloaded | Unreachable)
        if blameless:
            self._cut(now)
        on_trial = self.state == "trial"
        if on_trial or self.in_flight == 1 or not isinstance(error, Overloaded):
            self._broken_in_row += place.answered
            self._refused_in_row += not place.answered
            alone = isinstance(error, Stalled) and self._succeeded_at < place.sent_at
            if on_trial or alone or max(self._broken_in_row, self._refused_in_row) >= self._eject_after:
                self.eject(str(error), now)
        return not (blameless or on_trial)

    def probed(self, failure: str | None, now: float) -> None:
        """The answer to a probe of an ejected server: None when it is well, else what was wrong."""
        if self.state != "ejected":
            return
        if failure is None:
            self.state = "trial"
        else:
            self.reason = failure
            self._put_off(now)

    def eject(self, reason: str, now: float) -> None:
        """Take nothing until a probe is answered."""
        self.state = "ejected"
        self.reason = reason
        self.ejections += 1
        self._in_era = 0
        self._broken_in_row = self._refused_in_row = 0
        self._put_off(now)

    def _is_of_now(self, place: Place) -> bool:
        return place.era == self.ejections

    def _put_off(self, now: float) -> None:
        wait_s = min(LONGEST_EJECTION_S, self._probe_s * 2.0 ** min(self._ejections_in_row, 16))
        self._ejections_in_row += 1
        self.probe_at = max(now + wait_s, self.rests_until)

    def _cut(self, now: float) -> None:
        if now - self._cut_at >= CUT_COOLDOWN_S:
            self._cut_at = now
            self.limit = max(1.0, self.limit * CUT)
