"""How good each checkpoint of a training run is: the same evaluation of one after another, on the same servers.

<run>/evaluations/step-<n>/   an evaluation, as `stored` has it

The servers are brought the weights of one checkpoint after another (`weight_control`), from its folder, which they see
under the same path. So what the two posts show over training steps, pass@1 and the length of answers (DeepScaleR, Luo
and others, 2025), is measured while the training goes on, or when it is over, without a server started for each step.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from gen_service.endpoints.weight_control import DEV_MODE, ON_A_CPU, WeightControl
from gen_service.errors import EndpointError, RequestRefused, ServerFailed, SpecError
from gen_service.evaluation import stored
from gen_service.evaluation.evaluate import evaluate
from gen_service.evaluation.evaluation_spec import EvaluationSpec, make_evaluation_spec
from gen_service.evaluation.problems import read_problems
from gen_service.generation.pool import Stop
from gen_service.jobs.runner import RunningJob
from gen_service.storage.checkpoints import step_of, whole_checkpoints

EVALUATIONS: Final = "evaluations"
LOOK_S: Final = 5.0
# How often a step is evaluated anew because a server lost its weights, until that is an error.
TRIES: Final = 3
# What of a spec may differ between the steps of one run.
_MAY_DIFFER: Final = frozenset({"name", "output", "endpoints", "pool"})


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The weights of a run after `step` updates."""

    step: int
    weights: Path


def checkpoints_of(run: Path) -> list[Checkpoint]:
    """What of a run can be evaluated: its whole checkpoints, and its result when it has ended; the oldest first."""
    folder = run.absolute()
    found = {step_of(path): path for path in whole_checkpoints(folder / "checkpoints")}
    last = last_step(run)
    if last is not None:
        found[last] = folder / "model"
    return [Checkpoint(step, found[step]) for step in sorted(found)]


