"""The job spec: every way to write it, what it says when it is wrong, and what makes two jobs the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gen_service.errors import SpecError
from gen_service.jobs.job import JobSpec, load_spec, make_spec, merged

LEAST: dict[str, Any] = {"prompts": "problems.jsonl", "endpoints": "http://127.0.0.1:8000"}
WHOLE: dict[str, Any] = {
    "version": 1,
    "name": "maths-1",
    "prompts": {
        "path": "problems.parquet",
        "format": "parquet",
        "columns": {"prompt": "problem", "answer": "solution", "id": "uuid"},
        "system": "Think first.",
        "template": "{prompt}\nAnswer in \\boxed{{}}.",
        "limit": 100,
    },
    "samples": 4,
    "endpoints": {"urls": ["http://a:1", "http://b:2/v1/"], "model": "m", "stall_s": 5.5},
    "sampling": {"temperature": 1.0, "stop": ["END"], "seed": 7, "extra": {"min_p": 0.1}},
    "truncation": {"policy": "continue", "extra_tokens": 10},
    "pool": {"in_flight": 32, "per_server": 8, "grace_s": 0},
    "verification": {"workers": 2},
    "output": {"path": "traces", "shard_rows": 16},
}


@pytest.mark.parametrize("write", [json.dumps, yaml.safe_dump])
def test_a_file_may_be_json_or_yaml(tmp_path: Path, write: Any) -> None:
    path = tmp_path / "job"
    path.write_text(write(WHOLE))
    spec = load_spec(path)
    assert spec == make_spec(WHOLE)
    assert spec.endpoints.urls == ("http://a:1", "http://b:2")
    assert spec.prompts.columns.answer == "solution"
    assert spec.sampling.stop == ("END",)


def test_short_forms_are_the_long_ones() -> None:
    long = {"prompts": {"path": "problems.jsonl"}, "endpoints": {"urls": ["http://127.0.0.1:8000"]}}
    assert make_spec(LEAST) == make_spec(long)
    assert make_spec(LEAST | {"endpoints": ["http://a:1", "http://b:2"]}).endpoints.urls == ("http://a:1", "http://b:2")
    assert make_spec(LEAST | {"output": "elsewhere"}).output.path == "elsewhere"


def test_overrides_go_over_the_file_field_by_field(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(WHOLE))
    overrides = {"samples": 2, "prompts": {"limit": 3, "columns": {"id": "key"}}, "endpoints": {"urls": ["http://c:3"]}}
    spec = load_spec(path, overrides)
    assert (spec.samples, spec.prompts.limit, spec.prompts.columns.id) == (2, 3, "key")
    assert (spec.prompts.columns.prompt, spec.prompts.path) == ("problem", "problems.parquet")
    assert (spec.endpoints.urls, spec.endpoints.model) == (("http://c:3",), "m")


def test_overrides_of_a_section_written_short_keep_what_it_said(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(LEAST | {"output": "elsewhere"}))
    spec = load_spec(path, {"prompts": {"limit": 3}, "endpoints": {"model": "m"}, "output": {"shard_rows": 5}})
    assert (spec.prompts.path, spec.prompts.limit) == ("problems.jsonl", 3)
    assert (spec.endpoints.urls, spec.endpoints.model) == (("http://127.0.0.1:8000",), "m")
    assert (spec.output.path, spec.output.shard_rows) == ("elsewhere", 5)


def test_servers_may_be_those_of_a_file_and_are_no_part_of_the_job(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(LEAST | {"endpoints": {"file": "servers.txt"}}))
    listed, more = load_spec(path), load_spec(path, {"endpoints": {"urls": ["http://c:3"]}})
    assert (listed.endpoints.file, listed.endpoints.urls) == (Path("servers.txt"), ())
    assert (more.endpoints.file, more.endpoints.urls) == (Path("servers.txt"), ("http://c:3",))
    assert listed.job_id == more.job_id == make_spec(LEAST).job_id
    assert make_spec(listed.model_dump(mode="json")) == listed
    path.write_text(yaml.safe_dump(LEAST))
    both = load_spec(path, {"endpoints": {"file": "servers.txt"}}).endpoints
    assert (both.file, both.urls) == (Path("servers.txt"), ("http://127.0.0.1:8000",))


trees = st.recursive(st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3))


@given(st.dictionaries(st.sampled_from("abc"), trees), st.dictionaries(st.sampled_from("abc"), trees))
def test_merged_holds_all_of_over_and_the_rest_of_under(under: dict[str, Any], over: dict[str, Any]) -> None:
    result = merged(under, over)
    assert merged(result, over) == result
    assert result.keys() == under.keys() | over.keys()
    for key in under.keys() - over.keys():
        assert result[key] == under[key]
    for key, value in over.items():
        assert result[key] == (
            merged(under[key], value) if isinstance(value, dict) and isinstance(under.get(key), dict) else value
        )


@pytest.mark.parametrize(
    ("document", "field", "value", "expected"),
    [
        ({}, "prompts", None, "required"),
        (LEAST | {"samples": 0}, "samples", 0, "greater than or equal to 1"),
        (LEAST | {"samples": "many"}, "samples", "many", "a valid integer"),
        (LEAST | {"smaples": 2}, "smaples", 2, "a field that there is"),
        (LEAST | {"version": 2}, "version", 2, "1"),
        (LEAST | {"name": "../up"}, "name", "../up", "match pattern"),
        (LEAST | {"prompts": {"path": "x", "template": "no slot"}}, "prompts.template", "no slot", "{prompt}"),
        (LEAST | {"endpoints": "10.0.0.1:8000"}, "endpoints.urls", ["10.0.0.1:8000"], "base URL"),
        (LEAST | {"endpoints": {"urls": []}}, "endpoints.urls", [], "at least 1"),
        (LEAST | {"endpoints": {"model": "m"}}, "endpoints.urls", [], "a file of them in endpoints.file"),
        (LEAST | {"endpoints": "dns+https://a"}, "endpoints.urls", ["dns+https://a"], "dns+http://"),
        (LEAST | {"sampling": {"temperature": 3}}, "sampling.temperature", 3, "less than or equal to 2"),
        (LEAST | {"truncation": {"policy": "retry"}}, "truncation.policy", "retry", "'keep', 'drop' or 'continue'"),
        (LEAST | {"pool": {"grace_s": float("inf")}}, "pool.grace_s", float("inf"), "finite"),
        (LEAST | {"samples": 2, "steering": {"correct": 3}}, "steering.correct", 3, "at most 2"),
        (
            LEAST | {"steering": {"correct": 1}, "verification": {"enabled": False}},
            *("verification.enabled", False, "true: without verdicts"),
        ),
        (LEAST | {"steering": {"verified": 0}}, "steering.verified", 0, "greater than or equal to 1"),
        (LEAST | {"order": {"policy": "random"}}, "order.policy", "random", "'longest_first' or 'as_read'"),
        (LEAST | {"sampling": {"extra": {"n": 4}}}, "sampling.extra", {"n": 4}, "'n'"),
        (LEAST | {"sampling": {"extra": {"stream": False}}}, "sampling.extra", {"stream": False}, "'stream'"),
        (LEAST | {"sampling": {"extra": {"max_tokens": 4}}}, "sampling.extra", {"max_tokens": 4}, "'max_tokens'"),
    ],
)
def test_an_error_names_the_field_the_value_and_what_would_be_right(
    document: dict[str, Any], field: str, value: object, expected: str
) -> None:
    with pytest.raises(SpecError) as caught:
        make_spec(document)
    assert caught.value.field == field
    assert caught.value.value == value or list(caught.value.value) == value  # type: ignore[call-overload]
    assert expected in caught.value.expected
    assert not caught.value.expected.startswith("input should")
    assert str(caught.value).startswith(f"{field}: got ")


@pytest.mark.parametrize("text", [None, "- a\n- b\n", "just words", "a: [", "\udcff"])
def test_a_file_that_is_no_spec_is_named(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "job.yaml"
    if text is not None:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    assert (caught.value.field, caught.value.value) == ("spec", str(path))


SHAPING: list[dict[str, Any]] = [
    {"endpoints": {"model": "other"}},
    {"prompts": {"system": "Be brief."}},
    {"prompts": {"template": "Q: {prompt}"}},
    {"prompts": {"columns": {"prompt": "question"}}},
    {"sampling": {"temperature": 0.1}},
    {"sampling": {"max_tokens": 17}},
    {"sampling": {"seed": 3}},
    {"sampling": {"extra": {"min_p": 0.5}}},
    {"truncation": {"policy": "drop"}},
]
NOT_SHAPING: list[dict[str, Any]] = [
    {"samples": 9},
    {"prompts": {"limit": 9}},
    {"endpoints": {"urls": ["http://elsewhere:9"]}},
    {"endpoints": {"stall_s": 9}},
    {"endpoints": {"api_key": "secret"}},
    {"pool": {"in_flight": 9}},
    {"verification": {"workers": 9}},
    {"output": {"path": "elsewhere"}},
]


@pytest.mark.parametrize("change", SHAPING)
def test_what_shapes_answers_makes_another_job(change: dict[str, Any]) -> None:
    here, there = make_spec(LEAST), make_spec(merged(LEAST, change))
    assert there.identity() != here.identity()
    assert there.parameters != here.parameters
    assert there.job_id != here.job_id


@pytest.mark.parametrize("change", NOT_SHAPING)
def test_what_does_not_shape_answers_is_the_same_job(change: dict[str, Any]) -> None:
    here, there = make_spec(LEAST), make_spec(merged(LEAST, change))
    assert there.identity() == here.identity()
    assert there.job_id == here.job_id


def test_another_source_is_another_job_with_the_same_identity() -> None:
    here, there = make_spec(LEAST), make_spec(LEAST | {"prompts": "others.jsonl"})
    assert there.identity() == here.identity()
    assert there.job_id != here.job_id


def test_ids_never_change() -> None:
    """A changed default would make every unnamed job begin again."""
    assert make_spec(LEAST).job_id == "job-398fa41b227c546f"
    assert make_spec(WHOLE).job_id == "maths-1"


def test_an_identity_is_plain_json_and_a_dump_holds_no_secret() -> None:
    spec = make_spec(merged(WHOLE, {"endpoints": {"api_key": "sk-secret"}}))
    assert json.loads(json.dumps(spec.identity())) == spec.identity()
    assert "sk-secret" not in json.dumps(spec.model_dump(mode="json"))
    assert "sk-secret" not in repr(spec)


def test_a_dump_is_a_spec_again() -> None:
    spec = make_spec(WHOLE)
    assert JobSpec.model_validate(spec.model_dump(mode="json")) == spec
