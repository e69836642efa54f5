"""The verbs as people type them; whole runs are in the journeys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from gen_service.cli import app
from gen_service.errors import SpecError

SPEC: dict[str, Any] = {"prompts": {"path": "problems.jsonl"}, "endpoints": "http://127.0.0.1:1", "samples": 2}


@pytest.fixture
def problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "problems.jsonl"
    rows = [{"wrong": 1}, {"id": "a", "question": "What is 1 + 1?", "gold": "2"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(SPEC))
    return path


def dry_run(*arguments: str) -> tuple[dict[str, Any], str]:
    """The resolved spec, and what was printed after it."""
    done = CliRunner().invoke(app, ["generate", "--dry-run", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    spec, end = json.JSONDecoder().raw_decode(done.stdout)
    return spec, done.stdout[end:]


FLAGS = ("--prompt-column", "question", "--answer-column", "gold")


def test_flags_alone_are_a_job(problems: Path) -> None:
    spec, words = dry_run("--prompts", str(problems), "--server", "http://a:1", "--server", "http://b:2", *FLAGS)
    assert spec["endpoints"]["urls"] == ["http://a:1", "http://b:2"]
    assert spec["job_id"].startswith("job-")
    assert "[user] What is 1 + 1?" in words
    assert "gold '2'" in words
    assert "set aside: row 1" in words


def test_flags_go_over_the_file(problems: Path) -> None:
    spec, _ = dry_run("job.yaml", *FLAGS, "--samples", "7", "--model", "m", "--max-tokens", "9", "--output", "out")
    assert (spec["samples"], spec["sampling"]["max_tokens"], spec["output"]["path"]) == (7, 9, "out")
    assert (spec["endpoints"]["urls"], spec["endpoints"]["model"]) == (["http://127.0.0.1:1"], "m")
    assert spec["prompts"]["path"] == "problems.jsonl"


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["--samples", "2"], "prompts"),
        (["job.yaml", "--samples", "0"], "samples"),
        (["job.yaml", "--server", "nowhere"], "endpoints.urls"),
        (["missing.yaml"], "spec"),
        (["job.yaml", "--prompt-column", "absent"], "prompts.path"),
    ],
)
def test_what_cannot_be_done_is_named(problems: Path, arguments: list[str], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        CliRunner().invoke(app, ["generate", "--dry-run", *arguments], catch_exceptions=False)
    assert caught.value.field == field


def test_a_source_without_a_usable_prompt_fails_and_says_why(problems: Path) -> None:
    arguments = ["--prompts", str(problems), "--server", "http://127.0.0.1:1", "--prompt-column", "nope"]
    done = CliRunner().invoke(app, ["generate", *arguments], env={"COLUMNS": "200"})
    assert done.exit_code == 1
    assert "no usable prompt: 2 rows were set aside" in done.stdout
    assert "the first: row 1: " in done.stdout
    assert "nope" in done.stdout
