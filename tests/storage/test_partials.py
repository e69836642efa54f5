"""Partial completions on disk: after whatever crash, each sample has one that was kept, never a mix of two."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from gen_service.records import Partial
from gen_service.storage import frames, partial_codec, partials
from gen_service.storage.partial_codec import Growing, addition, beginning, decode, encode
from gen_service.storage.partials import Partials
from gen_service.storage.segments import segment_numbers, segment_path

Content = tuple[str, tuple[int, ...], tuple[int, ...], str, str, str, int, float, str]


def partial(tokens: int, sample_id: str = "s", first: int = 0, **fields: Any) -> Partial:
    """One whose token n is `first` + n, with a text that tells what is where."""
    ids = np.arange(first, first + tokens, dtype=np.int32)
    words = [f"{number} " for number in ids]
    values = {"reasoning": "".join(words[:5]), "content": "".join(words[5:]), "raw": "", "continued": tokens}
    values |= {"prompt_ids": np.array([1, 2, 3], dtype=np.int32), "started_at": 5.5}
    return Partial(sample_id=sample_id, token_ids=ids, **(values | fields))


def content(one: Partial | None) -> Content | None:
    if one is None:
        return None
    ids = (tuple(one.prompt_ids.tolist()), tuple(one.token_ids.tolist()))
    return (one.sample_id, *ids, one.reasoning, one.content, one.raw, one.continued, one.started_at, one.model)


def opened(folder: Path, done: set[str] | None = None, notices: list[str] | None = None, **sizes: Any) -> Partials:
    said = [] if notices is None else notices
    return Partials(folder, (done or set()).__contains__, said.append, **({"gather_s": 0.0} | sizes))


# Bytes

ids = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=8).map(lambda many: np.array(many, dtype=np.int32))
texts = st.text(max_size=8)


@given(st.lists(st.tuples(ids, texts, texts, texts), min_size=1, max_size=6), ids, st.integers(0, 5))
def test_a_growing_partial_is_written_as_what_is_new_and_read_as_it_was(
    pieces: list[tuple[np.ndarray[Any, Any], str, str, str]], prompt: np.ndarray[Any, Any], continued: int
) -> None:
    read, mark, written = None, None, 0
    for upto in range(1, len(pieces) + 1):
        token_ids = np.concatenate([piece[0] for piece in pieces[:upto]]).astype(np.int32)
        reasoning, text, raw = ("".join(piece[column] for piece in pieces[:upto]) for column in (1, 2, 3))
        whole = Partial("s", prompt, token_ids, reasoning, text, raw, continued, 7.25, "m")
        record, mark = addition(whole, mark)
        written += len(record.ids)
        again = decode(encode(record))
        if read is None:
            read = Growing(again)
        else:
            assert read.add(again)
        assert content(read.partial()) == content(whole)
        assert read.mark == mark
    assert written == sum(len(piece[0]) for piece in pieces)


@given(st.binary(max_size=60))
def test_bytes_that_are_no_record_are_a_value_error(record: bytes) -> None:
    with pytest.raises(ValueError):
        decode(record)
    assert partial_codec.sample_id_of(record) is None


def test_a_record_of_a_later_version_is_not_guessed_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_codec, "RECORD_VERSION", 2)
    record = encode(addition(partial(3), None)[0])
    monkeypatch.undo()
    with pytest.raises(ValueError, match="version 2"):
        decode(record)


@pytest.mark.parametrize(
    "other",
    [
        partial(9, first=1),
        partial(9, reasoning="other"),
        partial(9, prompt_ids=np.array([1, 2], dtype=np.int32)),
        partial(4),
    ],
)
def test_one_that_does_not_go_on_from_what_is_written_is_written_from_its_beginning(other: Partial) -> None:
    before = addition(partial(5), None)[1]
    record, mark = addition(other, before)
    assert record.after is None
    assert len(record.ids) == len(other.token_ids)
    assert mark == addition(other, None)[1] != before
    # As long as what it goes on from, and something else.
    growing = Growing(addition(partial(9), None)[0])
    further = addition(partial(20, first=1), addition(partial(9, first=1), None)[1])[0]
    assert not growing.add(further)
    assert content(growing.partial()) == content(partial(9))


def test_the_mark_tells_prompts_and_texts_apart() -> None:
    marks = {
        addition(one, None)[1]
        for one in (
            partial(3),
            partial(3, reasoning="", raw="0 1 2 "),
            partial(3, reasoning="", content="0 1 2 "),
            partial(3, prompt_ids=np.array([3, 2, 1], dtype=np.int32)),
        )
    }
    assert len(marks) == 4
    assert beginning(partial(0).prompt_ids).counts == (0, 0, 0, 0)


# Files


def test_what_was_kept_is_there_after_a_restart_and_gone_when_it_is_finished(tmp_path: Path) -> None:
    folder = tmp_path / "partials"
    first = opened(folder)
    for tokens in (3, 6, 9):
        first.keep(partial(tokens))
        first.keep(partial(2 * tokens, "t"))
        first.flush()
    first.close()
    second = opened(folder)
    assert content(second.partial_of("s")) == content(partial(9))
    assert content(second.partial_of("t")) == content(partial(18, "t"))
    second.finished("t")
    assert second.partial_of("t") is None
    assert second.partial_of("u") is None
    second.keep(partial(12))
    second.close()
    # What was finished is not done, as far as the journal knows: losing its end only costs tokens.
    third = opened(folder, done={"t"})
    assert third.partial_of("t") is None
    assert content(third.partial_of("s")) == content(partial(12))
    third.finished("s")
    third.close()
    assert not folder.exists()


def test_a_job_that_keeps_nothing_makes_no_folder_and_no_thread(tmp_path: Path) -> None:
    one = opened(tmp_path / "partials")
    one.finished("s")
    assert one._forgotten == []
    one.flush()
    one.close()
    assert not (tmp_path / "partials").exists()
    assert one._thread is None


def test_a_long_trace_is_written_once_not_once_a_partial(tmp_path: Path) -> None:
    one = opened(tmp_path)
    for tokens in range(100, 5001, 100):
        one.keep(partial(tokens))
        one.flush()
    rows = [row for frame in all_frames(tmp_path) for row in frames.unpack(frame)]
    assert len(rows) == 50
    assert sum(map(len, rows)) < 3 * len(encode(addition(partial(5000), None)[0]))
    one.close()


def all_frames(folder: Path) -> list[bytes]:
    from gen_service.storage.segments import read_frames

    return [frame for number in segment_numbers(folder) for _, frame in read_frames(segment_path(folder, number))]


def test_in_memory_is_no_more_than_what_is_unfinished(tmp_path: Path) -> None:
    one = opened(tmp_path)
    for number in range(300):
        one.keep(partial(5, f"s{number}"))
        one.finished(f"s{number}")
    one.keep(partial(5, "last"))
    one.flush()
    assert set(one._written) | one._known == {"last"}
    assert not one._waiting
    one.close()


def test_one_that_is_finished_while_it_is_written_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = opened(tmp_path)

    def finishing(kept: Partial, before: partial_codec.Mark | None) -> object:
        one.finished(kept.sample_id)
        return addition(kept, before)

    monkeypatch.setattr(partials.partial_codec, "addition", finishing)
    one.keep(partial(5))
    one.flush()
    monkeypatch.undo()
    one.keep(partial(5, "t"))
    one.flush()
    assert set(one._written) == {"t"}
    one.close()


def test_garbage_is_thrown_away_and_what_is_needed_stays(tmp_path: Path) -> None:
    one = opened(tmp_path, garbage_bytes=2000, segment_bytes=500)
    one.keep(partial(50, "kept"))
    for number in range(60):
        one.keep(partial(40, f"s{number}"))
        one.flush()
        one.finished(f"s{number}")
    one.keep(partial(60, "kept"))
    one.flush()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 4000
    assert len(segment_numbers(tmp_path)) < 15
    one.close()
    again = opened(tmp_path)
    assert content(again.partial_of("kept")) == content(partial(60, "kept"))
    again.close()


def test_a_job_that_is_started_again_and_again_does_not_leave_a_file_for_each_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partials, "MOST_SEGMENTS", 4)
    for run in range(12):
        one = opened(tmp_path)
        one.keep(partial(10 + run))
        one.close()
    assert len(segment_numbers(tmp_path)) <= 5
    assert content(opened(tmp_path).partial_of("s")) == content(partial(21))


def test_a_damaged_frame_costs_what_it_held_and_is_told_of(tmp_path: Path) -> None:
    one = opened(tmp_path)
    for tokens in (10, 20, 30, 40):
        one.keep(partial(tokens))
        one.flush()
    one.close()
    path = segment_path(tmp_path, 1)
    data = bytearray(path.read_bytes())
    data[len(all_frames(tmp_path)[0]) + 30] ^= 1
    path.write_bytes(data)
    notices: list[str] = []
    again = opened(tmp_path, notices=notices)
    assert content(again.partial_of("s")) == content(partial(10))
    assert len(notices) == 1
    assert "damaged" in notices[0]
    assert str(path) in notices[0]
    again.keep(partial(50))
    again.close()
    assert content(opened(tmp_path, notices=[]).partial_of("s")) == content(partial(50))


class FailingDisk:
    """Every fdatasync fails with this error, while it is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: int | None = None
        real = os.fdatasync

        def fdatasync(descriptor: int) -> None:
            if self.error is not None:
                raise OSError(self.error, os.strerror(self.error))
            real(descriptor)

        monkeypatch.setattr("gen_service.storage.partial_segments.os.fdatasync", fdatasync)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_drops_partials_says_so_once_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    notices: list[str] = []
    disk = FailingDisk(monkeypatch)
    one = opened(tmp_path / "partials", notices=notices)
    one.keep(partial(10))
    one.flush()
    disk.error = error
    for tokens in (20, 30, 40):
        one.keep(partial(tokens))
        one.flush()
    assert len(notices) == 1
    assert os.strerror(error) in notices[0]
    shutil.copytree(tmp_path / "partials", tmp_path / "crashed")
    # Nobody knows what a disk that failed has kept; a full one has kept what it had.
    if error == errno.ENOSPC:
        assert content(opened(tmp_path / "crashed").partial_of("s")) == content(partial(10))
    disk.error = None
    one.keep(partial(50))
    one.close()
    assert len(notices) == 2
    assert "again" in notices[1]
    assert content(opened(tmp_path / "partials").partial_of("s")) == content(partial(50))


