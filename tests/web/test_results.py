"""Rows and files of jobs over REST: what is published so far, whole, in order, also while a job runs."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
from pathlib import Path
from typing import Any

import httpx
import orjson
import pyarrow.parquet as pq
import pytest

from gen_service.controller.specs import folder_of
from gen_service.endpoints.simulated import Script, SimulationSettings
from gen_service.endpoints.simulated.timing import LogNormal, TotalLatency
from gen_service.storage.schema import SCHEMA
from gen_service.storage.traces import part_files, read_traces
from gen_service.wire.jobs import Problem, ResultPage, ShardList

OFTEN = {"output": {"shard_rows": 4}}


async def rows_of(service: Any, job_id: str) -> list[Any]:
    """The rows as the reader of traces reads them, in JSON's terms."""
    row = await service.controller.store.jobs.get(job_id, None)
    return [orjson.loads(orjson.dumps(row)) for row in read_traces(folder_of(row, service.settings))]


async def lines(client: httpx.AsyncClient, path: str, **query: Any) -> tuple[list[Any], str]:
    answer = await client.get(path, params={"format": "ndjson", **query})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [orjson.loads(line) for line in answer.content.splitlines()], answer.headers["x-next-cursor"]


async def test_rows_come_in_pages_of_any_size_and_by_the_links(serving: Any) -> None:
    async with serving() as service:
        job = await service.submit(11, **OFTEN)
        await service.ended(job.id)
        path, expected = f"/api/v1/jobs/{job.id}/results", await rows_of(service, job.id)
        assert len(expected) == 11
        assert (await lines(service.client, path))[0] == expected
        for limit in (1, 3, 4, 100):
            found, cursor = await lines(service.client, path, limit=limit)
            while len(found) < 11:
                more, cursor = await lines(service.client, path, limit=limit, cursor=cursor)
                assert 0 < len(more) <= limit
                found += more
            assert found == expected
            assert await lines(service.client, path, limit=limit, cursor=cursor) == ([], cursor)
        answer = await service.client.get(path, params={"limit": 6, "columns": "verdict,sample_id"})
        followed = await service.client.get(answer.links["next"]["url"])
        pages = [ResultPage.model_validate_json(one.content) for one in (answer, followed)]
        wanted = [{name: row[name] for name in ("verdict", "sample_id")} for row in expected]
        assert [len(page.data) for page in pages] == [6, 5]
        assert pages[0].data + pages[1].data == wanted
        assert pages[0].next_cursor == answer.headers["x-next-cursor"]
        assert pages[1].next_cursor is None


async def test_parquet_is_one_file_of_the_same_rows(serving: Any) -> None:
    async with serving() as service:
        job = await service.submit(9, **OFTEN)
        await service.ended(job.id)
        path = f"/api/v1/jobs/{job.id}/results"
        before = sorted(service.settings.data.folder.rglob("*"))
        answer = await service.client.get(path, params={"format": "parquet"})
        assert answer.headers["content-disposition"] == f'attachment; filename="{job.id}.parquet"'
        table = pq.read_table(io.BytesIO(answer.content))
        assert table.column_names == SCHEMA.names
        assert [orjson.loads(orjson.dumps(row)) for row in table.to_pylist()] == await rows_of(service, job.id)
        query = [("format", "parquet"), ("columns", "content"), ("columns", "verdict"), ("limit", "2")]
        answer = await service.client.get(path, params=query)
        table = pq.read_table(io.BytesIO(answer.content))
        assert (table.column_names, table.num_rows) == (["content", "verdict"], 2)
        assert sorted(service.settings.data.folder.rglob("*")) == before


async def test_a_client_that_asks_again_reads_a_running_job_to_its_end(serving: Any) -> None:
    slowly = SimulationSettings(script=Script(timing=TotalLatency(LogNormal(0.05, 0.5))))
    async with serving(slowly) as service:
        job = await service.submit(40, output={"shard_rows": 3})
        path, found, cursor = f"/api/v1/jobs/{job.id}/results", [], None
        while True:
            changed = service.controller.changed(job.id)
            query = {} if cursor is None else {"cursor": cursor}
            more, cursor = await lines(service.client, path, **query)
            found += more
            shown = (await service.client.get(f"/api/v1/jobs/{job.id}")).json()
            if shown["state"] == "completed" and not more:
                break
            if not more:
                await changed.wait()
        assert found == await rows_of(service, job.id)
        assert len(found) == 40


