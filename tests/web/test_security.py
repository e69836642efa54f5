"""What a hostile client may try. Each attempt is refused in the right words and shape and leaves nothing behind, on the
disk or in the store. The real controller and app, on a simulated server."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi import FastAPI

from gen_service.controller.controller import Controller
from gen_service.endpoints.simulated import SimulatedServer, SimulationSettings
from gen_service.errors import SpecError
from gen_service.service_settings import HttpSettings, LogSettings, ServiceSettings
from gen_service.store.database import open_store
from gen_service.store.rows import JobRow, TenantRow
from gen_service.store.store import Store
from gen_service.web.app import create_app
from gen_service.web.logs import setup_logs
from gen_service.web.serve import refuse_open_door
from gen_service.wire.jobs import Problem
from gen_service.wire.openai import OpenAIError
from gen_service.wire.states import FINAL

MIB = 1024 * 1024
PROMPTS = b'{"prompt": "1 + 1?", "answer": "2"}\n'
JOB: dict[str, Any] = {"prompts": {"rows": [{"prompt": "1 + 1?", "answer": "2"}]}, "sampling": {"max_tokens": 50}}
Headers = dict[str, str]
Holdings = tuple[set[str], set[str], int, dict[str, int]]


@dataclass
class Service:
    """The app with its keys; `alice` and `bob` are tenants with all but admin."""

    app: FastAPI
    controller: Controller
    store: Store
    settings: ServiceSettings
    place: Path
    client: httpx.AsyncClient
    keys: dict[str, str]
    server: SimulatedServer

    def key(self, name: str) -> Headers:
        return {"Authorization": f"Bearer {self.keys[name]}"}

    @property
    def alice(self) -> Headers:
        return self.key("alice")

    async def holdings(self) -> Holdings:
        """All that the service has: jobs, files, deliveries, and files on disk with their sizes."""
        jobs = {row.id for row in await self.store.jobs.page(None, limit=10_000)}
        files: set[str] = set()
        for tenant in ("alice", "bob", "default"):
            rows, _ = await self.store.files.page(tenant, purpose=None, after=None, limit=1000, order="asc")
            files |= {row.id for row in rows}
        deliveries = len(await self.store.outbox.due(time.time() + 1e9, 1000))
        disk = {str(path): path.stat().st_size for path in self.place.rglob("*") if path.is_file()}
        return jobs, files, deliveries, {path: size for path, size in disk.items() if "gen_service.db" not in path}

    @contextlib.asynccontextmanager
    async def unchanged(self) -> AsyncIterator[None]:
        """Whatever is done here, the service has afterwards what it had before."""
        before = await self.holdings()
        yield
        assert await self.holdings() == before

    async def submit(self, job: Mapping[str, Any] = JOB, headers: Headers | None = None) -> httpx.Response:
        return await self.client.post("/api/v1/jobs", json=job, headers=self.alice if headers is None else headers)

    async def upload(
        self, content: bytes = PROMPTS, filename: str = "p.jsonl", purpose: str = "prompts", who: str = "alice"
    ) -> httpx.Response:
        return await self.client.post(
            "/v1/files", files={"file": (filename, content)}, data={"purpose": purpose}, headers=self.key(who)
        )

    async def ended(self, job_id: str) -> JobRow:
        while True:
            changed = self.controller.changed(job_id)
            row = await self.store.jobs.get(job_id, None)
            if row.state in FINAL:
                return row
            await changed.wait()


@contextlib.asynccontextmanager
async def serving(place: Path, with_keys: bool = True, **sections: dict[str, Any]) -> AsyncIterator[Service]:
    data = {
        "folder": place / "data",
        "prompt_roots": [place / "prompts"],
        "output_roots": [str(place / "out"), "memory://allowed/traces"],
        "min_free_bytes": 0,
    }
    for folder in ("prompts", "out", "outside"):
        (place / folder).mkdir(parents=True)
        (place / folder / "p.jsonl").write_bytes(PROMPTS)
    async with SimulatedServer(SimulationSettings()) as server, contextlib.AsyncExitStack() as stack:
        settings = ServiceSettings.model_validate(
            {
                "endpoints": {"urls": [server.url], "api_key": None},
                "verifier": {"workers": 1},
                "uploads": {"max_bytes": MIB, "max_lines": 1000, "max_line_bytes": 4096},
                "http": {"max_body_bytes": 64 * 1024},
                "data": data,
            }
            | sections
        )
        store = await stack.enter_async_context(open_store(f"sqlite:///{place}/data/gen_service.db"))
        keys = {}
        for name, tenant, scopes in (
            ("alice", "alice", ("submit", "read")),
            ("bob", "bob", ("submit", "read")),
            ("reader", "alice", ("read",)),
            ("submitter", "alice", ("submit",)),
            ("revoked", "alice", ("submit", "read")),
        ):
            if with_keys:
                row, keys[name] = await store.keys.create(tenant, scopes, name, 1.0)
                if name == "revoked":
                    await store.keys.revoke(row.id, 2.0)
        controller = await stack.enter_async_context(Controller(settings, store))
        app = create_app(controller, settings)
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 5))
        client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://localhost"))
        yield Service(app, controller, store, settings, place, client, keys, server)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with serving(tmp_path) as service:
        yield service


def refused(answer: httpx.Response, status: int, code: str | None = None, field: str | None = None) -> str:
    """The words of a refusal, after its status and shape were checked."""
    assert answer.status_code == status, answer.text
    path = answer.request.url.path
    if path.startswith("/v1/"):
        assert answer.headers["content-type"] == "application/json"
        body = OpenAIError.model_validate_json(answer.content).error
        words, given_code, given_field = body.message, body.code, body.param
        assert set(answer.json()) == {"error"}
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    else:
        assert answer.headers["content-type"] == "application/problem+json"
        problem = Problem.model_validate_json(answer.content)
        words, given_code, given_field = problem.detail, problem.code, problem.field
        assert problem.status == status
    assert answer.headers["x-request-id"]
    assert code in (None, given_code), answer.text
    assert field in (None, given_field), answer.text
    assert words.isprintable()
    assert "Traceback" not in answer.text
    return words


# Who asks.


def every_route(service: Service) -> list[tuple[str, str]]:
    """Method and path of all routes, with some ids in them, but for those that need no key."""
    names = {"{job_id}": "job-1", "{name}": "part-1.parquet", "{file_id}": "file-1", "{batch_id}": "batch_1"}
    free = {"/healthz", "/readyz", "/metrics"}
    found = []
    for path, operations in service.app.openapi()["paths"].items():
        for name, value in names.items():
            path = path.replace(name, value)  # noqa: PLW2901
        if path not in free:
            found += [(method.upper(), path) for method in operations]
    return found


async def test_without_a_key_nothing_is_told_and_nothing_is_done(service: Service) -> None:
    routes = every_route(service)
    assert {("POST", "/api/v1/jobs"), ("GET", "/v1/models"), ("POST", "/v1/files")} <= set(routes)
    assert len(routes) >= 20
    async with service.unchanged():
        for number, (method, path) in enumerate(routes):
            # From an address each, lest the limit on failures answers.
            transport = httpx.ASGITransport(service.app, client=(f"10.0.0.{number}", 5))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                answer = await client.request(method, path, json=JOB if method == "POST" else None)
            refused(answer, 401, "invalid_api_key")
            assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_key_that_does_not_count_is_answered_like_no_key(service: Service) -> None:
    right = service.keys["alice"]
    wrong = [right[:-1] + ("A" if right[-1] != "A" else "B"), right + "A", right[:-1], "gs__", "gs_nobody_secret", "x"]
    wrong += [right.replace("gs_", "GS_"), f"{right} {right}", service.keys["bob"].rpartition("_")[0] + "_x", "\xe9"]
    headers = [f"Bearer {key}".encode("latin-1") for key in wrong]
    headers += [b"", b"Bearer", b"Bearer ", right.encode(), f"Basic {right}".encode(), f"Token {right}".encode()]
    async with service.unchanged():
        for number, header in enumerate(headers):
            transport = httpx.ASGITransport(service.app, client=(f"10.0.1.{number}", 5))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                answer = await client.post("/api/v1/jobs", json=JOB, headers=[(b"Authorization", header)])
            words = refused(answer, 401, "invalid_api_key")
            assert right not in words
    assert (await service.submit()).status_code == 202


async def test_a_revoked_key_counts_no_more(service: Service) -> None:
    async with service.unchanged():
        submitted = await service.submit(headers=service.key("revoked"))
        listed = await service.client.get("/v1/files", headers=service.key("revoked"))
        for answer in (submitted, listed):
            assert "unknown or was revoked" in refused(answer, 401, "invalid_api_key")
            assert service.keys["revoked"] not in answer.text


async def test_wrong_keys_are_limited_by_address_and_right_ones_are_not(service: Service) -> None:
    answers = [await service.submit(headers={"Authorization": "Bearer gs_a_b"}) for _ in range(15)]
    assert {answer.status_code for answer in answers} == {401, 429}
    words = refused(answers[-1], 429, "rate_limit_exceeded")
    assert "key" in words
    assert answers[-1].headers["retry-after"] == "1"
    assert (await service.submit()).status_code == 202
    assert (await service.client.get("/healthz")).status_code == 200


async def test_a_key_of_too_small_a_scope_is_refused(service: Service) -> None:
    job = (await service.submit()).json()["id"]
    await service.ended(job)
    reader, submitter = service.key("reader"), service.key("submitter")
    async with service.unchanged():
        for method, path in every_route(service):
            path = path.replace("job-1", job)  # noqa: PLW2901
            headers = submitter if method == "GET" else reader
            answer = await service.client.request(method, path, json=JOB if method == "POST" else None, headers=headers)
            refused(answer, 403, "insufficient_scope")
    assert (await service.client.get(f"/api/v1/jobs/{job}", headers=reader)).status_code == 200


async def test_another_tenants_things_are_as_if_they_were_not_there(service: Service) -> None:
    job = (await service.submit()).json()["id"]
    await service.ended(job)
    file = (await service.upload()).json()["id"]
    batch_file = (await service.upload(batch_lines(1), "b.jsonl", "batch")).json()["id"]
    asked = {"input_file_id": batch_file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = (await service.client.post("/v1/batches", json=asked, headers=service.alice)).json()["id"]
    await service.ended(batch)
    part = (await service.client.get(f"/api/v1/jobs/{job}/shards", headers=service.alice)).json()["data"][0]["name"]
    ids = {"job-1": (job, "job-none"), "file-1": (file, "file-none"), "batch_1": (batch, "batch_none")}
    tried = 0
    async with service.unchanged():
        for method, route in every_route(service):
            for name, (theirs, missing) in ids.items():
                if name in route:
                    paths = [route.replace(name, one).replace("part-1.parquet", part) for one in (theirs, missing)]
                    answers = [await service.client.request(method, path, headers=service.key("bob")) for path in paths]
                    for answer in answers:
                        refused(answer, 404)
                    texts = [
                        answer.text.replace(one, "ID") for answer, one in zip(answers, (theirs, missing), strict=True)
                    ]
                    assert texts[0] == texts[1]
                    tried += 1
    assert tried >= 12


async def test_another_tenants_files_cannot_be_read_by_a_job_or_batch(service: Service) -> None:
    file = (await service.upload()).json()["id"]
    batch_file = (await service.upload(batch_lines(1), "b.jsonl", "batch")).json()["id"]
    bob = service.key("bob")
    async with service.unchanged():
        words = []
        for one in (file, "file-none"):
            answer = await service.submit(JOB | {"prompts": {"file_id": one}}, bob)
            words.append(refused(answer, 422, field="prompts.file_id").replace(one, "ID"))
        for one in (batch_file, "file-none"):
            asked = {"input_file_id": one, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
            answer = await service.client.post("/v1/batches", json=asked, headers=bob)
            words.append(refused(answer, 400, field="input_file_id").replace(one, "ID"))
        assert (words[0], words[2]) == (words[1], words[3])
        lists = [await service.client.get(path, headers=bob) for path in ("/v1/files", "/v1/batches", "/api/v1/jobs")]
        assert [answer.json()["data"] for answer in lists] == [[], [], []]
        answer = await service.client.get("/v1/batches", params={"after": "batch_none"}, headers=bob)
        refused(answer, 404)


def batch_lines(count: int, **body: Any) -> bytes:
    lines = [
        {
            "custom_id": f"c{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "simulated", "max_tokens": 20, "messages": [{"role": "user", "content": "1 + 1?"}]}
            | body,
        }
        for number in range(count)
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


# Bodies.


async def in_pieces(body: bytes, size: int = 16 * 1024) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def form_of(content: bytes, filename: str = "p.jsonl", purpose: str = "prompts") -> tuple[bytes, Headers]:
    request = httpx.Request(
        "POST", "http://localhost/v1/files", files={"file": (filename, content)}, data={"purpose": purpose}
    )
    return request.read(), {"Content-Type": request.headers["Content-Type"]}


async def test_an_upload_that_is_too_large_is_refused_as_declared_and_as_it_comes(service: Service) -> None:
    body, kind = form_of(PROMPTS * (2 * MIB // len(PROMPTS)))
    headers = service.alice | kind
    async with service.unchanged():
        refused(await service.client.post("/v1/files", content=body, headers=headers), 413, field="file")
        declared = headers | {"Content-Length": str(10**15)}
        refused(await service.client.post("/v1/files", content=in_pieces(b""), headers=declared), 413, field="file")
        chunked = await service.client.post("/v1/files", content=in_pieces(body), headers=headers)
        assert "content-length" not in chunked.request.headers
        refused(chunked, 413)


async def test_any_other_body_that_is_too_large_is_refused_as_declared_and_as_it_comes(service: Service) -> None:
    body = json.dumps(JOB | {"metadata": {"a": "x" * 100_000}}).encode()
    headers = service.alice | {"Content-Type": "application/json"}
    async with service.unchanged():
        for path in ("/api/v1/jobs", "/v1/batches"):
            refused(await service.client.post(path, content=body, headers=headers), 413)
            chunked = await service.client.post(path, content=in_pieces(body), headers=headers)
            assert "content-length" not in chunked.request.headers
            refused(chunked, 413)


def parquet_of(values: pa.Array, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"prompt": values}), file, compression="zstd", **options)
    return file.getvalue()


def dictionary_bomb(rows: int, value_bytes: int) -> bytes:
    """One long text, which each row only points to: the file's metadata knows of one."""
    indices = pa.array([0] * rows, pa.int32())
    return parquet_of(pa.DictionaryArray.from_arrays(indices, pa.array(["x" * value_bytes])))


