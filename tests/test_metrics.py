from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from gen_service.errors import CAUSES, RequestRefused, ServerFailed, Unreachable
from gen_service.metrics import DECLARED, TOKEN_BUCKETS, TRACE_SECONDS, Metrics
from gen_service.records import NO_TOKENS, Completion, Message, Prompt, Sample, Trace, Verdict

COMPLETION = Completion(
    None, "4", "stop", 11, 2000, NO_TOKENS, "m", "http://10.1.2.3:8000", 0, (), 1_700_000_000.0, 0.5, 75.0
)
SAMPLE = Sample("s1", "job-a", Prompt("p1", (Message(role="user", content="q"),), "4", "file", 1), 0)
TRACE = Trace(SAMPLE, COMPLETION, Verdict("correct", "equal", cpu_s=0.25))


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    return Metrics(registry)


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"gen_service_{name}", labels)


def test_names_are_unique_prefixed_and_in_base_units() -> None:
    names = [declared.name for declared in DECLARED]
    assert len(names) == len(set(names)) > 40
    for declared in DECLARED:
        assert re.fullmatch(r"gen_service(_[a-z]+)+", declared.name)
        assert (declared.kind == "counter") == declared.name.endswith("_total")
        assert declared.help.endswith(".")
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb|ratio|percent)(_|$)", declared.name)
        assert (declared.kind == "histogram") == bool(declared.buckets)
        assert list(declared.buckets) == sorted(set(declared.buckets))
        # Labels that Prometheus puts on every series itself.
        assert not {"job", "instance"} & set(declared.labels)
        # One label value would make as many series as there are jobs, prompts or people.
        assert not {"tenant", "sample", "prompt", "path", "model", "key"} & set(declared.labels)


def test_buckets_resolve_reasoning_traces() -> None:
    inside = [bound for bound in TOKEN_BUCKETS if 1000 <= bound <= 41_000]
    assert len(inside) >= 15
    assert all(late / early <= 1.55 for early, late in itertools.pairwise(inside))
    assert {8192, 16384, 24576, 32768} <= set(TOKEN_BUCKETS)
    assert max(TRACE_SECONDS) == 3600
    assert sum(bound >= 60 for bound in TRACE_SECONDS) >= 10


def test_a_closed_set_of_labels_begins_at_zero(registry: CollectorRegistry, metrics: Metrics) -> None:
    assert metrics is not None
    for cause in CAUSES:
        assert value(registry, "retries_total", cause=cause) == 0
        assert value(registry, "samples_total", outcome="error", cause=cause) == 0
    assert value(registry, "samples_total", outcome="truncated", cause="none") == 0
    assert value(registry, "verdicts_total", verdict="timeout") == 0
    assert value(registry, "webhooks_total", result="given_up") == 0
    assert value(registry, "uploads_total", result="abandoned") == 0
    assert value(registry, "trace_tokens_count") == 0
    assert value(registry, "published_bytes_total") == 0
    assert value(registry, "event_watchers") == 0


def test_a_trace_is_counted_under_all_its_names(registry: CollectorRegistry, metrics: Metrics) -> None:
    metrics.observe_trace(replace(TRACE, completion=replace(COMPLETION, retries=("stalled", "new"), continued=1)))
    assert value(registry, "samples_total", outcome="completed", cause="none") == 1
    assert value(registry, "verdicts_total", verdict="correct") == 1
    assert value(registry, "tokens_total", type="prompt") == 11
    assert value(registry, "tokens_total", type="completion") == 2000
    assert value(registry, "retries_total", cause="stalled") == 1
    assert value(registry, "retries_total", cause="other") == 1
    assert value(registry, "continued_total") == 1
    assert value(registry, "verifier_cpu_seconds_total") == 0.25
    assert value(registry, "trace_tokens_bucket", le="1536.0") == 0
    assert value(registry, "trace_tokens_bucket", le="2048.0") == 1
    assert value(registry, "trace_seconds_sum") == 75
    assert value(registry, "first_token_seconds_bucket", le="0.5") == 1


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (str(RequestRefused("http://a", "no", 400)), "refused"),
        (str(ServerFailed("http://a", "overloaded at once: x", 500)), "server_failed"),
        (str(Unreachable("http://a", "no route")), "unreachable"),
        ("something else at http://a: x", "other"),
        ("", "other"),
    ],
)
def test_an_error_is_counted_by_its_cause(registry: CollectorRegistry, error: str, cause: str) -> None:
    metrics = Metrics(registry)
    metrics.observe_trace(Trace(SAMPLE, None, Verdict("error", error), error, ("stalled",)))
    assert value(registry, "samples_total", outcome="error", cause=cause) == 1
    assert value(registry, "retries_total", cause="stalled") == 1
    assert value(registry, "verdicts_total", verdict="error") == 1
    assert value(registry, "trace_tokens_count") == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["stop", "length", None]),
            st.integers(0, 200_000),
            st.sampled_from(["correct", "incorrect", "truncated", "unverified"]),
            st.lists(st.sampled_from(CAUSES), max_size=3),
        ),
        max_size=30,
    )
)
def test_every_trace_is_counted_once_in_each_family(
    seen: list[tuple[str | None, int, str, list[str]]],
) -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for finish, tokens, verdict, retries in seen:
        judged = Verdict(verdict, "by test")  # type: ignore[arg-type]
        if finish is None:
            metrics.observe_trace(Trace(SAMPLE, None, judged, "refused at http://a: no", tuple(retries)))
        else:
            changed = replace(
                COMPLETION, finish_reason=finish, completion_tokens=tokens, retries=tuple(retries), first_token_s=None
            )
            metrics.observe_trace(replace(TRACE, completion=changed, verdict=judged))
    finishes = Counter(finish for finish, *_ in seen)
    assert value(registry, "samples_total", outcome="completed", cause="none") == finishes["stop"]
    assert value(registry, "samples_total", outcome="truncated", cause="none") == finishes["length"]
    assert value(registry, "samples_total", outcome="error", cause="refused") == finishes[None]
    verdicts = Counter(verdict for _, _, verdict, _ in seen)
    assert all(value(registry, "verdicts_total", verdict=name) == count for name, count in verdicts.items())
    causes = Counter(cause for *_, retries in seen for cause in retries)
    assert all(value(registry, "retries_total", cause=cause) == causes[cause] for cause in CAUSES)
    lengths = [tokens for finish, tokens, *_ in seen if finish is not None]
    assert value(registry, "trace_tokens_count") == len(lengths)
    assert value(registry, "trace_tokens_bucket", le="32768.0") == sum(tokens <= 32768 for tokens in lengths)
    assert value(registry, "tokens_total", type="completion") == sum(lengths)
    assert value(registry, "first_token_seconds_count") == 0


