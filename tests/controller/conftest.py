"""A controller on a real store and real simulated servers."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gen_service.controller.controller import Controller
from gen_service.controller.specs import folder_of
from gen_service.endpoints.simulated import Fixed, Script, SimulatedServer, SimulationSettings, TokenRate
from gen_service.service_settings import ServiceSettings
from gen_service.storage.traces import read_traces
from gen_service.store.database import open_store
from gen_service.store.ids import new_id
from gen_service.store.rows import FileRow, JobRow
from gen_service.wire.jobs import JobRequest
from gen_service.wire.openai import BatchRequest
from gen_service.wire.states import FINAL

TENANT = "tenant"

# Servers by how they answer: at once; in about 0.1 s; not in the life of a test.
KINDS = {
    "quick": SimulationSettings(),
    "slow": SimulationSettings(script=Script(3, Fixed(40), "tokens", TokenRate(Fixed(0.0), 400.0))),
    "silent": SimulationSettings(script=Script(timing=TokenRate(Fixed(3600.0), 1.0))),
}


def sums(rows: int) -> dict[str, Any]:
    """A request for additions."""
    return {
        "prompts": {"rows": [{"id": f"p{n}", "prompt": f"What is {n} + 5?", "answer": str(n + 5)} for n in range(rows)]}
    }


@dataclass(frozen=True, slots=True)
class Service:
    """A controller and what it works on."""

    settings: ServiceSettings
    controller: Controller
    servers: Sequence[SimulatedServer]

    async def submit(self, rows: int = 4, *, tenant: str = TENANT, key: str | None = None, **changes: Any) -> JobRow:
        """A new job of additions."""
        request = JobRequest.model_validate(sums(rows) | changes)
        return (await self.controller.submit(tenant, request, key))[0]

    async def upload(
        self, content: bytes, purpose: str = "prompts", name: str = "x.jsonl", tenant: str = TENANT
    ) -> str:
        """A stored file."""
        row = FileRow(new_id("file-"), tenant, purpose, name, len(content), content.count(b"\n"), 1e9)
        self.settings.data.uploads.mkdir(parents=True, exist_ok=True)
        (self.settings.data.uploads / row.id).write_bytes(content)
        await self.controller.store.files.create(row, None)
        return row.id

    async def batch(self, lines: int = 4, *, key: str | None = None, is_retry: bool = False, **line: Any) -> JobRow:
        """A new batch of additions."""
        content = "".join(json.dumps(batch_line(number) | line) + "\n" for number in range(lines))
        file_id = await self.upload(content.encode(), "batch")
        request = BatchRequest(input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h")
        return (await self.controller.create_batch(TENANT, request, key, is_retry))[0]

    async def get(self, row: JobRow) -> JobRow:
        """The row as it is now."""
        return await self.controller.store.jobs.get(row.id, None)

    async def until(self, row: JobRow, *states: str) -> JobRow:
        """The row, once it is in one of these states."""
        while True:
            changed = self.controller.changed(row.id)
            row = await self.get(row)
            if row.state in states:
                return row
            assert row.state not in FINAL, (row.state, row.reason)
            await changed.wait()

    async def ended(self, row: JobRow) -> JobRow:
        """The row, once it is final."""
        return await self.until(row, *FINAL)

    async def asked(self, count: int = 1) -> None:
        """Returns once servers have received so many requests."""
        await self.happens(lambda: sum(len(server.log) for server in self.servers) >= count)

    async def happens(self, condition: Callable[[], bool]) -> None:
        """Returns once it is so; other tasks go on meanwhile."""
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)

    def samples(self, prompts: int, each: int = 1) -> Counter[tuple[str, int]]:
        """Each sample of the additions once."""
        return Counter({(f"p{number}", index): 1 for number in range(prompts) for index in range(each)})

    def published(self, row: JobRow) -> Counter[tuple[str, int]]:
        """How often each sample is in the published rows."""
        rows = read_traces(folder_of(row, self.settings), ["prompt_id", "sample_index"])
        return Counter((one["prompt_id"], one["sample_index"]) for one in rows)


def batch_line(number: int) -> dict[str, Any]:
    """One line of a batch file."""
    messages = [{"role": "user", "content": f"What is {number} + 5?"}]
    body = {"model": "simulated", "messages": messages, "max_tokens": 200}
    return {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


OpenService = Callable[..., AbstractAsyncContextManager[Service]]


@pytest.fixture
def open_service(tmp_path: Path) -> OpenService:
    """Opens a service on the test's folder; opened again, it is the same one after a restart."""

    @asynccontextmanager
    async def opened(
        *kinds: str | SimulationSettings, now: Callable[[], float] | None = None, **sections: Any
    ) -> AsyncIterator[Service]:
        async with AsyncExitStack() as stack:
            servers = [await stack.enter_async_context(SimulatedServer(KINDS.get(kind, kind))) for kind in kinds]
            urls = [server.url for server in servers] or ["http://127.0.0.1:9"]
            document: dict[str, Any] = {
                "endpoints": {"urls": urls, "backoff_s": 0.01, "probe_s": 0.05},
                "fleet": {"in_flight": 8, "grace_s": 0.0},
                "verifier": {"workers": 1},
                "data": {"folder": tmp_path / "data", "min_free_bytes": 0},
            }
            for name, section in sections.items():
                document[name] = document.get(name, {}) | section
            settings = ServiceSettings(**document)
            store = await stack.enter_async_context(open_store(f"sqlite:///{tmp_path}/data/service.db"))
            clock = {} if now is None else {"now": now}
            controller = await stack.enter_async_context(Controller(settings, store, **clock))
            yield Service(settings, controller, servers)

    return opened
