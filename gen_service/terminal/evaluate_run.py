"""Evaluates a training run's checkpoints in the foreground and shows them side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from gen_service.errors import SpecError
from gen_service.evaluation.evaluation_spec import EvaluationSpec
from gen_service.evaluation.run_evaluations import EVALUATIONS, evaluate_run
from gen_service.evaluation.table import steps_table
from gen_service.generation.pool import Stop
from gen_service.terminal.evaluate import print_table
from gen_service.terminal.exit_codes import DONE, INTERRUPTED
from gen_service.terminal.live import JobView
from gen_service.terminal.run import run_async, with_signals

Trees = dict[int, dict[str, Any]]


def run_evaluate_run(console: Console, spec: EvaluationSpec, run: Path, follow: bool) -> int:
    """Evaluate what of a run can be, until it or the training has ended, or Ctrl-C; the exit code.

    Raises:
        SpecError: nothing of the run can be evaluated; and as `evaluate_run`.
    """
    stop = Stop()
    trees = run_async(_watched(console, spec, run, follow, stop))
    if not trees and not stop.asked:
        raise SpecError("run", str(run), "a run with whole checkpoints")
    if trees:
        print_table(console, steps_table(trees))
        console.print(f"evaluations: {run / EVALUATIONS}; curves: gen-service curves {run}", soft_wrap=True)
    if stop.asked:
        console.print("stopped. The same command continues", soft_wrap=True)
    return INTERRUPTED if stop.asked else DONE


async def _watched(console: Console, spec: EvaluationSpec, run: Path, follow: bool, stop: Stop) -> Trees:
    with_signals(console, stop, spec.pool.grace_s)
    trees: Trees = {}
    async with JobView(console) as view:
        steps = evaluate_run(spec, run, follow=follow, stop=stop, on_notice=view.notice, on_start=view.show)
        async for step, tree in steps:
            trees[step] = tree
    return trees
