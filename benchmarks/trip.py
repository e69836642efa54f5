"""Whole journeys: the real command in a process of its own, against simulated servers that keep their own log."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from gen_service.errors import JournalCorrupt
from gen_service.jobs.job import JobSpec
from gen_service.storage import codec, frames, manifest, segments, traces
from gen_service.storage.destination import open_destination
from gen_service.storage.frames import ORIGIN, JournalPosition
from gen_service.storage.job_places import places

POLL_S = 0.003
WITHIN_S = 180.0


def write_spec(path: Path, spec: JobSpec) -> Path:
    """The spec as a file for the command."""
    path.write_text(json.dumps(spec.model_dump(mode="json", exclude={"endpoints": {"api_key"}})), encoding="utf-8")
    return path


@contextmanager
def generating(spec_file: Path, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`gen-service generate SPEC` as a process, its words going to the file `output`; killed at the end if it lives."""
    command = [sys.executable, "-c", "from gen_service.cli import main; main()", "generate", str(spec_file)]
    with output.open("ab") as words:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=words, stderr=subprocess.STDOUT)
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        child.wait()


def wait_until(reached: Callable[[], bool], child: subprocess.Popen[bytes], output: Path) -> bool:
    """True when `reached`, False when the process ended before.

    Raises:
        RuntimeError: neither happened within WITHIN_S; with the last words of the process.
    """
    until = time.monotonic() + WITHIN_S
    while not reached():
        if child.poll() is not None:
            return False
        if time.monotonic() > until:
            raise RuntimeError(f"nothing happened within {WITHIN_S:g} s: {output.read_text()[-2000:]}")
        time.sleep(POLL_S)
    return True


def exit_code(child: subprocess.Popen[bytes]) -> int:
    """The exit code of a process that is about to end.

    Raises:
        subprocess.TimeoutExpired: it does not end.
    """
    return child.wait(WITHIN_S)


@dataclass(slots=True)
class ServerLog:
    """What the servers say they received and sent, read as it grows.

    Attributes:
        received: sample ids, in the order of the requests, repeats among them.
        sent: the sha256 of every good answer that was written whole, by sample id.
        answered: how many different samples got one.
    """

    path: Path
    received: list[str] = field(default_factory=list)
    sent: dict[str, set[str]] = field(default_factory=dict)
    _offset: int = 0

    def read(self) -> ServerLog:
        """Take what is new."""
        if not self.path.exists():
            return self
        with self.path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                self._take(orjson.loads(line))
        return self

    @property
    def answered(self) -> int:
        return len(self.sent)

    def _take(self, line: dict[str, Any]) -> None:
        if line["event"] == "received":
            self.received.append(line["request_id"])
        elif line["event"] == "sent":
            self.sent.setdefault(line["request_id"], set()).add(line["sha256"])


def settle(urls: Sequence[str]) -> None:
    """Return when the servers have logged every request that reached them before this call, also a dead client's.

    A server takes up what lies in its sockets before a request that comes later; twice, since it logs a step after.
    """
    for url in (*urls, *urls):
        with urllib.request.urlopen(f"{url}/health", timeout=WITHIN_S) as response:
            response.read()


def journaled_ids(spec: JobSpec) -> list[str]:
    """The sample ids that the journal holds beyond what is published, read without changing it."""
    at = places(spec.output, spec.job_id)
    covered, found = _covered(at.published), []
    for number in segments.segment_numbers(at.journal):
        if number < covered.segment:
            continue
        start = covered.offset if number == covered.segment else 0
        # What a kill tore off the end was never acknowledged.
        with contextlib.suppress(JournalCorrupt):
            for offset, frame in segments.read_frames(segments.segment_path(at.journal, number), start):
                for index, row in enumerate(frames.unpack(frame)):
                    if JournalPosition(number, offset, index) >= covered:
                        found.append(codec.decode(row).sample.sample_id)
    return found


def journal_is_whole(spec: JobSpec) -> bool:
    """Whether every byte of the journal belongs to an intact frame: nothing of a write that failed is left."""
    folder = places(spec.output, spec.job_id).journal
    try:
        for number in segments.segment_numbers(folder):
            for _ in segments.read_frames(segments.segment_path(folder, number)):
                pass
    except JournalCorrupt:
        return False
    return True


def published_ids(spec: JobSpec) -> list[str]:
    """The sample ids of all rows that the manifests name."""
    folder = places(spec.output, spec.job_id).published
    if not manifest.load(open_destination(folder)):
        return []
    return [row["sample_id"] for row in traces.read_traces(folder, ["sample_id"])]


def manifests(spec: JobSpec) -> int:
    """How many manifests the job has: one when a run has opened it, one more for each published part."""
    return len(open_destination(places(spec.output, spec.job_id).published).sizes(manifest.FOLDER))


def _covered(folder: str) -> JournalPosition:
    committed = manifest.load(open_destination(folder))
    return committed[-1].journal_covered if committed else ORIGIN
