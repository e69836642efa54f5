"""What the service's parts say of themselves, read at each scrape. Only here and in `metrics` is Prometheus known."""

from __future__ import annotations

import asyncio
import platform
import shutil
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Final, Protocol, TypeVar, get_args

import structlog
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from gen_service import metrics as names
from gen_service.controller.run import Run
from gen_service.controller.verifiers import Verifiers
from gen_service.controller.watch import LoopLag
from gen_service.endpoints.endpoint import Endpoint, State
from gen_service.endpoints.fleet import LEAVING, Fleet
from gen_service.errors import CAUSES
from gen_service.metrics import Declared, Metrics
from gen_service.service_settings import ServiceSettings
from gen_service.storage.backlog import Backlog
from gen_service.store.store import Store
from gen_service.verification.verify import Verifier
from gen_service.wire.jobs import JobCounts
from gen_service.wire.states import STATES, JobState

# What a scrape waits for the database and the disk, of the 10 s that Prometheus gives it; without them it goes on.
LOOKED_UP_S: Final = 2.0
_log = structlog.get_logger(__name__)


class Measured(Protocol):
    """What is read of the controller."""

    @property
    def settings(self) -> ServiceSettings:
        """For the data folder."""
        ...

    @property
    def store(self) -> Store:
        """For the jobs by state."""
        ...

    @property
    def fleet(self) -> Fleet:
        """The servers and their places."""
        ...

    @property
    def verifiers(self) -> Verifiers:
        """Those that are open."""
        ...

    @property
    def running(self) -> Mapping[str, Run]:
        """The jobs that run, by id."""
        ...

    @property
    def lag(self) -> LoopLag:
        """How late the event loop wakes."""
        ...

    @property
    def draining(self) -> bool:
        """Whether no new work is taken."""
        ...

    @property
    def metrics(self) -> Metrics:
        """What is raised at events."""
        ...


Result = TypeVar("Result")
Labelled = tuple[Sequence[str], float]
Reading = Callable[["Measurements"], Iterable[Labelled]]


class Measurements(Collector):
    """The numbers of one controller, and the page that shows them with all others of its registry.

    It adds itself and the numbers of the process to the registry of the controller's `Metrics`, so there is one of it.
    """

    def __init__(self, controller: Measured) -> None:
        self.controller = controller
        self.jobs: Mapping[JobState, int] = {}
        self.free_bytes: int | None = None
        self._registry = controller.metrics.registry
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    async def page(self, accept: str) -> tuple[bytes, str]:
        """All numbers as of now, as text.

        Args:
            accept: the Accept header: OpenMetrics where it asks for that, else Prometheus's own text format.

        Returns:
            The text, and its content type.
        """
        controller = self.controller
        disk, jobs = await asyncio.gather(
            _looked_up(asyncio.to_thread(shutil.disk_usage, controller.settings.data.folder)),
            _looked_up(controller.store.jobs.count_by_state()),
        )
        self.free_bytes = None if disk is None else disk.free
        self.jobs = {} if jobs is None else {**dict.fromkeys(STATES, 0), **jobs}
        # Not in `collect`: some of the counters that this raises come before it.
        self.count()
        encode, content_type = _form(accept)
        # With hundreds of jobs the text takes tens of milliseconds; what it says is read here, in the loop.
        return await asyncio.to_thread(encode, _Read(list(self._registry.collect()))), content_type

    def describe(self) -> Iterator[Metric]:
        """The families, empty: no two collectors of a registry may have the same."""
        return (declared.family() for declared in READINGS)

    def collect(self) -> Iterator[Metric]:
        """The families of a scrape."""
        for declared, reading in READINGS.items():
            family = declared.family()
            for labels, value in reading(self):
                family.add_metric(labels, value)
            yield family

    def count(self) -> None:
        """Bring those counters up to date whose sums each running job and each verifier keeps for itself."""
        for backlog in self.backlogs:
            count_published(self.controller.metrics, backlog)
        for verifier in self.controller.verifiers.open:
            count_verifier(self.controller.metrics, verifier)

    @property
    def backlogs(self) -> list[Backlog]:
        """Those of the jobs that run."""
        looks = [run.running for run in self.controller.running.values()]
        return [look.backlog for look in looks if look is not None and look.backlog is not None]


