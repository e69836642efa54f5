"""Spans of jobs and samples, sent by OTLP in the background. Imported only where the operator asked for it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from importlib.metadata import version
from urllib.parse import urlsplit

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context

from gen_service.controller.tracing import JobSpan, Tracing
from gen_service.errors import cause_of
from gen_service.records import Completion, Sample, Trace

FIRST_TOKEN = "gen_ai.first_token"
_log = structlog.get_logger(__name__)

Attributes = dict[str, str | int | float | tuple[str, ...]]


class ExportedTracing(Tracing):
    """Sends spans in batches from a thread of its own; what does not fit its queue of 2,048 is dropped.

    All is set by OpenTelemetry's own environment variables.
    """

    def __init__(self) -> None:
        # What is given here goes over the environment, so only what that does not say is given.
        resource = Resource.create()
        if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "gen-service"}))
        resource = resource.merge(Resource({SERVICE_VERSION: version("gen-service")}))
        self._exporter = OTLPSpanExporter()
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("gen_service", version("gen-service"))

    def job(self, job_id: str, *, tenant: str, kind: str, model: str | None) -> JobSpan:
        """A run of a job begins now."""
        attributes: Attributes = {
            "gen_service.job.id": job_id,
            "gen_service.tenant": tenant,
            "gen_service.job.kind": kind,
        }
        if model is not None:
            attributes[gen_ai.GEN_AI_REQUEST_MODEL] = model
        span = self._tracer.start_span("job", Context(), kind=SpanKind.INTERNAL, attributes=attributes)
        return ExportedJobSpan(self._tracer, span)

    async def close(self, within_s: float = 5.0) -> None:
        """Send what was not sent yet, for `within_s` seconds at most; the rest is lost."""
        loop, sent = asyncio.get_running_loop(), asyncio.Event()

        def send() -> None:
            self._provider.shutdown()
            # The loop is gone where nobody waited for this any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(sent.set)

        # Not a thread of the loop's executor: the process would wait for it at its end.
        threading.Thread(target=send, name="last-spans", daemon=True).start()
        try:
            async with asyncio.timeout(within_s):
                await sent.wait()
        except TimeoutError:
            _log.warning("spans were not taken in time and are lost", within_s=within_s)
            self._exporter.shutdown()  # type: ignore[no-untyped-call]


class ExportedJobSpan(JobSpan):
    """The span of one run of a job, and its samples' as children, each with the times it really had."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span
        self._context = set_span_in_context(span)

    def sample(self, trace: Trace) -> None:
        """A sample of the job ended; the trace has its verdict."""
        attributes, sample = _about(trace), trace.sample
        operation = str(attributes[gen_ai.GEN_AI_OPERATION_NAME])
        completion = trace.completion
        began = time.time_ns() if completion is None else _ns(completion.started_at)
        span = self._tracer.start_span(
            operation if completion is None else f"{operation} {completion.model}",
            self._context,
            SpanKind.CLIENT,
            attributes | _about_sample(sample),
            start_time=began,
        )
        if completion is None:
            span.set_status(Status(StatusCode.ERROR, _clean(trace.error or "")))
            span.end(began)
            return
        # `first_token_s` counts from the last attempt; when that was sent is known of the first one only.
        if completion.first_token_s is not None and not completion.retries and not completion.continued:
            span.add_event(FIRST_TOKEN, timestamp=began + _ns(completion.first_token_s))
        span.end(began + _ns(completion.total_s))

    def end(self, state: str, reason: str | None = None) -> None:
        """The run ended: the job is in `state` now, and why. An error when it is `failed`."""
        self._span.set_attribute("gen_service.job.state", state)
        if state == "failed":
            self._span.set_status(Status(StatusCode.ERROR, reason))
        self._span.end()


def _clean(text: str) -> str:
    """Text of a client or a server without lone surrogates: for one of those its whole batch could not be sent."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _ns(seconds: float) -> int:
    """Nanoseconds, exact to the microsecond: more is not in a float of today's time."""
    return round(seconds * 1_000_000) * 1000


def _about(trace: Trace) -> Attributes:
    """What is said of the request and its outcome; no text of a prompt or an answer."""
    request, completion = trace.sample.prompt.request, trace.completion
    plain = request is not None and request.url == "/v1/completions"
    retries = trace.retries if completion is None else completion.retries
    attributes: Attributes = {
        gen_ai.GEN_AI_OPERATION_NAME: "text_completion" if plain else "chat",
        gen_ai.GEN_AI_PROVIDER_NAME: "vllm",
        "gen_service.attempts": len(retries) + 1,
        "gen_service.retries": retries,
    }
    if trace.verdict is not None:
        attributes["gen_service.verdict"] = trace.verdict.outcome
    if completion is None:
        attributes[ERROR_TYPE] = cause_of(trace.error or "")
    else:
        attributes |= _about_completion(completion)
    return attributes


def _about_completion(completion: Completion) -> Attributes:
    server = urlsplit(completion.endpoint)
    attributes: Attributes = {
        gen_ai.GEN_AI_REQUEST_MODEL: completion.model,
        gen_ai.GEN_AI_RESPONSE_FINISH_REASONS: (_clean(completion.finish_reason),),
        gen_ai.GEN_AI_USAGE_INPUT_TOKENS: completion.prompt_tokens,
        gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS: completion.completion_tokens,
        SERVER_ADDRESS: server.hostname or completion.endpoint,
        "gen_service.continued": completion.continued,
    }
    if server.port is not None:
        attributes[SERVER_PORT] = server.port
    if completion.first_token_s is not None:
        attributes[gen_ai.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK] = completion.first_token_s
    return attributes


def _about_sample(sample: Sample) -> Attributes:
    return {
        "gen_service.job.id": sample.job_id,
        "gen_service.sample.id": sample.sample_id,
        "gen_service.sample.index": sample.index,
        "gen_service.prompt.id": _clean(sample.prompt.prompt_id),
    }
