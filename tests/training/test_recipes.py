"""The files that ship: each is read by what it is made for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gen_service.training.sft_spec import SftSpec
from gen_service.training.spec_files import read_spec

SHIPPED = Path(__file__).parents[2] / "deploy" / "training"
LAUNCHES = sorted((SHIPPED / "accelerate").glob("*.yaml"))
RECIPES = sorted((SHIPPED / "recipes").glob("*sft.yaml"))


def test_what_was_promised_ships() -> None:
    assert [path.stem for path in LAUNCHES] == ["ddp", "fsdp2", "single_gpu", "zero1", "zero2", "zero3"]
    assert {"qwen2.5-1.5b-sft", "qwen2.5-7b-sft", "tiny-sft"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", LAUNCHES, ids=lambda path: path.stem)
def test_accelerate_reads_each_configuration(path: Path) -> None:
    config_args = pytest.importorskip("accelerate.commands.config.config_args")
    config = config_args.load_config_from_file(str(path))
    kinds = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "single_gpu": "NO"}
    assert config.distributed_type == kinds.get(path.stem, "DEEPSPEED")
    assert config.use_cpu is False
    # Else it would go over the spec's `model.dtype`, without a word.
    assert config.mixed_precision is None


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_reads_each_of_its_configurations(stage: int) -> None:
    deepspeed = pytest.importorskip("accelerate.utils.deepspeed")
    config_args = pytest.importorskip("accelerate.commands.config.config_args")
    config = config_args.load_config_from_file(str(SHIPPED / "accelerate" / f"zero{stage}.yaml"))
    named = SHIPPED.parents[1] / config.deepspeed_config["deepspeed_config_file"]
    read = deepspeed.HfDeepSpeedConfig(json.loads(named.read_text()))
    assert read.get_value("zero_optimization.stage") == stage
    assert read.is_zero3() == (stage == 3)
    assert config.deepspeed_config["zero3_init_flag"] == (stage == 3)


def test_fsdp_reads_its_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    config_args = pytest.importorskip("accelerate.commands.config.config_args")
    utils = pytest.importorskip("accelerate.utils")
    config = config_args.load_config_from_file(str(SHIPPED / "accelerate" / "fsdp2.yaml"))
    for name, value in config.fsdp_config.items():  # as `accelerate launch` hands them over
        monkeypatch.setenv(name.upper(), str(value).lower() if isinstance(value, bool) else str(value))
    plugin = utils.FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert "SHARDED_STATE_DICT" in str(plugin.state_dict_type)
    assert plugin.reshard_after_forward is True


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_recipe_is_a_spec(path: Path) -> None:
    spec = read_spec(SftSpec, path)
    assert spec.run.name == path.stem
    assert spec.traces.verdicts == ("correct",)
    assert "flash" in spec.model.attention or not spec.packing