class _Read(Collector):
    """Families that were read before."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _form(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    """What makes the text, and its content type."""
    try:
        return choose_encoder(accept)
    except TypeError:
        # It compares versions, also those that are no numbers.
        return choose_encoder("")


async def _looked_up(looking: Coroutine[object, object, Result]) -> Result | None:
    """What is found, or None where that fails or takes too long: the other numbers are shown all the same."""
    try:
        async with asyncio.timeout(LOOKED_UP_S):
            return await looking
    except Exception as error:
        _log.warning("a scrape goes without what could not be looked up", exc_info=error)
        return None


def count_published(metrics: Metrics, backlog: Backlog) -> None:
    """Count what a run has published so far; done when the run ends, and at each scrape before."""
    published = backlog.committed
    metrics.observe_published(backlog, published.rows, published.parts, published.bytes)


def count_verifier(metrics: Metrics, verifier: Verifier) -> None:
    """Count what a verifier's workers did so far; done when it is closed, and at each scrape before."""
    metrics.observe_verifier(verifier, verifier.worker_requests, verifier.workers_started, verifier.workers_ended)


def _one(read: Callable[[Measured], float]) -> Reading:
    return lambda all_: [((), read(all_.controller))]


def _servers(read: Callable[[Endpoint], float]) -> Reading:
    """Of each server, also of one that is leaving while requests are in flight there, and then no more."""
    return lambda all_: [((one.url,), read(one)) for one in all_.controller.fleet.known]


def _disk(together: Callable[[Iterable[float]], float], read: Callable[[Backlog], float]) -> Reading:
    return lambda all_: [((), together([0.0, *map(read, all_.backlogs)]))]


def _verifiers(read: Callable[[Verifier], int]) -> Reading:
    return lambda all_: [((), sum(map(read, all_.controller.verifiers.open)))]


def _running(read: Callable[[JobCounts], float | None]) -> Reading:
    """Of each running job: one that a client made, so there are as many as the settings allow to run at once."""

    def reading(all_: Measurements) -> Iterator[Labelled]:
        for job_id, run in all_.controller.running.items():
            value = read(run.counts())
            yield (job_id,), float("nan") if value is None else value

    return reading


def _states(all_: Measurements) -> Iterator[Labelled]:
    fleet = all_.controller.fleet
    for endpoint in fleet.known:
        for state in (*get_args(State), LEAVING):
            yield (endpoint.url, state), float(fleet.state_of(endpoint) == state)


def _failures(all_: Measurements) -> Iterator[Labelled]:
    for endpoint in all_.controller.fleet.known:
        for cause in CAUSES:
            yield (endpoint.url, cause), endpoint.failures.get(cause, 0)


# How each declared name is read that is not raised at events.
READINGS: Final[Mapping[Declared, Reading]] = {
    names.BUILD_INFO: lambda _: [((version("gen-service"), platform.python_version()), 1.0)],
    names.DRAINING: _one(lambda controller: controller.draining),
    names.LOOP_LAG_MAX: _one(lambda controller: controller.lag.largest),
    names.FREE_BYTES: lambda all_: [] if all_.free_bytes is None else [((), all_.free_bytes)],
    names.SERVER_STATE: _states,
    names.IN_FLIGHT: _servers(lambda endpoint: endpoint.in_flight),
    names.IN_FLIGHT_LIMIT: _servers(lambda endpoint: int(endpoint.limit)),
    names.PLACES_LIMIT: _one(lambda controller: controller.fleet.places.limit),
    names.PLACES_WAITING: _one(lambda controller: controller.fleet.places.waiting),
    names.EJECTIONS: _servers(lambda endpoint: endpoint.ejections),
    names.ANSWERS: _servers(lambda endpoint: endpoint.completed),
    names.FAILURES: _failures,
    names.DISCARDED: _one(lambda controller: controller.fleet.discarded_tokens),
    names.VERIFIER_WAITING: _verifiers(lambda verifier: verifier.requests_waiting),
    names.VERIFIER_BUSY: _verifiers(lambda verifier: verifier.workers_busy),
    names.JOURNAL_ROWS: _disk(sum, lambda backlog: backlog.journal_rows),
    names.JOURNAL_AGE: _disk(max, lambda backlog: backlog.journal_oldest_s),
    names.JOURNAL_BYTES: _disk(sum, lambda backlog: backlog.journal_bytes),
    names.JOURNAL_WAITING: _disk(sum, lambda backlog: backlog.waiting_rows),
    names.SHARD_ROWS: _disk(sum, lambda backlog: backlog.shard_rows),
    names.SHARD_AGE: _disk(max, lambda backlog: backlog.shard_oldest_s),
    names.JOBS: lambda all_: [((state,), count) for state, count in all_.jobs.items()],
    names.JOB_EXPECTED: _running(lambda counts: counts.samples),
    names.JOB_PUBLISHED: _running(lambda counts: counts.published),
    names.JOB_IN_FLIGHT: _running(lambda counts: counts.in_flight),
    names.JOB_WAITING: _running(lambda counts: counts.waiting),
}
