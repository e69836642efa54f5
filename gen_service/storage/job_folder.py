"""A job on disk: every accepted sample ends in exactly one published row, whatever dies in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from gen_service.errors import BadPromptRow, StorageError
from gen_service.records import Trace
from gen_service.settings import OutputSettings
from gen_service.storage import manifest, published_parts
from gen_service.storage.backlog import Backlog
from gen_service.storage.card import write_card
from gen_service.storage.commits import Commits
from gen_service.storage.dead_letter import DeadLetter
from gen_service.storage.destination import Destination, open_destination
from gen_service.storage.disk_space import SpaceWaiter
from gen_service.storage.frames import JournalPosition
from gen_service.storage.job_lock import JobLock
from gen_service.storage.job_places import JobPlaces, places
from gen_service.storage.job_spec import write_job
from gen_service.storage.journal import Journal
from gen_service.storage.manifest import PublishedCounts
from gen_service.storage.seen import Seen
from gen_service.storage.segments import segment_path
from gen_service.storage.shards import ShardWriter
from gen_service.storage.watermark import Watermark


def open_job_folder(
    output: OutputSettings,
    job_id: str,
    spec: dict[str, Any],
    identity: dict[str, Any],
    sampling: str,
    on_notice: Callable[[str], None],
    *,
    verify: bool = False,
) -> JobFolder:
    """The folder of a job, new or to be continued; opened by `async with`.

    Args:
        output: where.
        job_id: name of the folder under `output.path`.
        spec: the accepted spec, JSON values only; kept in job.json and on the card.
        identity: the part of the spec that decides what a sample is: must be the same in every run.
        sampling: how samples are drawn, as JSON; a column of every row.
        on_notice: told, in the event loop's thread, what people should know: a full disk, a torn journal.
        verify: at open, read every published file and compare its sha256.

    Raises:
        SpecError: an unusable job id or output.
    """
    return JobFolder(places(output, job_id), output, job_id, spec, identity, sampling, on_notice, verify)


class JobFolder:
    """The one writer of a job's folder. Use `open_job_folder`.

    The invariant: a sample id is in one of three states, and only moves forward. Unknown; journaled, once `record`
    has returned; published, once a manifest names the part that holds its row. After a crash the manifests say what
    is published, and the journal from the covered position on says what is journaled: `recovered` gives those to be
    verified and published, and `is_done` keeps them, and the published ones, from being generated again.

    `async with` raises JobLocked, JobMismatch, JournalCorrupt, PublishConflict or another StorageError when the
    folder cannot be written.

    Attributes:
        epoch: 1-based number of this run of the job.
        backlog: how far the disk is behind.
    """

    def __init__(
        self,
        job_places: JobPlaces,
        output: OutputSettings,
        job_id: str,
        spec: dict[str, Any],
        identity: dict[str, Any],
        sampling: str,
        on_notice: Callable[[str], None],
        verify: bool,
    ) -> None:
        self._places = job_places
        self._output = output
        self._job_id = job_id
        self._spec = spec
        self._identity = identity
        self._sampling = sampling
        self._on_notice = on_notice
        self._verify = verify
        self.epoch = 0
        self._is_replayed = False
        self._closing: asyncio.Task[None] | None = None
        self._space = SpaceWaiter(self._notice, self._notice)
        self._lock: JobLock
        self._destination: Destination
        self._commits: Commits
        self._published_before: Seen
        self._done_ids: Seen
        # Recorded or recovered by this run and not yet given to `publish`: as many as the pool has places.
        self._unpublished: set[str] = set()
        self._dead_letter_keys: Seen
        self._dead_letter: DeadLetter
        self._watermark: Watermark
        self._journal: Journal
        self._shards: ShardWriter

    async def __aenter__(self) -> JobFolder:
        self._loop = asyncio.get_running_loop()
        try:
            await asyncio.to_thread(self._open)
        except OSError as error:
            raise StorageError(f"cannot open the job's folder {self._places.published}: {error}") from error
        self._shards = ShardWriter(
            self._destination, self._output, self.epoch, self._sampling, self._space, self._commits.publish
        )
        self.backlog = Backlog(self._watermark, self._journal, self._shards)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close(wait_for_space=error is None)

    @property
    def published(self) -> PublishedCounts:
        """What all runs have published so far."""
        return self._commits.published

    def is_done(self, sample_id: str) -> bool:
        """Whether the sample is published or journaled, by this run or an earlier one: never generate it again."""
        return sample_id in self._done_ids

    def recovered(self) -> Iterator[tuple[JournalPosition, Trace]]:
        """The traces that earlier runs journaled but did not publish, each to be given to `publish` once.

        Streamed, about one journal frame in memory; may be taken from in another thread. Only once in a run. While
        it is not exhausted the journal keeps growing: nothing after the place it has reached can be released.
        """
        if self._is_replayed:
            raise StorageError("recovered() was called twice: its traces would be published twice")
        self._is_replayed = True
        for position, trace in self._journal.replay():
            is_open = trace.sample.sample_id not in self._published_before
            self._watermark.replaying(position, is_open)
            if is_open:
                self._unpublished.add(trace.sample.sample_id)
                yield position, trace
        self._watermark.replayed()

    async def record(self, trace: Trace) -> JournalPosition:
        """Journal a trace, which has no verdict yet; durable when this returns. Cancelled, it may be written or not.

        Raises:
            StorageError: the sample is done already, or the disk failed. A full disk only takes longer.
        """
        sample_id = trace.sample.sample_id
        if not self._done_ids.add(sample_id):
            raise StorageError(f"sample {sample_id} is recorded already")
        position = await self._journal.append(trace)
        self._unpublished.add(sample_id)
        return position

    async def publish(self, position: JournalPosition, trace: Trace) -> None:
        """Put a recorded trace, now with its verdict, into the next part. Waits while the disk is behind; the row is
        published also if that wait is cancelled.

        Raises:
            StorageError: the sample was never recorded, or is published already, or the disk failed.
            ValueError: the trace has no verdict.
        """
        sample_id = trace.sample.sample_id
        if trace.verdict is None:
            raise ValueError(f"sample {sample_id} has no verdict: it cannot be published")
        if sample_id not in self._unpublished:
            why = "is published already" if sample_id in self._done_ids else "was not recorded"
            raise StorageError(f"sample {sample_id} {why}: it cannot be published")
        self._unpublished.remove(sample_id)
        if trace.verdict.outcome == "error":
            self._dead_letter.add_sample(trace)
        await self._shards.add(position, trace)

    def reject(self, bad: BadPromptRow) -> bool:
        """Put a prompt row that cannot be used into the dead letter; False if an earlier run has done so."""
        return self._dead_letter.add_prompt(bad)

    def give_up_waiting(self) -> None:
        """From now on a full disk is a StorageError; what was recorded and not published, the next run recovers."""
        self._space.give_up()

    async def flush(self) -> PublishedCounts:
        """Publish all rows given so far now, without waiting for a full part."""
        await self._shards.flush()
        return self.published

    async def close(self, *, wait_for_space: bool = True) -> PublishedCounts:
        """Publish the last part, write the card, let go of the lock; called again, it only returns the counts.

        Args:
            wait_for_space: on a full disk, wait for room; else fail. A cancelled close does not wait either. What was
                recorded and not published then, the next run recovers.

        Raises:
            StorageError: the disk failed.
        """
        if not wait_for_space:
            self._space.give_up()
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        try:
            await asyncio.shield(self._closing)
        except asyncio.CancelledError:
            self._space.give_up()
            await asyncio.wait({self._closing})
            raise
        return self.published

    async def _close(self) -> None:
        try:
            outcomes = await asyncio.gather(self._journal.close(), self._shards.close(), return_exceptions=True)
            for outcome in outcomes:
                if outcome is not None:
                    raise outcome
            await asyncio.to_thread(self._seal)
        finally:
            await asyncio.to_thread(self._let_go)

    # Below: in worker threads.

    def _open(self) -> None:
        self._lock = JobLock(self._places.lock)
        try:
            self._destination = open_destination(self._places.published, self._places.staging)
            write_job(self._destination, self._job_id, self._spec, self._identity)
            manifests = published_parts.take_over(self._destination, verify=self._verify)
            self.epoch = manifests[-1].epoch
            self._published_before = Seen(self._places.seen("published"))
            self._done_ids = Seen(self._places.seen("done"))
            published_parts.add_published(self._destination, manifests, self._published_before, self._done_ids)
            self._dead_letter_keys = Seen(self._places.seen("dead-letter"))
            self._dead_letter = DeadLetter(self._places.dead_letter, self._dead_letter_keys, self._space)
            self._open_journal(manifests[-1].journal_covered)
            self._commits = Commits(
                self._destination, manifests, self._dead_letter, self._watermark, self._journal, self._space
            )
        except BaseException:
            self._let_go()
            raise

    def _open_journal(self, covered: JournalPosition) -> None:
        journal = self._places.journal
        if covered.segment and not segment_path(journal, covered.segment).exists():
            self._notice(f"the journal of earlier runs is not in {journal}; what it held is generated again")
        self._watermark = Watermark(covered)
        self._journal = Journal(journal, self._space, self._watermark, covered=covered)
        if self._journal.torn_bytes:
            self._notice(f"cut {self._journal.torn_bytes} bytes of an unfinished write off the journal")
        self._done_ids.add_many(trace.sample.sample_id for _, trace in self._journal.replay())

    def _seal(self) -> None:
        """The last writes of a run, when every part is committed."""
        self._commits.finish()
        if self._places.dead_letter_is_copied:
            self._destination.put(self._places.dead_letter.name, self._places.dead_letter.read_bytes())
        manifests = manifest.load(self._destination)
        self._space.write("README.md", lambda: write_card(self._destination, self._job_id, self._spec, manifests))

    def _let_go(self) -> None:
        for name in ("_dead_letter", "_dead_letter_keys", "_published_before", "_done_ids"):
            if (resource := getattr(self, name, None)) is not None:
                resource.close()
        self._lock.release()

    def _notice(self, message: str) -> None:
        self._loop.call_soon_threadsafe(self._on_notice, message)
