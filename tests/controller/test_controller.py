"""Jobs from asked for to published, on real servers and a real store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gen_service.controller.specs import MOST_WINDOW, folder_of, spec_of
from gen_service.endpoints.simulated import Faults, Script, SimulationSettings
from gen_service.errors import StorageError
from gen_service.storage.traces import read_traces
from gen_service.store.rows import TenantRow

OpenService = Callable[..., Any]


async def test_a_job_ends_with_each_sample_published_once(open_service: OpenService) -> None:
    async with open_service("quick") as service:
        row = await service.submit(10, samples=3, metadata={"for": "test"}, name="sums")
        assert row.state == "queued"
        row = await service.ended(row)
        assert (row.state, row.reason) == ("completed", None)
        assert service.published(row) == service.samples(10, 3)
        view = service.controller.view(row)
        assert (view.counts.published, view.counts.samples, view.counts.verdicts) == (30, 30, {"correct": 30})
        assert view.counts.completion_tokens == sum(
            trace["completion_tokens"] for trace in read_traces(folder_of(row, service.settings))
        )
        assert view.counts.prompt_tokens > 0
        assert (view.name, view.model, view.metadata, view.output) == ("sums", "simulated", {"for": "test"}, None)
        assert view.created_at <= view.started_at <= view.finished_at
        assert view.request["prompts"]["rows"] == 10
        assert list(row.times) == ["queued", "running", "finalizing", "completed"]
        await service.happens(lambda: not service.controller.running)
        events = await service.controller.store.events.since(row.id, 0, 100)
        assert [event.data["to"] for event in events if event.type == "state"] == list(row.times)


async def test_a_steered_job_counts_what_it_did_not_need(open_service: OpenService) -> None:
    async with open_service("quick") as service:
        row = await service.submit(10, samples=4, steering={"correct": 1}, order={"window": 100_000})
        row = await service.ended(row)
        counts = service.controller.view(row).counts
        assert row.state == "completed"
        assert (counts.published, counts.skipped, counts.done) == (10, {"solved": 30}, 40)
        assert len(service.published(row)) == 10
        assert spec_of(row, service.settings).order.window == MOST_WINDOW


async def test_errors_rejects_and_retries_are_counted(open_service: OpenService) -> None:
    faults = Faults(refused_marker="is 3 +", http_500=0.2)
    async with open_service(SimulationSettings(script=Script(p_right=0.5), faults=faults)) as service:
        rows = [{"id": f"p{n}", "prompt": f"What is {n} + 5?", "answer": str(n + 5)} for n in range(20)]
        row = await service.submit(prompts={"rows": [*rows, {"no": "prompt"}, rows[0]]}, samples=2)
        row = await service.ended(row)
        counts = service.controller.view(row).counts
        published = list(read_traces(folder_of(row, service.settings)))
    assert row.state == "completed"
    assert (counts.published, counts.samples, counts.errors, counts.rejected_prompts) == (40, 40, 2, 2)
    assert counts.verdicts == Counter(trace["verdict"] for trace in published)
    assert counts.retries == Counter(cause for trace in published for cause in trace["retries"])


async def test_uploads_and_paths_are_sources_too(
    open_service: OpenService, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("roots")
    (folder / "in").mkdir()
    (folder / "in" / "x.csv").write_text("question,answer\nWhat is 1 + 1?,2\nWhat is 1 + 2?,3\n")
    data = {"prompt_roots": [folder / "in"], "output_roots": [str(folder / "out")]}
    async with open_service("quick", data={"folder": folder / "data", "min_free_bytes": 0} | data) as service:
        file_id = await service.upload(b'{"prompt": "What is 2 + 2?"}\n{"prompt": "What is 2 + 3?"}\n')
        by_file = await service.submit(prompts={"file_id": file_id})
        by_path = await service.submit(
            prompts={"path": str(folder / "in" / "x.csv"), "columns": {"prompt": "question"}},
            output={"path": str(folder / "out" / "mine")},
        )
        assert (by_file.prompts, by_path.prompts) == (2, None)
        assert [(await service.ended(row)).state for row in (by_file, by_path)] == ["completed", "completed"]
        view = service.controller.view(await service.get(by_path))
        assert view.output == str(folder / "out" / "mine" / by_path.id)
        assert len(list(read_traces(view.output))) == 2
        assert len(service.published(by_file)) == 2


async def test_a_source_that_changes_before_the_job_starts_fails_it_and_says_why(open_service: OpenService) -> None:
    fleet = {"in_flight": 2, "grace_s": 0.0, "max_running_jobs": 1}
    async with open_service("silent", fleet=fleet) as service:
        first = await service.until(await service.submit(200), "running")
        useless, vanished = [await service.upload(b'{"prompt": "What is 2 + 2?"}\n') for _ in range(2)]
        rows = [await service.submit(prompts={"file_id": file_id}) for file_id in (useless, vanished)]
        (service.settings.data.uploads / useless).write_bytes(b'{"text": "x"}\n{"text": "y"}\n')
        (service.settings.data.uploads / vanished).unlink()
        await service.controller.cancel(None, first.id)
        ended = [await service.ended(row) for row in rows]
    assert [row.state for row in ended] == ["failed", "failed"]
    assert (ended[0].reason or "").startswith("no usable prompt: 2 rows were set aside; the first: row 1: no column")
    assert ended[1].reason == f"prompts.path: got 'files/{vanished}'; expected a file that exists"


async def test_tenants_share_the_fleet_by_weight(open_service: OpenService) -> None:
    async with open_service("slow", fleet={"in_flight": 8, "grace_s": 0.0}) as service:
        await service.controller.store.tenants.put(TenantRow("heavy", 3.0, {}))
        # Both wait behind one of a higher priority, so that neither has had the fleet to itself.
        first = await service.until(await service.submit(5000, priority=5), "running")
        jobs = {name: await service.submit(120, tenant=name) for name in ("light", "heavy")}
        await service.happens(lambda: all(_waits(service, row.id) for row in jobs.values()))
        await service.controller.cancel(None, first.id)
        owner = {}
        for name, row in jobs.items():
            assert (await service.ended(row)).state == "completed"
            for trace in read_traces(folder_of(row, service.settings), ["sample_id"]):
                owner[trace["sample_id"]] = name
        received = [line["request_id"] for line in service.servers[0].log if line["event"] == "received"]
        order = [owner[sample_id] for sample_id in received if sample_id in owner]
    assert Counter(order) == {"light": 120, "heavy": 120}
    both = order[order.index("heavy") : len(order) - order[::-1].index("heavy")]
    assert 2.0 <= both.count("heavy") / both.count("light") <= 4.5


def _waits(service: Any, job_id: str) -> bool:
    run = service.controller.running.get(job_id)
    return run is not None and run.running is not None and run.running.fleet is not None and run.running.fleet.waiting


async def test_a_job_in_its_tail_lets_the_next_one_start(open_service: OpenService) -> None:
    async with open_service("silent", fleet={"in_flight": 8, "grace_s": 0.0, "max_running_jobs": 1}) as service:
        first = await service.submit(3)
        await service.until(first, "running")
        second = await service.submit(3)
        await service.until(second, "running")
        # The second is in its tail too; a third has more than the fleet takes, and a fourth has to wait for it.
        third = await service.submit(200)
        await service.until(third, "running")
        fourth = await service.submit(3)
        await service.happens(lambda: service.controller.fleet.places.taken == 8)
        assert (await service.get(fourth)).state == "queued"
        await service.controller.cancel(None, third.id)
        await service.until(fourth, "running")


async def test_a_job_of_a_higher_priority_starts_first(open_service: OpenService) -> None:
    async with open_service("silent", fleet={"in_flight": 2, "grace_s": 0.0, "max_running_jobs": 1}) as service:
        first = await service.submit(200)
        await service.until(first, "running")
        low, high = await service.submit(4), await service.submit(4, priority=5)
        await service.controller.cancel(None, first.id)
        await service.until(high, "running")
        assert (await service.get(low)).state == "queued" or (await service.get(low)).times["running"] >= (
            await service.get(high)
        ).times["running"]


async def test_a_view_has_live_numbers(open_service: OpenService) -> None:
    async with open_service("silent") as service:
        row = await service.until(await service.submit(100), "running")
        await service.asked(8)
        view = service.controller.view(row)
        assert (view.counts.samples, view.counts.published, view.counts.in_flight) == (100, 0, 8)
        assert view.counts.waiting > 0
        (load,) = view.servers
        assert (load.url, load.state, load.job_in_flight, load.in_flight) == (service.servers[0].url, "healthy", 8, 8)
        assert view.rates is not None
        assert (view.rates.traces_per_s, view.rates.eta_s) == (0.0, None)


async def test_a_data_folder_has_one_service(open_service: OpenService) -> None:
    async with open_service("quick"):
        with pytest.raises(StorageError, match=r"data\.folder: .* is being written by process \d+"):
            async with open_service("quick"):
                pass


async def test_a_service_of_another_folder_leaves_the_jobs_of_a_database_alone(
    open_service: OpenService, tmp_path: Path
) -> None:
    async with open_service("silent") as service:
        row = await service.until(await service.submit(3), "running")
        other = {"folder": tmp_path / "other", "min_free_bytes": 0}
        with pytest.raises(StorageError, match=r"data\.database: it belongs to the data folder"):
            async with open_service("silent", data=other):
                raise AssertionError
        assert (await service.get(row)).state == "running"
