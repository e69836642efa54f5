"""All that lies open of a job's folder during one run."""

from __future__ import annotations

from collections.abc import Callable

from gen_service.storage import manifest, published_parts
from gen_service.storage.card import write_card
from gen_service.storage.commits import Commits
from gen_service.storage.dead_letter import DeadLetter
from gen_service.storage.destination import open_destination
from gen_service.storage.disk_space import SpaceWaiter
from gen_service.storage.frames import JournalPosition
from gen_service.storage.job_lock import JobLock
from gen_service.storage.job_opening import JobOpening
from gen_service.storage.job_places import JobPlaces
from gen_service.storage.job_spec import write_job
from gen_service.storage.journal import Journal
from gen_service.storage.known_samples import KnownSamples
from gen_service.storage.partials import Partials
from gen_service.storage.seen import Seen
from gen_service.storage.segments import segment_path
from gen_service.storage.skipped import SkipWriter
from gen_service.storage.watermark import Watermark


class Stations:
    """Takes the folder over for a run when it is made, or lets go of it again. For worker threads.

    Attributes:
        epoch: 1-based number of this run of the job.
        destination: where files are published.
        known: what became of each sample.
        dead_letter: what people should look at.
        watermark, journal: what is durable and not published.
        partials: what has come of unfinished completions.
        skips: samples that are not made.
        commits: the last step of publishing.

    Args:
        notice: told what people should know.
        in_turn, commit_soon: as `SkipWriter` takes them.

    Raises:
        JobLocked, JobMismatch, JournalCorrupt, PublishConflict, StorageError, OSError: the folder cannot be written.
    """

    def __init__(
        self,
        job: JobOpening,
        at: JobPlaces,
        space: SpaceWaiter,
        notice: Callable[[str], None],
        in_turn: Callable[[Callable[[], None]], None],
        commit_soon: Callable[[], None],
    ) -> None:
        self._job = job
        self._at = at
        self._space = space
        self._notice = notice
        self._lock = JobLock(at.lock)
        try:
            self._open(in_turn, commit_soon)
        except BaseException:
            self.let_go()
            raise

    def seal(self) -> None:
        """The last writes of a run, when every part is committed."""
        self.commits.finish()
        if self._at.dead_letter_is_copied:
            self.destination.put(self._at.dead_letter.name, self._at.dead_letter.read_bytes())
        manifests = manifest.load(self.destination)
        job = self._job
        self._space.write("README.md", lambda: write_card(self.destination, job.job_id, job.spec, manifests))

    def let_go(self) -> None:
        """Close what was opened, also of a folder that was opened half."""
        for name in ("partials", "dead_letter", "_dead_letter_keys", "known"):
            if (resource := getattr(self, name, None)) is not None:
                resource.close()
        self._lock.release()

    def _open(self, in_turn: Callable[[Callable[[], None]], None], commit_soon: Callable[[], None]) -> None:
        job, at, space = self._job, self._at, self._space
        self.destination = open_destination(at.published, at.staging)
        write_job(self.destination, job.job_id, job.spec, job.identity)
        manifests = published_parts.take_over(self.destination, job.steering, verify=job.verify)
        self.epoch = manifests[-1].epoch
        self.known = KnownSamples(at, job.keep_outcomes)
        self.known.load(self.destination, manifests)
        self._dead_letter_keys = Seen(at.seen("dead-letter"))
        self.dead_letter = DeadLetter(at.dead_letter, self._dead_letter_keys, space)
        self._open_journal(manifests[-1].journal_covered)
        self.partials = Partials(at.partials, self.known.done.__contains__, self._notice)
        self.skips = SkipWriter(
            self.destination, job.job_id, self.epoch, job.output.shard_s, space, in_turn, commit_soon
        )
        self.commits = Commits(
            self.destination, manifests, self.dead_letter, self.watermark, self.journal, self.skips, space
        )

    def _open_journal(self, covered: JournalPosition) -> None:
        folder = self._at.journal
        if covered.segment and not segment_path(folder, covered.segment).exists():
            self._notice(f"the journal of earlier runs is not in {folder}; what it held is generated again")
        self.watermark = Watermark(covered)
        self.journal = Journal(folder, self._space, self.watermark, covered=covered)
        if self.journal.torn_bytes:
            self._notice(f"cut {self.journal.torn_bytes} bytes of an unfinished write off the journal")
        self.known.done.add_many(trace.sample.sample_id for _, trace in self.journal.replay())