def test_a_folder_that_cannot_be_made_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    notices: list[str] = []
    one = opened(tmp_path / "file" / "partials", notices=notices)
    one.keep(partial(10))
    one.flush()
    one.close()
    assert len(notices) == 1
    assert "the job goes on" in notices[0]


def test_text_that_cannot_be_written_is_not_kept(tmp_path: Path) -> None:
    one = opened(tmp_path)
    one.keep(partial(5, content="\ud83d"))
    one.keep(partial(5, "t"))
    one.close()
    again = opened(tmp_path)
    assert again.partial_of("s") is None
    assert content(again.partial_of("t")) == content(partial(5, "t"))


def test_a_rewrite_that_fails_leaves_all_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notices: list[str] = []
    one = opened(tmp_path, notices=notices, garbage_bytes=100)
    monkeypatch.setattr("gen_service.storage.partial_segments.os.replace", _no_room)
    one.keep(partial(30))
    one.keep(partial(200, "t"))
    one.flush()
    one.finished("t")
    one.keep(partial(40))
    one.flush()
    assert len(notices) == 1
    assert [path.suffix for path in tmp_path.iterdir()] == [".log"]
    assert content(opened(tmp_path, notices=[]).partial_of("s")) == content(partial(40))
    one.close()


def _no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# Anything, with crashes

