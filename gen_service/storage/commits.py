"""The last step of publishing: manifest after manifest of one run."""

from __future__ import annotations

from gen_service.storage import manifest
from gen_service.storage.dead_letter import DeadLetter
from gen_service.storage.destination import Destination
from gen_service.storage.disk_space import SpaceWaiter
from gen_service.storage.frames import JournalPosition
from gen_service.storage.journal import Journal
from gen_service.storage.manifest import Manifest, Part, SkippedPart
from gen_service.storage.skipped import SkipWriter
from gen_service.storage.watermark import Watermark


class Commits:
    """Writes the manifests of one run, in worker threads, one at a time.

    Args:
        before: the manifests so far; the last one is this run's claim of the job.

    Attributes:
        published: what all runs have published so far.
    """

    def __init__(
        self,
        destination: Destination,
        before: list[Manifest],
        dead_letter: DeadLetter,
        watermark: Watermark,
        journal: Journal,
        skips: SkipWriter,
        space: SpaceWaiter,
    ) -> None:
        self._destination = destination
        self._last = before[-1]
        self._next_manifest = len(before) + 1
        self.published = manifest.count(before)
        self._dead_letter = dead_letter
        self._watermark = watermark
        self._journal = journal
        self._skips = skips
        self._space = space

    def publish(self, part: Part, positions: list[JournalPosition]) -> None:
        """Publish a part whose file is durable. The dead letter goes first: the manifest is the last write."""
        rejected = self._dead_letter.sync()
        self._watermark.settled(positions)
        self._write((part,), rejected, self._skips.write())

    def publish_skipped(self) -> None:
        """Publish the samples that were skipped and cut since the last commit, if there are any."""
        if skipped := self._skips.write():
            self._write((), self._dead_letter.sync(), skipped)

    def finish(self) -> None:
        """Commit what came after the last part, when every part is committed."""
        self._skips.cut()
        rejected, skipped = self._dead_letter.sync(), self._skips.write()
        if skipped or (rejected, self._watermark.low()) != (self._last.rejected, self._last.journal_covered):
            self._write((), rejected, skipped)

    def _write(self, parts: tuple[Part, ...], rejected: int, skipped: tuple[SkippedPart, ...]) -> None:
        low = self._watermark.low()
        last = self._last
        commit = Manifest(last.epoch, last.writer, parts, low, rejected, skipped, last.steering)
        number = self._next_manifest
        self._space.write(f"manifest {number}", lambda: manifest.commit(self._destination, number, commit))
        self._next_manifest += 1
        self._last = commit
        self.published = manifest.add(self.published, commit)
        self._journal.release(low)
