"""Validation of a batch's file, and the files that it ends in."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import tempfile
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import Completion as TextCompletion
from openai.types.chat import ChatCompletion

from gen_service.controller.batch_lines import answer_line, is_success
from gen_service.controller.batch_output import write_outputs
from gen_service.controller.batch_view import batch_object
from gen_service.controller.batches import MOST_ERRORS, BatchCheck, validate_batch
from gen_service.errors import Overloaded, RequestRefused, Stalled
from gen_service.records import Completion, Prompt, Sample, Trace, Verdict
from gen_service.service_settings import UploadSettings
from gen_service.settings import OutputSettings
from gen_service.storage.job_folder import open_job_folder
from gen_service.store.database import open_store
from gen_service.store.rows import JobRow, TenantRow
from gen_service.store.store import Store
from gen_service.wire.jobs import JobCounts
from gen_service.wire.states import STATES, JobState

CHAT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
LIMITS = UploadSettings(max_lines=1000, max_line_bytes=4096)
NOW = 1_700_000_000.0


def request(custom_id: str, n: int = 1, url: str = CHAT, **body: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "?"}]} if url == CHAT else {"prompt": "?"}
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": url,
        "body": {"model": "tiny"} | asked | ({"n": n} if n != 1 else {}) | body,
    }


def write(path: Path, *lines: object) -> Path:
    rows = (line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    path.write_bytes(b"".join(row + b"\n" for row in rows))
    return path


async def check(path: Path, *lines: object, served: tuple[str, ...] = ("tiny",)) -> BatchCheck:
    return await validate_batch(write(path, *lines), CHAT, served, LIMITS)


def problems(found: BatchCheck) -> list[tuple[str, int | None]]:
    return [(error.code, error.line) for error in found.errors]


async def test_a_good_file_is_counted(tmp_path: Path) -> None:
    found = await check(tmp_path / "in", request("a"), b"", request("b", 3), b"  ", request("c", 128))
    assert found == BatchCheck(3, 132, "tiny", ())


async def test_what_is_wrong_is_told_with_its_line(tmp_path: Path) -> None:
    found = await check(
        tmp_path / "in",
        request("a"),
        request("a"),
        b"{",
        b"",
        request("b", model="other"),
        request("c") | {"method": "PUT"},
        request("d", url=COMPLETIONS),
        request("e") | {"url": "/v1/embeddings"},
        request("f", pad="x" * 5000),
        request("g", n=0),
        request("a", model="other"),
    )
    assert problems(found) == [
        ("duplicate_custom_id", 2),
        ("invalid_json_line", 3),
        ("mismatched_model", 5),
        ("invalid_method", 6),
        ("mismatched_endpoint", 7),
        ("invalid_url", 8),
        ("invalid_json_line", 9),
        ("invalid_value", 10),
        ("duplicate_custom_id", 11),
    ]
    assert found.errors[2].message == "body.model: got 'other'; expected 'tiny', as in the lines before"
    assert found.errors[2].param == "body.model"
    assert "longer than 4096 bytes" in found.errors[6].message


async def test_a_model_that_is_not_served_is_told_once(tmp_path: Path) -> None:
    lines = [request(str(index), model="big") for index in range(3)]
    found = await check(tmp_path / "in", *lines)
    assert problems(found) == [("model_not_found", 1)]
    assert found.errors[0].message == "body.model: got 'big'; expected one of: tiny"
    assert (await check(tmp_path / "in", *lines, served=())).errors == ()


@pytest.mark.parametrize("content", [b"", b"\n", b" \n\t\r\n"])
async def test_a_file_without_lines_is_empty(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "in"
    path.write_bytes(content)
    assert problems(await validate_batch(path, CHAT, ["tiny"], LIMITS)) == [("empty_file", None)]


async def test_the_most_lines_pass_and_one_more_does_not(tmp_path: Path) -> None:
    lines = [request(str(index)) for index in range(LIMITS.max_lines + 2)]
    assert (await check(tmp_path / "in", *lines[: LIMITS.max_lines])).errors == ()
    assert problems(await check(tmp_path / "in", *lines)) == [("too_many_requests", LIMITS.max_lines + 1)]


async def test_no_more_than_a_hundred_errors_are_told(tmp_path: Path) -> None:
    found = await check(tmp_path / "in", *[b"{"] * 500)
    assert len(found.errors) == found.lines == MOST_ERRORS


async def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    limits = UploadSettings(max_line_bytes=4096)
    few = write(tmp_path / "few", *[request(str(index)) for index in range(2_000)])
    many = write(tmp_path / "many", *[request(str(index)) for index in range(40_000)])
    peaks = []
    for path in (few, few, many):
        tracemalloc.start()
        assert (await validate_batch(path, CHAT, ["tiny"], limits)).errors == ()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.5 * peaks[1]


@given(order=st.permutations(range(6)), twice=st.integers(0, 5))
def test_a_custom_id_is_taken_once_wherever_it_comes(order: list[int], twice: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lines = [request(f"id-{number}") for number in [*order, twice]]
        found = asyncio.run(check(Path(folder) / "in", *lines))
    assert problems(found) == [("duplicate_custom_id", 7)]
    assert (found.lines, found.samples) == (7, 7)


# Output.


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with tables: to make them costs more than a whole example."""
    path = tmp_path_factory.mktemp("store") / "empty.db"

    async def make() -> None:
        async with open_store(f"sqlite:///{path}"):
            pass

    asyncio.run(make())
    return path


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(f"sqlite:///{tmp_path}/store.db") as opened:
        yield opened


