"""How good is this model? Each benchmark is a job, so that what was sampled is never sampled again; its published rows
are read back and counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from gen_service.evaluation.evaluation_spec import EvaluationSpec, IntervalSettings
from gen_service.evaluation.overlap import Overlap, OverlapFinder
from gen_service.evaluation.problems import Problems, read_problems, training_prompts
from gen_service.evaluation.scoring import Score, ScoredRow, Tally, average, score, tally
from gen_service.generation.pool import Stop
from gen_service.jobs.job import JobSpec
from gen_service.jobs.runner import RunningJob, generate
from gen_service.settings import OutputSettings
from gen_service.storage.traces import read_batches

_COLUMNS = ("prompt_id", "sample_index", "verdict", "finish_reason", "completion_tokens")
_FIVE = ("aime_2024", "math_500", "amc_2023", "minerva", "olympiad_bench")


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """What came of one benchmark.

    Attributes:
        problems: what was asked.
        tally: its rows, counted.
        score: over all problems that count.
        overlaps: problems that overlap with training prompts, by prompt id; None when there was nothing to compare.
        clean: the score without them; None when there was nothing to compare.
        folder: the job's, with the traces.
    """

    problems: Problems
    tally: Tally
    score: Score
    overlaps: dict[str, Overlap] | None
    clean: Score | None
    folder: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came of an evaluation.

    Attributes:
        spec: what was asked for.
        model: the model as its rows name it.
        verifier: the identity of the verifier that judged.
        results: one for each benchmark that is done, in the spec's order.
        complete: whether all are; False after a stop.
        training_compared: training prompts that problems were looked for in.
    """

    spec: EvaluationSpec
    model: str
    verifier: str
    results: list[BenchmarkResult] = field(default_factory=list)
    complete: bool = True
    training_compared: int = 0

    @property
    def average(self) -> tuple[float, tuple[float, float]] | None:
        """The mean of the five benchmarks' pass@1 and its interval, 0..1; None unless all five were measured."""
        by_name = {result.problems.name: result.tally.counts for result in self.results}
        if not by_name.keys() >= set(_FIVE):
            return None
        return average([by_name[name] for name in _FIVE], self.spec.interval)


def _nothing(_: object) -> None:
    return


async def evaluate(
    spec: EvaluationSpec,
    *,
    stop: Stop | None = None,
    on_notice: Callable[[str], None] = _nothing,
    on_start: Callable[[RunningJob], None] = _nothing,
) -> Evaluation:
    """Measure a model on every benchmark of the spec, one after another. The same call continues a stopped one.

    All problems and training prompts are read before a server is asked anything.

    Args:
        stop: asks it to end; finished samples are kept, and the benchmark under way is not in the results.
        on_notice: told in words which benchmark begins, of servers and disks, and of problems that are not as many as
            expected.
        on_start: given a look into each benchmark's job before it starts.

    Raises:
        SpecError: something in the spec cannot be done.
        StorageError: another process writes the evaluation, its folder holds one with another spec, or is damaged.
    """
    stop = stop or Stop()
    asked = [await asyncio.to_thread(read_problems, spec, chosen) for chosen in spec.benchmarks]
    for problems in asked:
        _tell(problems, on_notice)
    overlaps, compared = await asyncio.to_thread(_find_overlaps, spec, asked)
    results: list[BenchmarkResult] = []
    for problems in asked:
        on_notice(f"{problems.title}: {len(problems.texts):,} problems, {problems.samples} samples each")
        job = job_spec(spec, problems)
        report = await generate(job, stop=stop, on_notice=on_notice, on_start=on_start)
        if not report.complete:
            break
        counted = await asyncio.to_thread(count_rows, report.folder, problems)
        results.append(_result(problems, counted, overlaps.get(problems.name), spec.interval, report.folder))
    model, verifier = await asyncio.to_thread(_names, results)
    complete = len(results) == len(asked)
    return Evaluation(spec, model or spec.endpoints.model or "", verifier, results, complete, compared)


def job_spec(spec: EvaluationSpec, problems: Problems) -> JobSpec:
    """The job of one benchmark: `<output>/<name>/<name>-<benchmark>`."""
    return JobSpec(
        name=f"{spec.name}-{problems.name}",
        prompts=problems.settings,
        samples=problems.samples,
        endpoints=spec.endpoints,
        sampling=spec.sampling,
        pool=spec.pool,
        verification=spec.verification,
        output=OutputSettings(path=f"{spec.output.rstrip('/')}/{spec.name}"),
    )


def count_rows(folder: str, problems: Problems) -> Tally:
    """Count the published rows of a benchmark's job.

    Raises:
        SpecError: there is no job at `folder`.
        StorageError: a published file is missing or damaged.
    """
    return tally(list(problems.texts), _rows(folder), problems.samples)


def _tell(problems: Problems, on_notice: Callable[[str], None]) -> None:
    there = len(problems.texts)
    if problems.expected is not None and there != problems.expected:
        on_notice(f"{problems.title}: {there} problems, where the benchmark has {problems.expected}")
    if problems.rejected:
        on_notice(f"{problems.title}: {problems.rejected} rows cannot be used; the first: {problems.first_rejected}")


def _find_overlaps(spec: EvaluationSpec, asked: list[Problems]) -> tuple[dict[str, dict[str, Overlap]], int]:
    """By benchmark, then by prompt id; empty when there are no training prompts."""
    if not spec.overlap.training:
        return {}, 0
    texts = {f"{problems.name}\n{key}": text for problems in asked for key, text in problems.texts.items()}
    finder = OverlapFinder(texts, spec.overlap.words, spec.overlap.common)
    finder.show_all(training_prompts(spec.overlap))
    found: dict[str, dict[str, Overlap]] = {problems.name: {} for problems in asked}
    for key, overlap in finder.overlaps().items():
        name, _, prompt_id = key.partition("\n")
        found[name][prompt_id] = overlap
    return found, finder.compared


def _result(
    problems: Problems, counted: Tally, overlaps: dict[str, Overlap] | None, interval: IntervalSettings, folder: str
) -> BenchmarkResult:
    clean = None
    if overlaps is not None:
        unseen = {key: pair for key, pair in counted.counts.items() if key not in overlaps}
        clean = score(unseen, problems.samples, interval)
    return BenchmarkResult(
        problems, counted, score(counted.counts, problems.samples, interval), overlaps, clean, folder
    )


def _rows(folder: str) -> Iterator[ScoredRow]:
    for batch in read_batches(folder, _COLUMNS):
        columns = batch.to_pydict()
        for values in zip(*(columns[name] for name in _COLUMNS), strict=True):
            yield ScoredRow(*values)


def _names(results: list[BenchmarkResult]) -> tuple[str, str]:
    """The model and the verifier that the rows name; "" where no row names one."""
    model = verifier = ""
    for result in results:
        for batch in read_batches(result.folder, ["model", "verifier"]):
            model = model or next(filter(None, batch.column("model").to_pylist()), "")
            verifier = verifier or next(filter(None, batch.column("verifier").to_pylist()), "")
            if model and verifier:
                return model, verifier
    return model, verifier
