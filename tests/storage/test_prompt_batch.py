from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.errors import BadPromptRow
from gen_service.records import BatchLine, Prompt
from gen_service.settings import PromptSettings
from gen_service.storage import prompts
from gen_service.storage.prompt_batch import MOST_CHOICES, BadLine, RequestLine, read_line, to_prompt
from gen_service.storage.prompt_text import Line
from gen_service.storage.seen import Seen

MESSAGES = [{"role": "user", "content": "1 + 1?"}]


def chat(custom_id: str = "a", **body: Any) -> dict[str, Any]:
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m", "messages": MESSAGES} | body,
    }


def completion(prompt: object, custom_id: str = "a", **body: Any) -> dict[str, Any]:
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/completions",
        "body": {"model": "m", "prompt": prompt} | body,
    }


def parse(tree: object) -> RequestLine:
    return read_line(Line(1, tree if isinstance(tree, bytes) else json.dumps(tree).encode(), False), 1000)


def problem(tree: object) -> tuple[str, str | None]:
    with pytest.raises(BadLine) as caught:
        parse(tree)
    return caught.value.code, caught.value.param


def read(path: Path, tmp_path: Path, *lines: object) -> list[Prompt | BadPromptRow]:
    path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in lines))
    with Seen(tmp_path / "seen") as seen:
        return list(prompts.read(PromptSettings(path=str(path), format="batch"), seen))


def test_a_line_becomes_a_prompt_with_the_request_as_it_was_written(tmp_path: Path) -> None:
    body = {"messages": MESSAGES, "temperature": 0.25, "stop": ["x"], "logit_bias": {"5": -1}, "max_tokens": 7}
    (prompt,) = read(tmp_path / "file-0", tmp_path, chat("first", n=3, **body))
    assert prompt == Prompt(
        "first",
        ({"role": "user", "content": "1 + 1?"},),
        None,
        "file-0",
        1,
        BatchLine("/v1/chat/completions", body, 3),
    )


def test_lines_that_got_past_validation_are_set_aside_in_their_place(tmp_path: Path) -> None:
    results = read(
        tmp_path / "file-0", tmp_path, chat("a"), b"", b"{", chat("a"), completion(["x", "y"], "b"), chat("c")
    )
    assert [(result.prompt_id, result.row) for result in results if isinstance(result, Prompt)] == [("a", 1), ("c", 6)]
    bad = [(result.row, result.reason) for result in results if isinstance(result, BadPromptRow)]
    assert [row for row, _ in bad] == [3, 4, 5]
    assert "not JSON" in bad[0][1]
    assert bad[1][1] == "an earlier row has the id 'a'"
    assert bad[2][1] == "body.prompt holds 2 prompts; expected one: a line of its own for each"


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("Say so.", "Say so."),
        ([1, 2, 30], "[1,2,30]"),
        (["Say so."], "Say so."),
        ([[1, 2]], "[1,2]"),
    ],
)
def test_the_prompt_of_a_completion_is_one_message(prompt: object, text: str) -> None:
    made = to_prompt(parse(completion(prompt)), 1, "file-0")
    assert made.messages == ({"role": "user", "content": text},)
    assert made.request == BatchLine("/v1/completions", {"prompt": prompt})


def test_content_in_parts_is_kept_as_its_json() -> None:
    parts = [{"type": "text", "text": "1 + 1?"}]
    turns = [{"role": "assistant", "content": None, "tool_calls": []}, {"role": "user", "content": parts}, "odd", {}]
    made = to_prompt(parse(chat(messages=turns)), 1, "file-0")
    assert made.messages == (
        {"role": "assistant", "content": ""},
        {"role": "user", "content": orjson.dumps(parts).decode()},
        {"role": "", "content": "odd"},
        {"role": "", "content": ""},
    )
    assert made.request is not None
    assert made.request.body["messages"] == turns


def without(tree: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in tree.items() if key not in keys}


@pytest.mark.parametrize(
    ("tree", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"[]", "invalid_json_line", None),
        (b'{"a": NaN}', "invalid_json_line", None),
        (b'{"custom_id": "\\ud800"}', "invalid_json_line", None),
        (b"\xff", "invalid_json_line", None),
        (b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}", "invalid_json_line", None),
        (b"[" * 2000, "invalid_json_line", None),
        (without(chat(), "custom_id"), "missing_required_parameter", "custom_id"),
        (chat(""), "invalid_custom_id", "custom_id"),
        (chat("x" * 513), "invalid_custom_id", "custom_id"),
        (chat("a\0"), "invalid_custom_id", "custom_id"),
        (chat() | {"custom_id": 7}, "invalid_custom_id", "custom_id"),
        (chat() | {"method": "GET"}, "invalid_method", "method"),
        (without(chat(), "method"), "missing_required_parameter", "method"),
        (chat() | {"url": "/v1/embeddings"}, "invalid_url", "url"),
        (chat() | {"url": ["/v1/completions"]}, "invalid_url", "url"),
        (without(chat(), "url"), "missing_required_parameter", "url"),
        (without(chat(), "body"), "missing_required_parameter", "body"),
        (chat() | {"body": "x"}, "invalid_type", "body"),
        (chat(model=None), "missing_required_parameter", "body.model"),
        (chat(model=3), "invalid_type", "body.model"),
        (chat(model=""), "invalid_type", "body.model"),
        (chat(messages=[]), "invalid_type", "body.messages"),
        (chat(messages="hi"), "invalid_type", "body.messages"),
        (chat(messages=None), "missing_required_parameter", "body.messages"),
        (completion(None), "missing_required_parameter", "body.prompt"),
        (completion(""), "invalid_type", "body.prompt"),
        (completion({"a": 1}), "invalid_type", "body.prompt"),
        (chat(n=0), "invalid_value", "body.n"),
        (chat(n=MOST_CHOICES + 1), "invalid_value", "body.n"),
        (chat(n=True), "invalid_value", "body.n"),
        (chat(n=1.0), "invalid_value", "body.n"),
        (chat(n="2"), "invalid_value", "body.n"),
    ],
)
def test_what_is_wrong_with_a_line_is_told_by_its_code(tree: object, code: str, param: str | None) -> None:
    assert problem(tree) == (code, param)


def test_the_longest_custom_id_and_the_most_choices_pass() -> None:
    line = parse(chat("x" * 512, n=MOST_CHOICES))
    assert (len(line.custom_id), line.request.n) == (512, MOST_CHOICES)
    assert parse(chat(n=None)).request.n == 1


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(content=st.binary(max_size=200) | JSON.map(lambda tree: json.dumps(tree).encode()))
def test_any_bytes_are_a_request_or_a_bad_line(content: bytes) -> None:
    with pytest.raises(BadLine):
        parse(content)


@given(
    url=st.sampled_from(["/v1/chat/completions", "/v1/completions"]),
    body=st.dictionaries(st.sampled_from(["n", "model", "messages", "prompt", "stop", "seed"]), JSON),
)
def test_any_body_is_a_prompt_that_can_be_written_or_is_told_to_be_wrong(url: str, body: dict[str, Any]) -> None:
    tree = {"custom_id": "a", "method": "POST", "url": url, "body": {"model": "m"} | body}
    try:
        prompt = to_prompt(parse(tree), 1, "file-0")
    except (BadLine, BadPromptRow):
        return
    assert prompt.request is not None
    assert not prompt.request.body.keys() & {"model", "n"}
    orjson.dumps([prompt.prompt_id, list(prompt.messages), prompt.request.body])
