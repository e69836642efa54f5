"""Runs a module of this folder in a fresh process and reads the one JSON object that it prints last."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from gen_service.jobs.job import JobSpec


def run_job(spec: JobSpec, *, warm_up: int = 0, profile: str | None = None) -> dict[str, Any]:
    """Run a job by `generate` in a fresh process; its cost and counts, see benchmarks.controller."""
    plain = spec.model_dump(mode="json", exclude={"endpoints": {"api_key"}})
    return run_child("controller", {"spec": plain, "warm_up": warm_up, "profile": profile})


def run_child(module: str, document: dict[str, Any]) -> dict[str, Any]:
    """The answer of `python -m benchmarks.<module>`, given `document` as JSON on its input.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    command = [sys.executable, "-m", f"benchmarks.{module}"]
    ended = subprocess.run(command, input=json.dumps(document), capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise RuntimeError(f"benchmarks.{module} ended with {ended.returncode}: {ended.stderr[-4000:]}")
    answer: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return answer
