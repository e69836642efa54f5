"""What the parts of a controller say of themselves at a scrape."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gen_service.controller.measurements import READINGS, Measurements
from gen_service.endpoints.simulated import Faults, Script, SimulatedServer, SimulationSettings
from gen_service.metrics import DECLARED
from gen_service.settings import VerificationSettings
from gen_service.wire.states import FINAL

OpenService = Callable[..., Any]


class Page:
    """One scrape, read back."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        (value,) = [
            sample.value
            for sample in self.samples
            if sample.name == f"gen_service_{name}" and labels.items() <= dict(sample.labels).items()
        ]
        return float(value)

    def labels(self, name: str) -> list[Mapping[str, str]]:
        return [sample.labels for sample in self.samples if sample.name == f"gen_service_{name}"]

    def counters(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        rising = ("_total", "_bucket", "_count", "_sum")
        return {
            (one.name, tuple(sorted(one.labels.items()))): one.value
            for one in self.samples
            if one.name.endswith(rising)
        }


async def scrape(measurements: Measurements) -> Page:
    text, content_type = await measurements.page("")
    assert content_type.startswith("text/plain")
    return Page(text.decode())


def test_every_name_is_either_read_or_raised() -> None:
    assert set(READINGS) <= set(DECLARED)
    raised = {declared.name for declared in DECLARED} - {declared.name for declared in READINGS}
    assert "gen_service_samples_total" in raised
    assert not any(declared.kind == "histogram" for declared in READINGS)


async def test_an_idle_service_shows_all_that_is_known_of_it_as_zeros(open_service: OpenService) -> None:
    async with open_service("quick", "quick") as service:
        page = await scrape(Measurements(service.controller))
        for server in service.servers:
            assert page("in_flight", server=server.url) == 0
            assert page("in_flight_limit", server=server.url) == 8
            assert page("server_failures_total", server=server.url, cause="stalled") == 0
            states = ("healthy", "draining", "trial", "ejected", "leaving")
            assert [page("server_state", server=server.url, state=one) for one in states] == [1, 0, 0, 0, 0]
            assert len([one for one in page.labels("server_state") if one["server"] == server.url]) == len(states)
        assert page("jobs", state="queued") == page("jobs", state="completed") == 0
        assert page("draining") == page("places_waiting") == page("journal_rows") == page("verifier_waiting") == 0
        assert page("places_limit") == 8
        assert page("data_free_bytes") > 0
        assert page("build_info") == 1
        assert page.labels("job_in_flight") == []


async def test_after_a_job_its_rows_samples_and_answers_are_counted(open_service: OpenService) -> None:
    async with open_service(SimulationSettings(faults=Faults(refused_marker="is 3 +"))) as service:
        measurements = Measurements(service.controller)
        row = await service.ended(await service.submit(20, output={"shard_rows": 5}))
        page = await scrape(measurements)
        counts = service.controller.view(row).counts
        assert page("published_rows_total") == 20
        assert page("published_parts_total") == 4
        assert page("published_bytes_total") > 0
        assert page("samples_total", outcome="completed") == 19
        assert page("samples_total", outcome="error", cause="refused") == 1
        assert page("verdicts_total", verdict="correct") == 19
        assert page("tokens_total", type="completion") == counts.completion_tokens
        assert page("server_answers_total", server=service.servers[0].url) == 19
        assert page("jobs", state="completed") == 1
        assert page("trace_seconds_count") == page("first_token_seconds_count") == 19
        assert page("journal_rows") == page("shard_rows") == page("journal_bytes") == 0
        assert page.labels("job_published_samples") == []


async def test_a_running_job_shows_itself_and_goes_when_it_ends(open_service: OpenService) -> None:
    async with open_service("silent") as service:
        measurements = Measurements(service.controller)
        row = await service.submit(20)
        await service.asked(8)
        page = await scrape(measurements)
        assert page("job_in_flight", job_id=row.id) == page("in_flight", server=service.servers[0].url) == 8
        assert page("job_waiting", job_id=row.id) == page("places_waiting") > 0
        assert page("job_expected_samples", job_id=row.id) == 20
        assert page("job_published_samples", job_id=row.id) == 0
        assert page("jobs", state="running") == 1
        await service.controller.cancel(None, row.id)
        await service.ended(row)
        page = await scrape(measurements)
        assert page.labels("job_in_flight") == page.labels("job_expected_samples") == []
        assert page("jobs", state="cancelled") == 1


async def test_no_counter_ever_falls(open_service: OpenService) -> None:
    """Whatever runs and ends meanwhile: a falling counter is read as a restart, and all it held counts again."""
    settings = SimulationSettings(script=Script(p_right=0.5), faults=Faults(http_500=0.2))
    async with open_service(settings, verifier={"workers": 1}) as service:
        measurements = Measurements(service.controller)
        before = (await scrape(measurements)).counters()
        rows = [await service.submit(20, samples=2, output={"shard_rows": 3}) for _ in range(3)]
        while rows:
            changed = service.controller.changed(rows[-1].id)
            if (await service.get(rows[-1])).state in FINAL:
                rows.pop()
                continue
            await changed.wait()
            now = (await scrape(measurements)).counters()
            fallen = {key: (value, now.get(key)) for key, value in before.items() if value > now.get(key, -1.0)}
            assert not fallen
            before = now
        page = await scrape(measurements)
        assert page("published_rows_total") == 3 * 40
        # Also one whose every attempt drew a fault: such a sample ends as an error, and is a row like any other.
        assert sum(one.value for one in page.samples if one.name == "gen_service_samples_total") == 3 * 40


async def test_what_verifiers_did_is_counted_also_when_they_are_gone(open_service: OpenService) -> None:
    async with open_service("quick") as service:
        controller = service.controller
        async with controller.verifiers.use(VerificationSettings(workers=1)) as verifier:
            for number in range(4):
                assert (await verifier.check("2x", f"x+x+{number}-{number}")).outcome == "correct"
        page = await scrape(Measurements(controller))
        asked = page("verifier_requests_total")
        assert asked >= 4
        assert (page("verifier_workers_started_total"), page("verifier_workers_ended_total")) == (1, 0)
    page = Page(generate_latest(controller.metrics.registry).decode())
    assert controller.verifiers.open == []
    assert page("verifier_requests_total") == asked
    assert (page("verifier_workers_started_total"), page("verifier_workers_ended_total")) == (1, 1)


async def test_tokens_that_no_trace_holds_are_counted_also_when_their_job_is_gone(open_service: OpenService) -> None:
    resets = SimulationSettings(faults=Faults(reset=0.5))
    async with open_service(resets) as service:
        measurements = Measurements(service.controller)
        assert (await scrape(measurements))("discarded_tokens_total") == 0
        sampling = {"stop": ["held back, so that no answer goes on from its tokens"]}
        await service.ended(await service.submit(20, sampling=sampling))
        discarded = (await scrape(measurements))("discarded_tokens_total")
        assert discarded == service.controller.fleet.discarded_tokens > 0
        await service.ended(await service.submit(20, sampling=sampling))
        assert (await scrape(measurements))("discarded_tokens_total") > discarded


async def test_a_dead_server_is_shown_as_ejected_with_what_failed(open_service: OpenService) -> None:
    async with open_service("quick", "quick", endpoints={"eject_after": 1, "probe_s": 3600.0}) as service:
        measurements = Measurements(service.controller)
        dead: SimulatedServer = service.servers[0]
        await dead.stop()
        await service.ended(await service.submit(20))
        page = await scrape(measurements)
        assert page("server_state", server=dead.url, state="ejected") == 1
        assert page("server_state", server=dead.url, state="healthy") == 0
        assert page("server_ejections_total", server=dead.url) >= 1
        failed = sum(
            page("server_failures_total", server=dead.url, cause=cause) for cause in ("unreachable", "stream_broken")
        )
        assert failed >= 1
        assert page("retries_total", cause="unreachable") + page("retries_total", cause="stream_broken") == failed


async def test_a_draining_server_is_shown_as_that_and_not_as_ejected(open_service: OpenService) -> None:
    async with open_service("quick", "quick", endpoints={"probe_s": 3600.0}) as service:
        measurements = Measurements(service.controller)
        draining: SimulatedServer = service.servers[0]
        draining.draining = True
        row = await service.ended(await service.submit(20))
        page = await scrape(measurements)
        assert row.state == "completed"
        assert page("server_state", server=draining.url, state="draining") == 1
        assert page("server_state", server=draining.url, state="healthy") == 0
        assert page("server_ejections_total", server=draining.url) == 0
        assert page("server_failures_total", server=draining.url, cause="server_failed") >= 1


async def test_a_removed_server_is_shown_while_it_is_leaving_and_no_more_then(open_service: OpenService) -> None:
    async with open_service("silent", "silent") as service:
        measurements, fleet = Measurements(service.controller), service.controller.fleet
        gone, stays = (server.url for server in service.servers)
        row = await service.submit(20)
        await service.asked(8)
        fleet.remove(gone)
        page = await scrape(measurements)
        assert page("in_flight", server=gone) + page("in_flight", server=stays) == page("job_in_flight", job_id=row.id)
        assert page("in_flight", server=gone) >= 1
        assert page("server_state", server=gone, state="leaving") == 1
        assert page("server_state", server=gone, state="healthy") == 0
        assert page("server_state", server=stays, state="leaving") == 0
        seen = service.controller.view(await service.get(row)).servers
        assert {one.url: one.state for one in seen} == {stays: "healthy", gone: "leaving"}
        assert sum(one.job_in_flight for one in seen) == page("job_in_flight", job_id=row.id)
        await service.controller.cancel(None, row.id)
        await service.ended(row)
        page = await scrape(measurements)
        assert {sample.labels["server"] for sample in page.samples if "server" in sample.labels} == {stays}
        fleet.add(gone)
        assert (await scrape(measurements))("server_answers_total", server=gone) == 0


async def test_a_scrape_goes_without_what_cannot_be_looked_up(open_service: OpenService) -> None:
    async with open_service("quick") as service:
        measurements = Measurements(service.controller)
        data = service.settings.data.folder
        moved = data.with_name("away")
        data.rename(moved)
        try:
            page = await scrape(measurements)
        finally:
            moved.rename(data)
        assert "gen_service_data_free_bytes" in page.families
        assert page.labels("data_free_bytes") == []
        assert page("places_limit") == 8


async def test_an_unknown_number_of_samples_is_said_to_be_unknown(open_service: OpenService) -> None:
    async with open_service("silent") as service:
        row = await service.submit(20)
        await service.asked(1)
        run = service.controller.running[row.id]
        run.row, run.running.progress.expected = replace(run.row, samples=None), None
        page = await scrape(Measurements(service.controller))
        assert math.isnan(page("job_expected_samples", job_id=row.id))
        await service.controller.cancel(None, row.id)
        await service.ended(row)
