"""What earlier runs of a job have published, checked and taken up again at open."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from gen_service.errors import StorageError
from gen_service.storage import manifest
from gen_service.storage.destination import Destination
from gen_service.storage.manifest import SKIPPED_FOLDER, Manifest, Part, SkippedPart

_CHUNK_BYTES = 1024 * 1024


def take_over(destination: Destination, steering: str = "", *, verify: bool = False) -> list[Manifest]:
    """Open a new run of the job, and check what earlier ones published; all manifests, the last one this run's claim.

    Args:
        steering: fingerprint of what the run steers for, "" for nothing.
        verify: also read every file and compare its sha256.

    Raises:
        PublishConflict, StorageError: as `claim_epoch` and `check_parts`.
    """
    before = manifest.load(destination)
    claim = claim_epoch(destination, before, manifest.writer_name(), steering)
    destination.sweep()
    check_parts(destination, before, verify=verify)
    return [*before, claim]


def claim_epoch(destination: Destination, manifests: list[Manifest], writer: str, steering: str = "") -> Manifest:
    """Open a new run of the job by a manifest of its own, without parts.

    From here on any older run, also one on another host where no lock reaches, fails with PublishConflict at its
    next commit, because its manifest number is taken; and no two runs ever use one epoch, nor one part name.

    Args:
        steering: as for `take_over`.

    Raises:
        PublishConflict: another run is opening the job at this moment.
    """
    last = manifests[-1] if manifests else Manifest(epoch=0, writer="")
    claim = Manifest(last.epoch + 1, writer, (), last.journal_covered, last.rejected, steering=steering)
    manifest.commit(destination, len(manifests) + 1, claim)
    return claim


def check_parts(destination: Destination, manifests: list[Manifest], *, verify: bool) -> None:
    """Check that every published part is there as it was published, and delete parts that no manifest names.

    Args:
        verify: also read every file and compare its sha256.

    Raises:
        StorageError: a part is missing or changed.
    """
    sizes = destination.sizes("data") | destination.sizes(SKIPPED_FOLDER)
    for part in _all_parts(manifests):
        size = sizes.pop(part.file, None)
        if size != part.bytes:
            state = "missing" if size is None else f"{size} bytes long"
            raise StorageError(f"{destination.locate(part.file)} is {state}; it was published with {part.bytes} bytes")
        if verify and _sha256(destination, part.file) != part.sha256:
            raise StorageError(f"{destination.locate(part.file)} has changed since it was published")
    for orphan in sizes:
        destination.remove(orphan)


def _all_parts(manifests: Iterable[Manifest]) -> Iterator[Part | SkippedPart]:
    for published in manifests:
        yield from published.parts
        yield from published.skipped


def _sha256(destination: Destination, name: str) -> str:
    digest = hashlib.sha256()
    with destination.open(name) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
