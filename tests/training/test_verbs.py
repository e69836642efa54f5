"""The `train` verbs on the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gen_service.errors import SpecError
from gen_service.tiny_model import CHECKPOINT
from gen_service.training.verbs import check_installed, given

CODE = "from gen_service.cli import main; main()"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CODE, "train", *arguments], capture_output=True, text=True, check=False
    )


def test_help_comes_without_what_training_needs() -> None:
    done = run("sft", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--dry-run" in done.stdout
    code = "import sys, gen_service.cli; print({'torch', 'transformers', 'pydantic', 'trl'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_wrong_spec_is_one_line_and_exit_code_2_without_torch(tmp_path: Path) -> None:
    spec = tmp_path / "sft.yaml"
    spec.write_text(f"model: {CHECKPOINT}\ntraces: {tmp_path}\nrun: {{name: one, path: {tmp_path}}}\nsave: adapter\n")
    done = run("sft", str(spec))
    assert done.returncode == 2
    assert done.stderr.startswith("gen-service: save: got 'adapter'; expected merged")
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["sft.yaml"]


def test_flags_alone_are_a_spec_and_what_is_missing_is_named() -> None:
    done = run("sft", "--model", str(CHECKPOINT), "--traces", "/nowhere")
    assert (done.returncode, done.stderr) == (
        2,
        "gen-service: run: got None; expected a value: the field is required\n",
    )


def test_what_is_not_installed_is_named() -> None:
    check_installed()
    with pytest.raises(SpecError, match=r"no surely_not_there'; expected pip install 'gen-service\[train\]'"):
        check_installed(("sys", "surely_not_there"))


def test_only_flags_that_were_given_go_over_the_spec() -> None:
    assert given({"model": {"path": None}, "run": {"name": "a", "path": None}, "context": 0}) == {
        "run": {"name": "a"},
        "context": 0,
    }
