from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gen_service.errors import JournalCorrupt, StorageError
from gen_service.records import Trace
from gen_service.storage import journal as journal_module
from gen_service.storage.disk_space import SpaceWaiter
from gen_service.storage.frames import JournalPosition
from gen_service.storage.journal import Journal
from gen_service.storage.watermark import Watermark

MakeTrace = Callable[..., Trace]
Same = Callable[[Trace, Trace], None]


def _open(folder: Path, space: SpaceWaiter | None = None, **settings: object) -> Journal:
    return Journal(folder, space or SpaceWaiter(pytest.fail, pytest.fail), Watermark(), **settings)  # type: ignore[arg-type]


def _numbers(journal: Journal) -> list[int]:
    return [trace.sample.prompt.row - 1 for _, trace in journal.replay()]


def _segments(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def _write(folder: Path, traces: list[Trace]) -> list[JournalPosition]:
    """One frame per trace."""
    journal = _open(folder, gather_s=0)
    positions = [await journal.append(trace) for trace in traces]
    await journal.close()
    return positions


async def test_rows_come_back_in_order_at_the_positions_that_were_acknowledged(
    tmp_path: Path, make_trace: MakeTrace, assert_same: Same
) -> None:
    journal = _open(tmp_path)
    traces = [make_trace(number) for number in range(1000)]
    positions = await asyncio.gather(*map(journal.append, traces))
    await journal.close()
    replayed = list(_open(tmp_path).replay())
    assert [position for position, _ in replayed] == sorted(positions) == positions
    for (_, back), trace in zip(replayed, traces, strict=True):
        assert_same(back, trace)


async def test_it_knows_how_many_rows_wait_and_how_many_bytes_it_has(tmp_path: Path, make_trace: MakeTrace) -> None:
    journal = _open(tmp_path, gather_s=0, segment_bytes=5000)
    rows = [asyncio.ensure_future(journal.append(make_trace(number, chars=2000))) for number in range(40)]
    assert (journal.waiting_rows, journal.size) == (0, 0)
    await asyncio.sleep(0)
    assert journal.waiting_rows == 40
    await asyncio.gather(*rows)
    positions = [await journal.append(make_trace(number, chars=2000)) for number in range(40, 80)]
    assert (journal.waiting_rows, journal.size) == (0, sum(path.stat().st_size for path in _segments(tmp_path)))
    journal.release(positions[-1])
    assert journal.size == sum(path.stat().st_size for path in _segments(tmp_path)) > 0
    await journal.close()
    assert _open(tmp_path).size == journal.size


async def test_rows_are_written_in_groups(tmp_path: Path, make_trace: MakeTrace) -> None:
    journal = _open(tmp_path)
    positions = await asyncio.gather(*(journal.append(make_trace(number)) for number in range(1000)))
    await journal.close()
    groups = [sum(position.offset == offset for position in positions) for offset in {p.offset for p in positions}]
    assert max(groups) == journal_module.GROUP_ROWS
    assert len(groups) <= 6


async def test_a_group_holds_no_more_than_its_bytes(
    tmp_path: Path, make_trace: MakeTrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "GROUP_BYTES", 10_000)
    journal = _open(tmp_path)
    positions = await asyncio.gather(*(journal.append(make_trace(number, chars=2000)) for number in range(40)))
    await journal.append(make_trace(40, chars=50_000))
    await journal.close()
    assert 10 <= len({position.offset for position in positions}) <= 40
    assert _numbers(_open(tmp_path)) == list(range(41))


async def test_segments_rotate_and_are_released_when_covered(tmp_path: Path, make_trace: MakeTrace) -> None:
    journal = _open(tmp_path, gather_s=0, segment_bytes=1000)
    positions = [await journal.append(make_trace(number)) for number in range(30)]
    last = positions[-1].segment
    assert sorted(path.name for path in _segments(tmp_path)) == [f"{n:06}.log" for n in range(1, last + 1)]
    assert last > 3
    await journal.close()
    covered = positions[17]
    again = _open(tmp_path, covered=covered)
    assert _numbers(again) == list(range(17, 30))
    assert min(int(path.stem) for path in _segments(tmp_path)) == covered.segment


async def test_a_new_run_writes_past_everything_covered_even_if_the_journal_was_lost(
    tmp_path: Path, make_trace: MakeTrace
) -> None:
    journal = _open(tmp_path, covered=JournalPosition(7, 123, 0))
    position = await journal.append(make_trace(0))
    await journal.close()
    assert position > JournalPosition(7, 123, 0)
    assert _numbers(_open(tmp_path, covered=JournalPosition(7, 123, 0))) == [0]


async def test_a_journal_cut_at_any_byte_gives_back_every_whole_frame(tmp_path: Path, make_trace: MakeTrace) -> None:
    positions = await _write(tmp_path / "whole", [make_trace(number, error="e") for number in range(3)])
    content = (tmp_path / "whole" / "000001.log").read_bytes()
    ends = [position.offset for position in positions[1:]] + [len(content)]
    for cut in range(len(content)):
        folder = tmp_path / "cut"
        folder.mkdir(exist_ok=True)
        (folder / "000001.log").write_bytes(content[:cut])
        journal = _open(folder)
        whole = sum(end <= cut for end in ends)
        assert _numbers(journal) == list(range(whole))
        assert journal.torn_bytes == cut - ([0, *ends][whole])
        assert (folder / "000001.log").stat().st_size == [0, *ends][whole]
        assert _open(folder).torn_bytes == 0


async def test_any_flipped_bit_is_an_error_or_a_reported_torn_end(tmp_path: Path, make_trace: MakeTrace) -> None:
    positions = await _write(tmp_path / "whole", [make_trace(number, error="e") for number in range(3)])
    content = (tmp_path / "whole" / "000001.log").read_bytes()
    folder = tmp_path / "flipped"
    folder.mkdir()
    for bit in range(0, 8 * len(content), 7):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (folder / "000001.log").write_bytes(flipped)
        if bit // 8 < positions[-1].offset:
            with pytest.raises(JournalCorrupt, match=r"000001\.log at byte \d+"):
                _open(folder)
        else:
            journal = _open(folder)
            assert journal.torn_bytes == len(content) - positions[-1].offset
            assert _numbers(journal) == [0, 1]


async def test_zeros_that_a_power_cut_left_at_the_end_are_cut_off(tmp_path: Path, make_trace: MakeTrace) -> None:
    await _write(tmp_path, [make_trace(0)])
    with (tmp_path / "000001.log").open("ab") as file:
        file.write(bytes(5000))
    journal = _open(tmp_path)
    assert (journal.torn_bytes, _numbers(journal)) == (5000, [0])


class SmallDisk:
    """os.pwrite on a disk that takes `room` bytes, the last write in part, as ext4 does. `free` makes room."""

    def __init__(self, room: int, number: int = errno.ENOSPC) -> None:
        self.room = room
        self._number = number
        self._pwrite = os.pwrite

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        taken = min(len(data), self.room)
        if taken == 0:
            raise OSError(self._number, os.strerror(self._number))
        self.room -= taken
        return self._pwrite(descriptor, data[:taken], offset)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
async def test_a_full_disk_pauses_once_loses_nothing_and_goes_on(
    tmp_path: Path, make_trace: MakeTrace, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    disk = SmallDisk(700, number)
    monkeypatch.setattr(os, "pwrite", disk.pwrite)
    said: list[str] = []
    sizes: list[int] = []

    def wait(_: float) -> None:
        sizes.append((tmp_path / "000001.log").stat().st_size)
        if len(sizes) == 3:
            disk.room = 10**9

    space = SpaceWaiter(lambda message: said.append("pause: " + message), lambda _: said.append("resume"), wait)
    journal = _open(tmp_path, space, gather_s=0)
    positions = []
    for count in (1, 2, 40):
        positions += await asyncio.gather(*(journal.append(make_trace(len(positions) + n)) for n in range(count)))
    await journal.close()
    assert [message.split(":")[0] for message in said] == ["pause", "resume"]
    assert os.strerror(number) in said[0]
    assert len(sizes) == 3
    assert set(sizes) <= {position.offset for position in positions}
    assert _numbers(_open(tmp_path)) == list(range(43))


async def test_a_full_disk_fails_rows_only_after_giving_up(
    tmp_path: Path, make_trace: MakeTrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused = asyncio.Event()
    loop = asyncio.get_running_loop()
    space = SpaceWaiter(lambda _: loop.call_soon_threadsafe(paused.set) and None, pytest.fail)
    journal = _open(tmp_path, space)
    await journal.append(make_trace(0))
    monkeypatch.setattr(os, "pwrite", SmallDisk(10).pwrite)
    task = asyncio.ensure_future(journal.append(make_trace(1)))
    await paused.wait()
    assert not task.done()
    space.give_up()
    with pytest.raises(StorageError, match="No space left"):
        await task
    await journal.close()
    assert _numbers(_open(tmp_path)) == [0]


async def test_journals_that_wait_for_room_hold_up_no_other(
    tmp_path: Path, make_trace: MakeTrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share threads, and a job that is cancelled must end though its disk is full."""
    freed, pwrite = threading.Event(), os.pwrite
    paused = asyncio.Semaphore(0)
    loop = asyncio.get_running_loop()

    def write(descriptor: int, data: bytes, offset: int) -> int:
        if not freed.is_set() and "full" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(descriptor, data, offset)

    def space(wait: Callable[[float], object] | None) -> SpaceWaiter:
        return SpaceWaiter(lambda _: loop.call_soon_threadsafe(paused.release) and None, lambda _: None, wait)

    monkeypatch.setattr(os, "pwrite", write)
    waiting = [_open(tmp_path / f"full-{number}", space(lambda _: freed.wait())) for number in range(40)]
    rows = [asyncio.ensure_future(journal.append(make_trace(0))) for journal in waiting]
    ending = space(None)
    cancelled = _open(tmp_path / "full-cancelled", ending)
    lost = asyncio.ensure_future(cancelled.append(make_trace(0)))
    well = _open(tmp_path / "well")
    try:
        async with asyncio.timeout(60):
            for _ in range(41):
                await paused.acquire()
            await well.append(make_trace(0))
            ending.give_up()
            with pytest.raises(StorageError, match="No space left"):
                await lost
        assert not any(row.done() for row in rows)
    finally:
        # Threads that wait would else keep the process.
        freed.set()
    await asyncio.gather(*rows)
    for journal in (*waiting, cancelled, well):
        await journal.close()
    assert [_numbers(_open(tmp_path / name)) for name in ("full-0", "full-39", "full-cancelled", "well")] == [
        *([0], [0], [], [0])
    ]


async def test_a_failing_disk_fails_every_row_and_the_acknowledged_ones_stay(
    tmp_path: Path, make_trace: MakeTrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = _open(tmp_path)
    await journal.append(make_trace(0))

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    rows = [journal.append(make_trace(number)) for number in range(1, 600)]
    outcomes = await asyncio.gather(*rows, return_exceptions=True)
    assert all(isinstance(outcome, StorageError) for outcome in outcomes)
    with pytest.raises(StorageError, match="takes no more rows"):
        await journal.append(make_trace(600))
    await journal.close()
    monkeypatch.undo()
    assert _numbers(_open(tmp_path)) == [0]


async def test_a_cancelled_append_disturbs_no_other(tmp_path: Path, make_trace: MakeTrace) -> None:
    journal = _open(tmp_path)
    tasks = [asyncio.ensure_future(journal.append(make_trace(number))) for number in range(100)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    kept = await asyncio.gather(*tasks[1::2])
    await journal.close()
    replayed = {position: trace.sample.prompt.row - 1 for position, trace in _open(tmp_path).replay()}
    assert [replayed[position] for position in kept] == list(range(1, 100, 2))


async def test_close_writes_what_waits_and_refuses_more(tmp_path: Path, make_trace: MakeTrace) -> None:
    journal = _open(tmp_path, gather_s=3600)
    tasks = [asyncio.ensure_future(journal.append(make_trace(number))) for number in range(3)]
    await asyncio.sleep(0)
    await journal.close()
    assert len(await asyncio.gather(*tasks)) == 3
    with pytest.raises(StorageError, match="closed"):
        await journal.append(make_trace(3))


_CHILD = """
import asyncio, os, resource
from pathlib import Path
from gen_service.records import Prompt, Sample, Trace
from gen_service.storage.disk_space import SpaceWaiter
from gen_service.storage.journal import Journal
from gen_service.storage.watermark import Watermark

async def main():
    journal = Journal(Path({folder!r}), SpaceWaiter(lambda _: print("paused", flush=True), print), Watermark())
    async def worker(first):
        for number in range(first, 10**6, 16):
            sample = Sample(f"s{{number}}", "job", Prompt("p", (), None, "sums", number + 1), 0)
            await journal.append(Trace(sample, None, None, os.urandom(200).hex()))
            print(number, flush=True)
    await asyncio.gather(*map(worker, range(16)))

{before}
asyncio.run(main())
"""


def _child(folder: Path, before: str = "") -> subprocess.Popen[str]:
    code = _CHILD.format(folder=str(folder), before=before)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def _until(child: subprocess.Popen[str], lines: int) -> list[str]:
    assert child.stdout is not None
    said = [child.stdout.readline().strip() for _ in range(lines)]
    child.send_signal(signal.SIGKILL)
    said += [line.strip() for line in child.stdout.read().split("\n")[:-1]]
    child.stdout.close()
    child.wait()
    return said


def test_kill_9_loses_no_acknowledged_row(tmp_path: Path) -> None:
    for kill in range(10):
        folder = tmp_path / str(kill)
        acknowledged = [int(line) for line in _until(_child(folder), 1 + 37 * kill)]
        assert len(acknowledged) > 37 * kill
        assert set(acknowledged) <= set(_numbers(_open(folder)))


def test_a_file_size_limit_pauses_and_loses_no_acknowledged_row(tmp_path: Path) -> None:
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    child = _child(tmp_path / "journal", limit)
    assert child.stdout is not None
    said = [line.strip() for line in iter(child.stdout.readline, "paused\n")]
    said += _until(child, 0)
    acknowledged = {int(line) for line in said}
    journal = _open(tmp_path / "journal")
    assert acknowledged == set(_numbers(journal))
    assert journal.torn_bytes == 0
    assert len(acknowledged) > 10


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


async def test_a_real_full_disk_pauses_until_there_is_room(tiny_disk: Path, make_trace: MakeTrace) -> None:
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(bytes(200 * 1024))
    said: list[str] = []

    def pause(message: str) -> None:
        said.append(message)
        ballast.unlink()

    journal = _open(tiny_disk / "journal", SpaceWaiter(pause, said.append, lambda _: None), gather_s=0)
    for number in range(50):
        await journal.append(make_trace(number, chars=4000))
    await journal.close()
    assert len(said) == 2
    assert _numbers(_open(tiny_disk / "journal")) == list(range(50))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cuts=st.lists(st.integers(0, 400), min_size=1, max_size=4), rows=st.integers(1, 5))
def test_runs_that_each_end_torn_keep_every_whole_frame(
    tmp_path_factory: pytest.TempPathFactory, make_trace: MakeTrace, cuts: list[int], rows: int
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    kept: list[int] = []
    for run, cut in enumerate(cuts):
        traces = [make_trace(run * 10 + number) for number in range(rows)]
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            positions = runner.run(_write(folder, traces))
        path = folder / f"{positions[0].segment:06}.log"
        size = max(0, path.stat().st_size - cut)
        ends = [position.offset for position in positions[1:]] + [path.stat().st_size]
        os.truncate(path, size)
        kept += [run * 10 + number for number, end in enumerate(ends) if end <= size]
        assert _numbers(_open(folder)) == kept
