"""Fleet profiles: read, refused with a clear word, and the shipped ones' arithmetic done again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gen_service.errors import SpecError
from gen_service.planning.fleet_profile import FleetProfile, load_fleet_profile

FLEETS = Path(__file__).resolve().parents[2] / "deploy" / "fleets"
SHIPPED = sorted(FLEETS.glob("*.yaml"))

# DeepSeek-R1 and the H100's data sheet, as the profiles write them.
ROUTED, REST, KV_BYTES, TOKEN_FLOPS = 653.9e9, 17.0e9, 70_272, 74e9
MEMORY, FP8 = 3.35e12, 1979e12


def document() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((FLEETS / "r1-distill-32b-16xtp2.yaml").read_text(encoding="utf-8"))
    return loaded


def written(path: Path, content: object) -> Path:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_profiles_are_read_and_say_where_each_constant_comes_from(path: Path) -> None:
    profile = load_fleet_profile(path)
    assert profile.name == path.stem
    assert profile.gpus == 32
    assert "not measured" in profile.basis
    given = [getattr(profile.engine, name) for name in type(profile.engine).model_fields]
    assert all(one is not None and len(one.source) > 10 for one in given)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("r1-4x8h100-conservative", 1.6), ("r1-4x8h100-throughput", 14.5), ("r1-distill-32b-16xtp2", 4.9)],
)
def test_the_kv_room_of_each_fleet_is_what_the_guide_says(name: str, millions: float) -> None:
    profile = load_fleet_profile(FLEETS / f"{name}.yaml")
    assert profile.servers * profile.engine_profile().kv_tokens == pytest.approx(millions * 1e6, rel=0.01)


def touched(tokens: float) -> float:
    return 1 - (31 / 32) ** tokens


def conservative(batch: int) -> float:
    half = max(1, batch / 2)
    return (REST + ROUTED * touched(half)) / (8 * MEMORY * 0.7) + 61 * 2 * (15e-6 + 0.2e-6 * half) + 3e-3


def throughput(batch: int) -> float:
    tokens = max(1, batch / 8)
    weights = (REST + ROUTED / 32 * touched(4 * batch)) / (MEMORY * 0.7)
    return max(weights, tokens * TOKEN_FLOPS / (FP8 * 0.4)) + 58 * (60e-6 + 368e-6 * tokens / 128) + 3e-3


def distilled(batch: int) -> float:
    return 64e9 / (2 * MEMORY) + 128 * 15e-6 + 1.5e-3 + 10e-6 * (batch - 1)


@pytest.mark.parametrize(
    ("name", "step", "kv_token_s", "prefill_token_s"),
    [
        ("r1-4x8h100-conservative", conservative, KV_BYTES / 2 / 3.0e12, TOKEN_FLOPS / (16 * FP8 * 0.3)),
        ("r1-4x8h100-throughput", throughput, 128 * 2 * 1088 * 61 / 660e12 / 8, TOKEN_FLOPS / (8 * FP8 * 0.3)),
        ("r1-distill-32b-16xtp2", distilled, 2 * 64 * 8 * 128 * 2 / (2 * MEMORY), 64e9 / (2 * 989e12 * 0.5)),
    ],
)
def test_the_constants_are_what_their_sources_work_out_to(
    name: str, step: Callable[[int], float], kv_token_s: float, prefill_token_s: float
) -> None:
    engine = load_fleet_profile(FLEETS / f"{name}.yaml").engine_profile()
    for batch, seconds in engine.step_s:
        assert seconds == pytest.approx(step(batch), rel=0.01)
    for batch in range(1, engine.max_num_seqs + 1, 7):
        assert engine.decode_s(batch) == pytest.approx(step(batch), rel=0.15)
    assert engine.kv_token_s == pytest.approx(kv_token_s, rel=0.01)
    assert engine.prefill_token_s == pytest.approx(prefill_token_s, rel=0.01)


def without(*path: str) -> dict[str, Any]:
    changed = document()
    within = changed
    for key in path[:-1]:
        within = within[key]
    del within[path[-1]]
    return changed


def with_value(value: object, *path: str) -> dict[str, Any]:
    changed = document()
    within = changed
    for key in path[:-1]:
        within = within[key]
    within[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1], "fleet: got "),
        (without("servers"), "fleet.servers: got None; expected a value"),
        (without("engine", "kv_blocks"), "fleet.engine.kv_blocks: got None; expected a value"),
        (without("engine", "step_s", "source"), "fleet.engine.step_s.source: got None; expected a value"),
        (with_value(2, "version"), "fleet.version: got 2; expected 1"),
        (with_value(0, "servers"), "fleet.servers: got 0; expected greater than or equal to 1"),
        (with_value(0, "engine", "kv_blocks", "value"), "fleet.engine.kv_blocks.value: got 0; expected at least 1"),
        (with_value([[4, 1.0], [2, 1.0]], "engine", "step_s", "value"), "fleet.engine.step_s.value: got "),
        (with_value(-1.0, "gpu_hour_price"), "fleet.gpu_hour_price: got -1.0; expected greater than 0"),
        (with_value(2.5, "gpu_hour_price"), "gpu_hour_price and currency together, or neither"),
        (with_value(1, "gpu_hours"), "fleet.gpu_hours: got 1; expected a field that there is"),
    ],
)
def test_a_wrong_profile_is_refused_by_field_value_and_what_is_right(
    tmp_path: Path, content: object, words: str
) -> None:
    with pytest.raises(SpecError) as refused:
        load_fleet_profile(written(tmp_path / "fleet.yaml", content))
    assert words in str(refused.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("a: [1", encoding="utf-8")
    for path in (tmp_path / "none.yaml", tmp_path / "broken.yaml"):
        with pytest.raises(SpecError, match="a readable YAML file"):
            load_fleet_profile(path)


def test_constants_left_out_are_the_engines_own() -> None:
    profile = FleetProfile.model_validate(without("engine", "max_num_seqs"))
    assert profile.engine_profile().max_num_seqs == 256
