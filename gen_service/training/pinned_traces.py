"""Which published traces a run learns from: those that were there when it began, whatever is published meanwhile.

People generate while they train. A job only ever grows, file by file, and so does a set of verdicts; a run that goes on
takes the first files of both, as many as it began with, and refuses when these are others now. No torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Final

from gen_service.errors import SpecError
from gen_service.storage import manifest
from gen_service.storage.destination import open_destination
from gen_service.storage.manifest import Part
from gen_service.storage.verdicts import LATEST, VerdictSet, list_verdict_sets, open_verdict_set, verdict_set_named
from gen_service.training_settings import TraceSettings

_DIGEST_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Pin:
    """The first files of one job, in the order of its manifests, and of the set of verdicts that goes over them.

    Attributes:
        hash: of the hashes of all these files; the record has it, too.
        parts: how many files of traces.
        verdict_set: the set's name, though `latest` was asked for; None where the rows' own verdicts count.
        verdict_parts: how many files of verdicts.
    """

    hash: str
    parts: int
    verdict_set: str | None = None
    verdict_parts: int = 0

    def as_tree(self) -> dict[str, Any]:
        """As plain values, for the run's record."""
        return asdict(self)

    def traces(self, path: str) -> list[Part]:
        """The files of traces of the job at `path`."""
        return _traces(path)[: self.parts]

    def verdicts(self, path: str) -> VerdictSet | None:
        """The verdicts that go over the rows' own, without those that came later."""
        return None if self.verdict_set is None else open_verdict_set(path, self.verdict_set, self.verdict_parts)

    def news(self, path: str) -> str | None:
        """For people, what the job has published since; None for nothing."""
        traces = len(_traces(path)) - self.parts
        verdicts = len(_verdicts(path, self.verdict_set)) - self.verdict_parts
        counted = [(traces, "file of traces", "files of traces"), (verdicts, "file of verdicts", "files of verdicts")]
        words = " and ".join(f"{count} more {one if count == 1 else many}" for count, one, many in counted if count)
        return f"{path} has published {words} since; this run learns from those it began with" if words else None


def pinned(settings: TraceSettings, began: Mapping[str, Any]) -> dict[str, Pin]:
    """What a run learns from, by the job's path: of a job that it began with, what it began with; else all of it.

    Args:
        began: the data in the run's record, see `record_file.began_with`; empty for a run that begins.

    Raises:
        SpecError: there is no job at a path, or no such set of verdicts; or what the run began with has changed.
    """
    return {path: _pin(path, settings.verdict_set, began.get(path)) for path in settings.paths}


def _pin(path: str, verdict_set: str | None, before: str | Mapping[str, Any] | None) -> Pin:
    if before is None:
        return _of_now(path, verdict_set)
    if isinstance(before, str):
        found = _with_hash(path, verdict_set, before)
    else:
        found = Pin(**before)
        if not _is_asked_for(found, verdict_set):
            return _of_now(path, verdict_set)  # the spec is another, which the record refuses by the field's name
        found = found if _is_unchanged(found, path) else None
    if found is None:
        raise SpecError(
            "data",
            path,
            "what the run began with, and what was published since; what it began with has changed: give the run "
            "another name",
        )
    return found


def _of_now(path: str, verdict_set: str | None) -> Pin:
    name = None if verdict_set is None else verdict_set_named(path, verdict_set)
    traces, verdicts = _traces(path), _verdicts(path, name)
    return Pin(_hash([*traces, *verdicts]), len(traces), name, len(verdicts))


def _is_asked_for(pin: Pin, verdict_set: str | None) -> bool:
    return verdict_set == pin.verdict_set or (verdict_set == LATEST and pin.verdict_set is not None)


def _is_unchanged(pin: Pin, path: str) -> bool:
    traces, verdicts = _traces(path)[: pin.parts], _verdicts(path, pin.verdict_set)[: pin.verdict_parts]
    is_all_there = (len(traces), len(verdicts)) == (pin.parts, pin.verdict_parts)
    return is_all_there and _hash([*traces, *verdicts]) == pin.hash


def _with_hash(path: str, verdict_set: str | None, wanted: str) -> Pin | None:
    """The first files that have this hash: a record of version 1 says nothing else of them."""
    names: list[str | None] = [None]
    if verdict_set is not None:
        names = [info.name for info in list_verdict_sets(path) if verdict_set in (LATEST, info.name)]
    traces, sets = _traces(path), [(name, _verdicts(path, name)) for name in names]
    for (name, verdicts), parts in product(sets, range(len(traces), -1, -1)):
        for verdict_parts, found in enumerate(_growing(traces[:parts], verdicts)):
            if found == wanted:
                return Pin(wanted, parts, name, verdict_parts)
    return None


def _growing(first: Sequence[Part], more: Sequence[Part]) -> Iterator[str]:
    """The hash of the first files, then with one more each time."""
    hashed = b"\n".join(part.sha256.encode() for part in first)
    digest = hashlib.blake2b(hashed, digest_size=_DIGEST_BYTES)
    yield digest.hexdigest()
    for place, part in enumerate(more):
        digest.update(b"\n" * bool(first or place) + part.sha256.encode())
        yield digest.hexdigest()


def _hash(parts: Sequence[Part]) -> str:
    return next(_growing(parts, ()))


def _traces(path: str) -> list[Part]:
    manifests = manifest.load(open_destination(path))
    if not manifests:
        raise SpecError("traces.paths", path, "a job folder: one that holds manifest/000001.json")
    return [part for one in manifests for part in one.parts]


def _verdicts(path: str, name: str | None) -> list[Part]:
    return [] if name is None else [part for one in open_verdict_set(path, name).manifests for part in one.parts]
