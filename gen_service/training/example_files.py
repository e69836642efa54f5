"""Examples on disk: Arrow files in the run's folder, which the trainer maps into memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import orjson
import pyarrow as pa

from gen_service.storage.destination import LocalFolder
from gen_service.training.chat import labels_of
from gen_service.training.trace_examples import Counts, Example

_INFO = "examples.json"
_VERSION = 1
_SCHEMA = pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])
_BATCH = 64  # examples in a record batch


@dataclass(frozen=True, slots=True)
class ExampleFiles:
    """Examples that lie on disk. Both files have the columns `input_ids` and `labels`, int32 lists of equal length.

    Attributes:
        train: the Arrow file to train on.
        held_out: that of the held-out prompts; without rows where nothing is held out.
        counts: what became of the traces.
        was_there: written by an earlier start of the run.
    """

    train: Path
    held_out: Path
    counts: Counts
    was_there: bool


class Examples(Protocol):
    """What gives examples one by one and counts them, as `TraceExamples` does.

    Attributes:
        counts: of those given so far.
    """

    counts: Counts

    def __iter__(self) -> Iterator[Example]:
        """The examples."""


def example_files(folder: Path, examples: Examples, fingerprint: str | None) -> ExampleFiles:
    """Write the examples to Arrow files, or take those that an earlier start wrote from the same.

    Args:
        folder: for the files; it is made.
        fingerprint: of all that the examples depend on; None takes what is there, whatever it was made from.

    Raises:
        SpecError, StorageError: as the examples do (`TraceExamples`); no file is there then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    train, held_out = folder / "train.arrow", folder / "held_out.arrow"
    if (counts := _counts_of(folder, fingerprint)) is not None:
        return ExampleFiles(train, held_out, counts, was_there=True)
    with _writer(train) as to_train, _writer(held_out) as to_held_out:
        for example in examples:
            (to_held_out if example.is_held_out else to_train).add(example)
    info = {"version": _VERSION, "fingerprint": fingerprint, "counts": examples.counts.as_tree()}
    LocalFolder(folder).put(_INFO, orjson.dumps(info, option=orjson.OPT_INDENT_2))  # last: from now on they count
    return ExampleFiles(train, held_out, examples.counts, was_there=False)


class _Writer:
    """Collects examples into record batches."""

    def __init__(self, sink: pa.RecordBatchStreamWriter) -> None:
        self._sink = sink
        self._waiting: list[Example] = []

    def add(self, example: Example) -> None:
        self._waiting.append(example)
        if len(self._waiting) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            ids = [example.prompt_ids + example.completion_ids for example in self._waiting]
            labels = [labels_of(example.prompt_ids, example.completion_ids) for example in self._waiting]
            self._sink.write_batch(pa.record_batch([pa.array(ids), pa.array(labels)], schema=_SCHEMA))
            self._waiting.clear()


@contextmanager
def _writer(path: Path) -> Iterator[_Writer]:
    """Writes beside and renames at the end: a file under its name is whole."""
    staged = path.with_name(f".{path.name}.tmp")
    with ExitStack() as stack:
        stack.callback(staged.unlink, missing_ok=True)
        with pa.OSFile(str(staged), "wb") as file, pa.ipc.new_stream(file, _SCHEMA) as sink:
            writer = _Writer(sink)
            yield writer
            writer.flush()
        staged.rename(path)


def _counts_of(folder: Path, fingerprint: str | None) -> Counts | None:
    try:
        info: dict[str, Any] = orjson.loads((folder / _INFO).read_bytes())
    except FileNotFoundError:
        return None
    if info["version"] != _VERSION or fingerprint not in (None, info["fingerprint"]):
        return None
    return Counts(**info["counts"] | {"dropped": Counter(info["counts"]["dropped"])})
