"""The verbs that talk to a service, against the real one as a process on simulated servers."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from benchmarks.servers import simulated_servers
from benchmarks.service_process import COMMAND, make_key, running_service, service_settings
from gen_service.cli import app
from gen_service.errors import SpecError
from gen_service.remote.client import ServiceClient
from gen_service.terminal.job_request import load_request, upload_of, with_file
from gen_service.terminal.remote import jobs_table
from gen_service.terminal.watch import job_line, job_view, readable
from gen_service.wire.jobs import JobView

# Reading a request


def written(folder: Path, document: Any) -> Path:
    path = folder / "request.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_request_may_be_written_short_and_the_name_given_apart(tmp_path: Path) -> None:
    request = load_request(written(tmp_path, {"prompts": "problems.jsonl", "output": "s3://bucket/x"}), "mine")
    assert (request.name, request.prompts.path, request.output.path) == ("mine", "problems.jsonl", "s3://bucket/x")
    hub = load_request(written(tmp_path, {"prompts": {"path": "hub:owner/name", "format": "hub", "split": "test"}}))
    assert (hub.prompts.dataset, hub.prompts.path, hub.prompts.split) == ("owner/name", None, "test")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (
            {"prompts": "x", "endpoints": {"urls": ["http://a"], "api_key": "hush"}},
            r"^endpoints: got 'a section'; expected no servers, .* write `model: NAME`",
        ),
        ({"prompts": "x", "pool": {"in_flight": 3}}, r"^pool: .*write `max_in_flight: N`"),
        ({"prompts": "x", "samples": 0}, r"^samples: got 0; expected greater than or equal to 1$"),
        ({"prompts": "x", "temperature": 1}, r"^temperature: got 1; expected a field that there is"),
        ({"prompts": {"rows": [{}], "path": "x"}}, r"^prompts: .*exactly one of rows, file_id, path and dataset"),
        (
            {"prompts": "x", "webhook": {"url": "https://a", "secret": "hush"}},
            r"^webhook.secret: got '\*\*\*'; expected",
        ),
        (["prompts"], r"^spec: got .*a mapping with at least `prompts`"),
    ],
)
def test_a_wrong_request_names_the_field_and_what_would_be_right(tmp_path: Path, document: Any, words: str) -> None:
    with pytest.raises(SpecError, match=words) as wrong:
        load_request(written(tmp_path, document))
    assert "hush" not in str(wrong.value)


def test_only_a_local_file_is_uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def of(prompts: Any) -> Path | None:
        return upload_of(load_request(written(tmp_path, {"prompts": prompts})))

    (tmp_path / "here.jsonl").touch()
    (tmp_path / "here.jsonl.gz").touch()
    assert of("here.jsonl") == Path("here.jsonl")
    assert [of("s3://bucket/x.jsonl"), of({"rows": [{"prompt": "?"}]}), of("hub:a/b")] == [None, None, None]
    with pytest.raises(SpecError, match="--on-server"):
        of("missing.jsonl")
    with pytest.raises(SpecError, match="not compressed"):
        of("here.jsonl.gz")


def test_an_upload_takes_the_place_of_the_path_alone(tmp_path: Path) -> None:
    prompts = {"path": "x.csv", "columns": {"prompt": "question"}, "limit": 5, "format": "csv"}
    request = with_file(load_request(written(tmp_path, {"prompts": prompts, "samples": 3})), "file-1")
    assert request.model_dump(mode="json", exclude_unset=True) == {
        "prompts": {"file_id": "file-1", "columns": {"prompt": "question"}, "limit": 5, "format": "csv"},
        "samples": 3,
    }


# What is shown


def view_of(**more: Any) -> JobView:
    at = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    values = {"id": "job-1", "name": "mine", "tenant": "default", "kind": "native", "state": "running", "reason": None}
    values |= {"model": "m", "priority": 0, "weight": 1.0, "created_at": at, "started_at": at, "finished_at": None}
    counts = {"samples": 2000, "published": 1200, "in_flight": 30, "waiting": 4, "verdicts": {"correct": 1100}}
    rates = {"traces_per_s": 40.25, "tokens_per_s": 3000.0, "eta_s": 20.0}
    server = {"url": "http://a", "state": "healthy", "job_in_flight": 30, "in_flight": 50, "limit": 64}
    values |= {"counts": counts, "rates": rates, "servers": [server], "output": None, "metadata": {}, "request": {}}
    return JobView.model_validate(values | more)


def test_a_line_says_how_far_how_fast_and_how_good() -> None:
    words = "running 1,200/2,000 rows  40.2 traces/s  3,000 tokens/s  ETA 20s  in flight 30, waiting 4  correct=1,100"
    assert job_line(view_of()) == words
    steered = job_line(view_of(rates=None, counts={"samples": 2000, "published": 1200, "skipped": {"solved": 700}}))
    assert steered == "running 1,200/2,000 rows  in flight 0, waiting 0, not needed 700"
    unknown = job_line(view_of(rates=None, counts={}, state="queued"))
    assert unknown == "queued 0/? rows  in flight 0, waiting 0"


def test_the_live_view_has_the_servers_and_the_verdicts() -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(job_view(view_of()))
        shown = console.export_text()
    for words in ("1,200/2,000", "40.2 traces/s", "ETA 20s", "correct 1,100", "http://a healthy 30 of 50/64"):
        assert words in shown


def test_the_table_of_jobs_has_one_row_each() -> None:
    table = jobs_table([view_of(), view_of(id="job-2", name=None, model=None, state="failed")])
    assert table.row_count == 2


def test_words_from_elsewhere_steer_no_terminal() -> None:
    assert readable("a\x1b[31mred\x07\u2028b") == "a [31mred  b"


# Against a service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of clients: where it is and a key."""
    folder = tmp_path_factory.mktemp("service")
    with simulated_servers(["--length", "20", "--seed", "3"]) as urls:
        settings = service_settings(urls, folder / "data")
        key = make_key(settings, "team")
        with running_service(settings, folder / "words.txt") as running:
            yield {"GEN_SERVICE_URL": running.url, "GEN_SERVICE_KEY": key}


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A request over a file of 40 problems beside it."""
    rows = [{"prompt": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(40)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return written(tmp_path, {"prompts": str(tmp_path / "problems.jsonl"), "samples": 2, "model": "simulated"})


def call(service: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of the program."""
    done = subprocess.run([*COMMAND, *arguments], env=service, capture_output=True, text=True, check=False)
    assert service["GEN_SERVICE_KEY"] not in done.stdout + done.stderr
    return done.returncode, done.stdout, done.stderr


