"""Frames between controller and worker."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.records import How, Outcome, Path, Verdict
from gen_service.settings import VerificationSettings
from gen_service.verification import protocol
from gen_service.verification.protocol import Begun, Configuration, Leaving, Message, Ready, Reply, Unusable

TEXT = st.text(st.characters(exclude_categories=()), max_size=30)
OPTIONAL = st.none() | TEXT
VERDICTS = st.builds(
    Verdict,
    st.sampled_from(get_args(Outcome)),
    TEXT,
    OPTIONAL,
    OPTIONAL,
    st.sampled_from(get_args(How)),
    st.sampled_from(get_args(Path)),
    st.floats(0, 100),
)
MESSAGES = st.one_of(
    st.builds(Reply, VERDICTS, st.booleans()),
    st.builds(Begun, st.sampled_from(["gold", "answer"]), VERDICTS),
    st.builds(Ready, st.integers(0, 99), st.booleans(), st.sampled_from(["answer", "text"]), st.booleans()),
    st.builds(Unusable, TEXT),
    st.just(Leaving()),
)
REQUESTS = st.one_of(
    st.tuples(st.just("gold"), TEXT),
    st.tuples(st.just("check"), TEXT, TEXT),
    st.tuples(st.just("read"), OPTIONAL, TEXT, TEXT),
    st.tuples(st.just("judge"), TEXT, OPTIONAL, OPTIONAL, TEXT, TEXT),
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=20,
)


def _body(frame: bytes) -> bytes:
    size = protocol.HEADER.unpack(frame[: protocol.HEADER.size])[0]
    assert len(frame) == protocol.HEADER.size + size
    return frame[protocol.HEADER.size :]


@given(st.lists(MESSAGES, max_size=4))
def test_messages_come_back_as_they_were_said(said: list[Message]) -> None:
    assert protocol.messages(_body(protocol.said(said))) == said


@given(st.lists(REQUESTS, max_size=4))
def test_requests_come_back_as_they_were_asked(asked: list[protocol.Request]) -> None:
    assert protocol.requests(_body(protocol.asked(asked))) == asked


@given(st.binary(max_size=40) | ANYTHING.map(lambda tree: json.dumps(tree).encode()))
def test_what_no_worker_says_is_refused(body: bytes) -> None:
    try:
        said = protocol.messages(body)
    except ValueError:
        return
    assert all(isinstance(one, Message) for one in said)


@pytest.mark.parametrize("position", range(2, 9))
def test_a_field_of_a_wrong_type_is_refused(position: int) -> None:
    [tree] = json.loads(_body(protocol.said([Reply(Verdict("correct", "why", "4", "4", "boxed", "text", 0.5))])))
    tree[position] = [1]
    with pytest.raises(ValueError):
        protocol.messages(json.dumps([tree]).encode())


def test_a_configuration_comes_back() -> None:
    settings = VerificationSettings(kind="numeric", options={"relative_tolerance": 0.5}, policy="lenient")
    for target in (None, "module:name"):
        configuration = Configuration(settings, target)
        assert Configuration.read(configuration.dumped()) == configuration
