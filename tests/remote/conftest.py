"""A small service that speaks the routes of the real one and misbehaves on demand, for the tests of its client."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gen_service.remote.client import ServiceClient
from gen_service.remote.transport import Patience
from gen_service.wire.jobs import JobCounts, JobEventView, JobList, JobView, ResultPage, Shard, ShardList
from gen_service.wire.openai import FileObject
from gen_service.wire.states import FINAL, JobState

AT = datetime(2026, 1, 2, tzinfo=UTC)
HASTE = Patience(within_s=30.0, first_wait_s=0.001, longest_wait_s=0.002)
PAGE = 2


@dataclass(frozen=True)
class Refuse:
    """Answer with this instead of doing what was asked."""

    status: int
    body: dict[str, Any] | str = field(default_factory=dict)
    retry_after: str | None = None


@dataclass(frozen=True)
class Reset:
    """Cut the connection, after what was asked was done or before."""

    is_done: bool = False


@dataclass(frozen=True)
class Cut:
    """Send only so many bytes of the body, then cut the connection (`is_clean`: end the body properly)."""

    bytes: int
    is_clean: bool = False


def a_job(number: int, state: JobState = "running", **more: Any) -> JobView:
    values: dict[str, Any] = {
        "id": f"job-{number}",
        "name": None,
        "tenant": "default",
        "kind": "native",
        "state": state,
        "reason": None,
        "model": "m",
        "priority": 0,
        "weight": 1.0,
        "created_at": AT,
        "started_at": AT,
        "finished_at": AT if state in FINAL else None,
        "counts": JobCounts(),
        "rates": None,
        "servers": [],
        "output": None,
        "metadata": {},
        "request": {},
    }
    return JobView(**(values | more))


class RudeService:
    """Jobs, events, rows and shards as given; `misdeeds[(method, path)]` are used up before anything is done well.

    Attributes:
        seen: (method, path, headers, query) of every request.
        made: jobs that were created, by idempotency key.
    """

    def __init__(self) -> None:
        self.url = ""
        self.jobs: dict[str, JobView] = {}
        self.made: dict[str, JobView] = {}
        self.requests: list[dict[str, Any]] = []
        self.events: list[JobEventView] = []
        self.rows: list[dict[str, Any]] = []
        self.shards: dict[str, bytes] = {}
        self.uploads: list[tuple[str, str, bytes]] = []
        self.misdeeds: defaultdict[tuple[str, str], deque[Refuse | Reset | Cut]] = defaultdict(deque)
        self.seen: list[tuple[str, str, dict[str, str], dict[str, str]]] = []

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._handle)
        return app

    def refuse(self, method: str, path: str, status: int, body: Any = "", retry_after: str | None = "0") -> None:
        """Answer the next such request with this."""
        self.misdeeds[method, path].append(Refuse(status, body, retry_after))

    def reset(self, method: str, path: str, *, is_done: bool = False) -> None:
        """Cut the next such request off, after it was done or before."""
        self.misdeeds[method, path].append(Reset(is_done))

    def cut(self, method: str, path: str, size: int, *, is_clean: bool = False) -> None:
        """Send so many bytes of the next such answer only."""
        self.misdeeds[method, path].append(Cut(size, is_clean))

    def add_job(self, number: int, state: JobState = "running", **more: Any) -> JobView:
        view = a_job(number, state, **more)
        self.jobs[view.id] = view
        return view

    def add_event(self, number: int | None, kind: str, **data: Any) -> JobEventView:
        event = JobEventView.model_validate({"id": number, "type": kind, "job_id": "job-1", "at": AT, "data": data})
        self.events.append(event)
        return event

    def seen_of(self, method: str, path: str) -> list[dict[str, str]]:
        """The headers of the requests of one route."""
        return [headers for one, where, headers, _ in self.seen if (one, where) == (method, path)]

    async def _handle(self, http: web.Request) -> web.StreamResponse:
        self.seen.append((http.method, http.path, dict(http.headers), dict(http.query)))
        planned = self.misdeeds[http.method, http.path]
        misdeed = planned.popleft() if planned else None
        match misdeed:
            case Refuse():
                return _refused(misdeed)
            case Reset(is_done=False):
                return _cut_off(http)
        response = await self._good(http)
        if isinstance(misdeed, Reset):
            return _cut_off(http)
        if isinstance(misdeed, Cut):
            return await _cut_short(http, response, misdeed)
        return response

    async def _good(self, http: web.Request) -> web.Response:
        match http.method, http.path.strip("/").split("/"):
            case "POST", ["v1", "files"]:
                return await self._upload(http)
            case "POST", ["api", "v1", "jobs"]:
                return await self._create(http)
            case "GET", ["api", "v1", "jobs"]:
                return self._page(http)
            case "GET", ["api", "v1", "jobs", job_id]:
                return _json(self.jobs[job_id]) if job_id in self.jobs else _refused(Refuse(404, "no such job"))
            case "DELETE", ["api", "v1", "jobs", job_id]:
                del self.jobs[job_id]
                return web.Response(status=204)
            case "GET", ["api", "v1", "jobs", job_id, "events"]:
                return self._events(http, job_id)
            case "GET", ["api", "v1", "jobs", _, "results"]:
                return self._results(http)
            case "GET", ["api", "v1", "jobs", job_id, "shards"]:
                return _json(ShardList(data=[self.shard(name, job_id) for name in self.shards]))
            case "GET", ["api", "v1", "jobs", _, "shards", name]:
                return web.Response(body=self.shards[name])
            case "POST", ["api", "v1", "jobs", job_id, action]:
                state: dict[str, JobState] = {"pause": "paused", "resume": "queued", "cancel": "cancelling"}
                self.jobs[job_id] = self.jobs[job_id].model_copy(update={"state": state[action]})
                return _json(self.jobs[job_id])
        return _refused(Refuse(404, "no such route"))

    def shard(self, name: str, job_id: str = "job-1") -> Shard:
        data = self.shards[name]
        digest = hashlib.sha256(data).hexdigest()
        url = f"/api/v1/jobs/{job_id}/shards/{name}"
        return Shard(name=name, rows=1, bytes=len(data), sha256=digest, verdicts={}, url=url)

    async def _create(self, http: web.Request) -> web.Response:
        assert http.content_type == "application/json"
        key = http.headers["Idempotency-Key"]
        if key not in self.made:
            self.requests.append(await http.json())
            self.made[key] = a_job(len(self.made) + 1, "queued")
            self.jobs[self.made[key].id] = self.made[key]
        return _json(self.made[key], 202)

    async def _upload(self, http: web.Request) -> web.Response:
        fields: dict[str, tuple[str, bytes]] = {}
        async for part in await http.multipart():
            fields[part.name] = (part.filename or "", bytes(await part.read()))
        name, data = fields["file"]
        purpose = fields["purpose"][1].decode()
        self.uploads.append((name, purpose, data))
        return _json(
            FileObject.model_validate(
                {"id": "file-1", "bytes": len(data), "created_at": 1, "filename": name, "purpose": purpose}
            )
        )

    def _page(self, http: web.Request) -> web.Response:
        states = http.query.getall("state", [])
        wanted = [view for view in self.jobs.values() if not states or view.state in states]
        start = int(http.query.get("cursor", "0"))
        end = start + PAGE
        return _json(JobList(data=wanted[start:end], next_cursor=str(end) if end < len(wanted) else None))

    def _results(self, http: web.Request) -> web.Response:
        start = int(http.query.get("cursor", "0"))
        data = self.rows[start : start + PAGE]
        return _json(ResultPage(data=data, next_cursor=str(start + len(data))))

    def _events(self, http: web.Request, job_id: str) -> web.Response:
        after = int(http.headers.get("Last-Event-ID", "0"))
        wanted = [event for event in self.events if event.id is None or event.id > after]
        body = "".join(
            f"event: {event.type}\n"
            + (f"id: {event.id}\n" if event.id else "")
            + f"data: {event.model_dump_json()}\n\n"
            for event in wanted
        )
        return web.Response(body=f": hello\n\n{body}".encode(), content_type="text/event-stream")


def _json(model: Any, status: int = 200) -> web.Response:
    return web.Response(text=model.model_dump_json(), status=status, content_type="application/json")


def _refused(misdeed: Refuse) -> web.Response:
    headers = {} if misdeed.retry_after is None else {"Retry-After": misdeed.retry_after}
    body = misdeed.body if isinstance(misdeed.body, str) else json.dumps(misdeed.body)
    return web.Response(text=body, status=misdeed.status, headers=headers)


def _cut_off(http: web.Request) -> web.Response:
    assert http.transport is not None
    http.transport.abort()
    return web.Response()


async def _cut_short(http: web.Request, whole: web.Response, misdeed: Cut) -> web.StreamResponse:
    body = whole.body
    assert isinstance(body, bytes)
    response = web.StreamResponse(status=whole.status, headers={"Content-Type": whole.content_type})
    response.enable_chunked_encoding()
    await response.prepare(http)
    await response.write(body[: misdeed.bytes])
    if not misdeed.is_clean:
        assert http.transport is not None
        http.transport.close()
        return response
    await response.write_eof()
    return response


@pytest.fixture
async def rude() -> AsyncIterator[RudeService]:
    """The service, listening; `url` is where."""
    service = RudeService()
    async with TestServer(service.app()) as server:
        service.url = str(server.make_url("")).rstrip("/")
        yield service


@pytest.fixture
async def client(rude: RudeService) -> AsyncIterator[ServiceClient]:
    """A client of it that waits hardly at all between its tries."""
    async with ServiceClient(rude.url, "gs_key", patience=HASTE) as opened:
        yield opened
