"""The trainer's demo: from a teacher's verified traces to a better student, measured.

    teacher on vLLM -> verified shards -> SFT of a student that knows nothing -> GRPO -> held-out problems, three seeds
                                              `-> an earlier checkpoint, the weaker start -> GRPO

Every part is the real one: jobs and evaluations through the pool on real vLLM servers, which are brought one model's
weights after another; training by `gen-service train`, in processes of its own. What needs nothing of one another runs
side by side. Each step is one that can be taken up again, so the same call goes on where one before it ended.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing, nullcontext
from pathlib import Path
from typing import Any, Final

import yaml

from gen_service.errors import TrainingError
from gen_service.evaluation import stored
from gen_service.evaluation.evaluate import evaluate
from gen_service.generation.pool import Stop
from gen_service.jobs.runner import RunningJob, generate, has_work
from gen_service.storage.checkpoints import step_of, whole_checkpoints
from gen_service.tiny_model import CHECKPOINT
from gen_service.training.demo.commands import Commands, Say, Stopped
from gen_service.training.demo.outcome import ROWS, Measured, measured
from gen_service.training.demo.servers import LentServers
from gen_service.training.demo.sizes import (
    DemoTrainSettings,
    Places,
    evaluation_spec,
    grpo_document,
    held_out_files,
    sft_document,
    traces_spec,
    write_problems,
)

_STUDENT: Final = "gen_service.training.demo.student"
# A spec needs a URL though nobody is asked.
_NOBODY: Final = ["http://127.0.0.1"]
# Share of the SFT's steps before which no checkpoint was right in more than one of ten.
_FIRST_PROBED: Final = 0.4
_LOOK_S: Final = 0.5
_TELL_S: Final = 15.0

Found = dict[str, asyncio.Future[Path]]
"""Checkpoints of the SFT by the name of their row."""


class TrainerDemo:
    """The steps of the demo, each of which does nothing where it was done before.

    Args:
        servers: for the teacher and for the models that are measured.
        commands: runs what trains.
        say: told what happens, a line each.
        stop: asks the demo to end.
    """

    def __init__(
        self, settings: DemoTrainSettings, servers: LentServers, commands: Commands, say: Say, stop: Stop
    ) -> None:
        self.places = Places(settings.output.resolve())
        self._settings = settings
        self._servers = servers
        self._commands = commands
        self._say = say
        self._stop = stop
        self._job: RunningJob | None = None

    async def run(self) -> dict[str, Measured]:
        """All steps; what was measured, by the names of `outcome.ROWS`.

        Raises:
            TrainingError: a command failed, or no checkpoint is good enough to be the weaker start.
            LocalServerError: a server did not come up.
            Stopped: it was asked to end.
        """
        write_problems(self._settings, self.places)
        telling = asyncio.create_task(self._tell())
        try:
            await _side_by_side(self._student(), self._traces())
            rows = await self._trained_and_measured()
        finally:
            telling.cancel()
        return {name: rows[name] for name in ROWS}

    async def _trained_and_measured(self) -> dict[str, Measured]:
        loop, rows = asyncio.get_running_loop(), dict[str, Measured]()
        taught: Found = {"weaker": loop.create_future(), "sft": loop.create_future()}

        async def add(name: str, weights: Path) -> None:
            rows[name] = await self.evaluated(name, weights)

        async def reinforced(name: str, start: Path) -> None:
            document = grpo_document(self._settings, self.places, name, start)
            await self._train(name, "grpo", document)
            await add(name, self.places.model(name))

        async def chain(name: str, then: str) -> None:
            start = await taught[name]
            await _side_by_side(reinforced(then, start), add(name, start))

        await _side_by_side(
            *(self._taught(taught), chain("sft", "grpo"), chain("weaker", "weaker-grpo")),
            add("before", self.places.student),
        )
        return rows

    async def _student(self) -> None:
        """A checkpoint like the teacher's, with random weights."""
        if not self.places.student.is_dir():
            await self._commands.module(
                "student", _STUDENT, "--like", str(CHECKPOINT), "--output", str(self.places.student)
            )

    async def _traces(self) -> None:
        """The teacher's answers, verified and published."""
        work = await has_work(traces_spec(self._settings, self.places, _NOBODY))
        async with self._servers.lent(CHECKPOINT) if work else nullcontext(_NOBODY) as urls:
            spec = traces_spec(self._settings, self.places, urls)
            report = await generate(spec, stop=self._stop, on_notice=self._say, on_start=self._show)
        self._job = None
        if not report.complete:
            raise Stopped
        rows, right = report.published.rows, report.published.by_verdict.get("correct", 0)
        self._say(f"teacher: {rows:,} traces published in {report.folder}, {right:,} of them verified as right")

    async def _train(self, name: str, kind: str, document: Mapping[str, Any]) -> None:
        """Write a spec and train by it."""
        path = self.places.spec(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(dict(document), sort_keys=False), encoding="utf-8")
        await self._commands.verb(name, "train", kind, str(path))

    async def _taught(self, found: Found) -> None:
        """The SFT, until a checkpoint is right often enough on training problems; earlier ones may be found before.

        It is ended there so that something is left to reinforce. At its end the student has the traces by heart (a loss
        of 0.004) and its rollouts are too alike for GRPO to learn much from: 90.7% became 91.5% in 110 steps, while the
        weaker start went from 53.4% to 81.8%.
        """
        wanted = {"weaker": self._settings.weaker_at, "sft": self._settings.taught_at}
        async with aclosing(self._checkpoints()) as checkpoints:
            async for checkpoint in checkpoints:
                step = step_of(checkpoint)
                probed = await self.evaluated(f"checkpoint-{step}", checkpoint, {"probe": self.places.probe})
                for name, least in wanted.items():
                    if probed.mean >= least and not found[name].done():
                        self._say(f"{ROWS[name]}: step {step:,} of the SFT")
                        found[name].set_result(checkpoint)
                if all(place.done() for place in found.values()):
                    return
        raise TrainingError(f"no checkpoint of the SFT has a pass@1 of {max(wanted.values()):g} on training problems")

    async def _checkpoints(self) -> AsyncGenerator[Path, None]:
        """Checkpoints of the SFT, which trains as long as more are asked for; the first ones are left out."""
        training: asyncio.Task[None] | None = None
        given: set[int] = set()
        try:
            while True:
                is_last_look = training is not None and training.done()
                for checkpoint in whole_checkpoints(self.places.run("sft") / "checkpoints"):
                    step = step_of(checkpoint)
                    if step not in given and step >= _FIRST_PROBED * self._settings.sft_steps:
                        given.add(step)
                        yield checkpoint
                if training is None:
                    document = sft_document(self._settings, self.places)
                    training = asyncio.create_task(self._train("sft", "sft", document))
                if is_last_look:
                    await training
                    return
                await asyncio.wait([training], timeout=_LOOK_S)
        finally:
            if training is not None:
                training.cancel()
                await asyncio.gather(training, return_exceptions=True)

    async def evaluated(self, name: str, weights: Path, problems: Mapping[str, Path] | None = None) -> Measured:
        """pass@1 of a model on problem files: by default those of the three seeds."""
        files = problems or held_out_files(self.places)
        title = f"{name}-{_digest(weights)}"
        tree = _complete(self.places.evaluations / title, files)
        if tree is None:
            async with self._servers.lent(weights) as urls:
                spec = evaluation_spec(title, files, self.places, urls)
                found = await evaluate(spec, stop=self._stop, on_notice=self._say, on_start=self._show)
            self._job = None
            if not found.complete:
                raise Stopped
            stored.save(found)
            tree = stored.as_tree(found)
        row = measured(ROWS.get(name, name), tree)
        low, high = row.interval
        self._say(
            f"{row.title}: pass@1 {row.mean:.1%}, 95% between {low:.1%} and {high:.1%}, {row.problems:,} problems"
        )
        return row

    def _show(self, job: RunningJob) -> None:
        self._job = job

    async def _tell(self) -> None:
        """Say now and then how far the job on the servers is."""
        while True:
            await asyncio.sleep(_TELL_S)
            if self._job is not None:
                progress = self._job.progress
                of = "" if progress.expected is None else f" of {progress.expected:,}"
                self._say(f"  {self._job.spec.job_id}: {progress.done:,}{of} samples")


async def _side_by_side(*steps: Coroutine[Any, Any, None]) -> None:
    """Take steps at the same time; when one fails the others are given up, and its error is raised."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for step in steps:
                tasks.create_task(step)
    except BaseExceptionGroup as group:
        raise _first(group) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error that is no stop; else the stop."""
    return next((error for error in group.exceptions if not isinstance(error, Stopped)), group.exceptions[0])


def _complete(folder: Path, files: Mapping[str, Path]) -> dict[str, Any] | None:
    """A stored evaluation, where it is complete and of the same problems."""
    if not (folder / "evaluation.json").is_file():
        return None
    tree = stored.load(str(folder))
    asked = {result["name"]: result["source"] for result in tree["benchmarks"]}
    is_same = asked == {name: str(path) for name, path in files.items()}
    return tree if tree["complete"] and is_same else None


def _digest(weights: Path) -> str:
    """12 hex digits of a checkpoint's weights."""
    digest = hashlib.blake2b(digest_size=6)
    for file in sorted(weights.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
