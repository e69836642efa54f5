"""What a client may not ask of a model server."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.controller.engine_fields import ENGINE_FIELDS, engine_field, refusal_of

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def chat(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": list(parts)}]}


@pytest.mark.parametrize("name", sorted(ENGINE_FIELDS))
@pytest.mark.parametrize("value", [None, 0, {}, {"remote_host": "10.0.0.1"}])
def test_the_engines_own_fields_are_refused_whatever_they_hold(name: str, value: object) -> None:
    assert engine_field(["top_k", name]) == name
    refusal = refusal_of({"messages": [], name: value})
    assert refusal is not None
    assert refusal[0] == name


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "see http://10.0.0.1/"}], "temperature": 1, "seed": 3, "stop": ["x"]},
        {"prompt": "1 + 1", "top_k": 20, "min_p": 0.1, "chat_template_kwargs": {"enable_thinking": False}},
        chat({"type": "text", "text": "http://10.0.0.1/"}),
        chat({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}),
        chat({"type": "image_url", "image_url": "DATA:image/png;base64,AAAA"}),
        chat({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
        {"response_format": {"type": "json_object"}, "messages": [{"role": "assistant", "content": None}]},
    ],
)
def test_what_is_openais_passes(body: dict[str, Any]) -> None:
    assert refusal_of(body) is None


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "image_url", "image_url": {"url": " data:x"}},
        {"image_url": "https://example.org/x.png"},
        {"type": "video_url", "video_url": {"url": "https://example.org/"}},
        {"type": "audio_url", "audio_url": {"url": "ftp://example.org/"}},
        {"type": "image_url", "image_url": {}},
        {"type": "image_url", "image_url": ["http://10.0.0.1/"]},
        {"type": "image_embeds", "image_embeds": "AAAA"},
    ],
)
def test_parts_that_name_other_places_are_refused(part: dict[str, Any]) -> None:
    refusal = refusal_of(chat({"type": "text", "text": "what is this?"}, part))
    assert refusal is not None
    assert refusal[0] == "messages[1].content"


@given(body=st.dictionaries(st.sampled_from(["messages", "prompt", "priority", "x"]), json_values))
def test_any_body_is_looked_at_without_an_error(body: dict[str, Any]) -> None:
    refusal = refusal_of(body)
    assert refusal is not None or "priority" not in body
