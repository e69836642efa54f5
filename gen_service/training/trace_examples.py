"""Published traces as examples to learn from: which ones, and why the others are left out.

Files are taken from the manifests. One pass in the order of publication, some rows in memory at a time.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, get_args

import pyarrow as pa

from gen_service.errors import SpecError, StorageError
from gen_service.records import CANCELLED
from gen_service.storage.destination import open_destination
from gen_service.storage.traces import part_batches
from gen_service.storage.verdicts import VERDICT_COLUMNS, overlaid
from gen_service.training.chat import ChatFormat
from gen_service.training.pinned_traces import Pin, pinned
from gen_service.training_settings import TraceSettings

Reason = Literal["verdict", "source", "unfinished", "duplicate", "too_short", "too_long", "context", "per_prompt"]
"""Why a trace is left out: its verdict or source is not asked for; the answer was cut off, so it has no end to learn;
the same text of the same prompt came before; its completion is shorter or longer than asked for; prompt and completion
do not fit into the context; its prompt has enough traces."""

REASONS: Final[tuple[Reason, ...]] = get_args(Reason)

_COLUMNS = ("prompt_id", "source", "messages", "reasoning", "content", "verdict", "finish_reason")
_UNFINISHED = frozenset({"length", "abort", CANCELLED})
_TOGETHER = 64  # rows tokenised at once: with 32k tokens each some 100 MB


@dataclass(frozen=True, slots=True)
class Example:
    """One trace as token ids; on which side of the held-out split it is."""

    prompt_ids: list[int]
    completion_ids: list[int]
    is_held_out: bool


@dataclass(slots=True)
class Counts:
    """What became of the traces.

    Attributes:
        read: rows of the jobs.
        train, held_out: examples on each side.
        prompt_tokens, completion_tokens: of the examples to train on.
        longest: tokens of the longest example.
        dropped: rows by the reason why they are left out.
    """

    read: int = 0
    train: int = 0
    held_out: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    longest: int = 0
    dropped: Counter[Reason] = field(default_factory=Counter)

    def add(self, example: Example) -> None:
        """Count an example that is kept."""
        prompt, completion = len(example.prompt_ids), len(example.completion_ids)
        self.longest = max(self.longest, prompt + completion)
        if example.is_held_out:
            self.held_out += 1
            return
        self.train += 1
        self.prompt_tokens += prompt
        self.completion_tokens += completion

    def as_tree(self) -> dict[str, Any]:
        """As plain values, for the run's record."""
        return asdict(self) | {"dropped": dict(self.dropped)}

    def words(self) -> str:
        """One line for people: `read 90, kept 70 (7 held out), left out: verdict 18, context 2`."""
        kept = f"read {self.read:,}, kept {self.train + self.held_out:,}"
        kept += f" ({self.held_out:,} held out)" if self.held_out else ""
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.dropped.most_common())
        return f"{kept}, left out: {reasons or 'none'}"


