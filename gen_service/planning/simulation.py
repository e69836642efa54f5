"""Runs a job's shape in virtual time: the real loop, order, steering, places and limits, on simulated engines."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from gen_service.endpoints.fleet import Fleet
from gen_service.endpoints.job_fleet import JobFleet
from gen_service.endpoints.shares import Share
from gen_service.endpoints.simulated.engine_profile import EngineProfile
from gen_service.endpoints.simulated.virtual_servers import Patience, VirtualServer, VirtualServers
from gen_service.endpoints.simulated.virtual_time import run_in_virtual_time
from gen_service.generation.generate import Generation, Verifies
from gen_service.generation.pool import Stop
from gen_service.generation.progress import Progress
from gen_service.generation.sample_plan import SamplePlan
from gen_service.jobs.job import JobSpec
from gen_service.planning.answer_lengths import AnswerLengths
from gen_service.planning.memory_folder import MemoryFolder
from gen_service.planning.watch import SteadyPart, Watch, steady_part
from gen_service.records import Prompt, Trace
from gen_service.settings import EndpointSettings

DELIVER_S = 30.0
"""Seconds of virtual time between two looks at what has come of the answers. Only the order is told so often."""

MODEL = "planned"
LONGEST_PROMPT = 100_000


@dataclass(slots=True)
class Simulated:
    """What the run came to. Times are seconds of virtual time.

    Attributes:
        samples: that have a row.
        failed: of them, without an answer.
        last_start_s: when the last request was sent.
        live_tokens: what a running answer holds in the KV cache, its prompt included, on average over time.
        recomputed_tokens: computed again after preemptions.
        steady: while there was always another sample to send; None where all went out at once.
    """

    samples: int = 0
    failed: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    completion_tokens: int = 0
    makespan_s: float = 0.0
    last_start_s: float = 0.0
    live_tokens: float = 0.0
    recomputed_tokens: int = 0
    preemptions: int = 0
    steady: SteadyPart | None = None


def simulate(
    spec: JobSpec,
    prompts: Sequence[Prompt],
    prompt_tokens: int,
    engines: Sequence[EngineProfile],
    lengths: AnswerLengths,
    verifier: Verifies,
) -> Simulated:
    """Run the job in virtual time: the same on every call.

    Args:
        spec: of which sampling, truncation, pool, order and steering count; its servers and output are not touched.
        prompts: all of them.
        prompt_tokens: length of every prompt.
        engines: one server each.

    Raises:
        SpecError: something in the spec cannot be done.
    """
    return run_in_virtual_time(_run(spec, prompts, prompt_tokens, engines, lengths, verifier))


async def _run(
    spec: JobSpec,
    prompts: Sequence[Prompt],
    prompt_tokens: int,
    engines: Sequence[EngineProfile],
    lengths: AnswerLengths,
    verifier: Verifies,
) -> Simulated:
    settings = _endpoints(spec.endpoints, len(engines))
    servers = [
        VirtualServer(url, engine, model=MODEL, max_model_len=engine.kv_tokens, deliver_s=DELIVER_S)
        for url, engine in zip(settings.urls, engines, strict=True)
    ]
    patience = Patience(settings.first_token_s, settings.stall_s, settings.wall_s)
    tokens = min(prompt_tokens, LONGEST_PROMPT)
    virtual = VirtualServers(servers, lengths, patience=patience, prompt_tokens=tokens)
    watch = Watch(virtual, lambda: sum(server.engine.generation_tokens for server in servers))
    progress, counted = Progress(), _Counted(tokens)
    plan = SamplePlan(spec.job_id, spec.samples, spec.parameters, None)
    loop = Generation(
        *(plan, spec.truncation, spec.pool, verifier, MemoryFolder(), progress),
        order=spec.order,
        steering=spec.steering,
        on_trace=counted.add,
    )
    async with Fleet(settings, spec.pool, watch, _ignore) as fleet:

        async def join() -> JobFleet:
            return fleet.join(Share(spec.job_id), spec.sampling, None, _ignore)

        await loop.sample(iter(prompts), join, Stop())
    return Simulated(
        samples=progress.published,
        failed=counted.failed,
        skipped=Counter({str(reason): count for reason, count in progress.skipped.items()}),
        outcomes=progress.outcomes,
        completion_tokens=progress.completion_tokens,
        makespan_s=counted.last_s,
        last_start_s=watch.starts[-1].at if watch.starts else 0.0,
        live_tokens=counted.live_tokens,
        recomputed_tokens=sum(server.engine.recomputed_tokens for server in servers),
        preemptions=sum(server.engine.preemptions for server in servers),
        steady=steady_part(watch.starts),
    )


def _endpoints(settings: EndpointSettings, servers: int) -> EndpointSettings:
    """The job's patience and attempts, with virtual servers in place of its own."""
    urls = tuple(f"http://server-{number}.invalid:8000" for number in range(1, servers + 1))
    return settings.model_copy(update={"urls": urls, "file": None, "model": None, "api_key": None})


class _Counted:
    """What is counted of each row, and then let go."""

    def __init__(self, prompt_tokens: int) -> None:
        self.failed = 0
        self.last_s = 0.0
        self._prompt_tokens = prompt_tokens
        self._tokens = 0
        self._token_moments = 0.0

    @property
    def live_tokens(self) -> float:
        """An answer of n tokens holds its prompt and n / 2 on average, n tokens long."""
        return self._token_moments / self._tokens if self._tokens else float(self._prompt_tokens)

    def add(self, trace: Trace) -> None:
        self.last_s = asyncio.get_running_loop().time()
        if trace.completion is None:
            self.failed += 1
            return
        made = trace.completion.completion_tokens
        self._tokens += made
        self._token_moments += made * (self._prompt_tokens + made / 2)


def _ignore(_: str) -> None:
    return