def batch_row(state: JobState, lines: list[dict[str, Any]], url: str = CHAT, **changes: Any) -> JobRow:
    row = JobRow(
        id="batch_0",
        tenant="default",
        kind="batch",
        state=state,
        reason=None,
        name=None,
        model="tiny",
        request={"input_file_id": "file-in", "endpoint": url, "completion_window": "24h", "metadata": None},
        spec={"prompts": {"max_row_bytes": 4096}},
        request_hash="",
        idempotency_key=None,
        priority=0,
        weight=1.0,
        max_in_flight=None,
        metadata={},
        prompts=len(lines),
        samples=sum(line["body"].get("n", 1) for line in lines),
        counts={},
        created_at=NOW,
        expires_at=NOW + 86_400,
        times={"validating": NOW, state: NOW + 10.5},
        batch={},
        webhook=None,
    )
    return replace(row, **changes)


def trace(custom_id: str, index: int = 0, error: str | None = None, reasoning: str | None = None) -> Trace:
    prompt = Prompt(custom_id, ({"role": "user", "content": "?"},), None, "file-in", 1)
    sample = Sample(f"{custom_id}.{index}", "batch_0", prompt, index)
    if error is not None:
        return Trace(sample, None, Verdict("error", error), error)
    completion = Completion(
        reasoning=reasoning,
        content=f"answer {index} to {custom_id}",
        finish_reason="stop",
        prompt_tokens=11,
        completion_tokens=3,
        token_ids=np.arange(3, dtype=np.int32),
        model="tiny",
        endpoint="http://127.0.0.1:1",
        continued=0,
        retries=(),
        started_at=NOW + 5.25,
        first_token_s=0.1,
        total_s=0.2,
    )
    return Trace(sample, completion, Verdict("unverified", "not verified"))


async def publish(folder: Path, traces: list[Trace], shard_rows: int = 3) -> str:
    """A job folder with these rows, published in this order."""
    output = OutputSettings(path=str(folder), shard_rows=shard_rows)
    async with open_job_folder(output, "batch_0", {}, {}, "{}", lambda _: None) as job:
        for one in traces:
            await job.publish(await job.record(replace(one, verdict=None)), one)
    return str(folder / "batch_0")


