"""Pause, resume, cancel and delete, in every state that a job can be in."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gen_service.controller.specs import folder_of, inline_path
from gen_service.errors import Conflict, NotFound
from gen_service.store.rows import JobRow
from gen_service.wire.states import FINAL, STATES, JobState

OpenService = Callable[..., Any]
VERBS = ("pause", "resume", "cancel", "delete")

# (verb, state) -> the state that the job comes to rest in; what is not here is a Conflict and changes nothing.
OUTCOMES: dict[tuple[str, JobState], JobState | None] = {
    ("pause", "queued"): "paused",
    ("pause", "running"): "paused",
    ("pause", "paused"): "paused",
    # What is queued or running goes on; a paused job is run.
    ("resume", "queued"): "queued",
    ("resume", "running"): "running",
    ("resume", "paused"): "completed",
    ("cancel", "validating"): "cancelled",
    ("cancel", "queued"): "cancelled",
    ("cancel", "running"): "cancelled",
    ("cancel", "paused"): "cancelled",
    ("cancel", "cancelling"): "cancelling",
    ("cancel", "cancelled"): "cancelled",
    **{("delete", state): None for state in FINAL},
}


@pytest.mark.parametrize("verb", VERBS)
async def test_a_verb_in_each_state(open_service: OpenService, verb: str) -> None:
    """Rows in each state that nothing works on, as the verbs may meet them."""
    async with open_service("quick") as service:
        done = await service.ended(await service.submit(2))
        for state in STATES:
            row = dataclasses.replace(done, id=f"job-{verb}-{state}", state=state, times={})
            await service.controller.store.jobs.create(row, service.settings.quotas)
            await _check(service, verb, row)


def there(paths: list[str]) -> list[str]:
    """Those that exist."""
    return [path for path in paths if os.path.exists(path)]


async def _check(service: Any, verb: str, row: JobRow) -> None:
    act = getattr(service.controller, verb)
    if (verb, row.state) not in OUTCOMES:
        with pytest.raises(Conflict, match=f"job {row.id} is {row.state}"):
            await act(None, row.id)
        assert (await service.get(row)).state == row.state
        return
    expected = OUTCOMES[verb, row.state]
    await act(None, row.id)
    if expected is None:
        with pytest.raises(NotFound):
            await service.get(row)
    else:
        assert (await service.until(row, expected)).state == expected


@pytest.mark.parametrize("verb", VERBS)
async def test_a_job_of_another_tenant_is_not_there(open_service: OpenService, verb: str) -> None:
    async with open_service("quick") as service:
        row = await service.ended(await service.submit(1))
        with pytest.raises(NotFound, match="there is no job"):
            await getattr(service.controller, verb)("another", row.id)
        assert (await service.get(row)).state == "completed"


async def test_a_paused_job_is_readable_and_goes_on_to_the_exact_end(open_service: OpenService) -> None:
    async with open_service("slow", fleet={"in_flight": 4, "grace_s": 0.0}) as service:
        row = await service.until(await service.submit(30), "running")
        await service.happens(lambda: service.controller.view(row).counts.published >= 5)
        await service.controller.pause(None, row.id)
        assert service.controller.view(row).reason == "pausing: running samples have their grace"
        row = await service.until(row, "paused")
        published = service.published(row)
        assert 5 <= len(published) < 30
        assert service.controller.view(row).counts.published == len(published)
        await service.happens(lambda: row.id not in service.controller.running)
        await service.controller.resume(None, row.id)
        row = await service.ended(row)
        assert row.state == "completed"
        assert service.published(row) == service.samples(30)
        counts = service.controller.view(row).counts
        assert (counts.published, counts.samples, counts.verdicts) == (30, 30, {"correct": 30})


async def test_a_pause_lets_running_samples_have_their_grace(open_service: OpenService) -> None:
    async with open_service("slow", fleet={"in_flight": 4, "grace_s": 60.0}) as service:
        row = await service.until(await service.submit(40), "running")
        await service.asked(4)
        await service.controller.pause(None, row.id)
        row = await service.until(row, "paused")
        asked = {line["request_id"] for line in service.servers[0].log if line["event"] == "received"}
        assert len(service.published(row)) == len(asked) < 40


async def test_a_pause_that_is_taken_back_requeues_the_job(open_service: OpenService) -> None:
    async with open_service("slow", fleet={"in_flight": 4, "grace_s": 60.0}) as service:
        row = await service.until(await service.submit(30), "running")
        await service.asked(4)
        await service.controller.pause(None, row.id)
        await service.controller.resume(None, row.id)
        row = await service.ended(row)
        assert row.state == "completed"
        assert service.published(row) == service.samples(30)


async def test_a_queued_job_is_paused_before_it_starts(open_service: OpenService) -> None:
    async with open_service("silent", fleet={"in_flight": 2, "grace_s": 0.0, "max_running_jobs": 1}) as service:
        first = await service.until(await service.submit(100), "running")
        second = await service.submit(3)
        assert (await service.controller.pause(None, second.id)).state == "paused"
        await service.controller.cancel(None, first.id)
        assert (await service.ended(first)).state == "cancelled"
        third = await service.until(await service.submit(3), "running")
        assert (await service.get(second)).state == "paused"
        assert "running" not in (await service.get(second)).times
        await service.controller.cancel(None, second.id)
        assert (await service.ended(second)).state == "cancelled"
        await service.controller.cancel(None, third.id)


async def test_a_cancelled_job_keeps_what_was_finished(open_service: OpenService) -> None:
    async with open_service("slow", fleet={"in_flight": 4, "grace_s": 0.0}) as service:
        row = await service.until(await service.submit(100), "running")
        await service.happens(lambda: service.controller.view(row).counts.published >= 5)
        assert (await service.controller.cancel(None, row.id)).state == "cancelling"
        assert (await service.controller.cancel(None, row.id)).state == "cancelling"
        row = await service.ended(row)
        assert row.state == "cancelled"
        published = service.published(row)
        assert 5 <= len(published) < 100
        assert service.controller.view(row).counts.published == len(published)
        with pytest.raises(Conflict):
            await service.controller.resume(None, row.id)


async def test_a_cancel_ends_a_long_pause(open_service: OpenService) -> None:
    async with open_service("silent", fleet={"in_flight": 2, "grace_s": 3600.0}) as service:
        row = await service.until(await service.submit(100), "running")
        await service.asked(2)
        await service.controller.pause(None, row.id)
        await service.controller.cancel(None, row.id)
        assert (await service.ended(row)).state == "cancelled"


async def test_a_deleted_job_leaves_nothing(open_service: OpenService) -> None:
    async with open_service("quick") as service:
        row = await service.ended(await service.submit(3))
        places = [folder_of(row, service.settings), str(inline_path(row.id, service.settings))]
        assert there(places) == places
        await service.controller.delete(None, row.id)
        assert there(places) == []
        with pytest.raises(NotFound):
            await service.controller.delete(None, row.id)


async def test_traces_in_a_place_of_the_client_stay(open_service: OpenService, tmp_path: Path) -> None:
    async with open_service("quick", data={"output_roots": [str(tmp_path / "out")]}) as service:
        row = await service.ended(await service.submit(3, output={"path": str(tmp_path / "out")}))
        await service.controller.delete(None, row.id)
        assert there([str(tmp_path / "out" / row.id / "data")])


async def test_many_jobs_at_once_all_end(open_service: OpenService) -> None:
    async with open_service("quick", fleet={"in_flight": 32, "grace_s": 0.0}) as service:
        rows = [await service.submit(1, verification={"enabled": False}) for _ in range(40)]
        for row in rows:
            assert (await service.ended(row)).state == "completed"
            assert service.published(row) == service.samples(1)
        await service.happens(lambda: not service.controller.running)
