"""How far the simulated engine is from the real one: its constants fitted on a real vLLM, then both on new workloads.

A real vLLM on this machine's CPU serves the tiny model with a small KV cache (`--num-gpu-blocks-override`). Measured on
it: decode steps at batch 1 to 128, each with short and, where they fit, long prompts; prefills of one token. The
constants of an EngineProfile are fitted to these. Then two workloads that the fit has not seen, 128 in flight, with
lengths that have a heavy tail: one that the cache holds, and one that it does not, so that vLLM preempts. The same
requests go through the engine's model with the fitted constants. Prints a JSON report; how far off is the model's
figure over the real one, less 1.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from benchmarks.calibration_fit import Fit, Step, fit
from benchmarks.calibration_measure import Target, measure_prefill, measure_steps, measure_workload
from benchmarks.closed_loop import Asked, Ran, run_closed_loop
from gen_service.endpoints.local_server import LocalServer
from gen_service.endpoints.local_server_settings import LocalServerSettings
from gen_service.endpoints.simulated.engine_profile import EngineProfile
from gen_service.endpoints.simulated.lengths import Lengths
from gen_service.tiny_model import CHECKPOINT

NAME: Final = "calibration"
BLOCK: Final = 32
STREAM_INTERVAL: Final = 8
MAX_NUM_SEQS: Final = 256
BATCHED_TOKENS: Final = 2048
# Of the context of 2,048 tokens, with room for a prompt.
LONGEST: Final = 1900
# The tiny model's ids that are no marks.
IDS: Final = range(10, 360)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured.

    Attributes:
        batches: sizes at which decode steps are measured.
        step_tokens: tokens of each answer there.
        blocks: of the KV cache, 32 tokens each; at least what the largest batch needs with short prompts.
        prefills: prompt lengths.
        held, pressed: requests of the workload that fits in the cache, and of the one that does not.
        held_mean, pressed_mean: their mean lengths in tokens.
    """

    batches: tuple[int, ...] = (1, 4, 16, 64, 128)
    step_tokens: int = 96
    blocks: int = 896
    prefills: tuple[int, ...] = (32, 512, 1024, 1900)
    repeats: int = 3
    in_flight: int = 128
    held: int = 640
    held_mean: float = 120.0
    pressed: int = 320
    pressed_mean: float = 300.0


SHORT: Final = Size(batches=(1, 16, 128), step_tokens=64, repeats=1, held=256, pressed=256)


async def measure(size: Size, cores: tuple[int, ...] | None, log: Path | None) -> dict[str, Any]:
    """Start a server, measure it, fit, compare; the report."""
    options = {"--num-gpu-blocks-override": size.blocks, "--block-size": BLOCK, "--max-num-seqs": MAX_NUM_SEQS}
    options |= {"--max-num-batched-tokens": BATCHED_TOKENS}
    arguments = tuple(str(part) for option in options.items() for part in option)
    settings = LocalServerSettings(
        CHECKPOINT, "tiny", cores=cores, stream_interval=STREAM_INTERVAL, arguments=arguments, log_path=log
    )
    server = LocalServer(settings)
    await server.start(lambda stage: _say(f"vLLM: {stage}"))
    try:
        # The default of 300 s for a whole answer is one that a busy machine meets.
        timeout = aiohttp.ClientTimeout(total=None)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            report = await calibrated(Target(session, server.url, "tiny", IDS), size)
    finally:
        await server.stop(10)
    return {"benchmark": NAME, "server": list(arguments), "cores": cores or os.cpu_count(), **report}


async def calibrated(target: Target, size: Size) -> dict[str, Any]:
    """Measure a server that is ready, fit, and compare both workloads."""
    block_size, blocks = await target.cache()
    like = EngineProfile(
        kv_blocks=blocks,
        block_size=block_size,
        max_num_seqs=MAX_NUM_SEQS,
        max_batched_tokens=BATCHED_TOKENS,
        stream_interval=STREAM_INTERVAL,
    )
    began = time.perf_counter()
    _say("warming up")
    await measure_steps(target, 16, 64, size.step_tokens)
    steps = [
        await _said(target, batch, prompt_tokens, size.step_tokens)
        for batch in size.batches
        for prompt_tokens in prompt_lengths(batch, size, block_size * blocks)
        for _ in range(size.repeats)
    ]
    prefills = [await measure_prefill(target, tokens, 2 * size.repeats + 1) for tokens in size.prefills]
    fitted = fit(steps, prefills, like)
    measured_s = time.perf_counter() - began
    held = await _compared(target, fitted, held_out(size.held, size.held_mean, seed=1), size.in_flight)
    pressed = await _compared(target, fitted, held_out(size.pressed, size.pressed_mean, seed=2), size.in_flight)
    return {
        "measured_s": measured_s,
        "steps": [asdict(step) | {"tokens_per_s": step.batch / step.seconds} for step in steps],
        "prefills": [asdict(prefill) for prefill in prefills],
        "profile": dataclasses.asdict(fitted.profile),
        "step_error": fitted.step_error,
        "request_s": fitted.request_s,
        "held_out": held,
        "held_out_preempting": pressed,
    }


def prompt_lengths(batch: int, size: Size, kv_tokens: int) -> list[int]:
    """A short prompt, and a long one where the cache holds it four times as long; both leave a tenth of it free."""
    short = 16
    room = int(0.9 * kv_tokens / batch) - size.step_tokens - BLOCK
    long = min(1024, room)
    return [short, long] if long >= 4 * short else [short]


def held_out(requests: int, mean: float, seed: int) -> list[Asked]:
    """Lengths with the tail of R1's, every prompt another one of 16 to 128 tokens."""
    draw = random.Random(seed)
    lengths = Lengths(mean=mean, cap=min(round(5 * mean), LONGEST), sibling_correlation=0.0, seed=seed)
    return [Asked(f"{seed}-{n}", draw.randint(16, 128), lengths.tokens(f"{n}", 0)) for n in range(requests)]


async def _compared(target: Target, fitted: Fit, workload: Sequence[Asked], in_flight: int) -> dict[str, Any]:
    _say(f"{len(workload)} requests, {sum(asked.tokens for asked in workload)} tokens, {in_flight} in flight")
    real = await measure_workload(target, workload, in_flight)
    model = run_closed_loop(fitted.profile, workload, in_flight, fitted.request_s)
    return {"requests": len(workload), "real": said(real), "engine": said(model), "off": off(real, model)}


def said(ran: Ran) -> dict[str, float]:
    """The figures of a run."""
    return {
        "seconds": ran.seconds,
        "tokens_per_s": ran.tokens_per_s,
        "mean_running": ran.mean_running,
        "preemptions": ran.preemptions,
    }


def off(real: Ran, model: Ran) -> dict[str, float]:
    """Each figure of the model over the real one, less 1; preemptions only where there were any."""
    mine, theirs = said(model), said(real)
    return {name: mine[name] / theirs[name] - 1.0 for name in mine if theirs[name]}


async def _said(target: Target, batch: int, prompt_tokens: int, tokens: int) -> Step:
    step = await measure_steps(target, batch, prompt_tokens, tokens)
    _say(f"batch {batch}, {step.live_tokens:.0f} live tokens each: {step.seconds * 1e3:.1f} ms a step")
    return step


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Calibrate, print the report."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a rough one")
    parser.add_argument("--cores", help="of the server, such as 0,1; default: all")
    parser.add_argument("--log", type=Path, help="what the server prints")
    options = parser.parse_args(argv)
    cores = tuple(map(int, options.cores.split(","))) if options.cores else None
    report = asyncio.run(measure(SHORT if options.short else Size(), cores, options.log))
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
