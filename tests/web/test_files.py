"""Files under /v1: uploads as they stream in, listing, download, deletion."""

from __future__ import annotations

import asyncio
import gzip
import io
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from gen_service.service_settings import ServiceSettings, UploadSettings
from gen_service.store.rows import TenantRow
from gen_service.store.store import Store
from gen_service.web.incoming import IncomingFile, LineCounter
from gen_service.web.upload_form import LONGEST_FILENAME, UploadForm, plain_filename

LINE = b'{"prompt": "1 + 1?"}\n'
BOUNDARY = "b0und"


def part(name: str, content: bytes, filename: str | None = None, headers: str = "") -> bytes:
    shown = f'; filename="{filename}"' if filename is not None else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{shown}\r\n{headers}\r\n'
    return head.encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def pieces(body: bytes, sizes: list[int]) -> Iterator[bytes]:
    at = 0
    for size in [*sizes, len(body)]:
        yield body[at : at + size]
        at += size


# Parts by themselves.


@given(
    content=st.lists(st.sampled_from([b"\n", b"a", b"bcd", b"\r\n"]), max_size=60).map(b"".join),
    sizes=st.lists(st.integers(0, 9), max_size=30),
    most=st.integers(0, 9),
)
def test_lines_are_counted_however_they_come(content: bytes, sizes: list[int], most: int) -> None:
    counter = LineCounter(most)
    for piece in pieces(content, sizes):
        counter.feed(piece)
    lines = content.split(b"\n")
    assert counter.lines == len(lines) - (lines[-1] == b"")
    longer = [number for number, line in enumerate(lines, 1) if len(line) > most]
    assert counter.too_long == (longer[0] if longer else None)


@given(
    content=st.lists(
        st.sampled_from([b"\r\n", b"--", b"--" + BOUNDARY.encode()[:3], b"\r\n--", b"x", b"\n"]), min_size=1
    ).map(b"".join),
    sizes=st.lists(st.integers(1, 40), max_size=40),
    purpose_first=st.booleans(),
)
def test_a_form_is_the_same_however_it_comes(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, sizes: list[int], purpose_first: bool
) -> None:
    folder = tmp_path_factory.mktemp("form")
    file = IncomingFile(folder / "file-0", UploadSettings(), lambda size: None)
    taken = UploadForm(f"multipart/form-data; boundary={BOUNDARY}", file)
    parts = [part("purpose", b"batch"), part("file", content, "x.jsonl")]
    for piece in pieces(form(*(parts if purpose_first else reversed(parts))), sizes):
        taken.feed(piece)
    assert taken.finish() == content.count(b"\n") + (not content.endswith(b"\n"))
    file.keep()
    file.close()
    assert (folder / "file-0").read_bytes() == content
    assert (taken.purpose, taken.filename, taken.format, file.bytes) == ("batch", "x.jsonl", "jsonl", len(content))


@given(given=st.text())
def test_a_filename_is_kept_as_harmless_text(given: str) -> None:
    kept = plain_filename(given)
    assert 0 < len(kept) <= LONGEST_FILENAME
    assert not set(kept) & set("/\\\r\n\0\x1b\u202e\u2028")
    assert kept not in (".", "..")
    assert plain_filename(kept) == kept


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("problems.jsonl", "problems.jsonl"),
        ("../../etc/passwd", "passwd"),
        ("C:\\data\\a b.jsonl", "a b.jsonl"),
        ("a\r\nSet-Cookie: x\x00.csv", "aSet-Cookie: x.csv"),
        ("\u202elnosj.exe", "lnosj.exe"),
        ("größe.parquet", "größe.parquet"),
        ("..", "upload"),
        ("", "upload"),
        ("x" * 300 + ".jsonl", "x" * 249 + ".jsonl"),
    ],
)
def test_filenames(given: str, kept: str) -> None:
    assert plain_filename(given) == kept


# Through the app.