class TraceExamples:
    """Reads the traces that settings ask for as examples.

    Args:
        context: most tokens of prompt and completion together.
        pins: which files of each job are read; None for all that are there.

    Attributes:
        counts: what became of the rows that were read so far.
    """

    def __init__(
        self, settings: TraceSettings, chat: ChatFormat, context: int, pins: Mapping[str, Pin] | None = None
    ) -> None:
        self.counts = Counts()
        self._pins = pins
        self._settings = settings
        self._chat = chat
        self._context = context
        self._seen: set[bytes] = set()
        self._of_prompt: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Example]:
        """The examples, in the order their traces were published.

        Raises:
            SpecError: there is no job at a path, a row is broken (names file and row), or nothing is left to train on.
            StorageError: a file is missing, damaged (names it), or of a later version.
        """
        pins = pinned(self._settings, {}) if self._pins is None else self._pins
        for path in self._settings.paths:
            for place, row, batch in _located_batches(path, pins[path]):
                for start in range(0, batch.num_rows, _TOGETHER):
                    rows = _rows(place, batch.slice(start, _TOGETHER))
                    yield from self._examples(place, row + start, rows)
        if not self.counts.train:
            raise SpecError("traces", self._filters(), f"traces to train on: {self.counts.words()}")

    def _examples(self, place: str, first_row: int, rows: Sequence[dict[str, Any]]) -> Iterator[Example]:
        chosen = [row for number, row in enumerate(rows, first_row) if self._is_asked_for(f"{place} row {number}", row)]
        prompts = [row["prompt"] for row in chosen]
        answers = [self._chat.completion_text(row["prompt"], row["reasoning"], row["content"]) for row in chosen]
        tokens = zip(self._chat.ids(prompts), self._chat.ids(answers), strict=True) if chosen else ()
        for row, (prompt_ids, answer_ids) in zip(chosen, tokens, strict=True):
            completion_ids = [*answer_ids, self._chat.end_of_turn]
            reason = self._why_not(row["prompt_id"], len(prompt_ids), len(completion_ids))
            if reason is not None:
                self.counts.dropped[reason] += 1
                continue
            example = Example(prompt_ids, completion_ids, is_held_out(row["prompt_id"], self._settings.held_out))
            self.counts.add(example)
            yield example

    def _is_asked_for(self, place: str, row: dict[str, Any]) -> bool:
        """Whether to look at a row's tokens; its prompt is rendered then."""
        self.counts.read += 1
        reason = self._why_not_asked_for(row)
        if reason is None:
            row["prompt"] = self._rendered(place, row)
            if self._settings.dedup and self._is_known(row):
                reason = "duplicate"
        if reason is not None:
            self.counts.dropped[reason] += 1
        return reason is None

    def _why_not_asked_for(self, row: Mapping[str, Any]) -> Reason | None:
        if row["verdict"] not in self._settings.verdicts:
            return "verdict"
        if self._settings.sources is not None and row["source"] not in self._settings.sources:
            return "source"
        return "unfinished" if row["finish_reason"] in _UNFINISHED else None

    def _rendered(self, place: str, row: Mapping[str, Any]) -> str:
        wrong = _what_is_broken(row)
        if wrong is not None:
            raise SpecError("traces.paths", place, f"a whole row: {wrong}")
        try:
            return self._chat.prompt_text(row["messages"])
        except SpecError as error:
            raise SpecError("traces.paths", place, error.expected) from error

    def _is_known(self, row: Mapping[str, Any]) -> bool:
        text = "\0".join((row["prompt_id"], row["prompt"], row["reasoning"] or "", row["content"]))
        digest = hashlib.blake2b(text.encode(), digest_size=12).digest()
        known = digest in self._seen
        self._seen.add(digest)
        return known

    def _why_not(self, prompt_id: str, prompt_tokens: int, completion_tokens: int) -> Reason | None:
        settings = self._settings
        if completion_tokens < settings.min_tokens:
            return "too_short"
        if settings.max_tokens is not None and completion_tokens > settings.max_tokens:
            return "too_long"
        if prompt_tokens + completion_tokens > self._context:
            return "context"
        if settings.per_prompt is not None and self._of_prompt[prompt_id] >= settings.per_prompt:
            return "per_prompt"
        self._of_prompt[prompt_id] += 1
        return None

    def _filters(self) -> dict[str, Any]:
        asked = self._settings.model_dump(mode="json", exclude={"paths"}, exclude_defaults=True)
        return asked | {"verdicts": list(self._settings.verdicts), "context": self._context}


def is_held_out(prompt_id: str, share: float) -> bool:
    """Whether a prompt's traces are set aside: the same for ever, whatever else there is."""
    digest = hashlib.blake2b(prompt_id.encode(), digest_size=8, person=b"held-out").digest()
    return int.from_bytes(digest, "big") < share * 2**64


def _what_is_broken(row: Mapping[str, Any]) -> str | None:
    messages = row["messages"]
    if row["prompt_id"] is None:
        return "its `prompt_id` is null"
    if not messages:
        return "its `messages` hold no message"
    if any(message is None or message["role"] is None or message["content"] is None for message in messages):
        return "one of its `messages` has a null role or content"
    if row["content"] is None:
        return f"its `content` is null, though its verdict is {row['verdict']}"
    return None if row["content"] or row["reasoning"] else "its `content` and `reasoning` are empty"


def _located_batches(path: str, pin: Pin) -> Iterator[tuple[str, int, pa.RecordBatch]]:
    """(file, number of the first row in it, rows) of a job's published rows."""
    destination, judged = open_destination(path), pin.verdicts(path)
    wanted = [name for name in _COLUMNS if name in VERDICT_COLUMNS]
    for part in pin.traces(path):
        place, row = destination.locate(part.file), 0
        try:
            batches = part_batches(destination, part, _COLUMNS)
            if judged is not None:
                batches = overlaid(batches, judged.table_of(part.file, wanted))
            for batch in batches:
                yield place, row, batch
                row += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise StorageError(f"{place} is damaged after row {row}: {error}") from error


def _rows(place: str, batch: pa.RecordBatch) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
    except ValueError as error:  # bytes that are no text
        raise StorageError(f"{place} is damaged: {error}") from error
    return rows
