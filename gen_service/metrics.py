"""Every Prometheus name of the service, in one list, and the numbers that are raised when something happens.

Names are in base units: seconds, bytes, tokens. What a component can tell at any time is not counted here a second
time but read from it at each scrape, by `controller/measurements.py`. Label values come from closed sets, the settings
(`server`), the routes' templates, or the jobs that run now (`job_id`; Prometheus has `job` for itself).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal, get_args
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from gen_service.errors import CAUSES, cause_of
from gen_service.records import CANCELLED, Outcome, Trace

Kind = Literal["counter", "gauge", "histogram"]
UploadResult = Literal["stored", "refused", "abandoned"]
WebhookResult = Literal["delivered", "failed", "given_up"]
SampleOutcome = Literal["completed", "truncated", "cancelled", "error"]
OUTCOME_BY_FINISH: Final[dict[str, SampleOutcome]] = {"length": "truncated", CANCELLED: "cancelled"}
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNITS: Final = ("seconds", "bytes", "tokens")


@dataclass(frozen=True, slots=True)
class Declared:
    """One name: what it is, and how it is split.

    Attributes:
        buckets: upper bounds, of a histogram only; the last one, infinity, is left out.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def unit(self) -> str:
        """The unit that the name ends in, or nothing where it counts things."""
        ending = self.name.removesuffix("_total").rpartition("_")[2]
        return ending if ending in UNITS else ""

    def family(self) -> CounterMetricFamily | GaugeMetricFamily:
        """An empty family, to be filled at a scrape."""
        made = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        return made(self.name, self.help, labels=self.labels, unit=self.unit)


KI = 1024
# Powers of two and their halves, so that the usual limits of 8, 16, 24, 32 and 40 Ki tokens are bounds.
TOKEN_BUCKETS = (
    *(64, 128, 256, 512, 1 * KI, 1.5 * KI, 2 * KI, 3 * KI, 4 * KI, 6 * KI, 8 * KI, 10 * KI, 12 * KI, 14 * KI, 16 * KI),
    *(20 * KI, 24 * KI, 28 * KI, 32 * KI, 36 * KI, 40 * KI, 64 * KI, 128 * KI),
)
# A trace of 40k tokens takes 10 to 60 minutes.
TRACE_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 45, 60, 90, 120, 180, 240, 300, 420, 600, 900, 1200, 1800, 3600)
FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

# The service.
BUILD_INFO = Declared("gen_service_build_info", "gauge", "Always 1.", ("version", "python"))
DRAINING = Declared("gen_service_draining", "gauge", "1 while the service takes no new work because it ends.")
LOOP_LAG = Declared(
    *("gen_service_event_loop_lag_seconds", "histogram", "How late the event loop woke from a timed sleep."),
    buckets=LAG_SECONDS,
)
LOOP_LAG_MAX = Declared(
    "gen_service_event_loop_lag_max_seconds", "gauge", "Largest lag of the event loop in the last one to two minutes."
)
FREE_BYTES = Declared("gen_service_data_free_bytes", "gauge", "Free room on the disk of the data folder.")

# Servers.
SERVER_STATE = Declared(
    *("gen_service_server_state", "gauge", "1 for the state that a server is in, else 0."), ("server", "state")
)
IN_FLIGHT = Declared("gen_service_in_flight", "gauge", "Requests in flight at a server.", ("server",))
IN_FLIGHT_LIMIT = Declared("gen_service_in_flight_limit", "gauge", "Most requests given to a server.", ("server",))
PLACES_LIMIT = Declared("gen_service_places_limit", "gauge", "Most requests in flight at all servers together.")
PLACES_WAITING = Declared("gen_service_places_waiting", "gauge", "Samples that wait for a place at a server.")
EJECTIONS = Declared("gen_service_server_ejections_total", "counter", "How often a server was ejected.", ("server",))
ANSWERS = Declared("gen_service_server_answers_total", "counter", "Whole answers that a server gave.", ("server",))
FAILURES = Declared(
    *("gen_service_server_failures_total", "counter", "Requests to a server that failed."), ("server", "cause")
)

# Samples. One that ended counts when its row was handed to the shards.
SAMPLES = Declared(
    *("gen_service_samples_total", "counter", "Samples that ended; the cause is of an error."), ("outcome", "cause")
)
VERDICTS = Declared("gen_service_verdicts_total", "counter", "Samples that ended, by verdict.", ("verdict",))
RETRIES = Declared("gen_service_retries_total", "counter", "Failed attempts of samples that ended.", ("cause",))
CONTINUED = Declared("gen_service_continued_total", "counter", "Times a sample went on from the tokens it had.")
TOKENS = Declared("gen_service_tokens_total", "counter", "Tokens of samples that ended.", ("type",))
DISCARDED = Declared("gen_service_discarded_tokens_total", "counter", "Completion tokens that came for no trace.")
TRACE_TOKENS = Declared(
    *("gen_service_trace_tokens", "histogram", "Completion tokens of one trace."), buckets=TOKEN_BUCKETS
)
TRACE_LATENCY = Declared(
    *("gen_service_trace_seconds", "histogram", "From the first attempt to the last token of one trace."),
    buckets=TRACE_SECONDS,
)
FIRST_TOKEN = Declared(
    *("gen_service_first_token_seconds", "histogram", "From sending the last attempt to its first token."),
    buckets=FIRST_TOKEN_SECONDS,
)

