"""The record of one training run: a folder that says what was trained on what, with which result, and what it cost.

<path>/<name>/
  run.json             kind, spec, versions of the libraries, hashes of the data, starts, cost
  metrics.jsonl        one line each time something was measured, with its step
  completions/         of GRPO, what was sampled: <step>.parquet
  checkpoints/         what the run goes on from
  model/               the result, once it is finished
  run.lock             held while a process writes here
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from gen_service.errors import SpecError
from gen_service.storage.destination import LocalFolder, is_url, local_path
from gen_service.storage.disk_space import make_folder
from gen_service.storage.job_lock import JobLock
from gen_service.training.changes import has_grown
from gen_service.training.metrics_file import MetricsFile
from gen_service.training.record_file import (
    RECORD,
    RECORD_VERSION,
    Data,
    Kind,
    Reader,
    has_steps,
    record_in,
    refuse_other_run,
)
from gen_service.training_settings import RunSettings

Metrics = Mapping[str, float | int | str]

_LIBRARIES = ("gen-service", "torch", "transformers", "trl", "accelerate", "peft", "datasets", "numpy", "vllm")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run has cost over all its starts: hours of devices, and dollars where their price is known."""

    device_hours: float
    dollars: float | None

    def words(self) -> str:
        """For people: `3.25 device hours, $8.10`."""
        hours = f"{self.device_hours:.2f} device hours"
        return hours if self.dollars is None else f"{hours}, ${self.dollars:,.2f}"


