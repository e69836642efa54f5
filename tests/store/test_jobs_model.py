"""Jobs against a plain model: whatever is done in whatever order, the database says what a dict would."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from gen_service.errors import Conflict, NotFound, TooManyRequests
from gen_service.service_settings import QuotaSettings
from gen_service.store.database import open_store
from gen_service.store.rows import JobRow, Usage
from gen_service.store.store import Store
from gen_service.wire.states import ACTIVE, FINAL, STATES, JobEvent, JobState, after

TENANTS = st.sampled_from(["a", "b"])
EVENTS = st.sampled_from(get_args(JobEvent))
REASONS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=3)
QUOTAS = QuotaSettings(active_jobs=4, queued_prompts=20)
# Few moments, so that many jobs share one and the id decides.
MOMENTS = st.integers(1, 2).map(float)


@dataclass
class Kept:
    """What the model knows of a job: its row and the `from`, `to`, `reason` of its events."""

    row: JobRow
    told: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    deliveries: int = 0


class JobsMachine(RuleBasedStateMachine):
    """Does the same to the store and to a dict."""

    ids = Bundle("ids")

    def __init__(self, store: Store, runner: asyncio.Runner, job: Callable[..., JobRow]) -> None:
        super().__init__()
        self.store, self.run, self.job = store, runner.run, job
        self.kept: dict[str, Kept] = {}
        self.asked, self.now = 0, 10.0

    def teardown(self) -> None:
        """Leave nothing to the next example."""
        for job_id in list(self.kept):
            while (kept := self.kept[job_id]).row.state not in FINAL:
                kept.row = self.run(self.store.jobs.move(job_id, way_out(kept.row.state), 99.0))
            self.run(self.store.jobs.delete(job_id))

    @rule(
        target=ids,
        number=st.integers(0, 99),
        tenant=TENANTS,
        state=st.sampled_from(["validating", "queued"]),
        prompts=st.none() | st.integers(0, 12),
        key=st.none() | st.sampled_from(["k1", "k2"]),
        request_hash=st.sampled_from(["h1", "h2"]),
        at=MOMENTS,
        hook=st.booleans(),
    )
    def create(
        self, number: int, tenant: str, key: str | None, request_hash: str, hook: bool, at: float, **fields: Any
    ) -> str:
        webhook = {"url": "https://h", "secret": "s"} if hook else None
        self.asked += 1
        row = self.job(
            id=f"job-{number}-{self.asked}",
            tenant=tenant,
            idempotency_key=key,
            request_hash=request_hash,
            created_at=at,
            webhook=webhook,
            kind="batch" if fields["state"] == "validating" else "native",
            **fields,
        )
        rows = [kept.row for kept in self.kept.values() if kept.row.tenant == tenant]
        same = [one for one in rows if key is not None and one.idempotency_key == key]
        active = [one for one in rows if one.state in ACTIVE]
        prompts = sum(one.prompts or 0 for one in active) + (row.prompts or 0)
        if same:
            if same[0].request_hash != request_hash:
                with pytest.raises(Conflict):
                    self.run(self.store.jobs.create(row, QUOTAS))
            else:
                assert self.run(self.store.jobs.create(row, QUOTAS)) == (same[0], False)
            return same[0].id
        if len(active) >= 4 or prompts > 20:
            with pytest.raises(TooManyRequests):
                self.run(self.store.jobs.create(row, QUOTAS))
            return row.id
        made, is_new = self.run(self.store.jobs.create(row, QUOTAS))
        assert is_new
        assert made == replace(row, times={row.state: at})
        self.kept[row.id] = Kept(made, [(at, {"from": None, "to": row.state, "reason": None})])
        return row.id

    @rule(job_id=ids, event=EVENTS, reason=st.none() | REASONS, published=st.integers(0, 9))
    def move(self, job_id: str, event: JobEvent, reason: str | None, published: int) -> None:
        self.now += 1
        counts = {"published": published}
        moving = self.store.jobs.move(job_id, event, self.now, reason=reason, counts=counts)
        if job_id not in self.kept:
            with pytest.raises(NotFound):
                self.run(moving)
            return
        kept = self.kept[job_id]
        before = kept.row.state
        state = after(before, event)
        if state is None:
            with pytest.raises(Conflict):
                self.run(moving)
            return
        times = {state: self.now} | kept.row.times
        kept.row = replace(kept.row, state=state, reason=reason, counts=counts, times=times)
        assert self.run(moving) == kept.row
        kept.told.append((self.now, {"from": before, "to": state, "reason": reason}))
        kept.deliveries += state in FINAL and kept.row.webhook is not None

    @rule(job_id=ids, choice=st.integers(0, 3))
    def move_on(self, job_id: str, choice: int) -> None:
        """An event that can happen, so that jobs get far and come back."""
        if job_id in self.kept:
            events = [event for event in get_args(JobEvent) if after(self.kept[job_id].row.state, event)]
            if events:
                self.move(job_id, events[choice % len(events)], None, choice)

    @rule(job_id=ids, prompts=st.integers(0, 5))
    def update(self, job_id: str, prompts: int) -> None:
        if job_id in self.kept:
            self.kept[job_id].row = replace(self.kept[job_id].row, prompts=prompts)
            self.run(self.store.jobs.update(job_id, prompts=prompts))
        else:
            with pytest.raises(NotFound):
                self.run(self.store.jobs.update(job_id, prompts=prompts))

    @rule(job_id=ids)
    def delete(self, job_id: str) -> None:
        kept = self.kept.get(job_id)
        if kept is None or kept.row.state not in FINAL:
            with pytest.raises(NotFound if kept is None else Conflict):
                self.run(self.store.jobs.delete(job_id))
            return
        self.run(self.store.jobs.delete(job_id))
        del self.kept[job_id]
        assert self.run(self.store.events.since(job_id, 0, 100)) == []

    @rule(tenant=st.none() | TENANTS, states=st.sets(st.sampled_from(STATES)), size=st.integers(1, 3))
    def walk(self, tenant: str | None, states: set[JobState], size: int) -> None:
        """Page after page: each job once, none left out."""
        seen: list[JobRow] = []
        before: tuple[float, str] | None = None
        while page := self.run(self.store.jobs.page(tenant, states=states, before=before, limit=size)):
            assert len(page) <= size
            seen += page
            before = (page[-1].created_at, page[-1].id)
        rows = [kept.row for kept in self.kept.values() if tenant in (None, kept.row.tenant)]
        wanted = [row for row in rows if not states or row.state in states]
        assert seen == sorted(wanted, key=lambda row: (row.created_at, row.id), reverse=True)

    @rule(job_id=ids, size=st.integers(1, 3))
    def read_on(self, job_id: str, size: int) -> None:
        """The events of a job in the order they happened, however they are read."""
        told, last = [], 0
        while events := self.run(self.store.events.since(job_id, last, size)):
            assert all(event.id > last and event.job_id == job_id for event in events)
            told += [(event.at, event.data) for event in events]
            last = events[-1].id
        assert told == (self.kept[job_id].told if job_id in self.kept else [])

    @invariant()
    def agrees(self) -> None:
        rows = [kept.row for kept in self.kept.values()]
        newest_first = sorted(rows, key=lambda row: (row.created_at, row.id), reverse=True)
        assert self.run(self.store.jobs.page(None, limit=1000)) == newest_first
        counted = self.run(self.store.jobs.count_by_state())
        assert counted == {state: sum(row.state == state for row in rows) for state in STATES}
        for tenant in ("a", "b"):
            active = [row for row in rows if row.tenant == tenant and row.state in ACTIVE]
            usage = Usage(len(active), sum(row.prompts or 0 for row in active), 0)
            assert self.run(self.store.jobs.usage(tenant)) == usage
        due = [delivery.job_id for delivery in self.run(self.store.outbox.due(1e9, 1000))]
        assert sorted(due) == sorted(job_id for job_id, kept in self.kept.items() for _ in range(kept.deliveries))


def way_out(state: JobState) -> JobEvent:
    """An event that brings a job nearer to its end."""
    return "ended" if state in ("cancelling", "expiring", "finalizing") else "cancel"


def test_jobs_are_as_a_plain_dict_would_have_them(database_url: str, job: Callable[..., JobRow]) -> None:
    with asyncio.Runner() as runner:
        opened = open_store(database_url)
        store = runner.run(opened.__aenter__())
        try:
            run_state_machine_as_test(
                lambda: JobsMachine(store, runner, job),
                settings=settings(
                    max_examples=25, stateful_step_count=50, suppress_health_check=list(HealthCheck), deadline=None
                ),
            )
        finally:
            runner.run(opened.__aexit__(None, None, None))
