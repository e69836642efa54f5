"""Each reason for which a job is not taken."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gen_service.endpoints.simulated import SimulationSettings
from gen_service.errors import InvalidRequest, Unavailable
from gen_service.wire.openai import BatchRequest

OpenService = Callable[..., Any]
ROWS = {"rows": [{"prompt": "What is 1 + 1?", "answer": "2"}]}


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"model": "other"}, "model", "got 'other'; expected one that is served: simulated"),
        ({"sampling": {"max_tokens": 40_000}}, "sampling.max_tokens", "at most 32768, the context length of simulated"),
        ({"samples": 2, "steering": {"correct": 3}}, "steering.correct", "got 3; expected at most 2"),
        ({"verification": {"kind": "maths"}}, "verification.kind", "got 'maths'; expected one of math, exact"),
        ({"verification": {"options": {"x": 1}}}, "verification.options", "got 'x'"),
        ({"prompts": {"rows": [{"text": "x"}]}}, "prompts.rows", "row 1: no column 'prompt'"),
        ({"prompts": {"rows": [{"prompt": ""}]}}, "prompts.rows", "row 1: 'prompt' is empty"),
        ({"prompts": ROWS | {"columns": {"answer": "gold"}}}, "prompts.rows", "no column 'gold'"),
        ({"prompts": {"file_id": "file-none"}}, "prompts.file_id", "got 'file-none'; expected the id of an uploaded"),
        ({"prompts": {"path": "/etc/passwd"}}, "prompts.path", "of which this service has none"),
        ({"prompts": {"dataset": "owner/name"}}, "prompts.dataset", "takes no data sets by name"),
        ({"output": {"path": "/tmp/x"}}, "output.path", "of which this service has none"),
        ({"webhook": {"url": "https://127.0.0.1/x"}}, "webhook.url", "got the address 127.0.0.1"),
    ],
)
async def test_a_wrong_field_is_named_as_the_request_has_it(
    open_service: OpenService, changes: dict[str, Any], field: str, words: str
) -> None:
    async with open_service("quick") as service:
        with pytest.raises(InvalidRequest) as refused:
            await service.submit(**changes)
        assert refused.value.field == field
        assert words in str(refused.value)
        assert str(refused.value).startswith(field)
        await _nothing_is_left(service)


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (b"", "x.jsonl", "a source with at least one row"),
        (b"not json\n", "x.jsonl", "row 1: not JSON"),
        (b'\n{"prompt": 5}\n', "x.jsonl", "row 2: 'prompt' is not text but int"),
        (b"question,answer\nx,1\n", "x.csv", "one of the source's columns: question, answer"),
        (b"PAR1", "x.parquet", "expected a Parquet file"),
    ],
)
async def test_an_upload_that_is_no_source_is_refused(
    open_service: OpenService, content: bytes, name: str, words: str
) -> None:
    async with open_service("quick") as service:
        file_id = await service.upload(content, name=name)
        with pytest.raises(InvalidRequest, match=words) as refused:
            await service.submit(prompts={"file_id": file_id})
        assert refused.value.field in ("prompts.file_id", "prompts.columns.prompt")
        assert str(service.settings.data.folder) not in str(refused.value)
        await _nothing_is_left(service)


async def test_a_file_of_another_tenant_or_purpose_is_not_taken(open_service: OpenService) -> None:
    async with open_service("quick") as service:
        theirs = await service.upload(b'{"prompt": "x"}\n', tenant="another")
        batch = await service.upload(b'{"prompt": "x"}\n', "batch")
        with pytest.raises(InvalidRequest, match="expected the id of an uploaded file of yours"):
            await service.submit(prompts={"file_id": theirs})
        with pytest.raises(InvalidRequest, match="was uploaded for 'batch'; expected a file with purpose 'prompts'"):
            await service.submit(prompts={"file_id": batch})
        for file_id in (theirs, "file-none"):
            request = BatchRequest(input_file_id=file_id, endpoint="/v1/completions", completion_window="24h")
            with pytest.raises(InvalidRequest, match="expected the id of an uploaded file of yours") as refused:
                await service.controller.create_batch("tenant", request)
            assert refused.value.field == "input_file_id"
        await _nothing_is_left(service)


async def test_while_no_server_answers_a_client_is_told_to_come_again(open_service: OpenService) -> None:
    async with open_service() as service:
        with pytest.raises(Unavailable, match="no server answers") as refused:
            await service.submit(2)
        assert refused.value.retry_after_s
        await _nothing_is_left(service)


async def test_a_nearly_full_disk_takes_no_job(open_service: OpenService) -> None:
    async with open_service("quick", data={"min_free_bytes": 2**62}) as service:
        for take in (service.submit(2), service.batch(2)):
            with pytest.raises(Unavailable, match="bytes are free for data") as refused:
                await take
            assert refused.value.retry_after_s
        await _nothing_is_left(service)


async def test_a_model_is_the_requests_else_the_operators_else_the_first(open_service: OpenService) -> None:
    one, two = (SimulationSettings(model=name) for name in ("one", "two"))
    async with open_service(one, two) as service:
        assert (await service.submit(1)).model == "one"
        row = await service.submit(1, model="two")
        assert row.model == "two"
        assert (await service.ended(row)).state == "completed"
    async with open_service(one, two, endpoints={"model": "two"}) as service:
        assert (await service.submit(1)).model == "two"
    async with open_service(one, endpoints={"model": "two"}) as service:
        with pytest.raises(Unavailable, match="'two' is not served now; there is: one"):
            await service.submit(1)


async def test_prompts_are_counted_where_that_is_cheap(open_service: OpenService) -> None:
    async with open_service("silent") as service:
        row = await service.submit(7, samples=3)
        assert (row.prompts, row.samples) == (7, 21)
        file_id = await service.upload(b'{"prompt": "x"}\n' * 9)
        assert (await service.submit(prompts={"file_id": file_id})).prompts == 9
        assert (await service.submit(prompts={"file_id": file_id, "limit": 4})).prompts == 4


async def test_the_row_holds_no_secret_and_no_rows(open_service: OpenService) -> None:
    async with open_service("silent", endpoints={"api_key": "the-key"}) as service:
        secret = "s" * 20
        row = await service.submit(3, webhook={"url": "https://example.org/x", "secret": secret})
        assert row.webhook == {"url": "https://example.org/x", "secret": secret}
        assert secret not in repr(row.request)
        assert "the-key" not in repr((row.request, row.spec))
        assert "What is" not in repr((row.request, row.spec))


def files_in(folder: Path) -> list[str]:
    """Their names; none where there is no such folder."""
    return os.listdir(folder) if folder.is_dir() else []


async def _nothing_is_left(service: Any) -> None:
    assert await service.controller.store.jobs.page(None, limit=10) == []
    assert files_in(service.settings.data.folder / "prompts") == []
