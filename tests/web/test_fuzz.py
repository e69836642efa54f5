"""schemathesis over the OpenAPI document of the real service, with a key: only documented answers, never a 500."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx

from benchmarks.servers import simulated_servers
from benchmarks.service_process import make_key, running_service, service_settings

EXAMPLES, SEED = 20, 20_240_607
SECONDS = 240
# A stream of events has no end to wait for while its job runs; tests/web/test_events.py reads it.
ENDLESS = "/events$"


def test_every_request_gets_a_documented_answer(tmp_path: Path) -> None:
    with simulated_servers(["--latency", "0.01", "--length", "20"], servers=2) as urls:
        settings = service_settings(
            urls, tmp_path / "data", quotas__requests_per_minute="1000000", http__wrong_keys_per_minute="1000000"
        )
        key = make_key(settings, "fuzz", ("submit", "read", "admin"))
        with running_service(settings, tmp_path / "words.txt") as service:
            report, code = fuzzed(service.url, key)
            ready = httpx.get(f"{service.url}/readyz")
    assert code == 0, report
    # A run that tested nothing would pass as well.
    assert operations_in(report) > 20, report
    assert ready.status_code == 200
    lines = [json.loads(line) for line in (tmp_path / "words.txt").read_text().splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert len(requests) > 500
    assert not [line for line in requests if line["status"] >= 500 and line["status"] != 503]


def fuzzed(url: str, key: str) -> tuple[str, int]:
    """What schemathesis says, and its exit code."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"]
    command += ["--phases", "examples,coverage,fuzzing,stateful", "--max-examples", str(EXAMPLES), "--seed", str(SEED)]
    command += ["--header", f"Authorization: Bearer {key}", "--exclude-path-regex", ENDLESS]
    # A document cannot say all that makes a request right (the file's id must be one, `prompts` names one source).
    command += ["--exclude-checks", "positive_data_acceptance"]
    command += ["--request-timeout", "30", "--continue-on-failure", "--no-color"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    return ended.stdout + ended.stderr, ended.returncode


def operations_in(report: str) -> int:
    """How many operations were tested."""
    (line,) = [line for line in report.splitlines() if line.strip().startswith("Tested:")]
    return int(line.split()[-1])
