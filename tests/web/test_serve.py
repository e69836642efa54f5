"""The service as a process: what it says when it starts, what it refuses, and how signals end it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.servers import simulated_servers
from benchmarks.service_process import COMMAND, ServiceProcess, make_key, running_service, service_settings
from benchmarks.trip import wait_until
from gen_service.remote.client import ServiceClient
from gen_service.web.serve import allow_many_files
from gen_service.wire.jobs import JobRequest

FOR_HOURS = "36000"
DRAINED, USAGE, FAILED, ENDED_AT_ONCE = 0, 2, 1, 130


@pytest.fixture
def server() -> Iterator[str]:
    """A server whose answers take hours."""
    with simulated_servers(["--latency", FOR_HOURS]) as urls:
        yield urls[0]


@pytest.fixture
def settings(server: str, tmp_path: Path) -> dict[str, str]:
    return service_settings([server], tmp_path / "data", verifier__workers="1", fleet__grace_s=FOR_HOURS)


def said(settings: dict[str, str], *arguments: str) -> tuple[int, str]:
    """The exit code and the last words of a service that does not start."""
    done = subprocess.run(
        [*COMMAND, "serve", *arguments], env=os.environ | settings, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr


async def in_flight(client: ServiceClient, job_id: str) -> None:
    """Returns when a sample of the job is at a server."""
    async for event in client.events(job_id):
        if event.type == "progress" and event.data["counts"]["in_flight"]:
            return


async def submitted(service: ServiceProcess) -> str:
    async with ServiceClient(service.url) as client:
        job = await client.submit(JobRequest.model_validate({"prompts": {"rows": [{"prompt": "1 + 1?"}]}}))
        await in_flight(client, job.id)
        return job.id


async def test_the_first_signal_drains_while_the_door_answers_and_the_second_ends_the_grace(
    settings: dict[str, str], tmp_path: Path
) -> None:
    with running_service(settings, tmp_path / "words.txt") as service:
        job_id = await submitted(service)
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as door:
            async with door.stream("GET", f"/api/v1/jobs/{job_id}/events") as events:
                service.child.send_signal(signal.SIGTERM)
                # Its end is what tells that the signal was taken.
                last = [line async for line in events.aiter_lines() if line.startswith("event: state")]
            assert len(last) >= 2
            ready = await door.get("/readyz")
            assert (ready.status_code, ready.json()["ready"]) == (503, False)
            refused = await door.post("/api/v1/jobs", json={"prompts": {"rows": [{"prompt": "x"}]}})
            assert (refused.status_code, refused.json()["code"]) == (503, "draining")
            assert int(refused.headers["retry-after"]) > 0
            shown = (await door.get(f"/api/v1/jobs/{job_id}")).json()
            assert (shown["state"], shown["counts"]["in_flight"]) == ("running", 1)
            assert (await door.get("/healthz")).status_code == 200
        service.child.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(service.exit_code) == DRAINED, service.words.read_text()
    with running_service(settings, tmp_path / "words.txt") as service:
        async with ServiceClient(service.url) as client:
            # The next start goes on with it.
            await in_flight(client, job_id)


async def test_the_third_signal_ends_what_cannot_come_to_rest(settings: dict[str, str], tmp_path: Path) -> None:
    with running_service(settings, tmp_path / "words.txt") as service:
        job_id = await submitted(service)
        # While another process writes, no state of a job can be stored.
        with contextlib.closing(sqlite3.connect(tmp_path / "data" / "gen_service.db")) as database:
            database.execute("BEGIN IMMEDIATE")
            async with httpx.AsyncClient(base_url=service.url, timeout=60) as door:
                for words in ("draining", "ending the grace"):
                    service.child.send_signal(signal.SIGTERM)
                    assert await asyncio.to_thread(logged, words, service)
                assert (await door.get("/healthz")).status_code == 200
            service.child.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(service.exit_code) == ENDED_AT_ONCE, service.words.read_text()
    with running_service(settings, tmp_path / "words.txt") as service:
        async with ServiceClient(service.url) as client:
            await in_flight(client, job_id)


def logged(event: str, service: ServiceProcess) -> bool:
    """Waits until the service's log has an event."""
    return wait_until(lambda: f'"event": "{event}"' in service.words.read_text(), service.child, service.words)


async def test_an_idle_service_ends_at_the_first_signal(settings: dict[str, str], tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with running_service(settings, tmp_path / "words.txt") as service:
            async with httpx.AsyncClient(base_url=service.url) as door:
                assert (await door.get("/healthz")).status_code == 200
            service.child.send_signal(number)
            assert await asyncio.to_thread(service.exit_code) == DRAINED, service.words.read_text()


async def test_a_body_of_no_said_length_is_cut_at_the_cap(settings: dict[str, str], tmp_path: Path) -> None:
    settings |= {"GEN_SERVICE_HTTP__MAX_BODY_BYTES": "2000"}

    async def long() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield b" " * 500

    with running_service(settings, tmp_path / "words.txt") as service:
        async with httpx.AsyncClient(base_url=service.url) as door:
            for content in (b" " * 3000, long()):
                answer = await door.post("/api/v1/jobs", content=content, headers={"Content-Type": "application/json"})
                assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
            assert (await door.get("/healthz")).status_code == 200


def test_what_cannot_be_served_is_said_in_a_line(settings: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, words = said(settings, "--port", port)
        assert code == USAGE
        assert f"gen-service: http.port: got {port}; expected a free port" in words
    code, words = said(settings, "--host", "203.0.113.7")
    assert code == USAGE
    assert "gen-service keys create" in words
    code, words = said(settings, "--host", "nowhere.invalid")
    assert code == USAGE
    code, words = said(settings | {"GEN_SERVICE_ENDPOINTS__URLS": ""})
    assert (code, words.startswith("gen-service: endpoints.urls: ")) == (USAGE, True)


async def test_with_a_key_it_listens_for_others(settings: dict[str, str], tmp_path: Path) -> None:
    code, words = said(settings, "--host", "0.0.0.0")
    assert (code, "http.host" in words) == (USAGE, True)
    key = make_key(settings, "team")
    settings |= {"GEN_SERVICE_HTTP__HOST": "0.0.0.0"}
    with running_service(settings, tmp_path / "words.txt") as service:
        async with httpx.AsyncClient(base_url=service.url.replace("0.0.0.0", "127.0.0.1")) as door:
            assert (await door.get("/api/v1/jobs")).status_code == 401
            answer = await door.get("/api/v1/jobs", headers={"Authorization": f"Bearer {key}", "Host": "any.example"})
            assert answer.status_code == 200
    assert key not in service.words.read_text()


async def test_a_data_folder_has_one_service(settings: dict[str, str], tmp_path: Path) -> None:
    with running_service(settings, tmp_path / "words.txt"):
        code, words = said(settings)
        assert code == FAILED
        assert "data.folder" in words


def test_settings_are_printed_without_being_served(settings: dict[str, str]) -> None:
    secret = {"GEN_SERVICE_API_KEY": "sk-of-servers", "GEN_SERVICE_DATA__DATABASE": "postgresql://me:s3cret@host/name"}
    done = subprocess.run(
        [*COMMAND, "serve", "--print-settings", "--port", "4711"],
        env=os.environ | settings | secret,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "port: 4711" in done.stdout
    assert "postgresql://me:***@host/name" in done.stdout
    assert "s3cret" not in done.stdout
    assert "sk-of-servers" not in done.stdout


def test_as_many_files_may_be_open_as_the_system_allows() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[1]), before[1]))
        allow_many_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
