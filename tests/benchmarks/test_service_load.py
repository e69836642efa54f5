"""The plan of the load benchmark, and what it reads off a service."""

from __future__ import annotations

import math

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from benchmarks.service_load import FULL, SAMPLES_A_PROMPT, SHORT, TENANTS, Size, planned
from benchmarks.service_readings import Lag, Memory, buckets_of, lag_of
from gen_service.metrics import LOOP_LAG, Metrics


@pytest.mark.parametrize("size", [FULL, SHORT])
def test_each_job_is_as_long_as_its_share(size: Size) -> None:
    plan = planned(size)
    assert len(plan) == size.jobs
    assert sum(job.prompts for job in plan) * SAMPLES_A_PROMPT == pytest.approx(size.samples, rel=0.05)
    prompts = {name: sum(job.prompts for job in plan if job.tenant == name) for name in TENANTS}
    for name, weight in TENANTS.items():
        assert prompts[name] / sum(prompts.values()) == pytest.approx(weight / sum(TENANTS.values()), rel=0.1)
        light, heavy = (next(job for job in plan if (job.tenant, job.weight) == (name, w)) for w in (1.0, 4.0))
        assert heavy.prompts == pytest.approx(4 * light.prompts, rel=0.25)


def test_the_lag_is_read_from_what_the_service_exposes() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for _ in range(990):
        metrics.observe_lag(0.0004)
    for _ in range(9):
        metrics.observe_lag(0.04)
    metrics.observe_lag(0.2)
    lag = lag_of(buckets_of(generate_latest(registry).decode(), LOOP_LAG.name))
    assert lag == Lag(0.001, 0.001, 0.25)
    for _ in range(10):
        metrics.observe_lag(99.0)
    lag = lag_of(buckets_of(generate_latest(registry).decode(), LOOP_LAG.name))
    assert lag == Lag(0.001, 0.25, math.inf)


def test_memory_is_told_by_the_rows_that_were_made() -> None:
    memory = Memory(
        rows_now=100, cpu_s=0.2, points=[(0, 10_000_000), (50, 30_000_000), (60, 31_000_000), (100, 20_000_000)]
    )
    assert [figure.value for figure in memory.figures("x")] == [2.0, 10.0, 31.0, 1.0]
    assert Memory().figures("x") == []
