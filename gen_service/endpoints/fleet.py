"""Any number of vLLM servers as one, for any number of jobs."""

from __future__ import annotations

from gen_service.endpoints.endpoint import Endpoint
from gen_service.endpoints.job_fleet import JobFleet
from gen_service.endpoints.places import Places
from gen_service.endpoints.servers import Notice, Requests, Servers
from gen_service.endpoints.shares import Share
from gen_service.errors import SpecError
from gen_service.settings import EndpointSettings, PoolSettings, SamplingSettings


class Fleet:
    """The servers and their places; jobs `join` it and leave. Use as an async context manager.

    Invariants: what is in flight never exceeds the limit; no job keeps another from a place that it cannot use.

    Args:
        client: sends the requests.
        on_notice: told in words of ejections and returns.

    Attributes:
        endpoints: the servers.
        places: what is taken of them, and who waits.
    """

    def __init__(self, settings: EndpointSettings, pool: PoolSettings, client: Requests, on_notice: Notice) -> None:
        cap = pool.per_server or pool.in_flight
        self.endpoints = [Endpoint(url, cap, settings.eject_after, settings.probe_s) for url in settings.urls]
        self.places = Places(self.endpoints, pool.in_flight)
        self._settings = settings
        self._client = client
        self._jobs: dict[JobFleet, None] = {}
        self._on_notice = on_notice
        self._servers = Servers(self.endpoints, client, on_notice, self.places.serve, self._look, self._wanted)

    async def __aenter__(self) -> Fleet:
        await self._servers.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._servers.close()

    def models(self) -> dict[str, int | None]:
        """Every model that a server was heard to serve, with its longest context in tokens (None: not said)."""
        found: dict[str, int | None] = {}
        for endpoint in self.endpoints:
            for model, length in endpoint.models.items():
                found[model] = max(length or 0, found.get(model) or 0) or None
        return found

    def max_model_len(self, model: str) -> int | None:
        """The longest context in tokens that any server gives the model; None where that is not known."""
        return self.models().get(model)

    def require(self, model: str | None) -> None:
        """Check that a job's model can be had, and say which servers are of no use to it.

        Args:
            model: None for the first that a server offers.

        Raises:
            SpecError: every server was heard and none offers it: a mistake in the spec, not an outage.
        """
        wanted = model or self._servers.first_model()
        strangers = [endpoint for endpoint in self.endpoints if endpoint.heard and wanted not in endpoint.models]
        if len(strangers) == len(self.endpoints):
            lists = "; ".join(str(list(endpoint.models)) for endpoint in self.endpoints)
            raise SpecError("endpoints.model", model, f"a model that is served: {lists}")
        for endpoint in strangers:
            self._on_notice(f"{endpoint.url} is not used: it serves {list(endpoint.models)}, not {wanted!r}")

    def join(self, share: Share, sampling: SamplingSettings, model: str | None, on_notice: Notice) -> JobFleet:
        """Let a job have its share.

        Args:
            model: what it asks for; None for the first that a server offers.
            on_notice: told in words when the job has to wait for a server.
        """
        job = JobFleet(
            self._settings,
            self._client,
            self._servers,
            self.places,
            share,
            sampling,
            model,
            on_notice,
            self._left,
        )
        self._jobs[job] = None
        job.look()
        self._servers.look_again()
        return job

    def _left(self, job: JobFleet) -> None:
        del self._jobs[job]

    def _wanted(self) -> set[str]:
        return {job.model for job in self._jobs if job.model is not None}

    def _look(self) -> None:
        for job in self._jobs:
            job.look()
        self.places.serve()
