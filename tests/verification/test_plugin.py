"""Kinds of the user's own: what they may give, and whatever they do instead."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from gen_service.errors import SpecError
from gen_service.records import Verdict
from gen_service.settings import VerificationSettings
from gen_service.verification.verify import Answered, Verifier

Forkservers = Callable[[], list[psutil.Process]]

MIB = 2**20


def settings(
    kind: str, options: dict[str, object] | None = None, wall_s: float = 60, cpu_s: float = 5, workers: int = 1
) -> VerificationSettings:
    return VerificationSettings(
        kind=kind, options=options or {}, workers=workers, cpu_s=cpu_s, wall_s=wall_s, memory_bytes=512 * MIB
    )


def boxed(gold: str, *answers: str) -> list[Answered]:
    return [Answered(gold, None, f"\\boxed{{{answer}}}", "stop") for answer in answers]


NOT = "not a bool, a finite number, (bool, str) or a Grade"
GIVEN = {
    "yes": ("correct", "by user_kinds:given"),
    "no": ("incorrect", "by user_kinds:given"),
    "half": ("correct", "0.5 by user_kinds:given, correct from 0.5 on"),
    "less": ("incorrect", "0.49 by user_kinds:given, correct from 0.5 on"),
    "one": ("correct", "1 by user_kinds:given, correct from 0.5 on"),
    "nan": ("error", f"the plug-in gave nan, {NOT}"),
    "told": ("correct", "because"),
    "told score": ("incorrect", "hardly"),
    "grade": ("unparsable", "no such thing"),
    "bad grade": ("error", f"the plug-in gave a Grade of outcome 'no_answer', {NOT}"),
    "none": ("error", f"the plug-in gave a value of type NoneType, {NOT}"),
    "text": ("error", f"the plug-in gave a value of type str, {NOT}"),
    "unknown": ("error", "KeyError: 'unknown'"),
}  # fmt: skip


async def test_what_a_callable_gives_is_the_verdict(user_kinds: str) -> None:
    async with Verifier(settings(f"{user_kinds}:given")) as verifier:
        verdicts = await verifier.judge_many(boxed("g", *GIVEN))
        assert {text: (one.outcome, one.reason) for text, one in zip(GIVEN, verdicts, strict=True)} == GIVEN
        assert {one.path for one in verdicts if one.outcome != "error"} == {"plugin"}
        assert {one.verifier for one in verdicts} == {verifier.identity}
        assert (verifier.workers_started, verifier.workers_ended) == (1, 0)
    assert "user_kinds" not in sys.modules


HOSTILE = {
    "raise": ("error", "LookupError: nothing here"),
    "exit": ("error", "SystemExit: enough"),
    "leave": ("error", "two verifier processes died during this check"),
    "abort": ("error", "two verifier processes died during this check"),
    "spin": ("timeout", "CPU limit of 0.3 s"),
    "sleep": ("timeout", "wall limit of 1 s"),
    "deaf": ("timeout", "wall limit of 1 s"),
    "allocate": ("error", "verifier ran out of memory (limit 512 MiB)"),
    "print": ("incorrect", "by user_kinds:hostile"),
    "fork": ("incorrect", "by user_kinds:hostile"),
    "g": ("correct", "by user_kinds:hostile"),
}


@pytest.mark.parametrize("together", [True, False])
async def test_whatever_a_callable_does_is_a_verdict_and_disturbs_nobody(
    user_kinds: str, together: bool, capfd: pytest.CaptureFixture[str], forkservers: Forkservers
) -> None:
    items = boxed("g", *(text for name in HOSTILE for text in (name, "g")))
    async with Verifier(settings(f"{user_kinds}:hostile", wall_s=1, cpu_s=0.3, workers=2)) as verifier:
        if together:
            verdicts = await verifier.judge_many(items)
        else:
            verdicts = list(await asyncio.gather(*map(verifier.judge, items)))
    found = {text: (one.outcome, one.reason) for text, one in zip(HOSTILE, verdicts[::2], strict=True)}
    assert found == HOSTILE
    assert {one.outcome for one in verdicts[1::2]} == {"correct"}
    assert all(one.extracted for one in verdicts)
    assert capfd.readouterr().out == ""
    assert forkservers() == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can adopt orphans")
async def test_what_a_callable_leaves_behind_ends_with_its_worker(user_kinds: str, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    async with Verifier(settings(f"{user_kinds}:hostile")) as verifier:
        assert (await verifier.check("g", f"daemon {path}")).outcome == "incorrect"
        left = psutil.Process(int(path.read_text()))
        assert left.is_running()
        assert (await verifier.check("g", "leave")).outcome == "error"
        assert not psutil.wait_procs([left], timeout=20)[1]


async def test_a_kind_object_says_what_it_wants(user_kinds: str) -> None:
    text = "<think>so</think>\nan essay "
    async with Verifier(settings(f"{user_kinds}:essay")) as verifier:
        verdict = await verifier.judge(Answered("an essay", None, text, "stop"))
        assert verdict == Verdict("correct", "compared", None, None, "text", "plugin", verdict.cpu_s, verifier.identity)
        assert verifier.identity.startswith("user_kinds.essay-8-")
        outcomes = [(await verifier.judge(Answered("a", None, text, "length"))).outcome]
        outcomes += [one.outcome for one in await verifier.judge_many([Answered("a", None, " ", "stop")])]
        assert outcomes == ["truncated", "no_answer"]


async def test_options_are_given_to_the_callable(user_kinds: str) -> None:
    async with Verifier(settings(f"{user_kinds}:same_length", {"within": 2})) as verifier:
        assert (await verifier.check("1234", "12")).outcome == "correct"
        assert (await verifier.check("1234", "1")).outcome == "incorrect"


REFUSED = [
    ("user_kinds:same_length", {"without": 2}, "what the callable takes beside two texts"),
    ("user_kinds:careful", {"within": 2}, "it has: none"),
    ("user_kinds:later", {}, "of type function"),
    ("user_kinds:not_callable", {}, "of type str"),
    ("user_kinds:missing", {}, "has no attribute 'missing'"),
    ("broken_kinds:grade", {}, r"one that loads \(RuntimeError: a part is missing\)"),
]


@pytest.mark.parametrize(("kind", "options", "words"), REFUSED)
async def test_a_plug_in_that_does_not_load_is_an_error_of_the_spec(
    user_kinds: str, forkservers: Forkservers, kind: str, options: dict[str, object], words: str
) -> None:
    with pytest.raises(SpecError, match=words):
        async with Verifier(settings(kind, options)):
            pass
    assert forkservers() == []
    assert "broken_kinds" not in sys.modules


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("mathh", "expected one of math, exact, multiple_choice, numeric, or module:function"),
        ("no_such_module:grade", "no 'no_such_module' on the import path"),
        ("user_kinds.inside:grade", "no 'user_kinds.inside'"),
        ("user_kinds:", "expected module:function"),
        ("../user_kinds:given", "expected module:function"),
        ("__main__:grade", "expected a module that can be imported"),
    ],
)
def test_a_kind_that_is_not_there_is_an_error_of_the_spec(user_kinds: str, kind: str, words: str) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        Verifier(settings(kind))
    assert caught.value.field == "verification.kind"


async def test_an_installed_plug_in_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "package" / "inside").mkdir(parents=True)
    (tmp_path / "package" / "__init__.py").write_text("raise RuntimeError('imported by the controller')\n")
    package = tmp_path / "lengths-1.2.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: lengths\nVersion: 1.2\n")
    (package / "entry_points.txt").write_text("[gen_service.kinds]\nlengths = package.inside.kinds:grade\n")
    source = tmp_path / "package" / "inside" / "kinds.py"
    source.write_text("def grade(gold, answer):\n    return len(gold) == len(answer)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SpecError, match="RuntimeError: imported by the controller"):
        await Verifier(settings("lengths")).__aenter__()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "inside" / "__init__.py").write_text("")
    async with Verifier(settings("lengths")) as verifier:
        assert (await verifier.check("abc", "xyz")).outcome == "correct"
        before = verifier.identity
    source.write_text("def grade(gold, answer):\n    return len(gold) != len(answer)\n")
    assert Verifier(settings("lengths")).identity != before
    with pytest.raises(SpecError, match="one of math, exact, multiple_choice, numeric, lengths, or module:function"):
        Verifier(settings("length"))


GOLDS = [
    ("spins", "ungradable", "the gold alone takes more than 0.3 s of CPU time", 1),
    ("sleeps", "timeout", "wall limit of 1 s", 2),
    ("bad", "ungradable", "it is bad", 1),
    ("raises", "error", "LookupError: no gold", 2),
]


@pytest.mark.parametrize(("gold", "outcome", "reason", "requests"), GOLDS)
async def test_a_gold_is_looked_at_once_unless_load_or_chance_decided(
    user_kinds: str, gold: str, outcome: str, reason: str, requests: int
) -> None:
    async with Verifier(settings(f"{user_kinds}:careful", wall_s=1, cpu_s=0.3)) as verifier:
        together = await asyncio.gather(*(verifier.check(gold, text) for text in "abc"))
        assert {(grade.outcome, grade.reason) for grade in together} == {(outcome, reason)}
        assert verifier.worker_requests == 1
        assert (await verifier.check(gold, "d")).reason == reason
        assert verifier.worker_requests == requests


@pytest.mark.parametrize(("gold", "outcome", "reason", "requests"), GOLDS)
async def test_a_bad_gold_costs_a_batch_no_more_workers_than_one_by_one(
    user_kinds: str, gold: str, outcome: str, reason: str, requests: int
) -> None:
    async with Verifier(settings(f"{user_kinds}:careful", wall_s=1, cpu_s=0.3)) as verifier:
        verdicts = await verifier.judge_many([*boxed(gold, "a", "b"), *boxed("fine", "fine")])
        assert [one.outcome for one in verdicts] == [outcome, outcome, "correct"]
        assert {one.reason for one in verdicts[:2]} == {reason}
        assert verifier.workers_ended == {"spins": 1, "sleeps": 2}.get(gold, 0)