BOMBS: dict[str, Callable[[], bytes]] = {
    "pages that expand": lambda: parquet_of(pa.array(["x" * MIB] * 100), use_dictionary=False),
    "one value for many rows": lambda: dictionary_bomb(1000, MIB // 2),
    "one huge value": lambda: parquet_of(pa.array(["x" * 200 * MIB]), use_dictionary=False),
    "too many rows": lambda: parquet_of(pa.array(["x"] * 100_000)),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
async def test_a_parquet_file_that_expands_without_measure_is_refused(
    bomb: Callable[[], bytes], tmp_path: Path
) -> None:
    content = bomb()
    assert len(content) < MIB
    caps = {"max_bytes": 2 * MIB, "max_expanded_bytes": 64 * MIB, "max_lines": 10_000, "max_line_bytes": MIB}
    async with serving(tmp_path, uploads=caps) as service, service.unchanged():
        refused(await service.upload(content, "p.parquet"), 413, field="file")


@pytest.mark.parametrize("content", [b"PAR1", b"PAR1" + b"\0" * 100 + b"PAR1", b"PAR1" + b"\xff" * 8 + b"PAR1"])
async def test_what_is_no_parquet_is_refused(content: bytes, service: Service) -> None:
    async with service.unchanged():
        assert "Parquet" in refused(await service.upload(content, "p.parquet"), 400, field="file")


async def test_encoded_and_compressed_bodies_are_refused(service: Service) -> None:
    bomb = gzip.compress(bytes(8 * MIB))
    async with service.unchanged():
        for path, kind in (("/api/v1/jobs", "application/json"), ("/v1/batches", "application/json")):
            for encoding in ("gzip", "deflate", "br", "zstd", "gzip, identity", "GZIP"):
                headers = service.alice | {"Content-Encoding": encoding, "Content-Type": kind}
                answer = await service.client.post(path, content=bomb, headers=headers)
                assert "Content-Encoding" in refused(answer, 415)
        body, kind_of_form = form_of(PROMPTS)
        headers = service.alice | kind_of_form | {"Content-Encoding": "gzip"}
        answer = await service.client.post("/v1/files", content=gzip.compress(body), headers=headers)
        assert "Content-Encoding" in refused(answer, 415)
        for content, filename in (
            (bomb, "p.jsonl"),
            (bomb, "p.jsonl.gz"),
            (b"PK\x03\x04" + bytes(100), "p.jsonl"),
        ):
            assert "compressed" in refused(await service.upload(content, filename), 415, field="file")


async def test_lines_without_measure_are_refused(service: Service) -> None:
    async with service.unchanged():
        for content, purpose, words in (
            (b'{"prompt": "' + b"x" * 100_000 + b'"}\n', "prompts", "line 1 has more than 4096 bytes"),
            (b"x" * 100_000, "batch", "line 1 has more than 4096 bytes"),
            (PROMPTS * 1001, "prompts", "line 1001 is one more than the most, 1000"),
            (b"\n" * 5000, "batch", "line 1001 is one more than the most, 1000"),
        ):
            answer = await service.upload(content, "p.jsonl", purpose)
            assert words in refused(answer, 413, field="file")


def nested(depth: int, inside: str = "1", opening: str = "[", closing: str = "]") -> str:
    return opening * depth + inside + closing * depth


@pytest.mark.parametrize("depth", [200, 400, 990, 1020, 5000, 20_000])
@pytest.mark.parametrize("inside", ["1", '"\\u0000"'])
async def test_json_that_is_nested_deeply_is_taken_or_refused_and_breaks_nothing(
    depth: int, inside: str, service: Service
) -> None:
    deep = [nested(depth, inside), nested(depth, inside, '{"a":', "}")]
    headers = service.alice | {"Content-Type": "application/json"}
    async with service.unchanged():
        for value in deep:
            for body in (
                value,
                f'{{"prompts": {{"rows": [{{"prompt": {value}}}]}}}}',
                f'{{"prompts": {{"rows": [{{"prompt": "1", "more": {value}}}]}}, "name": 1}}',
                f'{{"prompts": {{"path": "/"}}, "verification": {{"options": {{"a": {value}}}}}}}',
                f'{{"prompts": {{"path": "/"}}, "sampling": {{"extra": {{"a": {value}}}}}}}',
                f'{{"prompts": {{"path": "/"}}, "metadata": {value}}}',
            ):
                answer = await service.client.post("/api/v1/jobs", content=body, headers=headers)
                refused(answer, answer.status_code)
                assert answer.status_code in (400, 413, 422), answer.text
            answer = await service.client.post("/v1/batches", content=value, headers=headers)
            refused(answer, 413 if len(value) > 64 * 1024 else 400)


@pytest.mark.parametrize("depth", [200, 400, 990, 1020])
async def test_deep_rows_that_are_taken_end_as_rows(depth: int, service: Service) -> None:
    """A column that nothing reads may hold anything."""
    rows = f'{{"prompt": "1 + 1?", "answer": "2", "more": {nested(depth)}}}'
    headers = service.alice | {"Content-Type": "application/json"}
    before = await service.holdings()
    answer = await service.client.post("/api/v1/jobs", content=f'{{"prompts": {{"rows": [{rows}]}}}}', headers=headers)
    if answer.status_code != 202:
        refused(answer, answer.status_code)
        assert answer.status_code in (400, 422)
        assert await service.holdings() == before
        return
    row = await service.ended(answer.json()["id"])
    assert (row.state, row.counts["published"]) == ("completed", 1)


async def test_deep_lines_of_a_batch_fail_the_batch_and_nothing_else(service: Service) -> None:
    for depth in (300, 1020, 1500):
        content = batch_lines(1).replace(b'"max_tokens": 20', b'"max_tokens": 20, "x": ' + nested(depth).encode())
        file = (await service.upload(content, "b.jsonl", "batch")).json()["id"]
        asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        answer = await service.client.post("/v1/batches", json=asked, headers=service.alice)
        assert answer.status_code == 200
        row = await service.ended(answer.json()["id"])
        assert row.state in ("completed", "failed")
        shown = await service.client.get(f"/v1/batches/{row.id}", headers=service.alice)
        assert shown.json()["status"] == row.state


# Paths and places.


async def test_prompts_are_read_from_the_roots_only(service: Service) -> None:
    place = service.place
    (place / "prompts/link.jsonl").symlink_to(place / "outside/p.jsonl")
    (place / "prompts/folder").mkdir()
    (place / "prompts/folder/link.jsonl").symlink_to(place / "outside/p.jsonl")
    (place / "prompts/up").symlink_to(place)
    words = set()
    async with service.unchanged():
        for path in (
            f"{place}/outside/p.jsonl",
            f"{place}/outside/none.jsonl",
            f"{place}/prompts/../outside/p.jsonl",
            f"{place}/prompts/link.jsonl",
            f"{place}/prompts/folder",
            f"{place}/prompts/up/outside/p.jsonl",
            f"{place}/prompts/none.jsonl",
            f"{place}/data/service.lock",
            "/etc/passwd",
            "/proc/self/environ",
            "../prompts/p.jsonl",
            "prompts/p.jsonl",
            "~/p.jsonl",
            f"file://{place}/prompts/p.jsonl",
            f"simplecache::file://{place}/outside/p.jsonl",
            f"{place}/prompts/p.jsonl::{service.server.url}",
            f"{service.server.url}/p.jsonl",
            "http://169.254.169.254/latest/meta-data",
            "s3://bucket/p.jsonl",
            "hub:owner/name",
            "data:files/file-1",
        ):
            answer = await service.submit(JOB | {"prompts": {"path": path}})
            words.add(refused(answer, 422, field="prompts.path").replace(repr(path), "PATH"))
    assert len(words) == 1
    answer = await service.submit(JOB | {"prompts": {"path": f"{place}/prompts/p.jsonl"}})
    assert (await service.ended(answer.json()["id"])).state == "completed"


@pytest.mark.parametrize(
    "name",
    ["..%2f..%2fmanifest%2f000001.json", "%2e%2e", "%2fetc%2fpasswd", "..%5c..%5cx", "x%00.parquet", "job.json", "..a"],
)
async def test_only_published_files_are_downloaded(name: str, service: Service) -> None:
    job = (await service.submit()).json()["id"]
    await service.ended(job)
    async with service.unchanged():
        # As it stands: httpx would tidy it up.
        target = f"/api/v1/jobs/{job}/shards/{name}".encode()
        url = httpx.URL("http://localhost").copy_with(raw_path=target)
        answer = await service.client.get(url, headers=service.alice)
        assert answer.status_code in (400, 404, 422), answer.text
        refused(answer, answer.status_code)


@pytest.mark.parametrize(
    "filename",
    [
        "../../outside/p.jsonl",
        "/etc/cron.d/p.jsonl",
        "..\\..\\p.jsonl",
        "C:\\p.jsonl",
        "a/../../p.jsonl",
        "\u202elnosj.jsonl",
    ],
)
async def test_a_files_name_never_touches_the_disk(filename: str, service: Service) -> None:
    before = (await service.holdings())[3]
    made = (await service.upload(filename=filename)).json()
    assert "/" not in made["filename"]
    assert "\\" not in made["filename"]
    assert made["filename"].isprintable()
    assert made["filename"].endswith(".jsonl")
    after = (await service.holdings())[3]
    assert after.keys() - before.keys() == {str(service.place / "data/files" / made["id"])}
    download = await service.client.get(f"/v1/files/{made['id']}/content", headers=service.alice)
    assert download.content == PROMPTS
    assert download.headers["content-disposition"].startswith("attachment")
    assert download.headers["x-content-type-options"] == "nosniff"


async def test_data_sets_by_name_are_refused_where_the_operator_does_not_allow_them(service: Service) -> None:
    async with service.unchanged():
        for name in ("openai/gsm8k", "squad"):
            answer = await service.submit(JOB | {"prompts": {"dataset": name}})
            assert name in refused(answer, 422, field="prompts.dataset")
        for name in ("../outside", "/etc/passwd", "a/b/c", "http://127.0.0.1/", "hub:a/b", ""):
            answer = await service.submit(JOB | {"prompts": {"dataset": name}})
            assert "dataset" in refused(answer, 422, field="prompts.dataset")


async def test_a_dataset_name_is_never_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = {"folder": tmp_path / "data", "min_free_bytes": 0, "allow_hub": True}
    async with serving(tmp_path, data=data) as service, service.unchanged():
        for name in ("..", ".", "./outside", "outside", "../x", "data", "data/files"):
            answer = await service.submit(JOB | {"prompts": {"dataset": name}})
            assert "expected" in refused(answer, 422, field="prompts.dataset")


async def test_clients_do_not_name_servers_or_keys(service: Service) -> None:
    elsewhere = "http://169.254.169.254"
    async with service.unchanged():
        for more in (
            {"endpoints": elsewhere},
            {"endpoints": {"urls": [elsewhere]}},
            {"endpoints": {"api_key": "x"}},
            {"api_key": "x"},
            {"url": elsewhere},
            {"pool": {"in_flight": 10**6}},
            {"journal": "/tmp"},
            {"output": {"journal": "/tmp"}},
            {"sampling": {"url": elsewhere}},
            {"verification": {"workers": 1000}},
            {"verification": {"memory_bytes": 10**12}},
            {"prompts": JOB["prompts"] | {"storage_options": {"key": "x"}}},
            {"prompts": JOB["prompts"] | {"max_row_bytes": 10**12}},
        ):
            words = refused(await service.submit(JOB | more), 422, "unknown_field")
            (section,) = more
            assert words.startswith(section)
            assert "no such field" in words or "set by the operator" in words
        for name in ("model", "messages", "prompt", "stream", "stream_options", "return_token_ids", "n", "max_tokens"):
            answer = await service.submit(JOB | {"sampling": {"extra": {name: "x"}}})
            assert name in refused(answer, 422, field="sampling.extra")


@pytest.mark.parametrize("name", ["kv_transfer_params", "ec_transfer_params", "priority", "vllm_xargs", "request_id"])
async def test_clients_do_not_speak_to_the_engine_behind_the_request(name: str, service: Service) -> None:
    """Such as the hosts between which caches are handed over."""
    value = {"remote_host": "169.254.169.254", "remote_port": 80}
    async with service.unchanged():
        refused(await service.submit(JOB | {"sampling": {"extra": {name: value}}}), 422, field="sampling.extra")
    row = await batch_of(service, batch_lines(1, **{name: value}))
    assert row.state == "failed"
    assert name in json.dumps(row.batch)
    assert service.server.log == []


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "audio_url", "audio_url": {"url": "https://127.0.0.1/"}},
        {"type": "video_url", "video_url": {"url": "https://127.0.0.1/"}},
        {"type": "image_url", "image_url": "http://169.254.169.254/"},
    ],
)
async def test_model_servers_are_not_made_to_fetch_what_a_message_names(part: dict[str, Any], service: Service) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "what is this?"}, part]}]
    row = await batch_of(service, batch_lines(1, messages=messages))
    assert row.state == "failed"
    assert service.server.log == []


