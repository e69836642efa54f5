"""Traces of jobs and samples for OpenTelemetry, where the operator asks for them by its environment variables.

Without an endpoint nothing of OpenTelemetry is imported and each call here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from gen_service.records import Trace

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class JobSpan:
    """One run of a job. This one goes nowhere."""

    def sample(self, trace: Trace) -> None:
        """A sample of the job ended; the trace has its verdict."""

    def end(self, state: str, reason: str | None = None) -> None:
        """The run ended: the job is in `state` now, and why. An error when it is `failed`."""


class Tracing:
    """Makes the spans of a service. This one makes none."""

    def job(self, job_id: str, *, tenant: str, kind: str, model: str | None) -> JobSpan:
        """A run of a job begins now."""
        return JobSpan()

    async def close(self, within_s: float = 5.0) -> None:
        """Send what was not sent yet, for `within_s` seconds at most; the rest is lost."""


def open_tracing(environment: Mapping[str, str] = os.environ) -> Tracing:
    """Traces to the OTLP endpoint that the environment names, or none.

    The variables are OpenTelemetry's own: OTEL_EXPORTER_OTLP_ENDPOINT (or ..._TRACES_ENDPOINT) by http/protobuf, and
    what its SDK reads beside them (headers, timeout, sampler, service name, batch sizes). OTEL_SDK_DISABLED=true and
    OTEL_TRACES_EXPORTER=none turn it off.
    """
    disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    none = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"
    if disabled or none or not any(environment.get(name, "").strip() for name in ENDPOINTS):
        return Tracing()
    from gen_service.controller.spans import ExportedTracing  # a second of imports, for those who want it

    return ExportedTracing()
