"""Which traces become examples, why the others do not, and what is wrong with those that nobody can learn from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.errors import SpecError, StorageError
from gen_service.records import Message, Trace, Verdict
from gen_service.tiny_model import CHECKPOINT
from gen_service.training.example_files import example_files
from gen_service.training.pinned_traces import pinned
from gen_service.training.trace_examples import Example, TraceExamples, is_held_out
from gen_service.training_settings import TraceSettings

Solved = Callable[..., list[Trace]]
Publish = Callable[[Path, Sequence[Trace]], str]


@pytest.fixture(scope="module")
def chat() -> Any:
    transformers = pytest.importorskip("transformers")
    from gen_service.training.chat import ChatFormat

    return ChatFormat(transformers.AutoTokenizer.from_pretrained(CHECKPOINT), "\n")


def changed(trace: Trace, **completion: Any) -> Trace:
    """The trace with other fields of its completion; `verdict` and `messages` where they are given."""
    verdict, messages = completion.pop("verdict", None), completion.pop("messages", None)
    if messages is not None:
        prompt = dataclasses.replace(trace.sample.prompt, messages=messages)
        trace = dataclasses.replace(trace, sample=dataclasses.replace(trace.sample, prompt=prompt))
    if verdict is not None:
        trace = dataclasses.replace(trace, verdict=Verdict(verdict, "by test"))
    assert trace.completion is not None
    return dataclasses.replace(trace, completion=dataclasses.replace(trace.completion, **completion))


def read(chat: Any, path: str, context: int = 2048, **settings: Any) -> tuple[list[Example], TraceExamples]:
    examples = TraceExamples(TraceSettings(paths=(path,), **settings), chat, context)
    return list(examples), examples


def test_each_trace_is_kept_or_left_out_for_one_stated_reason(
    chat: Any, solved: Solved, publish: Publish, tmp_path: Path
) -> None:
    good = solved(40)
    traces = [*good[:30], good[0], changed(good[1], content="Also \\boxed{1}."), changed(good[2], verdict="incorrect")]
    traces += [changed(good[30], finish_reason="length"), changed(good[31], reasoning="1 + 1 = 2\n" * 500)]
    traces += [changed(good[32], reasoning="1 + 1 = 2\n" * 60), changed(good[33], reasoning=None, content="9")]
    job = publish(tmp_path / "job", traces)
    kept, examples = read(chat, job, per_prompt=1, min_tokens=8, max_tokens=3000)
    counts = examples.counts
    assert dict(counts.dropped) == {
        "duplicate": 1, "per_prompt": 1, "verdict": 1, "unfinished": 1, "too_long": 1, "too_short": 1
    }  # fmt: skip
    assert counts.read == len(traces) == len(kept) + counts.dropped.total()
    assert counts.train == len(kept) == 31
    assert counts.completion_tokens == sum(len(example.completion_ids) for example in kept)
    assert counts.longest == max(len(example.prompt_ids) + len(example.completion_ids) for example in kept)
    assert "left out: " in counts.words()


def test_a_trace_longer_than_the_context_is_left_out_never_cut(
    chat: Any, solved: Solved, publish: Publish, tmp_path: Path
) -> None:
    job = publish(tmp_path / "job", solved(60))
    everything, _ = read(chat, job)
    lengths = [len(example.prompt_ids) + len(example.completion_ids) for example in everything]
    context = sorted(lengths)[30]
    kept, examples = read(chat, job, context=context)
    assert kept == [example for example, length in zip(everything, lengths, strict=True) if length <= context]
    assert examples.counts.dropped == {"context": sum(length > context for length in lengths)}
    assert all(example.completion_ids[-1] == chat.end_of_turn for example in kept)


def test_sources_verdicts_and_a_set_of_verdicts_choose(
    chat: Any, solved: Solved, publish: Publish, tmp_path: Path
) -> None:
    traces = [changed(trace, verdict="incorrect") if number % 3 else trace for number, trace in enumerate(solved(30))]
    job = publish(tmp_path / "job", traces)
    assert read(chat, job)[1].counts.train == 10
    assert read(chat, job, verdicts=("correct", "incorrect"))[1].counts.train == 30
    of_one = read(chat, job, verdicts=("incorrect", "correct"), sources=("tiny/addition",))[1].counts
    assert of_one.train == sum(trace.sample.prompt.source == "tiny/addition" for trace in traces)
    with pytest.raises(SpecError, match="no set of verdicts"):
        read(chat, job, verdict_set="latest")


def test_several_jobs_are_read_in_order_and_what_grows_is_pinned_otherwise(
    chat: Any, solved: Solved, publish: Publish, tmp_path: Path
) -> None:
    traces = solved(30)
    first, second = publish(tmp_path / "a", traces[:10]), publish(tmp_path / "b", traces[10:20])
    settings = TraceSettings(paths=(first, second))
    before = pinned(settings, {})
    assert before == pinned(settings, {})
    together = [example.prompt_ids for example in TraceExamples(settings, chat, 2048)]
    assert together == [example.prompt_ids for job in (first, second) for example in read(chat, job)[0]]
    publish(tmp_path / "b", traces[20:])
    after = pinned(settings, {})
    assert (after[first] == before[first], after[second] == before[second]) == (True, False)


def test_no_prompt_is_on_both_sides(chat: Any, solved: Solved, publish: Publish, tmp_path: Path) -> None:
    traces = solved(60)
    more = [changed(trace, content="So \\boxed{1}.") for trace in traces]
    job = publish(tmp_path / "job", [*traces, *more])
    kept, examples = read(chat, job, held_out=0.3)
    sides = [{tuple(example.prompt_ids) for example in kept if example.is_held_out is side} for side in (True, False)]
    assert sides[0].isdisjoint(sides[1])
    assert examples.counts.held_out + examples.counts.train == 120
    assert 10 <= examples.counts.held_out <= 60


@given(ids=st.lists(st.text(max_size=12)), share=st.floats(0.0, 1.0, exclude_max=True), more=st.floats(0.0, 0.5))
def test_a_larger_held_out_share_only_adds_prompts(ids: list[str], share: float, more: float) -> None:
    smaller = {prompt for prompt in ids if is_held_out(prompt, share)}
    larger = {prompt for prompt in ids if is_held_out(prompt, min(share + more, 0.999))}
    assert smaller <= larger or share + more >= 0.999
    assert not any(is_held_out(prompt, 0.0) for prompt in ids)


BROKEN = [
    ({"content": None}, "`content` is null, though its verdict is correct"),
    ({"messages": ()}, "`messages` hold no message"),
    ({"content": "", "reasoning": None}, "`content` and `reasoning` are empty"),
    ({"messages": (Message(role="user", content=None),)}, "null role or content"),  # type: ignore[typeddict-item]
    ({"messages": (Message(role="tool", content="x"),)}, "unknown role tool"),
]


@pytest.mark.parametrize(("damage", "words"), BROKEN)
def test_a_broken_row_is_named_with_its_file(
    damage: dict[str, Any], words: str, chat: Any, solved: Solved, publish: Publish, tmp_path: Path
) -> None:
    traces = solved(90)
    traces[70] = changed(traces[70], **damage)
    job = publish(tmp_path / "job", traces)
    with pytest.raises(SpecError) as caught:
        read(chat, job)
    assert caught.value.value == f"{job}/data/part-000001.parquet row 70"
    assert words in str(caught.value)


def test_a_damaged_file_is_named(chat: Any, solved: Solved, publish: Publish, tmp_path: Path) -> None:
    job = publish(tmp_path / "job", solved(30))
    file = Path(job) / "data" / "part-000001.parquet"
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", bytes(200) + whole[200:-2000] + bytes(2000)):
        file.write_bytes(damaged)
        with pytest.raises(StorageError, match=r"part-000001\.parquet is damaged"):
            read(chat, job)
    file.unlink()
    with pytest.raises(StorageError, match=r"part-000001\.parquet is named by a manifest, but is not there"):
        read(chat, job)


@pytest.mark.parametrize(
    ("settings", "context", "words"),
    [
        ({"verdicts": ("unverified",)}, 2048, "left out: verdict 20"),
        ({"sources": ("elsewhere",)}, 2048, "left out: source 20"),
        ({}, 8, "left out: context 20"),
        ({"held_out": 0.9999999}, 2048, "20 held out"),
    ],
)
def test_when_nothing_is_left_the_filter_and_the_counts_are_named(
    settings: dict[str, Any], context: int, words: str, chat: Any, solved: Solved, publish: Publish, tmp_path: Path
) -> None:
    job = publish(tmp_path / "job", solved(20))
    with pytest.raises(SpecError) as caught:
        read(chat, job, context, **settings)
    assert caught.value.field == "traces"
    assert words in str(caught.value)
    for name in settings:
        assert name in str(caught.value)


def test_examples_lie_on_disk_and_are_taken_from_there_again(
    chat: Any, solved: Solved, publish: Publish, tmp_path: Path
) -> None:
    job = publish(tmp_path / "job", solved(150))
    kept, _ = read(chat, job, held_out=0.2)
    settings = TraceSettings(paths=(job,), held_out=0.2)
    files = example_files(tmp_path / "examples", TraceExamples(settings, chat, 2048), "one")
    for side, path in ((False, files.train), (True, files.held_out)):
        rows = datasets.Dataset.from_file(str(path))
        expected = [example for example in kept if example.is_held_out is side]
        assert rows["input_ids"][:] == [example.prompt_ids + example.completion_ids for example in expected]
        assert rows["labels"][:] == [[-100] * len(one.prompt_ids) + one.completion_ids for one in expected]
        assert rows.cache_files[0]["filename"] == str(path)  # mapped from the file, not in memory
    again = example_files(tmp_path / "examples", TraceExamples(settings, chat, 2048), "one")
    assert (files.was_there, again.was_there, again.counts) == (False, True, files.counts)
    assert not example_files(tmp_path / "examples", TraceExamples(settings, chat, 2048), "two").was_there


def test_examples_that_end_in_an_error_leave_no_file(
    chat: Any, solved: Solved, publish: Publish, tmp_path: Path
) -> None:
    traces = solved(100)
    job = publish(tmp_path / "job", [*traces[:99], changed(traces[99], content=None)])
    with pytest.raises(SpecError, match="row 99"):
        example_files(tmp_path / "examples", TraceExamples(TraceSettings(paths=(job,)), chat, 2048), "one")
    assert list((tmp_path / "examples").iterdir()) == []