async def batch_of(service: Service, lines: bytes) -> JobRow:
    file = (await service.upload(lines, "b.jsonl", "batch")).json()["id"]
    asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    answer = await service.client.post("/v1/batches", json=asked, headers=service.alice)
    assert answer.status_code == 200, answer.text
    return await service.ended(answer.json()["id"])


async def test_a_verifier_is_a_known_kind_and_never_code(service: Service) -> None:
    async with service.unchanged():
        for kind in ("os:system", "subprocess:run", "builtins:eval", "os.system", "math:sqrt", "../x", "", "nothing"):
            answer = await service.submit(JOB | {"verification": {"kind": kind}})
            refused(answer, 422, field="verification.kind")
    assert "subprocess_run" not in sys.modules


async def test_traces_are_written_under_the_roots_only(service: Service) -> None:
    place = service.place
    (place / "out/link").symlink_to(place / "outside")
    async with service.unchanged():
        for path in (
            f"{place}/outside",
            f"{place}/out/../outside",
            f"{place}/out/link/new",
            f"{place}/out-twin",
            f"{place}/out/p.jsonl",
            f"{place}/data/traces/bob",
            "/tmp",
            "traces",
            f"file://{place}/out",
            "memory://allowed/traces-twin",
            "memory://allowed/traces/../other",
            "s3://bucket/x",
            "http://127.0.0.1/x",
        ):
            refused(await service.submit(JOB | {"output": {"path": path}}), 422, field="output.path")
    answer = await service.submit(JOB | {"output": {"path": f"{place}/out/new"}})
    row = await service.ended(answer.json()["id"])
    assert row.state == "completed"
    assert (place / "out/new" / row.id / "manifest").is_dir()


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "https://127.0.0.1/",
        "https://localhost:8443/",
        "https://10.0.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/",
        "https://[::ffff:169.254.169.254]/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://user:pass@example.org/",
        "https://example.org/\r\nX-Evil: 1",
    ],
)
async def test_webhooks_do_not_go_inside(url: str, service: Service) -> None:
    """What names resolve to, redirects and changes of names are refused when sending: controller/test_webhooks."""
    async with service.unchanged():
        words = refused(await service.submit(JOB | {"webhook": {"url": url}}), 422, field="webhook.url")
    assert "expected" in words
    assert "pass" not in words


