"""A job in a process of its own whose prompts are counted as they are read: what it cost, how far reading was ahead.

Input: {"spec": {...}, "rows": path of a JSON-lines file}. The spec's prompts come from `counted:///prompts.jsonl`, a
file system that gives one row of that file at each read.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
from fsspec.spec import AbstractFileSystem

from benchmarks.controller import counts
from benchmarks.measurement import Meter
from gen_service.generation.progress import Progress
from gen_service.jobs.job import JobSpec, make_spec
from gen_service.jobs.runner import RunningJob, generate
from gen_service.terminal.run import run_async

SOURCE = "counted:///prompts.jsonl"


class Reading:
    """Counts rows as they are read, and by how many they are ahead of the published ones at most."""

    def __init__(self) -> None:
        self.rows = 0
        self.most_ahead = 0
        self._progress = Progress()

    def watch(self, running: RunningJob) -> None:
        """Compare with this job's published rows from now on."""
        self._progress = running.progress

    def count(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        """The same lines, counted."""
        for line in lines:
            self.rows += 1
            self.most_ahead = max(self.most_ahead, self.rows - self._progress.published)
            yield line


class OneRowAtATime(io.RawIOBase):
    """A file whose every read gives one row."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines

    def readable(self) -> bool:
        """It can be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """The next row, whatever the size."""
        return next(self._lines, b"")


def register(rows: Path, reading: Reading) -> None:
    """Have `counted://` give the rows of this file."""

    class Counted(AbstractFileSystem):  # type: ignore[misc]
        protocol = "counted"
        cachable = False

        def _open(self, path: str, mode: str = "rb", **_: object) -> OneRowAtATime:
            return OneRowAtATime(reading.count(iter(rows.read_bytes().splitlines(keepends=True))))

    fsspec.register_implementation("counted", Counted)


async def measured(spec: JobSpec, reading: Reading) -> dict[str, Any]:
    """Run the job; its cost, its counts and how far ahead it read."""
    meter = Meter()
    report = await generate(spec, on_start=reading.watch)
    return {**meter.read().as_dict(), **counts(report), "read": reading.rows, "most_ahead": reading.most_ahead}


def main() -> None:
    """Read the input, print the answer."""
    given = json.load(sys.stdin)
    reading = Reading()
    register(Path(given["rows"]), reading)
    print(json.dumps(run_async(measured(make_spec(given["spec"]), reading))))


if __name__ == "__main__":
    main()