class RunRecord:
    """The folder of a run, held by this process until it is closed. Made by `open`.

    With several processes one writes the record. In the others (`writes` is False) everything may be called, and does
    nothing.

    Attributes:
        folder: `<path>/<name>`, absolute.
        is_continued: the run was begun by an earlier start.
        writes: whether this process writes the record.
    """

    def __init__(self, folder: Path, settings: RunSettings, tree: dict[str, Any], lock: JobLock | None) -> None:
        self.folder = folder
        self.writes = lock is not None
        self.is_continued = bool(tree["starts"])
        self._settings = settings
        self._tree = tree
        self._lock = lock
        self._metrics = MetricsFile(folder / "metrics.jsonl")

    @classmethod
    def open(
        cls,
        settings: RunSettings,
        kind: Kind,
        spec: Mapping[str, Any],
        data: Data,
        *,
        may_change: Collection[str] = (),
        reads: Reader | None = None,
        writes: bool | None = None,
    ) -> Self:
        """Begin a run, or go on with it. One that made no step, as it failed before, may begin with another spec.

        Args:
            spec: the whole spec as plain values.
            data: what the run learns from. Of one that goes on the hashes are those that it began with, see
                `record_file.began_with`.
            may_change: dotted names of fields of this kind of run that may differ from the start before, besides those
                of `changes.MAY_CHANGE`.
            reads: makes a spec of plain values, such as `SftSpec.model_validate`: what the record's lacks, since it was
                written before there was such a field, has its default then.
            writes: whether this process writes the record; None finds out from the launcher's RANK.

        Raises:
            SpecError: the folder is a URL, or the run was begun with another spec or other data: names the field.
            JobLocked: another process writes this run.
            StorageError: its run.json cannot be read.
        """
        if is_url(settings.path):
            raise SpecError("run.path", settings.path, "a local folder: checkpoints are written by torch")
        folder = local_path(settings.path) / settings.name
        plain: dict[str, Any] = orjson.loads(orjson.dumps(spec))
        began = record_in(folder)
        if began is not None and has_steps(folder):  # before the lock: a refused start leaves nothing behind
            refuse_other_run(began, kind, plain, data, may_change, reads)
        does_write = _is_main_process() if writes is None else writes
        lock = JobLock(folder / "run.lock") if does_write else None
        new = _new(kind, plain, data)
        tree = (record_in(folder) or new) | {name: new[name] for name in ("version", "kind", "data")}
        record = cls(folder, settings, tree, lock)
        record._begin(plain)
        return record

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have the run."""
        if self._lock is not None:
            self._write()
            self._lock.release()
            self._lock = None

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints; see `checkpoints.newest_whole`."""
        return self.folder / "checkpoints"

    @property
    def model(self) -> Path:
        """Where the finished model lies: a folder that transformers and vLLM load."""
        return self.folder / "model"

    @property
    def finished(self) -> int | None:
        """The step that the finished model is of; None while the run goes on, and when its spec asks for more."""
        step: int | None = self._tree["finished"]
        return step

    @property
    def last(self) -> dict[str, Any]:
        """The last line of metrics.jsonl; empty when there is none."""
        return self._metrics.last

    def latest(self, name: str) -> Any:
        """The value of the last line of metrics.jsonl that has one of this name; None without one."""
        return self._metrics.latest(name)

    @property
    def cost(self) -> Cost:
        """What the run has cost so far."""
        hours = self._tree["device_seconds"] / 3600
        price = self._settings.device_hour_price
        return Cost(hours, None if price is None else hours * price)

    def log(self, step: int, metrics: Metrics) -> None:
        """Add a line to metrics.jsonl: these, the step, and the seconds of all starts so far."""
        if self.writes:
            self._metrics.add(step, metrics)

    def rewind(self, step: int) -> None:
        """Drop what was measured and sampled after `step`, the step of the checkpoint that the run goes on from.

        So each step stands once, though it was made twice.
        """
        if not self.writes:
            return
        self._metrics.rewind(step)
        for file in (self.folder / "completions").glob("*.parquet"):
            if file.stem.isdigit() and int(file.stem) > step:
                file.unlink()

    def completions(self, step: int, rows: Sequence[dict[str, Any]]) -> None:
        """Write what was sampled for a step, `completions/<step>.parquet`; rows written for it before are replaced."""
        if not self.writes:
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        place = LocalFolder(self.folder)
        name = f"completions/{step:08}.parquet"
        staged = place.staging(name)
        pq.write_table(pa.Table.from_pylist(list(rows)), staged, compression="zstd")
        place.adopt(staged, name)

    def spent(self, device_seconds: float) -> None:
        """Add to the run's cost: the seconds that passed, times the devices that were held."""
        self._tree["device_seconds"] += device_seconds
        self._write()

    def note(self, name: str, value: Any) -> None:
        """Put a section of the caller's own into run.json, such as the counts of the examples."""
        self._tree["notes"][name] = value
        self._write()

    def finish(self, step: int) -> None:
        """Say that the model of this step, which lies in `model`, is the result."""
        self._tree["finished"] = step
        self._write()

    def _begin(self, spec: dict[str, Any]) -> None:
        if has_grown(self._tree["spec"], spec):
            self._tree["finished"] = None
        if not self.writes:
            return
        make_folder(self.checkpoints)
        self._metrics.mend()
        self._tree["spec"] = spec
        self._tree["starts"].append({"at": time.time(), "step": self.last.get("step", 0), "versions": _versions()})
        self._write()

    def _write(self) -> None:
        if not self.writes:
            return
        cost = self.cost
        tree = self._tree | {"device_hours": cost.device_hours, "dollars": cost.dollars}
        LocalFolder(self.folder).put(RECORD, orjson.dumps(tree, option=orjson.OPT_INDENT_2))


def _new(kind: Kind, spec: dict[str, Any], data: Data) -> dict[str, Any]:
    return {
        "version": RECORD_VERSION,
        "kind": kind,
        "spec": spec,
        "data": {name: dict(entry) for name, entry in data.items()},
        "starts": [],
        "device_seconds": 0.0,
        "finished": None,
        "notes": {},
    }


def _is_main_process() -> bool:
    """Whether this is process 0 of those that `accelerate launch` or torchrun started, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