def test_a_job_from_submit_to_download(service: dict[str, str], spec: Path, tmp_path: Path) -> None:
    code, out, err = call(service, "submit", str(spec), "--watch", "--name", "whole")
    assert (code, err) == (0, "")
    job_id, *told = out.splitlines()
    states = [line.split()[1] for line in told if line[2:3] == ":"]
    assert states == ["queued", "running", "finalizing", "completed"]
    assert f"{job_id} completed" in told
    assert any("80/80 rows" in line and "correct=80" in line for line in told)
    folder = tmp_path / "rows"
    code, out, err = call(service, "download", job_id, "--output", str(folder))
    assert (code, err) == (0, "")
    tables = [pq.read_table(path) for path in folder.glob("*.parquet")]
    assert sum(table.num_rows for table in tables) == 80
    assert f"{len(tables)} files in {folder}, {len(tables)} of them fetched now" in out
    assert ", 0 of them fetched now (0 bytes)" in call(service, "download", job_id, "--output", str(folder))[1]
    code, out, _ = call(service, "jobs", "--state", "completed")
    assert code == 0
    row = next(line.split() for line in out.splitlines() if line.startswith(f" {job_id}"))
    assert row[:5] == [job_id, "whole", "completed", "80/80", "0"]
    assert call(service, "watch", job_id)[0] == 0


def endless(folder: Path) -> Path:
    """A request for a job that goes on for hours: one sample at a time of a great many."""
    rows = [{"prompt": f"What is {n} + 1?"} for n in range(5000)]
    return written(folder, {"prompts": {"rows": rows}, "samples": 10_000, "max_in_flight": 1})


async def until(service: dict[str, str], job_id: str, state: str) -> None:
    """Until the job came into a state, for the first time."""
    url, key = service["GEN_SERVICE_URL"], service["GEN_SERVICE_KEY"]
    async with ServiceClient(url, key) as client, aclosing(client.events(job_id)) as events:
        async for event in events:
            if event.data.get("to") == state:
                return
    raise AssertionError(f"{job_id} ended without having been {state}")


async def test_a_job_is_paused_resumed_and_cancelled(service: dict[str, str], tmp_path: Path) -> None:
    job_id = call(service, "submit", str(endless(tmp_path)))[1].strip()
    await until(service, job_id, "running")
    assert call(service, "pause", job_id)[0] == 0
    await until(service, job_id, "paused")
    assert f"{job_id} " in call(service, "jobs", "--state", "paused")[1]
    assert call(service, "resume", job_id) == (0, f"{job_id} queued\n", "")
    code, out, _ = call(service, "cancel", job_id)
    assert (code, out.split()[0]) == (0, job_id)
    code, out, _ = call(service, "watch", job_id)
    assert code == 1
    assert f"{job_id} cancelled" in out


def test_ctrl_c_leaves_the_job_running(service: dict[str, str], tmp_path: Path) -> None:
    job_id = call(service, "submit", str(endless(tmp_path)))[1].strip()
    watching = subprocess.Popen([*COMMAND, "watch", job_id], env=service, stdout=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    with watching.stdout as told:
        assert "queued" in told.readline()
        watching.send_signal(signal.SIGINT)
        rest = told.read()
    assert watching.wait() == 130
    assert f"{job_id} goes on; `gen-service watch {job_id}` shows it" in rest
    assert job_id in call(service, "jobs", "--state", "running", "--state", "queued")[1]
    assert call(service, "cancel", job_id)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["watch", "job-none"], 1, "job-none"),
        (["cancel", "no id"], 2, "job_id"),
        (["jobs", "--state", "asleep"], 2, "state: got 'asleep'; expected one of validating, queued"),
        (["jobs", "--key", "gs_wrong_key"], 1, "key"),
        (["jobs", "--url", "localhost:8080"], 2, "expected a base URL such as"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    service: dict[str, str], arguments: list[str], code: int, words: str
) -> None:
    came, out, err = call(service, *arguments)
    assert (came, out, len(err.splitlines())) == (code, "", 1), err
    assert err.startswith("gen-service: ")
    assert words in err
    assert "gs_wrong_key" not in err


def test_help_shows_no_key(service: dict[str, str]) -> None:
    done = CliRunner().invoke(app, ["submit", "--help"], env=service)
    assert done.exit_code == 0
    assert "GEN_SERVICE_KEY" in done.stdout
    assert service["GEN_SERVICE_KEY"] not in done.stdout
