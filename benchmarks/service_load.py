"""The real service under many jobs: shares of tenants and jobs, idle slots, event loop, memory, watchers.

`gen-service serve` as a process on simulated servers that are processes too. Three tenants with weights 1, 2 and 3
submit jobs of weights 1, 2 and 4 all at once, each as long as its share, so that all have work waiting nearly to the
end; others watch some of them. Who used a slot, and when, is told by the servers' own logs; a request's id leads over
the published rows to its job. What is fair: slot seconds while all jobs had samples waiting, as the weights. What is
idle: slot time not in use from when all slots were first in use to the last request sent.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.figures import Figure, Target, counted, show
from benchmarks.measurement import Steal
from benchmarks.servers import simulated_servers
from benchmarks.service_process import running_service, service_settings
from benchmarks.service_readings import Lag, Memory, read_lag, watch_memory
from benchmarks.slot_use import Use, all_waiting, idle_in, read_uses, shares_of, slot_seconds, while_work_waited
from benchmarks.workload import SEED, write_sums
from gen_service.remote.client import ServiceClient
from gen_service.settings import SamplingSettings
from gen_service.storage import traces
from gen_service.store.database import open_store
from gen_service.store.rows import TenantRow
from gen_service.wire.jobs import JobRequest, JobView, PromptSource
from gen_service.wire.states import FINAL

NAME = "service_load"
TENANTS = {"small": 1.0, "middle": 2.0, "large": 3.0}
WEIGHTS = (1.0, 2.0, 4.0)
SAMPLES_A_PROMPT = 4
SERVERS = ["--seed", str(SEED), "--length", "60", "--stream-interval", "32", "--no-reasoning"]
LAG = Target(at_most=0.1)
OFF_SHARE = Target(at_most=0.1)
# A slot is also free while an answer's end and the next request are on their way: a hundredth of a trace's time here.
IDLE = Target(at_most=0.03)
NONE_WRONG = Target(at_most=0)
POLL_S = 2.0


@dataclass(frozen=True, slots=True)
class Size:
    """How much is run. `latency` is what an answer takes: seconds, median:p99:cap of a lognormal."""

    jobs: int
    samples: int
    watchers: int
    servers: int
    slots: int
    latency: str


FULL = Size(jobs=200, samples=100_000, watchers=20, servers=2, slots=64, latency="0.35:0.8:1.0")
SHORT = Size(jobs=30, samples=6_000, watchers=6, servers=2, slots=32, latency="0.35:0.8:1.0")


@dataclass(slots=True)
class Planned:
    """One job: whose, its weight, its prompts; its id once it was submitted."""

    tenant: str
    weight: float
    prompts: int
    job_id: str = ""


@dataclass(slots=True)
class Run:
    """What one run gave."""

    plan: list[Planned]
    uses: list[Use] = field(default_factory=list)
    rows: dict[str, list[str]] = field(default_factory=dict)
    views: list[JobView] = field(default_factory=list)
    watched: list[str] = field(default_factory=list)
    lag: Lag | None = None
    memory: Memory = field(default_factory=Memory)
    submit_s: float = 0.0
    wall_s: float = 0.0
    stolen: float = 0.0


def measure(size: Size) -> list[Figure]:
    """One run of that size."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name, ExitStack() as stack:
        folder = Path(name)
        logs = [folder / f"server-{number}.log" for number in range(size.servers)]
        urls = [url for log in logs for url in stack.enter_context(_server(size, log))]
        run = asyncio.run(_run(size, folder, urls))
        run.uses = read_uses(logs)
        run.rows = _published(folder / "data" / "traces", run.plan)
    return _figures(size, run)


