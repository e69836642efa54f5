"""What a set of verdicts changes: each row's stored verdict against the one in the set."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice, zip_longest

from gen_service.storage.answered_rows import AnsweredRow, Source, SourcePart, reading
from gen_service.storage.destination import open_destination
from gen_service.storage.verdicts import VerdictSet, row_numbers

Change = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Example:
    """One row whose verdict changed: before, and after in the set."""

    part: str
    row: int
    sample_id: str
    gold: str | None
    before: str
    after: str
    before_reason: str | None
    after_reason: str | None
    before_extracted: str | None
    after_extracted: str | None


@dataclass(slots=True)
class VerdictChanges:
    """A set of verdicts in numbers, and against what was stored with the rows.

    Attributes:
        rows: verdicts in the set.
        outcomes: by verdict.
        paths: by what decided.
        cpu_s: CPU seconds of the workers, summed over the set.
        changes: rows by (stored verdict, verdict in the set); rows stored without a verdict are not in it.
        examples: of rows whose verdict changed, each kind of change in turn.
    """

    rows: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    paths: Counter[str] = field(default_factory=Counter)
    cpu_s: float = 0.0
    changes: Counter[Change] = field(default_factory=Counter)
    examples: list[Example] = field(default_factory=list)

    @property
    def compared(self) -> int:
        """Rows in the set that had a verdict before."""
        return self.changes.total()

    @property
    def changed(self) -> int:
        """Rows whose verdict is another one now."""
        return sum(count for (before, after), count in self.changes.items() if before != after)

    @property
    def without_sympy(self) -> int:
        """Rows that were settled without sympy."""
        return self.rows - self.paths["symbolic"]


def compare(source: Source, place: str, examples: int = 10) -> VerdictChanges:
    """Read a set of verdicts and the stored ones. Holds about 60 bytes for each row of one file of the source.

    Args:
        place: folder or URL of the set.
        examples: how many to give.

    Raises:
        StorageError: the set is damaged, or the source cannot be read.
    """
    judged, found = VerdictSet(open_destination(place)), VerdictChanges()
    kinds: defaultdict[Change, list[Example]] = defaultdict(list)
    with reading(source):
        for part in source.parts:
            if judged.rows_of(part.name):
                for example in _compared(part, judged, found, examples, kinds):
                    kinds[example.before, example.after].append(example)
    turns = chain.from_iterable(zip_longest(*kinds.values()))
    found.examples = list(islice((example for example in turns if example is not None), examples))
    return found


def _compared(
    part: SourcePart, judged: VerdictSet, found: VerdictChanges, most: int, kinds: dict[Change, list[Example]]
) -> list[Example]:
    """Counts one part; gives up to `most` examples of each kind of change, less those there are already."""
    verdicts = judged.table_of(part.name, ["verdict", "verdict_path", "verdict_cpu_s"])
    found.rows += verdicts.num_rows
    found.outcomes.update(verdicts.column("verdict").to_pylist())
    found.paths.update(verdicts.column("verdict_path").to_pylist())
    found.cpu_s += sum(verdicts.column("verdict_cpu_s").to_pylist())
    room = {kind: most - len(examples) for kind, examples in kinds.items()}
    chosen: list[tuple[AnsweredRow, str]] = []
    for row, after in _stored(part, row_numbers(verdicts).tolist(), verdicts.column("verdict").to_pylist()):
        if row.before is not None:
            kind = (row.before, after)
            found.changes[kind] += 1
            if row.before != after and room.setdefault(kind, most) > 0:
                room[kind] -= 1
                chosen.append((row, after))
    return _examples(part, judged, chosen) if chosen else []


def _stored(part: SourcePart, rows: list[int], verdicts: list[str]) -> Iterator[tuple[AnsweredRow, str]]:
    """The stored rows that have a verdict in the set, with that verdict."""
    judged = zip(rows, verdicts, strict=True)
    number, verdict = next(judged, (-1, ""))
    for row in chain.from_iterable(part.read(False)):
        if row.row == number:
            yield row, verdict
            number, verdict = next(judged, (-1, ""))


def _examples(part: SourcePart, judged: VerdictSet, chosen: list[tuple[AnsweredRow, str]]) -> list[Example]:
    details = judged.table_of(part.name, ["verdict_reason", "extracted"], [row.row for row, _ in chosen])
    return [
        Example(
            part.name, row.row, row.sample_id, row.gold,
            row.before or "", after, row.before_reason, detail["verdict_reason"],
            row.before_extracted, detail["extracted"],
        )
        for (row, after), detail in zip(chosen, details.to_pylist(), strict=True)
    ]  # fmt: skip
