"""What a plan knows of a job's prompts: all are counted, the first are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gen_service.errors import SpecError
from gen_service.jobs.job import JobSpec, make_spec
from gen_service.planning.job_shape import prompt_tokens, read_shape


def spec_of(path: Path, rows: list[Any], **fields: Any) -> JobSpec:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return make_spec({"prompts": {"path": str(path)}, "endpoints": "http://127.0.0.1:1", **fields})


def test_every_prompt_is_counted_and_bad_rows_are_not(tmp_path: Path) -> None:
    rows: list[Any] = [{"prompt": "x" * 400, "answer": "1"}, "{broken", {"prompt": "y" * 40}, {"prompt": "y" * 40}]
    shape = read_shape(spec_of(tmp_path / "p.jsonl", rows, samples=3), 1000)
    assert (shape.prompts_in_all, shape.samples_in_all, shape.rejected, shape.is_whole) == (2, 6, 2, True)
    assert shape.prompt_tokens == 3 * (105 + 15) == 3 * sum(map(prompt_tokens, shape.prompts))
    assert [prompt.answer for prompt in shape.prompts] == [None, None]


@pytest.mark.parametrize(("most", "kept"), [(1, 1), (7, 1), (8, 2), (39, 9), (40, 10), (1000, 10)])
def test_as_many_prompts_are_kept_as_may_be_simulated(tmp_path: Path, most: int, kept: int) -> None:
    rows = [{"prompt": f"What is {number} + 1?"} for number in range(10)]
    shape = read_shape(spec_of(tmp_path / "p.jsonl", rows, samples=4), most)
    assert [prompt.row for prompt in shape.prompts] == list(range(1, kept + 1))
    assert (shape.samples_in_all, shape.is_whole) == (40, kept == 10)


def test_lines_of_a_batch_say_themselves_how_many(tmp_path: Path) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    rows = [
        {"custom_id": str(n), "method": "POST", "url": "/v1/chat/completions", "body": {**body, "n": n}}
        for n in (1, 5, 2)
    ]
    spec = spec_of(tmp_path / "b.jsonl", rows).model_copy()
    spec = spec.model_copy(update={"prompts": spec.prompts.model_copy(update={"format": "batch"})})
    shape = read_shape(spec, 6)
    assert (shape.samples_in_all, len(shape.prompts)) == (8, 2)


def test_a_source_without_prompts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="at least one usable prompt"):
        read_shape(spec_of(tmp_path / "p.jsonl", ["{broken"]), 10)
    with pytest.raises(SpecError, match="a file that exists"):
        read_shape(make_spec({"prompts": str(tmp_path / "none.jsonl"), "endpoints": "http://127.0.0.1:1"}), 10)
