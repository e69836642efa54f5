"""The training benchmark: the arithmetic it counts, the settings it tries, and a small run of both sides."""

from __future__ import annotations

import io
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from benchmarks.training_throughput import Runs, Setting, Size, measure, settings_of, show
from benchmarks.training_throughput_work import SHAPES, MadeUpTraces, Work, needed_flops, peak_tflops

QWEN = SHAPES["qwen2.5-1.5b"]
STEP = {"seconds": 2.0, "tokens": 100, "with_loss": 90, "places": 200, "pairs": 2600}


def test_the_weights_that_count_are_those_of_the_model() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers.Qwen2Config(**QWEN.config()))
    matrices = {name: weight.numel() for name, weight in model.named_parameters() if weight.dim() == 2}
    assert matrices.pop("model.embed_tokens.weight") == QWEN.head_weights()
    assert sum(matrices.values()) == QWEN.layer_weights()
    assert sum(weight.numel() for weight in model.parameters()) == 1_543_714_304  # as published


def test_needed_flops_of_a_step_by_hand() -> None:
    # One trace of three tokens, two of them with loss, looks at 1 + 2 + 3 tokens.
    work = Work(1.0, tokens=3, with_loss=2, places=8, pairs=6)
    weights = 6 * (3 * QWEN.layer_weights() + 2 * 1536 * 151_936)
    # Scores and their use of the values: 2 operations each a pair and channel, and twice that backward.
    attention = 28 * 6 * (2 + 2) * 3 * 12 * 128
    assert needed_flops(QWEN, work) == weights + attention


@given(st.lists(st.integers(1, 50), min_size=1, max_size=5), st.integers(0, 100))
def test_padding_and_a_longer_wait_need_no_more(lengths: list[int], padding: int) -> None:
    tokens, pairs = sum(lengths), sum(length * (length + 1) // 2 for length in lengths)
    one = Work(1.0, tokens, tokens, tokens, pairs)
    other = Work(2.0, tokens, tokens, tokens + padding, pairs)
    assert needed_flops(QWEN, one) == needed_flops(QWEN, other)
    assert one.tokens_per_s() == 2 * other.tokens_per_s()


@given(st.integers(0, 1000), st.integers(16, 400))
def test_made_up_traces_are_the_same_for_a_seed_and_none_is_too_long(seed: int, context: int) -> None:
    traces = MadeUpTraces(SHAPES["tiny"], context, 2000, seed)
    made = [(example.prompt_ids, example.completion_ids) for example in traces]
    assert made == [(one.prompt_ids, one.completion_ids) for one in MadeUpTraces(SHAPES["tiny"], context, 2000, seed)]
    assert all(prompt and completion and len(prompt + completion) <= context for prompt, completion in made)
    assert traces.counts.prompt_tokens + traces.counts.completion_tokens >= 2000
    assert max(itertools.chain.from_iterable(prompt + completion for prompt, completion in made)) < 512


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("x86_64", None),
    ],
)
def test_the_peak_is_known_by_the_name(device: str, peak: float | None) -> None:
    assert peak_tflops(device) == peak


def test_settings_go_from_the_fastest_to_the_smallest() -> None:
    ours = [(one.batch, one.checkpointing) for one in settings_of("ours", Size(), 4096)]
    assert ours == [(4, False), (2, False), (1, False), (4, True), (2, True), (1, True)]
    assert [one.batch for one in settings_of("ours", Size(), 32_768)] == [1, 1]
    assert [one.batch for one in settings_of("plain", Size(), 4096)] == [8, 4, 2, 1]


def test_a_side_takes_the_first_setting_that_fits_and_keeps_it() -> None:
    runs, asked = Runs("plain", 4096, list(settings_of("plain", Size(), 4096))), []

    def run(setting: Setting) -> dict[str, Any]:
        asked.append(setting.batch)
        return {"out_of_memory": "short"} if setting.batch > 2 else {"work": [STEP]}

    runs.once_more(run)
    runs.once_more(run)
    assert asked == [8, 4, 2, 2]
    assert [setting.batch for setting in runs.too_large] == [8, 4]
    assert len(runs.answers) == 2


def child_of(device: str, *, fits: str) -> Any:
    def child(module: str, asked: dict[str, Any]) -> dict[str, Any]:
        assert module == "training_throughput_side"
        if asked["side"] == "prepare":
            return {"device": device, "cuda": True, "torch": "2"}
        if asked["side"] != fits:
            return {"out_of_memory": "short"}
        return {"work": [STEP, STEP], "peak_bytes": 5e9, "attention": asked["attention"], "accumulate": 4}

    return child


def test_a_side_that_never_fits_is_said_and_the_other_is_measured() -> None:
    found = measure(Size(context=(4096,), repeats=2, compile=True), child_of("NVIDIA H100 80GB HBM3", fits="ours"))
    ours, plain = found["rows"]
    assert (ours["tokens_per_s"], ours["padding_share"], ours["peak_memory_gb"]) == (50.0, 0.5, 5.0)
    assert (ours["attention"], ours["setting"]) == ("flex_attention", "batch 4, no checkpointing, compiled")
    assert ours["share_of_peak"] == pytest.approx(needed_flops(QWEN, Work(**STEP)) / 2.0 / 989e12)
    assert plain["fits"] is False
    assert len(plain["did_not_fit"]) == 4
    shown = io.StringIO()
    show(found, Console(file=shown, width=160))
    assert "does not fit" in shown.getvalue()


def test_an_unknown_device_needs_its_peak() -> None:
    with pytest.raises(ValueError, match="the peak of Acme 1 is not known"):
        measure(Size(repeats=1), child_of("Acme 1", fits="ours"))


def test_both_sides_run_for_real_on_a_cpu() -> None:
    pytest.importorskip("trl")
    torch = pytest.importorskip("torch")
    size = Size("tiny", (64,), tokens=512, row_tokens=128, warm_up=1, steps=2, repeats=1, peak_tflops=0.1, threads=1)
    found = measure(size)
    ours, plain = found["rows"]
    assert (ours["side"], plain["side"]) == ("ours", "plain")
    for row in (ours, plain):
        assert row["tokens_per_s"] > 0
        assert 0 < row["share_of_peak"] < 1
        assert 0.7 * 512 < row["tokens_a_step"] < 1.3 * 512
    assert ours["padding_share"] == 0.0
    assert plain["padding_share"] > 0.1
    assert found["machine"]["cuda"] == torch.cuda.is_available()
    assert (ours["setting"], plain["setting"]) == ("batch 2, no checkpointing", "batch 8, checkpointing")