async def test_a_webhooks_secret_is_checked_and_never_shown(service: Service) -> None:
    async with service.unchanged():
        job = JOB | {"webhook": {"url": "https://example.org/", "secret": "whsec_this is not base64"}}
        assert "this is" not in refused(await service.submit(job), 422, field="webhook.secret")
        job = JOB | {"webhook": {"url": "https://example.org/", "secret": "short"}}
        assert "short" not in refused(await service.submit(job), 422, field="webhook.secret")
    secret = "a secret nobody else may see"
    made = await service.submit(JOB | {"webhook": {"url": "https://receiver.invalid/", "secret": secret}})
    job = made.json()["id"]
    await service.ended(job)
    paths = [f"/api/v1/jobs/{job}", "/api/v1/jobs", f"/api/v1/jobs/{job}/results"]
    answers = [made] + [await service.client.get(path, headers=service.alice) for path in paths]
    assert {answer.status_code for answer in answers} == {200, 202}
    assert not [answer for answer in answers if secret in answer.text]
    (place,) = (service.place / "data/traces").glob(f"*/{job}/job.json")
    assert secret not in place.read_text()


# Words that would forge others.


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    import logging

    import structlog

    root, before = logging.root.handlers, structlog.get_config()
    level, stream = logging.root.level, io.StringIO()
    setup_logs(LogSettings(level="debug"), stream)
    yield stream
    logging.root.handlers = root
    logging.root.setLevel(level)
    logging.captureWarnings(False)
    structlog.configure(**before)