@dataclass(frozen=True)
class Service:
    app: FastAPI
    http: httpx.AsyncClient
    store: Store
    settings: ServiceSettings

    @property
    def openai(self) -> openai.AsyncOpenAI:
        """On the same connection; not to be closed, since that would close `http`."""
        key = self.http.headers["Authorization"].removeprefix("Bearer ")
        return openai.AsyncOpenAI(base_url=f"{self.http.base_url}/v1", api_key=key, http_client=self.http)

    @property
    def on_disk(self) -> list[str]:
        folder = self.settings.data.uploads
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    async def post(self, *parts: bytes, **headers: str) -> httpx.Response:
        kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        return await self.http.post("/v1/files", content=form(*parts), headers=kind | headers)

    async def upload(self, content: bytes = LINE, purpose: str = "prompts", filename: str = "a.jsonl") -> str:
        answer = await self.post(part("purpose", purpose.encode()), part("file", content, filename))
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])


def error_of(answer: httpx.Response) -> tuple[int, str | None, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["param"], error["code"]


@asynccontextmanager
async def opened(serving: Any, **uploads: int) -> AsyncIterator[Service]:
    """A service with these caps, and a client that has a key."""
    async with serving(uploads=uploads) as one:
        one.client.headers.update(await one.key("default"))
        yield Service(one.app, one.client, one.controller.store, one.settings)


@pytest.fixture
async def service(serving: Any) -> AsyncIterator[Service]:
    caps = {"max_bytes": 100_000, "max_line_bytes": 1024, "max_lines": 50, "max_expanded_bytes": 200_000}
    async with opened(serving, **caps) as one:
        yield one


async def test_an_upload_is_stored_as_it_was_sent(service: Service) -> None:
    content = LINE * 30
    for order in (0, 1):
        parts = [part("purpose", b"prompts"), part("file", content, "problems.jsonl")]
        answer = await service.post(*(reversed(parts) if order else parts))
        assert answer.status_code == 200
        file = answer.json()
        row = await service.store.files.get(file["id"], "default")
        assert (row.filename, row.purpose, row.bytes, row.lines) == ("problems.jsonl", "prompts", len(content), 30)
        assert (service.settings.data.uploads / row.id).read_bytes() == content
        assert file == {
            "id": row.id,
            "object": "file",
            "bytes": len(content),
            "created_at": int(row.created_at),
            "expires_at": None,
            "filename": "problems.jsonl",
            "purpose": "prompts",
            "status": "processed",
        }


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([part("file", LINE, "a.jsonl")], (400, "purpose", "missing_required_parameter")),
        ([part("purpose", b"batch")], (400, "file", "missing_required_parameter")),
        ([], (400, "file", "missing_required_parameter")),
        ([part("purpose", b"fine-tune"), part("file", LINE, "a.jsonl")], (400, "purpose", "invalid_value")),
        ([part("purpose", b"batch_output"), part("file", LINE, "a.jsonl")], (400, "purpose", "invalid_value")),
        ([part("purpose", b"b" * 200), part("file", LINE, "a.jsonl")], (400, "purpose", "invalid_value")),
        ([part("purpose", b"batch"), part("purpose", b"batch")], (400, "purpose", "invalid_value")),
        ([part("purpose", b"batch"), part("file", LINE), part("file", LINE)], (400, "file", "invalid_value")),
        ([part("purpose", b"batch"), part("file", b"", "a.jsonl")], (400, "file", "empty_file")),
        ([part("file", LINE, "a.csv"), part("purpose", b"batch")], (400, "file", "invalid_value")),
        ([part("purpose", b"prompts"), part("file", LINE, "a.txt")], (400, "file", "invalid_value")),
        ([part("purpose", b"prompts"), part("file", LINE, "a.jsonl.gz")], (415, "file", "compressed")),
        ([part("purpose", b"batch"), part("file", LINE, "a.zst")], (415, "file", "compressed")),
        ([part("purpose", b"batch"), part("file", gzip.compress(LINE), "a.jsonl")], (415, "file", "compressed")),
        ([part("file", zstandard.compress(LINE), "a.csv"), part("purpose", b"prompts")], (415, "file", "compressed")),
        ([part("expires_after[anchor]", b"created_at")], (400, "expires_after[anchor]", "invalid_value")),
        ([part("purpose", b"batch"), part("file", b"x" * 1025, "a.jsonl")], (413, "file", "line_too_long")),
        ([part("file", b"x" * 1025, "a.jsonl"), part("purpose", b"batch")], (413, "file", "line_too_long")),
        ([part("purpose", b"batch"), part("file", b"{}\n" * 51, "a.jsonl")], (413, "file", "too_many_lines")),
        ([part("purpose", b"prompts"), part("file", b"x" * 100_001, "a.csv")], (413, "file", "too_large")),
        ([part("purpose", b"prompts"), part("file", LINE, "a.parquet")], (400, "file", "not_parquet")),
        (
            [part("purpose", b"batch"), part("file", LINE, "a", "Content-Transfer-Encoding: base64\r\n")],
            (415, "file", "unsupported_media_type"),
        ),
    ],
)
async def test_what_is_refused_is_named_and_leaves_nothing(
    service: Service, parts: list[bytes], expected: tuple[int, str | None, str | None]
) -> None:
    assert error_of(await service.post(*parts)) == expected
    assert service.on_disk == []
    assert (await service.store.files.page(None, limit=10))[0] == []


