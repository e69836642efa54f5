"""Jobs in the database: made once, within quotas, and moved only as the table of states allows."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest

from gen_service.errors import Conflict, NotFound, TooManyRequests
from gen_service.service_settings import QuotaSettings
from gen_service.store.rows import JobRow, TenantRow, Usage
from gen_service.store.store import Store
from gen_service.wire.states import ACTIVE, FINAL, STATES, JobEvent, JobState, after

MakeJob = Callable[..., JobRow]
FREE = QuotaSettings()
EVENTS: tuple[JobEvent, ...] = get_args(JobEvent)


async def test_a_job_comes_back_as_it_was_stored(store: Store, job: MakeJob) -> None:
    row = job(
        kind="batch",
        state="validating",
        name="first-run_1.0",
        model="org/model\u00fc",
        request={"text": "nul \x00, half a pair \ud83d, {}", "big": 2**60, "deep": [{"a": [None, 1.5, True]}]},
        spec={"version": 1},
        idempotency_key="k",
        priority=-10,
        weight=0.01,
        max_in_flight=1_000_000,
        metadata={"a b": "\u4e2d\u6587"},
        prompts=2**53,
        samples=2**53,
        counts={"published": 3},
        created_at=1_700_000_000.123456,
        expires_at=math.nextafter(1_700_000_000.0, math.inf),
        batch={"errors": None},
        webhook={"url": "https://example.org/hook", "secret": "s" * 32},
    )
    made, is_new = await store.jobs.create(row, QuotaSettings(queued_prompts=None))
    assert is_new
    assert made == replace(row, times={"validating": row.created_at})
    assert await store.jobs.get(row.id, "a") == made
    assert await store.jobs.get(row.id, None) == made
    assert [(event.type, event.at, event.data) for event in await store.events.since(row.id, 0, 10)] == [
        ("state", row.created_at, {"from": None, "to": "validating", "reason": None})
    ]


async def test_text_that_postgresql_refuses_is_replaced(store: Store, job: MakeJob) -> None:
    row, _ = await store.jobs.create(job(name="n\x00n", model="\ud83d"), FREE)
    kept = await store.jobs.get(row.id, "a")
    assert (kept.name, kept.model) == ("n\ufffdn", "?")
    assert [found.id for found in await store.jobs.page("a", name="n\x00n", limit=5)] == [row.id]
    with pytest.raises(NotFound):
        await store.jobs.get("job-\x00", None)


async def test_another_tenants_job_is_as_one_that_is_not_there(store: Store, job: MakeJob) -> None:
    row, _ = await store.jobs.create(job(), FREE)
    with pytest.raises(NotFound) as other:
        await store.jobs.get(row.id, "b")
    assert str(other.value) == f"there is no job {row.id!r}"
    with pytest.raises(NotFound, match="there is no job 'job-x'"):
        await store.jobs.get("job-x", "a")


async def test_one_idempotency_key_makes_one_job_however_many_ask_at_once(store: Store, job: MakeJob) -> None:
    asked = [job(idempotency_key="k", prompts=1) for _ in range(40)]
    made = await asyncio.gather(*(store.jobs.create(row, FREE) for row in asked))
    assert sum(is_new for _, is_new in made) == 1
    assert len({row.id for row, _ in made}) == 1
    assert len(await store.jobs.page("a", limit=100)) == 1


async def test_a_key_with_another_request_is_a_conflict_and_makes_nothing(store: Store, job: MakeJob) -> None:
    first, _ = await store.jobs.create(job(idempotency_key="k"), FREE)
    with pytest.raises(Conflict, match=f"another request before, which made {first.id}") as conflict:
        await store.jobs.create(job(idempotency_key="k", request_hash="other"), FREE)
    assert conflict.value.code == "idempotency_key_reused"
    _, is_new = await store.jobs.create(job(tenant="b", idempotency_key="k", request_hash="other"), FREE)
    assert is_new
    assert len(await store.jobs.page(None, limit=10)) == 2


async def test_a_replay_is_answered_even_where_the_quota_is_used_up(store: Store, job: MakeJob) -> None:
    tight = QuotaSettings(active_jobs=1)
    first, _ = await store.jobs.create(job(idempotency_key="k"), tight)
    assert await store.jobs.create(job(idempotency_key="k"), tight) == (first, False)


async def test_quotas_hold_however_many_ask_at_once(store: Store, job: MakeJob) -> None:
    quotas = QuotaSettings(active_jobs=7, queued_prompts=1000)
    asked = [store.jobs.create(job(tenant=tenant, prompts=10), quotas) for tenant in ("a", "b") for _ in range(25)]
    made = await asyncio.gather(*asked, return_exceptions=True)
    refused = [one for one in made if isinstance(one, TooManyRequests)]
    assert len(refused) == 36
    assert all(one.retry_after_s and one.code == "quota_exceeded" for one in refused)
    assert await store.jobs.usage("a") == await store.jobs.usage("b") == Usage(7, 70, 0)


async def test_prompts_of_jobs_that_ended_are_free_again(store: Store, job: MakeJob) -> None:
    quotas = QuotaSettings(queued_prompts=10)
    row, _ = await store.jobs.create(job(prompts=6), quotas)
    with pytest.raises(TooManyRequests, match=r"5 prompts beside 6 .* queued_prompts, 10: come again") as later:
        await store.jobs.create(job(prompts=5), quotas)
    assert later.value.retry_after_s
    with pytest.raises(TooManyRequests, match="send fewer in a job") as never:
        await store.jobs.create(job(prompts=11), quotas)
    assert never.value.retry_after_s is None
    await store.jobs.move(row.id, "fail", 2.0)
    await store.jobs.create(job(prompts=5), quotas)
    assert await store.jobs.usage("a") == Usage(1, 5, 0)


async def test_a_tenants_own_quotas_go_over_the_services(store: Store, job: MakeJob) -> None:
    await store.tenants.put(TenantRow("a", 1.0, {"active_jobs": 2}))
    await store.tenants.put(TenantRow("b", 1.0, {"active_jobs": None}))
    strict = QuotaSettings(active_jobs=1)
    for row in (job(), job(), job(tenant="b"), job(tenant="b"), job(tenant="c")):
        await store.jobs.create(row, strict)
    for tenant in ("a", "c"):
        with pytest.raises(TooManyRequests):
            await store.jobs.create(job(tenant=tenant), strict)


@pytest.mark.parametrize("state", STATES)
async def test_a_job_moves_as_the_table_says_and_no_other_way(store: Store, job: MakeJob, state: JobState) -> None:
    for event in EVENTS:
        row, _ = await store.jobs.create(job(state=state, webhook={"url": "https://h", "secret": None}), FREE)
        then = after(state, event)
        if then is None:
            with pytest.raises(Conflict, match=f"is {state}: '{event}' cannot happen"):
                await store.jobs.move(row.id, event, 2000.0, reason="why", counts={"published": 1})
            assert await store.jobs.get(row.id, "a") == row
            assert len(await store.events.since(row.id, 0, 10)) == 1
            continue
        moved = await store.jobs.move(row.id, event, 2000.0, reason="why", counts={"published": 1})
        times = {state: 1000.0, then: 2000.0}
        assert moved == replace(row, state=then, reason="why", counts={"published": 1}, times=times)
        assert await store.jobs.get(row.id, "a") == moved
        told = (await store.events.since(row.id, 0, 10))[-1]
        assert (told.type, told.at, told.data) == ("state", 2000.0, {"from": state, "to": then, "reason": "why"})
        due = [delivery for delivery in await store.outbox.due(2000.0, 100) if delivery.job_id == row.id]
        assert len(due) == (then in FINAL)


async def test_of_many_that_move_a_job_at_once_one_does(store: Store, job: MakeJob) -> None:
    row, _ = await store.jobs.create(job(), FREE)
    moves = [store.jobs.move(row.id, "start", float(number)) for number in range(2000, 2030)]
    done = await asyncio.gather(*moves, return_exceptions=True)
    assert sum(isinstance(one, JobRow) for one in done) == 1
    assert sum(isinstance(one, Conflict) for one in done) == 29
    assert len(await store.events.since(row.id, 0, 100)) == 2


async def test_the_first_time_of_a_state_is_kept(store: Store, job: MakeJob) -> None:
    row, _ = await store.jobs.create(job(), FREE)
    await store.jobs.move(row.id, "start", 1001.0, model="m", spec={"model": "m"}, prompts=4, samples=8)
    await store.jobs.move(row.id, "pause", 1002.0, reason="asked")
    await store.jobs.move(row.id, "resume", 1003.0)
    moved = await store.jobs.move(row.id, "start", 1004.0)
    assert moved.times == {"queued": 1000.0, "running": 1001.0, "paused": 1002.0}
    assert moved.reason is None
    assert (moved.model, moved.spec, moved.prompts, moved.samples) == ("m", {"model": "m"}, 4, 8)


async def test_what_is_not_given_is_left(store: Store, job: MakeJob) -> None:
    row, _ = await store.jobs.create(job(counts={"published": 1}, batch={"errors": None}), FREE)
    await store.jobs.update(row.id, prompts=0, samples=0)
    await store.jobs.update(row.id, counts={"published": 2})
    await store.jobs.update(row.id, batch={"output_file_id": "file-1"})
    after_all = replace(row, prompts=0, samples=0, counts={"published": 2}, batch={"output_file_id": "file-1"})
    assert await store.jobs.get(row.id, "a") == after_all
    for call in (store.jobs.update("job-x", prompts=1), store.jobs.move("job-x", "start", 1.0)):
        with pytest.raises(NotFound):
            await call


async def test_pages_are_narrowed_by_what_is_asked(store: Store, job: MakeJob) -> None:
    rows = [
        job(created_at=1.0, name="x"),
        job(created_at=2.0, kind="batch", state="running"),
        job(created_at=3.0, state="completed", name="x"),
        job(created_at=4.0, tenant="b", name="x"),
    ]
    for row in rows:
        await store.jobs.create(row, FREE)
    ids = {row.id: number for number, row in enumerate(rows)}

    async def numbers(tenant: str | None, **filters: object) -> list[int]:
        return [ids[row.id] for row in await store.jobs.page(tenant, limit=10, **filters)]  # type: ignore[arg-type]

    assert await numbers(None) == [3, 2, 1, 0]
    assert await numbers("a") == [2, 1, 0]
    assert await numbers("a", kind="native") == [2, 0]
    assert await numbers("a", states=["queued", "running"]) == [1, 0]
    assert await numbers(None, name="x") == [3, 2, 0]
    assert await numbers(None, name="x", before=(3.0, rows[2].id)) == [0]
    assert [ids[row.id] for row in await store.jobs.unfinished()] == [0, 1, 3]
    counted = await store.jobs.count_by_state()
    assert counted == dict.fromkeys(STATES, 0) | {"queued": 2, "running": 1, "completed": 1}


async def test_the_newest_replay_is_found(store: Store, job: MakeJob) -> None:
    rows = [job(created_at=float(number), kind="batch", request_hash="h") for number in range(3)]
    for row in [*rows, job(created_at=9.0, tenant="b", kind="batch", request_hash="h")]:
        await store.jobs.create(row, FREE)
    found = await store.jobs.find_replay("a", "batch", "h", 1.0)
    assert found is not None
    assert found.id == rows[2].id
    assert await store.jobs.find_replay("a", "batch", "h", 2.0) is None
    assert await store.jobs.find_replay("a", "native", "h", 0.0) is None
    assert await store.jobs.find_replay("a", "batch", "other", 0.0) is None


@pytest.mark.parametrize("state", sorted(ACTIVE))
async def test_a_job_that_has_not_ended_is_not_deleted(store: Store, job: MakeJob, state: JobState) -> None:
    row, _ = await store.jobs.create(job(state=state), FREE)
    with pytest.raises(Conflict, match=f"is {state}: cancel it before"):
        await store.jobs.delete(row.id)
    assert await store.jobs.get(row.id, "a") == row


async def test_a_deleted_job_takes_its_events_and_deliveries_with_it(store: Store, job: MakeJob) -> None:
    hook = {"url": "https://h", "secret": None}
    stays, _ = await store.jobs.create(job(webhook=hook), FREE)
    gone, _ = await store.jobs.create(job(webhook=hook, idempotency_key="k"), FREE)
    for row in (stays, gone):
        await store.jobs.move(row.id, "fail", 2000.0)
    last_id = (await store.events.since(gone.id, 0, 10))[-1].id
    await store.jobs.delete(gone.id)
    for call in (store.jobs.get(gone.id, None), store.jobs.delete(gone.id)):
        with pytest.raises(NotFound):
            await call
    assert await store.events.since(gone.id, 0, 10) == []
    assert [delivery.job_id for delivery in await store.outbox.due(2000.0, 10)] == [stays.id]
    assert len(await store.events.since(stays.id, 0, 10)) == 2
    again, is_new = await store.jobs.create(job(idempotency_key="k"), FREE)
    assert is_new
    assert (await store.events.since(again.id, 0, 1))[0].id > last_id
