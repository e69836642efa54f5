"""The state machine of one server, driven by hypothesis against the rule in its docstring."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gen_service.endpoints.endpoint import DRAINING_WORDS, LONGEST_EJECTION_S, LONGEST_REST_S, Endpoint, Place
from gen_service.endpoints.limit import CUT_COOLDOWN_S, Mode
from gen_service.endpoints.readings import Readings
from gen_service.endpoints.speeds import JUDGED_AFTER_S, JUDGED_TOKENS, REST_S, SLOW
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
OUT = ("draining", "ejected")
failures = st.one_of(
    st.sampled_from([Unreachable, ServerFailed, StreamBroken, MalformedAnswer, Stalled]).map(
        lambda kind: kind(URL, "x")
    ),
    st.one_of(st.none(), st.floats(0, 100)).map(lambda seconds: Overloaded(URL, "x", 429, seconds)),
    st.sampled_from(["broken engine", DRAINING_WORDS]).map(lambda words: ServerFailed(URL, words, 500)),
)


class EndpointMachine(RuleBasedStateMachine):
    """Any order of sending, succeeding, failing, probing, waiting, and being found slow."""

    @initialize(cap=st.integers(1, 9), eject_after=st.integers(1, 4), limit=st.sampled_from(["auto", "fixed"]))
    def begin(self, cap: int, eject_after: int, limit: Mode) -> None:
        self.endpoint = Endpoint(URL, cap, eject_after, 1.0, limit=limit)
        self.now = 10.0
        self.open: list[Place] = []
        self.rests_until = 0.0
        self.is_slow = False

    @rule(seconds=st.floats(0.0, 40.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.endpoint.has_room(self.now))
    @rule()
    def send(self) -> None:
        assert self.endpoint.state not in OUT
        assert self.endpoint.in_flight < self.endpoint.limit <= self.endpoint.cap
        assert self.now >= self.rests_until
        place = self.endpoint.sent(self.now)
        assert place.on_trial == (self.endpoint.state == "trial")
        self.open.append(place)

    def decides(self, place: Place) -> bool:
        return self.endpoint.state == "trial" and place.on_trial and place.era == self.endpoint.ejections

    @precondition(lambda self: self.open)
    @rule(data=st.data(), cancelled=st.booleans())
    def succeed(self, data: st.DataObject, cancelled: bool) -> None:
        place = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        state, completed, decides = self.endpoint.state, self.endpoint.completed, self.decides(place)
        if not cancelled:
            self.endpoint.succeeded(place, self.now)
            assert self.endpoint.completed == completed + 1
            if decides and self.is_slow:
                enough = place.tokens >= SLOW * 30.0 * (self.now - place.sent_at)
                self.is_slow = not (enough or place.tokens < JUDGED_TOKENS)
                assert self.endpoint.state == ("ejected" if self.is_slow else "healthy")
            else:
                assert self.endpoint.state == ("healthy" if decides else state)
        self.endpoint.finished(place)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def first_token(self, data: st.DataObject) -> None:
        place = self.open[data.draw(st.integers(0, len(self.open) - 1))]
        state, decides = self.endpoint.state, self.decides(place)
        self.endpoint.answers(place)
        assert self.endpoint.state == ("healthy" if decides and not self.is_slow else state)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), tokens=st.integers(1, 2000))
    def write(self, data: st.DataObject, tokens: int) -> None:
        place = self.open[data.draw(st.integers(0, len(self.open) - 1))]
        self.first_token_of(place)
        place.tokens += tokens

    def first_token_of(self, place: Place) -> None:
        if not place.answered:
            self.endpoint.answers(place)

    @rule()
    def look(self) -> None:
        state = self.endpoint.state
        deciding = [place for place in self.open if self.decides(place)]
        broken_off = self.endpoint.look(self.now)
        if self.is_slow and deciding and self.now - deciding[0].sent_at >= JUDGED_AFTER_S:
            seconds = self.now - deciding[0].sent_at
            self.is_slow = deciding[0].tokens < SLOW * 30.0 * seconds
            assert self.endpoint.state == ("ejected" if self.is_slow else "healthy")
            assert set(broken_off) == (set(self.open) if self.is_slow else set())
        else:
            assert self.endpoint.state == state
            assert broken_off == []

    @precondition(lambda self: self.endpoint.state == "healthy")
    @rule()
    def find_slow(self) -> None:
        self.is_slow = True
        assert set(self.endpoint.eject_slow(2.0, 30.0, self.now)) == set(self.open)
        assert self.endpoint.state == "ejected"
        assert self.endpoint.reason.startswith("slow: 2 tokens/s")
        assert self.endpoint.probe_at >= self.now + REST_S

    @precondition(lambda self: self.open)
    @rule(data=st.data(), error=failures)
    def fail(self, data: st.DataObject, error: EndpointError) -> None:
        place = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        state, of_now, decides = self.endpoint.state, place.era == self.endpoint.ejections, self.decides(place)
        ejections = self.endpoint.ejections
        counts = self.endpoint.failed(error, place, self.now)
        blameless = isinstance(error, Overloaded | Unreachable) or self.endpoint.state == "draining"
        assert counts == (of_now and state == "healthy" and not blameless)
        if not of_now:
            assert self.endpoint.state == state
            assert self.endpoint.ejections == ejections
        elif isinstance(error, Overloaded):
            self.rests_until = max(self.rests_until, self.now + (error.retry_after_s or 0.0))
        if of_now and DRAINING_WORDS in error.words and not place.answered and (state == "healthy" or decides):
            assert self.endpoint.state == "draining"
        if decides:
            assert self.endpoint.state in OUT
        if self.endpoint.state == "draining":
            assert self.endpoint.ejections == ejections
        if self.endpoint.ejections > ejections:
            assert self.now < self.endpoint.probe_at
        self.endpoint.finished(place)

    @precondition(lambda self: self.endpoint.state in OUT and self.endpoint.probe_at <= self.now)
    @rule(well=st.booleans())
    def probe(self, well: bool) -> None:
        self.endpoint.probed(None if well else "down", self.now)
        assert self.endpoint.state == ("trial" if well else "ejected")

    @invariant()
    def counts_fit(self) -> None:
        assert self.endpoint.in_flight == len(self.open)
        assert 1.0 <= self.endpoint.limit <= self.endpoint.cap

    @invariant()
    def one_that_is_out_takes_nothing(self) -> None:
        if self.endpoint.state in OUT:
            assert not self.endpoint.has_room(self.now)
            longest = max(LONGEST_EJECTION_S, self.rests_until - self.now)
            assert self.is_slow or self.endpoint.probe_at <= self.now + longest

    @invariant()
    def trial_has_one_place(self) -> None:
        if self.endpoint.state == "trial":
            deciding = [place for place in self.open if self.decides(place)]
            room = self.endpoint.in_flight < int(self.endpoint.limit) and self.now >= self.rests_until
            assert self.endpoint.has_room(self.now) == (room and not deciding)

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
        assert self.endpoint.has_room(self.now)


EndpointMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestEndpointMachine = EndpointMachine.TestCase


def fail(endpoint: Endpoint, error: EndpointError, now: float, sent_at: float | None = None) -> bool:
    place = endpoint.sent(now if sent_at is None else sent_at)
    counts = endpoint.failed(error, place, now)
    endpoint.finished(place)
    return counts


def state_of(endpoint: Endpoint) -> str:
    """Unlike the attribute, it may be another one after each call."""
    return endpoint.state


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
    assert state_of(endpoint) == "healthy"
    for _ in range(3):
        fail(endpoint, ServerFailed(URL, "broken engine", 500), 2.0)
    assert state_of(endpoint) == "ejected"
    assert "broken engine" in endpoint.reason


def test_a_server_that_gives_tokens_is_not_ejected_for_what_it_refuses() -> None:
    """Refusals are at once and long answers take a quarter of an hour: without this, 1% of refusals would eject."""
    endpoint = Endpoint(URL, 8, 3, 1.0)
    long_answer = endpoint.sent(1.0)
    for _ in range(9):
        assert fail(endpoint, ServerFailed(URL, "x", 500), 1.0)
        endpoint.answers(long_answer)
    assert state_of(endpoint) == "healthy"
    for _ in range(3):
        fail(endpoint, MalformedAnswer(URL, "x"), 2.0)
    assert state_of(endpoint) == "ejected"


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


def streaming(endpoint: Endpoint, now: float, tokens: int = 0) -> Place:
    place = endpoint.sent(now)
    endpoint.answers(place)
    place.tokens += tokens
    return place


def test_the_words_of_a_draining_server_are_enough_and_its_streams_go_on() -> None:
    endpoint = Endpoint(URL, 8, 3, 1.0)
    stream, second = streaming(endpoint, 1.0), streaming(endpoint, 1.0)
    assert not fail(endpoint, ServerFailed(URL, DRAINING_WORDS, 500), 2.0)
    assert (endpoint.state, endpoint.ejections, endpoint.in_flight) == ("draining", 0, 2)
    assert DRAINING_WORDS in endpoint.reason
    assert not endpoint.has_room(2.0)
    endpoint.succeeded(stream, 9.0)
    endpoint.finished(stream)
    assert (endpoint.state, endpoint.completed) == ("draining", 1)
    endpoint.succeeded(second, 10.0)
    assert endpoint.completed == 2


def test_a_server_that_refuses_all_that_is_new_but_goes_on_with_the_rest_drains() -> None:
    endpoint = Endpoint(URL, 8, 3, 1.0)
    streaming(endpoint, 1.0)
    assert [fail(endpoint, ServerFailed(URL, "x", 500), 2.0) for _ in range(3)] == [True, True, False]
    assert endpoint.state == "draining"


def test_a_draining_server_is_tried_again_with_one_request_while_its_streams_go_on() -> None:
    endpoint = Endpoint(URL, 8, 3, 1.0)
    streams = [streaming(endpoint, 1.0) for _ in range(3)]
    fail(endpoint, ServerFailed(URL, DRAINING_WORDS, 500), 2.0)
    for wait_s in (1.0, 2.0, 4.0):
        now = endpoint.probe_at
        endpoint.probed(None, now)
        assert endpoint.state == "trial"
        endpoint.answers(streams[0])
        assert endpoint.state == "trial"
        assert not fail(endpoint, ServerFailed(URL, DRAINING_WORDS, 500), now)
        assert (endpoint.state, endpoint.probe_at) == ("draining", now + 2 * wait_s)
    endpoint.probed(None, 20.0)
    endpoint.answers(endpoint.sent(20.0))
    assert endpoint.state == "healthy"
    assert endpoint.has_room(20.0)


@pytest.mark.parametrize("way", ["broken stream", "stalled stream", "refused connection", "failed probe"])
def test_a_draining_server_that_stops_answering_is_ejected_at_no_samples_cost(way: str) -> None:
    endpoint = Endpoint(URL, 8, 3, 1.0)
    stream, other = streaming(endpoint, 1.0), streaming(endpoint, 1.0)
    late = endpoint.sent(1.5)
    fail(endpoint, ServerFailed(URL, DRAINING_WORDS, 500), 2.0)
    match way:
        case "broken stream":
            assert not endpoint.failed(StreamBroken(URL, "gone"), stream, 5.0)
        case "stalled stream":
            assert not endpoint.failed(Stalled(URL, "gone"), stream, 5.0)
        case "refused connection":
            assert not endpoint.failed(Unreachable(URL, "gone"), late, 5.0)
        case "failed probe":
            endpoint.probed("gone", 5.0)
    assert (endpoint.state, endpoint.ejections) == ("ejected", 1)
    assert "gone" in endpoint.reason
    assert not endpoint.failed(StreamBroken(URL, "gone"), other, 5.0)
    assert endpoint.ejections == 1


def test_requests_that_cross_the_beginning_of_a_drain_change_nothing() -> None:
    endpoint = Endpoint(URL, 8, 3, 1.0)
    crossing = [endpoint.sent(1.0) for _ in range(6)]
    for place in crossing:
        assert not endpoint.failed(ServerFailed(URL, DRAINING_WORDS, 500), place, 2.0)
        endpoint.finished(place)
    assert (endpoint.state, endpoint.ejections, endpoint.probe_at) == ("draining", 0, 3.0)


def slow_on_trial(tokens_per_s: float) -> tuple[Endpoint, Place, float]:
    """A server that was found slow (30 tokens/s are usual), with a request on trial that gets so many."""
    endpoint = Endpoint(URL, 8, 3, 1.0)
    endpoint.finished(streaming(endpoint, 0.0, 500))
    assert endpoint.eject_slow(4.0, 30.0, 100.0) == []
    assert endpoint.probe_at == 100.0 + REST_S
    endpoint.probed(None, 200.0)
    place = streaming(endpoint, 200.0, int(tokens_per_s * JUDGED_AFTER_S))
    assert endpoint.state == "trial"
    assert not endpoint.has_room(200.0)
    assert endpoint.look(200.0 + JUDGED_AFTER_S - 0.1) == []
    return endpoint, place, 200.0 + JUDGED_AFTER_S


def test_a_slow_server_is_back_when_its_request_on_trial_is_fast_enough() -> None:
    endpoint, _, now = slow_on_trial(10.0)
    assert endpoint.look(now) == []
    assert (endpoint.state, endpoint.reason) == ("healthy", "")
    assert endpoint.has_room(now)


def test_a_server_that_is_slow_on_trial_rests_for_longer_and_its_request_is_broken_off() -> None:
    endpoint, place, now = slow_on_trial(9.0)
    assert endpoint.look(now) == [place]
    assert (endpoint.state, endpoint.probe_at) == ("ejected", now + 2 * REST_S)
    assert endpoint.reason == "slow: 9 tokens/s for each request, where 30 are usual"
    assert not endpoint.failed(Stalled(URL, "given up"), place, now)


@pytest.mark.parametrize(("tokens", "state"), [(JUDGED_TOKENS - 1, "healthy"), (JUDGED_TOKENS, "ejected")])
def test_a_whole_answer_is_judged_when_it_is_long_enough_to_tell(tokens: int, state: str) -> None:
    endpoint = Endpoint(URL, 8, 3, 1.0)
    endpoint.eject_slow(4.0, 30.0, 100.0)
    endpoint.probed(None, 200.0)
    place = streaming(endpoint, 200.0, tokens)
    endpoint.succeeded(place, 220.0)
    assert endpoint.state == state


def test_a_slow_server_that_is_needed_is_probed_at_once_and_back_with_its_first_token() -> None:
    endpoint = Endpoint(URL, 8, 3, 1.0)
    endpoint.eject_slow(4.0, 30.0, 100.0)
    endpoint.is_needed(110.0)
    assert (endpoint.state, endpoint.probe_at) == ("ejected", 110.0)
    endpoint.probed(None, 110.0)
    streaming(endpoint, 110.0, 1)
    assert endpoint.state == "healthy"
    # It is not the first time.
    endpoint.eject_slow(4.0, 30.0, 200.0)
    assert endpoint.probe_at == 200.0 + 2 * REST_S


def test_a_slow_server_that_is_needed_while_on_trial_is_back_if_it_writes() -> None:
    endpoint, _, now = slow_on_trial(1.0)
    endpoint.is_needed(now)
    assert endpoint.state == "healthy"
    assert endpoint.look(now + 100.0) == []


@pytest.mark.parametrize("state", ["ejected", "trial", "healthy"])
def test_one_that_was_not_slow_is_not_brought_back_by_being_needed(state: str) -> None:
    endpoint = Endpoint(URL, 8, 3, 1.0)
    if state != "healthy":
        endpoint.eject("down", 0.0)
    if state == "trial":
        endpoint.probed(None, 1.0)
    before = (endpoint.state, endpoint.probe_at)
    endpoint.is_needed(0.5)
    assert (endpoint.state, endpoint.probe_at) == before == (state, 0.0 if state == "healthy" else 1.0)


def test_readings_move_the_limit_of_one_that_finds_itself_and_say_when_there_is_more_room() -> None:
    endpoint = Endpoint(URL, 1000, 3, 1.0, limit="auto")
    endpoint.expect_live(1000.0)
    assert not endpoint.read(Readings(kv_tokens=100_000), 0.0)
    assert endpoint.limit == pytest.approx(150.0)
    assert endpoint.read(Readings(kv_tokens=200_000), 5.0)
    assert endpoint.limit == pytest.approx(300.0)
    fixed = Endpoint(URL, 1000, 3, 1.0)
    assert not fixed.read(Readings(kv_tokens=100_000), 0.0)
    assert fixed.limit == 1000.0


def writing(waiting: int | None) -> tuple[Endpoint, Place]:
    """A server that wrote to one request until now, 200.0, and nothing to another since 10.0."""
    endpoint = Endpoint(URL, 8, 1, 1.0, limit="auto")
    silent, other = endpoint.sent(10.0), endpoint.sent(10.0)
    endpoint.answers(silent)
    endpoint.answers(other)
    for now in (190.0, 195.0, 200.0):
        other.tokens += 100
        endpoint.look(now)
        endpoint.read(Readings(kv_tokens=1_000_000, waiting=waiting, running=1), now)
    return endpoint, silent


def test_a_stall_where_requests_wait_and_others_get_tokens_is_one_that_was_pushed_back() -> None:
    endpoint, silent = writing(waiting=3)
    assert not endpoint.failed(Stalled(URL, "x"), silent, 201.0)
    assert endpoint.state == "healthy"


@pytest.mark.parametrize("waiting", [0, None])
def test_a_stall_where_none_waits_counts_against_sample_and_server(waiting: int | None) -> None:
    endpoint, silent = writing(waiting)
    assert endpoint.failed(Stalled(URL, "x"), silent, 201.0)
    assert endpoint.state == "ejected"


def test_a_stall_of_a_server_that_writes_to_nobody_any_more_counts() -> None:
    endpoint, silent = writing(waiting=3)
    for now in (205.0, 210.0, 215.0):
        endpoint.look(now)
    assert endpoint.failed(Stalled(URL, "x"), silent, 216.0)
    assert endpoint.state == "ejected"
