"""A client of a running service: jobs, their events and their rows, typed as the service has them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import Any

import aiohttp

from gen_service.errors import InvalidRequest
from gen_service.remote.events import follow, job_path
from gen_service.remote.shard_files import Downloaded, fetch_shard
from gen_service.remote.transport import Patience, Transport, json_body
from gen_service.wire.jobs import (
    JobEventView,
    JobKind,
    JobList,
    JobRequest,
    JobView,
    ResultPage,
    Shard,
    ShardList,
)
from gen_service.wire.openai import FileObject, FilePurpose
from gen_service.wire.states import FINAL, JobState

JOBS = "/api/v1/jobs"
# How long a watcher waits for a service that is being restarted.
WITHOUT_SERVICE_S = 600.0
_LIVE = ("counts", "rates", "servers")


class ServiceClient:
    """Talks to one service. Use as an async context manager.

    What may pass (no connection, 429, 503) is tried again within the patience, by the service's Retry-After where it
    names one; what may have been done already only where doing it twice is doing it once.

    Args:
        url: base URL of the service.
        key: an API key; None for a service that needs none.
        patience: how long a call is tried again.

    Raises (every method):
        RequestError: of the kind of the answer's status, with the service's words, field and code; `Unavailable` with
            the code `unreachable` or `connection_lost` where there was no answer.
    """

    def __init__(self, url: str, key: str | None = None, *, patience: Patience | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise InvalidRequest(f"url: got {url!r}; expected a base URL such as http://127.0.0.1:8080", field="url")
        self._transport = Transport(url, key, patience or Patience())

    async def __aenter__(self) -> ServiceClient:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._transport.__aexit__(*exc)

    async def submit(self, request: JobRequest, idempotency_key: str | None = None) -> JobView:
        """Ask for a job; the job as it was accepted.

        Args:
            idempotency_key: the same key makes no second job, over restarts of this process too; a fresh one by
                default, so that a lost answer makes none.
        """
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        body = await self._transport.call("POST", JOBS, headers=headers, body=json_body(request), is_repeatable=True)
        return self._transport.decoded(JobView, body)

    async def job(self, job_id: str) -> JobView:
        """A job as it is now."""
        return await self._transport.get(JobView, job_path(job_id))

    async def jobs(
        self,
        *,
        states: Iterable[JobState] = (),
        kind: JobKind | None = None,
        name: str | None = None,
        page: int = 100,
    ) -> AsyncIterator[JobView]:
        """All jobs, newest first, in pages of `page`.

        Args:
            states: only jobs in one of these; empty for all.
        """
        cursor, wanted = None, tuple(states)
        while True:
            found = await self._transport.get(
                JobList, JOBS, state=wanted, kind=kind, name=name, limit=page, cursor=cursor
            )
            for view in found.data:
                yield view
            cursor = found.next_cursor
            if cursor is None:
                return

    async def pause(self, job_id: str) -> JobView:
        """Let a job rest, with all it made readable."""
        return await self._act(job_id, "pause")

    async def resume(self, job_id: str) -> JobView:
        """Let a paused job go on."""
        return await self._act(job_id, "resume")

    async def cancel(self, job_id: str) -> JobView:
        """End a job; what it finished stays readable."""
        return await self._act(job_id, "cancel")

    async def delete(self, job_id: str) -> None:
        """Remove an ended job and its traces."""
        await self._transport.call("DELETE", job_path(job_id))

    def events(
        self, job_id: str, *, after: int | None = None, without_service_s: float = WITHOUT_SERVICE_S
    ) -> AsyncGenerator[JobEventView, None]:
        """The events of a job until it is final, over any number of connections: each kept one once and in order.

        Args:
            after: the id of the last event that is known already; None for all from the first.
            without_service_s: for how long on end nothing may be heard from the service.
        """
        return follow(self._transport, job_id, after, without_service_s)

    async def watch(
        self,
        job_id: str,
        on_view: Callable[[JobView], None] = lambda _: None,
        on_event: Callable[[JobEventView], None] = lambda _: None,
        *,
        without_service_s: float = WITHOUT_SERVICE_S,
    ) -> JobView:
        """Call `on_view` with the job now and whenever it moved, until it is final; the last view.

        Args:
            on_event: called with each event first.
        """
        view = await self.job(job_id)
        on_view(view)
        if view.state in FINAL:
            return view
        async with aclosing(follow(self._transport, job_id, None, without_service_s)) as events:
            async for event in events:
                on_event(event)
                if event.type == "progress":
                    view = moved(view, event)
                    on_view(view)
                elif event.type == "state":
                    view = await self.job(job_id)
                    on_view(view)
        return view

    async def upload(self, path: str | Path, purpose: FilePurpose = "prompts") -> FileObject:
        """Send a file, streamed from disk.

        Raises:
            OSError: it cannot be read.
        """
        source = Path(path)
        with ExitStack() as opened:

            def form() -> aiohttp.FormData:
                # aiohttp reads it in a thread, piece by piece, and may close it when a try fails.
                file = opened.enter_context(source.open("rb"))
                data = aiohttp.FormData(quote_fields=False)
                data.add_field("purpose", purpose)
                data.add_field("file", file, filename=source.name, content_type="application/octet-stream")
                return data

            return self._transport.decoded(FileObject, await self._transport.call("POST", "/v1/files", body=form))

    async def result_page(
        self, job_id: str, cursor: str | None = None, *, limit: int | None = None, columns: Sequence[str] = ()
    ) -> ResultPage:
        """Published rows after `cursor` (None: from the first), and the cursor after them.

        Args:
            limit: at most so many; None for as many as the service gives at once.
            columns: of the rows; empty for all.
        """
        path = job_path(job_id, "results")
        return await self._transport.get(ResultPage, path, cursor=cursor, limit=limit, columns=tuple(columns))

    async def results(
        self, job_id: str, cursor: str | None = None, *, columns: Sequence[str] = ()
    ) -> AsyncIterator[dict[str, Any]]:
        """All rows that are published so far, in the order of publishing, from `cursor` on."""
        while True:
            page = await self.result_page(job_id, cursor, columns=columns)
            for row in page.data:
                yield row
            cursor = page.next_cursor
            if cursor is None or not page.data:
                return

    async def shards(self, job_id: str) -> list[Shard]:
        """The published files of a job, in the order of publishing."""
        return (await self._transport.get(ShardList, job_path(job_id, "shards"))).data

    async def download(
        self, job_id: str, folder: str | Path, on_file: Callable[[Shard, bool], None] = lambda *_: None
    ) -> Downloaded:
        """Bring the published files into `folder`; those that are there and whole are not fetched again.

        Args:
            on_file: called after each file, with whether it was fetched.

        Raises:
            StorageError: the bytes of a file are not those that were published.
            OSError: the folder cannot be written.
        """
        place = Path(folder)
        await asyncio.to_thread(place.mkdir, parents=True, exist_ok=True)
        shards = await self.shards(job_id)
        fetched = []
        for shard in shards:
            was_fetched = await fetch_shard(self._transport, shard, place)
            fetched += [shard.bytes] * was_fetched
            on_file(shard, was_fetched)
        return Downloaded(tuple(place / shard.name for shard in shards), len(fetched), sum(fetched))

    async def _act(self, job_id: str, action: str) -> JobView:
        return self._transport.decoded(JobView, await self._transport.call("POST", job_path(job_id, action)))


def moved(view: JobView, progress: JobEventView) -> JobView:
    """A view with the live numbers of a progress event."""
    fresh = {name: progress.data[name] for name in _LIVE if name in progress.data}
    return JobView.model_validate(view.model_dump() | fresh)
