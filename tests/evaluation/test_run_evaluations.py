"""The checkpoints of a training run, evaluated one after another on simulated servers."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gen_service.endpoints.simulated import Script, SimulatedServer, SimulationSettings
from gen_service.endpoints.simulated.weights import weights_in
from gen_service.errors import ServerFailed, SpecError
from gen_service.evaluation import stored
from gen_service.evaluation.curves import read_curves
from gen_service.evaluation.evaluation_spec import EvaluationSpec, make_evaluation_spec
from gen_service.evaluation.run_evaluations import checkpoints_of, evaluate_run, evaluations_of
from gen_service.generation.pool import Stop
from gen_service.jobs.runner import RunningJob
from gen_service.storage.checkpoints import mark_whole

Servers = tuple[SimulatedServer, SimulatedServer]


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    """Two that take weights."""
    settings = SimulationSettings(script=Script(p_right=0.5), dev_mode=True)
    async with SimulatedServer(settings) as first, SimulatedServer(settings) as second:
        yield first, second


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that is under way, with checkpoints of the steps 10 and 20, and a half-written one."""
    folder = tmp_path / "runs" / "grpo"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"step": 10, "reward": 0.5}\n')
    finish(folder, None)
    for step in (10, 20):
        checkpoint(folder, step)
    (folder / "checkpoints" / "checkpoint-30").mkdir()
    return folder


def finish(run: Path, step: int | None) -> None:
    """Say that a run has ended with a step, and what it made; or that it goes on."""
    (run / "run.json").write_text(json.dumps({"finished": step}))
    if step is not None:
        weights(run / "model", f"result {step}")


def checkpoint(run: Path, step: int) -> Path:
    folder = weights(run / "checkpoints" / f"checkpoint-{step}", f"step {step}")
    mark_whole(folder)
    return folder