async def test_headers_and_log_lines_cannot_be_forged(log: io.StringIO, service: Service) -> None:
    evil = 'x\r\nX-Evil: 1\r\n\r\n{"event": "forged"}'
    async with service.unchanged():
        refused(await service.submit(JOB | {"name": evil}), 422, field="name")
        refused(await service.submit(headers=service.alice | {"Idempotency-Key": "a b"}), 422)
        raw = [(b"Authorization", service.alice["Authorization"].encode()), (b"Idempotency-Key", evil.encode())]
        refused(await service.client.post("/api/v1/jobs", json=JOB, headers=raw), 422)
        refused(await service.submit(JOB | {evil: 1}), 422, "unknown_field")
        answer = await service.client.get(f"/api/v1/jobs/{quote(evil, safe='')}", headers=service.alice)
        assert answer.status_code in (404, 422)
        refused(answer, answer.status_code)
        refused(await service.client.get("/api/v1/jobs", params={"cursor": evil}, headers=service.alice), 422)
    request_id = [(b"X-Request-Id", evil.encode()), (b"Authorization", service.alice["Authorization"].encode())]
    answers = [
        await service.client.post(
            "/api/v1/jobs", json=JOB | {"metadata": {"a": evil, evil[:60]: "b"}}, headers=request_id
        ),
        await service.upload(filename=f"{evil}.jsonl"),
        await service.upload(filename='a";\r\nX-Evil: 1.jsonl'),
    ]
    assert answers[0].json()["metadata"]["a"] == evil
    assert "\n" not in answers[1].json()["filename"]
    for answer in answers[1:]:
        path = f"/v1/files/{answer.json()['id']}/content"
        answers.append(await service.client.get(path, headers=service.alice))
    for answer in answers:
        assert answer.status_code in (200, 202), answer.text
        assert "x-evil" not in answer.headers
        assert not [value for value in answer.headers.values() if "\n" in value or "\r" in value]
        assert answer.headers["x-request-id"].isalnum()
    await service.ended(answers[0].json()["id"])
    lines = log.getvalue().splitlines()
    events = [json.loads(line) for line in lines]
    assert len(events) >= 10
    assert "forged" not in {event["event"] for event in events}
    assert not [line for line in lines if any(key.split("_", 2)[2] in line for key in service.keys.values())]


