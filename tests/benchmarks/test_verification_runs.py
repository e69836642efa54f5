"""Small forms of the runs that start processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import psutil
import pytest

from benchmarks import verification_golds, verification_slow, verification_throughput
from benchmarks.measurement import tree_cpu_s
from benchmarks.verification_load import spinning
from benchmarks.verification_slow_job import OneRowAtATime, Reading

_BURN = "import time\nwhile time.process_time() < 0.3:\n    pass"


def test_the_cpu_time_of_a_tree_holds_children_that_run_and_that_ended() -> None:
    before = tree_cpu_s()
    subprocess.run([sys.executable, "-c", _BURN], check=True)
    ended = tree_cpu_s()
    assert ended - before > 0.25
    code = f"{_BURN}\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()
        assert tree_cpu_s() - ended > 0.25
        running.communicate(b"\n")


def test_spinning_processes_end_with_the_block() -> None:
    def children() -> set[int]:
        return {child.pid for child in psutil.Process().children()}

    before = children()
    with spinning(2):
        assert len(children() - before) == 2
    assert children() <= before


def test_golds_that_fail_are_named_and_a_gold_that_is_refused_is_not_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"problem": "?", "answer": answer} for answer in ("12", r"\text{odd}", "2^{9^{9^9}}", "")]
    (tmp_path / "set.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    assert verification_golds.run(tmp_path)
    assert "tower" in capsys.readouterr().out
    (tmp_path / "set.jsonl").write_bytes(orjson.dumps({"problem": "?", "answer": "12 }"}))
    assert not verification_golds.run(tmp_path)
    assert "FAILED set.jsonl:1" in capsys.readouterr().out


def test_reading_counts_how_far_it_is_ahead() -> None:
    reading = Reading()
    file = OneRowAtATime(reading.count(iter([b"a\n", b"b\n"])))
    assert (file.read(4096), reading.rows) == (b"a\n", 1)
    assert (file.read(1), file.read(1), reading.rows, reading.most_ahead) == (b"b\n", b"", 2, 2)


def test_a_slow_verifier_slows_the_reading() -> None:
    rate, ahead, *_ = verification_slow.measure(40, 400, check_s=0.002)
    assert ahead.holds
    assert verification_slow.IN_FLIGHT < ahead.value < 400
    assert rate.value > 0


def test_both_sides_of_the_throughput_judge_the_same_items() -> None:
    found = verification_throughput.measure(None, 12, 1)
    by_judge, by_many, right, settled = found.figures
    assert len(found.items) == len(found.verdicts) == 12
    assert by_judge.ratio is not None
    assert by_many.ratio is not None
    assert right.value >= 80
    assert 0 < settled.value <= 100
