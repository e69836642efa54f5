"""The client against real HTTP that misbehaves: refusals, resets before and after the deed, half streams."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gen_service.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    RequestError,
    StorageError,
    TooManyRequests,
    Unavailable,
)
from gen_service.remote.client import ServiceClient, moved
from gen_service.remote.problems import CONNECTION_LOST, UNEXPECTED_ANSWER, UNREACHABLE
from gen_service.remote.transport import Patience
from gen_service.wire.jobs import JobRequest, JobView, PromptSource

JOBS = "/api/v1/jobs"
REQUEST = JobRequest(prompts=PromptSource(rows=({"prompt": "1 + 1?"},)), samples=2)


# Calls and tries


async def test_submit_sends_the_request_the_key_and_an_idempotency_key(rude: Any, client: ServiceClient) -> None:
    view = await client.submit(REQUEST)
    assert (view.id, view.state) == ("job-1", "queued")
    assert rude.requests == [{"prompts": {"rows": [{"prompt": "1 + 1?"}]}, "samples": 2}]
    (headers,) = rude.seen_of("POST", JOBS)
    assert headers["Authorization"] == "Bearer gs_key"
    assert len(headers["Idempotency-Key"]) == 32


async def test_a_lost_answer_makes_no_second_job(rude: Any, client: ServiceClient) -> None:
    rude.reset("POST", JOBS, is_done=True)
    rude.refuse("POST", JOBS, 503)
    rude.reset("POST", JOBS)
    view = await client.submit(REQUEST)
    keys = {headers["Idempotency-Key"] for headers in rude.seen_of("POST", JOBS)}
    assert (len(rude.seen_of("POST", JOBS)), len(keys), list(rude.jobs)) == (4, 1, [view.id])


async def test_two_submits_are_two_jobs_unless_the_caller_says_otherwise(rude: Any, client: ServiceClient) -> None:
    first, second = await client.submit(REQUEST), await client.submit(REQUEST)
    assert first.id != second.id
    assert (await client.submit(REQUEST, "mine")).id == (await client.submit(REQUEST, "mine")).id


@pytest.mark.parametrize("status", [429, 503, 502, 504])
async def test_a_look_is_repeated(rude: Any, client: ServiceClient, status: int) -> None:
    rude.add_job(1)
    rude.refuse("GET", f"{JOBS}/job-1", status, retry_after=None)
    rude.reset("GET", f"{JOBS}/job-1")
    rude.cut("GET", f"{JOBS}/job-1", 10)
    assert (await client.job("job-1")).state == "running"


async def test_an_act_is_repeated_when_it_was_refused_but_not_when_its_answer_was_lost(
    rude: Any, client: ServiceClient
) -> None:
    rude.add_job(1)
    rude.refuse("POST", f"{JOBS}/job-1/pause", 503)
    assert (await client.pause("job-1")).state == "paused"
    rude.reset("POST", f"{JOBS}/job-1/resume", is_done=True)
    with pytest.raises(Unavailable) as lost:
        await client.resume("job-1")
    assert lost.value.code == CONNECTION_LOST
    assert (await client.job("job-1")).state == "queued"
    assert (await client.cancel("job-1")).state == "cancelling"


async def test_what_will_not_pass_is_not_repeated(rude: Any, client: ServiceClient) -> None:
    problem = {"detail": "samples: got 0", "code": "invalid_value", "field": "samples"}
    rude.refuse("POST", JOBS, 422, problem)
    with pytest.raises(InvalidRequest, match="samples: got 0") as refused:
        await client.submit(REQUEST)
    assert (refused.value.field, refused.value.code) == ("samples", "invalid_value")
    rude.add_job(1)
    rude.refuse("DELETE", f"{JOBS}/job-1", 409)
    with pytest.raises(Conflict):
        await client.delete("job-1")
    await client.delete("job-1")
    with pytest.raises(NotFound):
        await client.job("job-1")
    assert len(rude.seen) == 4


async def test_a_longer_wait_than_the_patience_is_told_at_once(rude: Any) -> None:
    rude.refuse("GET", f"{JOBS}/job-1", 429, "later", "3600")
    async with ServiceClient(rude.url, patience=Patience(within_s=60.0)) as client:
        with pytest.raises(TooManyRequests) as refused:
            await client.job("job-1")
    assert refused.value.retry_after_s == 3600.0
    assert "Authorization" not in rude.seen_of("GET", f"{JOBS}/job-1")[0]


async def test_no_service_is_unavailable_with_its_url() -> None:
    async with ServiceClient("http://127.0.0.1:1", patience=Patience(within_s=0.0)) as client:
        with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:1") as failed:
            await client.submit(REQUEST)
    assert failed.value.code == UNREACHABLE


async def test_another_program_on_the_port_is_named_as_such(rude: Any, client: ServiceClient) -> None:
    rude.refuse("GET", f"{JOBS}/job-1", 200, "<html>hello</html>")
    rude.refuse("GET", f"{JOBS}/job-1/events", 200, "hello")
    rude.refuse("GET", f"{JOBS}/job-1", 302)
    for call in (client.job("job-1"), anext(client.events("job-1"))):
        with pytest.raises(RequestError) as failed:
            await call
        assert failed.value.code == UNEXPECTED_ANSWER
    with pytest.raises(RequestError, match="HTTP 302"):
        await client.job("job-1")


def test_a_url_without_a_scheme_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="localhost:8080"):
        ServiceClient("localhost:8080")


async def test_ids_are_quoted(rude: Any, client: ServiceClient) -> None:
    with pytest.raises(NotFound):
        await client.job("../../v1/files?x=1#y")
    assert [(path, query) for _, path, _, query in rude.seen] == [(f"{JOBS}/../../v1/files?x=1#y", {})]


async def test_jobs_come_in_pages(rude: Any, client: ServiceClient) -> None:
    for number in range(5):
        rude.add_job(number, "queued" if number % 2 else "completed")
    assert [view.id async for view in client.jobs()] == [f"job-{number}" for number in range(5)]
    assert [view.id async for view in client.jobs(states=["queued"])] == ["job-1", "job-3"]


# Events


def tell_a_life(rude: Any) -> list[int]:
    """A job that is done, and its events; the ids of those that are kept."""
    rude.add_job(1, "completed")
    rude.add_event(3, "state", to="queued")
    rude.add_event(5, "state", to="running")
    rude.add_event(None, "progress", counts={"published": 5})
    rude.add_event(6, "notice", words="a server is ill \u2028 \x85")
    rude.add_event(None, "progress", counts={"published": 9})
    rude.add_event(9, "state", to="finalizing")
    rude.add_event(11, "state", to="completed")
    return [3, 5, 6, 9, 11]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    cuts=st.lists(
        st.one_of(
            st.tuples(st.just("cut"), st.integers(0, 1500), st.booleans()),
            st.tuples(st.just("refuse"), st.sampled_from([429, 502, 503]), st.booleans()),
            st.tuples(st.just("reset"), st.just(0), st.booleans()),
        ),
        max_size=8,
    )
)
async def test_each_kept_event_comes_once_and_in_order_whatever_happens_to_the_connections(
    rude: Any, client: ServiceClient, cuts: list[tuple[str, int, bool]]
) -> None:
    rude.events.clear()
    ids, path = tell_a_life(rude), f"{JOBS}/job-1/events"
    rude.misdeeds.clear()
    for kind, number, flag in cuts:
        match kind:
            case "cut":
                rude.cut("GET", path, number, is_clean=flag)
            case "refuse":
                rude.refuse("GET", path, number, retry_after="0" if flag else None)
            case "reset":
                rude.reset("GET", path)
    events = [event async for event in client.events("job-1")]
    assert [event.id for event in events if event.id is not None] == ids
    assert events[-1].data == {"to": "completed"}


async def test_events_go_on_after_the_one_that_is_known(rude: Any, client: ServiceClient) -> None:
    tell_a_life(rude)
    assert [event.id async for event in client.events("job-1", after=6) if event.id] == [9, 11]
    assert rude.seen_of("GET", f"{JOBS}/job-1/events")[0]["Last-Event-ID"] == "6"


async def test_events_of_a_job_that_was_final_before_end(rude: Any, client: ServiceClient) -> None:
    tell_a_life(rude)
    rude.events = [event for event in rude.events if event.id]
    assert [event async for event in client.events("job-1", after=11)] == []


async def test_events_end_when_nothing_is_heard_for_too_long(rude: Any, client: ServiceClient) -> None:
    for _ in range(100):
        rude.refuse("GET", f"{JOBS}/job-1/events", 503, retry_after=None)
    with pytest.raises(Unavailable):
        _ = [event async for event in client.events("job-1", without_service_s=0.02)]


async def test_events_of_no_job_are_not_found(rude: Any, client: ServiceClient) -> None:
    rude.refuse("GET", f"{JOBS}/nothing/events", 404, {"detail": "no such job"})
    with pytest.raises(NotFound, match="no such job"):
        await anext(client.events("nothing"))


async def test_watch_shows_every_move_until_the_end(rude: Any, client: ServiceClient) -> None:
    tell_a_life(rude)
    rude.jobs["job-1"] = rude.jobs["job-1"].model_copy(update={"state": "running"})
    views: list[JobView] = []
    seen: list[str] = []

    def look(view: JobView) -> None:
        views.append(view)
        if view.counts.published == 9:
            rude.add_job(1, "completed")

    last = await client.watch("job-1", look, lambda event: seen.append(event.type))
    assert (last.state, views[-1].state) == ("completed", "completed")
    assert [view.counts.published for view in views] == [0, 0, 0, 5, 9, 0, 0]
    assert seen == ["state", "state", "progress", "notice", "progress", "state", "state"]
    rude.seen.clear()
    assert (await client.watch("job-1", views.append)).state == "completed"
    assert len(rude.seen) == 1


def test_a_progress_event_moves_the_live_numbers_alone(rude: Any) -> None:
    view = rude.add_job(1, name="mine")
    event = rude.add_event(
        None, "progress", counts={"published": 3, "verdicts": {"correct": 3}}, rates={"eta_s": 9.5}, id="other"
    )
    after = moved(view, event)
    assert (after.id, after.name, after.counts.verdicts) == ("job-1", "mine", {"correct": 3})
    assert after.rates is not None
    assert after.rates.eta_s == 9.5


# Files, rows and shards


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_an_upload_brings_the_bytes_again_after_a_refusal(
    rude: Any, client: ServiceClient, tmp_path: Path
) -> None:
    source = tmp_path / "problems, ålt.jsonl"
    source.write_bytes(b'{"prompt": "1 + 1?"}\n' * 100_000)
    rude.refuse("POST", "/v1/files", 429)
    stored = await client.upload(source)
    assert (stored.id, stored.bytes) == ("file-1", 2_100_000)
    assert rude.uploads == [("problems, ålt.jsonl", "prompts", source.read_bytes())]
    with pytest.raises(FileNotFoundError):
        await client.upload(tmp_path / "nothing")


async def test_rows_come_in_pages_and_from_a_cursor(rude: Any, client: ServiceClient) -> None:
    rude.rows = [{"sample_id": f"s{number}"} for number in range(5)]
    assert [row async for row in client.results("job-1")] == rude.rows
    page = await client.result_page("job-1")
    assert page.data == rude.rows[:2]
    assert [row async for row in client.results("job-1", page.next_cursor)] == rude.rows[2:]


async def test_a_download_is_whole_or_not_there_and_goes_on(rude: Any, client: ServiceClient, tmp_path: Path) -> None:
    rude.shards = {f"part-{number}.parquet": bytes([number]) * 3_000_000 for number in range(3)}
    rude.cut("GET", f"{JOBS}/job-1/shards/part-1.parquet", 100_000)
    told: list[tuple[str, bool]] = []
    done = await client.download("job-1", tmp_path / "new", lambda shard, fetched: told.append((shard.name, fetched)))
    assert (done.fetched, done.fetched_bytes) == (3, 9_000_000)
    assert {path.name: path.read_bytes() for path in done.files} == rude.shards
    assert told == [(name, True) for name in rude.shards]
    assert names_in(tmp_path / "new") == sorted(rude.shards)
    (tmp_path / "new" / "part-0.parquet").write_bytes(b"\1" * 3_000_000)
    again = await client.download("job-1", tmp_path / "new")
    assert again.fetched == 1
    assert (tmp_path / "new" / "part-0.parquet").read_bytes() == rude.shards["part-0.parquet"]


async def test_wrong_bytes_get_no_name(rude: Any, client: ServiceClient, tmp_path: Path) -> None:
    rude.shards = {"part-0.parquet": b"good"}
    rude.refuse("GET", f"{JOBS}/job-1/shards/part-0.parquet", 200, "evil")
    with pytest.raises(StorageError, match=hashlib.sha256(b"evil").hexdigest()):
        await client.download("job-1", tmp_path)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("name", ["../escape", "/etc/x", "", ".hidden", "a\0b"])
async def test_a_shard_is_written_under_a_plain_name_only(
    rude: Any, client: ServiceClient, tmp_path: Path, name: str
) -> None:
    rude.shards = {name: b"data"}
    with pytest.raises(RequestError) as failed:
        await client.download("job-1", tmp_path / "in")
    assert failed.value.code == UNEXPECTED_ANSWER
    assert names_in(tmp_path) == ["in"]
