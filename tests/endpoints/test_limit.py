"""The limit of one server, driven by hypothesis and by small models of a server against the rule in its docstring."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_service.endpoints.limit import (
    ABSENT_S,
    CUT,
    CUT_COOLDOWN_S,
    GROWTH_PER_LOOK,
    LEARNED_MOST,
    LOW_USAGE,
    OVERSUBSCRIBE,
    STALE_S,
    Limit,
    Mode,
)
from gen_service.endpoints.readings import Readings

LOOK_S = 5.0
LIVE = 6000.0
KV_TOKENS = 400_000
# 1.5 times the 66.7 sequences that fit.
FITS = 100.0
# Half empty, and its sequences are as long as expected.
QUIET = Readings(KV_TOKENS, 0.495, 33, 0, 0.0, 0.0, 0.0)


def found(cap: int = 2048) -> Limit:
    """A limit that was read once, at time 0."""
    limit = Limit(cap, "auto")
    limit.expect_live(LIVE)
    limit.read(QUIET, 0, 0.0)
    return limit


def looks(
    limit: Limit, readings: Readings, count: int, start: float, in_flight: int | None = None, completions: int = 0
) -> list[float]:
    """The limit after each of so many looks at the same readings, with all it allows in flight or as given.

    Args:
        completions: requests that end between two looks.
    """
    values, completed = [], readings.completed or 0.0
    for look in range(count):
        busy = int(limit.value) if in_flight is None else in_flight
        limit.read(replace(readings, completed=completed + look * completions), busy, start + look * LOOK_S)
        values.append(limit.value)
    return values


def test_a_fixed_limit_is_the_cap_whatever_is_read() -> None:
    limit = Limit(64, "fixed")
    limit.expect_live(LIVE)
    assert looks(limit, replace(QUIET, preemptions=1e6), 20, 0.0) == [64.0] * 20


def test_it_begins_at_what_fits_and_at_the_cap_while_that_is_not_known() -> None:
    limit = Limit(2048, "auto")
    limit.expect_live(LIVE)
    assert limit.value == 2048
    assert set(looks(limit, replace(QUIET, kv_tokens=None), 5, 0.0)) == {2048}
    limit.read(QUIET, 0, 30.0)
    assert limit.value == pytest.approx(FITS) == pytest.approx(OVERSUBSCRIBE * KV_TOKENS / LIVE)
    assert found(cap=40).value == 40


def test_uncut_it_follows_what_fits() -> None:
    limit = found()
    limit.expect_live(LIVE / 2)
    assert limit.value == pytest.approx(2 * FITS)
    limit.expect_live(LIVE * 2)
    assert limit.value == pytest.approx(FITS / 2)
    limit.read(replace(QUIET, kv_tokens=4 * KV_TOKENS), 0, 5.0)
    assert limit.value == pytest.approx(2 * FITS)
    limit.expect_live(1e12)
    assert limit.value == 1.0


def test_a_job_like_the_others_changes_nothing() -> None:
    """What was learned of short sequences lets the limit grow look by look, not at once."""
    limit = found()
    looks(limit, replace(QUIET, kv_usage=0.8, running=100), 30, 5.0, completions=20)
    value = limit.value
    limit.expect_live(LIVE)
    assert limit.value == value
    limit.expect_live(LIVE - 1.0)
    assert limit.value > value


def test_cut_it_stays_where_it_is_when_what_fits_changes_but_for_what_is_too_much() -> None:
    limit = found()
    limit.overloaded(1.0)
    assert limit.value == pytest.approx(CUT * FITS)
    limit.expect_live(LIVE / 2)
    assert limit.value == pytest.approx(CUT * FITS)
    limit.expect_live(LIVE * 2)
    assert limit.value == pytest.approx(FITS / 2)


@pytest.mark.parametrize("mode", ["auto", "fixed"])
def test_overloads_cut_it_with_a_cool_down(mode: Mode) -> None:
    limit = Limit(64, mode)
    for now, cuts in ((0.0, 1), (CUT_COOLDOWN_S - 0.1, 1), (CUT_COOLDOWN_S, 2), (100.0, 3)):
        limit.overloaded(now)
        assert limit.value == pytest.approx(64 * CUT**cuts)
    for number in range(99):
        limit.overloaded(200.0 + number * CUT_COOLDOWN_S)
    assert limit.value == 1.0


@pytest.mark.parametrize("mode", ["auto", "fixed"])
def test_without_metrics_successes_make_cuts_good(mode: Mode) -> None:
    limit = Limit(64, mode)
    limit.overloaded(0.0)
    limit.overloaded(10.0)
    rounds = 0
    while limit.value < 64:
        rounds += 1
        for _ in range(math.floor(limit.value)):
            limit.succeeded(20.0)
    assert 4 <= rounds <= 8


def test_metrics_that_stopped_hold_a_cut_for_a_minute_and_then_successes_make_it_good() -> None:
    """Else a limit that was cut would stay so for ever."""
    limit = found()
    limit.overloaded(1.0)
    for _ in range(1000):
        limit.succeeded(ABSENT_S)
    assert limit.value == pytest.approx(CUT * FITS)
    rounds = 0
    while limit.value < FITS:
        rounds += 1
        for _ in range(math.floor(limit.value)):
            limit.succeeded(ABSENT_S + 0.1)
    assert rounds <= 3
    assert limit.value == FITS


def test_with_metrics_it_is_looks_that_make_cuts_good_in_about_a_minute() -> None:
    limit = found()
    limit.overloaded(1.0)
    for _ in range(1000):
        limit.succeeded(1.0)
    assert limit.value == pytest.approx(CUT * FITS)
    values = looks(limit, QUIET, 16, 5.0)
    assert values[0] == pytest.approx((CUT + GROWTH_PER_LOOK) * FITS)
    assert values[-1] == pytest.approx(FITS)


@pytest.mark.parametrize(
    ("readings", "in_flight"),
    [
        (replace(QUIET, waiting=1), None),
        (replace(QUIET, kv_usage=LOW_USAGE), None),
        (QUIET, 84),
        (QUIET, 86),
    ],
)
def test_it_does_not_grow_where_the_server_is_full_or_the_limit_does_not_bind(
    readings: Readings, in_flight: int | None
) -> None:
    limit = found()
    limit.overloaded(1.0)
    # What a full cache holds for each sequence is as expected, so that nothing is learned.
    usual = replace(readings, running=round((readings.kv_usage or 0) * KV_TOKENS / LIVE))
    assert looks(limit, usual, 50, 5.0, in_flight) == pytest.approx([CUT * FITS] * 50, rel=0.01)


def preempting(each: float) -> Readings:
    """A full server that did 200 completions and so many preemptions with each."""
    return Readings(KV_TOKENS, 1.0, round(KV_TOKENS / LIVE), 30, each * 200, 200.0)


def test_more_than_half_a_preemption_for_a_completion_cuts_it() -> None:
    for each, value in ((0.5, FITS), (0.51, CUT * FITS)):
        limit = found()
        limit.read(preempting(each), 100, 5.0)
        assert limit.value == pytest.approx(value, rel=0.01)


def test_preemptions_without_completions_cut_it_as_soon_as_they_must() -> None:
    """A whole window is half a round: 50 completions, and 25 preemptions are too many for it."""
    for preemptions, value in ((25.0, FITS), (26.0, CUT * FITS)):
        limit = found()
        limit.read(replace(preempting(0.0), preemptions=preemptions, completed=0.0), 100, 5.0)
        assert limit.value == pytest.approx(value, rel=0.01)


def test_a_cut_for_preemptions_has_to_take_effect_before_the_next() -> None:
    limit = found()
    limit.read(preempting(1.0), 100, 5.0)
    cut = limit.value
    for look in range(1, 20):
        limit.read(replace(preempting(1.0), preemptions=200.0 + 50 * look), 86 + 20 // look, 5.0 + look * LOOK_S)
    assert limit.value == pytest.approx(cut, rel=0.01)
    limit.read(replace(preempting(1.0), preemptions=1150.0), 85, 105.0)
    assert limit.value == pytest.approx(cut, rel=0.01)
    limit.read(replace(preempting(1.0), preemptions=1200.0), 85, 110.0)
    assert limit.value == pytest.approx(CUT * cut, rel=0.01)


def test_preemptions_do_not_cut_a_limit_that_does_not_bind() -> None:
    """At the end of a job a few long sequences push each other out; the next job begins with what fits."""
    limit = found()
    for look in range(1, 50):
        limit.read(replace(preempting(0.0), running=67, preemptions=50.0 * look), 67, look * LOOK_S)
    assert limit.value == pytest.approx(FITS, rel=0.01)


@given(gap=st.floats(STALE_S + 0.01, 1e6), preemptions=st.floats(0, 1e9), usage=st.floats(0, 1), waiting=st.integers(0))
def test_a_reading_after_a_gap_changes_nothing(gap: float, preemptions: float, usage: float, waiting: int) -> None:
    limit = found()
    limit.overloaded(1.0)
    before = limit.value
    limit.read(Readings(KV_TOKENS, usage, 20, waiting, preemptions, 100.0), int(before), gap)
    assert limit.value == before


def test_a_server_that_was_started_again_begins_its_counts_anew() -> None:
    limit = found()
    limit.read(replace(preempting(0.0), preemptions=5000.0, completed=9000.0), 60, 5.0)
    limit.read(replace(preempting(0.0), preemptions=20.0, completed=0.0), 100, 10.0)
    limit.read(replace(preempting(0.0), preemptions=40.0, completed=0.0), 100, 15.0)
    assert limit.value == pytest.approx(FITS, rel=0.01)
    limit.read(replace(preempting(0.0), preemptions=50.0, completed=0.0), 100, 20.0)
    assert limit.value == pytest.approx(CUT * FITS, rel=0.01)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_the_length_of_sequences_is_learned_slowly(factor: float) -> None:
    limit = found()
    full = Readings(KV_TOKENS, 0.82, round(0.82 * KV_TOKENS / LIVE / factor), 0, 0.0, 0.0)
    first, *_, last = looks(limit, full, 1000, 5.0, completions=2)
    assert first == pytest.approx(FITS, rel=0.02)
    assert last == pytest.approx(FITS / factor, rel=0.02)
    limit.expect_live(LIVE * 2)
    assert limit.value == pytest.approx(FITS / factor / 2, rel=0.02)


def test_short_sequences_are_learned_from_an_empty_cache_only_when_all_that_is_allowed_is_in_flight() -> None:
    """Else the last and longest of a job, or a few young ones, would say how long all are."""
    short = replace(QUIET, kv_usage=0.375)
    limit = found()
    assert set(looks(limit, replace(short, running=99), 100, 5.0, in_flight=99, completions=5)) == {FITS}
    limit.read(replace(short, completed=0.0), 99, 505.0)
    assert looks(limit, replace(short, running=100), 600, 510.0, completions=5)[-1] == pytest.approx(4 * FITS, rel=0.02)


def test_what_is_learned_has_bounds() -> None:
    huge = Readings(KV_TOKENS, 0.9, 1, 5, 0.0, 0.0)
    assert looks(found(), huge, 300, 5.0, completions=2)[-1] == pytest.approx(FITS / LEARNED_MOST, rel=0.01)
    tiny = Readings(KV_TOKENS, 0.0, 100, 0, 0.0, 0.0)
    assert looks(found(), tiny, 3000, 5.0, completions=2)[-1] == pytest.approx(FITS * LEARNED_MOST, rel=0.01)


readings = st.builds(
    Readings,
    kv_tokens=st.none() | st.sampled_from([16, KV_TOKENS, 10**7]),
    kv_usage=st.none() | st.floats(0.0, 1.0),
    running=st.none() | st.integers(0, 300),
    waiting=st.none() | st.integers(0, 300),
    preemptions=st.none() | st.floats(0.0, 1e6),
    completed=st.none() | st.floats(0.0, 1e6),
)
Event = Callable[[Limit, float], None]


def read(seen: Readings, in_flight: int, limit: Limit, now: float) -> None:
    limit.read(seen, in_flight, now)


def expect(tokens: float, limit: Limit, now: float) -> None:
    limit.expect_live(tokens)


events: st.SearchStrategy[Event] = st.one_of(
    st.builds(partial, st.just(read), readings, st.integers(0, 3000)),
    st.builds(partial, st.just(expect), st.floats(0.0, 1e6)),
    st.just(lambda limit, now: limit.overloaded(now)),
    st.just(lambda limit, now: limit.succeeded(now)),
)
histories = st.lists(st.tuples(events, st.floats(0.0, 30.0)), max_size=60)


@given(histories, st.sampled_from(["auto", "fixed"]), st.integers(1, 3000))
@settings(max_examples=300)
def test_it_is_never_above_the_cap_nor_below_one_and_two_histories_that_are_alike_end_alike(
    history: list[tuple[Event, float]], mode: Mode, cap: int
) -> None:
    limit, twin = Limit(cap, mode), Limit(cap, mode)
    now = 0.0
    for event, seconds in history:
        now += seconds
        event(limit, now)
        event(twin, now)
        assert 1.0 <= limit.value <= cap
    assert twin.value == limit.value


@given(histories, st.integers(1, 3000))
@settings(max_examples=300)
def test_whatever_happened_it_recovers_in_quiet_times(history: list[tuple[Event, float]], cap: int) -> None:
    limit = Limit(cap, "auto")
    now = 0.0
    for event, seconds in history:
        now += seconds
        event(limit, now)
    limit.expect_live(LIVE)
    quiet = replace(QUIET, preemptions=1e7, completed=1e7)
    values = looks(limit, quiet, 700, now + 5.0, completions=2)
    assert values[110] >= min(cap, FITS / LEARNED_MOST)
    assert values[-1] == pytest.approx(min(cap, FITS), rel=0.02)


@given(readings, st.integers(1, 3000), st.integers(0, 30))
@settings(max_examples=200)
def test_in_steady_readings_it_stops_changing(steady: Readings, cap: int, completions: int) -> None:
    """What is learned comes to rest, and so does what follows from it; it never turns back and forth."""
    values = looks(found(cap), steady, 2500, 5.0, completions=completions)
    assert max(values[-100:]) - min(values[-100:]) <= 0.03 * values[-1]


@dataclass
class Server:
    """A crude server: sequences of one mean length, of which the last to come are put back when the cache is full.

    Attributes:
        live: tokens that each holds on average.
        spread: by how much of it the sum changes, in a slow wave.
    """

    live: float
    spread: float
    preemptions: float = 0.0
    completed: float = 0.0

    def look(self, in_flight: int, now: float) -> Readings:
        fit = KV_TOKENS / (self.live * (1.0 + self.spread * math.sin(now / 40.0)))
        running = min(in_flight, int(fit))
        waiting = in_flight - running
        self.completed += running / 30.0
        self.preemptions += waiting / 10.0
        return Readings(KV_TOKENS, min(1.0, in_flight / fit), running, waiting, self.preemptions, self.completed)


@given(live=st.floats(1500.0, 20_000.0), spread=st.floats(0.0, 0.15), overloaded=st.booleans())
@settings(max_examples=60, deadline=None)
def test_with_a_server_it_settles_where_the_cache_is_nearly_full(live: float, spread: float, overloaded: bool) -> None:
    """Whatever was expected: no swings beyond what the server itself does, and neither starved nor thrashing."""
    limit, server = found(), Server(live, spread)
    if overloaded:
        for number in range(30):
            limit.overloaded(number * CUT_COOLDOWN_S)
    now, values = 200.0, []
    limit.read(server.look(0, now), 0, now)
    for _ in range(2000):
        now += LOOK_S
        in_flight = int(limit.value)
        limit.read(server.look(in_flight, now), in_flight, now)
        values.append(limit.value)
    settled, fit = values[1000:], KV_TOKENS / live
    assert max(settled) <= 1.03 * min(settled) or (spread > 0.0 and max(settled) <= 1.3 * min(settled))
    assert 0.6 * fit - 1.0 <= min(settled)
    assert max(settled) <= OVERSUBSCRIBE * (1.0 + spread) * fit + 1.0
