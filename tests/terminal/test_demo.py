"""The demo where it needs no server; with servers it is a journey."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from gen_service.terminal.demo import DemoSettings, run_demo
from gen_service.terminal.exit_codes import FAILED


def test_a_demo_that_publishes_nothing_has_failed(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": ""}\n{"wrong": 1}\n', encoding="utf-8")
    console = Console(record=True, width=200)
    assert run_demo(console, DemoSettings(tmp_path / "out", 1, 1, 1, (str(prompts),), None)) == FAILED
    assert "nothing was published; 2 prompt rows were set aside" in console.export_text()
