"""The record of a run: what it says, what it refuses, and what a kill leaves of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

from gen_service.errors import JobLocked, SpecError, StorageError
from gen_service.training.metrics_file import read_metrics
from gen_service.training.record_file import began_with, read_record
from gen_service.training.run_record import RunRecord
from gen_service.training_settings import RunSettings

DATA = {"/traces/job": {"hash": "0123", "parts": 2}}


def spec_of(**optimiser: Any) -> dict[str, Any]:
    return {"model": {"path": "m"}, "optimiser": {"steps": 10, "batch": 2} | optimiser, "run": {"name": "one"}}


def opened(folder: Path, spec: dict[str, Any] | None = None, **more: Any) -> RunRecord:
    settings = RunSettings(path=str(folder), name="one", device_hour_price=2.0)
    return RunRecord.open(settings, "sft", spec or spec_of(), more.pop("data", DATA), **more)


def begin(folder: Path, spec: dict[str, Any] | None = None) -> None:
    """A start that made a step."""
    with opened(folder, spec) as record:
        record.log(1, {"loss": 1.0})


def test_a_run_is_a_folder_that_says_what_it_is_of(tmp_path: Path) -> None:
    with opened(tmp_path) as record:
        assert not record.is_continued
        record.log(2, {"loss": 1.5})
        record.note("examples", {"train": 3})
    tree = read_record(tmp_path / "one")
    assert (tree["version"], tree["kind"], tree["spec"], tree["data"]) == (2, "sft", spec_of(), DATA)
    assert tree["notes"] == {"examples": {"train": 3}}
    assert [start["step"] for start in tree["starts"]] == [0]
    assert tree["starts"][0]["versions"].keys() >= {"gen-service", "torch", "transformers", "trl"}
    with opened(tmp_path) as record:
        assert record.is_continued
    assert [start["step"] for start in read_record(tmp_path / "one")["starts"]] == [0, 2]


def test_cost_adds_up_over_starts(tmp_path: Path) -> None:
    for _ in range(2):
        with opened(tmp_path) as record:
            record.spent(1800.0)
    assert (record.cost.device_hours, record.cost.dollars) == (1.0, 2.0)
    assert record.cost.words() == "1.00 device hours, $2.00"
    tree = read_record(tmp_path / "one")
    assert (tree["device_hours"], tree["dollars"]) == (1.0, 2.0)


def test_going_on_from_a_checkpoint_leaves_each_step_once(tmp_path: Path) -> None:
    with opened(tmp_path) as record:
        for step in (1, 2, 3, 4):
            record.log(step, {"loss": 1 / step})
            record.completions(step, [{"text": f"of step {step}"}])
    with opened(tmp_path) as record:
        record.rewind(2)
        assert record.last["step"] == 2
        assert (record.latest("loss"), record.latest("reward")) == (0.5, None)
        record.log(3, {"loss": 9.0})
    lines = read_metrics(tmp_path / "one" / "metrics.jsonl")
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 0.5), (3, 9.0)]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    assert sorted(path.stem for path in (tmp_path / "one" / "completions").iterdir()) == ["00000001", "00000002"]


def test_completions_of_a_step_are_parquet(tmp_path: Path) -> None:
    with opened(tmp_path) as record:
        record.completions(7, [{"text": "a", "reward": 1.0}])
        record.completions(7, [{"text": "b", "reward": 0.0}])
    rows = pq.read_table(tmp_path / "one" / "completions" / "00000007.parquet").to_pylist()
    assert rows == [{"text": "b", "reward": 0.0}]


def test_a_line_that_a_kill_cut_off_is_dropped(tmp_path: Path) -> None:
    with opened(tmp_path) as record:
        record.log(1, {"loss": 1.0})
    file = tmp_path / "one" / "metrics.jsonl"
    file.write_bytes(file.read_bytes() + b'{"step": 2, "lo')
    with opened(tmp_path) as record:
        record.log(2, {"loss": 0.5})
    assert [line["step"] for line in read_metrics(file)] == [1, 2]


def test_infinite_numbers_are_null_in_the_metrics(tmp_path: Path) -> None:
    with opened(tmp_path) as record:
        record.log(1, {"loss": float("nan"), "gap": float("inf")})
    line = read_metrics(tmp_path / "one" / "metrics.jsonl")[0]
    assert (line["loss"], line["gap"]) == (None, None)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"optimiser": {"steps": 10, "batch": 4}}, "optimiser.batch"),
        ({"optimiser": {"steps": 9, "batch": 2}}, "optimiser.steps"),
        ({"optimiser": {"steps": None, "batch": 2}}, "optimiser.steps"),
        ({"model": {"path": "other"}}, "model.path"),
        ({"packing": True}, "packing"),
    ],
)
def test_the_same_name_with_another_spec_is_refused(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    begin(tmp_path)
    before = (tmp_path / "one" / "run.json").read_bytes()
    with pytest.raises(SpecError) as caught:
        opened(tmp_path, spec_of() | change)
    assert caught.value.field == field
    assert (tmp_path / "one" / "run.json").read_bytes() == before


def test_a_run_that_made_no_step_may_begin_with_another_spec(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with opened(tmp_path, spec_of(batch=4), data={"/traces/other": {"hash": "89"}}):
        pass
    tree = read_record(tmp_path / "one")
    assert (tree["spec"], tree["data"]) == (spec_of(batch=4), {"/traces/other": {"hash": "89"}})


def test_other_data_is_refused(tmp_path: Path) -> None:
    begin(tmp_path)
    with pytest.raises(SpecError, match="/traces/job"):
        opened(tmp_path, data={"/traces/job": {"hash": "4567", "parts": 2}})
    with pytest.raises(SpecError, match="/traces/more"):
        opened(tmp_path, data=DATA | {"/traces/more": {"hash": "89"}})
    with pytest.raises(SpecError, match="/traces/job"):
        opened(tmp_path, data={})


def test_a_record_of_version_1_which_has_hashes_alone_goes_on(tmp_path: Path) -> None:
    begin(tmp_path)
    file = tmp_path / "one" / "run.json"
    old = json.loads(file.read_text()) | {"version": 1, "data": {"/traces/job": "0123"}}
    file.write_text(json.dumps(old))
    settings = RunSettings(path=str(tmp_path), name="one")
    assert began_with(settings) == {"/traces/job": "0123"}
    with pytest.raises(SpecError, match="/traces/job"):
        opened(tmp_path, data={"/traces/job": {"hash": "4567"}})
    assert json.loads(file.read_text()) == old
    with opened(tmp_path) as record:
        assert record.is_continued
    assert (read_record(tmp_path / "one")["version"], began_with(settings)) == (2, DATA)


def test_a_run_began_with_nothing_until_it_made_a_step(tmp_path: Path) -> None:
    settings = RunSettings(path=str(tmp_path), name="one")
    assert began_with(settings) == {}
    opened(tmp_path).close()
    assert began_with(settings) == {}
    begin(tmp_path)
    assert began_with(settings) == DATA
    assert began_with(RunSettings(path="s3://bucket", name="one")) == {}


def test_what_alters_no_step_may_change(tmp_path: Path) -> None:
    spec = spec_of() | {"run": {"name": "one", "log_steps": 10}, "rollouts": {"pool": {"in_flight": 4}}}
    begin(tmp_path, spec)
    changed = spec_of() | {"run": {"name": "one", "log_steps": 1}, "rollouts": {"pool": {"in_flight": 8}}}
    changed["save"] = "merged"  # a field that the version before did not have
    with opened(tmp_path, changed, may_change={"rollouts.pool", "save"}) as record:
        assert record.is_continued
    assert read_record(tmp_path / "one")["spec"] == changed


class Stage(BaseModel):
    tokens: int
    window: int = 20


class Newer(BaseModel, extra="forbid"):
    """A spec of a version that has fields that the record's has not."""

    model: dict[str, Any]
    optimiser: dict[str, Any]
    run: dict[str, Any]
    stages: list[Stage] = []
    compiled: bool = False


