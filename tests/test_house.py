"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gen_service"
FILES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ("torch", "vllm", "transformers", "trl", "datasets")
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "base", "core", "manager", "misc"}
LONGEST_FILE, LONGEST_FUNCTION = 300, 60


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def relative(path: Path) -> str:
    return str(path.relative_to(PACKAGE.parent))


def test_the_service_is_imported_without_the_heavy_libraries() -> None:
    modules = [module_of(path) for path in FILES if "training" not in path.parts and path.stem != "__main__"]
    assert {"gen_service.cli", "gen_service.jobs.runner"} <= set(modules)
    code = (
        "import importlib, json, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"print(json.dumps(sorted(set({HEAVY!r}) & set(sys.modules))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_help_comes_without_the_libraries_that_a_verb_needs() -> None:
    code = (
        "import sys\n"
        "sys.argv = ['gen-service', '--help']\n"
        "from gen_service.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "slow = {'pyarrow', 'numpy', 'pydantic', 'aiohttp', 'sympy', 'datasets', 'torch'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for verb in ("generate", "demo", "inspect", "verify"):
        assert verb in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["inspect", "--help"], ["verify", "--help"]])
def test_the_command_line_explains_itself(arguments: list[str]) -> None:
    code = "from gen_service.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage" in done.stdout


def test_a_wrong_spec_is_one_clear_line_and_exit_code_2(tmp_path: Path) -> None:
    spec = tmp_path / "job.yaml"
    spec.write_text("prompts: x.jsonl\nendpoints: http://127.0.0.1:1\nsamples: 0\n")
    code = "from gen_service.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "generate", str(spec)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "gen-service: samples: got 0; expected greater than or equal to 1\n"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_files_and_functions_are_small_and_named_for_what_they_do(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_FILE
    assert not FORBIDDEN_NAMES & {path.stem, path.parent.name}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION, node.name


@pytest.mark.parametrize("path", [path for path in FILES if path.stat().st_size], ids=relative)
def test_modules_and_public_functions_say_what_they_are_for(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node) or node.name == "main", node.name
