"""What the verbs do that talk to a running service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gen_service.errors import SpecError
from gen_service.remote.client import ServiceClient
from gen_service.remote.transport import Patience
from gen_service.terminal.exit_codes import DONE, INTERRUPTED
from gen_service.terminal.job_request import load_request, upload_of, with_file
from gen_service.terminal.run import run_async
from gen_service.terminal.watch import STATE_COLOURS, done_of, watch_job
from gen_service.wire.jobs import JobRequest, JobView, Shard
from gen_service.wire.states import FINAL, STATES, JobState

# A pipe has no width of its own; narrower than this the table loses columns.
TABLE_WIDTH = 160
# Somebody waits for the answer; only who watches a job waits for a service that is being restarted.
IMPATIENT = Patience(within_s=4.0)
Result = TypeVar("Result")


class Remote:
    """The verbs, each against the service at `url`; they give the exit code.

    Args:
        key: an API key, which is never printed; None for a service that needs none.
    """

    def __init__(self, console: Console, url: str, key: str | None) -> None:
        self._console = console
        self._url = url
        self._key = key

    def submit(self, spec: Path, name: str | None, *, on_server: bool, watch: bool) -> int:
        """Ask for the job that a file describes and print its id; with `watch` show it until it ends.

        Args:
            on_server: the prompts' path is the service's own; else a file there is uploaded first.
        """
        request = load_request(spec, name)
        source = None if on_server else upload_of(request)
        job_id = self._with_service(lambda service: _submitted(service, request, source))
        self._console.print(job_id, soft_wrap=True, highlight=False)
        return self.watch(job_id) if watch else DONE

    def watch(self, job_id: str) -> int:
        """Show a job until it ends: 0 when it completed, 1 when it did not; Ctrl-C leaves it running."""
        try:
            self._with_service(lambda service: service.job(job_id))
            return self._with_service(lambda service: watch_job(self._console, service, job_id), Patience())
        except KeyboardInterrupt:
            words = f"{job_id} goes on; `gen-service watch {job_id}` shows it, `gen-service cancel {job_id}` ends it"
            self._console.print(words, soft_wrap=True, markup=False, highlight=False)
            return INTERRUPTED

    def jobs(self, states: Sequence[str], limit: int) -> int:
        """Print a table of the newest jobs."""
        for state in states:
            if state not in STATES:
                raise SpecError("state", state, f"one of {', '.join(STATES)}")
        views = self._with_service(lambda service: _newest(service, cast(Sequence[JobState], states), limit))
        console = self._console if self._console.is_terminal else Console(width=TABLE_WIDTH)
        console.print(jobs_table(views))
        return DONE

    def act(self, action: Literal["pause", "resume", "cancel"], job_id: str) -> int:
        """Pause, resume or cancel a job; print the state that it is in then."""
        view = self._with_service(lambda service: getattr(service, action)(job_id))
        self._console.print(f"{view.id} {view.state}", soft_wrap=True, highlight=False)
        return DONE

    def download(self, job_id: str, output: Path | None) -> int:
        """Bring the published Parquet files into a folder (the job's id by default)."""
        folder = output or Path(job_id)
        try:
            return self._with_service(lambda service: self._download(service, job_id, folder))
        except OSError as error:
            raise SpecError("output", str(folder), f"a folder that can be written ({error})") from error

    async def _download(self, service: ServiceClient, job_id: str, folder: Path) -> int:
        def tell(shard: Shard, was_fetched: bool) -> None:
            note = f"{shard.bytes:,} bytes" if was_fetched else "already there"
            self._console.print(f"{shard.name}  {shard.rows:,} rows  {note}", soft_wrap=True, highlight=False)

        view = await service.job(job_id)
        done = await service.download(job_id, folder, tell)
        words = (
            f"{len(done.files)} files in {folder}, {done.fetched} of them fetched now ({done.fetched_bytes:,} bytes)"
        )
        self._console.print(words, soft_wrap=True, markup=False, highlight=False)
        if view.state not in FINAL:
            words = f"{job_id} is {view.state}: the same command fetches what comes later"
            self._console.print(words, soft_wrap=True, markup=False, highlight=False)
        return DONE

    def _with_service(self, do: Callable[[ServiceClient], Awaitable[Result]], patience: Patience = IMPATIENT) -> Result:
        async def done() -> Result:
            async with ServiceClient(self._url, self._key, patience=patience) as service:
                return await do(service)

        return run_async(done())


async def _submitted(service: ServiceClient, request: JobRequest, source: Path | None) -> str:
    if source is not None:
        request = with_file(request, (await service.upload(source, "prompts")).id)
    return (await service.submit(request)).id


async def _newest(service: ServiceClient, states: Sequence[JobState], limit: int) -> list[JobView]:
    views: list[JobView] = []
    async for view in service.jobs(states=states, page=min(limit, 100)):
        views.append(view)
        if len(views) == limit:
            break
    return views


def jobs_table(views: Sequence[JobView]) -> Table:
    """Jobs as a table, in the order given."""
    table = Table(box=None, header_style="bold")
    for column in ("job", "name", "state", "rows", "errors", "model", "tenant", "created"):
        table.add_column(column, no_wrap=True, justify="right" if column in ("rows", "errors") else "left")
    for view in views:
        table.add_row(
            view.id,
            view.name or "",
            Text(view.state, style=STATE_COLOURS.get(view.state, "")),
            done_of(view),
            f"{view.counts.errors:,}",
            view.model or "",
            view.tenant,
            f"{view.created_at.astimezone():%Y-%m-%d %H:%M}",
        )
    return table