# Verification.
VERIFIER_WAITING = Declared("gen_service_verifier_waiting", "gauge", "Checks that wait for a verifier process.")
VERIFIER_BUSY = Declared("gen_service_verifier_busy", "gauge", "Verifier processes that work on a check.")
VERIFIER_CPU = Declared("gen_service_verifier_cpu_seconds_total", "counter", "CPU time of checks that ended.")
VERIFIER_REQUESTS = Declared("gen_service_verifier_requests_total", "counter", "Checks sent to verifier processes.")
WORKERS_STARTED = Declared("gen_service_verifier_workers_started_total", "counter", "Verifier processes started.")
WORKERS_ENDED = Declared("gen_service_verifier_workers_ended_total", "counter", "Verifier processes that ended.")

# Disk. Journal and shards are those of the jobs that run.
JOURNAL_ROWS = Declared("gen_service_journal_rows", "gauge", "Rows that are journaled but not yet published.")
JOURNAL_AGE = Declared(
    "gen_service_journal_oldest_seconds", "gauge", "Age of the oldest row that is journaled but not yet published."
)
JOURNAL_BYTES = Declared("gen_service_journal_bytes", "gauge", "Bytes of the journals.")
JOURNAL_WAITING = Declared("gen_service_journal_waiting_rows", "gauge", "Rows in memory that wait for the journal.")
SHARD_ROWS = Declared("gen_service_shard_rows", "gauge", "Rows with a verdict that no published part holds yet.")
SHARD_AGE = Declared(
    "gen_service_shard_oldest_seconds", "gauge", "Age of the oldest row with a verdict that no published part holds."
)
PUBLISHED_ROWS = Declared("gen_service_published_rows_total", "counter", "Rows published.")
PUBLISHED_PARTS = Declared("gen_service_published_parts_total", "counter", "Parquet files published.")
PUBLISHED_BYTES = Declared("gen_service_published_bytes_total", "counter", "Bytes of the Parquet files published.")

# Jobs.
JOBS = Declared("gen_service_jobs", "gauge", "Jobs in each state.", ("state",))
OF_JOB = ("job_id",)
JOB_EXPECTED = Declared(
    "gen_service_job_expected_samples", "gauge", "Samples that a running job makes in all; NaN when not known.", OF_JOB
)
JOB_PUBLISHED = Declared("gen_service_job_published_samples", "gauge", "Samples of a running job published.", OF_JOB)
JOB_IN_FLIGHT = Declared("gen_service_job_in_flight", "gauge", "Requests of a running job in flight.", OF_JOB)
JOB_WAITING = Declared("gen_service_job_waiting", "gauge", "Samples of a running job that wait for a place.", OF_JOB)

# The doors.
REQUESTS = Declared(
    *("gen_service_http_requests_total", "counter", "HTTP requests answered, by the template of their route."),
    ("route", "method", "status"),
)
REQUEST_LATENCY = Declared(
    *("gen_service_http_request_seconds", "histogram", "From a request's head to the head of its answer."),
    ("route", "method"),
    REQUEST_SECONDS,
)
WATCHERS = Declared("gen_service_event_watchers", "gauge", "Clients that follow the events of a job.")
UPLOADS = Declared("gen_service_uploads_total", "counter", "Uploads that ended.", ("result",))
UPLOAD_BYTES = Declared("gen_service_upload_bytes_total", "counter", "Bytes of uploads received.")
WEBHOOKS = Declared("gen_service_webhooks_total", "counter", "Attempts to deliver a webhook.", ("result",))

DECLARED: Final = tuple(value for value in tuple(globals().values()) if isinstance(value, Declared))


class _SoFar:
    """Counters over many sources, each of which only knows its own sums so far."""

    def __init__(self, *families: Counter) -> None:
        self._families = families
        self._counted: WeakKeyDictionary[object, tuple[int, ...]] = WeakKeyDictionary()

    def count(self, source: object, *sums: int) -> None:
        """Count what a source's sums have grown by since it was last counted."""
        before = self._counted.get(source, (0,) * len(sums))
        self._counted[source] = sums
        for family, now, then in zip(self._families, sums, before, strict=True):
            family.inc(now - then)


