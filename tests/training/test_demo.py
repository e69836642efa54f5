"""The trainer's demo without a server of its own: its problems and specs, its commands, its steps, and its table."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gen_service.endpoints.simulated import Fixed, Script, SimulatedServer, SimulationSettings
from gen_service.endpoints.simulated.weights import weights_in
from gen_service.errors import EndpointError, SpecError, TrainingError
from gen_service.evaluation import stored
from gen_service.generation.pool import Stop
from gen_service.storage.checkpoints import mark_whole
from gen_service.tiny_model import CHECKPOINT
from gen_service.training.demo.commands import Commands, Stopped
from gen_service.training.demo.demo import show
from gen_service.training.demo.outcome import ROWS, Measured, measured, overlap, promises
from gen_service.training.demo.servers import LentServers
from gen_service.training.demo.sizes import (
    MODEL,
    SEEDS,
    DemoTrainSettings,
    Places,
    grpo_document,
    sft_document,
    write_problems,
)
from gen_service.training.demo.steps import TrainerDemo
from gen_service.training.grpo_spec import load_grpo_spec
from gen_service.training.sft_spec import load_sft_spec

SIMULATED = SimulationSettings(model=MODEL, script=Script(length=Fixed(20), p_right=1.0), dev_mode=True)


def small(folder: Path, weaker_at: float = 0.1, taught_at: float = 0.2) -> DemoTrainSettings:
    """The simulated server knows one of the two ways to ask for a sum."""
    return DemoTrainSettings(
        *(folder, 12, 40, 2, 6, weaker_at, taught_at),
        checkpoint_steps=2,
        probed=10,
    )


def checkpoint(folder: Path, weights: str) -> Path:
    """Something that a simulated server takes for weights."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text(weights)
    return folder


class TrainsNothing(Commands):
    """Writes what the training commands would leave, and notes what was asked for."""

    def __init__(self, places: Places, stop: Stop, stop_at: str | None = None) -> None:
        super().__init__(places.logs, lambda words: None, stop)
        self.asked: list[str] = []
        self._places = places
        self._stopping = stop
        self._stop_at = stop_at

    async def module(self, name: str, module: str, *arguments: str) -> None:
        self.asked.append(name)
        checkpoint(self._places.student, name)

    async def verb(self, name: str, *arguments: str) -> None:
        self.asked.append(name)
        if name == self._stop_at:
            self._stopping.ask()
            raise Stopped
        if name == "sft":
            for step in range(2, 42, 2):
                mark_whole(checkpoint(self._places.run(name) / "checkpoints" / f"checkpoint-{step}", f"sft {step}"))
        elif not self._places.model(name).exists():
            checkpoint(self._places.model(name), name)


@asynccontextmanager
async def at_hand(*servers: SimulatedServer) -> AsyncIterator[list[str]]:
    yield [server.url for server in servers]