def main(argv: Sequence[str] | None = None) -> None:
    """Run alone, print the table; the exit code is 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=__doc__)
    parser.add_argument("--short", action="store_true", help="another default of all that follow")
    for name in ("jobs", "samples", "watchers", "servers", "slots"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--latency", help="of an answer: seconds, or MEDIAN:P99[:CAP]")
    options = parser.parse_args(argv)
    size = SHORT if options.short else FULL
    given = {name: value for name, value in vars(options).items() if name != "short" and value is not None}
    figures = measure(Size(**{name: given.get(name, getattr(size, name)) for name in Size.__slots__}))
    show(figures)
    raise SystemExit(any(figure.holds is False for figure in figures))


def planned(size: Size) -> list[Planned]:
    """The jobs, tenants and weights by turns, each with prompts in proportion to its share of the fleet."""
    kinds = [(tenant, weight) for tenant in TENANTS for weight in WEIGHTS]
    plan = [Planned(*kinds[number % len(kinds)], 0) for number in range(size.jobs)]
    weight_of = {tenant: sum(job.weight for job in plan if job.tenant == tenant) for tenant in TENANTS}
    tenants = sum(TENANTS.values())
    for job in plan:
        share = TENANTS[job.tenant] / tenants * job.weight / weight_of[job.tenant]
        job.prompts = max(1, round(size.samples * share / SAMPLES_A_PROMPT))
    return plan


def _server(size: Size, log: Path) -> AbstractContextManager[tuple[str, ...]]:
    arguments = ["--latency", size.latency, "--max-num-seqs", str(size.slots), "--log", str(log)]
    return simulated_servers([*SERVERS, *arguments])


async def _run(size: Size, folder: Path, urls: Sequence[str]) -> Run:
    run = Run(planned(size))
    data = folder / "data"
    keys = await _keys(data)
    slots = {"fleet__in_flight": str(size.slots * size.servers), "fleet__per_server": str(size.slots)}
    settings = service_settings(urls, data, **slots, quotas__active_jobs=str(size.jobs + 1))
    steal = Steal()
    with running_service(settings, folder / "service.log") as service:
        async with _clients(service.url, keys) as clients:
            async with watch_memory(service.child.pid, run.memory):
                await _submitted(run, clients, folder)
                await _ended(size, run, clients)
            run.lag = await read_lag(service.url, keys["small"])
    run.stolen = steal.share()
    return run


async def _keys(data: Path) -> dict[str, str]:
    """A key for each tenant, whose weights are stored with them."""
    keys = {}
    async with open_store(f"sqlite:///{data / 'gen_service.db'}") as store:
        for tenant, weight in TENANTS.items():
            await store.tenants.put(TenantRow(tenant, weight, {}))
            keys[tenant] = (await store.keys.create(tenant, {"submit", "read", "admin"}, NAME, time.time()))[1]
    return keys


@asynccontextmanager
async def _clients(url: str, keys: dict[str, str]) -> AsyncIterator[dict[str, ServiceClient]]:
    async with AsyncExitStack() as stack:
        yield {tenant: await stack.enter_async_context(ServiceClient(url, key)) for tenant, key in keys.items()}


async def _submitted(run: Run, clients: dict[str, ServiceClient], folder: Path) -> None:
    """All jobs at once, over one upload of each tenant's."""
    source = write_sums(folder / "prompts.jsonl", max(job.prompts for job in run.plan))
    files = {tenant: (await client.upload(source)).id for tenant, client in clients.items()}

    async def submit(number: int, job: Planned) -> None:
        request = JobRequest(
            name=f"load-{number}",
            prompts=PromptSource(file_id=files[job.tenant], limit=job.prompts),
            samples=SAMPLES_A_PROMPT,
            sampling=SamplingSettings(max_tokens=512),
            weight=job.weight,
        )
        job.job_id = (await clients[job.tenant].submit(request)).id

    began = time.perf_counter()
    await asyncio.gather(*(submit(number, job) for number, job in enumerate(run.plan)))
    run.submit_s = time.perf_counter() - began