async def test_a_job_that_has_published_nothing_has_no_rows(serving: Any) -> None:
    async with serving(fleet={"max_running_jobs": 1, "grace_s": 0.0}) as service:
        job = await service.submit(1)
        path = f"/api/v1/jobs/{job.id}"
        answer = await service.client.get(f"{path}/results")
        page = ResultPage.model_validate_json(answer.content)
        assert page.next_cursor is not None
        if not page.data:
            again = await service.client.get(f"{path}/results", params={"cursor": page.next_cursor})
            assert again.status_code == 200
        parquet = await service.client.get(f"{path}/results", params={"format": "parquet"})
        assert pq.read_table(io.BytesIO(parquet.content)).column_names == SCHEMA.names
        assert (await service.client.get(f"{path}/shards")).status_code == 200
        await service.ended(job.id)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("format=csv", "format"),
        ("limit=0", "limit"),
        ("cursor=x", "cursor"),
        ("cursor=WzksMF0", "cursor"),
        ("columns=content,nope", "columns"),
        ("columns=", "columns"),
    ],
)
async def test_a_wrong_question_is_named(query: str, field: str, serving: Any) -> None:
    async with serving() as service:
        job = await service.submit(2)
        await service.ended(job.id)
        answer = await service.client.get(f"/api/v1/jobs/{job.id}/results?{query}")
        problem = Problem.model_validate_json(answer.content)
        assert (answer.status_code, problem.field) == (422, field), problem


async def test_files_are_given_as_they_were_published(serving: Any) -> None:
    async with serving() as service:
        job = await service.submit(9, **OFTEN)
        await service.ended(job.id)
        row = await service.controller.store.jobs.get(job.id, None)
        files = part_files(folder_of(row, service.settings))
        shards = ShardList.model_validate_json((await service.client.get(f"/api/v1/jobs/{job.id}/shards")).content).data
        assert [shard.name for shard in shards] == [file.rpartition("/")[2] for file in files]
        assert sum(shard.rows for shard in shards) == 9
        for shard, file in zip(shards, files, strict=True):
            answer = await service.client.get(shard.url)
            content = await asyncio.to_thread(Path(file).read_bytes)
            assert answer.content == content
            assert (len(content), hashlib.sha256(content).hexdigest()) == (shard.bytes, shard.sha256)
            digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
            assert answer.headers["repr-digest"] == f"sha-256=:{digest}:"
            part = await service.client.get(shard.url, headers={"Range": "bytes=4-9"})
            assert (part.status_code, part.content) == (206, content[4:10])


@pytest.mark.parametrize(
    "name", ["absent.parquet", "..%2Fjob.json", "job.json", ".hidden", "%2E%2E", "data%2Fx", "a" * 300]
)
async def test_only_published_files_are_given(name: str, serving: Any) -> None:
    async with serving() as service:
        job = await service.submit(1)
        await service.ended(job.id)
        answer = await service.client.get(f"/api/v1/jobs/{job.id}/shards/{name}")
        assert answer.status_code in (404, 422), answer.text
        assert Problem.model_validate_json(answer.content).status == answer.status_code


async def test_files_behind_a_url_are_streamed(serving: Any) -> None:
    async with serving(data={"output_roots": ["memory://bucket"]}) as service:
        job = await service.submit(6, output={"path": "memory://bucket/traces", "shard_rows": 3})
        assert (await service.ended(job.id)).state == "completed"
        shards = (await service.client.get(f"/api/v1/jobs/{job.id}/shards")).json()["data"]
        assert [shard["rows"] for shard in shards] == [3, 3]
        for shard in shards:
            answer = await service.client.get(shard["url"])
            assert hashlib.sha256(answer.content).hexdigest() == shard["sha256"]
            assert int(answer.headers["content-length"]) == shard["bytes"]
        found, _ = await lines(service.client, f"/api/v1/jobs/{job.id}/results")
        assert len(found) == 6


async def test_a_file_that_was_lost_is_an_error_and_not_a_short_answer(serving: Any) -> None:
    async with serving() as service:
        job = await service.submit(2)
        await service.ended(job.id)
        row = await service.controller.store.jobs.get(job.id, None)
        for file in part_files(folder_of(row, service.settings)):
            await asyncio.to_thread(Path(file).unlink)
        for rest in ("results", "results?format=ndjson", "results?format=parquet"):
            answer = await service.client.get(f"/api/v1/jobs/{job.id}/{rest}")
            assert (answer.status_code, Problem.model_validate_json(answer.content).code) == (500, "storage_error")
            assert str(service.settings.data.folder) not in answer.text
