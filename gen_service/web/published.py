"""What a job has published, read from its manifests, each once: they are never changed, only added to."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from gen_service.errors import InvalidRequest
from gen_service.storage import manifest
from gen_service.storage.destination import Destination, open_destination
from gen_service.storage.manifest import Part

# Of this many jobs the parts are kept; the one asked for the longest ago is forgotten first.
MOST_JOBS = 256


@dataclass(frozen=True, slots=True)
class Published:
    """The published files of a job so far.

    Attributes:
        manifests: how many were read.
    """

    destination: Destination
    parts: tuple[Part, ...] = ()
    manifests: int = 0


@dataclass(frozen=True, slots=True)
class Slice:
    """`rows` rows of a part from `first` on."""

    part: Part
    first: int
    rows: int


class PublishedParts:
    """The published files of the jobs asked for lately."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Published] = OrderedDict()

    async def of(self, folder: str) -> Published:
        """The files that the job with this folder or URL has published; none where there is no such folder yet.

        Raises:
            StorageError: a manifest is damaged or of a later version.
        """
        known = self._known.pop(folder, None) or Published(open_destination(folder))
        self._known[folder] = known
        if len(self._known) > MOST_JOBS:
            self._known.popitem(last=False)
        added = await asyncio.to_thread(manifest.load, known.destination, known.manifests + 1)
        parts = known.parts + tuple(part for one in added for part in one.parts)
        read = Published(known.destination, parts, known.manifests + len(added))
        if folder in self._known and self._known[folder].manifests < read.manifests:
            self._known[folder] = read
        return read


def page(parts: Sequence[Part], start: tuple[int, int], limit: int | None) -> tuple[list[Slice], tuple[int, int]]:
    """The rows from a position on, at most `limit`, and the position after them.

    A position is a part and a row in it; the one after the last row is the next part's first row, published or not.

    Raises:
        InvalidRequest: there is no such position in this job.
    """
    index, row = start
    if index > len(parts) or (row > 0 and (index == len(parts) or row >= parts[index].rows)):
        raise InvalidRequest("cursor: it is not of this job; begin without one", field="cursor")
    slices, left = [], limit
    while index < len(parts) and left != 0:
        here = parts[index].rows - row
        taken = here if left is None else min(here, left)
        slices.append(Slice(parts[index], row, taken))
        left = None if left is None else left - taken
        index, row = (index + 1, 0) if taken == here else (index, row + taken)
    return slices, (index, row)