def last_step(run: Path) -> int | None:
    """The step that a run has ended with; None while it goes on.

    Raises:
        SpecError: there is no run.
    """
    try:
        finished: int | None = orjson.loads((run / "run.json").read_bytes())["finished"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpecError("run", str(run), f"the folder of a training run, one that holds run.json ({error})") from error
    return finished


def evaluations_of(run: Path) -> dict[int, dict[str, Any]]:
    """The complete evaluations of a run's checkpoints by step, in rising steps."""
    folders = {int(path.parent.name.removeprefix("step-")): path.parent for path in _stored_in(run)}
    trees = {step: stored.load(str(folders[step])) for step in sorted(folders)}
    return {step: tree for step, tree in trees.items() if tree["complete"]}


async def evaluate_run(
    spec: EvaluationSpec,
    run: Path,
    *,
    follow: bool = False,
    stop: Stop | None = None,
    on_notice: Callable[[str], None] = lambda _: None,
    on_start: Callable[[RunningJob], None] = lambda _: None,
    look_s: float = LOOK_S,
) -> AsyncGenerator[tuple[int, dict[str, Any]], None]:
    """Evaluate the checkpoints of a run that have not been yet.

    Afterwards the servers have the weights of the last one.

    Args:
        spec: what each is evaluated by; its `name` and `output` stand for nothing here.
        follow: go on with those that the training still makes, until it has ended.
        look_s: seconds between two looks at the run's folder.

    Yields:
        (step, evaluation as `stored.as_tree` has it), also of those that were there, in rising steps.

    Raises:
        SpecError: there is no such run or benchmark, a step was evaluated by another spec, or the servers cannot take
            weights as they were started.
        EndpointError: a server did not take the weights, or lost them again and again.
    """
    stop, done = stop or Stop(), set[int]()
    if spec.endpoints.file is not None or not spec.endpoints.urls:
        raise SpecError("endpoints.urls", spec.endpoints.urls, "the servers' URLs: each is brought weights by name")
    for chosen in spec.benchmarks:  # before a server is touched
        await asyncio.to_thread(read_problems, spec, chosen)
    async with WeightControl(spec.endpoints) as control:
        while True:
            is_last_look = not follow or last_step(run) is not None
            found = [one for one in checkpoints_of(run) if one.step not in done]
            for checkpoint in found:
                done.add(checkpoint.step)
                one = _spec_of(spec, run, checkpoint.step)
                tree = _known(one) or await _evaluated(one, checkpoint, control, stop, on_notice, on_start)
                if tree is not None:
                    yield checkpoint.step, tree
                if stop.asked:
                    return
            if is_last_look and not found:
                return
            if not found and await _is_asked(stop, look_s):
                return


async def _evaluated(
    spec: EvaluationSpec,
    checkpoint: Checkpoint,
    control: WeightControl,
    stop: Stop,
    on_notice: Callable[[str], None],
    on_start: Callable[[RunningJob], None],
) -> dict[str, Any] | None:
    """The evaluation of one checkpoint; None where it was stopped, or the checkpoint cannot be brought."""
    if (wrong := _why_not(checkpoint.weights)) is not None:
        on_notice(f"step {checkpoint.step:,} is left out: {wrong}")
        return None
    on_notice(f"step {checkpoint.step:,}")
    for _ in range(TRIES):
        tag = f"{os.urandom(6).hex()}:{checkpoint.step}"
        try:
            await asyncio.gather(*(_bring(control, url, checkpoint.weights, tag) for url in spec.endpoints.urls))
        except EndpointError:
            if (wrong := _why_not(checkpoint.weights)) is None:
                raise
            on_notice(f"step {checkpoint.step:,} is left out: {wrong}")
            return None
        evaluation = await evaluate(spec, stop=stop, on_notice=on_notice, on_start=on_start)
        lost = [url for url in spec.endpoints.urls if await _tag(control, url) != tag]
        if lost:
            on_notice(f"{', '.join(lost)} lost the weights of step {checkpoint.step:,}, which is evaluated anew")
            await asyncio.to_thread(shutil.rmtree, Path(spec.output, spec.name))
        elif evaluation.complete:
            stored.save(evaluation)
            return stored.as_tree(evaluation)
        if stop.asked or not lost:
            return None
    raise ServerFailed(lost[0], f"it lost the weights of step {checkpoint.step:,} {TRIES} times")


async def _bring(control: WeightControl, url: str, weights: Path, tag: str) -> None:
    """Bring a server weights; nothing of this evaluation is in flight there."""
    try:
        described = await control.describe(url)
    except RequestRefused as error:
        raise SpecError("endpoints.urls", url, f"a server that was started with {DEV_MODE}") from error
    if described.keeps_old_weights:
        raise SpecError("endpoints.urls", url, f"a server that was started with {ON_A_CPU}")
    await control.bring(url, str(weights), tag)


async def _tag(control: WeightControl, url: str) -> str:
    try:
        return await control.tag(url)
    except EndpointError:
        return ""


async def _is_asked(stop: Stop, seconds: float) -> bool:
    """Whether it is asked to end within so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return False
    return True


def _spec_of(spec: EvaluationSpec, run: Path, step: int) -> EvaluationSpec:
    return spec.model_copy(update={"name": f"step-{step}", "output": str(run.absolute() / EVALUATIONS)})


def _known(spec: EvaluationSpec) -> dict[str, Any] | None:
    """A complete evaluation that is there already."""
    folder = Path(spec.output, spec.name)
    if not (folder / "evaluation.json").is_file():
        return None
    tree = stored.load(str(folder))
    before, asked = (one.model_dump(mode="json") for one in (make_evaluation_spec(tree["spec"]), spec))
    for field in sorted(asked.keys() - _MAY_DIFFER):
        if before[field] != asked[field]:
            raise SpecError(field, asked[field], f"{before[field]!r}, as in {folder}; or move that folder away")
    return tree if tree["complete"] else None


def _why_not(folder: Path) -> str | None:
    """Why a checkpoint cannot be brought to servers; None where it can."""
    if not folder.is_dir():
        return "the training has removed its checkpoint"
    if not any(folder.glob("*.safetensors")) or (folder / "adapter_config.json").exists():
        return "it holds an adapter or parts of a model, not a whole one"
    return None


def _stored_in(run: Path) -> list[Path]:
    found = (run / EVALUATIONS).glob("step-*/evaluation.json")
    return [path for path in found if path.parent.name.removeprefix("step-").isdigit()]