SAMPLES = st.sampled_from("abc")


class PartialsMachine(RuleBasedStateMachine):
    """Samples grow, begin anew, are finished; the process dies between and within writes, and the disk loses bytes."""

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="partials-"))
        self.runs = 0
        self.ever: dict[str, list[Content | None]] = defaultdict(lambda: [None])
        self.latest: dict[str, Partial] = {}
        self.done: set[str] = set()
        self.is_damaged = False
        self.open(self.root / "0")

    def open(self, folder: Path) -> None:
        self.folder = folder
        self.partials = opened(folder, self.done, garbage_bytes=400, segment_bytes=300)

    @rule(sample_id=SAMPLES, tokens=st.integers(0, 9), where=st.sampled_from(("reasoning", "content", "raw")))
    def grow(self, sample_id: str, tokens: int, where: str) -> None:
        before = self.latest.get(sample_id) or partial(0, sample_id)
        more = np.arange(len(before.token_ids), len(before.token_ids) + tokens, dtype=np.int32)
        texts = {name: getattr(before, name) for name in ("reasoning", "content", "raw")}
        texts[where] += "é" * tokens
        self.keep(partial(0, sample_id, **texts), before.token_ids, more)

    @rule(sample_id=SAMPLES, tokens=st.integers(0, 9), first=st.integers(0, 3))
    def begin_anew(self, sample_id: str, tokens: int, first: int) -> None:
        self.keep(partial(tokens, sample_id, first=first))

    def keep(self, one: Partial, *token_ids: np.ndarray[Any, Any]) -> None:
        values = {name: getattr(one, name) for name in ("reasoning", "content", "raw", "prompt_ids", "started_at")}
        made = np.concatenate(token_ids) if token_ids else one.token_ids
        whole = Partial(sample_id=one.sample_id, token_ids=made, continued=len(made), **values)
        self.latest[whole.sample_id] = whole
        self.ever[whole.sample_id].append(content(whole))
        self.done.discard(whole.sample_id)
        self.partials.keep(whole)

    @rule(sample_id=SAMPLES)
    def finish(self, sample_id: str) -> None:
        self.partials.finished(sample_id)
        self.latest.pop(sample_id, None)
        self.done.add(sample_id)

    @rule()
    def flush(self) -> None:
        self.partials.flush()

    @rule(
        how=st.sampled_from(("between writes", "within a write", "a byte lost")),
        segment=st.integers(-4, -1),
        place=st.floats(0.0, 1.0),
    )
    def crash(self, how: str, segment: int, place: float) -> None:
        """What the disk has at this moment is what the next run finds."""
        self.partials.flush()
        self.runs += 1
        copy = self.root / str(self.runs)
        if self.folder.exists():
            shutil.copytree(self.folder, copy)
        numbers = segment_numbers(copy)
        if numbers and how != "between writes":
            path = segment_path(copy, numbers[max(segment, -len(numbers)) if how == "a byte lost" else -1])
            data = bytearray(path.read_bytes()) or bytearray(1)
            at = int(place * (len(data) - 1))
            if how == "within a write":
                del data[at:]
            else:
                data[at] ^= 0x10
            path.write_bytes(data)
            self.is_damaged = True
        self.partials.close()
        self.open(copy)
        self.check()

    @rule()
    def restart(self) -> None:
        self.partials.close()
        self.open(self.folder)
        self.check()

    def check(self) -> None:
        for sample_id in "abc":
            found = content(self.partials.partial_of(sample_id))
            if sample_id in self.done:
                assert found is None
            assert found in self.ever[sample_id]
            if not self.is_damaged:
                assert found == content(self.latest.get(sample_id))
            # From here on it is what the next run begins with.
            self.latest.pop(sample_id, None)
            if found is not None:
                kept = self.partials.partial_of(sample_id)
                assert kept is not None
                self.latest[sample_id] = kept
        self.is_damaged = False

    def teardown(self) -> None:
        self.partials.close()
        shutil.rmtree(self.root)


TestPartialsMachine = PartialsMachine.TestCase
TestPartialsMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
