"""Rollouts from simulated servers whose weights change: versions, log-probabilities, servers that die and come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gen_service.endpoints.simulated import Faults, Fixed, Script, SimulatedServer, SimulationSettings, TokenRate
from gen_service.endpoints.simulated.weights import log_probabilities, weights_in
from gen_service.errors import GenServiceError, SpecError, TrainingError
from gen_service.records import Message, Prompt
from gen_service.settings import EndpointSettings, PoolSettings
from gen_service.training.fleet_rollouts import FleetRollouts
from gen_service.training.rollout import FAILED, AskedElsewhere, Rollout
from gen_service.training_settings import RolloutSettings

FAST = SimulationSettings(script=Script(length=Fixed(30)), dev_mode=True)
# 200 tokens in a fifth of a second, in chunks of 4.
SLOW = replace(
    FAST, script=Script(length=Fixed(200), timing=TokenRate(Fixed(0.0), 1000.0)), stream_interval=4, tick_s=0.0
)


def prompts(count: int) -> list[Prompt]:
    return [
        Prompt(f"p{number}", (Message(role="user", content=f"What is {number} + 30?"),), None, "test", number)
        for number in range(count)
    ]


def checkpoint(folder: Path, content: str) -> Path:
    """Something that a simulated server takes for weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_text(content)
    (folder / "config.json").write_text("{}")
    (folder / "optimizer.pt").write_text("large")
    return folder


@asynccontextmanager
async def started(*many: SimulationSettings) -> AsyncIterator[list[SimulatedServer]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(SimulatedServer(replace(one, server_index=index)))
            for index, one in enumerate(many)
        ]


def settings(servers: Sequence[SimulatedServer], folder: Path, **more: Any) -> RolloutSettings:
    endpoints = {"urls": tuple(one.url for one in servers), "backoff_s": 0.01, "probe_s": 0.02, "stall_s": 5.0}
    return RolloutSettings(
        source="fleet",
        endpoints=EndpointSettings.model_validate(endpoints | more.pop("endpoints", {})),
        shared_folder=folder / "weights",
        pool=PoolSettings(in_flight=64),
        **more,
    )


@asynccontextmanager
async def opened(
    servers: Sequence[SimulatedServer], folder: Path, notices: list[str] | None = None, **more: Any
) -> AsyncIterator[FleetRollouts]:
    """The rollouts' methods block: they are called in other threads, while the servers run here."""
    heard: list[str] = [] if notices is None else notices
    made = settings(servers, folder, **more)
    rollouts = await asyncio.to_thread(lambda: FleetRollouts(made, on_notice=heard.append, check_s=0.0))
    try:
        yield rollouts
    finally:
        await asyncio.to_thread(rollouts.close)


