"""The shares of the fleet: jobs on servers, over many seconds that are only counted."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_service.endpoints.shares import FairShares, Member, Share, Turn


@dataclass
class Job:
    """A job that always has something to send while `backlog` says so.

    Attributes:
        seconds: how long its requests hold their places, by turns.
        held_s: slot-seconds that it had, those of running requests among them when `run` returns.
        in_flight: places it has.
        given: places given to it.
    """

    share: Share
    seconds: Sequence[float]
    model: str = "m"
    backlog: bool = True
    held_s: float = 0.0
    given: int = 0
    in_flight: int = 0
    member: Member = field(init=False)

    def next_s(self) -> float:
        self.given += 1
        return self.seconds[self.given % len(self.seconds)]


class Fleet:
    """Servers of so many slots each, with the models they serve, and jobs that share them."""

    def __init__(self, jobs: Sequence[Job], slots: Sequence[tuple[int, str]]) -> None:
        self.now = 1000.0
        self.jobs = list(jobs)
        self.free = [count for count, _ in slots]
        self.models = [set(models) for _, models in slots]
        self.shares = FairShares()
        self.running: list[tuple[float, int, int, Turn, Job]] = []
        self.settled = self.now
        self._number = 0
        for job in jobs:
            job.member = self.shares.join(job.share, job.model)

    def offered(self, model: str) -> bool:
        return any(free and model in models for free, models in zip(self.free, self.models, strict=True))

    def ready(self) -> Iterator[Job]:
        """Jobs that could use a place now."""
        for job in self.jobs:
            limit = job.share.max_in_flight
            if job.backlog and self.offered(job.model) and (limit is None or job.in_flight < limit):
                yield job

    def serve(self) -> None:
        """Give out every place that somebody may have, and check each choice."""
        for job in self.jobs:
            self.shares.wants(job.member, job.backlog)
        while True:
            could = list(self.ready())
            member = self.shares.choose(self.offered, self.now)
            if member is None:
                assert not could, "a place stays free while a job waits that may have it"
                return
            job = next(job for job in self.jobs if job.member is member)
            assert job in could, "a place was given to a job that cannot use it"
            assert job.share.priority == max(other.share.priority for other in could)
            self._start(job)

    def _start(self, job: Job) -> None:
        server = next(n for n, free in enumerate(self.free) if free and job.model in self.models[n])
        self.free[server] -= 1
        job.in_flight += 1
        job.held_s -= self.now - self.settled
        self._number += 1
        turn = self.shares.begin(job.member, self.now)
        heapq.heappush(self.running, (self.now + job.next_s(), self._number, server, turn, job))

    def step(self) -> None:
        """On to the next end of a request."""
        end, _, server, turn, job = heapq.heappop(self.running)
        job.in_flight -= 1
        job.held_s += end - self.settled
        self.now = end
        self.free[server] += 1
        self.shares.end(turn, end)
        self.serve()

    def run(self, seconds: float) -> None:
        self.serve()
        until = self.now + seconds
        while self.running and self.running[0][0] <= until:
            self.step()
        self.now = until
        for job in self.jobs:
            job.held_s += job.in_flight * (until - self.settled)
        self.settled = until


def job(name: str, *seconds: float, weight: float = 1.0, tenant: str = "t", model: str = "m", **share: object) -> Job:
    return Job(Share(name, tenant, weight=weight, **share), seconds or (1.0,), model)  # type: ignore[arg-type]


def part(one: Job, jobs: Sequence[Job]) -> float:
    """What it had of what all had."""
    return one.held_s / sum(other.held_s for other in jobs)


durations = st.lists(st.floats(1.0, 10.0), min_size=1, max_size=4)
weights = st.floats(0.5, 3.0)


@settings(max_examples=40)
@given(st.lists(st.tuples(weights, durations), min_size=2, max_size=7), st.integers(1, 12))
def test_jobs_have_slot_seconds_by_their_weights(mix: list[tuple[float, list[float]]], slots: int) -> None:
    """Whatever their requests take, and with fewer slots than jobs as well."""
    jobs = [job(f"j{number}", *seconds, weight=weight) for number, (weight, seconds) in enumerate(mix)]
    fleet = Fleet(jobs, [(slots, "m")])
    fleet.run(12_000.0 / slots)
    for one in jobs:
        assert part(one, jobs) == pytest.approx(one.share.weight / sum(other.share.weight for other in jobs), rel=0.1)


@settings(max_examples=20)
@given(
    st.lists(
        st.tuples(weights, st.lists(st.tuples(weights, durations), min_size=1, max_size=4)), min_size=2, max_size=4
    ),
    st.integers(1, 12),
)
def test_tenants_share_by_their_weights_however_many_jobs_they_have(
    mix: list[tuple[float, list[tuple[float, list[float]]]]], slots: int
) -> None:
    jobs = [
        Job(Share(f"{tenant}-{number}", f"t{tenant}", tenant_weight, 0, weight), seconds)
        for tenant, (tenant_weight, owned) in enumerate(mix)
        for number, (weight, seconds) in enumerate(owned)
    ]
    Fleet(jobs, [(slots, "m")]).run(24_000.0 / slots)
    total = sum(tenant_weight for tenant_weight, _ in mix)
    for tenant, (tenant_weight, owned) in enumerate(mix):
        own = [one for one in jobs if one.share.tenant == f"t{tenant}"]
        assert sum(part(one, jobs) for one in own) == pytest.approx(tenant_weight / total, rel=0.1)
        for one, (weight, _) in zip(own, owned, strict=True):
            assert part(one, own) == pytest.approx(weight / sum(other for other, _ in owned), rel=0.1)


@settings(max_examples=60)
@given(st.data())
def test_whatever_comes_and_goes_no_place_stays_free_and_no_limit_is_passed(data: st.DataObject) -> None:
    """Each choice is checked: by a job that can use the place, of the highest priority among those; see Fleet."""
    servers = data.draw(
        st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["x", "y", "xy"])), min_size=1, max_size=3)
    )
    jobs = [
        Job(
            Share(
                f"j{number}",
                data.draw(st.sampled_from("ab")),
                data.draw(weights),
                data.draw(st.integers(-1, 1)),
                data.draw(weights),
                data.draw(st.none() | st.integers(1, 3)),
            ),
            data.draw(durations),
            data.draw(st.sampled_from("xyz")),
        )
        for number in range(data.draw(st.integers(1, 6)))
    ]
    fleet = Fleet(jobs, servers)
    for _ in range(data.draw(st.integers(0, 30))):
        one = data.draw(st.sampled_from(jobs))
        one.backlog = not one.backlog
        fleet.run(data.draw(st.floats(0.0, 10.0)))
        for each in jobs:
            assert each.member.in_flight == each.in_flight <= (each.share.max_in_flight or math.inf)
    for one in jobs:
        one.backlog = False
    while fleet.running:
        fleet.step()
    for one in jobs:
        fleet.shares.leave(one.member)
    assert fleet.shares._levels == {}
    assert fleet.shares._turns == set()


@pytest.mark.parametrize("slots", [1, 3, 10])
@pytest.mark.parametrize("seconds", [2.0, 40.0])
def test_who_was_idle_gets_no_credit(slots: int, seconds: float) -> None:
    busy, other, back = job("busy", 5.0), job("other", 20.0), job("back", seconds)
    fleet = Fleet([busy, other, back], [(slots, "m")])
    fleet.run(1000.0)
    back.backlog = False
    fleet.run(5000.0)
    before = [one.held_s for one in (busy, other, back)]
    back.backlog = True
    fleet.run(6000.0)
    had = [one.held_s - then for one, then in zip((busy, other, back), before, strict=True)]
    assert had == pytest.approx([2000.0 * slots] * 3, rel=0.1)


@pytest.mark.parametrize(("was", "will_be"), [(600.0, 10.0), (10.0, 600.0)])
def test_requests_that_take_other_times_than_before_starve_nobody(was: float, will_be: float) -> None:
    """Neither the job whose requests change nor a newcomer, who comes while all places are charged by the old mean."""
    changing, newcomer = job("changing", was), job("newcomer", 20.0)
    newcomer.backlog = False
    fleet = Fleet([changing, newcomer], [(20, "m")])
    fleet.run(2400.0)
    changing.seconds, newcomer.backlog, since = (will_be,), True, changing.held_s
    fleet.run(1200.0)
    settled = changing.held_s, newcomer.held_s
    assert settled[1] > 0.15 * (settled[0] - since + settled[1])
    fleet.run(12_000.0)
    late = changing.held_s - settled[0], newcomer.held_s - settled[1]
    assert late[0] == pytest.approx(late[1], rel=0.15)


def test_a_newcomer_has_its_half_when_half_of_the_running_have_ended() -> None:
    """Long answers run on, but what ends goes to whom the places are owed."""
    old, newcomer = job("old", *(float(600 + 12 * number) for number in range(50))), job("new", 900.0)
    newcomer.backlog = False
    fleet = Fleet([old, newcomer], [(50, "m")])
    fleet.run(5000.0)
    newcomer.backlog = True
    fleet.run(700.0)
    assert 20 <= newcomer.in_flight <= 40


def test_a_higher_priority_has_all_until_it_has_nothing_to_send() -> None:
    low, high = job("low", 3.0), job("high", 3.0, priority=1)
    high.backlog = False
    fleet = Fleet([low, high], [(4, "m")])
    fleet.run(100.0)
    high.backlog = True
    fleet.run(6.0)
    given = low.given
    fleet.run(100.0)
    assert low.given == given
    high.backlog = False
    fleet.run(6.0)
    assert low.given > given


def test_a_capped_job_leaves_its_share_to_the_others() -> None:
    capped, other = job("capped", 2.0, max_in_flight=1), job("other", 2.0)
    fleet = Fleet([capped, other], [(10, "m")])
    fleet.run(1000.0)
    assert part(capped, [capped, other]) == pytest.approx(0.1, rel=0.05)


def test_a_job_whose_model_is_full_or_nowhere_keeps_nobody_waiting_and_is_owed_nothing() -> None:
    """Where places for other models were free, none were lost to it; nor may one of them be favoured against others
    of its own model."""
    full, also_full, big, nowhere = (
        job("a", 9.0, weight=3.0, model="x"),
        job("b", 9.0, model="x"),
        job("c", 20.0, model="y"),
        job("d", model="z"),
    )
    fleet = Fleet([full, also_full, big, nowhere], [(2, "x"), (30, "y")])
    fleet.run(3000.0)
    assert full.held_s == pytest.approx(3 * also_full.held_s, rel=0.1)
    assert big.held_s == pytest.approx(30 * 3000.0, rel=0.01)
    # A server of both models comes: what `b` gets of it is not what it lacked before.
    fleet.free.append(6)
    fleet.models.append({"x", "y"})
    also_full.backlog = False
    fleet.run(100.0)
    also_full.backlog = True
    before = also_full.held_s, full.held_s
    fleet.run(3000.0)
    assert full.held_s - before[1] == pytest.approx(3 * (also_full.held_s - before[0]), rel=0.1)


def test_a_tenants_weight_counts_once_over_all_models_that_it_uses() -> None:
    one = [Job(Share("a", "one"), (2.0,), "x")]
    many = [Job(Share(f"b{model}", "many"), (2.0,), model) for model in "xyz"]
    fleet = Fleet(one + many, [(12, "xyz")])
    fleet.run(1000.0)
    assert part(one[0], one + many) == pytest.approx(0.5, rel=0.1)


def test_equal_jobs_take_turns() -> None:
    jobs = [job(f"j{number}", 1.0, tenant=f"t{number % 3}") for number in range(6)]
    fleet = Fleet(jobs, [(1, "m")])
    fleet.run(600.0)
    assert max(one.given for one in jobs) - min(one.given for one in jobs) <= 2


def test_a_job_may_come_again_under_the_same_name() -> None:
    shares = FairShares()
    first = shares.join(Share("a"), "m")
    shares.wants(first, True)
    turn = shares.begin(first, 0.0)
    shares.leave(first)
    second = shares.join(replace(Share("a"), weight=2.0), "m")
    shares.wants(second, True)
    assert shares.choose(lambda _: True, 1.0) is second
    shares.end(turn, 2.0)
    assert (first.in_flight, second.in_flight) == (0, 0)
    shares.leave(second)
    assert shares._levels == {}


def test_who_took_little_while_there_was_enough_for_all_is_owed_nothing_when_there_is_not() -> None:
    """Places given while nobody waits count too."""
    shares = FairShares()
    big, small, new = (shares.join(Share(name), "m") for name in ("big", "small", "new"))
    for second in range(1000):
        turns = [shares.begin(big, second) for _ in range(9)] + [shares.begin(small, second)]
        for turn in turns:
            shares.end(turn, second + 1)
    for member in (big, small, new):
        shares.wants(member, True)
    given = dict.fromkeys((big, small, new), 0)
    for second in range(1000, 1300):
        member = shares.choose(lambda _: True, second)
        assert member is not None
        given[member] += 1
        shares.end(shares.begin(member, second), second + 1)
    assert list(given.values()) == pytest.approx([100] * 3, abs=15)
