"""A job on disk: every accepted sample ends in exactly one published row, whatever dies in between."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from gen_service.errors import BadPromptRow, StorageError
from gen_service.records import Partial, Skipped, Trace
from gen_service.settings import OutputSettings
from gen_service.storage.backlog import Backlog
from gen_service.storage.disk_space import SpaceWaiter
from gen_service.storage.frames import JournalPosition
from gen_service.storage.job_opening import JobOpening
from gen_service.storage.job_places import JobPlaces, places
from gen_service.storage.manifest import PublishedCounts
from gen_service.storage.shards import ShardWriter
from gen_service.storage.stations import Stations


def open_job_folder(
    output: OutputSettings,
    job_id: str,
    spec: dict[str, Any],
    identity: dict[str, Any],
    sampling: str,
    on_notice: Callable[[str], None],
    *,
    verify: bool = False,
    steering: str = "",
    keep_outcomes: bool = False,
) -> JobFolder:
    """The folder of a job, new or to be continued; opened by `async with`.

    Args:
        on_notice: told, in the event loop's thread, what people should know: a full disk, a torn journal.
        others: the attributes of `JobOpening`.

    Raises:
        SpecError: an unusable job id or output.
    """
    opening = JobOpening(job_id, output, spec, identity, sampling, verify, steering, keep_outcomes)
    return JobFolder(opening, places(output, job_id), on_notice)


class JobFolder:
    """The one writer of a job's folder. Use `open_job_folder`.

    The invariant: a sample id is in one of four states, and only moves forward. Unknown; journaled, once `record`
    has returned; published, once a manifest names the part that holds its row; or skipped, in place of the other two,
    once `skip` has returned. After a crash the manifests say what is published or skipped, and the journal from the
    covered position on says what is journaled: `recovered` gives those to be verified and published, and `is_done`
    keeps all three from being generated again.

    `async with` raises JobLocked, JobMismatch, JournalCorrupt, PublishConflict or another StorageError when the
    folder cannot be written.

    Attributes:
        epoch: 1-based number of this run of the job.
        backlog: how far the disk is behind.
    """

    def __init__(self, opening: JobOpening, job_places: JobPlaces, on_notice: Callable[[str], None]) -> None:
        self._job = opening
        self._places = job_places
        self._on_notice = on_notice
        self.epoch = 0
        self._is_replayed = False
        self._closing: asyncio.Task[None] | None = None
        self._space = SpaceWaiter(self._notice, self._notice)
        # Recorded or recovered by this run and not yet given to `publish`: as many as the pool has places.
        self._unpublished: set[str] = set()
        self._stations: Stations
        self._shards: ShardWriter

    async def __aenter__(self) -> JobFolder:
        self._loop = asyncio.get_running_loop()
        try:
            self._stations = await asyncio.to_thread(
                Stations, self._job, self._places, self._space, self._notice, self._in_turn, self._commit_soon
            )
        except OSError as error:
            raise StorageError(f"cannot open the job's folder {self._places.published}: {error}") from error
        at = self._stations
        self.epoch = at.epoch
        self._shards = ShardWriter(
            *(at.destination, self._job.output, at.epoch, self._job.sampling, self._space, at.commits.publish),
            on_cut=at.skips.cut,
            first_s=self._job.output.shard_s * _first_share(self._job.job_id),
        )
        self.backlog = Backlog(at.watermark, at.journal, self._shards)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close(wait_for_space=error is None)

    @property
    def published(self) -> PublishedCounts:
        """What all runs have published so far."""
        return self._stations.commits.published

    def is_done(self, sample_id: str) -> bool:
        """Whether the sample is published, journaled or skipped, by this run or an earlier one: never generate it."""
        return sample_id in self._stations.known.done

    def is_skipped(self, sample_id: str) -> bool:
        """Whether the sample is not made, under this run's steering."""
        return sample_id in self._stations.known.skipped

    def is_correct(self, sample_id: str) -> bool:
        """Whether the sample has a row with the verdict `correct`, by any run; only with `keep_outcomes`."""
        return self._stations.known.had(sample_id, "correct")

    def is_ungradable(self, sample_id: str) -> bool:
        """The same of the verdict `ungradable`."""
        return self._stations.known.had(sample_id, "ungradable")

    def skip(self, skipped: Skipped) -> None:
        """A sample is not made. Never waits: it is in a part with the next commit, within `shard_s`; call `keep_up`
        now and then. After a crash before that, it is open again, and so is all that it followed from.

        Raises:
            StorageError: the sample is done already, or the disk failed.
        """
        self._shards.check()
        if not self._stations.known.done.add(skipped.sample_id):
            raise StorageError(f"sample {skipped.sample_id} is done already: it cannot be skipped")
        self._stations.known.skipped.add(skipped.sample_id)
        self._stations.partials.finished(skipped.sample_id)
        self._stations.skips.add(skipped)

    async def keep_up(self) -> None:
        """Wait while the disk is behind; raises StorageError when it failed."""
        await self._shards.keep_up()

    def recovered(self) -> Iterator[tuple[JournalPosition, Trace]]:
        """The traces that earlier runs journaled but did not publish, each to be given to `publish` once.

        Streamed, about one journal frame in memory; may be taken from in another thread. Only once in a run. While
        it is not exhausted the journal keeps growing: nothing after the place it has reached can be released. Those of
        samples that a run skipped which had not this journal are passed over: they are accounted for.
        """
        if self._is_replayed:
            raise StorageError("recovered() was called twice: its traces would be published twice")
        self._is_replayed = True
        for position, trace in self._stations.journal.replay():
            is_open = not self._stations.known.had_before(trace.sample.sample_id)
            self._stations.watermark.replaying(position, is_open)
            if is_open:
                self._unpublished.add(trace.sample.sample_id)
                yield position, trace
        self._stations.watermark.replayed()

    async def record(self, trace: Trace) -> JournalPosition:
        """Journal a trace, which has no verdict yet; durable when this returns. Cancelled, it may be written or not.

        Raises:
            StorageError: the sample is done already, or the disk failed. A full disk only takes longer.
        """
        sample_id = trace.sample.sample_id
        if not self._stations.known.done.add(sample_id):
            raise StorageError(f"sample {sample_id} is recorded already")
        position = await self._stations.journal.append(trace)
        self._stations.partials.finished(sample_id)
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
            why = "is published already" if sample_id in self._stations.known.done else "was not recorded"
            raise StorageError(f"sample {sample_id} {why}: it cannot be published")
        self._unpublished.remove(sample_id)
        self._stations.known.judged(sample_id, trace.verdict.outcome)
        if trace.verdict.outcome == "error":
            self._stations.dead_letter.add_sample(trace)
        await self._shards.add(position, trace)

    def partial_of(self, sample_id: str) -> Partial | None:
        """What an earlier run kept of a sample that is not done, to be gone on from."""
        return self._stations.partials.partial_of(sample_id)

    def keep_partial(self, partial: Partial) -> None:
        """Keep what has come of a sample, for a run that comes after a kill. Never waits, and never fails: it is
        durable in about a second, or dropped where the disk has no room."""
        self._stations.partials.keep(partial)

    def reject(self, bad: BadPromptRow) -> bool:
        """Put a prompt row that cannot be used into the dead letter; False if an earlier run has done so."""
        return self._stations.dead_letter.add_prompt(bad)

    def give_up_waiting(self) -> None:
        """From now on a full disk is a StorageError; what was recorded and not published, the next run recovers."""
        self._space.give_up()

    async def flush(self) -> PublishedCounts:
        """Publish all rows given and samples skipped so far now, without waiting for a full part."""
        self._commit_soon()
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

    def _in_turn(self, work: Callable[[], None]) -> None:
        """Have work done by the thread that publishes."""
        self._shards.submit(work)

    def _commit_soon(self) -> None:
        """Commit the samples skipped so far, with or after the rows given so far, from which they may follow."""
        self._shards.cut()
        self._stations.skips.cut()
        self._shards.submit(self._stations.commits.publish_skipped)

    async def _close(self) -> None:
        self._stations.skips.close()
        try:
            outcomes = await asyncio.gather(
                self._stations.journal.close(), self._shards.close(), return_exceptions=True
            )
            for outcome in outcomes:
                if outcome is not None:
                    raise outcome
            await asyncio.to_thread(self._stations.seal)
        finally:
            await asyncio.to_thread(self._stations.let_go)

    def _notice(self, message: str) -> None:
        self._loop.call_soon_threadsafe(self._on_notice, message)


def _first_share(job_id: str) -> float:
    """From a half to the whole of `shard_s`: jobs that began together would else publish together, all their threads
    at once, each time."""
    return 0.5 + zlib.crc32(job_id.encode()) / 2**33
