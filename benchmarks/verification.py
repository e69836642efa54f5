"""Is the verifier right, quick and steady? Beside plain math-verify, on the same pairs, in the same run.

cases: labelled pairs. load: the same verdicts while every core is kept busy. throughput: CPU time on a realistic mix.
golds: every gold answer against itself. slow: a job whose verifier is slower than its servers. Each exits with 1 when
its promise does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

from benchmarks import verification_golds, verification_load, verification_slow, verification_throughput
from benchmarks.figures import Figure, Target, counted, show
from benchmarks.verification_cases import (
    COMMITTED,
    Judged,
    Judgement,
    evenly,
    joined,
    read_cases,
    show_kinds,
    show_mislabelled,
    show_misses,
)
from benchmarks.verification_judges import judged_by_math_verify, judged_in_turn
from gen_service.settings import VerificationSettings

NAME = "verification"
# Misses of files named so are listed only when the file is given, so that nobody tunes a verifier to it by accident.
HELD_OUT = "held_out"
RIGHT = Target(at_least=97)
FALSE_POSITIVES = Target(at_most=2)


@dataclass(frozen=True, slots=True)
class Size:
    """How much of each part is run.

    Attributes:
        cases: at most so many of each file's labelled cases, evenly spread; None for all.
        pairs, repeats: of the throughput mix; `samples` a prompt, one mix for each number.
        few, many: prompts of the jobs with a slow verifier, which takes `check_s` CPU seconds for each.
    """

    cases: int | None
    pairs: int
    repeats: int
    samples: tuple[int, ...]
    few: int
    many: int
    check_s: float


SHORT = Size(100, 200, 1, (), 200, 800, 0.004)
FULL = Size(None, 1_400, 3, (4, 8), 1_000, 6_000, 0.02)


def committed() -> list[Path]:
    """The labelled cases in the repository."""
    return sorted(COMMITTED.glob("*.jsonl"))


def judge_files(files: Sequence[Path], at_most: int | None = None) -> list[Judged]:
    """Both sides on every case of every file, or on `at_most` of each, evenly spread: ours first, then math-verify."""
    chosen = [evenly(read_cases(path), at_most) for path in files]
    cases = [case for some in chosen for case in some]
    ours = asyncio.run(judged_in_turn(cases, VerificationSettings()))
    plain = judged_by_math_verify(cases)
    ends = list(itertools.accumulate(map(len, chosen), initial=0))
    return [
        Judged(path.stem, cases[start:end], ours[start:end], plain[start:end])
        for path, start, end in zip(files, ends, ends[1:], strict=False)
    ]


def figures_of(files: Sequence[Judged]) -> list[Figure]:
    """How right both are on each file, and what an item costs over all."""
    figures = [figure for file in files for figure in _shares(file)]
    whole = joined(files)
    costs = zip(("median", "99th percentile"), percentiles(whole.ours), percentiles(whole.plain), strict=True)
    return figures + [
        counted(NAME, f"CPU per labelled pair, {name}", "ms", [one], against=f"math-verify: {other:.3g} ms")
        for name, one, other in costs
    ]


def _shares(file: Judged) -> list[Figure]:
    ours, plain = file.tallies()
    right, wrong = f"{ours.cases} labelled pairs: right", f"{ours.different} labelled different: called correct"
    shares = (
        (right, ours.right_percent, plain.right_percent, RIGHT),
        (wrong, ours.false_positive_percent, plain.false_positive_percent, FALSE_POSITIVES),
    )
    return [
        counted(NAME, f"{file.name}, {name}", "%", [one], target, f"math-verify: {other:.1f} %")
        for name, one, other, target in shares
    ]


def percentiles(judgements: Sequence[Judgement]) -> tuple[float, float]:
    """Median and 99th percentile of the CPU milliseconds of the items where they are known."""
    known = [one.cpu_ms for one in judgements if one.cpu_ms is not None]
    if len(known) < 2:
        return (known[0], known[0]) if known else (0.0, 0.0)
    cuts = quantiles(known, n=100, method="inclusive")
    return cuts[49], cuts[98]


def measure(size: Size, problems: Path | None = None) -> list[Figure]:
    """All of it, for the table of all benchmarks.

    Args:
        problems: a folder of problem sets for the throughput mix; None for the small built-in one.
    """
    figures: list[Figure] = []
    if files := committed():
        figures += figures_of(judge_files(files, size.cases))
        figures += verification_load.measure(files, size.cases)
    figures += verification_throughput.measure(problems, size.pairs, size.repeats, size.samples).figures
    return figures + verification_slow.measure(size.few, size.many, size.check_s)


def main(argv: Sequence[str] | None = None) -> None:
    """Run one sub-command."""
    options = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], bool] = options.run
    raise SystemExit(not run(options))


def _cases(options: argparse.Namespace) -> bool:
    files: list[Path] = options.files or committed()
    if not files:
        print(f"no file given, and none in {COMMITTED}")
        return False
    judged = judge_files(files, options.at_most)
    whole = joined(judged)
    for file in judged if len(judged) == 1 else [*judged, whole]:
        show_kinds(file)
    for file in judged if options.misses else []:
        if options.files or not file.name.startswith(HELD_OUT):
            show_misses(file)
    if options.mislabelled:
        show_mislabelled(whole, options.mislabelled)
    return _shown(figures_of(judged))


def _load(options: argparse.Namespace) -> bool:
    return _shown(verification_load.measure(options.files or committed(), spinners=options.spinners))


def _throughput(options: argparse.Namespace) -> bool:
    found = verification_throughput.measure(
        options.problems, options.pairs, options.repeats, options.samples, options.profile
    )
    found.show()
    return _shown(found.figures)


def _golds(options: argparse.Namespace) -> bool:
    return verification_golds.run(options.problems)


def _slow(options: argparse.Namespace) -> bool:
    return _shown(verification_slow.measure(options.few, options.many, options.check_s))


def _shown(figures: Sequence[Figure]) -> bool:
    show(figures)
    return all(figure.holds is not False for figure in figures)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="cases | load | throughput | golds | slow")

    def command(name: str, run: Callable[[argparse.Namespace], bool], words: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=words, description=words)
        made.set_defaults(run=run)
        return made

    cases = command("cases", _cases, "labelled pairs, by kind, beside math-verify")
    cases.add_argument("files", nargs="*", type=Path, help="JSONL with gold, pred, expected; default: the committed")
    cases.add_argument("--at-most", type=int, metavar="N", help="of each file, evenly spread")
    cases.add_argument(
        "--misses", action="store_true", help="list what ours has wrong, and why; of the held-out file only if named"
    )
    cases.add_argument("--mislabelled", type=Path, metavar="FILE", help="JSONL with gold, pred, mathematics to list")
    load = command("load", _load, "verdicts while all cores are kept busy, against those of an idle machine")
    load.add_argument("files", nargs="*", type=Path)
    load.add_argument("--spinners", type=int, help="busy processes; default twice the cores")
    throughput = command("throughput", _throughput, "CPU time per item on a realistic mix, against inline math-verify")
    throughput.add_argument("--problems", type=Path, metavar="DIR", help="JSONL problem sets; default: a small one")
    throughput.add_argument("--pairs", type=int, default=FULL.pairs)
    throughput.add_argument("--repeats", type=int, default=FULL.repeats)
    throughput.add_argument("--samples", type=int, nargs="*", default=FULL.samples, help="a prompt; one mix for each")
    throughput.add_argument("--profile", metavar="FILE", help="write a cProfile of grading the mix in one process")
    golds = command("golds", _golds, "every gold answer graded against itself")
    golds.add_argument("--problems", type=Path, metavar="DIR", help="JSONL problem sets; default: a small one")
    slow = command("slow", _slow, "memory and reading of a job whose verifier is slower than its servers")
    slow.add_argument("--few", type=int, default=FULL.few)
    slow.add_argument("--many", type=int, default=FULL.many)
    slow.add_argument("--check-s", type=float, default=FULL.check_s, help="CPU seconds of one check")
    return parser


if __name__ == "__main__":
    main()
