"""The result of a run, as servers load it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gen_service.tiny_model import CHECKPOINT
from gen_service.training_settings import LoraSettings, ModelSettings

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

ZERO3 = Path(__file__).parents[2] / "deploy" / "training" / "accelerate" / "zero3.json"


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)], ids=["whole", "lora"])
def test_one_process_makes_the_result_though_zero_3_spreads_what_is_loaded(
    lora: LoraSettings | None, tmp_path: Path
) -> None:
    """Under ZeRO 3 transformers loads a model in all processes together: one that did so alone waited for ever."""
    from accelerate.utils.deepspeed import HfDeepSpeedConfig
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled, set_hf_deepspeed_config

    from gen_service.training.models import load_model, load_tokenizer, lora_config, save_result

    settings = ModelSettings(path=str(CHECKPOINT), lora=lora)
    trained, tokenizer = tmp_path / "trained", load_tokenizer(settings)
    model = load_model(settings)
    if lora is not None:
        model = peft.get_peft_model(model, lora_config(lora))
    model.save_pretrained(trained)
    running = HfDeepSpeedConfig(json.loads(ZERO3.read_text()))
    set_hf_deepspeed_config(running)  # it counts as long as somebody holds it
    save_result(trained, settings, tokenizer, tokenizer.eos_token_id, tmp_path / "model", merge=True)
    assert is_deepspeed_zero3_enabled(), "the trainer has lost its settings"
    assert running.is_zero3()
    assert (tmp_path / "model" / "model.safetensors").is_file()