def numbers(path: Path) -> list[tuple[str, ...]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [tuple(sorted(re.findall(r"\d+", row["prompt"]))) for row in rows]


def test_the_seeds_share_no_problem_and_none_is_learned_from(tmp_path: Path) -> None:
    places = Places(tmp_path)
    write_problems(DemoTrainSettings(tmp_path, problems=400, prompts=500), places)
    held_out = [numbers(places.held_out(seed)) for seed in SEEDS]
    learned = {*numbers(places.teacher_prompts), *numbers(places.grpo_prompts), *numbers(places.probe)}
    assert [len(found) for found in held_out] == [400] * 3
    assert len({one for found in held_out for one in found}) == 1200
    assert not learned & {one for found in held_out for one in found}


def test_the_specs_are_what_the_verbs_take(tmp_path: Path) -> None:
    settings, places = small(tmp_path), Places(tmp_path)
    write_problems(settings, places)
    sft, grpo = sft_document(settings, places), grpo_document(settings, places, "grpo", CHECKPOINT)
    for name, document in (("sft", sft), ("grpo", grpo)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(document))
    taught = load_sft_spec(tmp_path / "sft.yaml", {"model": str(CHECKPOINT)})
    reinforced = load_grpo_spec(tmp_path / "grpo.yaml")
    assert (taught.optimiser.steps, taught.traces.verdicts) == (40, ("correct",))
    assert (reinforced.optimiser.steps, reinforced.run.name) == (2, "grpo")


async def test_a_command_is_shown_with_what_it_prints_and_its_failure_with_the_last_of_it(tmp_path: Path) -> None:
    told: list[str] = []
    commands = Commands(tmp_path, told.append, Stop())
    await commands.verb("help", "train", "--help")
    assert told[0] == "$ gen-service train --help"
    assert any("Usage" in line for line in told[1:])
    with pytest.raises(TrainingError, match=r"wrong ended with exit code 2; [\s\S]* model"):
        await commands.verb("wrong", "train", "sft")
    assert (tmp_path / "help.log").read_text().count("Usage") == 1


async def test_a_stop_kills_the_command_and_starts_no_other(tmp_path: Path) -> None:
    stop = Stop()
    commands = Commands(tmp_path, lambda words: stop.ask() if "Serving" in words else None, stop)
    with pytest.raises(Stopped):
        await commands.module("server", "http.server", "0", "--bind", "127.0.0.1")
    left = [process for process in psutil.Process().children(recursive=True) if "http.server" in process.cmdline()]
    assert left == []
    with pytest.raises(Stopped):
        await commands.verb("help", "train", "--help")
    assert not (tmp_path / "help.log").exists()


async def test_servers_are_lent_to_one_at_a_time_with_the_weights_asked_for(tmp_path: Path) -> None:
    models = [checkpoint(tmp_path / name, name) for name in "ab"]
    seen: list[tuple[int, int]] = []
    async with SimulatedServer(SIMULATED) as one, SimulatedServer(SIMULATED) as two:

        async def use(weights: Path) -> None:
            async with servers.lent(weights) as urls:
                assert urls == [one.url, two.url]
                before = (one.weights.number, two.weights.number)
                await asyncio.sleep(0)
                seen.append((one.weights.number, two.weights.number))
                assert seen[-1] == before

        async with LentServers(lambda: at_hand(one, two)) as servers:
            await asyncio.gather(*(use(weights) for weights in (*models, *models)))
    assert seen == [(weights_in(weights),) * 2 for weights in (*models, *models)]


async def test_servers_that_were_given_up_or_refuse_the_weights_are_lent_to_nobody(tmp_path: Path) -> None:
    async with LentServers(at_hand) as servers:
        with pytest.raises(Stopped):
            await servers.lent(CHECKPOINT).__aenter__()
    async with SimulatedServer(SIMULATED) as server, LentServers(lambda: at_hand(server)) as servers:
        with pytest.raises(EndpointError, match="Cannot find any model weights"):
            await servers.lent(tmp_path).__aenter__()


async def test_all_steps_are_made_once_and_the_table_says_what_is_stored(tmp_path: Path) -> None:
    settings, places, told = small(tmp_path), Places(tmp_path), list[str]()
    async with SimulatedServer(SIMULATED) as server:

        async def run() -> tuple[dict[str, Measured], list[str], int]:
            stop, before = Stop(), len(server.log)
            commands = TrainsNothing(places, stop)
            async with LentServers(lambda: at_hand(server)) as servers:
                rows = await TrainerDemo(settings, servers, commands, told.append, stop).run()
            return rows, commands.asked, len(server.log) - before

        rows, asked, requests = await run()
        again, asked_again, requests_again = await run()
    assert list(rows) == list(ROWS)
    assert rows == again
    assert sorted(asked) == ["grpo", "sft", "student", "weaker-grpo"]
    assert sorted(asked_again) == ["grpo", "weaker-grpo"]
    assert (requests > 0, requests_again) == (True, 0)
    folders = {path.name.rpartition("-")[0] for path in places.evaluations.iterdir()}
    assert folders == {*ROWS, "checkpoint-16"}


async def test_grpo_starts_at_the_first_checkpoints_that_are_good_enough(tmp_path: Path) -> None:
    settings, places = small(tmp_path, weaker_at=0.2, taught_at=0.4), Places(tmp_path)
    often_right = replace(SIMULATED, script=Script(length=Fixed(20), p_right=0.6))
    async with SimulatedServer(often_right) as server, LentServers(lambda: at_hand(server)) as servers:
        commands = TrainsNothing(places, Stop())
        await TrainerDemo(settings, servers, commands, lambda words: None, Stop()).run()
    probed = {
        int(path.name.split("-")[1]): stored.load(str(path))["benchmarks"][0]["score"]["pass_at_1"]
        for path in places.evaluations.glob("checkpoint-*")
    }
    starts = {
        name: int(yaml.safe_load(places.spec(name).read_text())["model"].rpartition("-")[2])
        for name in ("grpo", "weaker-grpo")
    }
    assert sorted(probed) == list(range(16, starts["grpo"] + 2, 2))
    assert starts["grpo"] == min(step for step, share in probed.items() if share >= 0.4)
    assert starts["weaker-grpo"] == min(step for step, share in probed.items() if share >= 0.2)


async def test_a_stopped_demo_goes_on(tmp_path: Path) -> None:
    settings, places = small(tmp_path), Places(tmp_path)
    async with SimulatedServer(SIMULATED) as server:
        stop = Stop()
        commands = TrainsNothing(places, stop, stop_at="grpo")
        async with LentServers(lambda: at_hand(server)) as servers:
            with pytest.raises(Stopped):
                await TrainerDemo(settings, servers, commands, lambda words: None, stop).run()
            assert not places.model("grpo").exists()
            commands = TrainsNothing(places, Stop())
            rows = await TrainerDemo(settings, servers, commands, lambda words: None, Stop()).run()
    assert list(rows) == list(ROWS)
    assert "student" not in commands.asked


async def test_no_checkpoint_that_is_good_enough_is_said(tmp_path: Path) -> None:
    wrong = replace(SIMULATED, script=Script(length=Fixed(20), p_right=0.0))
    async with SimulatedServer(wrong) as server, LentServers(lambda: at_hand(server)) as servers:
        demo = TrainerDemo(
            small(tmp_path), servers, TrainsNothing(Places(tmp_path), Stop()), lambda words: None, Stop()
        )
        with pytest.raises(TrainingError, match="no checkpoint of the SFT"):
            await demo.run()


def tree(shares: list[list[int]]) -> dict[str, Any]:
    """A stored evaluation of problems that were solved (1) or not (0), by file."""
    results = [
        {
            "name": f"seed-{number}",
            "score": {"pass_at_1": sum(solved) / len(solved)},
            "by_problem": {f"p{place}": [1, right] for place, right in enumerate(solved)},
            "mean_tokens": 40.0,
        }
        for number, solved in enumerate(shares)
    ]
    return {"name": "made", "spec": {"interval": {"resamples": 500}}, "benchmarks": results}


def row(mean: float, half_width: float = 0.01) -> Measured:
    return Measured("made", {"seed-1": mean}, mean, (mean - half_width, mean + half_width), 100, 40.0)


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=30), min_size=1, max_size=4))
def test_a_row_is_the_mean_of_its_files_within_its_interval(shares: list[list[int]]) -> None:
    found = measured("made", tree(shares))
    low, high = found.interval
    assert list(found.by_seed.values()) == [sum(solved) / len(solved) for solved in shares]
    assert found.mean == pytest.approx(sum(found.by_seed.values()) / len(shares))
    assert low - 1e-9 <= found.mean <= high + 1e-9
    assert found.problems == sum(map(len, shares))