async def test_the_line_that_is_too_long_is_named(service: Service) -> None:
    content = b"{}\n" * 6 + b'{"a": "' + b"x" * 2000 + b'"}\n'
    answer = await service.post(part("purpose", b"batch"), part("file", content, "a.jsonl"))
    assert answer.json()["error"]["message"] == "file: line 7 has more than 1024 bytes (uploads.max_line_bytes)"


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data", b"", 400),
        (f"multipart/form-data; boundary={'x' * 300}", b"", 400),
        (f"multipart/form-data; boundary={BOUNDARY}", b"", 400),
        (f"multipart/form-data; boundary={BOUNDARY}", b"nothing of the kind", 400),
        (f"multipart/form-data; boundary={BOUNDARY}", form(part("purpose", b"batch"))[:-6], 400),
        (f"multipart/form-data; boundary={BOUNDARY}", form(part("file", LINE, "a", "X: " + "y" * 5000 + "\r\n")), 400),
        (f"multipart/form-data; boundary={BOUNDARY}", form(part("file", LINE, "a", "X: y\r\n" * 20)), 400),
    ],
)
async def test_bodies_that_are_no_form_leave_nothing(
    service: Service, content_type: str, body: bytes, status: int
) -> None:
    answer = await service.http.post("/v1/files", content=body, headers={"Content-Type": content_type})
    assert answer.status_code == status, answer.text
    assert service.on_disk == []


async def test_parquet_is_looked_at_by_its_metadata(service: Service) -> None:
    def parquet(rows: int, text: str) -> bytes:
        sink = io.BytesIO()
        pq.write_table(pa.table({"prompt": [f"{text}{row}" for row in range(rows)]}), sink, compression="zstd")
        return sink.getvalue()

    good = await service.upload(parquet(20, "x"), filename="a.PARQUET")
    assert (await service.store.files.get(good, None)).lines == 20
    bomb = parquet(40, "x" * 10_000)
    assert len(bomb) < 5000
    for content, filename, expected in [
        (bomb, "a.parquet", (413, "file", "too_large")),
        (parquet(51, "x"), "a.parquet", (413, "file", "too_large")),
        (parquet(5, "x"), "a.csv", (400, "file", "invalid_value")),
    ]:
        answer = await service.post(part("purpose", b"prompts"), part("file", content, filename))
        assert error_of(answer) == expected
    assert service.on_disk == [good]


