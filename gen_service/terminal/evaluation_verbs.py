"""The verbs that say how good a model is. Parses, then imports only what the verb runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gen_service.terminal.flags import given_flags

if TYPE_CHECKING:
    from gen_service.evaluation.evaluation_spec import EvaluationSpec

Server = Annotated[list[str] | None, typer.Option(help="Base URL of a vLLM server; repeat for more.")]
Data = Annotated[Path | None, typer.Option(help="Folder of the benchmarks' files [default: the hub].")]
Benchmarks = Annotated[
    list[str] | None,
    typer.Option(help="aime_2024, math_500, amc_2023, minerva, olympiad_bench [default: all]; or NAME=PATH."),
]
PromptColumn = Annotated[str, typer.Option(help="Column of the prompt in a NAME=PATH.")]
AnswerColumn = Annotated[str, typer.Option(help="Column of the gold in a NAME=PATH.")]
Samples = Annotated[int | None, typer.Option(help="Completions of each problem [default: 16].")]
Limit = Annotated[int | None, typer.Option(help="Only so many problems of each benchmark.")]
MaxTokens = Annotated[int | None, typer.Option(help="Most tokens of a completion [default: 32768].")]
Temperature = Annotated[float | None, typer.Option(help="Sampling temperature [default: 0.6].")]
TopP = Annotated[float | None, typer.Option(help="Nucleus of the sampling [default: 0.95].")]
TemplateText = Annotated[str | None, typer.Option(help="The user's message, with {prompt} in it.")]


def add_verbs(app: typer.Typer) -> None:
    """Add `evaluate`, `evaluate-run` and `curves`."""
    app.command()(evaluate)
    app.command()(evaluate_run)
    app.command()(curves)


def evaluate(
    spec: Annotated[Path | None, typer.Argument(help="Evaluation spec, YAML or JSON; flags go over it.")] = None,
    server: Server = None,
    model: Annotated[str | None, typer.Option(help="Model name on the servers [default: the first served].")] = None,
    name: Annotated[str | None, typer.Option(help="The evaluation's name and folder; one for each model.")] = None,
    data: Data = None,
    benchmark: Benchmarks = None,
    prompt_column: PromptColumn = "prompt",
    answer_column: AnswerColumn = "answer",
    samples: Samples = None,
    limit: Limit = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    template: TemplateText = None,
    policy: Annotated[str | None, typer.Option(help="strict or lenient: where an answer may be found.")] = None,
    training: Annotated[
        list[str] | None, typer.Option(help="Training prompts to look for the problems in: a file or job folder.")
    ] = None,
    training_column: Annotated[str | None, typer.Option(help="Column of the prompt in training files.")] = None,
    words: Annotated[int | None, typer.Option(help="Words in a row that make an overlap [default: 13].")] = None,
    in_flight: Annotated[int | None, typer.Option(help="Most requests in flight at all servers together.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the bootstrap [default: 0].")] = None,
    output: Annotated[str | None, typer.Option(help="Folder that the evaluation's own is made in.")] = None,
    beside: Annotated[
        list[str] | None, typer.Option(help="Folder of an earlier evaluation, whose row is shown.")
    ] = None,
) -> None:
    """Measure pass@1 and pass@k on benchmarks, beside what others report. The same command continues a stopped one."""
    from rich.console import Console

    from gen_service.terminal.evaluate import run_evaluate

    flags: dict[str, Any] = {
        "name": name,
        "endpoints": {"urls": server or None, "model": model},
        **_problems(data, benchmark, prompt_column, answer_column, samples, limit),
        "sampling": {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p},
        "template": template,
        "verification": {"policy": policy},
        "overlap": {"training": training or None, "columns": {"prompt": training_column}, "words": words},
        "pool": {"in_flight": in_flight},
        "interval": {"seed": seed},
        "output": output,
    }
    raise typer.Exit(run_evaluate(Console(), _made(spec, flags), beside or []))


def evaluate_run(
    run: Annotated[Path, typer.Argument(help="Folder of the training run, which the servers see under the same path.")],
    spec: Annotated[Path | None, typer.Argument(help="Evaluation spec, YAML or JSON; flags go over it.")] = None,
    server: Server = None,
    data: Data = None,
    benchmark: Benchmarks = None,
    prompt_column: PromptColumn = "prompt",
    answer_column: AnswerColumn = "answer",
    samples: Samples = None,
    limit: Limit = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    template: TemplateText = None,
    follow: Annotated[bool, typer.Option("--follow", help="As long as the training goes on.")] = False,
) -> None:
    """Measure each checkpoint of a training run by the same evaluation: the servers are brought one after another."""
    from rich.console import Console

    from gen_service.terminal.evaluate_run import run_evaluate_run

    flags: dict[str, Any] = {
        "name": "steps",
        "endpoints": {"urls": server or None},
        **_problems(data, benchmark, prompt_column, answer_column, samples, limit),
        "sampling": {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p},
        "template": template,
    }
    raise typer.Exit(run_evaluate_run(Console(), _made(spec, flags), run, follow))


def curves(
    run: Annotated[list[str], typer.Argument(help="Folders of training runs, each with a metrics.jsonl.")],
    metric: Annotated[
        list[str] | None, typer.Option(help="What to draw [default: pass@1 or reward, and the length].")
    ] = None,
    png: Annotated[Path | None, typer.Option(help="Write the curves to this PNG.")] = None,
    window: Annotated[int, typer.Option(min=1, help="Steps in the PNG's running mean.")] = 1,
) -> None:
    """pass@1 or reward, and response length, over training steps: in the terminal and as PNG."""
    from rich.console import Console

    from gen_service.terminal.curves import run_curves

    run_curves(Console(), run, metric or [], png, window)


def _problems(
    data: Path | None,
    benchmark: list[str] | None,
    prompt_column: str,
    answer_column: str,
    samples: int | None,
    limit: int | None,
) -> dict[str, Any]:
    """The flags that say which problems are asked how often."""
    from gen_service.terminal.evaluate import make_benchmarks

    columns = {"prompt": prompt_column, "answer": answer_column}
    return {
        "benchmarks": make_benchmarks(benchmark, columns) if benchmark else None,
        "data": None if data is None else str(data),
        "samples": samples,
        "limit": limit,
    }


def _made(spec: Path | None, flags: dict[str, Any]) -> EvaluationSpec:
    from gen_service.evaluation.evaluation_spec import load_evaluation_spec, make_evaluation_spec

    given = given_flags(flags)
    return make_evaluation_spec(given) if spec is None else load_evaluation_spec(spec, given)
