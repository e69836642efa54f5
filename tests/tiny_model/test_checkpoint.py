"""The shipped checkpoint is whole and small, reads and writes any text exactly, and solves most problems."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.tiny_model import CHECKPOINT
from gen_service.tiny_model.problems import KINDS, problems, value_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

FILES = {
    "model.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "training.json",
    "README.md",
}
MARKERS = ("<|pad|>", "<|unk|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(CHECKPOINT)


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    """Float32 on one thread: bfloat16 is slow without hardware for it, and threads wait where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield transformers.AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def training() -> dict[str, Any]:
    record: dict[str, Any] = json.loads((CHECKPOINT / "training.json").read_text(encoding="utf-8"))
    return record


def test_the_files_are_there_and_under_4_mb() -> None:
    sizes = {path.name: path.stat().st_size for path in Path(CHECKPOINT).iterdir()}
    assert set(sizes) == FILES
    assert sum(sizes.values()) < 4_000_000


def test_it_was_measured_to_be_right_often_but_not_always(training: dict[str, Any]) -> None:
    scores = training["held_out"]
    assert set(scores) == {*KINDS, "overall"}
    assert 0.6 <= scores["overall"]["pass_at_1"] <= 0.9
    for kind in KINDS:
        assert scores[kind]["problems"] >= 400
        assert 0.4 <= scores[kind]["pass_at_1"] <= 0.97
        assert scores[kind]["greedy"] >= scores[kind]["pass_at_1"]
    assert scores["fractions"]["unreduced"] > 0.02


def test_the_record_names_what_it_takes_to_make_it_again(training: dict[str, Any]) -> None:
    assert training["version"] == 1
    assert isinstance(training["recipe"]["seed"], int)
    assert training["recipe"]["steps"] > 0
    assert training["seconds"] > 0
    assert {"torch", "transformers", "tokenizers"} <= set(training["versions"])


@given(seed=st.integers(min_value=0, max_value=2**32))
def test_questions_and_solutions_round_trip(tokenizer: Any, seed: int) -> None:
    for problem in problems("held_out", len(KINDS), seed):
        for text in (problem.question, *(solution.text for solution in problem.solutions)):
            assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


@given(text=st.text().filter(lambda text: not any(m in text for m in MARKERS)))
def test_any_text_round_trips(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


@given(number=st.integers(min_value=0))
def test_each_digit_is_one_token(tokenizer: Any, number: int) -> None:
    assert tokenizer.tokenize(str(number)) == list(str(number))


def test_the_think_tags_are_single_tokens_that_are_not_special(tokenizer: Any) -> None:
    for tag in ("<think>", "</think>"):
        assert tokenizer.tokenize(tag) == [tag]
        assert tag not in tokenizer.all_special_tokens
    assert set(MARKERS) == set(tokenizer.all_special_tokens)


def test_the_chat_is_rendered_exactly(tokenizer: Any) -> None:
    messages = [
        {"role": "system", "content": "Be brief.\n"},
        {"role": "user", "content": " What is 1 + 2?\n"},
        {"role": "assistant", "content": "<think>\n1 + 2 = 3\n</think>\n3"},
        {"role": "user", "content": "Sure?"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|begin|><|system|>Be brief.\n<|user|> What is 1 + 2?\n"
        "<|assistant|><think>\n1 + 2 = 3\n</think>\n3<|end|><|user|>Sure?<|assistant|>"
    )


def test_only_the_assistants_words_are_marked_for_training(tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<think>\n</think>\n3"}]
    marked = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    kept = [token for token, keep in zip(marked["input_ids"], marked["assistant_masks"], strict=True) if keep]
    assert tokenizer.decode(kept) == "<think>\n</think>\n3<|end|>"


def test_an_unknown_role_is_refused(tokenizer: Any) -> None:
    with pytest.raises(Exception, match="unknown role narrator"):
        tokenizer.apply_chat_template([{"role": "narrator", "content": "Once"}])


def test_greedy_decoding_solves_most_held_out_problems(tokenizer: Any, model: Any) -> None:
    measure = pytest.importorskip("gen_service.training.tiny_measure")
    asked = list(problems("held_out", 30, 77))
    answers, tokens = measure.answers(model, tokenizer, asked, sample=False)
    right = sum(
        answer is not None and value_of(answer) == value_of(problem.answer)
        for answer, problem in zip(answers, asked, strict=True)
    )
    assert right >= 20
    assert 20 <= tokens <= 80


@pytest.mark.parametrize("text", ["Let $n\\ge 2$ be 素数 🎉", "", "\x00\ud7ff"])
def test_a_foreign_prompt_is_answered_without_a_crash(tokenizer: Any, model: Any, text: str) -> None:
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    written = model.generate(**ids, do_sample=False, max_new_tokens=8)
    assert written.shape[1] > ids["input_ids"].shape[1]