class Source:
    """Anything with sums of its own."""


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=40))
def test_sums_of_many_sources_are_counted_once_however_often_they_are_told(grown: list[tuple[int, int]]) -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    sources, sums = [Source() for _ in range(4)], [0] * 4
    for index, more in grown:
        sums[index] += more
        metrics.observe_published(sources[index], sums[index], 1, 10 * sums[index])
        metrics.observe_verifier(sources[index], sums[index], 2, 1)
        metrics.observe_published(sources[index], sums[index], 1, 10 * sums[index])
    told = {index for index, _ in grown}
    assert value(registry, "published_rows_total") == sum(sums)
    assert value(registry, "published_bytes_total") == 10 * sum(sums)
    assert value(registry, "published_parts_total") == len(told)
    assert value(registry, "verifier_requests_total") == sum(sums)
    assert value(registry, "verifier_workers_started_total") == 2 * len(told)
    assert value(registry, "verifier_workers_ended_total") == len(told)


def test_requests_are_counted_under_few_labels(registry: CollectorRegistry, metrics: Metrics) -> None:
    metrics.observe_request("/api/v1/jobs/{job_id}", "GET", 200, 0.01)
    for method in ("BREW", "get", "PROPFIND"):
        metrics.observe_request("unmatched", method, 405, 0.01)
    route = {"route": "/api/v1/jobs/{job_id}", "method": "GET"}
    assert value(registry, "http_requests_total", **route, status="200") == 1
    assert value(registry, "http_request_seconds_bucket", **route, le="0.01") == 1
    assert value(registry, "http_requests_total", route="unmatched", method="other", status="405") == 3


def test_watchers_uploads_webhooks_and_lag(registry: CollectorRegistry, metrics: Metrics) -> None:
    with metrics.watching(), metrics.watching():
        assert value(registry, "event_watchers") == 2
    assert value(registry, "event_watchers") == 0
    metrics.observe_upload("abandoned", 100)
    metrics.observe_upload("stored", 1000)
    assert value(registry, "uploads_total", result="abandoned") == 1
    assert value(registry, "upload_bytes_total") == 1100
    metrics.observe_webhook("failed")
    assert value(registry, "webhooks_total", result="failed") == 1
    metrics.observe_lag(-0.001)
    metrics.observe_lag(0.2)
    assert value(registry, "event_loop_lag_seconds_count") == 2
    assert value(registry, "event_loop_lag_seconds_sum") == 0.2


def test_both_text_forms_are_well_made_and_two_services_share_nothing(
    registry: CollectorRegistry, metrics: Metrics
) -> None:
    Metrics(CollectorRegistry()).observe_trace(TRACE)
    metrics.observe_trace(TRACE)
    families = {
        family.name: family for family in text_string_to_metric_families(generate_openmetrics(registry).decode())
    }
    assert families["gen_service_verifier_cpu_seconds"].unit == "seconds"
    assert "_created" not in generate_latest(registry).decode()
    assert value(registry, "verdicts_total", verdict="correct") == 1
