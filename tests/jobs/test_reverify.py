"""Judging again: every chosen row once, in order, whatever stops it; and what the verdicts change."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gen_service.errors import SpecError, StorageError
from gen_service.generation.pool import Stop
from gen_service.jobs.gold_problems import gold_problems
from gen_service.jobs.judging import Answered, Choice, Judging, Reading, ReverifyProgress
from gen_service.jobs.reverify import reverify
from gen_service.jobs.summary import summarize
from gen_service.jobs.verdict_changes import compare
from gen_service.jobs.verify_spec import make_choice, make_columns, make_verification
from gen_service.records import Verdict
from gen_service.settings import VerificationSettings
from gen_service.storage.answered_files import open_source
from gen_service.storage.answered_rows import AnswerColumns, Source
from gen_service.storage.destination import open_destination
from gen_service.storage.disk_space import SpaceWaiter
from gen_service.storage.traces import read_traces
from gen_service.storage.verdict_writer import VerdictWriter
from gen_service.storage.verdicts import VerdictSet, list_verdict_sets

SETTINGS = VerificationSettings(workers=1)
CORRECT, WRONG, FAILED = Verdict("correct", "own"), Verdict("incorrect", "own"), Verdict("error", "refused at x")


class Killed(Exception):
    """Stands for the end of the process."""


class ExactJudge:
    """Judges by the texts alone, out of order, and records what it was asked; may end the process."""

    identity = "exact-1-0"

    def __init__(self, dies_at: int | None = None) -> None:
        self.asked: list[str] = []
        self._dies_at = dies_at

    async def judge_many(self, answers: Sequence[Answered]) -> list[Verdict]:
        if self._dies_at is not None and len(self.asked) + len(answers) > self._dies_at:
            raise Killed
        self.asked += [answer.content for answer in answers]
        for _ in range(len(self.asked) % 3):
            await asyncio.sleep(0)
        return [Verdict("correct" if a.gold == a.content else "incorrect", "exact", a.content) for a in answers]


async def judge(source: Source, place: str, judge: ExactJudge, choice: Choice, stop: Stop | None = None) -> bool:
    writer = VerdictWriter(place, source, judge.identity, {}, SpaceWaiter(lambda _: None, lambda _: None))
    progress = ReverifyProgress()
    return await Judging(Reading(source, choice, writer), judge, writer, progress, stop or Stop()).run(most_open=3)


def set_rows(source: Source, place: str) -> list[tuple[str, int]]:
    verdicts = VerdictSet(open_destination(place))
    return [
        (part.name, row) for part in source.parts for row in verdicts.table_of(part.name, []).column("row").to_pylist()
    ]


def all_rows(source: Source) -> list[tuple[str, int, str]]:
    return [(part.name, row.row, row.content) for part in source.parts for rows in part.read(True) for row in rows]


def digests(folder: str) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(folder, "data").iterdir()}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, stored_answer: Any, store_job: Any) -> str:
    """300 rows in parts of 70: right, wrong, without a text, and all were called correct but the failed ones."""

    def row(number: int) -> Any:
        if number % 10 == 9:
            return stored_answer(str(number), None, FAILED, prompt=f"p{number // 3}")
        content = f"\\boxed{{{number + (number % 3 == 0)}}}"
        return stored_answer(str(number), content, CORRECT if number % 4 else WRONG, prompt=f"p{number // 3}")

    rows = [row(number) for number in range(300)]
    return asyncio.run(store_job(tmp_path_factory.mktemp("mixed"), rows, 70))


@hypothesis_settings(max_examples=25)
@given(deaths=st.lists(st.integers(0, 300), max_size=4), limit=st.none() | st.integers(1, 320))
def test_any_kill_leaves_a_set_that_the_same_call_completes(
    mixed: str, tmp_path_factory: pytest.TempPathFactory, deaths: list[int], limit: int | None
) -> None:
    source, place = open_source(mixed), str(tmp_path_factory.mktemp("set"))
    rows, choice = all_rows(source)[:limit], Choice(limit)
    for dies_at in deaths:
        committed = {(part, row) for part, row in set_rows(source, place)}
        texts = Counter(text for part, row, text in rows if (part, row) not in committed and text)
        exact = ExactJudge(dies_at)
        try:
            assert asyncio.run(judge(source, place, exact, choice))
        except* Killed:
            pass
        assert not Counter(exact.asked) - texts, "a committed row was judged again"
        assert set_rows(source, place) == [(part, row) for part, row, _ in rows][: len(set_rows(source, place))]
    assert asyncio.run(judge(source, place, ExactJudge(), choice))
    assert set_rows(source, place) == [(part, row) for part, row, _ in rows]
    last = ExactJudge()
    assert asyncio.run(judge(source, place, last, choice))
    assert last.asked == []


async def test_a_real_verifier_judges_a_job_beside_its_traces(mixed: str, tmp_path: Path) -> None:
    source, before = open_source(mixed), digests(mixed)
    report = await reverify(source, SETTINGS)
    assert (report.complete, report.progress.judged, report.progress.passed, report.progress.expected) == (
        True,
        300,
        300,
        300,
    )
    assert report.place == f"{mixed}/verdicts/{report.verifier}"
    rows = list(read_traces(mixed, ["verdict", "verdict_reason", "verifier", "content"], verdicts=report.verifier))
    expected = ["error" if n % 10 == 9 else "incorrect" if n % 3 == 0 else "correct" for n in range(300)]
    assert [row["verdict"] for row in rows] == expected
    assert {row["verifier"] for row in rows if row["content"] is not None} == {report.verifier}
    assert {row["verdict_reason"] for row in rows if row["content"] is None} == {"refused at x"}
    assert digests(mixed) == before
    assert summarize(mixed, "latest").verdicts == Counter(expected)
    assert summarize(mixed).verdicts == {"correct": 195, "incorrect": 75, "error": 30}

    changes = compare(source, report.place, examples=5)
    own = [row["verdict"] for row in read_traces(mixed, ["verdict"])]
    assert changes.changes == Counter(zip(own, expected, strict=True))
    assert (changes.rows, changes.compared, changes.outcomes) == (300, 300, Counter(expected))
    assert changes.changed == sum(old != new for old, new in zip(own, expected, strict=True))
    kinds = [(one.before, one.after) for one in changes.examples]
    assert kinds[:2] in (
        [("correct", "incorrect"), ("incorrect", "correct")],
        [("incorrect", "correct"), ("correct", "incorrect")],
    )
    assert len(kinds) == 5
    for one in changes.examples:
        number = int(one.sample_id.removeprefix("s"))
        assert (one.gold, one.before, one.after) == (str(number), own[number], expected[number])
        assert (one.before_reason, one.part, one.row) == ("own", source.parts[number // 70].name, number % 70)
        assert one.after_extracted == str(number + (number % 3 == 0))

    again = await reverify(source, SETTINGS)
    assert (again.complete, again.progress.judged, again.progress.passed) == (True, 0, 300)
    assert len(list_verdict_sets(mixed)) == 1


async def test_a_job_that_grew_has_only_its_new_rows_judged(tmp_path: Path, stored_answer: Any, store_job: Any) -> None:
    rows = [stored_answer(str(number), f"\\boxed{{{number}}}", CORRECT) for number in range(45)]
    job = await store_job(tmp_path, rows[:25])
    place, first, second = str(tmp_path / "set"), ExactJudge(), ExactJudge()
    assert await judge(open_source(job), place, first, Choice())
    assert await store_job(tmp_path, rows) == job
    assert await judge(open_source(job), place, second, Choice())
    assert (len(first.asked), second.asked) == (25, [row.content for row in rows[25:]])
    assert len(set_rows(open_source(job), place)) == 45


async def test_only_one_outcome_is_judged_and_the_others_keep_their_own(mixed: str, tmp_path: Path) -> None:
    source, place, exact = open_source(mixed), str(tmp_path / "set"), ExactJudge()
    assert await judge(source, place, exact, Choice(only_outcome="incorrect"))
    own = list(read_traces(mixed, ["verdict", "content"]))
    assert exact.asked == [row["content"] for row in own if row["verdict"] == "incorrect"]
    assert compare(source, place).changes.keys() == {("incorrect", "incorrect")}
    assert await judge(source, place, ExactJudge(), Choice(only_outcome="incorrect", limit=7))
    rest = ExactJudge()
    assert await judge(source, place, rest, Choice())
    assert rest.asked == [row["content"] for row in own if row["verdict"] == "correct"]
    assert set_rows(source, place) == [(part, row) for part, row, _ in all_rows(source)]


async def test_a_stop_keeps_what_is_finished(mixed: str, tmp_path: Path) -> None:
    source, place, stop = open_source(mixed), str(tmp_path / "set"), Stop()

    class Stopping(ExactJudge):
        async def judge_many(self, answers: Sequence[Answered]) -> list[Verdict]:
            stop.ask()
            return await super().judge_many(answers)

    first = Stopping()
    assert not await judge(source, place, first, Choice(), stop)
    done = len(set_rows(source, place))
    assert 0 < len(first.asked) <= done < 300
    second = ExactJudge()
    assert await judge(source, place, second, Choice())
    assert first.asked + second.asked == [text for _, _, text in all_rows(source) if text]


async def test_asked_twice_a_stop_gives_up_what_is_not_finished(mixed: str, tmp_path: Path) -> None:
    source, place, stop = open_source(mixed), str(tmp_path / "set"), Stop()

    class Hanging(ExactJudge):
        async def judge_many(self, answers: Sequence[Answered]) -> list[Verdict]:
            if self.asked:
                stop.ask()
                stop.ask()
                await asyncio.Event().wait()
            return await super().judge_many(answers)

    first = Hanging()
    assert not await judge(source, place, first, Choice(), stop)
    assert len(set_rows(source, place)) == 64


async def test_a_file_is_judged_by_named_columns(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    rows: list[dict[str, object]] = [
        {"gold": str(n), "text": f"\\boxed{{{n + n % 2}}}", "verdict": "correct"} for n in range(150)
    ]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows) + "not JSON\n" + '{"gold": [1, 2], "text": "x"}\n')
    source = open_source(str(file), AnswerColumns(gold="gold", content="text"))
    report = await reverify(source, SETTINGS)
    assert report.place == f"{tmp_path}/answers.verdicts/{report.verifier}"
    assert report.progress.outcomes == {"correct": 75, "incorrect": 75, "error": 1, "ungradable": 1}
    changes = compare(source, report.place)
    assert changes.changes == {("correct", "correct"): 75, ("correct", "incorrect"): 75}
    assert (changes.rows, changes.compared) == (152, 150)
    file.write_text(file.read_text() + '{"gold": "7", "text": "\\\\boxed{7}"}\n')
    grown = await reverify(open_source(str(file), AnswerColumns(gold="gold", content="text")), SETTINGS)
    assert (grown.progress.judged, grown.progress.outcomes) == (1, {"correct": 1})


async def test_a_source_that_cannot_be_read_on_keeps_what_was_judged(
    tmp_path: Path, stored_answer: Any, store_job: Any
) -> None:
    job = await store_job(tmp_path, [stored_answer("1", "\\boxed{1}", CORRECT) for _ in range(30)])
    source, place = open_source(job), str(tmp_path / "set")
    last = tmp_path / "job" / source.parts[2].name
    whole = last.read_bytes()
    last.write_bytes(whole[:100] + bytes(len(whole) - 200) + whole[-100:])
    with pytest.raises(StorageError, match="cannot be read"):
        await judge(source, place, ExactJudge(), Choice())
    assert [part for part, _ in set_rows(source, place)] == [source.parts[0].name] * 10 + [source.parts[1].name] * 10
    last.write_bytes(whole)
    assert await judge(source, place, ExactJudge(), Choice())
    assert len(set_rows(source, place)) == 30


async def test_bad_golds_are_listed_once_a_prompt(tmp_path: Path, stored_answer: Any, store_job: Any) -> None:
    golds = ["7", "\\frac{1}{", "", None, "x^2"]
    rows = [stored_answer(gold, "\\boxed{1}", WRONG, prompt=f"p{n}") for n, gold in enumerate(golds) for _ in range(4)]
    source = open_source(await store_job(tmp_path, rows))
    problems = [problem async for problem in gold_problems(source, SETTINGS)]
    assert [(problem.prompt, problem.sample_id, problem.gold) for problem in problems] == [
        ("p1", "s000004", "\\frac{1}{"),
        ("p2", "s000008", ""),
    ]
    assert all(problem.reason for problem in problems)


def test_settings_are_checked_by_name() -> None:
    made = make_verification({"kind": "exact", "workers": 3}, ["case=false", "tolerance=1e-6", "unit=cm"], "512M")
    assert (made.kind, made.workers, made.memory_bytes) == ("exact", 3, 512 * 2**20)
    assert made.options == {"case": False, "tolerance": 1e-6, "unit": "cm"}
    assert (
        make_verification({}, (), "2147483648").memory_bytes == make_verification({}, (), "2GiB").memory_bytes == 2**31
    )
    for call, words in (
        (lambda: make_verification({"policy": "loose"}), "policy: got 'loose'; expected 'strict' or 'lenient'"),
        (lambda: make_verification({"workers": 0}), "workers: got 0"),
        (lambda: make_verification({}, ["case"]), "option: got 'case'; expected key=value"),
        (lambda: make_verification({}, (), "much"), "memory: got 'much'; expected bytes"),
        (lambda: make_verification({}, (), "1K"), "memory_bytes: got 1024"),
        (lambda: make_choice(None, "late"), "only_outcome: got 'late'; expected one of correct, incorrect"),
    ):
        with pytest.raises(SpecError) as caught:
            call()
        assert str(caught.value).startswith(words)
    assert make_choice(5, "timeout") == Choice(5, "timeout")
    assert make_columns(gold=None, content=None) is None
    assert make_columns(gold="g", content=None) == AnswerColumns(gold="g")