def test_an_evaluation_without_problems_is_no_row() -> None:
    with pytest.raises(SpecError, match="files all have problems"):
        measured("made", tree([[1]]) | {"benchmarks": [tree([[1]])["benchmarks"][0] | {"by_problem": {}}]})


@pytest.mark.parametrize(
    ("means", "kept"),
    [
        ((0.0, 0.75, 0.85, 0.5, 0.7), [True, True, True, True]),
        ((0.2, 0.75, 0.85, 0.5, 0.7), [False, True, True, True]),
        ((0.0, 0.55, 0.85, 0.5, 0.7), [True, False, True, True]),
        ((0.0, 0.75, 0.79, 0.5, 0.7), [True, True, False, True]),
        ((0.0, 0.75, 0.85, 0.5, 0.6), [True, True, True, False]),
    ],
)
def test_each_promise_is_kept_or_broken_by_its_own_figures(means: tuple[float, ...], kept: list[bool]) -> None:
    rows = dict(zip(ROWS, map(row, means), strict=True))
    assert [promise.is_kept for promise in promises(rows)] == kept


def test_a_gain_within_the_intervals_is_none() -> None:
    rows = dict(zip(ROWS, (row(mean, 0.06) for mean in (0.0, 0.75, 0.85, 0.5, 0.7)), strict=True))
    found = list(promises(rows))
    assert [promise.is_kept for promise in found] == [True, True, False, True]
    assert "the intervals overlap" in found[2].words


interval = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(lambda ends: (min(ends), max(ends)))


@given(interval, interval)
def test_intervals_overlap_where_they_have_a_value_in_common(
    one: tuple[float, float], other: tuple[float, float]
) -> None:
    assert overlap(one, other) == overlap(other, one) == (max(one[0], other[0]) <= min(one[1], other[1]))


def test_the_table_and_the_curves_are_shown_and_kept(tmp_path: Path) -> None:
    places = Places(tmp_path)
    for name in ("grpo", "weaker-grpo"):
        places.run(name).mkdir(parents=True)
        lines = [{"step": step, "reward": step / 10, "completions/mean_length": 40.0} for step in range(1, 4)]
        (places.run(name) / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    console = Console(record=True, width=160)
    rows = dict(zip(ROWS, map(row, (0.0, 0.75, 0.85, 0.5, 0.6)), strict=True))
    kept = show(console, rows, places, ["In 1 s."])
    told = console.export_text()
    assert [promise.is_kept for promise in kept] == [True, True, True, False]
    assert "74.0 to 76.0" in told
    assert "[x] GRPO adds 10.0 points, 75.0% to 85.0%, at least 5; the intervals do not overlap" in told
    assert "[ ] from a weaker start GRPO adds 10.0 points, 50.0% to 60.0%" in (tmp_path / "result.md").read_text()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