def test_a_field_that_came_with_a_later_version_had_its_default_before(tmp_path: Path) -> None:
    begin(tmp_path, spec_of() | {"stages": [{"tokens": 8}]})
    newer = Newer(**spec_of(), stages=[Stage(tokens=8)])
    with pytest.raises(SpecError) as caught:
        opened(tmp_path, newer.model_dump())
    assert caught.value.field == "compiled"
    for change in ({"compiled": True}, {"stages": [Stage(tokens=8, window=3)]}):
        with pytest.raises(SpecError) as caught:
            opened(tmp_path, newer.model_copy(update=change).model_dump(), reads=Newer.model_validate)
        assert [caught.value.field] == list(change)
    with opened(tmp_path, newer.model_dump(), reads=Newer.model_validate) as record:
        assert record.is_continued
    assert read_record(tmp_path / "one")["spec"] == newer.model_dump()


def test_a_field_that_is_no_more_is_named(tmp_path: Path) -> None:
    begin(tmp_path, spec_of() | {"packed": True})
    with pytest.raises(SpecError) as caught:
        opened(tmp_path, Newer(**spec_of()).model_dump(exclude_defaults=True), reads=Newer.model_validate)
    assert caught.value.field == "packed"


def test_a_finished_run_that_shall_make_more_steps_is_not_finished(tmp_path: Path) -> None:
    with opened(tmp_path) as record:
        record.log(10, {"loss": 1.0})
        record.finish(10)
    with opened(tmp_path) as record:
        assert record.finished == 10
    with opened(tmp_path, spec_of(steps=20)) as record:
        assert record.finished is None


def test_one_process_writes_a_run(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(JobLocked):
        opened(tmp_path)
    opened(tmp_path).close()


def test_the_other_processes_of_a_group_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with opened(tmp_path) as record:
        record.log(1, {"loss": 1.0})
        record.completions(1, [{"text": "a"}])
        record.spent(5.0)
        record.rewind(0)
        record.finish(1)
    assert not record.writes
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_another_kind_a_url_and_a_damaged_record_are_refused(tmp_path: Path) -> None:
    settings = RunSettings(path=str(tmp_path), name="one")
    with RunRecord.open(settings, "grpo", spec_of(), {}) as record:
        record.log(1, {"loss": 1.0})
    with pytest.raises(SpecError, match="grpo"):
        opened(tmp_path)
    with pytest.raises(SpecError, match="a local folder"):
        RunRecord.open(RunSettings(path="s3://bucket", name="one"), "sft", {}, {})
    record = tmp_path / "one" / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"version": 3}))
    with pytest.raises(StorageError, match="version 3"):
        opened(tmp_path)
    record.write_text("{")
    with pytest.raises(StorageError, match="cannot be read"):
        opened(tmp_path)
