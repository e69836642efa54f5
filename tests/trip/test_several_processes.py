"""Training by two processes on a CPU with the configurations that ship, killed and taken up."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import pytest_asyncio
import yaml

from gen_service.endpoints.simulated import LogNormal, Script, SimulatedServer, SimulationSettings
from gen_service.endpoints.simulated.tokenizer import VOCABULARY_SIZE
from gen_service.records import Trace
from gen_service.tiny_model import CHECKPOINT
from gen_service.tiny_model.problems import prompt_rows
from gen_service.training.metrics_file import read_metrics

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

SHIPPED = Path(__file__).parents[2] / "deploy" / "training" / "accelerate"
DDP, FSDP2 = SHIPPED / "ddp.yaml", SHIPPED / "fsdp2.yaml"
STEPS = 6


class Processes:
    """Starts training processes, two at a time; see `forked_processes`."""

    def __init__(self) -> None:
        program = [sys.executable, str(Path(__file__).with_name("forked_processes.py"))]
        quiet = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self._parent = subprocess.Popen(program, text=True, bufsize=1, env=os.environ | quiet, **pipes)

    def run(
        self, config: Path | None, *arguments: str, processes: int = 2, kill_at: str = "never"
    ) -> tuple[list[str], list[int]]:
        """What they said and their exit codes; kill -9 of all at the line that begins with `kill_at`."""
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        request = {"config": config and str(config), "processes": processes, "arguments": arguments}
        self._parent.stdin.write(f"{json.dumps(request)}\n")
        ids: list[int] = []
        said: list[str] = []
        for line in self._parent.stdout:
            if line.startswith("["):
                ids = ids or json.loads(line)
            elif line.startswith("ended "):
                return said, json.loads(line.removeprefix("ended "))
            said.append(line.rstrip())
            if line.startswith(kill_at):
                for process in ids:
                    os.kill(process, signal.SIGKILL)
        raise AssertionError("\n".join(said))

    def finish(self, config: Path | None, *arguments: str, processes: int = 2) -> list[str]:
        said, codes = self.run(config, *arguments, processes=processes)
        assert set(codes) == {0}, "\n".join(said)
        return said

    def close(self) -> None:
        assert self._parent.stdout is not None
        assert self._parent.stdin is not None
        self._parent.stdin.close()
        assert self._parent.wait() == 0
        self._parent.stdout.close()


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    started = Processes()
    yield started
    started.close()


def written(folder: Path, name: str, document: dict[str, Any]) -> str:
    run = {"path": str(folder), "name": name, "log_steps": 1, "threads": 1}
    document["run"] = run | document.pop("run", {})
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return str(path)


def weights(run: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    loaded: dict[str, Any] = load_file(run / "model" / "model.safetensors")
    return loaded


def are_equal(one: Path, other: Path) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.fixture(scope="module")
def sft(
    solved: Callable[[int], list[Trace]],
    publish: Callable[[Path, Sequence[Trace]], str],
    tmp_path_factory: pytest.TempPathFactory,
    processes: Processes,
) -> Callable[..., str]:
    """Makes specs of one SFT. `one` is made by one process, with twice the batches to a step."""
    folder = tmp_path_factory.mktemp("sft")
    traces = publish(folder / "job", solved(40))

    def spec(name: str, accumulate: int = 1, **model: Any) -> str:
        optimiser = {"learning_rate": 1e-3, "batch": 4, "accumulate": accumulate, "steps": STEPS}
        document = {"model": {"path": str(CHECKPOINT), **model}, "traces": [traces], "optimiser": optimiser}
        return written(folder, name, document | {"answer_break": "\n", "run": {"checkpoint_steps": 2}})

    processes.finish(None, "train", "sft", spec("one", accumulate=2), processes=1)
    return spec


def losses(spec: str) -> list[tuple[int, float, int]]:
    lines = read_metrics(Path(spec).with_suffix("") / "metrics.jsonl")
    return [(line["step"], line["loss"], line["tokens"]) for line in lines if "loss" in line]


def test_ddp_killed_makes_the_steps_of_one_process(sft: Callable[..., str]) -> None:
    spec, one = sft("ddp"), sft("one", accumulate=2)
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(DDP), "--num_processes", "2"]
    gen_service = [sys.executable, "-c", "from gen_service.cli import main; main()"]
    command = [*launcher, "--main_process_port", "0", "--no_python", *gen_service, "train", "sft", spec]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if line.startswith("step 3/"):
                break
        for process in [run, *psutil.Process(run.pid).children(recursive=True)]:
            process.kill()
    again = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert again.returncode == 0, again.stderr
    assert "going on from step 2" in again.stdout
    assert again.stdout.count("; as tokenised before") == 1, "each process speaks, or each tokenises"
    assert [line[0] for line in losses(spec)] == list(range(1, STEPS + 1))
    for ours, theirs in zip(losses(spec), losses(one), strict=True):
        assert ours == (theirs[0], pytest.approx(theirs[1], rel=1e-3), theirs[2])
    run_folder = Path(spec).with_suffix("")
    assert json.loads((run_folder / "run.json").read_text())["finished"] == STEPS
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {
        one.name for one in (run_folder / "checkpoints/checkpoint-6").iterdir()
    }


@pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=["whole", "lora"])
def test_fsdp2_killed_makes_the_steps_of_one_process(
    lora: dict[str, int] | None, sft: Callable[..., str], processes: Processes
) -> None:
    name = "fsdp" if lora is None else "fsdp-lora"
    spec = sft(name, lora=lora)
    processes.run(FSDP2, "train", "sft", spec, kill_at="step 3/")
    checkpoint = Path(spec).with_suffix("") / "checkpoints" / "checkpoint-2"
    assert len(list((checkpoint / "pytorch_model_fsdp_0").glob("*.distcp"))) == 2, "each process writes its part"
    said = processes.finish(FSDP2, "train", "sft", spec)
    assert "going on from step 2" in said
    one = sft("one" if lora is None else "one-lora", accumulate=2, lora=lora)
    processes.finish(None, "train", "sft", one, processes=1)
    for ours, theirs in zip(losses(spec), losses(one), strict=True):
        assert ours == (theirs[0], pytest.approx(theirs[1], rel=1e-3), theirs[2])
    found, expected = weights(Path(spec).with_suffix("")), weights(Path(one).with_suffix(""))
    assert found.keys() == expected.keys()
    assert all(torch.allclose(tensor, expected[name], rtol=0.02, atol=1e-3) for name, tensor in found.items())


def grpo(folder: Path, name: str, **values: Any) -> str:
    """Two stages of which the second asks for more, with resampling: processes must decide alike or wait for ever."""
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(f"{json.dumps(row)}\n" for row in prompt_rows("train", 16, 3)))
    document: dict[str, Any] = {
        "model": str(CHECKPOINT),
        "prompts": str(prompts),
        "generations": 4,
        "prompts_per_step": 4,
        "optimiser": {"batch": 8, "learning_rate": 1e-3, "schedule": "constant", "warmup": 0.0},
        "stages": [{"max_tokens": 16, "steps": 1}, {"max_tokens": 48, "steps": 2}],
        "filtering": {"mode": "resample", "most_tries": 1},
        "unanswered": {"truncated": "incorrect"},
        "verification": {"workers": 1},
        "run": {"checkpoint_steps": 1},
    }
    return written(folder, name, document | values)


def groups(run: Path, step: int) -> list[tuple[str, str]]:
    """Prompt and answer of each response of a step; groups are whole."""
    rows = pq.read_table(run / "completions" / f"{step:08}.parquet").to_pylist()
    assert all(len({row["prompt_id"] for row in rows[start : start + 4]}) == 1 for start in range(0, len(rows), 4))
    assert len({row["prompt_id"] for row in rows}) == 4
    return [(row["prompt_id"], row["content"]) for row in rows]


def test_grpo_killed_ends_in_the_weights_of_a_run_that_was_not(processes: Processes, tmp_path: Path) -> None:
    processes.finish(FSDP2, "train", "grpo", grpo(tmp_path, "whole"))
    killed = grpo(tmp_path, "killed")
    processes.run(FSDP2, "train", "grpo", killed, kill_at="step 2/")
    said = processes.finish(FSDP2, "train", "grpo", killed)
    assert any(line.startswith("going on from step") for line in said)
    for name in ("whole", "killed"):
        lines = [line for line in read_metrics(tmp_path / name / "metrics.jsonl") if "reward_std" in line]
        assert [(line["step"], line["stage"]) for line in lines] == [(1, 0), (2, 1), (3, 1)]
    for step in (1, 2, 3):
        assert groups(tmp_path / "whole", step) == groups(tmp_path / "killed", step)
    assert are_equal(tmp_path / "whole", tmp_path / "killed")


def test_a_stage_that_does_not_fit_the_processes_is_told_before_the_first(processes: Processes, tmp_path: Path) -> None:
    stages = [{"max_tokens": 24, "steps": 1}, {"max_tokens": 48, "steps": 1, "prompts_per_step": 3, "generations": 16}]
    said, codes = processes.run(DDP, "train", "grpo", grpo(tmp_path, "odd", stages=stages))
    assert set(codes) != {0}
    assert any("prompts_per_step: got 3; expected a multiple of 2 processes" in line for line in said), said
    assert not any((tmp_path / "odd" / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def wordy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without sense that knows all tokens of a simulated server."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("wordy")
    config = transformers.AutoConfig.from_pretrained(CHECKPOINT)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    config.update({**small, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": VOCABULARY_SIZE})
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(CHECKPOINT).save_pretrained(folder)
    return folder


@pytest_asyncio.fixture
async def servers() -> AsyncIterator[list[SimulatedServer]]:
    settings = SimulationSettings(script=Script(length=LogNormal(40.0, 60.0)), dev_mode=True)
    async with SimulatedServer(settings) as one, SimulatedServer(replace(settings, server_index=1)) as other:
        yield [one, other]


async def test_one_process_asks_the_servers_for_both(
    servers: list[SimulatedServer], wordy: Path, processes: Processes, tmp_path: Path
) -> None:
    rollouts = {
        "source": "fleet",
        "endpoints": {"urls": [one.url for one in servers], "backoff_s": 0.01},
        "shared_folder": str(tmp_path / "weights"),
        "staleness": 1,
    }
    stages = [{"max_tokens": 32, "steps": 1}, {"max_tokens": 64, "steps": 2}]
    loss, rewards = (
        {"logprob_gap": None},
        [{"name": "overlong", "options": {"cache": 32}}],
    )  # it says what no model does
    spec = grpo(tmp_path, "fleet", model=str(wordy), rollouts=rollouts, stages=stages, loss=loss, rewards=rewards)
    await asyncio.to_thread(processes.finish, FSDP2, "train", "grpo", spec)
    run = tmp_path / "fleet"
    lines = [line for line in read_metrics(run / "metrics.jsonl") if "reward_std" in line]
    assert [(line["step"], line["stage"]) for line in lines] == [(1, 0), (2, 1), (3, 1)]
    logged = [line for one in servers for line in one.log]
    received = sum(line["event"] == "received" for line in logged)
    # Three batches, one that was sampled ahead when its stage was over, and other groups for those without variance.
    others = sum(line["groups/tries"] > 0 for line in lines)
    assert received % 8 == 0
    assert 4 * 16 <= received <= 4 * 16 + 16 * others, "what one asked for was asked for twice"
    assert any(line["rollouts/learned_from"] == 1.0 for line in lines)
    assert sum(line["event"] == "reloaded" for line in logged) == 2 * 3, "weights were brought more than once"
    tables = [pq.read_table(run / "completions" / f"{step:08}.parquet").to_pylist() for step in (1, 2, 3)]
    assert all(len(groups(run, step)) == 16 for step in (1, 2, 3))
    assert {row["endpoint"] for rows in tables for row in rows} == {one.url for one in servers}
    assert all(0 <= row["staleness"] <= 1 for rows in tables for row in rows)
    assert len(weights(run)) > 0
