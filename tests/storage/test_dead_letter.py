from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

from gen_service.errors import BadPromptRow
from gen_service.records import Trace
from gen_service.storage.dead_letter import BUFFER_BYTES, DeadLetter
from gen_service.storage.disk_space import SpaceWaiter
from gen_service.storage.seen import Seen


@contextmanager
def _open(folder: Path) -> Iterator[DeadLetter]:
    with Seen(folder / "seen") as seen:
        letter = DeadLetter(folder / "dead_letter.jsonl", seen, SpaceWaiter(pytest.fail, pytest.fail))
        yield letter
        letter.close()


def _rows(folder: Path) -> list[int]:
    return [orjson.loads(line)["row"] for line in (folder / "dead_letter.jsonl").read_bytes().splitlines()]


def test_a_file_cut_at_any_byte_drops_the_torn_line_and_takes_it_again(tmp_path: Path) -> None:
    with _open(tmp_path) as letter:
        for row in range(3):
            letter.add_prompt(BadPromptRow(row, "bad é"))
        assert letter.sync() == 3
    content = (tmp_path / "dead_letter.jsonl").read_bytes()
    for cut in range(len(content)):
        (tmp_path / "dead_letter.jsonl").write_bytes(content[:cut])
        with _open(tmp_path) as letter:
            whole = content[:cut].count(b"\n")
            assert letter.rejected == whole
            assert [letter.add_prompt(BadPromptRow(row, "bad é")) for row in range(3)] == [
                row >= whole for row in range(3)
            ]
            letter.sync()
        assert (tmp_path / "dead_letter.jsonl").read_bytes() == content


def test_prompts_and_samples_have_keys_of_their_own(tmp_path: Path, make_trace: Callable[..., Trace]) -> None:
    with _open(tmp_path) as letter:
        assert letter.add_sample(make_trace(0, error="half \ud83d"))
        assert letter.add_prompt(BadPromptRow(1, "bad"))
        assert not letter.add_sample(make_trace(0, error="other words"))
        assert letter.sync() == 1
    assert _rows(tmp_path) == [1, 1]


def test_many_lines_go_to_disk_before_a_sync_and_a_full_disk_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    count = BUFFER_BYTES // 50
    with _open(tmp_path) as letter:
        for row in range(count):
            letter.add_prompt(BadPromptRow(row, "bad"))
        written = (tmp_path / "dead_letter.jsonl").stat().st_size
        assert written >= BUFFER_BYTES
        monkeypatch.setattr(os, "pwrite", full)
        for row in range(count, 3 * count):
            letter.add_prompt(BadPromptRow(row, "bad"))
        assert (tmp_path / "dead_letter.jsonl").stat().st_size == written
        monkeypatch.undo()
        letter.sync()
    assert _rows(tmp_path) == list(range(3 * count))