async def _ended(size: Size, run: Run, clients: dict[str, ServiceClient]) -> None:
    """Until every job is final; some are watched, the memory is set beside the rows."""
    began = time.perf_counter()
    watched = run.plan[:: max(1, len(run.plan) // size.watchers)][: size.watchers]
    watchers = [asyncio.create_task(clients[job.tenant].watch(job.job_id, lambda _: None)) for job in watched]
    while True:
        run.views = [view async for view in clients["small"].jobs()]
        run.memory.rows_now = sum(view.counts.published for view in run.views)
        if all(view.state in FINAL for view in run.views):
            break
        await asyncio.sleep(POLL_S)
    run.wall_s = time.perf_counter() - began
    run.watched = [view.state for view in await asyncio.gather(*watchers)]


def _published(folder: Path, plan: Sequence[Planned]) -> dict[str, list[str]]:
    """The sample ids of each job's published rows."""
    return {
        job.job_id: [
            sample_id.as_py()
            for batch in traces.read_batches(str(folder / job.tenant / job.job_id), ["sample_id"])
            for sample_id in batch.column(0)
        ]
        for job in plan
    }


def _figures(size: Size, run: Run) -> list[Figure]:
    samples = sum(job.prompts for job in run.plan) * SAMPLES_A_PROMPT
    wrong_rows = sum(
        abs(job.prompts * SAMPLES_A_PROMPT - len(run.rows[job.job_id]))
        + len(run.rows[job.job_id])
        - len(set(run.rows[job.job_id]))
        for job in run.plan
    )
    not_completed = sum(view.state != "completed" for view in run.views)
    missed = size.watchers - run.watched.count("completed")
    title = f"{size.jobs} jobs, {samples:,} samples"
    lag = run.lag or Lag(0.0, 0.0, 0.0)
    return [
        counted(NAME, f"{title}: rows missing or doubled", "rows", [wrong_rows], NONE_WRONG),
        counted(NAME, f"{title}: jobs not completed", "jobs", [not_completed], NONE_WRONG),
        counted(NAME, f"{size.watchers} watchers: those that missed the end", "watchers", [missed], NONE_WRONG),
        counted(NAME, "throughput", "samples/s", [samples / run.wall_s]),
        counted(NAME, f"all {size.jobs} jobs submitted at once", "s", [run.submit_s]),
        counted(NAME, "event loop lag, p50", "s", [lag.p50_s]),
        counted(NAME, "event loop lag, p99", "s", [lag.p99_s], LAG),
        counted(NAME, "event loop lag, largest", "s", [lag.most_s]),
        *run.memory.figures(NAME),
        *_slot_figures(size, run),
        counted(NAME, "processor time that the machine's host took", "share", [run.stolen]),
    ]


def _slot_figures(size: Size, run: Run) -> list[Figure]:
    job_of = {sample_id: job_id for job_id, rows in run.rows.items() for sample_id in rows}
    window = all_waiting(run.uses, job_of)
    seconds = slot_seconds(run.uses, job_of, window)
    by_tenant = {tenant: sum(seconds[job.job_id] for job in run.plan if job.tenant == tenant) for tenant in TENANTS}
    tenants = shares_of(by_tenant, TENANTS)
    worst_class, worst_job = 0.0, 0.0
    for tenant in TENANTS:
        jobs = [job for job in run.plan if job.tenant == tenant]
        fair = shares_of({job.job_id: seconds[job.job_id] for job in jobs}, {job.job_id: job.weight for job in jobs})
        worst_job = max([worst_job, *(abs(share - 1) for share in fair.values())])
        classes = {str(weight): [job for job in jobs if job.weight == weight] for weight in WEIGHTS}
        used = {name: sum(seconds[job.job_id] for job in members) for name, members in classes.items()}
        weights = {name: sum(job.weight for job in members) for name, members in classes.items()}
        worst_class = max([worst_class, *(abs(share - 1) for share in shares_of(used, weights).values())])
    waited = while_work_waited(run.uses, size.slots * size.servers)
    idle = idle_in(run.uses, size.servers, size.slots, waited)
    off = max(abs(share - 1) for share in tenants.values())
    return [
        counted(
            NAME, "seconds in which all jobs had samples waiting", "s", [window.seconds], against="of the whole run"
        ),
        counted(NAME, "tenants: largest distance of slot seconds from the weights", "share", [off], OFF_SHARE),
        counted(NAME, "job weights in a tenant: the same", "share", [worst_class], OFF_SHARE),
        counted(NAME, "single jobs: the same", "share", [worst_job]),
        counted(NAME, "slot time idle while work waited", "share", [idle.share], IDLE),
        counted(NAME, "slot free between two requests, p50", "s", [idle.percentile(50)]),
        counted(NAME, "slot free between two requests, p99", "s", [idle.percentile(99)]),
    ]


if __name__ == "__main__":
    main()