# Again and again.


async def test_a_replayed_request_makes_one_job(service: Service) -> None:
    headers = service.alice | {"Idempotency-Key": "once"}
    first = await service.submit(headers=headers)
    after_one = (await service.holdings())[0]
    again = [await service.submit(headers=headers) for _ in range(3)]
    assert first.status_code == 202
    assert [(answer.status_code, answer.json()["id"]) for answer in again] == [(200, first.json()["id"])] * 3
    assert {answer.headers["location"] for answer in [first, *again]} == {f"/api/v1/jobs/{first.json()['id']}"}
    assert (await service.holdings())[0] == after_one


async def test_a_request_replayed_at_the_same_time_makes_one_job_and_leaves_one_file_of_rows(service: Service) -> None:
    headers = service.alice | {"Idempotency-Key": "once"}
    answers = await asyncio.gather(*(service.submit(headers=headers) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [202]
    assert len({answer.json()["id"] for answer in answers}) == 1
    jobs, _, _, disk = await service.holdings()
    assert len(jobs) == 1
    assert len([path for path in disk if "/prompts/job-" in path]) == 1
    # Another tenant's key of the same text is another key.
    other = await service.submit(headers=service.key("bob") | {"Idempotency-Key": "once"})
    assert (other.status_code, other.json()["id"] in jobs) == (202, False)


async def test_one_key_for_two_requests_is_a_conflict(service: Service) -> None:
    headers = service.alice | {"Idempotency-Key": "once"}
    first = await service.submit(headers=headers)
    await service.ended(first.json()["id"])
    async with service.unchanged():
        answer = await service.submit(JOB | {"samples": 2}, headers)
        refused(answer, 409, "idempotency_key_reused", "Idempotency-Key")
        both = await asyncio.gather(*(service.submit(JOB | {"samples": 3}, headers) for _ in range(5)))
        assert {answer.status_code for answer in both} == {409}


# Too much.


async def test_quotas_end_in_429(tmp_path: Path) -> None:
    quotas = {"active_jobs": 1, "queued_prompts": 3, "stored_bytes": 100}
    async with serving(tmp_path, quotas=quotas) as service:
        many = JOB | {"prompts": {"rows": [{"prompt": f"{number} + 1?"} for number in range(4)]}}
        async with service.unchanged():
            answer = await service.submit(many)
            assert "queued_prompts" in refused(answer, 429, "quota_exceeded")
            assert "retry-after" not in answer.headers, "it will never fit"
            answer = await service.upload(PROMPTS * 4)
            assert "stored_bytes" in refused(answer, 429, "quota_exceeded")
        paused = JOB | {"priority": -10}
        # A job that waits for a person counts as active.
        await service.store.tenants.put(TenantRow("bob", 1.0, {"active_jobs": 0}))
        refused(await service.submit(paused, service.key("bob")), 429, "quota_exceeded")
        both = await asyncio.gather(*(service.submit() for _ in range(5)))
        assert sorted(answer.status_code for answer in both)[-1] in (202, 429)
        full = [answer for answer in both if answer.status_code == 429]
        for answer in full:
            assert "active_jobs" in refused(answer, 429, "quota_exceeded")
            assert int(answer.headers["retry-after"]) > 0
        jobs, _, _, disk = await service.holdings()
        assert len(jobs) == 5 - len(full)
        assert len([path for path in disk if "/prompts/job-" in path]) <= len(jobs)


async def test_requests_past_the_quota_are_told_when_to_come_again(tmp_path: Path) -> None:
    async with serving(tmp_path, quotas={"requests_per_minute": 12}) as service:
        answers = [await service.client.get("/api/v1/jobs", headers=service.alice) for _ in range(4)]
        assert [answer.status_code for answer in answers[:2]] == [200, 200]
        async with service.unchanged():
            for answer in [*answers[2:], await service.submit(), await service.upload()]:
                refused(answer, 429, "rate_limit_exceeded")
                assert 1 <= int(answer.headers["retry-after"]) <= 5
        assert (await service.submit(headers=service.key("bob"))).status_code == 202
        for _ in range(30):
            assert (await service.client.get("/readyz")).status_code == 200


# The door without keys.


async def test_a_page_whose_name_was_turned_to_this_machine_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, with_keys=False) as service:
        async with service.unchanged():
            for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example", ""):
                refused(await service.submit(headers={"Host": host}), 403, "unknown_host")
        for host in ("localhost", "127.0.0.1:8080", "[::1]:8080"):
            assert (await service.submit(headers={"Host": host})).status_code == 202


async def test_other_sites_pages_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, with_keys=False) as service:
        async with service.unchanged():
            for headers in (
                {"Origin": "https://evil.example"},
                {"Origin": "null"},
                {"Origin": "http://localhost:3000"},
                {"Sec-Fetch-Site": "cross-site"},
                {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
            ):
                refused(await service.submit(headers=headers), 403, "cross_site")
            simple = {"Content-Type": "text/plain", "Sec-Fetch-Site": "same-origin"}
            refused(await service.client.post("/api/v1/jobs", content=json.dumps(JOB), headers=simple), 415)
            body, kind = form_of(PROMPTS)
            headers = kind | {"Origin": "https://evil.example"}
            refused(await service.client.post("/v1/files", content=body, headers=headers), 403, "cross_site")
            preflight = await service.client.request(
                *("OPTIONS", "/api/v1/jobs"),
                headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"},
            )
            assert "access-control-allow-origin" not in preflight.headers
        assert (await service.submit(headers={"Origin": "http://localhost"})).status_code == 202


async def test_once_a_key_was_made_the_door_is_shut(tmp_path: Path) -> None:
    async with serving(tmp_path, with_keys=False) as service:
        assert (await service.submit(headers={})).status_code == 202
        row, _ = await service.store.keys.create("alice", ("admin",), "first", 1.0)
        refused(await service.submit(headers={}), 401, "invalid_api_key")
        await service.store.keys.revoke(row.id, 2.0)
        refused(await service.submit(headers={}), 401, "invalid_api_key")


async def test_an_address_that_others_reach_needs_a_key(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/store.db") as store:
        for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
            with pytest.raises(SpecError) as refusal:
                await refuse_open_door(HttpSettings(host=host), store)
            assert refusal.value.field == "http.host"
        await refuse_open_door(HttpSettings(), store)
        await store.keys.create("alice", ("admin",), "first", 1.0)
        await refuse_open_door(HttpSettings(host="0.0.0.0"), store)
    open_to_all = {"host": "0.0.0.0"}
    async with serving(tmp_path / "open", with_keys=False, http=open_to_all) as service, service.unchanged():
        refused(await service.submit(headers={}), 401, "invalid_api_key")


def test_the_process_does_not_start_open_to_others(tmp_path: Path) -> None:
    command = ["serve", "--host", "0.0.0.0", "--port", "0", "--server", "http://127.0.0.1:9", "--data", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", "from gen_service.cli import main; main()", *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={name: value for name, value in os.environ.items() if not name.startswith("GEN_SERVICE_")},
    )
    assert done.returncode == 2
    assert "http.host" in done.stderr
    assert "listening" not in done.stdout
