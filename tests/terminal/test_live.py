"""The numbers of the live view."""

from __future__ import annotations

import asyncio

import pytest
from rich.console import Console

from gen_service.generation.progress import Progress
from gen_service.jobs.job import make_spec
from gen_service.jobs.rates import Rate, Rates
from gen_service.jobs.runner import RunningJob
from gen_service.storage.manifest import PublishedCounts
from gen_service.terminal import live
from gen_service.terminal.live import JobView, duration, line, view

SPEC = make_spec({"prompts": "x.jsonl", "endpoints": "http://127.0.0.1:1"})


def running(expected: int | None = 100) -> RunningJob:
    return RunningJob(SPEC, Progress(expected=expected), PublishedCounts(), "out/job")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "-"), (0, "0s"), (12.4, "12s"), (59.6, "1m00s"), (185, "3m05s"), (3599.7, "1h00m"), (3720, "1h02m")],
)
def test_durations_are_words(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize("expected", [None, 0, 100])
def test_the_view_and_the_line_show_the_same_numbers(expected: int | None) -> None:
    job, console = running(expected), Console(record=True, width=160)
    job.progress.published = 1234
    job.progress.outcomes.update({"correct": 1000, "error": 234})
    rate = Rates().at(1.0, job.progress)
    console.print(view(job, rate))
    text = console.export_text()
    assert "1,234/" in text
    assert "correct 1,000" in text
    assert "correct=1000 error=234" in line(job, rate)


@pytest.mark.parametrize("is_terminal", [True, False])
async def test_a_view_closes_without_a_task_left(is_terminal: bool) -> None:
    console = Console(record=True, width=160, force_terminal=is_terminal)
    async with JobView(console) as shown:
        shown.notice("ejected http://a: [bold] words")
        shown.show(running())
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert "ejected http://a: [bold] words" in console.export_text()


async def test_the_rates_of_a_job_begin_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: asyncio.Queue[str] = asyncio.Queue()

    def heard(job: RunningJob, rate: Rate) -> str:
        lines.put_nowait(line(job, rate))
        return ""

    monkeypatch.setattr(live, "LINE_S", 0.0)
    monkeypatch.setattr(live, "line", heard)
    first, second = running(), running()
    first.progress.published, first.progress.completion_tokens = 5000, 90_000
    async with JobView(Console(record=True, width=160)) as shown:
        shown.show(first)
        shown.show(second)
        assert "0.0 traces/s  0 tokens/s" in await lines.get()
