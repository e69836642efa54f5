"""Batches through the unmodified openai client, on the real app, controller and store."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai.types import Batch
from openai.types import Completion as TextCompletion
from openai.types.chat import ChatCompletion

from gen_service.endpoints.simulated import Script, SimulationSettings
from gen_service.endpoints.simulated.timing import Fixed, TotalLatency

FOR_HOURS = SimulationSettings(script=Script(timing=TotalLatency(Fixed(36_000.0))))
SHORT = SimulationSettings(max_model_len=512)
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def line(custom_id: str, url: str = CHAT, **body: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": f"{len(custom_id)} + 1?"}]}
    if url == COMPLETIONS:
        asked = {"prompt": f"{len(custom_id)} + 1?"}
    body = {"model": "simulated", "max_tokens": 200} | asked | body
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


async def client_of(service: Any) -> openai.AsyncOpenAI:
    """Of the tenant `lab`; not to be closed, since that would close the service's own."""
    key = (await service.key("lab"))["Authorization"].removeprefix("Bearer ")
    return openai.AsyncOpenAI(
        base_url=f"{service.client.base_url}/v1", api_key=key, http_client=service.client, max_retries=0
    )


async def upload(client: openai.AsyncOpenAI, *lines: object) -> str:
    content = b"".join((one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in lines)
    return (await client.files.create(file=("in.jsonl", content), purpose="batch")).id


async def create(client: openai.AsyncOpenAI, file_id: str, endpoint: Any = CHAT, **more: Any) -> Batch:
    return await client.batches.create(input_file_id=file_id, endpoint=endpoint, completion_window="24h", **more)


async def ended(service: Any, client: openai.AsyncOpenAI, batch_id: str) -> Batch:
    await service.ended(batch_id)
    return await client.batches.retrieve(batch_id)


async def lines_of(client: openai.AsyncOpenAI, file_id: str | None) -> dict[str, dict[str, Any]]:
    assert file_id is not None
    rows = [json.loads(text) for text in (await client.files.content(file_id)).text.splitlines()]
    assert len({row["custom_id"] for row in rows}) == len(rows)
    return {row["custom_id"]: row for row in rows}


async def test_a_batch_of_chats_from_upload_to_download(serving: Any) -> None:
    async with serving(SHORT) as service:
        client = await client_of(service)
        lines = [line("x" * size, temperature=0.5, stop=["never"]) for size in range(1, 30)]
        lines += [line("several", n=3), line("parts", user="u", stream=False)]
        lines += [line("long", max_tokens=5000), line("tools", tools=[{"type": "function"}])]
        file_id = await upload(client, *lines)
        created = await create(client, file_id, metadata={"run": "7"})
        assert created.status in ("validating", "in_progress")
        assert (created.input_file_id, created.endpoint, created.completion_window) == (file_id, CHAT, "24h")
        batch = await ended(service, client, created.id)
        assert batch.status == "completed", batch
        assert batch.errors is None
        assert batch.metadata == {"run": "7"}
        assert batch.model == "simulated"
        counts = batch.request_counts
        assert counts is not None
        assert (counts.total, counts.completed, counts.failed) == (33, 31, 2)
        assert batch.expires_at == batch.created_at + 86_400
        times = [batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at]
        assert None not in times
        assert times == sorted(time for time in times if time is not None)
        done = await lines_of(client, batch.output_file_id)
        assert set(done) == {one["custom_id"] for one in lines} - {"long", "tools"}
        tokens = 0
        for custom_id, row in done.items():
            assert row["error"] is None
            assert row["response"]["status_code"] == 200
            answer = ChatCompletion.model_validate(row["response"]["body"])
            assert [choice.index for choice in answer.choices] == list(range(3 if custom_id == "several" else 1))
            for choice in answer.choices:
                assert f"\\boxed{{{len(custom_id) + 1}}}" in (choice.message.content or "")
                assert choice.message.model_extra is not None
                assert choice.message.model_extra["reasoning_content"]
                assert choice.finish_reason == "stop"
            assert answer.usage is not None
            tokens += answer.usage.completion_tokens
        assert batch.usage is not None
        assert batch.usage.output_tokens == tokens
        failed = await lines_of(client, batch.error_file_id)
        assert {name: row["response"]["status_code"] for name, row in failed.items()} == {"long": 400, "tools": 400}
        assert "512" in failed["long"]["response"]["body"]["error"]["message"]
        assert "body.tools" in failed["tools"]["response"]["body"]["error"]["message"]
        outputs = [file async for file in client.files.list(purpose="batch_output")]
        assert {file.id for file in outputs} == {batch.output_file_id, batch.error_file_id}
        assert {file.filename for file in outputs} == {f"{batch.id}_output.jsonl", f"{batch.id}_error.jsonl"}
        job = (await service.client.get(f"/api/v1/jobs/{batch.id}", headers=client.auth_headers)).json()
        assert (job["kind"], job["state"], job["tenant"]) == ("batch", "completed", "lab")


async def test_a_batch_of_completions(serving: Any) -> None:
    async with serving() as service:
        client = await client_of(service)
        lines = [line("a", COMPLETIONS), line("b", COMPLETIONS, n=2), line("ids", COMPLETIONS, prompt=[1, 2, 3])]
        lines.append(line("two", COMPLETIONS, prompt=["1 + 1?", "2 + 2?"]))
        created = await create(client, await upload(client, *lines), COMPLETIONS)
        batch = await ended(service, client, created.id)
        assert batch.status == "completed", batch
        done = await lines_of(client, batch.output_file_id)
        assert set(done) == {"a", "b", "ids"}
        for custom_id, row in done.items():
            answer = TextCompletion.model_validate(row["response"]["body"])
            assert answer.object == "text_completion"
            assert len(answer.choices) == (2 if custom_id == "b" else 1)
            assert "</think>" in answer.choices[0].text
        assert "\\boxed{2}" in done["a"]["response"]["body"]["choices"][0]["text"]
        (two,) = (await lines_of(client, batch.error_file_id)).values()
        assert two["response"]["status_code"] == 400
        assert "2 prompts" in two["response"]["body"]["error"]["message"]
        assert batch.request_counts is not None
        assert (batch.request_counts.total, batch.request_counts.failed) == (4, 1)


async def test_a_batch_of_lines_that_are_all_set_aside_is_completed_with_an_error_file(serving: Any) -> None:
    async with serving() as service:
        client = await client_of(service)
        lines = [line(f"line-{number}", COMPLETIONS, prompt=["one", "two"]) for number in range(3)]
        created = await create(client, await upload(client, *lines), COMPLETIONS)
        batch = await ended(service, client, created.id)
        assert (batch.status, batch.output_file_id) == ("completed", None)
        assert batch.request_counts is not None
        assert (batch.request_counts.completed, batch.request_counts.failed) == (0, 3)
        failed = await lines_of(client, batch.error_file_id)
        assert {row["response"]["status_code"] for row in failed.values()} == {400}


async def test_a_file_with_wrong_lines_makes_the_batch_fail(serving: Any) -> None:
    async with serving() as service:
        client = await client_of(service)
        lines = [line("a"), b"{", line("a"), line("b", COMPLETIONS), line("c", model="gpt-4")]
        batch = await ended(service, client, (await create(client, await upload(client, *lines))).id)
        assert batch.status == "failed"
        assert batch.failed_at is not None
        assert batch.errors is not None
        assert batch.errors.data is not None
        assert [(error.code, error.line) for error in batch.errors.data] == [
            ("invalid_json_line", 2),
            ("duplicate_custom_id", 3),
            ("mismatched_endpoint", 4),
            ("mismatched_model", 5),
        ]
        assert (batch.output_file_id, batch.error_file_id) == (None, None)


async def test_a_batch_is_cancelled_and_its_file_can_go_then(serving: Any) -> None:
    async with serving(FOR_HOURS, fleet={"grace_s": 0.0}) as service:
        client = await client_of(service)
        file_id = await upload(client, line("a"), line("b"))
        created = await create(client, file_id)
        with pytest.raises(openai.ConflictError, match=created.id) as caught:
            await client.files.delete(file_id)
        assert caught.value.code == "in_use"
        await service.until(created.id, lambda view: view.counts.in_flight == 2)
        running = await client.batches.retrieve(created.id)
        assert running.status == "in_progress"
        assert running.request_counts is not None
        assert (running.request_counts.total, running.request_counts.completed) == (2, 0)
        assert (await client.batches.cancel(created.id)).status in ("cancelling", "cancelled")
        batch = await ended(service, client, created.id)
        assert batch.status == "cancelled"
        assert batch.cancelled_at is not None
        assert (batch.output_file_id, batch.error_file_id) == (None, None)
        assert batch.request_counts is not None
        assert (batch.request_counts.total, batch.request_counts.failed) == (2, 0)
        assert (await client.files.delete(file_id)).deleted


async def test_a_batch_goes_on_at_the_next_start(serving: Any) -> None:
    async with serving(FOR_HOURS, fleet={"grace_s": 0.0}) as service:
        client = await client_of(service)
        created = await create(client, await upload(client, *(line("x" * size) for size in range(1, 6))))
        await service.until(created.id, lambda view: view.counts.in_flight == 5)
    async with serving() as service:
        client = await client_of(service)
        batch = await ended(service, client, created.id)
        assert batch.status == "completed"
        assert len(await lines_of(client, batch.output_file_id)) == 5


async def test_asking_again_makes_one_batch(serving: Any) -> None:
    async with serving(FOR_HOURS, fleet={"grace_s": 0.0}) as service:
        client = await client_of(service)
        file_id, other = await upload(client, line("a")), await upload(client, line("a"))
        key, retry = {"Idempotency-Key": "k1"}, {"x-stainless-retry-count": "1"}
        first = await create(client, file_id, extra_headers=key)
        assert (await create(client, file_id, extra_headers=key)).id == first.id
        with pytest.raises(openai.ConflictError):
            await create(client, other, extra_headers=key)
        # A client that tries again after a 500 sends no key.
        assert (await create(client, file_id, extra_headers=retry)).id == first.id
        another = await create(client, file_id)
        assert another.id != first.id
        assert (await create(client, file_id, extra_headers=retry, metadata={"a": "b"})).id not in (
            first.id,
            another.id,
        )
        assert (await create(client, file_id, extra_headers={"x-stainless-retry-count": "odd"})).id != another.id


async def test_batches_are_listed_newest_first_and_are_the_tenants_own(serving: Any, sums_request: Any) -> None:
    async with serving(FOR_HOURS, fleet={"grace_s": 0.0}) as service:
        client = await client_of(service)
        file_id = await upload(client, line("a"))
        made = [(await create(client, file_id)).id for _ in range(5)]
        answer = await service.client.post("/api/v1/jobs", json=sums_request(1), headers=client.auth_headers)
        native = answer.json()["id"]
        assert [batch.id async for batch in client.batches.list(limit=2)] == made[::-1]
        page = await client.batches.list(limit=5)
        assert (page.has_more, page.model_extra) == (False, {"first_id": made[4], "last_id": made[0], "object": "list"})
        jobs = (await service.client.get("/api/v1/jobs", headers=client.auth_headers)).json()["data"]
        assert {job["id"] for job in jobs} == {*made, native}
        for missing in (native, "batch_none"):
            with pytest.raises(openai.NotFoundError):
                await client.batches.retrieve(missing)
            with pytest.raises(openai.NotFoundError):
                await client.batches.cancel(missing)
            with pytest.raises(openai.NotFoundError):
                await client.batches.list(after=missing)
        stranger = client.copy(api_key=(await service.key("other"))["Authorization"].removeprefix("Bearer "))
        assert [batch async for batch in stranger.batches.list()] == []
        with pytest.raises(openai.NotFoundError):
            await stranger.batches.retrieve(made[0])
        with pytest.raises(openai.BadRequestError, match=file_id):
            await create(stranger, file_id)
        for job_id in (*made, native):
            await service.client.post(f"/api/v1/jobs/{job_id}/cancel", headers=client.auth_headers)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"metadata": {"k": 7}}, "metadata.k"),
        ({"surprise": 1}, "surprise"),
    ],
)
async def test_a_wrong_field_is_named(serving: Any, change: dict[str, Any], param: str) -> None:
    async with serving() as service:
        client = await client_of(service)
        request = {"input_file_id": await upload(client, line("a")), "endpoint": CHAT, "completion_window": "24h"}
        answer = await service.client.post("/v1/batches", json=request | change, headers=client.auth_headers)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        assert answer.json()["error"]["type"] == "invalid_request_error"
