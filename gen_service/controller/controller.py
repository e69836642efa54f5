"""Jobs over their whole life: taken, run on one shared fleet, paused, ended; and taken up again after any death."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Self

import structlog
from prometheus_client import CollectorRegistry

from gen_service.controller.background import Background
from gen_service.controller.bookkeeping import keep_books
from gen_service.controller.data_lock import folder_id, locked
from gen_service.controller.deadlines import Deadlines
from gen_service.controller.deletion import delete_job
from gen_service.controller.dispatch import Dispatcher
from gen_service.controller.measurements import count_verifier
from gen_service.controller.moves import Moves
from gen_service.controller.notices import Notices
from gen_service.controller.recovery import sweep_inline_prompts, sweep_uploads, take_up
from gen_service.controller.run import Run
from gen_service.controller.shared import Shared
from gen_service.controller.specs import pool_of
from gen_service.controller.taking import Taking
from gen_service.controller.tracing import Tracing
from gen_service.controller.validation import Validations
from gen_service.controller.verifiers import Verifiers
from gen_service.controller.views import view
from gen_service.controller.watch import Changes, LoopLag
from gen_service.controller.webhooks import WebhookSender
from gen_service.endpoints.client import Client
from gen_service.endpoints.fleet import Fleet
from gen_service.errors import Conflict, Unavailable
from gen_service.metrics import Metrics
from gen_service.service_settings import ServiceSettings
from gen_service.store.rows import JobRow
from gen_service.store.store import Store
from gen_service.wire.jobs import JobRequest, JobView
from gen_service.wire.openai import BatchRequest
from gen_service.wire.states import FINAL, JobEvent

# Another service, or this one after its restart, can be asked then.
DRAINING_S = 15.0
_log = structlog.get_logger(__name__)


class Controller:
    """All jobs of one data folder. Use as an async context manager.

    A job's row in the store is the truth of its state; what runs here follows it, and a new controller on the same
    folder goes on from the rows. Leaving it asks every run to end at once; leaving it by an exception leaves all rows
    as they are, as a kill would.

    Attributes:
        settings: of the service.
        store: its database, opened and closed by the caller.
        draining: no new work is taken any more.
        running: the jobs that run, by id.
        fleet, verifiers, metrics, lag: for whoever measures them.

    Args:
        now: seconds since the epoch.

    Raises (on entering):
        StorageError: another service has the data folder, or the database belongs to another folder.
        SpecError: the servers take the service's key for wrong.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        store: Store,
        *,
        metrics: Metrics | None = None,
        tracing: Tracing | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.store = store
        self.draining = False
        self.metrics = metrics or Metrics(CollectorRegistry())
        self.lag = LoopLag(self.metrics.observe_lag)
        self.webhooks = WebhookSender(
            settings.webhooks, store.outbox, clock=now, on_result=self.metrics.observe_webhook
        )
        self.verifiers = Verifiers(partial(count_verifier, self.metrics))
        client = Client(settings.endpoints)
        self.fleet = Fleet(settings.endpoints, pool_of(settings), client, self._say_of_fleet)
        self._client = client
        self._now = now
        self._changes = Changes()
        self._background = Background()
        self._deadlines = Deadlines(self._expire_soon, now)
        self._notices = Notices(store.events, self._changes, now)
        self._moves = Moves(store.jobs, self._changes, self._ended, now)
        self._shared = Shared(
            *(settings, store, self.fleet, self.verifiers, self._changes, self._notices, self._moves),
            *(self.metrics, tracing or Tracing(), now),
        )
        self._dispatcher = Dispatcher(self._shared)
        self._validations = Validations(self._shared, self._dispatcher.enqueue)
        self._taking = Taking(self._shared, self._background, self._taken)
        self._stack = AsyncExitStack()

    @property
    def running(self) -> Mapping[str, Run]:
        """The jobs that run, by id."""
        return self._dispatcher.running

    async def __aenter__(self) -> Self:
        began = self._now()
        async with AsyncExitStack() as stack:
            folder = self.settings.data.folder
            stack.callback((await asyncio.to_thread(locked, folder)).release)
            await self.store.folder.bind(await asyncio.to_thread(folder_id, folder))
            for part in (self._client, self.fleet, self.verifiers, self._background):
                await stack.enter_async_context(part)
            await sweep_uploads(self._shared, began)
            await take_up(self._shared, self._dispatcher, self._validations, self._remember_deadline)
            for loop in (
                self._dispatcher.run,
                self._notices.run,
                self.lag.run,
                self.webhooks.run,
                self._keep_books,
            ):
                self._background.keep(loop)
            self._background.start(sweep_inline_prompts(self._shared, began))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await asyncio.gather(self.drain(), self.drain())
            else:
                await self._dispatcher.abandon()
            await self._validations.close()
        finally:
            self._deadlines.close()
            await self._stack.aclose()

    async def submit(self, tenant: str, request: JobRequest, idempotency_key: str | None = None) -> tuple[JobRow, bool]:
        """Take a job, or say why not.

        Returns:
            Its row, and whether it is new: False is the job that the same key and request made before.

        Raises:
            InvalidRequest: a field is wrong.
            Conflict: the key came with another request before.
            TooManyRequests: a quota is used up.
            Unavailable: the service drains, no server answers, or the disk is nearly full.
        """
        self._refuse_when_draining()
        return await self._taking.native(tenant, request, idempotency_key)

    async def create_batch(
        self, tenant: str, request: BatchRequest, idempotency_key: str | None = None, is_retry: bool = False
    ) -> tuple[JobRow, bool]:
        """Take a batch; its file is looked through after that.

        Args:
            is_retry: the client says that it asked before and had no answer: where there is no key, the same request
                of the last hour is the one.

        Returns, raises:
            as `submit`.
        """
        self._refuse_when_draining()
        return await self._taking.batch(tenant, request, idempotency_key, is_retry)

    async def pause(self, tenant: str | None, job_id: str) -> JobRow:
        """Let a job rest. A running one is paused once its running samples have had their grace; one that is paused
        stays so.

        Args:
            tenant: whose it must be; None: anybody's.

        Raises:
            NotFound, Conflict: there is no such job, or it has ended or is about to.
        """
        row = await self.store.jobs.get(job_id, tenant)
        if row.state == "paused":
            return row
        if row.state in ("queued", "running") and self._dispatcher.end(job_id, "pause"):
            return row
        row = await self._moves.move(job_id, "pause")
        self._dispatcher.withdraw(job_id)
        return row

    async def resume(self, tenant: str | None, job_id: str) -> JobRow:
        """Let a paused job wait for its turn; one that waits or runs already goes on doing so.

        Raises:
            as `pause`.
        """
        row = await self.store.jobs.get(job_id, tenant)
        if row.state in ("queued", "running"):
            run = self.running.get(job_id)
            if run is not None and run.wish == "pause":
                self._dispatcher.end(job_id, "requeue")
            return row
        row = await self._moves.move(job_id, "resume")
        await self._dispatcher.enqueue(row)
        return row

    async def cancel(self, tenant: str | None, job_id: str) -> JobRow:
        """End a job for good; what is finished stays readable. One that is cancelled stays so.

        Raises:
            as `pause`.
        """
        row = await self.store.jobs.get(job_id, tenant)
        if row.state in ("cancelling", "cancelled"):
            return row
        return await self._end_for_good(job_id, "cancel")

    async def delete(self, tenant: str | None, job_id: str) -> None:
        """Remove a job that has ended, with its traces where they lie with the service.

        Raises:
            as `pause`; Conflict: it has not ended.
        """
        row = await self.store.jobs.get(job_id, tenant)
        await self._background.finished(delete_job(self.store.jobs, row, self.settings))
        self._changes.tell(job_id)

    def view(self, row: JobRow) -> JobView:
        """The job as it is shown, with live numbers while it runs. The row of one that has ended says all."""
        run = None if row.state in FINAL else self.running.get(row.id)
        return view(row, run, self.fleet)

    def changed(self, job_id: str) -> asyncio.Event:
        """An event that the job's next change sets: of its state, a notice, or that the service drains. Ask for it
        before looking at the job, and for a new one after each change."""
        return self._changes.changed(job_id)

    async def drain(self) -> None:
        """Take no new work, let every run end within its grace, and return when all are at rest; they go on at the
        next start. Called again while it waits, the graces end."""
        if not self.draining:
            _log.info("draining", running=len(self.running))
        self.draining = True
        self._changes.tell_all()
        await self._dispatcher.drain()

    async def _taken(self, row: JobRow) -> None:
        self._remember_deadline(row)
        if row.state == "validating":
            self._validations.start(row)
        else:
            await self._dispatcher.enqueue(row)

    async def _end_for_good(self, job_id: str, event: JobEvent) -> JobRow:
        row = await self._moves.move(job_id, event)
        self._validations.cancel(job_id)
        self._dispatcher.withdraw(job_id)
        if not self._dispatcher.end(job_id, "end"):
            self._dispatcher.finish(row)
        return row

    def _refuse_when_draining(self) -> None:
        if self.draining:
            words = "the service is about to end and takes no new work: come again"
            raise Unavailable(words, code="draining", retry_after_s=DRAINING_S)

    def _ended(self, row: JobRow) -> None:
        self._deadlines.drop(row.id)
        if row.webhook is not None:
            self.webhooks.wake()

    def _remember_deadline(self, row: JobRow) -> None:
        self._deadlines.set(row.id, row.expires_at)

    def _expire_soon(self, job_id: str) -> None:
        self._background.start(self._expire(job_id))

    async def _expire(self, job_id: str) -> None:
        try:
            await self._end_for_good(job_id, "expire")
        except Conflict as conflict:
            _log.info("expired in vain", job_id=job_id, because=str(conflict))
        except Unavailable:
            self._deadlines.set(job_id, self._now() + 1.0)

    def _say_of_fleet(self, words: str) -> None:
        _log.warning("fleet", words=words)
        for job_id in self.running:
            self._notices.put(job_id, words)

    async def _keep_books(self) -> None:
        await keep_books(self.store.jobs, self.running)