async def test_a_client_that_goes_away_leaves_nothing(service: Service) -> None:
    body = form(part("purpose", b"batch"), part("file", LINE * 20, "a.jsonl"))
    seen: list[list[str]] = []

    async def body_then_gone() -> AsyncIterator[dict[str, Any]]:
        yield {"type": "http.request", "body": body[:300], "more_body": True}
        seen.append(service.on_disk)
        yield {"type": "http.disconnect"}

    answers = await call(service, body_then_gone())
    assert [message["status"] for message in answers if message["type"] == "http.response.start"] == [400]
    assert seen[0][0].endswith(".part")
    assert service.on_disk == []


async def test_a_cancelled_request_leaves_nothing(service: Service) -> None:
    body = form(part("purpose", b"batch"), part("file", LINE * 20, "a.jsonl"))
    came = asyncio.Event()

    async def body_then_nothing() -> AsyncIterator[dict[str, Any]]:
        yield {"type": "http.request", "body": body[:300], "more_body": True}
        came.set()
        await asyncio.Event().wait()

    calling = asyncio.create_task(call(service, body_then_nothing()))
    await came.wait()
    assert service.on_disk[0].endswith(".part")
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert service.on_disk == []


async def call(service: Service, messages: AsyncIterator[dict[str, Any]]) -> list[Any]:
    """The app's answer to a request whose body comes as these messages."""
    sent: list[Any] = []

    async def receive() -> Any:
        return await anext(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [
        (b"host", b"127.0.0.1"),
        (b"content-type", f"multipart/form-data; boundary={BOUNDARY}".encode()),
        (b"authorization", service.http.headers["Authorization"].encode()),
    ]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/files",
        "raw_path": b"/v1/files",
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 5000),
        "server": ("127.0.0.1", 80),
    }
    await service.app(scope, receive, send)
    return sent


async def test_the_quota_holds_for_one_upload_and_for_two_at_once(service: Service) -> None:
    await service.store.tenants.put(TenantRow("default", 1.0, {"stored_bytes": 1000}))
    parts = part("purpose", b"prompts"), part("file", LINE * 40, "a.jsonl")
    assert 500 < len(LINE * 40) < 1000
    answers = await asyncio.gather(*(service.post(*parts) for _ in range(3)))
    assert sorted(answer.status_code for answer in answers) == [200, 429, 429]
    assert len(service.on_disk) == 1
    refused = await service.post(*parts)
    assert error_of(refused) == (429, None, "quota_exceeded")
    assert "Retry-After" not in refused.headers
    await service.http.delete(f"/v1/files/{service.on_disk[0]}")
    assert (await service.post(*parts)).status_code == 200


async def test_a_declared_length_is_refused_before_the_body(service: Service) -> None:
    async def nothing() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Content-Length": "999999"}
    answer = await service.http.post("/v1/files", content=nothing(), headers=kind)
    assert error_of(answer) == (413, "file", "too_large")


async def test_memory_does_not_grow_with_an_upload(serving: Any) -> None:
    async def body(lines: int) -> AsyncIterator[bytes]:
        yield part("purpose", b"batch")[:-2] + b"\r\n"
        yield part("file", b"", "a.jsonl")[:-2]
        for _ in range(lines):
            yield b'{"x": "' + b"y" * 65_500 + b'"}\n'
        yield f"\r\n--{BOUNDARY}--\r\n".encode()

    async with opened(serving) as service:
        kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        peaks = []
        for lines in (20, 20, 800):
            tracemalloc.start()
            answer = await service.http.post("/v1/files", content=body(lines), headers=kind)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            assert answer.status_code == 200, answer.text
            assert answer.json()["bytes"] == lines * 65_510
            assert (await service.store.files.get(answer.json()["id"], None)).lines == lines
    assert peaks[2] < peaks[1] + 2_000_000