def lines_of(uploads: Path, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    return [json.loads(line) for line in (uploads / file_id).read_text().splitlines()]


async def outputs(tmp_path: Path, store: Store, row: JobRow, lines: list[Any], traces: list[Trace]) -> dict[str, Any]:
    (tmp_path / "files").mkdir(exist_ok=True)
    input_path = write(tmp_path / "files" / "file-in", *lines)
    folder = await publish(tmp_path / "traces", traces) if traces else str(tmp_path / "nothing")
    return await write_outputs(row, folder, input_path, tmp_path / "files", store.files, NOW + 20)


async def test_answers_and_failures_go_to_their_files(tmp_path: Path, store: Store) -> None:
    url = "http://10.0.0.1:8000"
    lines: list[dict[str, Any]] = [request("good"), request("long"), request("busy"), request("slow"), request("odd")]
    parts = [{"type": "text", "text": "?"}]
    lines += [
        request("several", 2),
        request("half", 2),
        request("parts", messages=[{"role": "user", "content": parts}]),
    ]
    refused = str(RequestRefused(url, "This model's maximum context length is 2048 tokens.", 400))
    traces = [
        trace("half", 1),
        trace("several", 1),
        trace("good", reasoning="I think."),
        trace("long", error=refused),
        trace("busy", error=str(Overloaded(url, "come again", 429))),
        trace("slow", error=str(Stalled(url, "no token"))),
        trace("half", 0, error=refused),
        trace("odd", error="something else"),
        trace("several", 0),
        trace("parts"),
    ]
    batch = await outputs(tmp_path, store, batch_row("finalizing", lines), lines, traces)
    assert batch["request_counts"] == {"total": 8, "completed": 3, "failed": 5}
    done = {line["custom_id"]: line for line in lines_of(tmp_path / "files", batch["output_file_id"])}
    failed = {line["custom_id"]: line for line in lines_of(tmp_path / "files", batch["error_file_id"])}
    assert (set(done), set(failed)) == ({"good", "several", "parts"}, {"long", "busy", "slow", "odd", "half"})
    assert done["good"] == {
        "id": "batch_req_good.0",
        "custom_id": "good",
        "response": {
            "status_code": 200,
            "request_id": "good.0",
            "body": {
                "id": "chatcmpl-good.0",
                "object": "chat.completion",
                "created": int(NOW) + 5,
                "model": "tiny",
                "choices": [
                    {
                        "index": 0,
                        "message": {
                            "role": "assistant",
                            "content": "answer 0 to good",
                            "reasoning_content": "I think.",
                        },
                        "finish_reason": "stop",
                        "logprobs": None,
                    }
                ],
                "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
            },
        },
        "error": None,
    }
    several = ChatCompletion.model_validate(done["several"]["response"]["body"])
    assert [choice.message.content for choice in several.choices] == ["answer 0 to several", "answer 1 to several"]
    assert several.usage is not None
    assert (several.usage.prompt_tokens, several.usage.completion_tokens, several.usage.total_tokens) == (11, 6, 17)
    assert failed["long"]["response"] == {
        "status_code": 400,
        "request_id": "long.0",
        "body": {
            "error": {
                "message": "This model's maximum context length is 2048 tokens.",
                "type": "invalid_request_error",
                "param": None,
                "code": "refused",
            }
        },
    }
    statuses = {name: line["response"]["status_code"] for name, line in failed.items()}
    assert statuses == {"long": 400, "half": 400, "busy": 503, "slow": 504, "odd": 500}
    assert failed["odd"]["response"]["body"]["error"]["message"] == "something else"


async def test_text_completions_are_objects_of_their_own() -> None:
    row = {"prompt_id": "a", "sample_id": "s", "sample_index": 0, "reasoning": None, "content": "two"}
    row |= {"finish_reason": "length", "prompt_tokens": 1, "completion_tokens": 2, "model": "m", "started_at": 5}
    line = answer_line([{**row, "error": None}], COMPLETIONS)
    assert is_success(line)
    answer = TextCompletion.model_validate(line["response"]["body"])
    assert (answer.object, answer.choices[0].text, answer.choices[0].finish_reason) == (
        "text_completion",
        "two",
        "length",
    )


async def test_the_files_are_the_tenants_and_count_against_no_quota(tmp_path: Path, store: Store) -> None:
    lines = [request("a"), request("b")]
    refused = str(RequestRefused("http://x", "no", 422))
    await store.tenants.put(TenantRow("default", 1.0, {"stored_bytes": 0}))
    batch = await outputs(
        tmp_path, store, batch_row("finalizing", lines), lines, [trace("a"), trace("b", error=refused)]
    )
    rows, _ = await store.files.page("default", purpose="batch_output", limit=10)
    assert {row.id: row.filename for row in rows} == {
        batch["output_file_id"]: "batch_0_output.jsonl",
        batch["error_file_id"]: "batch_0_error.jsonl",
    }
    for row in rows:
        assert (row.bytes, row.lines) == ((tmp_path / "files" / row.id).stat().st_size, 1)
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == sorted(
        ["file-in", *(row.id for row in rows)]
    )


async def test_writing_again_after_a_crash_makes_the_same_files(tmp_path: Path, store: Store) -> None:
    lines = [request("a"), request("b", 2), request("c")]
    traces = [trace("b", 1), trace("a"), trace("c", error="gone"), trace("b", 0)]
    row = batch_row("finalizing", lines)
    first = await outputs(tmp_path, store, row, lines, traces)
    before = {path.name: path.read_bytes() for path in (tmp_path / "files").iterdir()}
    # As if killed before one of the rows, while a part was being written.
    await store.files.delete(first["error_file_id"], "default")
    (tmp_path / "files" / f"{first['output_file_id']}.part").write_bytes(b"torn")
    folder, files = str(tmp_path / "traces" / "batch_0"), tmp_path / "files"
    again = await write_outputs(row, folder, files / "file-in", files, store.files, NOW + 99)
    assert again == first
    assert {path.name: path.read_bytes() for path in files.iterdir()} == before
    rows, _ = await store.files.page(None, limit=10)
    assert sorted(one.id for one in rows) == sorted([first["output_file_id"], first["error_file_id"]])


@pytest.mark.parametrize("state", ["finalizing", "expiring", "cancelling"])
async def test_what_was_not_done_is_told_by_how_the_batch_ended(tmp_path: Path, store: Store, state: JobState) -> None:
    lines = [request("done"), request("undone"), request("part", 2), request("none", messages=[{}])]
    lines.append(request("two", url=COMPLETIONS, prompt=["x", "y"]))
    batch = await outputs(tmp_path, store, batch_row(state, lines), lines, [trace("done"), trace("part", 1)])
    failed = {line["custom_id"]: line for line in lines_of(tmp_path / "files", batch["error_file_id"])}
    if state == "cancelling":
        assert failed == {}
        assert batch["error_file_id"] is None
        assert batch["request_counts"] == {"total": 5, "completed": 1, "failed": 0}
        return
    assert batch["request_counts"] == {"total": 5, "completed": 1, "failed": 4}
    assert failed.pop("two")["response"]["status_code"] == 400
    code = "batch_expired" if state == "expiring" else "server_error"
    assert set(failed) == {"undone", "part", "none"}
    assert {(line["response"], line["error"]["code"]) for line in failed.values()} == {(None, code)}


async def test_a_batch_that_never_ran_has_no_output(tmp_path: Path, store: Store) -> None:
    lines = [request("a"), request("b", 2)]
    batch = await outputs(tmp_path, store, batch_row("cancelling", lines, samples=None), lines, [])
    assert (batch["output_file_id"], batch["error_file_id"]) == (None, None)
    assert batch["request_counts"] == {"total": 2, "completed": 0, "failed": 0}
    assert (await store.files.page(None, limit=10))[0] == []


@settings(max_examples=20, deadline=None)
@given(
    choices=st.lists(st.integers(1, 4), min_size=1, max_size=8),
    state=st.sampled_from(["finalizing", "expiring", "cancelling"]),
    seed=st.integers(0, 2**32),
)
def test_each_line_ends_once_in_one_of_the_files(
    empty_store: Path, choices: list[int], state: JobState, seed: int
) -> None:
    chance = random.Random(seed)
    lines = [request(f"id-{number}", n) for number, n in enumerate(choices)]
    all_rows = [
        trace(f"id-{number}", index, error=chance.choice([None, None, None, "broke"]))
        for number, n in enumerate(choices)
        for index in range(n)
    ]
    chance.shuffle(all_rows)
    kept = all_rows if state == "finalizing" else all_rows[: chance.randint(0, len(all_rows))]

    async def write_all(folder: Path) -> tuple[dict[str, Any], list[str], list[str]]:
        shutil.copy(empty_store, folder / "store.db")
        async with open_store(f"sqlite:///{folder}/store.db") as store:
            batch = await outputs(folder, store, batch_row(state, lines), lines, kept)
        done, failed = (
            [line["custom_id"] for line in lines_of(folder / "files", batch[key])]
            for key in ("output_file_id", "error_file_id")
        )
        return batch, done, failed

    with tempfile.TemporaryDirectory() as folder:
        batch, done, failed = asyncio.run(write_all(Path(folder)))
    whole = {f"id-{number}" for number, n in enumerate(choices) if sum(_of(one, number) for one in kept) == n}
    broken = {one.sample.prompt.prompt_id for one in kept if one.error is not None}
    assert sorted(done) == sorted(whole - broken)
    everything = {line["custom_id"] for line in lines}
    assert sorted(failed) == sorted(whole & broken if state == "cancelling" else everything - (whole - broken))
    counts = batch["request_counts"]
    assert (counts["completed"], counts["failed"], counts["total"]) == (len(done), len(failed), len(lines))


def _of(one: Trace, number: int) -> bool:
    return one.sample.prompt.prompt_id == f"id-{number}"


# What clients see.


@pytest.mark.parametrize("state", STATES)
def test_every_state_of_a_job_is_a_status_of_openai(state: JobState) -> None:
    statuses = {
        "validating": "validating",
        "queued": "in_progress",
        "running": "in_progress",
        "paused": "in_progress",
        "expiring": "finalizing",
    }
    batch = batch_object(batch_row(state, [request("a")], reason="broken"), JobCounts())
    assert batch.status == statuses.get(state, state)
    assert batch.created_at == int(NOW)
    assert batch.expires_at == int(NOW) + 86_400
    assert (batch.errors is not None) == (state == "failed")
    assert (batch.finalizing_at == int(NOW) + 10) == (state in ("expiring", "finalizing"))


def test_counts_are_live_while_it_runs_and_exact_afterwards() -> None:
    row = batch_row("running", [request("a"), request("b"), request("c")])
    counts = JobCounts(published=2, errors=1, prompt_tokens=5, completion_tokens=7)
    live = batch_object(row, counts)
    assert (live.request_counts.total, live.request_counts.completed, live.request_counts.failed) == (3, 1, 1)
    assert live.usage is not None
    assert (live.usage.input_tokens, live.usage.output_tokens, live.usage.total_tokens) == (5, 7, 12)
    ended = replace(row, state="completed", batch={"request_counts": {"total": 3, "completed": 1, "failed": 2}})
    assert batch_object(ended, counts).request_counts.failed == 2


@given(
    choices=st.lists(st.integers(1, 128), min_size=1, max_size=20),
    share=st.floats(0, 1),
    failing=st.floats(0, 1),
)
def test_live_counts_never_pass_the_total(choices: list[int], share: float, failing: float) -> None:
    lines = [request(str(number), n) for number, n in enumerate(choices)]
    published = int(sum(choices) * share)
    counts = JobCounts(published=published, errors=int(published * failing))
    shown = batch_object(batch_row("running", lines), counts).request_counts
    assert 0 <= shown.completed + shown.failed <= shown.total == len(lines)


def test_errors_of_validation_are_shown() -> None:
    errors = [{"code": "invalid_json_line", "line": 3, "message": "not JSON", "param": None}]
    batch = batch_object(batch_row("failed", [], batch={"errors": errors}), JobCounts())
    assert batch.errors is not None
    assert [error.line for error in batch.errors.data] == [3]
