"""Which queued job starts next."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gen_service.controller.queue import Queued, next_job

TENANTS = {"a": 1.0, "b": 2.0, "c": 0.5}
JOBS = st.lists(
    st.tuples(st.sampled_from(sorted(TENANTS)), st.integers(-10, 10), st.floats(0, 1e9)), min_size=1, max_size=30
).map(
    lambda drawn: [
        Queued(f"job-{number:03}", tenant, TENANTS[tenant], priority, since)
        for number, (tenant, priority, since) in enumerate(drawn)
    ]
)
RUNNING = st.dictionaries(st.sampled_from(sorted(TENANTS)), st.integers(0, 50))


def drained(jobs: list[Queued], running: Counter[str]) -> list[Queued]:
    """All of them in the order in which they start, when none ends."""
    left, order = list(jobs), []
    while (job := next_job(left, running)) is not None:
        left.remove(job)
        running[job.tenant] += 1
        order.append(job)
    return order


def test_nothing_starts_where_nothing_waits() -> None:
    assert next_job([], {"a": 3}) is None


@given(JOBS, RUNNING)
def test_no_job_of_a_higher_priority_is_left_waiting(jobs: list[Queued], running: dict[str, int]) -> None:
    chosen = next_job(jobs, running)
    assert chosen in jobs
    assert all(job.priority <= chosen.priority for job in jobs)


@given(JOBS, RUNNING)
def test_of_one_priority_the_tenant_with_the_least_for_its_weight_comes_first(
    jobs: list[Queued], running: dict[str, int]
) -> None:
    chosen = next_job(jobs, running)
    assert chosen is not None

    def load(job: Queued) -> float:
        return running.get(job.tenant, 0) / job.tenant_weight

    assert all(load(chosen) <= load(job) for job in jobs if job.priority == chosen.priority)


@given(JOBS, RUNNING)
def test_a_tenants_jobs_of_one_priority_start_as_they_came(jobs: list[Queued], running: dict[str, int]) -> None:
    started = drained(jobs, Counter(running))
    assert sorted(job.job_id for job in started) == [job.job_id for job in jobs]
    for tenant in TENANTS:
        for priority in range(-10, 11):
            own = [job.since for job in started if (job.tenant, job.priority) == (tenant, priority)]
            assert own == sorted(own)


@given(JOBS, RUNNING, st.randoms(use_true_random=False))
def test_the_order_of_asking_does_not_matter(jobs: list[Queued], running: dict[str, int], random: object) -> None:
    mixed = list(jobs)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert next_job(mixed, running) == next_job(jobs, running)


@given(st.integers(1, 200))
def test_tenants_of_one_priority_start_in_the_proportion_of_their_weights(starts: int) -> None:
    jobs = [
        Queued(f"job-{tenant}-{number:03}", tenant, weight, 0, number)
        for tenant, weight in TENANTS.items()
        for number in range(starts)
    ]
    started = Counter(job.tenant for job in drained(jobs, Counter())[:starts])
    whole = sum(TENANTS.values())
    for tenant, weight in TENANTS.items():
        assert abs(started[tenant] - starts * weight / whole) <= 2