async def test_files_are_listed_in_pages(service: Service) -> None:
    ids = [await service.upload(purpose=purpose) for purpose in ("prompts", "batch", "prompts", "batch", "prompts")]
    ids = sorted(ids)  # two may be made in one millisecond
    client = service.openai
    assert [file.id async for file in client.files.list(limit=2)] == ids[::-1]
    assert [file.id async for file in client.files.list(limit=1, order="asc")] == ids
    found = [file async for file in client.files.list(purpose="batch")]
    assert len(found) == 2
    assert {file.purpose for file in found} == {"batch"}
    page = (await service.http.get("/v1/files", params={"limit": 2})).json()
    assert (page["first_id"], page["last_id"], page["has_more"]) == (ids[4], ids[3], True)
    empty = (await service.http.get("/v1/files", params={"after": ids[0]})).json()
    assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    for wrong in ({"limit": 0}, {"limit": 10_001}, {"order": "up"}, {"purpose": "x"}):
        assert (await service.http.get("/v1/files", params=wrong)).status_code == 400


async def test_the_openai_client_uploads_reads_and_deletes(service: Service) -> None:
    client = service.openai
    file = await client.files.create(file=('größe\r\n"; x=y.jsonl', LINE * 3), purpose="batch")
    assert (file.bytes, file.purpose, file.status) == (len(LINE) * 3, "batch", "processed")
    assert (await client.files.retrieve(file.id)) == file
    content = await client.files.content(file.id)
    assert content.content == LINE * 3
    shown = content.response.headers["Content-Disposition"]
    assert shown.startswith("attachment; filename")
    assert "\n" not in shown
    assert shown.count(";") == 1
    assert content.response.headers["Content-Type"] == "application/octet-stream"
    assert content.response.headers["X-Content-Type-Options"] == "nosniff"
    assert (await client.files.delete(file.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.files.content(file.id)
    with pytest.raises(openai.BadRequestError, match="expected one of batch, prompts"):
        await client.files.create(file=b"{}", purpose="assistants")
    expiry: Any = {"anchor": "created_at", "seconds": 3600}
    with pytest.raises(openai.BadRequestError, match="expires_after"):
        await client.files.create(file=b"{}", purpose="batch", expires_after=expiry)
    assert service.on_disk == []


async def test_a_file_of_another_tenant_is_not_there(service: Service) -> None:
    file_id = await service.upload()
    _, key = await service.store.keys.create("other", frozenset({"submit", "read"}), "k", 0.0)
    other = {"Authorization": f"Bearer {key}"}
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        answer = await service.http.request(method, f"/v1/files/{file_id}{path}", headers=other)
        assert answer.status_code == 404
    assert (await service.http.get("/v1/files", headers=other)).json()["data"] == []
    _, reader = await service.store.keys.create("default", frozenset({"read"}), "k", 0.0)
    answer = await service.http.delete(f"/v1/files/{file_id}", headers={"Authorization": f"Bearer {reader}"})
    assert answer.status_code == 403
    assert service.on_disk == [file_id]


async def test_the_document_describes_the_form(service: Service) -> None:
    document = (await service.http.get("/openapi.json")).json()
    body = document["paths"]["/v1/files"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert body["required"] == ["file", "purpose"]
    assert set(body["properties"]) == {"file", "purpose"}


async def test_a_refusal_reaches_a_client_that_is_still_sending(serving: Any, listening: Any) -> None:
    async with serving(uploads={"max_bytes": 1_000_000}) as service, listening(service) as http:
        http.headers.update(await service.key("default"))
        kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}

        async def body() -> AsyncIterator[bytes]:
            yield part("purpose", b"batch")
            yield part("file", b"", "a.jsonl")[:-2]
            for _ in range(200):
                yield LINE * 3000

        for content in (body(), form(part("purpose", b"batch"), part("file", LINE * 500_000, "a.jsonl"))):
            answer = await http.post("/v1/files", content=content, headers=kind)
            assert error_of(answer) == (413, "file", "too_large")
        assert list(service.settings.data.uploads.iterdir()) == []
