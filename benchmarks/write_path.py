"""The durable path alone, at 24 KB traces: the journal against bare JSON lines, the shards against one `write_table`.

Both journals write groups of 256 rows and wait for fdatasync after each. The paced runs write 1,000 rows a second.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pyarrow.parquet as pq

from benchmarks.figures import RESULTS, Figure, Target, compared, show
from benchmarks.measurement import Cost, Meter
from benchmarks.workload import SEED
from gen_service.endpoints.simulated.tokenizer import WORDS
from gen_service.records import Completion, Prompt, Sample, Trace, Verdict
from gen_service.settings import OutputSettings
from gen_service.storage import codec
from gen_service.storage.destination import LocalFolder
from gen_service.storage.disk_space import SpaceWaiter
from gen_service.storage.frames import ORIGIN
from gen_service.storage.journal import GROUP_ROWS, Journal
from gen_service.storage.manifest import Part
from gen_service.storage.schema import to_table
from gen_service.storage.shards import COMPRESSION_LEVEL, ShardWriter
from gen_service.storage.watermark import Watermark
from gen_service.terminal.run import run_async

NAME = "write_path"
TOKENS = 3_000
PACED_ROWS, TICK_S = 1_000, 0.05
AGAINST_LINES = "JSON lines + fdatasync per 256 rows"


def measure(rows: int, repeats: int, paced_s: float = 3.0) -> list[Figure]:
    """Ours and the baselines by turns, on the disk of the current folder: a temporary one may be memory."""
    RESULTS.mkdir(exist_ok=True)
    made = make_traces(rows)
    lines: list[tuple[float, float]] = []
    paced: list[tuple[float, float]] = []
    shards: list[tuple[float, float]] = []
    sizes: list[tuple[float, float]] = []
    raw = sum(len(codec.encode(trace)) for trace in made)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=RESULTS) as name:
        for repeat in range(repeats):
            folder = Path(name, str(repeat))
            folder.mkdir()
            journal, bare = run_async(journal_cost(folder / "journal", made)), lines_cost(folder / "lines", made)
            lines.append((rows / journal.wall_s, rows / bare.wall_s))
            paced.append(
                (run_async(paced_share(folder / "a", made, paced_s)), paced_lines(folder / "b", made, paced_s))
            )
            part, seconds = run_async(shard_cost(folder / "shards", made))
            table, table_seconds = table_cost(folder / "table.parquet", made)
            shards.append((rows / seconds, rows / table_seconds))
            sizes.append((raw / part, raw / table))
    return [
        compared(NAME, "journal, as fast as it goes", "rows/s", lines, AGAINST_LINES),
        compared(NAME, "journal, CPU of a core at 1,000 rows/s", "%", paced, AGAINST_LINES),
        compared(NAME, "shards, as fast as they go", "rows/s", shards, "one pq.write_table", Target(at_least=0.7)),
        compared(NAME, "shards, raw bytes / Parquet bytes", "x", sizes, "one pq.write_table", Target(at_least=0.9)),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Run alone, print the table."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=__doc__)
    parser.add_argument("--rows", type=int, default=8_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(argv)
    show(measure(options.rows, options.repeats))


def make_traces(rows: int) -> list[Trace]:
    """Verified traces of 24 KB: 12 KB of seeded words and as many bytes of token ids."""
    chance = np.random.default_rng(SEED)
    made = []
    for number in range(rows):
        ids = chance.integers(0, len(WORDS), TOKENS, dtype=np.int32)
        prompt = Prompt(f"p{number}", ({"role": "user", "content": f"What is {number} + 1?"},), "2", "sums", number + 1)
        text = "".join([WORDS[token] for token in ids.tolist()])
        completion = Completion(text, "\\boxed{2}", "stop", 20, TOKENS, ids, "m", "http://a", 0, (), 1.7e9, 0.1, 9.0)
        made.append(Trace(Sample(f"{number:032x}", "job", prompt, 0), completion, Verdict("correct", "equal", "2")))
    return made


async def journal_cost(folder: Path, made: Sequence[Trace]) -> Cost:
    """All rows, as many at once as the journal takes into one group."""
    journal = Journal(folder, _space(), Watermark())
    meter = Meter()
    for start in range(0, len(made), 2 * GROUP_ROWS):
        await asyncio.gather(*(journal.append(trace) for trace in made[start : start + 2 * GROUP_ROWS]))
    cost = meter.read()
    await journal.close()
    return cost


def lines_cost(path: Path, made: Sequence[Trace]) -> Cost:
    """All rows by the bare writer."""
    with path.open("ab", buffering=0) as file:
        meter = Meter()
        for start in range(0, len(made), GROUP_ROWS):
            _write_lines(file.fileno(), made[start : start + GROUP_ROWS])
        return meter.read()


async def paced_share(folder: Path, made: Sequence[Trace], seconds: float) -> float:
    """Percent of a core that the journal takes at 1,000 rows a second."""
    journal, loop = Journal(folder, _space(), Watermark()), asyncio.get_running_loop()
    each, ticks = int(PACED_ROWS * TICK_S), int(seconds / TICK_S)
    meter, began = Meter(), loop.time()
    waiting: set[asyncio.Task[object]] = set()
    for tick in range(ticks):
        waiting |= {loop.create_task(_append(journal, made[(tick * each + row) % len(made)])) for row in range(each)}
        await asyncio.sleep(began + (tick + 1) * TICK_S - loop.time())
    await asyncio.wait(waiting)
    cost = meter.read()
    await journal.close()
    return 100 * cost.cpu_s / (ticks * TICK_S)


def paced_lines(path: Path, made: Sequence[Trace], seconds: float) -> float:
    """The same for the bare writer."""
    return run_async(_paced_lines(path, made, seconds))


async def shard_cost(folder: Path, made: Sequence[Trace]) -> tuple[int, float]:
    """Bytes of the published parts, and the seconds to write them."""
    parts: list[Part] = []
    settings = OutputSettings(path=str(folder), shard_s=3600)
    writer = ShardWriter(LocalFolder(folder), settings, 1, "{}", _space(), lambda part, _: parts.append(part))
    meter = Meter()
    for trace in made:
        await writer.add(ORIGIN, trace)
    await writer.close()
    return sum(part.bytes for part in parts), meter.read().wall_s


def table_cost(path: Path, made: Sequence[Trace]) -> tuple[int, float]:
    """Bytes of one Parquet file with all rows, and the seconds to build its table, write it and sync it."""
    meter = Meter()
    pq.write_table(to_table(made, "{}"), path, compression="zstd", compression_level=COMPRESSION_LEVEL)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path.stat().st_size, meter.read().wall_s


async def _append(journal: Journal, trace: Trace) -> object:
    return await journal.append(replace(trace))


async def _paced_lines(path: Path, made: Sequence[Trace], seconds: float) -> float:
    loop, each, ticks = asyncio.get_running_loop(), int(PACED_ROWS * TICK_S), int(seconds / TICK_S)
    with path.open("ab", buffering=0) as file:
        meter, began = Meter(), loop.time()
        for tick in range(ticks):
            rows = [made[(tick * each + row) % len(made)] for row in range(each)]
            await asyncio.to_thread(_write_lines, file.fileno(), rows)
            await asyncio.sleep(began + (tick + 1) * TICK_S - loop.time())
        return 100 * meter.read().cpu_s / (ticks * TICK_S)


def _write_lines(descriptor: int, group: Sequence[Trace]) -> None:
    lines = b"".join([orjson.dumps(_plain(trace), option=orjson.OPT_APPEND_NEWLINE) for trace in group])
    while lines:
        lines = lines[os.write(descriptor, lines) :]
    os.fdatasync(descriptor)


def _plain(trace: Trace) -> dict[str, object]:
    completion = trace.completion
    assert completion is not None
    return {
        "sample_id": trace.sample.sample_id,
        "messages": trace.sample.prompt.messages,
        "reasoning": completion.reasoning,
        "content": completion.content,
        "token_ids": completion.token_ids.tolist(),
    }


def _space() -> SpaceWaiter:
    return SpaceWaiter(print, print)


if __name__ == "__main__":
    main()
