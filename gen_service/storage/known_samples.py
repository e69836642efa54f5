"""What became of each sample, by its id, on disk: memory stays the same for any number of them."""

from __future__ import annotations

from collections.abc import Sequence

from gen_service.errors import StorageError
from gen_service.records import Outcome
from gen_service.storage import skipped, traces
from gen_service.storage.destination import Destination
from gen_service.storage.job_places import JobPlaces
from gen_service.storage.manifest import Manifest, Part, SkippedPart, standing_skips
from gen_service.storage.seen import Seen

# Outcomes that decide about a sample's siblings.
KEPT_OUTCOMES: tuple[Outcome, ...] = ("correct", "ungradable")


class KnownSamples:
    """The samples of one job. Closed by its owner.

    Attributes:
        done: those that need no more work: journaled, published or skipped.
        skipped: those that are not made, under the steering of this run.

    Args:
        at: where the sets lie.
        keep_outcomes: whether `had` is answered, of KEPT_OUTCOMES.
    """

    def __init__(self, at: JobPlaces, keep_outcomes: bool) -> None:
        self._sets: list[Seen] = []
        self._at = at
        self._published_before = self._set("published")
        self.done = self._set("done")
        self.skipped = self._set("skipped")
        self._outcomes = {name: self._set(name) for name in KEPT_OUTCOMES} if keep_outcomes else {}

    def load(self, destination: Destination, manifests: Sequence[Manifest]) -> None:
        """Put in what earlier runs published and skipped.

        Args:
            manifests: of the job, this run's claim included.

        Raises:
            StorageError: a sample is there twice.
        """
        for published in manifests:
            for part in published.parts:
                self._load(destination, part)
        for skipped_part in standing_skips(manifests):
            ids = [
                sample_id
                for batch in skipped.part_batches(destination, skipped_part, ["sample_id"])
                for sample_id in batch.column(0).to_pylist()
            ]
            self.skipped.add_many(ids)
            _require_new(destination, skipped_part, self.done.add_many(ids))

    def had_before(self, sample_id: str) -> bool:
        """Whether an earlier run published or skipped the sample; before this one skips any."""
        return sample_id in self._published_before or sample_id in self.skipped

    def had(self, sample_id: str, outcome: Outcome) -> bool:
        """Whether the sample has a row with this outcome, by any run.

        Raises:
            ValueError: outcomes are not kept.
        """
        if outcome not in self._outcomes:
            raise ValueError("the folder was not opened with keep_outcomes")
        return sample_id in self._outcomes[outcome]

    def judged(self, sample_id: str, outcome: Outcome) -> None:
        """The sample gets a row with this outcome."""
        if (seen := self._outcomes.get(outcome)) is not None:
            seen.add(sample_id)

    def close(self) -> None:
        """Delete the sets."""
        for one in self._sets:
            one.close()

    def _set(self, name: str) -> Seen:
        self._sets.append(Seen(self._at.seen(name)))
        return self._sets[-1]

    def _load(self, destination: Destination, part: Part) -> None:
        new = 0
        columns = ["sample_id", "verdict"] if self._outcomes else ["sample_id"]
        for batch in traces.part_batches(destination, part, columns):
            ids = batch.column(0).to_pylist()
            self._published_before.add_many(ids)
            new += self.done.add_many(ids)
            if self._outcomes:
                for sample_id, verdict in zip(ids, batch.column(1).to_pylist(), strict=True):
                    self.judged(sample_id, verdict)
        _require_new(destination, part, new)


def _require_new(destination: Destination, part: Part | SkippedPart, new: int) -> None:
    if new != part.rows:
        raise StorageError(f"{destination.locate(part.file)} repeats {part.rows - new} samples of earlier rows")
