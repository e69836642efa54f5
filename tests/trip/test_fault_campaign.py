"""Every kind of fault at once, and prompts that are refused for good: every sample still ends in its row."""

from __future__ import annotations

from pathlib import Path

from benchmarks.fault_campaign import run_fault_campaign


def test_servers_that_fail_in_every_way_cost_no_row(tmp_path: Path) -> None:
    report = run_fault_campaign(tmp_path, samples=2_000, refused=20)
    assert report.exit_code == 0, (tmp_path / "words.txt").read_text()
    assert (report.rows, report.lost, report.doubled) == (2_000, 0, 0)
    assert (report.errors, report.wrong_errors) == (20, 0)
    assert report.wrong_text == 0
    assert report.wrong_verdict == 0
    assert report.continued > 0, "no answer was taken up again from its tokens"
    assert set(report.retries) >= {"server_failed", "overloaded", "stream_broken", "stalled", "malformed"}
    assert report.holds
