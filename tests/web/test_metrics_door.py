"""/metrics over the real app: what it shows, in which form, to whom; and what requests, uploads and watchers add."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import structlog
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from gen_service.endpoints.simulated import Fixed, Script, SimulatedServer, SimulationSettings, TokenRate
from gen_service.metrics import DECLARED

SILENT = SimulationSettings("silent", Script(timing=TokenRate(Fixed(36_000.0), 1.0)))
Serving = Callable[..., Any]
Listening = Callable[..., Any]


async def page_when(client: Any, shows: Callable[[str], bool]) -> str:
    """The first page that shows it; what is waited for is not known here in another way."""
    while not shows(text := await page(client)):  # noqa: ASYNC110
        await asyncio.sleep(0)
    return text


async def page(client: Any, accept: str = "") -> str:
    answer = await client.get("/metrics", headers={"Accept": accept})
    assert answer.status_code == 200
    return str(answer.text)


def families(text: str) -> dict[str, Any]:
    """By the declared name: the parser leaves `_total` off."""
    found = {family.name + "_total" * (family.type == "counter"): family for family in plain_text(text)}
    return {name: family for name, family in found.items() if name.startswith("gen_service_")}


def value(text: str, name: str, **labels: str) -> float:
    samples = [sample for family in plain_text(text) for sample in family.samples]
    (found,) = [
        one.value for one in samples if one.name == f"gen_service_{name}" and labels.items() <= dict(one.labels).items()
    ]
    return float(found)


async def test_every_declared_name_has_a_series_once_a_job_has_ended_and_one_runs(serving: Serving) -> None:
    async with (
        SimulatedServer() as quick,
        SimulatedServer(SILENT) as silent,
        serving(endpoints={"urls": [quick.url, silent.url]}) as service,
    ):
        await service.ended((await service.submit(model="simulated")).id)
        held = await service.submit(model="silent")
        await service.until(held.id, lambda view: view.state == "running")
        found = families(await page(service.client))
        await service.client.post(f"/api/v1/jobs/{held.id}/cancel")
        await service.ended(held.id)
    assert set(found) == {declared.name for declared in DECLARED}
    for declared in DECLARED:
        family = found[declared.name]
        assert family.samples, declared.name
        assert (family.type, family.documentation) == (declared.kind, declared.help)
        assert {frozenset(set(sample.labels) - {"le"}) for sample in family.samples} == {frozenset(declared.labels)}


async def test_prometheus_gets_openmetrics_and_people_get_plain_text(serving: Serving) -> None:
    async with serving() as service:
        asked = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
        modern = await service.client.get("/metrics", headers={"Accept": asked})
        assert modern.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        found = {family.name: family for family in openmetrics(modern.text)}
        assert found["gen_service_trace_tokens"].unit == "tokens"
        plain = await service.client.get("/metrics")
        assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert value(plain.text, "build_info") == 1
        assert "process_start_time_seconds" in plain.text
        assert "_created" not in plain.text


async def test_no_key_is_needed_and_nothing_of_tenants_and_prompts_is_told(serving: Serving) -> None:
    async with serving() as service:
        key = await service.key("tenant-of-secrets", "submit", "read")
        rows = [{"id": "prompt-of-secrets", "prompt": "What is 1 + 1?", "answer": "2"}]
        body = {"name": "name-of-secrets", "prompts": {"rows": rows}, "metadata": {"a": "metadata-of-secrets"}}
        answer = await service.client.post("/api/v1/jobs", json=body, headers=key)
        assert answer.status_code == 202
        await service.ended(answer.json()["id"])
        assert (await service.client.get(f"/api/v1/jobs/{answer.json()['id']}")).status_code == 401
        text = await page(service.client)
        assert value(text, "verdicts_total", verdict="correct") == 1
        assert "of-secrets" not in text
        assert "gs_" not in text
        assert answer.json()["id"] not in text


async def test_requests_are_counted_by_the_template_of_their_route(serving: Serving) -> None:
    async with serving() as service:
        job = await service.submit()
        await service.ended(job.id)
        for _ in range(3):
            await service.client.get(f"/api/v1/jobs/{job.id}")
        await service.client.get("/api/v1/jobs/job-of-nobody")
        for number in range(5):
            await service.client.get(f"/somewhere/{number}")
        await service.client.request("BREW", "/healthz")
        text = await page(service.client)
        one = {"route": "/api/v1/jobs/{job_id}", "method": "GET"}
        assert value(text, "http_requests_total", **one, status="200") == 3
        assert value(text, "http_requests_total", **one, status="404") == 1
        assert value(text, "http_request_seconds_count", **one) == 4
        assert value(text, "http_requests_total", route="unmatched", status="404") == 5
        assert value(text, "http_requests_total", route="/healthz", method="other", status="405") == 1
        assert job.id not in text
        # This scrape is in the next one.
        assert value(await page(service.client), "http_requests_total", route="/metrics") == 1


async def test_each_request_is_a_line_of_the_log_but_those_of_watchers_over_the_service(serving: Serving) -> None:
    async with serving() as service:
        with structlog.testing.capture_logs() as lines:
            answer = await service.client.get("/api/v1/jobs?limit=5", headers={"X-Request-ID": "mine"})
            await service.client.get("/metrics")
            await service.client.get("/healthz")
    assert answer.headers["x-request-id"] == "mine"
    requests = {line["path"]: line for line in lines if line["event"] == "request"}
    line = requests["/api/v1/jobs"]
    assert (line["log_level"], line["route"], line["status"], line["method"]) == ("info", "/api/v1/jobs", 200, "GET")
    assert 0 <= line["seconds"] < 600
    assert requests["/metrics"]["log_level"] == requests["/healthz"]["log_level"] == "debug"


async def test_a_failed_sample_is_a_warning_with_its_job_and_sample(serving: Serving) -> None:
    async with serving() as service:
        body = {"id": "p", "prompt": "x" * 400_000}
        with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
            job = await service.submit(prompts={"rows": [body]}, samples=2)
            view = await service.ended(job.id)
    assert view.counts.errors == 2
    failed = [line for line in lines if line["event"] == "a sample failed"]
    assert {(line["log_level"], line["job_id"]) for line in failed} == {("warning", job.id)}
    assert len({line["sample_id"] for line in failed}) == 2
    assert all("request_id" not in line and line["error"].startswith("refused at ") for line in failed)


async def test_uploads_are_counted_by_what_came_of_them(serving: Serving, listening: Listening) -> None:
    content = b'{"prompt": "What is 1 + 1?", "answer": "2"}\n'
    async with serving(uploads={"max_bytes": 10_000}) as service, listening(service) as client:
        form = {"purpose": "prompts"}
        stored = await client.post("/v1/files", data=form, files={"file": ("a.jsonl", content)})
        assert stored.status_code == 200, stored.text
        refused = await client.post("/v1/files", data=form, files={"file": ("a.jsonl", b"\x1f\x8b" + content)})
        assert refused.status_code == 415
        await leave_an_upload(str(client.base_url.host), int(client.base_url.port or 0))
        text = await page_when(client, lambda text: value(text, "uploads_total", result="abandoned") == 1)
        assert value(text, "uploads_total", result="stored") == 1
        assert value(text, "uploads_total", result="refused") == 1
        assert value(text, "upload_bytes_total") >= len(content)


async def leave_an_upload(host: str, port: int) -> None:
    """Begin one, and close the connection in its middle."""
    reader, writer = await asyncio.open_connection(host, port)
    boundary = "b"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nprompts\r\n--{boundary}\r\n'
    head += 'Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n{"prompt": '
    lines = (
        "POST /v1/files HTTP/1.1",
        f"Host: {host}:{port}",
        f"Content-Type: multipart/form-data; boundary={boundary}",
        "Content-Length: 5000",
        "Expect: 100-continue",
    )
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    # The service reads the body from here on.
    assert (await reader.readline()).startswith(b"HTTP/1.1 100")
    writer.write(head.encode())
    await writer.drain()
    writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
    writer.close()
    await writer.wait_closed()


async def test_watchers_of_events_are_counted_while_they_watch(serving: Serving, listening: Listening) -> None:
    async with serving(SILENT, fleet={"grace_s": 0.0}) as service, listening(service) as client:
        job = await service.submit()
        async with (
            client.stream("GET", f"/api/v1/jobs/{job.id}/events") as first,
            client.stream("GET", f"/api/v1/jobs/{job.id}/events") as second,
        ):
            pieces = first.aiter_bytes(), second.aiter_bytes()
            for events in pieces:
                await anext(events)
            assert value(await page(client), "event_watchers") == 2
        await page_when(client, lambda text: value(text, "event_watchers") == 0)
        await service.client.post(f"/api/v1/jobs/{job.id}/cancel")
        await service.ended(job.id)


@pytest.mark.parametrize(
    "accept",
    [
        "x" * 2000,
        "\xff",
        "*/*",
        "application/openmetrics-text;version=9,,;;=",
        "application/openmetrics-text;version=a",
    ],
)
async def test_any_accept_header_is_answered(serving: Serving, accept: str) -> None:
    async with serving() as service:
        headers: Mapping[bytes, bytes] = {b"accept": accept.encode("latin-1")}
        answer = await service.client.get("/metrics", headers=headers)
        assert answer.status_code == 200
        assert "gen_service_build_info" in answer.text
