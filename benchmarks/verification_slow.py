"""A verifier slower than the servers slows the reading of prompts, and nothing piles up in memory.

Simulated servers answer at once; one worker takes a fixed CPU time for each check, by a kind of a user's own. Every
prompt is counted as it is read. The bound on reading ahead of the published rows is the pool's places, the order's
window of prompts, and one chunk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.children import run_child
from benchmarks.figures import Figure, Target, compared, counted
from benchmarks.servers import simulated_servers
from benchmarks.verification_slow_job import SOURCE
from benchmarks.workload import SEED, sums_spec, write_sums
from gen_service.generation.supply import PROMPTS_READ_AHEAD

NAME = "verification"
IN_FLIGHT = 128
# As the main loop has it: places beyond those in flight, for samples between the last token and the shard.
PLACES = IN_FLIGHT + max(64, IN_FLIGHT // 2)
WINDOW = 64
# The chunk that is read, and the one sample that was taken to see whether there is work.
AHEAD = Target(at_most=PLACES + WINDOW + PROMPTS_READ_AHEAD + 1)
# 5,000 answers of 8 KB that piled up would take 40 MB and more.
GROWTH = Target(at_most=20)
SERVERS = ["--seed", str(SEED), "--length", "8000", "--unit", "bytes", "--no-reasoning", "--stream-interval", "128"]
# Small shards, so that the rows of one are no part of the growth.
SHARD_ROWS = 128
KIND = "benchmarks.verification_burn:burn"


def measure(few: int, many: int, check_s: float = 0.02) -> list[Figure]:
    """The slow verifier with few and many prompts, and the usual one with many, each in a fresh process.

    Args:
        check_s: CPU seconds that the slow verifier takes for each check.
    """
    slow = {"workers": 1, "kind": KIND, "options": {"cpu_s": check_s}}
    with tempfile.TemporaryDirectory(prefix="bench-") as name, simulated_servers(SERVERS) as urls:
        folder = Path(name)
        small = _run(folder, urls, "slow-few", few, slow)
        large = _run(folder, urls, "slow-many", many, slow)
        quick = _run(folder, urls, "quick-many", many, {"workers": 1})
    title = f"slow verifier ({1e3 * check_s:g} ms a check), {many:,} prompts"
    rates = [(many / large["wall_s"], many / quick["wall_s"])]
    growth = [large["peak_mb"] - small["peak_mb"]]
    return [
        compared(NAME, f"{title}: rows", "rows/s", rates, "the usual verifier"),
        counted(NAME, f"{title}: prompts read ahead of published rows, at most", "", [large["most_ahead"]], AHEAD),
        compared(NAME, f"{title}: peak", "MB", [(large["peak_mb"], quick["peak_mb"])], "the usual verifier"),
        counted(NAME, f"{title}: peak, more than of {few:,}", "MB", growth, GROWTH),
    ]


def _run(folder: Path, urls: Sequence[str], job: str, count: int, verification: dict[str, Any]) -> dict[str, Any]:
    rows = write_sums(folder / f"prompts-{count}.jsonl", count)
    sections = {
        "prompts": {"path": SOURCE},
        "pool": {"in_flight": IN_FLIGHT},
        "order": {"window": WINDOW},
        "output": {"shard_rows": SHARD_ROWS},
    }
    spec = sums_spec(folder, Path(SOURCE), urls, name=job, verification=verification, **sections)
    plain = spec.model_dump(mode="json", exclude={"endpoints": {"api_key"}})
    answer = run_child("verification_slow_job", {"spec": plain, "rows": str(rows)})
    if answer["by_verdict"] != {"correct": count} or answer["read"] != count:
        raise RuntimeError(f"{count} right answers were sent, {answer['read']} prompts read: {answer['by_verdict']}")
    return answer
