"""The state machine of one server, driven by hypothesis against the rule in its docstring."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gen_service.endpoints.endpoint import CUT_COOLDOWN_S, LONGEST_EJECTION_S, LONGEST_REST_S, Endpoint, Place
from gen_service.errors import (
    EndpointError,
    MalformedAnswer,
    Overloaded,
    ServerFailed,
    Stalled,
    StreamBroken,
    Unreachable,
)

URL = "http://127.0.0.1:1"
failures = st.one_of(
    st.sampled_from([Unreachable, ServerFailed, StreamBroken, MalformedAnswer, Stalled]).map(
        lambda kind: kind(URL, "x")
    ),
    st.one_of(st.none(), st.floats(0, 100)).map(lambda seconds: Overloaded(URL, "x", 429, seconds)),
)


class EndpointMachine(RuleBasedStateMachine):
    """Any order of sending, succeeding, failing, probing and waiting."""

    @initialize(cap=st.integers(1, 9), eject_after=st.integers(1, 4))
    def begin(self, cap: int, eject_after: int) -> None:
        self.endpoint = Endpoint(URL, cap, eject_after, 1.0)
        self.now = 10.0
        self.open: list[Place] = []
        self.rests_until = 0.0

    @rule(seconds=st.floats(0.0, 40.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.endpoint.has_room(self.now))
    @rule()
    def send(self) -> None:
        assert self.endpoint.state != "ejected"
        assert self.endpoint.in_flight < self.endpoint.limit <= self.endpoint.cap
        assert self.now >= self.rests_until
        self.open.append(self.endpoint.sent(self.now))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), cancelled=st.booleans())
    def succeed(self, data: st.DataObject, cancelled: bool) -> None:
        place = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        state, completed = self.endpoint.state, self.endpoint.completed
        of_now = place.era == self.endpoint.ejections
        if not cancelled:
            self.endpoint.succeeded(place, self.now)
            assert self.endpoint.completed == completed + 1
            assert self.endpoint.state == ("healthy" if of_now else state)
        self.endpoint.finished(place)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def first_token(self, data: st.DataObject) -> None:
        place = self.open[data.draw(st.integers(0, len(self.open) - 1))]
        state, of_now = self.endpoint.state, place.era == self.endpoint.ejections
        self.endpoint.answers(place)
        assert self.endpoint.state == ("healthy" if of_now else state)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), error=failures)
    def fail(self, data: st.DataObject, error: EndpointError) -> None:
        place = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        state, of_now = self.endpoint.state, place.era == self.endpoint.ejections
        ejections = self.endpoint.ejections
        counts = self.endpoint.failed(error, place, self.now)
        blameless = isinstance(error, Overloaded | Unreachable)
        assert counts == (of_now and state == "healthy" and not blameless)
        if not of_now:
            assert self.endpoint.state == state
            assert self.endpoint.ejections == ejections
        elif isinstance(error, Overloaded):
            self.rests_until = max(self.rests_until, self.now + (error.retry_after_s or 0.0))
        if of_now and state == "trial":
            assert self.endpoint.state == "ejected"
        if self.endpoint.ejections > ejections:
            assert self.now < self.endpoint.probe_at
        self.endpoint.finished(place)

    @precondition(lambda self: self.endpoint.state == "ejected" and self.endpoint.probe_at <= self.now)
    @rule(well=st.booleans())
    def probe(self, well: bool) -> None:
        self.endpoint.probed(None if well else "down", self.now)
        assert self.endpoint.state == ("trial" if well else "ejected")

    @invariant()
    def counts_fit(self) -> None:
        assert self.endpoint.in_flight == len(self.open)
        assert 1.0 <= self.endpoint.limit <= self.endpoint.cap

    @invariant()
    def ejected_takes_nothing(self) -> None:
        if self.endpoint.state == "ejected":
            assert not self.endpoint.has_room(self.now)
            longest = max(LONGEST_EJECTION_S, self.rests_until - self.now)
            assert self.endpoint.probe_at <= self.now + longest

    @invariant()
    def trial_has_one_place(self) -> None:
        if self.endpoint.state == "trial":
            fresh = [place for place in self.open if place.era == self.endpoint.ejections]
            assert len(fresh) <= 1
            room = self.endpoint.in_flight < int(self.endpoint.limit) and self.now >= self.rests_until
            assert self.endpoint.has_room(self.now) == (room and not fresh)

    def teardown(self) -> None:
        """However it ended up: good probes and one success bring it back."""
        if not hasattr(self, "endpoint"):
            return
        for place in self.open:
            self.endpoint.finished(place)
        self.now = max(self.now, self.endpoint.probe_at, self.endpoint.rests_until)
        self.endpoint.probed(None, self.now)
        assert self.endpoint.has_room(self.now)
        place = self.endpoint.sent(self.now)
        self.endpoint.succeeded(place, self.now)
        self.endpoint.finished(place)
        assert self.endpoint.state == "healthy"
        assert self.endpoint.reason == ""


EndpointMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestEndpointMachine = EndpointMachine.TestCase


def fail(endpoint: Endpoint, error: EndpointError, now: float, sent_at: float | None = None) -> bool:
    place = endpoint.sent(now if sent_at is None else sent_at)
    counts = endpoint.failed(error, place, now)
    endpoint.finished(place)
    return counts


def succeed(endpoint: Endpoint, now: float) -> None:
    place = endpoint.sent(now)
    endpoint.succeeded(place, now)
    endpoint.finished(place)


def test_failures_in_row_eject_and_a_success_between_them_does_not() -> None:
    endpoint = Endpoint(URL, 8, 3, 1.0)
    for _ in range(2):
        assert fail(endpoint, ServerFailed(URL, "x"), 1.0)
        assert fail(endpoint, ServerFailed(URL, "x"), 1.0)
        succeed(endpoint, 1.0)
    assert endpoint.state == "healthy"
    for _ in range(3):
        fail(endpoint, ServerFailed(URL, "broken engine", 500), 2.0)
    assert endpoint.state == "ejected"
    assert "broken engine" in endpoint.reason


def test_a_server_that_gives_tokens_is_not_ejected_for_what_it_refuses() -> None:
    """Refusals are at once and long answers take a quarter of an hour: without this, 1% of refusals would eject."""
    endpoint = Endpoint(URL, 8, 3, 1.0)
    long_answer = endpoint.sent(1.0)
    for _ in range(9):
        assert fail(endpoint, ServerFailed(URL, "x", 500), 1.0)
        endpoint.answers(long_answer)
    assert endpoint.state == "healthy"
    for _ in range(3):
        fail(endpoint, ServerFailed(URL, "x", 500), 2.0)
    assert endpoint.state == "ejected"


def test_a_server_whose_answers_all_break_is_ejected_although_it_gives_tokens() -> None:
    endpoint = Endpoint(URL, 8, 3, 1.0)
    for _ in range(3):
        place = endpoint.sent(1.0)
        endpoint.answers(place)
        assert endpoint.failed(StreamBroken(URL, "x"), place, 2.0)
        endpoint.finished(place)
    assert endpoint.state == "ejected"


def test_one_stall_ejects_when_nothing_else_succeeded_meanwhile() -> None:
    endpoint = Endpoint(URL, 8, 3, 1.0)
    assert fail(endpoint, Stalled(URL, "x"), 130.0, sent_at=10.0)
    assert endpoint.state == "ejected"


def test_one_stall_does_not_eject_a_server_that_answers_others() -> None:
    endpoint = Endpoint(URL, 8, 3, 1.0)
    place = endpoint.sent(10.0)
    succeed(endpoint, 60.0)
    assert endpoint.failed(Stalled(URL, "x"), place, 130.0)
    assert endpoint.state == "healthy"


def test_what_was_sent_before_the_ejection_does_not_decide_the_trial() -> None:
    endpoint = Endpoint(URL, 8, 1, 1.0)
    old = [endpoint.sent(1.0) for _ in range(3)]
    assert endpoint.failed(StreamBroken(URL, "x"), old[0], 2.0)
    endpoint.probed(None, 3.0)
    assert not endpoint.failed(StreamBroken(URL, "x"), old[1], 3.0)
    endpoint.succeeded(old[2], 3.0)
    assert endpoint.state == "trial"
    assert endpoint.has_room(3.0)


@pytest.mark.parametrize("trials", [1, 4, 12])
def test_each_failed_trial_doubles_the_wait_up_to_a_bound(trials: int) -> None:
    endpoint = Endpoint(URL, 8, 1, 0.5)
    now = 0.0
    fail(endpoint, Unreachable(URL, "x"), now)
    for trial in range(trials):
        assert endpoint.probe_at - now == min(LONGEST_EJECTION_S, 0.5 * 2.0**trial)
        now = endpoint.probe_at
        endpoint.probed(None, now)
        fail(endpoint, ServerFailed(URL, "x"), now)
    now = endpoint.probe_at
    endpoint.probed(None, now)
    succeed(endpoint, now)
    fail(endpoint, ServerFailed(URL, "x"), now)
    assert endpoint.probe_at - now == 0.5


def test_retry_after_is_respected_and_bounded() -> None:
    endpoint = Endpoint(URL, 8, 3, 1.0)
    other = endpoint.sent(0.0)
    assert not fail(endpoint, Overloaded(URL, "x", 429, 7.0), 100.0)
    assert endpoint.state == "healthy"
    assert not endpoint.has_room(106.9)
    assert endpoint.has_room(107.0)
    fail(endpoint, Overloaded(URL, "x", 429, 1e12), 107.0)
    assert endpoint.has_room(107.0 + LONGEST_REST_S)
    endpoint.finished(other)


def test_too_busy_for_the_only_request_is_unwell() -> None:
    endpoint = Endpoint(URL, 8, 3, 1.0)
    for _ in range(3):
        assert not fail(endpoint, Overloaded(URL, "no backend", 503, 20.0), 100.0)
    assert endpoint.state == "ejected"
    assert endpoint.probe_at == 120.0


def test_cuts_have_a_cool_down_and_are_made_good() -> None:
    endpoint = Endpoint(URL, 64, 100, 1.0)
    busy = endpoint.sent(0.0)
    fail(endpoint, Overloaded(URL, "x", 429), 100.0)
    assert endpoint.limit == pytest.approx(64 * 0.85)
    fail(endpoint, Overloaded(URL, "x", 429), 100.0 + CUT_COOLDOWN_S - 0.1)
    assert endpoint.limit == pytest.approx(64 * 0.85)
    fail(endpoint, Overloaded(URL, "x", 503), 100.0 + CUT_COOLDOWN_S)
    assert endpoint.limit == pytest.approx(64 * 0.85**2)
    rounds = 0
    while endpoint.limit < 64:
        rounds += 1
        for _ in range(math.floor(endpoint.limit)):
            succeed(endpoint, 200.0)
    assert rounds <= 8
    endpoint.finished(busy)


def test_a_refused_connection_cuts_the_limit_by_the_same_share() -> None:
    endpoint = Endpoint(URL, 64, 100, 1.0)
    assert not fail(endpoint, Unreachable(URL, "x"), 100.0)
    assert endpoint.limit == pytest.approx(64 * 0.85)
