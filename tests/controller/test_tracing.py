from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from gen_service.controller.controller import Controller
from gen_service.controller.tracing import open_tracing
from gen_service.endpoints.simulated import SimulatedServer
from gen_service.records import NO_TOKENS, BatchLine, Completion, Message, Prompt, Sample, Trace, Verdict
from gen_service.service_settings import DataSettings, ServiceSettings, VerifierSettings
from gen_service.settings import EndpointSettings
from gen_service.store.database import open_store
from gen_service.wire.jobs import JobRequest, PromptSource
from gen_service.wire.states import FINAL

BEGAN = 1_700_000_000.25
COMPLETION = Completion(
    *("thinking", "an answer", "stop", 11, 2345, NO_TOKENS, "m-7b", "http://10.1.2.3:8000", 0, ()),
    *(BEGAN, 0.5, 75.125),
)
SAMPLE = Sample("s1", "job-a", Prompt("p1", (Message(role="user", content="q"),), "4", "file", 1), 3)
TRACE = Trace(SAMPLE, COMPLETION, Verdict("correct", "equal"))


class Receiver:
    """An OTLP/HTTP collector on loopback that keeps what it is sent. While `open` is not set it does not answer."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.headers: list[str] = []
        self.asked, self.open = asyncio.Event(), asyncio.Event()
        self.open.set()
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        self.asked.set()
        self.requests.append(ExportTraceServiceRequest.FromString(await request.read()))
        self.headers.append(request.headers.get("x-tenant", ""))
        await self.open.wait()
        return web.Response(content_type="application/x-protobuf")

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@asynccontextmanager
async def receiving(monkeypatch: pytest.MonkeyPatch, **settings: str) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/v1/traces", receiver.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    try:
        yield receiver
    finally:
        receiver.open.set()
        await runner.cleanup()


def attributes(span: Span) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for attribute in span.attributes:
        kind = attribute.value.WhichOneof("value")
        value = getattr(attribute.value, kind)
        values[attribute.key] = [one.string_value for one in value.values] if kind == "array_value" else value
    return values


def test_without_an_endpoint_nothing_of_opentelemetry_is_imported() -> None:
    code = (
        "import sys\n"
        "from gen_service.controller.tracing import open_tracing\n"
        "for environment in ({}, {'OTEL_EXPORTER_OTLP_ENDPOINT': ' '},\n"
        "        {'OTEL_EXPORTER_OTLP_ENDPOINT': 'http://127.0.0.1:1', 'OTEL_SDK_DISABLED': 'true'},\n"
        "        {'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT': 'http://127.0.0.1:1', 'OTEL_TRACES_EXPORTER': 'none'}):\n"
        "    open_tracing(environment).job('a', tenant='t', kind='native', model=None).end('completed')\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


async def test_a_job_is_a_span_and_its_samples_are_its_children_with_their_true_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with receiving(monkeypatch, OTEL_EXPORTER_OTLP_HEADERS="x-tenant=ops") as receiver:
        tracing = open_tracing()
        job = tracing.job("job-a", tenant="default", kind="native", model="m-7b")
        job.sample(TRACE)
        job.end("completed")
        await tracing.close()
    child, parent = receiver.spans
    assert set(receiver.headers) == {"ops"}
    assert (parent.name, parent.parent_span_id) == ("job", b"")
    assert (child.trace_id, child.parent_span_id) == (parent.trace_id, parent.span_id)
    assert attributes(parent) == {
        **{"gen_service.job.id": "job-a", "gen_service.tenant": "default", "gen_service.job.kind": "native"},
        **{"gen_service.job.state": "completed", "gen_ai.request.model": "m-7b"},
    }
    assert (child.name, child.kind) == ("chat m-7b", Span.SPAN_KIND_CLIENT)
    began = 1_700_000_000_250_000_000
    assert (child.start_time_unix_nano, child.end_time_unix_nano) == (began, began + 75_125_000_000)
    (event,) = child.events
    assert (event.name, event.time_unix_nano) == ("gen_ai.first_token", began + 500_000_000)
    assert attributes(child) == {
        **{"gen_ai.operation.name": "chat", "gen_ai.provider.name": "vllm", "gen_ai.request.model": "m-7b"},
        **{"gen_ai.response.finish_reasons": ["stop"], "gen_ai.response.time_to_first_chunk": 0.5},
        **{"gen_ai.usage.input_tokens": 11, "gen_ai.usage.output_tokens": 2345},
        **{"server.address": "10.1.2.3", "server.port": 8000},
        **{"gen_service.job.id": "job-a", "gen_service.sample.id": "s1", "gen_service.sample.index": 3},
        **{"gen_service.prompt.id": "p1", "gen_service.verdict": "correct"},
        **{"gen_service.attempts": 1, "gen_service.retries": [], "gen_service.continued": 0},
    }
    (resource,) = {request.resource_spans[0].resource.SerializeToString() for request in receiver.requests}
    assert b"gen-service" in resource


async def test_a_sample_that_was_tried_again_says_so_and_claims_no_time_that_is_not_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = BatchLine("/v1/completions", {"prompt": "q"})
    retried = replace(
        TRACE,
        sample=replace(SAMPLE, prompt=replace(SAMPLE.prompt, request=line)),
        completion=replace(COMPLETION, retries=("stalled", "overloaded"), continued=1, endpoint="http://vllm-0"),
    )
    async with receiving(monkeypatch) as receiver:
        tracing = open_tracing()
        job = tracing.job("job-a", tenant="default", kind="batch", model=None)
        job.sample(retried)
        job.end("completed")
        await tracing.close()
    child, parent = receiver.spans
    assert list(child.events) == []
    said = attributes(child)
    assert (said["gen_service.attempts"], said["gen_service.retries"]) == (3, ["stalled", "overloaded"])
    assert (said["gen_ai.operation.name"], child.name) == ("text_completion", "text_completion m-7b")
    assert (said["server.address"], "server.port" in said) == ("vllm-0", False)
    assert "gen_ai.request.model" not in attributes(parent)


async def test_errors_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "refused at http://10.1.2.3:8000 (HTTP 400): no \ud800"
    sample = replace(SAMPLE, prompt=replace(SAMPLE.prompt, prompt_id="p\udfff"))
    failed = Trace(sample, None, Verdict("error", words), words, ("stalled",))
    async with receiving(monkeypatch) as receiver:
        tracing = open_tracing()
        job = tracing.job("job-a", tenant="default", kind="native", model="m-7b")
        job.sample(failed)
        job.end("failed", "the disk failed")
        await tracing.close()
    child, parent = receiver.spans
    for span, message in ((child, words.replace("\ud800", "?")), (parent, "the disk failed")):
        assert (span.status.code, span.status.message) == (Status.STATUS_CODE_ERROR, message)
    assert attributes(child)["error.type"] == "refused"
    assert attributes(child)["gen_service.attempts"] == 2
    assert child.start_time_unix_nano == child.end_time_unix_nano


async def test_all_samples_come_in_batches_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving(monkeypatch, OTEL_BSP_MAX_EXPORT_BATCH_SIZE="100", OTEL_SERVICE_NAME="mine") as receiver:
        tracing = open_tracing()
        job = tracing.job("job-a", tenant="default", kind="native", model="m-7b")
        for index in range(1000):
            job.sample(replace(TRACE, sample=replace(SAMPLE, sample_id=f"s{index}", index=index)))
        job.end("completed")
        await tracing.close()
    samples = [attributes(span) for span in receiver.spans if span.name != "job"]
    assert sorted(one["gen_service.sample.index"] for one in samples) == list(range(1000))
    assert max(len(request.resource_spans[0].scope_spans[0].spans) for request in receiver.requests) <= 100
    assert b"mine" in receiver.requests[0].resource_spans[0].resource.SerializeToString()


async def test_a_collector_that_does_not_answer_holds_up_neither_samples_nor_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with receiving(monkeypatch, OTEL_BSP_MAX_QUEUE_SIZE="64", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="32") as receiver:
        receiver.open.clear()
        tracing = open_tracing()
        job = tracing.job("job-a", tenant="default", kind="native", model="m-7b")
        for index in range(32):
            job.sample(replace(TRACE, sample=replace(SAMPLE, index=index)))
        await receiver.asked.wait()
        for index in range(1000):  # many more than the queue holds
            job.sample(replace(TRACE, sample=replace(SAMPLE, index=index)))
        job.end("completed")
        await tracing.close(within_s=0.01)
        assert len(receiver.requests) == 1
        receiver.open.set()
        for thread in threading.enumerate():
            if thread.name in ("last-spans", "OtelBatchSpanRecordProcessor"):
                await asyncio.to_thread(thread.join)
    assert len(receiver.spans) <= 32 + 64


async def test_each_run_of_a_job_and_each_of_its_samples_comes_from_a_real_service(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = [{"id": f"p{n}", "prompt": f"What is {n} + 5?", "answer": str(n + 5)} for n in range(6)]
    async with receiving(monkeypatch) as receiver, SimulatedServer() as server:
        settings = ServiceSettings(
            endpoints=EndpointSettings(urls=(server.url,)),
            data=DataSettings(folder=tmp_path, min_free_bytes=0),
            verifier=VerifierSettings(workers=1),
        )
        tracing = open_tracing()
        async with (
            open_store(f"sqlite:///{tmp_path}/service.db") as store,
            Controller(settings, store, tracing=tracing) as controller,
        ):
            row, _ = await controller.submit("team", JobRequest(prompts=PromptSource(rows=tuple(rows)), samples=2))
            while row.state not in FINAL:
                changed = controller.changed(row.id)
                row = await store.jobs.get(row.id, None)
                if row.state not in FINAL:
                    await changed.wait()
        await tracing.close()
    (job,) = (span for span in receiver.spans if span.name == "job")
    samples = [span for span in receiver.spans if span.name != "job"]
    assert (attributes(job)["gen_service.job.id"], attributes(job)["gen_service.tenant"]) == (row.id, "team")
    assert attributes(job)["gen_service.job.state"] == "completed"
    assert {span.parent_span_id for span in samples} == {job.span_id}
    found = Counter(
        (attributes(span)["gen_service.prompt.id"], attributes(span)["gen_service.sample.index"]) for span in samples
    )
    assert found == {(f"p{n}", index): 1 for n in range(6) for index in range(2)}
    for span in samples:
        said = attributes(span)
        assert (said["gen_service.verdict"], said["server.port"]) == ("correct", int(server.url.rpartition(":")[2]))
        (event,) = span.events
        assert job.start_time_unix_nano <= span.start_time_unix_nano <= event.time_unix_nano <= span.end_time_unix_nano