class Metrics:
    """Counters and histograms that are raised when something happens. One for a service.

    Series of closed label sets are there, with 0, from the start.

    Attributes:
        registry: where the families are.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        # Else each counter and histogram has a second series with the time at which it began.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry
        self._samples = self._counter(SAMPLES)
        self._verdicts = self._counter(VERDICTS)
        self._retries = self._counter(RETRIES)
        self._continued = self._counter(CONTINUED)
        self._tokens = self._counter(TOKENS)
        self._trace_tokens = self._histogram(TRACE_TOKENS)
        self._trace_seconds = self._histogram(TRACE_LATENCY)
        self._first_token_seconds = self._histogram(FIRST_TOKEN)
        self._verifier_cpu = self._counter(VERIFIER_CPU)
        self._lag = self._histogram(LOOP_LAG)
        self._requests = self._counter(REQUESTS)
        self._request_seconds = self._histogram(REQUEST_LATENCY)
        self._watchers = Gauge(WATCHERS.name, WATCHERS.help, registry=registry)
        self._uploads = self._counter(UPLOADS)
        self._upload_bytes = self._counter(UPLOAD_BYTES)
        self._webhooks = self._counter(WEBHOOKS)
        self._published = _SoFar(*map(self._counter, (PUBLISHED_ROWS, PUBLISHED_PARTS, PUBLISHED_BYTES)))
        self._verifiers = _SoFar(*map(self._counter, (VERIFIER_REQUESTS, WORKERS_STARTED, WORKERS_ENDED)))
        self._begin_at_zero()

    def observe_trace(self, trace: Trace) -> None:
        """A sample ended: its trace has a verdict and was handed to the shards."""
        completion, verdict = trace.completion, trace.verdict
        retries = trace.retries if completion is None else completion.retries
        for cause in retries:
            self._retries.labels(cause if cause in CAUSES else "other").inc()
        self._verdicts.labels("unverified" if verdict is None else verdict.outcome).inc()
        self._verifier_cpu.inc(0.0 if verdict is None else verdict.cpu_s)
        if completion is None:
            self._samples.labels("error", cause_of(trace.error or "")).inc()
            return
        outcome = OUTCOME_BY_FINISH.get(completion.finish_reason, "completed")
        self._samples.labels(outcome, "none").inc()
        self._continued.inc(completion.continued)
        self._tokens.labels("prompt").inc(completion.prompt_tokens)
        self._tokens.labels("completion").inc(completion.completion_tokens)
        self._trace_tokens.observe(completion.completion_tokens)
        self._trace_seconds.observe(completion.total_s)
        if completion.first_token_s is not None:
            self._first_token_seconds.observe(completion.first_token_s)

    def observe_published(self, run: object, rows: int, parts: int, size: int) -> None:
        """A run has published this much so far, `size` in bytes. Told again, only what came since is counted."""
        self._published.count(run, rows, parts, size)

    def observe_verifier(self, verifier: object, requests: int, started: int, ended: int) -> None:
        """A verifier has asked its workers, started and ended so many so far. Told again, as `observe_published`."""
        self._verifiers.count(verifier, requests, started, ended)

    def observe_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered.

        Args:
            route: the template of its route, never the path itself.
            seconds: until the head of the answer was sent.
        """
        method = method if method in METHODS else "other"
        self._requests.labels(route, method, str(status)).inc()
        self._request_seconds.labels(route, method).observe(seconds)

    def observe_lag(self, seconds: float) -> None:
        """The event loop woke `seconds` late."""
        self._lag.observe(max(0.0, seconds))

    def observe_upload(self, result: UploadResult, size: int) -> None:
        """An upload ended after `size` bytes."""
        self._uploads.labels(result).inc()
        self._upload_bytes.inc(size)

    def observe_webhook(self, result: WebhookResult) -> None:
        """An attempt to deliver a webhook ended."""
        self._webhooks.labels(result).inc()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While a client follows the events of a job."""
        with self._watchers.track_inprogress():
            yield

    def _counter(self, declared: Declared) -> Counter:
        return Counter(declared.name, declared.help, declared.labels, unit=declared.unit, registry=self.registry)

    def _histogram(self, declared: Declared) -> Histogram:
        return Histogram(
            declared.name,
            declared.help,
            declared.labels,
            unit=declared.unit,
            buckets=(*declared.buckets, math.inf),
            registry=self.registry,
        )

    def _begin_at_zero(self) -> None:
        for outcome in get_args(SampleOutcome):
            for cause in CAUSES if outcome == "error" else ("none",):
                self._samples.labels(outcome, cause)
        for family, values in (
            (self._verdicts, get_args(Outcome)),
            (self._retries, CAUSES),
            (self._tokens, ("prompt", "completion")),
            (self._uploads, get_args(UploadResult)),
            (self._webhooks, get_args(WebhookResult)),
        ):
            for value in values:
                family.labels(value)
