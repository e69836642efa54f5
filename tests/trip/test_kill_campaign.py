"""kill -9 again and again: nothing lost, nothing twice, nothing durable asked again."""

from __future__ import annotations

from pathlib import Path

from benchmarks.kill_campaign import run_kill_campaign


def test_killed_again_and_again_a_job_still_ends_in_one_row_for_each_sample(tmp_path: Path) -> None:
    report = run_kill_campaign(tmp_path, samples=1_500, kills=8)
    assert report.kills == 8, "the job ended before it could be killed"
    assert report.exit_code == 0, (tmp_path / "words.txt").read_text()
    assert (report.rows, report.lost, report.doubled) == (1_500, 0, 0)
    assert report.asked_though_durable == 0
    assert report.wrong_text == 0
    assert report.asked_again <= sum(report.open_at_kill)
    assert max(report.open_at_kill) <= report.open_limit
    assert report.holds
