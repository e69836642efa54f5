"""Four replicas, a job for them, and what is measured while some loop works it off: in virtual time or over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from benchmarks.fleet_jobs import SimulatedJob
from benchmarks.fleet_loops import Watched
from gen_service.endpoints.readings import Readings
from gen_service.endpoints.servers import Requests
from gen_service.endpoints.simulated.engine_profile import R1_DISTILL_32B_TP2_H100, EngineProfile
from gen_service.endpoints.simulated.lengths import Lengths
from gen_service.endpoints.simulated.script import render_chat
from gen_service.endpoints.simulated.virtual_servers import Patience, VirtualServer, VirtualServers
from gen_service.errors import EndpointError
from gen_service.records import Prompt

SERVERS: Final = 4
SAMPLES: Final = 4000
PROMPT_TOKENS: Final = 200
LOOK_S: Final = 10.0
OF_SECOND_JOB: Final = "second"


@dataclass(frozen=True, slots=True)
class Run:
    """What one way of sending 4,000 samples came to.

    Attributes:
        watermark: share of the KV blocks that the servers leave free at an admission.
        utilisation: of the whole run; `before_tail` until the last request was sent.
        recomputed: tokens computed again after preemption, or because an answer went on at another server, over
            completion tokens; None where servers do not say.
        curve: (seconds, utilisation since the look before).
    """

    name: str
    watermark: float
    utilisation: float
    before_tail: float
    makespan_s: float
    tail_s: float
    preemptions: int
    recomputed: float | None
    curve: tuple[tuple[float, float], ...]


class ByText:
    """Lengths as the server over HTTP draws them, which knows a prompt by its text."""

    def __init__(self, lengths: Lengths, jobs: Sequence[SimulatedJob]) -> None:
        self._lengths = lengths
        self._texts = {prompt.prompt_id: _text(prompt) for job in jobs for prompt in job.read()}

    def tokens(self, prompt_id: str, sample: str) -> int:
        """Completion tokens of a sample's whole answer."""
        return self._lengths.tokens(self._texts[prompt_id], sample)


def _text(prompt: Prompt) -> str:
    return render_chat([{"role": message["role"], "content": message["content"]} for message in prompt.messages])


def replica(watermark: float) -> EngineProfile:
    """One of the four."""
    return replace(R1_DISTILL_32B_TP2_H100, watermark=watermark)


def jobs_of(samples_per_prompt: int) -> tuple[SimulatedJob, SimulatedJob]:
    """The job, and another like it."""
    first = SimulatedJob("first", SAMPLES // samples_per_prompt, samples_per_prompt)
    return first, replace(first, name=OF_SECOND_JOB)


class World:
    """Servers and what watches them, in the loop that runs.

    Args:
        requests: how servers are asked.

    Attributes:
        virtual: the engines, where they are in this process.
    """

    def __init__(
        self, requests: Requests, urls: Sequence[str], samples_per_prompt: int, seed: int, watermark: float
    ) -> None:
        self.seed = seed
        self.watermark = watermark
        self.urls = urls
        self.job, self.second = jobs_of(samples_per_prompt)
        self.lengths = ByText(Lengths(seed=seed), (self.job, self.second))
        self.watched = Watched(requests)
        self.full_rate = SERVERS * replica(watermark).full_rate(Lengths().mean)
        self.virtual: VirtualServers | None = None
        self._started_at = asyncio.get_running_loop().time()
        self._looks: list[tuple[float, float]] = []

    async def look(self) -> list[Readings]:
        """Note how many completion tokens were made so far.

        Raises:
            EndpointError: a server is too busy to say.
        """
        readings = [await self.watched.readings(url) for url in self.urls]
        now = asyncio.get_running_loop().time() - self._started_at
        self._looks.append((now, sum(one.generated_tokens or 0.0 for one in readings)))
        return readings

    async def watch(self) -> None:
        """Look every few seconds until cancelled."""
        while True:
            with suppress(EndpointError):
                await self.look()
            await asyncio.sleep(LOOK_S)

    async def run(self, name: str) -> Run:
        """What came of it."""
        readings = await self.look()
        seen = list(self.watched.seen.values())
        ended = max(one.last_ended_at for one in seen) - self._started_at
        last_sent = max(one.last_sent_at for one in seen) - self._started_at
        tokens = sum(one.tokens for one in seen)
        return Run(
            name=name,
            watermark=self.watermark,
            utilisation=tokens / ended / self.full_rate,
            before_tail=self._made_by(last_sent) / max(last_sent, 1e-9) / self.full_rate,
            makespan_s=ended,
            tail_s=ended - last_sent,
            preemptions=int(sum(one.preemptions or 0.0 for one in readings)),
            recomputed=self._recomputed(tokens, sum(one.given for one in seen)),
            curve=tuple((b[0], (b[1] - a[1]) / (b[0] - a[0]) / self.full_rate) for a, b in self._pairs()),
        )

    def _recomputed(self, tokens: int, given: int) -> float | None:
        if self.virtual is None:
            return None
        preempted = sum(server.engine.recomputed_tokens for server in self.virtual.servers.values())
        return (preempted + given) / tokens

    def _made_by(self, at: float) -> float:
        """Completion tokens made by then, between two looks in proportion."""
        for before, after in self._pairs():
            if before[0] <= at <= after[0]:
                return before[1] + (after[1] - before[1]) * (at - before[0]) / (after[0] - before[0])
        return self._looks[-1][1]

    def _pairs(self) -> list[tuple[tuple[float, float], tuple[float, float]]]:
        return [(before, after) for before, after in pairwise(self._looks) if after[0] > before[0]]


def virtual_world(samples_per_prompt: int, seed: int, watermark: float, patience: Patience) -> World:
    """Engines in the time of the running loop."""
    urls = [f"http://replica-{index}" for index in range(SERVERS)]
    jobs = jobs_of(samples_per_prompt)
    servers = VirtualServers(
        [VirtualServer(url, replica(watermark)) for url in urls],
        ByText(Lengths(seed=seed), jobs),
        patience=patience,
        prompt_tokens=PROMPT_TOKENS,
    )
    world = World(servers, urls, samples_per_prompt, seed, watermark)
    world.virtual = servers
    return world
