"""The real app on the real controller and store, with a simulated vLLM server, in the test's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
import uvicorn
from fastapi import FastAPI

from gen_service.controller.controller import Controller
from gen_service.endpoints.simulated import SimulatedServer, SimulationSettings
from gen_service.service_settings import ServiceSettings, load_service_settings
from gen_service.store.database import open_store
from gen_service.store.urls import database_url
from gen_service.web.app import create_app
from gen_service.wire.jobs import JobView
from gen_service.wire.states import FINAL

LOOK_AGAIN_S = 0.02
BASE = "http://127.0.0.1:8080"


@dataclass(frozen=True, slots=True)
class Service:
    """A service without a socket; `client` asks it as a local program would."""

    settings: ServiceSettings
    controller: Controller
    app: FastAPI
    client: httpx.AsyncClient
    server: SimulatedServer

    async def submit(self, rows: int = 3, **changes: Any) -> JobView:
        """A job of additions."""
        answer = await self.client.post("/api/v1/jobs", json=sums(rows) | changes)
        assert answer.status_code == 202, answer.text
        return JobView.model_validate_json(answer.content)

    async def until(self, job_id: str, reached: Callable[[JobView], bool]) -> JobView:
        """The job, when it is as wanted; woken by its changes, and again and again for the numbers between them."""
        while True:
            changed = self.controller.changed(job_id)
            row = await self.controller.store.jobs.get(job_id, None)
            view = self.controller.view(row)
            if reached(view):
                return view
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), LOOK_AGAIN_S)

    async def ended(self, job_id: str) -> JobView:
        """The job, when it has ended."""
        return await self.until(job_id, lambda view: view.state in FINAL)

    async def key(self, tenant: str = "team", *scopes: str) -> dict[str, str]:
        """The header of a new key."""
        _, text = await self.controller.store.keys.create(tenant, scopes or ("submit", "read"), "test", 0.0)
        return {"Authorization": f"Bearer {text}"}


Serving = Callable[..., AbstractAsyncContextManager[Service]]
Listening = Callable[[Service], AbstractAsyncContextManager[httpx.AsyncClient]]


def sums(rows: int = 3) -> dict[str, Any]:
    """The request of a job of additions."""
    return {
        "prompts": {"rows": [{"id": f"p{n}", "prompt": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(rows)]}
    }


@pytest.fixture(autouse=True)
def _plain_logs() -> Iterator[None]:
    """Errors that are logged on purpose are not drawn with all their variables, which takes seconds."""
    before = structlog.get_config()
    rendered = [structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()]
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, *rendered])
    yield
    structlog.configure(**before)


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    """Opens a service; called again, it is the next start of the same one. Keyword arguments are sections."""

    @asynccontextmanager
    async def serve(simulation: SimulationSettings | None = None, **sections: dict[str, Any]) -> AsyncIterator[Service]:
        async with SimulatedServer(simulation) as server:
            given: dict[str, Any] = {
                "endpoints": {"urls": [server.url], "backoff_s": 0.05, "probe_s": 0.05},
                "data": {"folder": tmp_path / "data", "min_free_bytes": 0},
                "fleet": {"grace_s": 0.5},
                "verifier": {"workers": 1},
            }
            for name, section in sections.items():
                given[name] = given.get(name, {}) | section
            settings = load_service_settings(None, given)
            async with open_store(database_url(settings.data)) as store, Controller(settings, store) as controller:
                app = create_app(controller, settings)
                transport = httpx.ASGITransport(app)
                async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
                    yield Service(settings, controller, app, client, server)

    return serve


@pytest.fixture
def listening() -> Listening:
    """Lets a service answer at a real socket, for what is streamed; gives a client of it."""

    @asynccontextmanager
    async def listen(service: Service) -> AsyncIterator[httpx.AsyncClient]:
        server = _Server(uvicorn.Config(service.app, lifespan="off", ws="none", log_config=None))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            answering = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                async with httpx.AsyncClient(base_url=url, timeout=60) as client:
                    yield client
            finally:
                server.should_exit = True
                await answering

    return listen


class _Server(uvicorn.Server):
    """Signals are the test runner's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@pytest.fixture
def sums_request() -> Callable[[int], dict[str, Any]]:
    """Makes the request of a job of additions."""
    return sums