async def until(condition: Callable[[], Any]) -> None:
    """Let the servers' loop turn, and the rollouts' thread run, until something is so."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.002)


def number_of(folder: Path, version: int) -> int:
    return weights_in(folder / "weights" / f"version-{version}")


def agrees(rollout: Rollout, weights: int) -> bool:
    """Whether each token has the log-probability that these weights give it."""
    known = log_probabilities(weights)
    assert rollout.logprobs is not None
    return rollout.logprobs == pytest.approx([known[token] for token in rollout.completion_ids])


async def test_each_prompt_gets_its_group_from_the_weights_published_last(tmp_path: Path) -> None:
    async with started(FAST, FAST) as servers, opened(servers, tmp_path) as rollouts:
        contents: list[list[list[int]]] = []
        for version in (0, 1):
            await asyncio.to_thread(rollouts.publish, checkpoint(tmp_path / "step", f"weights {version}"), version)
            groups = await asyncio.to_thread(rollouts.sample, prompts(6), 4, 100)
            assert [len(group) for group in groups] == [4] * 6
            flat = [one for group in groups for one in group]
            assert {one.version for one in flat} == {version}
            assert {one.finish_reason for one in flat} == {"stop"}
            assert all(agrees(one, number_of(tmp_path, version)) for one in flat)
            assert {one.endpoint for one in flat} == {server.url for server in servers}
            assert all(len({one.prompt_ids[0] for one in group}) == 1 and group[0].reasoning for group in groups)
            contents.append([one.completion_ids for one in flat])
        assert contents[0] != contents[1]
        assert {server.weights.number for server in servers} == {number_of(tmp_path, 1)}
        assert (rollouts.numbers.rollouts, rollouts.numbers.failed, rollouts.numbers.current) == (48, 0, 2)
        measured = rollouts.measures()
        assert (measured["fleet/rollouts"], measured["fleet/current"]) == (48.0, 2.0)
        # Counts are since the last call, the others as they are.
        assert (rollouts.measures()["fleet/rollouts"], rollouts.measures()["fleet/servers"]) == (0.0, 2.0)


async def test_a_prompt_may_come_twice_and_an_answer_be_cut_at_its_length(tmp_path: Path) -> None:
    async with started(FAST) as servers, opened(servers, tmp_path) as rollouts:
        await asyncio.to_thread(rollouts.publish, checkpoint(tmp_path / "step", "w"), 0)
        groups = await asyncio.to_thread(rollouts.sample, prompts(1) * 3, 2, 7)
        assert [len(group) for group in groups] == [2, 2, 2]
        assert {(one.finish_reason, len(one.completion_ids)) for group in groups for one in group} == {("length", 7)}


async def test_new_weights_reach_what_is_under_way(tmp_path: Path) -> None:
    async with started(SLOW, SLOW) as servers, opened(servers, tmp_path) as rollouts:
        await asyncio.to_thread(rollouts.publish, checkpoint(tmp_path / "step", "old"), 0)
        sampling = asyncio.create_task(asyncio.to_thread(rollouts.sample, prompts(8), 2, 500))
        await until(lambda: sum(server.numbers.generation_tokens for server in servers) >= 600)
        await asyncio.to_thread(rollouts.publish, checkpoint(tmp_path / "step", "new"), 1)
        flat = [one for group in await sampling for one in group]
        reloads = [line for server in servers for line in server.log if line["event"] == "reloaded"]
        assert [line["running"] for line in reloads] == [0] * 4
        assert rollouts.numbers.recalled > 0
        assert rollouts.numbers.mixed > 0
        assert rollouts.numbers.failed == 0
    old, new = (log_probabilities(number_of(tmp_path, version)) for version in (0, 1))
    mixed = 0
    for one in flat:
        assert one.logprobs is not None
        assert len(one.completion_ids) == 200
        by_old = [
            score == pytest.approx(old[token]) for token, score in zip(one.completion_ids, one.logprobs, strict=True)
        ]
        by_new = [
            score == pytest.approx(new[token]) for token, score in zip(one.completion_ids, one.logprobs, strict=True)
        ]
        border = by_old.index(False) if False in by_old else 200
        # Old tokens first, then new ones, each with the log-probability of the weights that drew it.
        assert all(by_new[border:])
        assert one.version == (0 if border else 1)
        mixed += 0 < border < 200
    assert mixed > 0


async def test_a_server_that_dies_costs_no_rollout_and_comes_back_with_the_current_weights(tmp_path: Path) -> None:
    notices: list[str] = []
    async with started(SLOW, SLOW) as servers, opened(servers, tmp_path, notices) as rollouts:
        await asyncio.to_thread(rollouts.publish, checkpoint(tmp_path / "step", "new"), 3)
        sampling = asyncio.create_task(asyncio.to_thread(rollouts.sample, prompts(8), 2, 500))
        await until(lambda: servers[1].numbers.generation_tokens >= 300)
        await servers[1].stop()
        groups = await sampling
        assert [len(group) for group in groups] == [2] * 8
        assert all(len(one.completion_ids) == 200 and one.version == 3 for group in groups for one in group)
        assert all(agrees(one, number_of(tmp_path, 3)) for group in groups for one in group)
        assert rollouts.numbers.continued > 0
        await servers[1].start()
        assert servers[1].weights.number == 0
        await until(lambda: rollouts.fleet.endpoints[1].state != "ejected")
        groups = await asyncio.to_thread(rollouts.sample, prompts(8), 2, 500)
        assert all(agrees(one, number_of(tmp_path, 3)) for group in groups for one in group)
        assert servers[1].url in {one.endpoint for group in groups for one in group}
        assert servers[1].weights.number == number_of(tmp_path, 3)


async def test_a_server_started_again_between_two_samples_is_brought_up_to_date_before_its_first_request(
    tmp_path: Path,
) -> None:
    notices: list[str] = []
    async with started(FAST, FAST) as servers, opened(servers, tmp_path, notices) as rollouts:
        await asyncio.to_thread(rollouts.publish, checkpoint(tmp_path / "step", "new"), 3)
        await servers[0].stop()
        await servers[0].start()
        groups = await asyncio.to_thread(rollouts.sample, prompts(12), 2, 100)
        assert all(agrees(one, number_of(tmp_path, 3)) for group in groups for one in group)
        assert any("was started again" in words for words in notices)
        events = [line["event"] for line in servers[0].log]
        assert events[0] == events[1] == "reloaded"
        assert "received" in events


async def test_a_server_that_is_down_when_weights_are_published_holds_nobody_up(tmp_path: Path) -> None:
    async with started(FAST, FAST) as servers, opened(servers, tmp_path) as rollouts:
        await servers[1].stop()
        await asyncio.to_thread(rollouts.publish, checkpoint(tmp_path / "step", "w"), 0)
        assert (rollouts.numbers.servers, rollouts.numbers.current) == (2, 1)
        groups = await asyncio.to_thread(rollouts.sample, prompts(4), 2, 100)
        assert {one.endpoint for group in groups for one in group} == {servers[0].url}
        await servers[1].start()
        await until(lambda: rollouts.numbers.current == 2)
        assert servers[1].weights.number == number_of(tmp_path, 0)


async def test_while_no_server_is_there_weights_wait(tmp_path: Path) -> None:
    notices: list[str] = []
    async with started(FAST) as servers, opened(servers, tmp_path, notices) as rollouts:
        await servers[0].stop()
        folder = checkpoint(tmp_path / "step", "w")
        publishing = asyncio.create_task(asyncio.to_thread(rollouts.publish, folder, 0))
        await until(lambda: any("no server takes version 0" in words for words in notices))
        await servers[0].start()
        await publishing
        assert servers[0].weights.number == number_of(tmp_path, 0)


async def test_weights_that_no_server_can_load_are_an_error(tmp_path: Path) -> None:
    async with started(FAST) as servers, opened(servers, tmp_path) as rollouts:
        with pytest.raises(SpecError, match="safetensors"):
            await asyncio.to_thread(rollouts.publish, tmp_path, 0)
        folder = checkpoint(tmp_path / "weights" / "mine", "w")
        (folder / "model.safetensors").rename(folder / "model.bin")
        (folder / "x.safetensors").mkdir()
        with pytest.raises(GenServiceError, match="server_failed"):
            await asyncio.to_thread(rollouts.publish, folder, 0)


async def test_what_no_server_can_make_says_so_and_ends_nothing(tmp_path: Path) -> None:
    faults = Faults(refused_marker="What is 1 +")
    async with started(replace(FAST, faults=faults)) as servers, opened(servers, tmp_path) as rollouts:
        await asyncio.to_thread(rollouts.publish, checkpoint(tmp_path / "step", "w"), 5)
        groups = await asyncio.to_thread(rollouts.sample, prompts(3), 2, 100)
        assert [[one.finish_reason for one in group] for group in groups] == [["stop"] * 2, [FAILED] * 2, ["stop"] * 2]
        assert groups[1][0] == Rollout([], [], None, FAILED, None, "", 5, servers[0].url)
        assert (rollouts.numbers.rollouts, rollouts.numbers.failed) == (4, 2)
        assert rollouts._client.trails == {}


async def test_nothing_is_sampled_before_weights_were_published(tmp_path: Path) -> None:
    async with started(FAST) as servers, opened(servers, tmp_path) as rollouts:
        with pytest.raises(RuntimeError, match="published"):
            await asyncio.to_thread(rollouts.sample, prompts(1), 1, 10)


async def test_close_ends_what_is_under_way(tmp_path: Path) -> None:
    async with started(SLOW) as servers, opened(servers, tmp_path) as rollouts:
        await asyncio.to_thread(rollouts.publish, checkpoint(tmp_path / "step", "w"), 0)
        sampling = asyncio.create_task(asyncio.to_thread(rollouts.sample, prompts(4), 2, 500))
        await until(lambda: servers[0].numbers.running)
        await asyncio.to_thread(rollouts.close)
        with pytest.raises(GenServiceError, match="closed"):
            await sampling
        with pytest.raises(GenServiceError, match="closed"):
            rollouts.sample(prompts(1), 1, 10)
        rollouts.close()


async def test_servers_that_are_not_fit_are_named_before_anything_begins(tmp_path: Path) -> None:
    async with started(replace(FAST, dev_mode=False)) as servers:
        with pytest.raises(SpecError, match="VLLM_SERVER_DEV_MODE=1") as refused:
            async with opened(servers, tmp_path):
                pass
        assert refused.value.value == servers[0].url
        with pytest.raises(SpecError, match="a model that is served"):
            async with started(FAST) as good, opened(good, tmp_path, endpoints={"model": "other"}):
                pass
        with pytest.raises(SpecError, match="shared_folder"):
            FleetRollouts(settings(servers, tmp_path).model_copy(update={"shared_folder": None}))
        with pytest.raises(SpecError, match="temperature"):
            FleetRollouts(settings(servers, tmp_path), temperature=-1.0)


async def test_only_the_newest_two_versions_stay_in_the_shared_folder(tmp_path: Path) -> None:
    async with started(FAST) as servers, opened(servers, tmp_path) as rollouts:
        for version in (0, 1, 2, 10):
            await asyncio.to_thread(rollouts.publish, checkpoint(tmp_path / "step", f"w{version}"), version)
        shared = tmp_path / "weights"
        assert sorted(one.name for one in shared.iterdir()) == ["version-10", "version-2"]
        assert sorted(one.name for one in (shared / "version-10").iterdir()) == ["config.json", "model.safetensors"]
        mine = checkpoint(shared / "mine", "mine")
        await asyncio.to_thread(rollouts.publish, mine, 11)
        assert servers[0].weights.number == weights_in(mine)
        assert mine.exists()


class TwoProcesses:
    """The first process of two, or the other one, as accelerate shows them."""

    num_processes = 2

    def __init__(self, *, is_main: bool) -> None:
        self.is_main_process = is_main


@pytest.mark.parametrize("is_main", [True, False], ids=["first", "other"])
def test_when_the_first_process_cannot_go_on_the_others_are_told(
    is_main: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sampling = pytest.importorskip("gen_service.training.grpo_sampling")
    told: list[list[Any]] = []

    def broadcast(objects: list[Any]) -> None:
        if is_main:
            told.append(list(objects))
        else:
            objects[:] = [None, "the first process cannot go on: no server"]

    class Stream:
        def measures(self) -> dict[str, float]:
            raise SpecError("rollouts", "none", "a server")

    monkeypatch.setattr(sampling, "broadcast_object_list", broadcast)
    source = sampling.SourceSampling(Stream(), tmp_path, [0])
    source._trainer = SimpleNamespace(accelerator=TwoProcesses(is_main=is_main))
    with pytest.raises(SpecError if is_main else TrainingError, match="server"):
        source.measures()
    assert [words for _, words in told] == (
        ["the first process cannot go on: rollouts: got 'none'; expected a server"] * is_main
    )


def test_only_the_first_of_several_processes_knows_the_servers(
    monkeypatch: pytest.MonkeyPatch, grpo_document: Callable[..., dict[str, Any]]
) -> None:
    lengthening = pytest.importorskip("gen_service.training.lengthening")
    from gen_service.training.grpo import train_grpo
    from gen_service.training.grpo_spec import load_grpo_spec

    nobody = {"source": "fleet", "endpoints": {"urls": ["http://127.0.0.1:9"]}, "shared_folder": "/nowhere"}
    runs: list[Any] = []

    def begun(run: Any) -> int:
        runs.append(run)
        return 0

    monkeypatch.setattr(lengthening, "run_stages", begun)
    monkeypatch.setenv("RANK", "1")
    train_grpo(load_grpo_spec(None, grpo_document(rollouts=nobody)))
    assert isinstance(runs[0].source, AskedElsewhere)
    runs[0].source.close()
