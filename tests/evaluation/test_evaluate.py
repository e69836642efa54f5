"""Evaluations on a simulated server: counted as the published rows say, continued, stored and shown."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from gen_service.endpoints.simulated import Faults, Script, SimulatedServer, SimulationSettings
from gen_service.errors import SpecError
from gen_service.evaluation.benchmarks import BENCHMARKS
from gen_service.evaluation.evaluate import Evaluation, evaluate
from gen_service.evaluation.evaluation_spec import EvaluationSpec, load_evaluation_spec, make_evaluation_spec
from gen_service.evaluation.stored import as_tree, load, save
from gen_service.generation.pool import Stop
from gen_service.storage.traces import read_traces

REAL_DATA = os.environ.get("GEN_SERVICE_BENCHMARK_DATA")


def spec(url: str, data: Path | str, output: Path, **more: Any) -> EvaluationSpec:
    document: dict[str, Any] = {
        "name": "model-a",
        "endpoints": url,
        "data": str(data),
        "samples": 4,
        "sampling": {"max_tokens": 500},
        "verification": {"workers": 1},
        "interval": {"resamples": 200},
        "output": str(output),
    }
    return make_evaluation_spec(document | more)


def right(p_right: float, **faults: Any) -> SimulationSettings:
    return SimulationSettings(script=Script(p_right=p_right), faults=Faults(**faults))


async def test_all_five_are_counted_as_their_rows_say_and_never_asked_twice(data: Path, tmp_path: Path) -> None:
    notices: list[str] = []
    async with SimulatedServer(right(0.5)) as server:
        asked = spec(server.url, data, tmp_path)
        first = await evaluate(asked, on_notice=notices.append)
        requests = len(server.log)
        again = await evaluate(asked)
        assert len(server.log) == requests
    assert [result.problems.name for result in first.results] == list(BENCHMARKS)
    assert (first.complete, first.model, first.verifier.split("-")[0]) == (True, "simulated", "math")
    assert "AIME 2024: 3 problems, where the benchmark has 30" in notices
    assert any(re.fullmatch(r"AIME 2024: 3 problems, \d+ samples each", notice) for notice in notices)
    shares = []
    for result in first.results:
        rows = list(read_traces(result.folder))
        assert (len(rows), result.tally.missing) == (12, 0)
        by_problem = [
            [row["verdict"] == "correct" for row in rows if row["prompt_id"] == key] for key in result.problems.texts
        ]
        assert [len(solved) for solved in by_problem] == [4, 4, 4]
        exact = sum(sum(solved) / 4 for solved in by_problem) / 3
        assert result.score.pass_at_1 == pytest.approx(exact)
        assert result.score.pass_at[4] == pytest.approx(sum(map(any, by_problem)) / 3)
        assert result.tally.mean_tokens == pytest.approx(sum(row["completion_tokens"] for row in rows) / 12)
        shares.append(exact)
        assert 0 < sum(map(sum, by_problem)) < 12
    assert first.average is not None
    assert first.average[0] == pytest.approx(sum(shares) / 5)
    assert as_tree(again) == as_tree(first)


async def test_an_answer_that_is_always_right_scores_1_on_every_form_of_gold(data: Path, tmp_path: Path) -> None:
    async with SimulatedServer(right(1.0)) as server:
        evaluation = await evaluate(spec(server.url, data, tmp_path, samples=1))
    assert [result.score.pass_at_1 for result in evaluation.results] == [1.0] * 5
    assert evaluation.average == (1.0, (1.0, 1.0))


async def test_fewer_samples_count_the_first_and_more_only_add(data: Path, tmp_path: Path) -> None:
    async with SimulatedServer(right(0.5)) as server:
        await evaluate(spec(server.url, data, tmp_path, benchmarks=["amc_2023"]))
        requests = len(server.log)
        fewer = await evaluate(spec(server.url, data, tmp_path, benchmarks=["amc_2023"], samples=2))
        assert len(server.log) == requests
        more = await evaluate(spec(server.url, data, tmp_path, benchmarks=["amc_2023"], samples=5))
    assert [sum(result.tally.verdicts.values()) for result in (fewer.results[0], more.results[0])] == [6, 15]
    assert len(list(read_traces(more.results[0].folder))) == 15


async def test_rows_without_an_answer_are_counted_shown_and_wrong(data: Path, tmp_path: Path) -> None:
    async with SimulatedServer(right(1.0, refused_marker="is 20 +")) as server:
        evaluation = await evaluate(spec(server.url, data, tmp_path, benchmarks=["math_500"]))
    (result,) = evaluation.results
    assert result.tally.verdicts == {"correct": 8, "error": 4}
    assert (result.score.pass_at_1, result.tally.judged_pass_at_1) == (pytest.approx(2 / 3), 1.0)
    assert evaluation.average is None
    save(evaluation)
    page = (tmp_path / "model-a" / "evaluation.md").read_text()
    assert "correct 8, error 4" in page


async def test_a_problem_whose_gold_cannot_be_read_is_solved_by_nobody(data: Path, tmp_path: Path) -> None:
    path = data / "test_amc.jsonl"
    path.write_text(path.read_text() + json.dumps({"problem": "What is 2 + 9?", "answer": r"\frac{1}{"}) + "\n")
    async with SimulatedServer(right(1.0)) as server:
        evaluation = await evaluate(spec(server.url, data, tmp_path, benchmarks=["amc_2023"]))
    (result,) = evaluation.results
    assert result.tally.verdicts == {"correct": 12, "ungradable": 4}
    assert (result.score.problems, result.score.pass_at_1, result.tally.judged_pass_at_1) == (4, 0.75, 1.0)
    save(evaluation)
    page = (tmp_path / "model-a" / "evaluation.md").read_text()
    assert "| correct 12, ungradable 4 |" in page
    assert re.search(r"\| 75\.0 \([0-9.]+-100\.0; judged 100\.0\) \|", page)


async def test_a_stopped_evaluation_goes_on(data: Path, tmp_path: Path) -> None:
    async with SimulatedServer(right(1.0)) as server:
        asked = spec(server.url, data, tmp_path)
        stop = Stop()
        started: list[str] = []

        def stop_at_the_third(running: Any) -> None:
            started.append(running.spec.job_id)
            if len(started) == 3:
                stop.ask()

        halted = await evaluate(asked, stop=stop, on_start=stop_at_the_third)
        assert (halted.complete, len(halted.results)) == (False, 2)
        whole = await evaluate(asked)
    assert started == ["model-a-aime_2024", "model-a-math_500", "model-a-amc_2023"]
    assert (whole.complete, len(whole.results)) == (True, 5)


async def with_training(url: str, data: Path, tmp_path: Path, training: list[str], **more: Any) -> Evaluation:
    overlap = {"training": training, "words": 4, "columns": {"prompt": "problem"}} | more
    return await evaluate(spec(url, data, tmp_path, benchmarks=["amc_2023", "math_500"], overlap=overlap))


async def test_what_was_seen_in_training_is_shown_and_left_out_of_the_clean_score(data: Path, tmp_path: Path) -> None:
    training = tmp_path / "train.jsonl"
    training.write_text('{"problem": "Tell me: what is 20 + 22?"}\n{"problem": "Nothing alike"}\n')
    async with SimulatedServer(right(1.0, refused_marker="is 20 +")) as server:
        evaluation = await with_training(server.url, data, tmp_path, [str(training)])
    amc = evaluation.results[0]
    assert evaluation.training_compared == 2
    assert amc.overlaps is not None
    assert amc.clean is not None
    assert [(one.whole, one.example) for one in amc.overlaps.values()] == [(True, f"{training} row 1")]
    assert (amc.score.pass_at_1, amc.clean.problems, amc.clean.pass_at_1) == (pytest.approx(2 / 3), 2, 1.0)
    tree = as_tree(evaluation)
    assert json.loads(json.dumps(tree))["benchmarks"][0]["clean"]["pass_at_1"] == 1.0


async def test_training_prompts_may_be_a_jobs(data: Path, tmp_path: Path) -> None:
    async with SimulatedServer(right(1.0)) as server:
        first = await evaluate(spec(server.url, data, tmp_path, benchmarks=["aime_2024"], samples=1))
        evaluation = await with_training(server.url, data, tmp_path, [first.results[0].folder])
        other = {"columns": {"prompt": "absent"}}
        with pytest.raises(SpecError, match=r"overlap.training: .* prompts in the column 'absent'"):
            await with_training(server.url, data, tmp_path, [str(data / "test_amc.jsonl")], **other)
    assert evaluation.training_compared == 3
    assert [len(result.overlaps or ()) for result in evaluation.results] == [3, 3]


async def test_what_is_stored_is_read_back(data: Path, tmp_path: Path) -> None:
    async with SimulatedServer(right(0.5)) as server:
        evaluation = await evaluate(spec(server.url, data, tmp_path, samples=2))
    folder = save(evaluation)
    assert load(folder) == json.loads(json.dumps(as_tree(evaluation)))
    page = (Path(folder) / "evaluation.md").read_text()
    assert "| Model | AIME 2024 | MATH 500 | AMC 2023 | Minerva | Olympiad | Avg. | Source |" in page
    line = "| DeepScaleR-1.5B-Preview | 43.1 | 87.8 | 73.6 | 30.2 | 50.0 | 57.0 | reported by DeepScaleR |"
    assert line in page
    assert "| simulated (model-a) |" in page
    with pytest.raises(SpecError, match=r"one that holds evaluation\.json"):
        load(str(tmp_path))
    stored = Path(folder) / "evaluation.json"
    stored.write_text(stored.read_text().replace('"version": 1', '"version": 9', 1))
    with pytest.raises(SpecError, match="version 1, not 9"):
        load(folder)


def test_a_spec_file_with_flags_over_it(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.yaml"
    path.write_text("name: a\nendpoints: http://a:1\nbenchmarks: [minerva]\nsampling: {temperature: 1.0}\n")
    read = load_evaluation_spec(path, {"samples": 2, "endpoints": {"model": "m"}, "sampling": {"max_tokens": 9}})
    assert (read.samples, read.endpoints.model, read.endpoints.urls) == (2, "m", ("http://a:1",))
    assert (read.sampling.temperature, read.sampling.max_tokens, read.sampling.top_p) == (1.0, 9, 0.95)
    assert read.benchmarks == ("minerva",)
    path.write_text("just words")
    with pytest.raises(SpecError, match="at least `name` and `endpoints`"):
        load_evaluation_spec(path)


@pytest.mark.skipif(REAL_DATA is None, reason="GEN_SERVICE_BENCHMARK_DATA names no folder of the benchmarks' files")
async def test_the_real_files_run_through(tmp_path: Path) -> None:
    assert REAL_DATA is not None
    async with SimulatedServer(right(1.0)) as server:
        evaluation = await evaluate(spec(server.url, REAL_DATA, tmp_path, samples=1))
    counts = {result.problems.name: len(result.problems.texts) for result in evaluation.results}
    assert counts == {name: benchmark.problems for name, benchmark in BENCHMARKS.items()}
    for result in evaluation.results:
        assert (result.problems.rejected, result.tally.missing) == (0, 0)
        assert sum(result.tally.verdicts.values()) == result.problems.expected
        assert result.score.pass_at_1 is not None
        assert result.score.pass_at_1 < 0.1
