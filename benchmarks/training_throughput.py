"""SFT of a model of Qwen2.5-1.5B's shape, random weights: tokens/s and share of the chip's peak, beside TRL plainly.

Ours is the product's own path: an `SftSpec` with packing, example files, `sft_arguments`, `sft_trainer`. The other is
`SFTTrainer(model, SFTConfig(max_length=context), dataset)` with TRL's defaults: 8 traces a batch padded to its longest,
sdpa attention, gradient checkpointing, float32 weights with bfloat16 arithmetic, fused AdamW, a head that never makes
all logits. Both learn from the same made-up traces (lognormal lengths, fixed seed, loss on completions), about the same
tokens a step. Runs are by turns, each in a process of its own; the first steps of a run are not counted.

Each side takes the first of its settings that fits into memory, fastest first: TRL 8, 4, 2, 1 traces a batch; ours rows
of `--row-tokens` together, fewer, then again with gradient checkpointing. A row says which, and where none fits that.

A token is one that is not padding. The share of the peak counts what the model needs (training_throughput_work).
Prints a table, and one JSON report on standard output. Needs a GPU, `g++` for torch's compiler, and of packages torch,
transformers, trl, datasets, accelerate, peft, pyarrow, fsspec, pydantic, orjson, zstandard, pyyaml, jinja2, psutil,
rich and what those need: the `train` extra has all. No hub. The model takes 3 GB of disk. On a CPU it is seen to run:
`python -m benchmarks.training_throughput --shape tiny --context 128,256 --tokens 1024 --peak-tflops 0.1`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.children import run_child
from benchmarks.training_throughput_work import SHAPES, Work, needed_flops, peak_tflops

NAME: Final = "training_throughput"
SEED: Final = 20_240_607
SIDES: Final = ("ours", "plain")
PLAIN_BATCHES: Final = (8, 4, 2, 1)  # from TRL's default downwards

Child = Callable[[str, dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Size:
    """What is run.

    Attributes:
        context: tokens of a row, or of the longest trace.
        tokens: that a step learns from, about.
        row_tokens: that a device of ours holds at once, at most, in rows of the context.
        warm_up, steps: of a run, not counted and counted.
        repeats: runs of each side.
        attention: of ours; None for the best that is there.
        compile: whether ours is compiled.
        peak_tflops: of the device; None by its name.
        threads: of torch on a CPU; None for its own.
    """

    shape: str = "qwen2.5-1.5b"
    context: tuple[int, ...] = (4096, 16_384)
    tokens: int = 65_536
    row_tokens: int = 16_384
    warm_up: int = 2
    steps: int = 5
    repeats: int = 3
    attention: str | None = None
    compile: bool = False
    peak_tflops: float | None = None
    threads: int | None = None


FULL: Final = Size()


@dataclass(frozen=True, slots=True)
class Setting:
    """What is asked of a side: how many rows or traces are held at once, and whether activations are computed twice."""

    batch: int
    checkpointing: bool

    def words(self) -> str:
        """For people."""
        return f"batch {self.batch}, {'' if self.checkpointing else 'no '}checkpointing"


@dataclass(slots=True)
class Runs:
    """The runs of one side at one context.

    Attributes:
        settings: that are left to try; the first is used.
        too_large: those that did not fit.
        answers: of the runs that did.
    """

    side: str
    context: int
    settings: list[Setting]
    too_large: list[Setting] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)

    def once_more(self, run: Callable[[Setting], dict[str, Any]]) -> None:
        """One run that fits, if there is one."""
        while self.settings:
            answer = run(self.settings[0])
            if "out_of_memory" not in answer:
                self.answers.append(answer)
                return
            self.too_large.append(self.settings.pop(0))
            self.answers.clear()  # those of a setting that did not fit always


def settings_of(side: str, size: Size, context: int) -> Iterator[Setting]:
    """Settings of a side, fastest first."""
    if side == "plain":
        yield from (Setting(batch, checkpointing=True) for batch in PLAIN_BATCHES)
        return
    most = max(1, min(size.row_tokens, size.tokens) // context)
    for checkpointing in (False, True):
        yield from (Setting(most >> halved, checkpointing) for halved in range(most.bit_length()))


def measure(size: Size, child: Child = run_child) -> dict[str, Any]:
    """Both sides by turns at each context: the report.

    Raises:
        ValueError: the device's peak is neither known nor given.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        common = {
            "model": str(folder / "model"),
            "folder": name,
            "seed": SEED,
            **{what: getattr(size, what) for what in ("shape", "tokens", "warm_up", "steps", "compile", "threads")},
        }
        machine = child("training_throughput_side", common | {"side": "prepare"})
        peak = size.peak_tflops or peak_tflops(machine["device"])
        if peak is None:
            raise ValueError(f"the peak of {machine['device']} is not known: give --peak-tflops")
        asked = common | {"attention": size.attention or _attention(cuda=machine["cuda"])}
        every = [
            Runs(side, context, list(settings_of(side, size, context))) for context in size.context for side in SIDES
        ]
        for repeat in range(size.repeats):
            for runs in every:
                print(f"{NAME}: {runs.context:,} {runs.side} {repeat + 1}/{size.repeats}", file=sys.stderr, flush=True)
                runs.once_more(lambda setting, runs=runs: _run(asked, runs, setting, child))  # type: ignore[misc]
    return report(size, machine | {"peak_tflops": peak}, every)


