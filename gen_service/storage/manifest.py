"""The manifests: what is published. Writing one IS the commit."""

from __future__ import annotations

import os
import socket
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

from gen_service.errors import PublishConflict, StorageError
from gen_service.storage.destination import Destination
from gen_service.storage.frames import ORIGIN, JournalPosition

# Version 2 names skipped samples and what was steered for; a commit that knows of neither is written as version 1.
MANIFEST_VERSION = 2
FOLDER = "manifest"
SKIPPED_FOLDER = "skipped"


@dataclass(frozen=True, slots=True)
class Part:
    """One published Parquet file.

    Attributes:
        file: its name under the job folder.
        rows, bytes, sha256: of the whole file.
        verdicts: rows by outcome.
        prompt_tokens, completion_tokens: sums over its rows.
        source: of a part of verdicts, the file whose rows they judge; None for traces, and not written then.
    """

    file: str
    rows: int
    bytes: int
    sha256: str
    verdicts: dict[str, int]
    prompt_tokens: int
    completion_tokens: int
    source: str | None = None


@dataclass(frozen=True, slots=True)
class SkippedPart:
    """One published Parquet file of samples that are not made.

    Attributes:
        file: its name under the job folder.
        rows, bytes, sha256: of the whole file.
        reasons: rows by reason.
    """

    file: str
    rows: int
    bytes: int
    sha256: str
    reasons: dict[str, int]


@dataclass(frozen=True, slots=True)
class Manifest:
    """One commit.

    Attributes:
        epoch: number of the run that wrote it; each run opens with a manifest of its own, which claims the epoch.
        writer: unique to that run.
        parts: the files this commit publishes.
        journal_covered: every journal row before it is published by this manifest or an earlier one.
        rejected: prompt rows set aside up to this commit, over all runs.
        skipped: the files of skipped samples that this commit publishes.
        steering: fingerprint of what the run steers for, "" for nothing. With the first manifest of another one, what
            was skipped before counts no more: it may be needed now.
    """

    epoch: int
    writer: str
    parts: tuple[Part, ...] = ()
    journal_covered: JournalPosition = ORIGIN
    rejected: int = 0
    skipped: tuple[SkippedPart, ...] = ()
    steering: str = ""


@dataclass(frozen=True, slots=True)
class PublishedCounts:
    """What is published so far: rows (also by verdict), files, tokens; prompt rows set aside; and samples skipped by
    reason, under the last steering."""

    rows: int = 0
    parts: int = 0
    by_verdict: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    rejected: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    steering: str = ""

    @property
    def samples(self) -> int:
        """Samples that are accounted for: with a row, or skipped."""
        return self.rows + sum(self.skipped.values())


def count(manifests: Iterable[Manifest]) -> PublishedCounts:
    """The sums over all manifests of a job."""
    counts = PublishedCounts()
    for manifest in manifests:
        counts = add(counts, manifest)
    return counts


def add(counts: PublishedCounts, manifest: Manifest) -> PublishedCounts:
    """The counts after one more commit."""
    verdicts: Counter[str] = Counter(counts.by_verdict)
    for part in manifest.parts:
        verdicts.update(part.verdicts)
    skipped: Counter[str] = Counter(counts.skipped if manifest.steering == counts.steering else {})
    for skipped_part in manifest.skipped:
        skipped.update(skipped_part.reasons)
    return PublishedCounts(
        rows=counts.rows + sum(part.rows for part in manifest.parts),
        parts=counts.parts + len(manifest.parts),
        by_verdict=dict(verdicts),
        prompt_tokens=counts.prompt_tokens + sum(part.prompt_tokens for part in manifest.parts),
        completion_tokens=counts.completion_tokens + sum(part.completion_tokens for part in manifest.parts),
        rejected=max(counts.rejected, manifest.rejected),
        skipped=dict(skipped),
        steering=manifest.steering,
    )


def standing_skips(manifests: Sequence[Manifest]) -> list[SkippedPart]:
    """The files of skipped samples that count: those of the last steering without a break."""
    parts: list[SkippedPart] = []
    steering = ""
    for manifest in manifests:
        if manifest.steering != steering:
            parts, steering = [], manifest.steering
        parts.extend(manifest.skipped)
    return parts


def writer_name() -> str:
    """A name for this run as a writer: host, process id, and chance, since process ids come back."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}"


def load(destination: Destination, first: int = 1) -> list[Manifest]:
    """The manifests of a job from number `first` on, in order; all of them by default.

    Raises:
        StorageError: one is missing or damaged, or of a later version.
    """
    names = destination.sizes(FOLDER)
    numbers = [int(stem) for name in names if (stem := name.rsplit("/", 1)[-1].removesuffix(".json")).isdigit()]
    return [_read(destination, number) for number in range(first, max(numbers, default=0) + 1)]


def commit(destination: Destination, number: int, manifest: Manifest) -> None:
    """Write manifest `number`, the last step of publishing.

    Raises:
        PublishConflict: another writer has taken the number, so this run no longer owns the job.
    """
    name = f"{FOLDER}/{number:06}.json"
    data = orjson.dumps(_tree(manifest), option=orjson.OPT_INDENT_2)
    try:
        destination.create(name, data)
    except FileExistsError as error:
        # An object store's client may have repeated our own upload after a lost answer.
        if destination.read(name) != data:
            raise PublishConflict(f"{destination.locate(name)} was written by another run of this job") from error


def _tree(manifest: Manifest) -> dict[str, Any]:
    is_first_version = not manifest.skipped and not manifest.steering
    tree = {"version": 1 if is_first_version else MANIFEST_VERSION, **asdict(manifest)}
    if is_first_version:
        del tree["skipped"], tree["steering"]
    parts = [{key: value for key, value in part.items() if value is not None} for part in tree["parts"]]
    return {**tree, "parts": parts, "journal_covered": manifest.journal_covered._asdict()}


def _read(destination: Destination, number: int) -> Manifest:
    name = f"{FOLDER}/{number:06}.json"
    try:
        tree = orjson.loads(destination.read(name))
        if (version := tree.pop("version")) > MANIFEST_VERSION:
            raise StorageError(f"{destination.locate(name)} has version {version}, newer than {MANIFEST_VERSION}")
        covered = JournalPosition(**tree.pop("journal_covered"))
        parts = tuple(Part(**part) for part in tree.pop("parts"))
        skipped = tuple(SkippedPart(**part) for part in tree.pop("skipped", ()))
        return Manifest(**tree, parts=parts, journal_covered=covered, skipped=skipped)
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{destination.locate(name)} cannot be read: {error!r}") from error