def weights(folder: Path, content: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text(content)
    return folder


def spec(servers: Servers, data: Path, **more: Any) -> EvaluationSpec:
    document: dict[str, Any] = {
        "name": "of-no-use",
        "endpoints": {"urls": [server.url for server in servers]},
        "benchmarks": ["aime_2024", "amc_2023"],
        "data": str(data),
        "samples": 2,
        "sampling": {"max_tokens": 500},
        "verification": {"workers": 1},
        "interval": {"resamples": 200},
    }
    return make_evaluation_spec(document | more)


def numbers(servers: Servers) -> list[int]:
    """The weights that the servers have now."""
    return [server.weights.number for server in servers]


async def all_of(spec: EvaluationSpec, run: Path, **more: Any) -> dict[int, dict[str, Any]]:
    return {step: tree async for step, tree in evaluate_run(spec, run, look_s=0.0, **more)}


async def test_each_checkpoint_is_asked_with_its_own_weights_and_once(servers: Servers, run: Path, data: Path) -> None:
    had: dict[str, list[int]] = {}

    def look(job: RunningJob) -> None:
        had[job.spec.job_id] = numbers(servers)

    trees = await all_of(spec(servers, data), run, on_start=look)
    first, second = (weights_in(one.weights) for one in checkpoints_of(run))
    assert had == {
        f"step-{step}-{name}": [number, number]
        for step, number in ((10, first), (20, second))
        for name in ("aime_2024", "amc_2023")
    }
    asked = [len(server.log) for server in servers]
    assert await all_of(spec(servers, data, pool={"in_flight": 3}), run) == trees == evaluations_of(run)
    assert [len(server.log) for server in servers] == asked


async def test_one_that_is_followed_is_evaluated_until_the_training_has_ended(
    servers: Servers, run: Path, data: Path
) -> None:
    evaluated = []
    async for step, _ in evaluate_run(spec(servers, data), run, follow=True, look_s=0.0):
        evaluated.append(step)
        if step == 20:
            (run / "checkpoints" / "checkpoint-30").rmdir()
            checkpoint(run, 30)
        if step == 30:
            checkpoint(run, 35)
            finish(run, 35)
    assert evaluated == [10, 20, 30, 35]
    assert numbers(servers) == [weights_in(run / "model")] * 2


async def test_a_server_that_lost_the_weights_spoils_an_evaluation(servers: Servers, run: Path, data: Path) -> None:
    heard: list[str] = []
    losses = ["step-10", *3 * ["step-20"]]

    def restart(job: RunningJob) -> None:
        if losses and job.spec.job_id == f"{losses[0]}-aime_2024":
            losses.pop(0)
            servers[1].weights.tag = "default"

    with pytest.raises(ServerFailed, match="lost the weights of step 20 3 times"):
        await all_of(spec(servers, data), run, on_start=restart, on_notice=heard.append)
    assert list(evaluations_of(run)) == [10]
    assert f"{servers[1].url} lost the weights of step 10, which is evaluated anew" in heard


async def test_what_is_no_whole_model_is_left_out(servers: Servers, run: Path, data: Path) -> None:
    heard: list[str] = []
    (run / "checkpoints" / "checkpoint-10" / "adapter_config.json").write_text("{}")
    (run / "checkpoints" / "checkpoint-20" / "model.safetensors").unlink()
    assert await all_of(spec(servers, data), run, on_notice=heard.append) == {}
    assert [notice.partition(":")[0] for notice in heard] == [f"step {step} is left out" for step in (10, 20)]


async def test_a_checkpoint_that_the_training_removes_is_left_out(servers: Servers, run: Path, data: Path) -> None:
    heard: list[str] = []

    def remove(job: RunningJob) -> None:
        shutil.rmtree(run / "checkpoints" / "checkpoint-20", ignore_errors=True)

    trees = await all_of(spec(servers, data), run, on_start=remove, on_notice=heard.append)
    assert list(trees) == [10]
    assert heard[-1] == "step 20 is left out: the training has removed its checkpoint"


async def test_a_stop_ends_it_and_the_same_call_goes_on(servers: Servers, run: Path, data: Path) -> None:
    stop = Stop()

    def ask(job: RunningJob) -> None:
        if job.spec.job_id.startswith("step-20"):
            stop.ask()

    assert list(await all_of(spec(servers, data, pool={"grace_s": 0.0}), run, on_start=ask, stop=stop)) == [10]
    assert list(await all_of(spec(servers, data), run)) == [10, 20]


async def test_what_a_server_said_without_the_weights_is_not_kept_by_a_stop(
    servers: Servers, run: Path, data: Path
) -> None:
    stop = Stop()

    def lose_and_ask(job: RunningJob) -> None:
        if job.spec.job_id == "step-20-amc_2023":
            servers[0].weights.tag = "default"
            stop.ask()

    assert list(await all_of(spec(servers, data), run, on_start=lose_and_ask, stop=stop)) == [10]
    assert not (run / "evaluations" / "step-20").exists()
    assert list(await all_of(spec(servers, data), run)) == [10, 20]


async def test_an_evaluation_of_before_there_was_some_field_had_its_default(
    servers: Servers, run: Path, data: Path
) -> None:
    trees = await all_of(spec(servers, data), run)
    for step, tree in trees.items():
        del tree["spec"]["limit"], tree["spec"]["interval"]["confidence"]
        (run / "evaluations" / f"step-{step}" / "evaluation.json").write_text(json.dumps(tree))
    assert await all_of(spec(servers, data), run) == trees


@pytest.mark.parametrize(
    ("changed", "field"),
    [({"samples": 3}, "samples"), ({"benchmarks": ["amc_2023"]}, "benchmarks"), ({"limit": 1}, "limit")],
)
async def test_the_steps_of_a_run_are_evaluated_alike(
    servers: Servers, run: Path, data: Path, changed: dict[str, Any], field: str
) -> None:
    await all_of(spec(servers, data), run)
    with pytest.raises(SpecError, match="or move that folder away") as caught:
        await all_of(spec(servers, data, **changed), run)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("spoil", "field", "words"),
    [
        (lambda run, _: (run / "run.json").unlink(), "run", "one that holds run.json"),
        (lambda _, spec: spec["endpoints"].update(urls=[], file="servers.txt"), "endpoints.urls", "by name"),
    ],
)
async def test_what_cannot_be_done_is_named(
    servers: Servers, run: Path, data: Path, spoil: Callable[[Path, dict[str, Any]], None], field: str, words: str
) -> None:
    document = spec(servers, data).model_dump(mode="json", exclude={"endpoints": {"api_key"}})
    spoil(run, document)
    with pytest.raises(SpecError, match=words) as caught:
        await all_of(make_evaluation_spec(document), run)
    assert caught.value.field == field


async def test_problems_are_read_before_a_server_is_touched(servers: Servers, run: Path, data: Path) -> None:
    (data / "test_amc.jsonl").unlink()
    with pytest.raises(SpecError, match=r"test_amc\.jsonl"):
        await all_of(spec(servers, data), run)
    assert numbers(servers) == [0, 0]


async def test_a_server_that_takes_no_weights_is_named(run: Path, data: Path) -> None:
    async with SimulatedServer() as server:
        with pytest.raises(SpecError, match="VLLM_SERVER_DEV_MODE=1") as caught:
            await all_of(spec((server, server), data), run)
    assert caught.value.field == "endpoints.urls"


async def test_curves_show_what_was_found(servers: Servers, run: Path, data: Path) -> None:
    trees = await all_of(spec(servers, data), run)
    curves = read_curves([str(run)])
    assert [metric for metric, _ in curves.panels] == ["eval/pass_at_1", "eval/mean_tokens"]
    for number, step in enumerate((10, 20)):
        results = trees[step]["benchmarks"]
        assert curves.panels[0][1][0].points[number] == (
            step,
            pytest.approx(sum(one["score"]["pass_at_1"] for one in results) / 2),
        )
        assert curves.panels[1][1][0].points[number] == (
            step,
            pytest.approx(sum(one["mean_tokens"] for one in results) / 2),
        )
    (series,) = read_curves([str(run)], ["eval/amc_2023/pass_at_1"]).panels[0][1]
    amc = [stored.load(str(run / "evaluations" / f"step-{step}"))["benchmarks"][1] for step in (10, 20)]
    assert series.points == tuple(zip((10, 20), (one["score"]["pass_at_1"] for one in amc), strict=True))
