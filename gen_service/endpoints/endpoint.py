"""One server as the fleet sees it: a pure state machine that owns no task, no clock and no connection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from gen_service.endpoints.limit import Limit, Mode
from gen_service.endpoints.readings import Readings
from gen_service.endpoints.shares import Turn
from gen_service.endpoints.speeds import Pace, Queueing, Slowness, Stream
from gen_service.errors import EndpointError, Overloaded, ServerFailed, Stalled, Unreachable

State = Literal["healthy", "draining", "ejected", "trial"]

# What vLLM says to new requests while it finishes the others, with its /health at 200.
DRAINING_WORDS = "cannot schedule new futures after shutdown"
SERVER_ERROR = 500
# Each ejection doubles the time to the next probe, up to this.
LONGEST_EJECTION_S = 30.0
# A longer Retry-After than this is not waited for.
LONGEST_REST_S = 3600.0


@dataclass(slots=True, eq=False)
class Place(Stream):
    """One request's place at a server, and its answer as it comes.

    Attributes:
        era: how often the server had been ejected when the place was given.
        sent_at: loop time then.
        on_trial: whether it decides if the server is back.
        answered: whether the server has begun to answer.
        give_up: breaks the request off, so that its sample goes on elsewhere; set by whoever sent it.
        turn: whose it is, in the books of the shares.
    """

    endpoint: Endpoint
    era: int
    sent_at: float
    on_trial: bool = False
    answered: bool = False
    give_up: Callable[[], None] | None = None
    turn: Turn | None = None


class Endpoint:
    """Health, load and limit of one server.

    The whole rule:

    - `healthy`: takes requests while it has fewer than its limit. It is made `ejected` by `eject_after` requests that
      failed without a token while no other got one (refusals are at once, a whole answer may take a quarter of an
      hour), by as many answers that broke while none was finished, or by one stall while nothing else succeeded.
    - `draining`: takes nothing, and what is in flight there goes on. So it is made by an HTTP 500 with vLLM's words of
      shutdown, or by as many 500s as eject while other requests get tokens. A broken stream, a stall or a refused
      connection makes it `ejected`.
    - `ejected`: takes nothing. From `probe_at` on it (and a draining one) may be probed; an answered probe makes it
      `trial`, a failed one `ejected` and doubles the time to the next.
    - `trial` (half-open): takes one request. Its first token makes the server `healthy` (a whole answer may take a
      quarter of an hour); its failure takes the server out again, for longer. After an ejection for slowness the
      first token is not enough: in 30 s, or its whole answer, it has to be a third as fast as the others were; but
      not where no healthy server is left, nor does it rest then for being slow.
    - A stall counts for nothing where other requests got tokens in the last 10 s and, by its metrics, some wait inside
      the server: then the silent one was preempted, and waits there to be computed again.
    - What becomes of requests from before an ejection says nothing new: it changes no state.
    - `Retry-After` keeps the server at rest until then. 429, 503 and refused connections also cut the limit.
    - 429 and 503 are failures only while the server holds no other request of ours: one that is too busy for the
      only request is not busy but unwell.

    Args:
        url: base URL.
        cap: most requests in flight at this server.
        eject_after: failures in a row that eject.
        probe_s: seconds from the first ejection to the first probe.
        limit: whether the limit under the cap finds itself.

    Attributes:
        models: what it was last heard to serve, each with its longest context in tokens where it says so.
        heard: whether it ever said what it serves.
        pace: how fast it writes, as far as `look` was called.
    """

    def __init__(self, url: str, cap: int, eject_after: int, probe_s: float, *, limit: Mode = "fixed") -> None:
        self.url = url
        self.cap = cap
        self.models: dict[str, int | None] = {}
        self.heard = False
        self.state: State = "healthy"
        self.reason = ""
        self.probe_at = 0.0
        self.rests_until = 0.0
        self.ejections = 0
        self.completed = 0
        self.failures: dict[str, int] = {}
        self.pace = Pace()
        self._limit = Limit(cap, limit)
        self._eject_after = eject_after
        self._probe_s = probe_s
        # In the order in which they were sent, so that two runs with one seed are alike.
        self._places: dict[Place, None] = {}
        self._tokens_of_finished = 0
        self._trial: Place | None = None
        self._refused_in_row = self._broken_in_row = self._taken_out_in_row = 0
        self._succeeded_at = float("-inf")
        self._queueing, self._slowness = Queueing(), Slowness()

    @property
    def in_flight(self) -> int:
        """Requests at this server."""
        return len(self._places)

    @property
    def limit(self) -> float:
        """Most requests it is given; a whole number of them fits below."""
        return self._limit.value

    def expect_live(self, tokens: float) -> None:
        """What one sequence is expected to hold in the KV cache, on average over its life, in tokens."""
        self._limit.expect_live(tokens)

    def read(self, readings: Readings, now: float) -> bool:
        """Fresh readings of its metrics at loop time `now`. Whether there is more room after them."""
        before = int(self.limit)
        self._queueing.waiting = readings.waiting or 0
        self._limit.read(readings, self.in_flight, now)
        return int(self.limit) > before

    def has_room(self, now: float) -> bool:
        """Whether one more request may be sent at loop time `now`."""
        if self.state != "healthy" and (self.state != "trial" or self._trial is not None):
            return False
        # Asked of every server for every place: `in_flight` and `limit` by name would cost as much as the rest.
        return len(self._places) < int(self._limit.value) and now >= self.rests_until

    def load(self) -> float:
        """Share of the limit in use. A server on trial comes first: one request decides whether it is back."""
        return -1.0 if self.state == "trial" else len(self._places) / self._limit.value

    def sent(self, now: float) -> Place:
        """A request is bound to this server."""
        place = Place(self, self.ejections, now, self.state == "trial")
        self._places[place] = None
        if place.on_trial:
            self._trial = place
        return place

    def finished(self, place: Place) -> None:
        """The request is over, whatever came of it. Each `sent` has exactly one `finished`."""
        del self._places[place]
        self._tokens_of_finished += place.tokens
        if place is self._trial:
            self._trial = None

    def answers(self, place: Place) -> None:
        """The first token came, or another sign that the server does its work."""
        place.answered = True
        if self.state == "healthy" and self._is_of_now(place):
            self._refused_in_row = 0
        elif place is self._trial and self._slowness.usual is None:
            self._is_back()

    def succeeded(self, place: Place, now: float) -> None:
        """A whole answer came."""
        self.completed += 1
        if not self._is_of_now(place):
            return
        self.answers(place)
        if place is self._trial:
            self._judge(place, now, is_whole=True)
        self._succeeded_at = now
        self._limit.succeeded(now)
        if self.state == "healthy":
            self._broken_in_row = 0
            self._taken_out_in_row = 0

    def failed(self, error: EndpointError, place: Place, now: float) -> bool:
        """A request failed at loop time `now`.

        Returns:
            Whether the failure counts against the sample. It does not when the request never arrived, when the server
            asked for rest, when it was draining or on trial, or when it was ejected for the same outage already.
        """
        self.failures[error.cause] = self.failures.get(error.cause, 0) + 1
        if not self._is_of_now(place):
            return False
        if isinstance(error, Overloaded):
            self.rests_until = max(self.rests_until, now + min(error.retry_after_s or 0.0, LONGEST_REST_S))
        blameless = isinstance(error, Overloaded | Unreachable)
        if blameless:
            self._limit.overloaded(now)
        if isinstance(error, Stalled) and self._queueing.explains_silence(now):
            return False
        if self.state == "healthy":
            drains = self._is_last_straw(error, place) and self._take_out(error, place, now)
            return not (blameless or drains)
        if place is self._trial:
            self._take_out(error, place, now)
        elif place.answered or not isinstance(error, ServerFailed | Overloaded):
            # It was draining, and has ended now.
            self.eject(str(error), now)
        return False

    def look(self, now: float) -> list[Place]:
        """See at loop time `now` how fast it writes; the requests to break off, on a trial that shows it slow still."""
        tokens = self._tokens_of_finished + sum(place.tokens for place in self._places)
        self._queueing.look(now, tokens)
        self.pace.look(now, tokens, sum(place.runs(now) for place in self._places))
        return [] if self._trial is None else self._judge(self._trial, now)

    def probed(self, failure: str | None, now: float) -> None:
        """The answer to a probe of a server that takes nothing: None when it is well, else what was wrong."""
        if self.state not in ("draining", "ejected"):
            return
        if failure is None:
            self.state = "trial"
        elif self.state == "draining":
            self.eject(failure, now)
        else:
            self.reason = failure
            self._put_off(now)

    def eject(self, reason: str, now: float) -> None:
        """Take nothing until a probe is answered."""
        self.state = "ejected"
        self.reason = reason
        self.ejections += 1
        self._is_out(now)

    def eject_slow(self, speed: float, usual: float, now: float) -> list[Place]:
        """Take nothing for a minute or more, and then only if it is faster; the requests to break off, which go on
        elsewhere without blame. `speed` is tokens per second of one of its requests, `usual` that of other servers."""
        self.eject(f"slow: {speed:.3g} tokens/s for each request, where {usual:.3g} are usual", now)
        self.probe_at = max(self.probe_at, now + self._slowness.begins(usual, now))
        return list(self._places)

    def is_needed(self, now: float) -> None:
        """No healthy server offers what it does: if it is out for being slow, it need neither rest nor be faster."""
        if self._slowness.usual is not None:
            self._slowness.ends(now)
            self.probe_at = max(now, self.rests_until)
            if self._trial is not None and self._trial.answered:
                self._is_back()

    def _is_of_now(self, place: Place) -> bool:
        return place.era == self.ejections

    def _is_last_straw(self, error: EndpointError, place: Place) -> bool:
        """Count a failure of a healthy server; whether it is to be taken out for it."""
        if _refuses_new(error, place) and DRAINING_WORDS in error.words:
            return True
        if self.in_flight > 1 and isinstance(error, Overloaded):
            return False
        self._broken_in_row += place.answered
        self._refused_in_row += not place.answered
        alone = isinstance(error, Stalled) and self._succeeded_at < place.sent_at
        return alone or max(self._broken_in_row, self._refused_in_row) >= self._eject_after

    def _take_out(self, error: EndpointError, place: Place, now: float) -> bool:
        """Eject it, or let it drain where it refuses what is new and says so, or goes on with the rest; whether so."""
        goes_on = any(other.answered and self._is_of_now(other) for other in self._places if other is not place)
        drains = _refuses_new(error, place) and (goes_on or DRAINING_WORDS in error.words)
        if drains:
            self.state = "draining"
            self.reason = str(error)
            self._is_out(now)
        else:
            self.eject(str(error), now)
        return drains

    def _is_out(self, now: float) -> None:
        self._trial = None
        self._broken_in_row = self._refused_in_row = 0
        self.pace.forget()
        self._put_off(now)

    def _is_back(self) -> None:
        self.state = "healthy"
        self.reason = ""
        self._trial = None
        self._refused_in_row = 0

    def _judge(self, trial: Place, now: float, is_whole: bool = False) -> list[Place]:
        """Whether a slow server is fast enough by now, by its request on trial; the requests to break off if not."""
        seconds, usual = now - trial.sent_at, self._slowness.usual
        is_fast = self._slowness.verdict(trial.tokens, seconds, is_whole)
        if is_fast:
            self._slowness.ends(now)
            self._is_back()
        return [] if usual is None or is_fast is not False else self.eject_slow(trial.tokens / seconds, usual, now)

    def _put_off(self, now: float) -> None:
        wait_s = min(LONGEST_EJECTION_S, self._probe_s * 2.0 ** min(self._taken_out_in_row, 16))
        self._taken_out_in_row += 1
        self.probe_at = max(now + wait_s, self.rests_until)


def _refuses_new(error: EndpointError, place: Place) -> bool:
    return isinstance(error, ServerFailed) and error.status == SERVER_ERROR and not place.answered
