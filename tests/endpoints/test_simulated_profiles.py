"""Engine profiles by name, from files, and what is said of wrong ones."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from gen_service.endpoints.simulated.engine_profile import R1_DISTILL_32B_TP2_H100, EngineProfile
from gen_service.endpoints.simulated.profiles import engine_profile
from gen_service.errors import SpecError

FLEETS = Path(__file__).parents[2] / "deploy" / "fleets"


def test_a_name_a_mapping_and_a_file_give_the_same(tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    text = json.dumps(dataclasses.asdict(R1_DISTILL_32B_TP2_H100))
    file.write_text(text)
    named = engine_profile("r1-distill-32b-tp2-h100")
    assert named == R1_DISTILL_32B_TP2_H100
    assert engine_profile(text) == named
    assert engine_profile(str(file)) == named


def test_what_is_not_said_is_the_default() -> None:
    assert engine_profile("{kv_blocks: 70, step_s: [[1, 0.5]]}") == EngineProfile(70, step_s=((1, 0.5),))


@pytest.mark.parametrize("path", sorted(FLEETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_engine_of_each_fleet_profile_is_read(path: Path) -> None:
    profile = engine_profile(str(path))
    assert profile.kv_tokens > 32768
    assert profile.stream_interval == 32


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("no such name", "engine"),
        ("{kv_blocks", "engine"),
        ("[{}]", "engine"),
        ("{kv_blocks: 3, blocks: 4}", "engine.blocks"),
        ("{block_size: 3}", "engine.kv_blocks"),
        ("{kv_blocks: 3, step_s: 7}", "engine"),
        ("{kv_blocks: many}", "engine"),
        ("{kv_blocks: 0}", "profile.kv_blocks"),
    ],
)
def test_a_wrong_profile_names_its_field(text: str, field: str) -> None:
    with pytest.raises(SpecError) as caught:
        engine_profile(text)
    assert caught.value.field == field
