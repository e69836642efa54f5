from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.latency_share import FIXED, HEAVY, list_schedule
from gen_service.endpoints.simulated.timing import TotalLatency

LATENCIES = st.lists(st.floats(0.01, 10.0), min_size=1, max_size=60)


@given(latencies=LATENCIES, machines=st.integers(1, 8))
def test_a_list_schedule_keeps_grahams_bounds(latencies: list[float], machines: int) -> None:
    makespan = list_schedule(latencies, machines)
    least = max(*latencies, sum(latencies) / machines)
    assert least - 1e-9 <= makespan <= (2 - 1 / machines) * least + 1e-9


def test_the_order_of_arrival_is_kept() -> None:
    assert list_schedule([1.0, 1.0, 3.0], 2) == 4.0
    assert list_schedule([3.0, 1.0, 1.0], 2) == 3.0


def test_the_scripts_draw_the_latencies_that_the_servers_are_told() -> None:
    for tail in (FIXED, HEAVY):
        assert isinstance(tail.script.timing, TotalLatency)
        seconds = tail.script.timing.seconds
        told = [float(part) for part in tail.option.split(":")]
        assert seconds.at(0.5) == told[0]
        assert seconds.at(1 - 1e-9) == told[-1]
