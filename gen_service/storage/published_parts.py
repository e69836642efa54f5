"""What earlier runs of a job have published, checked and taken up again at open."""

from __future__ import annotations

import hashlib

from gen_service.errors import StorageError
from gen_service.storage import manifest, traces
from gen_service.storage.destination import Destination
from gen_service.storage.manifest import Manifest
from gen_service.storage.seen import Seen

_CHUNK_BYTES = 1024 * 1024


def take_over(destination: Destination, *, verify: bool) -> list[Manifest]:
    """Open a new run of the job, and check what earlier ones published; all manifests, the last one this run's claim.

    Args:
        verify: also read every file and compare its sha256.

    Raises:
        PublishConflict, StorageError: as `claim_epoch` and `check_parts`.
    """
    before = manifest.load(destination)
    claim = claim_epoch(destination, before, manifest.writer_name())
    destination.sweep()
    check_parts(destination, before, verify=verify)
    return [*before, claim]


def claim_epoch(destination: Destination, manifests: list[Manifest], writer: str) -> Manifest:
    """Open a new run of the job by a manifest of its own, without parts.

    From here on any older run, also one on another host where no lock reaches, fails with PublishConflict at its
    next commit, because its manifest number is taken; and no two runs ever use one epoch, nor one part name.

    Raises:
        PublishConflict: another run is opening the job at this moment.
    """
    last = manifests[-1] if manifests else Manifest(epoch=0, writer="")
    claim = Manifest(last.epoch + 1, writer, (), last.journal_covered, last.rejected)
    manifest.commit(destination, len(manifests) + 1, claim)
    return claim


def check_parts(destination: Destination, manifests: list[Manifest], *, verify: bool) -> None:
    """Check that every published part is there as it was published, and delete parts that no manifest names.

    Args:
        verify: also read every file and compare its sha256.

    Raises:
        StorageError: a part is missing or changed.
    """
    sizes = destination.sizes("data")
    for part in (part for published in manifests for part in published.parts):
        size = sizes.pop(part.file, None)
        if size != part.bytes:
            state = "missing" if size is None else f"{size} bytes long"
            raise StorageError(f"{destination.locate(part.file)} is {state}; it was published with {part.bytes} bytes")
        if verify and _sha256(destination, part.file) != part.sha256:
            raise StorageError(f"{destination.locate(part.file)} has changed since it was published")
    for orphan in sizes:
        destination.remove(orphan)


def add_published(destination: Destination, manifests: list[Manifest], *seen: Seen) -> None:
    """Put the sample ids of all published rows into each of these sets.

    Raises:
        StorageError: a sample was published twice.
    """
    for part in (part for published in manifests for part in published.parts):
        ids = [
            sample_id
            for batch in traces.part_batches(destination, part, ["sample_id"])
            for sample_id in batch.column(0).to_pylist()
        ]
        for one in seen:
            if (added := one.add_many(ids)) != part.rows:
                repeated = part.rows - added
                raise StorageError(f"{destination.locate(part.file)} repeats {repeated} samples of earlier rows")


def _sha256(destination: Destination, name: str) -> str:
    digest = hashlib.sha256()
    with destination.open(name) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
