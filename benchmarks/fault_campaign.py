"""Servers that fail in every way at once, and prompts that are refused for good: every sample still gets its row."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from benchmarks.servers import simulated_servers
from benchmarks.trip import ServerLog, exit_code, generating, write_spec
from benchmarks.workload import SEED, prompt_text, samples_of, sums_spec, write_sums
from gen_service.endpoints.simulated import Fixed, Script
from gen_service.endpoints.simulated.tokenizer import decode_answer
from gen_service.jobs.job import JobSpec
from gen_service.storage import traces
from gen_service.storage.job_places import places

IN_FLIGHT = 500
SERVERS = 4
LENGTH = 200
MARKER = "REFUSE-ME"
SERVER_WORDS = f"the prompt holds '{MARKER}'"
RATES = {"http_500": 0.03, "http_429": 0.02, "reset": 0.03, "stall": 0.01, "malformed": 0.01}
STALL_S = 2.0
# A stall may come before the first token, where only this limit ends it; no answer here waits longer for one.
FIRST_TOKEN_S = 10.0
LIMITS = {"stall_s": STALL_S, "first_token_s": FIRST_TOKEN_S}


@dataclass(slots=True)
class FaultReport:
    """What a fault campaign found.

    Attributes:
        samples, refused: of the job; how many of its prompts every server refuses for good.
        rows: published rows by the manifests.
        lost, doubled: samples without a row, and rows beyond a sample's first.
        errors: rows without an answer; exactly the refused prompts.
        wrong_errors: error rows of other prompts, or without the server's words in the row and in dead_letter.jsonl.
        wrong_text: rows whose text is neither one a server sent for that sample nor, when it was continued, the text
            the simulation has for it.
        wrong_verdict: answered rows that are not `correct`.
        continued: rows taken up again from their tokens on another server.
        retries: failed attempts by cause.
        requests: that the servers received.
        exit_code: of the command.
    """

    samples: int
    refused: int
    rows: int = 0
    lost: int = 0
    doubled: int = 0
    errors: int = 0
    wrong_errors: int = 0
    wrong_text: int = 0
    wrong_verdict: int = 0
    continued: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    exit_code: int = -1

    @property
    def holds(self) -> bool:
        """Whether every promise held, and the faults did happen."""
        wrong = self.lost or self.doubled or self.wrong_errors or self.wrong_text or self.wrong_verdict
        counts = self.rows == self.samples and self.errors == self.refused
        return self.exit_code == 0 and counts and not wrong and self.retries.total() > 0 and self.continued > 0


def run_fault_campaign(folder: Path, samples: int, refused: int = 20) -> FaultReport:
    """Run it in an empty folder."""
    arguments = ["--seed", str(SEED), "--length", str(LENGTH), "--latency", "0.2:1.0:2.0", "--tick", "0.1"]
    arguments += ["--refuse", MARKER, "--log", str(folder / "servers.log"), "--stream-interval", "8"]
    for name, rate in RATES.items():
        arguments += ["--fault", f"{name}={rate}"]
    prompts = write_sums(folder / "prompts.jsonl", samples, marker=MARKER, marked=refused)
    with simulated_servers(arguments, servers=SERVERS) as urls:
        spec = sums_spec(folder, prompts, urls, pool={"in_flight": IN_FLIGHT}, endpoints=LIMITS)
        with generating(write_spec(folder / "spec.json", spec), folder / "words.txt") as child:
            code = exit_code(child)
    report = FaultReport(samples, refused, exit_code=code)
    _check(report, spec, folder, ServerLog(folder / "servers.log").read())
    return report


def _check(report: FaultReport, spec: JobSpec, folder: Path, log: ServerLog) -> None:
    at, counts = places(spec.output, spec.job_id), Counter[str]()
    expected = {sample.sample_id: prompt_text(sample) for sample in samples_of(spec, folder)}
    dead = {line["sample_id"]: line["reason"] for line in map(orjson.loads, at.dead_letter.read_bytes().splitlines())}
    script = Script(seed=SEED, length=Fixed(LENGTH))
    columns = ["sample_id", "reasoning", "content", "verdict", "error", "continued", "retries"]
    for row in traces.read_traces(at.published, columns):
        sample_id = row["sample_id"]
        counts[sample_id] += 1
        report.retries.update(row["retries"])
        prompt = expected.get(sample_id, "")
        if row["error"] is not None:
            report.errors += 1
            said = SERVER_WORDS in row["error"] and SERVER_WORDS in dead.get(sample_id, "")
            report.wrong_errors += not (MARKER in prompt and said and row["verdict"] == "error")
            continue
        report.continued += row["continued"] > 0
        report.wrong_verdict += row["verdict"] != "correct"
        text = (row["reasoning"] or "") + row["content"]
        known = log.sent.get(sample_id, set())
        if row["continued"]:
            whole = decode_answer(script.answer(prompt, sample_id).token_ids)
            known = {hashlib.sha256(whole.replace("<think>", "").replace("</think>", "").encode()).hexdigest()}
        report.wrong_text += hashlib.sha256(text.encode()).hexdigest() not in known
    report.rows = traces.published_counts(at.published).rows
    report.lost = len(expected.keys() - counts.keys())
    report.doubled = counts.total() - len(counts) + len(counts.keys() - expected.keys())
    report.requests = len(log.received)
