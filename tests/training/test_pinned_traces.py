"""A run learns from what was published when it began, whatever is published while it trains."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gen_service.errors import SpecError
from gen_service.records import Trace
from gen_service.storage import manifest
from gen_service.storage.destination import LocalFolder
from gen_service.storage.verdicts import SCHEMA
from gen_service.tiny_model import CHECKPOINT
from gen_service.training.pinned_traces import Pin, pinned
from gen_service.training.trace_examples import TraceExamples
from gen_service.training_settings import TraceSettings

Publish = Callable[[Path, Sequence[Trace]], str]

# What happens to a job: a file of so many traces, or of verdicts on so many rows of its first file.
STEPS = st.one_of(
    st.tuples(st.just("traces"), st.integers(1, 3)),
    st.tuples(st.just("verdicts"), st.integers(1, 2)),
)
BEGAN, LATER = st.lists(STEPS, max_size=3), st.lists(STEPS, max_size=3)


@pytest.fixture(scope="module")
def chat() -> Any:
    transformers = pytest.importorskip("transformers")
    from gen_service.training.chat import ChatFormat

    return ChatFormat(transformers.AutoTokenizer.from_pretrained(CHECKPOINT), "\n")


class Job:
    """A job that grows in a folder, with a set of verdicts on the rows of its first file, which has nine."""

    def __init__(self, folder: Path, publish: Publish, traces: Sequence[Trace]) -> None:
        self.path = str(folder)
        self._publish = publish
        self._traces: Iterator[Trace] = iter(traces)
        self._judged = 0
        self.grow(("traces", 9))
        self.grow(("verdicts", 1))

    def grow(self, step: tuple[str, int]) -> None:
        kind, count = step
        if kind == "traces":
            self._publish(Path(self.path), [next(self._traces) for _ in range(count)])
        else:
            self.judge(count, "a")

    def judge(self, count: int, name: str) -> None:
        """More rows are wrong: one file in the set of this name."""
        place = LocalFolder(Path(self.path, "verdicts", name))
        number = len(manifest.load(place)) + 1
        rows = [row for row in range(self._judged, self._judged + count) if row < 9]
        self._judged += len(rows)
        columns: dict[str, Any] = {field.name: pa.nulls(len(rows), field.type) for field in SCHEMA}
        columns |= {"row": rows, "verdict": ["incorrect"] * len(rows)}
        file = f"data/part-{number:06}.parquet"
        staged = place.staging(file)
        pq.write_table(pa.table(columns, schema=SCHEMA), staged)
        digest = hashlib.sha256(staged.read_bytes() + bytes([number])).hexdigest()
        place.adopt(staged, file)
        part = manifest.Part(file, len(rows), 1, digest, {"incorrect": len(rows)}, 0, 0, "data/part-000001.parquet")
        manifest.commit(place, number, manifest.Manifest(number, "test", (part,)))


def settings_of(job: Job, verdict_set: str | None) -> TraceSettings:
    return TraceSettings(paths=(job.path,), verdict_set=verdict_set)


def read(chat: Any, chosen: TraceSettings, pins: dict[str, Pin] | None = None) -> list[Any]:
    return list(TraceExamples(chosen, chat, 2048, pins))


def recorded(pins: dict[str, Pin]) -> dict[str, Any]:
    return {path: pin.as_tree() for path, pin in pins.items()}


SETS = st.sampled_from([None, "a", "latest"])


@settings(max_examples=40)
@given(began=BEGAN, later=LATER, verdict_set=SETS, is_old=st.booleans(), another=st.booleans())
def test_what_is_published_later_changes_no_example(
    began: list[tuple[str, int]],
    later: list[tuple[str, int]],
    verdict_set: str | None,
    is_old: bool,
    another: bool,
    chat: Any,
    publish: Publish,
    solved: Callable[[int], list[Trace]],
) -> None:
    with TemporaryDirectory() as folder:
        job = Job(Path(folder, "job"), publish, solved(30))
        for step in began:
            job.grow(step)
        chosen = settings_of(job, verdict_set)
        first = pinned(chosen, {})
        before = read(chat, chosen)
        assert before == read(chat, chosen, first)
        for step in later:
            job.grow(step)
        if another:
            job.judge(1, "b")  # the latest set is another one now
        record = {path: pin.hash for path, pin in first.items()} if is_old else recorded(first)
        again = pinned(chosen, record)
        assert read(chat, chosen, again) == before
        if not is_old:
            assert again == first
        files = [kind for kind, _ in later].count("traces")
        verdicts = [kind for kind, _ in later].count("verdicts") if verdict_set else 0
        news = first[job.path].news(job.path)
        assert (news is None) == (not files and not verdicts)
        assert news is None or ("of traces" in news, "of verdicts" in news) == (bool(files), bool(verdicts))


@settings(max_examples=40)
@given(
    began=BEGAN,
    later=LATER,
    is_old=st.booleans(),
    change=st.sampled_from(["another hash", "swapped", "lost", "one more before"]),
    of_verdicts=st.booleans(),
    data=st.data(),
)
def test_any_change_to_what_it_began_with_is_refused(
    began: list[tuple[str, int]],
    later: list[tuple[str, int]],
    is_old: bool,
    change: str,
    of_verdicts: bool,
    data: st.DataObject,
    publish: Publish,
    solved: Callable[[int], list[Trace]],
) -> None:
    with TemporaryDirectory() as folder:
        job = Job(Path(folder, "job"), publish, solved(30))
        for step in began:
            job.grow(step)
        chosen = settings_of(job, "a")
        (pin,) = pinned(chosen, {}).values()
        for step in later:
            job.grow(step)
        place = LocalFolder(Path(job.path, "verdicts", "a") if of_verdicts else Path(job.path))
        count = pin.verdict_parts if of_verdicts else pin.parts
        manifests = manifest.load(place)
        place_of = data.draw(st.integers(0, count - 1))
        if change == "lost":
            assume(len(manifests) == count)
            changed = manifests[:-1]
        elif change == "swapped":
            assume(count > 1)
            other = data.draw(st.integers(0, count - 1).filter(lambda number: number != place_of))
            changed = list(manifests)
            changed[place_of], changed[other] = changed[other], changed[place_of]
        elif change == "one more before":
            changed = [*manifests[:place_of], manifests[place_of], *manifests[place_of:]]
            assume([one.parts for one in changed[:count]] != [one.parts for one in manifests[:count]])
        else:
            (part,) = manifests[place_of].parts
            changed = list(manifests)
            changed[place_of] = dataclasses.replace(changed[place_of], parts=(dataclasses.replace(part, sha256="0"),))
        shutil.rmtree(Path(place.locate("manifest")))
        for number, one in enumerate(changed, 1):
            manifest.commit(place, number, one)
        record = {job.path: pin.hash if is_old else pin.as_tree()}
        with pytest.raises(SpecError) as caught:
            pinned(chosen, record)
        assert caught.value.field in ("data", "traces.paths", "verdicts")


def test_another_spec_is_left_to_the_record_to_refuse(
    publish: Publish, solved: Callable[[int], list[Trace]], tmp_path: Path
) -> None:
    job = Job(tmp_path / "job", publish, solved(30))
    plain = pinned(settings_of(job, None), {})
    judged = pinned(settings_of(job, "latest"), {})
    assert (plain[job.path].verdict_set, judged[job.path].verdict_set) == (None, "a")
    assert pinned(settings_of(job, "a"), recorded(plain)) == judged
    assert pinned(settings_of(job, None), recorded(judged)) == plain
    assert pinned(settings_of(job, None), {"elsewhere": {"hash": "0", "parts": 3}}) == plain
