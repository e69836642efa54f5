"""Which server is a straggler, by numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.endpoints.speeds import (
    FEWEST_SERVERS,
    FORGOTTEN_S,
    JUDGED_AFTER_S,
    JUDGED_TOKENS,
    LONGEST_REST_S,
    REST_S,
    SLOW,
    WINDOW_S,
    Pace,
    Slowness,
    Stream,
    straggler,
)

LOOK_S = 5.0


def paced(speed: float, streams: int = 10, seconds: float = WINDOW_S, chunk: int = 1) -> Pace:
    """A server seen for so long; its tokens come in chunks."""
    pace = Pace()
    now, tokens = 0.0, 0.0
    while now <= seconds:
        pace.look(now, int(tokens / chunk) * chunk, streams)
        now += LOOK_S
        tokens += speed * streams * LOOK_S
    return pace


def test_a_pace_is_known_after_a_minute() -> None:
    assert paced(30.0, seconds=WINDOW_S - LOOK_S).speed() is None
    pace = paced(30.0)
    assert pace.speed() == pytest.approx(30.0)
    assert pace.throughput() == pytest.approx(300.0)


def test_a_pace_follows_the_last_minute_only() -> None:
    pace = paced(30.0, seconds=600.0)
    tokens = 30 * 10 * 600
    for look in range(1, 13):
        pace.look(600.0 + look * LOOK_S, tokens + look * 3 * 10 * 5, 10)
    assert pace.speed() == pytest.approx(3.0, rel=0.05)


def test_a_pace_does_not_depend_on_how_tokens_are_chunked() -> None:
    assert paced(30.0, streams=4, seconds=300.0, chunk=512).speed() == pytest.approx(30.0, rel=0.1)


@pytest.mark.parametrize("gap", ["forgotten", "too few streams"])
def test_a_pace_begins_anew_after_a_gap(gap: str) -> None:
    pace = paced(30.0)
    if gap == "forgotten":
        pace.forget()
    else:
        pace.look(100.0, 1_000_000, 1)
    assert (pace.speed(), pace.throughput()) == (None, None)
    for look in range(13):
        assert pace.speed() is None
        pace.look(105.0 + look * LOOK_S, 1_000_000 + look * 100, 4)
    assert pace.speed() == pytest.approx(5.0)


def test_an_hour_in_which_nobody_looked_is_not_slow() -> None:
    """Nothing was in flight: the first tokens after it, over that hour, would make any server a straggler."""
    pace = paced(30.0)
    pace.look(3600.0, 18_100, 4)
    assert (pace.speed(), pace.throughput()) == (None, None)
    for look in range(1, 13):
        assert pace.speed() is None
        pace.look(3600.0 + look * LOOK_S, 18_100 + look * 100, 4)
    assert pace.speed() == pytest.approx(5.0)


def named(paces: dict[str, Pace]) -> list[object]:
    found = straggler(paces)
    return [] if found is None else [found[0], round(found[1], 6), round(found[2], 6)]


def test_the_slowest_of_three_is_a_straggler_when_it_is_slow_enough() -> None:
    usual = {"a": paced(30.0), "b": paced(33.0)}
    assert named(usual | {"c": paced(9.0)}) == ["c", 9.0, 30.0]
    assert straggler(usual | {"c": paced(11.0)}) is None
    assert straggler({"a": paced(30.0), "c": paced(1.0)}) is None
    assert straggler(usual | {"c": paced(1.0, seconds=30.0)}) is None
    assert straggler(usual | {"c": paced(1.0, streams=1)}) is None
    assert straggler({name: Pace() for name in "abc"}) is None


def test_a_server_that_is_only_busier_is_no_straggler() -> None:
    """After an outage of the others it holds everything: each request is slow, all together are not."""
    assert straggler({"a": paced(90.0, 2), "b": paced(90.0, 2), "busy": paced(15.0, 200)}) is None


def test_servers_that_write_nothing_are_no_stragglers_of_each_other() -> None:
    assert straggler({name: paced(0.0) for name in "abc"}) is None
    assert named({"a": paced(30.0), "b": paced(30.0), "c": paced(0.0)}) == ["c", 0.0, 30.0]


@given(st.dictionaries(st.integers(0, 9), st.tuples(st.floats(0.1, 100.0), st.integers(1, 300)), max_size=8))
def test_a_straggler_leaves_two_that_are_faster(servers: dict[int, tuple[float, int]]) -> None:
    """Also when stragglers are taken out one after the other, until none is left to take."""
    paces = {name: paced(speed, streams) for name, (speed, streams) in servers.items()}
    while (found := straggler(paces)) is not None:
        assert len(paces) >= FEWEST_SERVERS
        slowest, speed, usual = found
        del paces[slowest]
        assert speed < SLOW * usual
        assert sum((pace.speed() or 0.0) > speed for pace in paces.values()) >= FEWEST_SERVERS // 2 + 1
    assert len(paces) >= min(len(servers), FEWEST_SERVERS - 1)


def test_a_stream_runs_while_it_gets_tokens_and_a_minute_longer() -> None:
    stream = Stream()
    assert not stream.runs(0.0)
    stream.tokens += 5
    assert stream.runs(10.0)
    assert stream.runs(10.0 + WINDOW_S)
    assert not stream.runs(11.0 + WINDOW_S)
    stream.tokens += 1
    assert stream.runs(12.0 + WINDOW_S)


def test_each_time_a_server_is_slow_it_rests_twice_as_long_until_that_is_forgotten() -> None:
    slowness = Slowness()
    now, rests = 0.0, []
    for _ in range(8):
        rests.append(slowness.begins(30.0, now))
        now += rests[-1]
        slowness.ends(now)
        now += FORGOTTEN_S
    assert rests == [min(LONGEST_REST_S, REST_S * 2.0**time) for time in range(8)]
    assert slowness.begins(30.0, now + 1.0) == REST_S


@pytest.mark.parametrize(
    ("tokens", "seconds", "is_whole", "verdict"),
    [
        (0, JUDGED_AFTER_S - 1, False, None),
        (10_000, JUDGED_AFTER_S - 1, False, None),
        (299, JUDGED_AFTER_S, False, False),
        (300, JUDGED_AFTER_S, False, True),
        (JUDGED_TOKENS, 20.0, True, False),
        (JUDGED_TOKENS - 1, 20.0, True, True),
        (200, 20.0, True, True),
        (0, 0.0, True, True),
    ],
)
def test_a_trial_is_judged_by_a_third_of_what_is_usual(
    tokens: int, seconds: float, is_whole: bool, verdict: bool | None
) -> None:
    slowness = Slowness()
    assert slowness.verdict(tokens, seconds, is_whole) is None
    slowness.begins(30.0, 0.0)
    assert slowness.verdict(tokens, seconds, is_whole) is verdict
    slowness.ends(1.0)
    assert slowness.verdict(tokens, seconds, is_whole) is None