def _attention(*, cuda: bool) -> str:
    """What deploy/training/README.md says is best without packages of its own; flash-attn is asked for by name."""
    return "flex_attention" if cuda else "sdpa"


def _run(common: dict[str, Any], runs: Runs, setting: Setting, child: Child) -> dict[str, Any]:
    return child("training_throughput_side", common | {"side": runs.side, "context": runs.context} | asdict(setting))


def report(size: Size, machine: dict[str, Any], every: Sequence[Runs]) -> dict[str, Any]:
    """What is printed: a row for each side and context, medians over the repeats' own medians of steps."""
    return {
        "benchmark": NAME,
        "size": asdict(size),
        "machine": machine,
        "rows": [row_of(runs, size, machine["peak_tflops"]) for runs in every],
    }


def row_of(runs: Runs, size: Size, peak: float) -> dict[str, Any]:
    """One row: what was run, and its figures, or that nothing fitted."""
    too_large = [setting.words() for setting in runs.too_large]
    row: dict[str, Any] = {"side": runs.side, "context": runs.context, "did_not_fit": too_large}
    if not runs.answers:
        return row | {"fits": False}
    works = [[Work(**one) for one in answer["work"]] for answer in runs.answers]
    steps = [step for run in works for step in run]
    shape = SHAPES[size.shape]
    tokens = [median(step.tokens_per_s() for step in run) for run in works]
    shares = [median(needed_flops(shape, step) / step.seconds for step in run) / (peak * 1e12) for run in works]
    return row | {
        "fits": True,
        "setting": runs.settings[0].words() + (", compiled" if size.compile and runs.side == "ours" else ""),
        "attention": runs.answers[0]["attention"],
        "accumulate": runs.answers[0]["accumulate"],
        "tokens_per_s": median(tokens),
        "tokens_per_s_of_repeats": tokens,
        "share_of_peak": median(shares),
        "tokens_a_step": sum(step.tokens for step in steps) / len(steps),
        "padding_share": 1 - sum(step.tokens for step in steps) / sum(step.places for step in steps),
        "peak_memory_gb": max(answer["peak_bytes"] for answer in runs.answers) / 1e9,
    }


def show(found: dict[str, Any], console: Console) -> None:
    """Print one table."""
    peak = found["machine"]["peak_tflops"]
    title = f"SFT of {found['size']['shape']} on {found['machine']['device']}, peak {peak:g} TFLOP/s"
    table = Table(title=title, title_justify="left")
    for name in ("context", "side", "tokens/s", "of the peak", "padding", "memory, GB", "tokens a step"):
        table.add_column(name, justify="left" if name == "side" else "right", no_wrap=True)
    table.add_column("setting")
    for row in found["rows"]:
        table.add_row(f"{row['context']:,}", row["side"], *_cells(row))
    console.print(table)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    if not row["fits"]:
        return ("does not fit", "", "", "", "", f"tried {'; '.join(row['did_not_fit'])}")
    setting = f"{row['attention']}, {row['setting']}, accumulate {row['accumulate']}"
    return (
        f"{row['tokens_per_s']:,.0f}",
        f"{row['share_of_peak']:.1%}",
        f"{row['padding_share']:.1%}",
        f"{row['peak_memory_gb']:.1f}",
        f"{row['tokens_a_step']:,.0f}",
        setting + (f" (did not fit: {'; '.join(row['did_not_fit'])})" if row["did_not_fit"] else ""),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run, print the table and the report."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default=FULL.shape)
    parser.add_argument("--context", type=_numbers, default=FULL.context, help="tokens, such as 4096,16384")
    for name in ("tokens", "row_tokens", "warm_up", "steps", "repeats"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(FULL, name))
    parser.add_argument("--attention", help="of ours; else flex_attention on a GPU, sdpa on a CPU")
    parser.add_argument("--compile", action="store_true", help="ours is compiled by torch")
    parser.add_argument("--peak-tflops", type=float, help="of the device in bfloat16; known for A100, H100, H200")
    parser.add_argument("--threads", type=int, help="of torch on a CPU")
    found = measure(Size(**vars(parser.parse_args(argv))))
    show(found, Console(width=160, stderr=True))
    print(json.dumps(found, indent=2))


def _numbers(words: str) -> tuple[int, ...]:
    return tuple(int(word) for word in words.split(","))


if __name__ == "__main__":
    main()
