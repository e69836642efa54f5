"""A controller that ends, by asking or by dying, and the next one on the same folder."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from gen_service.controller.specs import inline_path
from gen_service.errors import Unavailable

OpenService = Callable[..., Any]


class Died(Exception):
    """The end of a service that had no time to end."""


@pytest.mark.parametrize("death", [True, False])
async def test_a_restart_in_the_middle_goes_on_to_the_exact_end(open_service: OpenService, death: bool) -> None:
    fleet = {"in_flight": 4, "grace_s": 0.0}
    try:
        async with open_service("slow", fleet=fleet) as service:
            rows = [await service.submit(25, samples=2), await service.submit(40)]
            for row in rows:
                await service.until(row, "running")
            await service.happens(lambda: service.controller.view(rows[0]).counts.published >= 10)
            if death:
                raise Died
            await service.controller.drain()
            assert [(await service.get(row)).state for row in rows] == ["queued", "queued"]
    except Died:
        pass
    async with open_service("slow", fleet=fleet) as service:
        if death:
            events = await service.controller.store.events.since(rows[0].id, 0, 100)
            assert [event.data["reason"] for event in events if event.data.get("to") == "queued"] == [
                None,
                "the service ended while it ran",
            ]
        ended = [await service.ended(row) for row in rows]
        assert [row.state for row in ended] == ["completed", "completed"]
        assert service.published(rows[0]) == service.samples(25, 2)
        assert service.published(rows[1]) == service.samples(40)
        counts = service.controller.view(ended[0]).counts
        assert (counts.published, counts.samples, counts.verdicts) == (50, 50, {"correct": 50})


async def test_a_job_that_was_ending_when_the_service_died_ends(open_service: OpenService) -> None:
    """Also what was journaled and not yet published is readable then."""
    try:
        async with open_service("slow", fleet={"in_flight": 4, "grace_s": 30.0}) as service:
            row = await service.until(await service.submit(50), "running")
            await service.happens(lambda: service.controller.view(row).counts.published >= 5)
            await service.controller.store.jobs.move(row.id, "cancel", time.time())
            raise Died
    except Died:
        pass
    async with open_service() as service:
        row = await service.ended(row)
        assert row.state == "cancelled"
        published = service.published(row)
        assert 5 <= len(published) < 50
        assert set(published.values()) == {1}
        assert service.controller.view(row).counts.published == len(published)


async def test_a_finalizing_job_is_completed_and_a_paused_one_stays(open_service: OpenService) -> None:
    async with open_service("quick") as service:
        done = await service.ended(await service.submit(2))
        for state in ("finalizing", "paused"):
            row = dataclasses.replace(done, id=f"job-{state}", state=state, times={})
            await service.controller.store.jobs.create(row, service.settings.quotas)
    async with open_service("quick") as service:
        assert (await service.ended(dataclasses.replace(done, id="job-finalizing"))).state == "completed"
        assert (await service.controller.store.jobs.get("job-paused", None)).state == "paused"


async def test_a_job_expires_also_where_its_time_was_over_before_the_start(open_service: OpenService) -> None:
    clock = [1e9]
    async with open_service("silent", now=lambda: clock[0]) as service:
        row = await service.until(await service.batch(3), "running")
        assert row.expires_at == 1e9 + 24 * 3600
        await service.asked(3)
    clock[0] += 24 * 3600 + 1
    async with open_service("silent", now=lambda: clock[0]) as service:
        row = await service.ended(row)
        assert row.state == "expired"
        assert row.batch["request_counts"] == {"total": 3, "completed": 0, "failed": 3}


async def test_a_deadline_ends_a_running_job(open_service: OpenService) -> None:
    clock = [1e9]
    async with open_service("silent", now=lambda: clock[0]) as service:
        done = await service.until(await service.submit(3), "running")
        controller = service.controller
        controller._deadlines.set(done.id, 1e9 + 0.01)
        clock[0] += 1
        assert (await service.ended(done)).state == "expired"


async def test_a_draining_service_takes_nothing_and_wakes_who_watches(open_service: OpenService) -> None:
    async with open_service("silent", fleet={"in_flight": 2, "grace_s": 3600.0}) as service:
        running = await service.until(await service.submit(20), "running")
        await service.asked(2)
        changed = service.controller.changed(running.id)
        first = asyncio.create_task(service.controller.drain())
        await changed.wait()
        assert service.controller.draining
        for take in (service.submit(1), service.batch(1)):
            with pytest.raises(Unavailable, match="takes no new work") as refused:
                await take
            assert refused.value.retry_after_s
        await asyncio.sleep(0)
        assert not first.done()
        # Asked again, the grace of an hour is over.
        await service.controller.drain()
        await first
        assert (await service.get(running)).state == "queued"
        assert not service.controller.running


async def test_leftovers_of_uploads_and_refused_jobs_are_removed(open_service: OpenService) -> None:
    async with open_service("quick") as service:
        kept = await service.upload(b"{}\n")
        row = await service.ended(await service.submit(2))
        uploads, rows = service.settings.data.uploads, inline_path(row.id, service.settings)
        for path in (uploads / "file-cut.part", uploads / "file-orphan", rows.with_name("job-refused.jsonl")):
            path.write_bytes(b"12345")
            os.utime(path, (1e9, 1e9))
        fresh = uploads / "file-coming.part"
        fresh.write_bytes(b"1")
        os.utime(fresh, (4e9, 4e9))
        os.utime(uploads / kept, (1e9, 1e9))
        os.utime(rows, (1e9, 1e9))
    async with open_service("quick") as service:
        assert set(os.listdir(uploads)) == {kept, "file-coming.part"}
        await service.happens(lambda: os.listdir(rows.parent) == [rows.name])
        registry = service.controller.metrics.registry
        assert registry.get_sample_value("gen_service_uploads_total", {"result": "abandoned"}) == 1
        assert registry.get_sample_value("gen_service_upload_bytes_total") == 5


async def test_batches_are_validated_run_and_written(open_service: OpenService) -> None:
    async with open_service("quick") as service:
        row = await service.batch(5)
        assert (row.kind, row.state, row.prompts) == ("batch", "validating", 5)
        row = await service.ended(row)
        assert (row.state, row.model, row.samples) == ("completed", "simulated", 5)
        assert row.batch["request_counts"] == {"total": 5, "completed": 5, "failed": 0}
        assert row.batch["error_file_id"] is None
        output = service.settings.data.uploads / row.batch["output_file_id"]
        assert len(output.read_bytes().splitlines()) == 5
        assert list(row.times) == ["validating", "queued", "running", "finalizing", "completed"]


async def test_a_batch_with_wrong_lines_fails_and_says_which(open_service: OpenService) -> None:
    async with open_service("quick") as service:
        row = await service.ended(await service.batch(3, method="GET"))
        assert row.state == "failed"
        assert row.reason.startswith("line 1: method: got 'GET'")
        assert [error["line"] for error in row.batch["errors"]] == [1, 2, 3]


async def test_a_batch_is_validated_again_after_a_death(open_service: OpenService) -> None:
    async with open_service("quick") as service:
        row = await service.batch(3)
        await service.ended(row)
        again = dataclasses.replace(row, id="batch_again", state="validating", times={})
        await service.controller.store.jobs.create(again, service.settings.quotas)
    async with open_service("quick") as service:
        assert (await service.ended(again)).state == "completed"
        assert len(service.published(again)) == 3


async def test_a_cancelled_batch_has_the_lines_that_were_done(open_service: OpenService) -> None:
    async with open_service("slow", fleet={"in_flight": 2, "grace_s": 0.0}) as service:
        row = await service.until(await service.batch(60), "running")
        await service.happens(lambda: service.controller.view(row).counts.published >= 3)
        await service.controller.cancel(None, row.id)
        row = await service.ended(row)
        counts = row.batch["request_counts"]
        assert (row.state, counts["total"], counts["failed"]) == ("cancelled", 60, 0)
        assert 3 <= counts["completed"] == len(service.published(row)) < 60
