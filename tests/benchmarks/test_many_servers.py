"""What the benchmark of many servers reads, and when it says that a target is missed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.loop_lag import LagProbe
from benchmarks.many_servers import Servers, Size, report
from benchmarks.many_servers_job import Look, Watch
from gen_service.endpoints.readings import Readings


def test_a_pause_weighs_as_long_as_it_lasted() -> None:
    probe, due = LagProbe(0.25), 0.25
    for beat in range(1, 81):
        due = probe.woke(due, beat * 0.25)
    due = probe.woke(due, 25.0)
    figures = probe.figures()
    assert due == 25.25
    assert (figures.beats, figures.p50_s, figures.p99_s, figures.max_s) == (100, 0.0, 4.75, 4.75)
    assert probe.figures(until=20.0).max_s == 0.0
    assert LagProbe().figures().beats == 0


@given(st.lists(st.floats(0.0, 3.0, width=32), min_size=1, max_size=30))
def test_every_beat_is_counted_once_however_late_the_loop_wakes(sleeps: list[float]) -> None:
    probe, due, now = LagProbe(0.0625), 0.0625, 0.0
    for seconds in sleeps:
        now += seconds
        due = probe.woke(due, now)
    assert due > now
    assert due - now <= 0.0625
    assert probe.figures().beats == due / 0.0625 - 1


def test_the_fleet_counts_as_full_from_the_first_to_the_last_full_look() -> None:
    watch = Watch([Look(float(at), 0.0, used, 0) for at, used in enumerate([10, 96, 40, 100, 94])])
    assert [look.at for look in watch.full(100)] == [1.0, 2.0, 3.0]
    assert watch.full(1000) == []


@pytest.mark.parametrize(
    ("changes", "answered", "missed"),
    [
        ({}, [10, 12], set()),
        ({"lag": {"p99_s": 0.1}}, [10, 12], {"lag_p99_below_100_ms"}),
        ({}, [1, 21], {"no_server_starved_of_requests"}),
        ({"full": {"least_at_a_server": 1}}, [10, 12], {"no_server_starved_while_full"}),
        ({"full": {}}, [10, 12], {"no_server_starved_while_full"}),
        ({"by_verdict": {"correct": 23, "error": 1}}, [10, 12], {"each_sample_is_one_right_row"}),
    ],
)
def test_each_target_can_be_missed(changes: dict[str, Any], answered: list[int], missed: set[str]) -> None:
    job = {"wall_s": 2.0, "lag": {"p99_s": 0.01}, "by_verdict": {"correct": 24}, "full": {"least_at_a_server": 4}}
    last = [Readings(generated_tokens=100.0, completed=float(count)) for count in answered]
    servers = Servers(("a", "b"), [], [(0.0, [Readings(), Readings()]), (1.0, last)])
    found = report(Size(servers=2, in_flight=8, samples=24), job | changes, servers, last, 0.5)
    assert {name for name, holds in found["holds"].items() if not holds} == missed
    assert found["servers"]["tokens_per_s"] == 100.0
    assert found["servers"]["tokens_per_s_at_most"] == 200.0
