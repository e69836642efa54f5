"""Settings: what they accept, and what they refuse to hold."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from gen_service.settings import (
    ColumnNames,
    EndpointSettings,
    OutputSettings,
    PoolSettings,
    PromptSettings,
    SamplingSettings,
    Section,
    TruncationSettings,
    VerificationSettings,
)

SECTIONS = [
    ColumnNames(),
    PromptSettings(path="x"),
    SamplingSettings(),
    TruncationSettings(),
    EndpointSettings(urls=("http://a",)),
    PoolSettings(),
    VerificationSettings(),
    OutputSettings(),
]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: type(section).__name__)
def test_a_section_is_immutable_and_knows_its_fields(section: Section) -> None:
    name = next(iter(type(section).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(section, name, getattr(section, name))
    with pytest.raises(ValidationError, match="misspelt"):
        type(section).model_validate(section.model_dump() | {"misspelt": 1})
    assert type(section).model_validate(section.model_dump()) == section


@pytest.mark.parametrize(
    ("given", "kept"),
    [("http://a:1", "http://a:1"), ("http://a:1/", "http://a:1"), ("https://a/x/v1/", "https://a/x")],
)
def test_urls_are_base_urls(given: str, kept: str) -> None:
    assert EndpointSettings(urls=(given,)).urls == (kept,)


def test_the_key_comes_from_the_environment_and_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEN_SERVICE_API_KEY", "sk-secret")
    settings = EndpointSettings(urls=("http://a",))
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "sk-secret"
    assert "sk-secret" not in repr(settings) + settings.model_dump_json()
    monkeypatch.delenv("GEN_SERVICE_API_KEY")
    assert EndpointSettings(urls=("http://a",)).api_key is None


@pytest.mark.parametrize("field", ["connect_s", "first_token_s", "stall_s", "wall_s", "backoff_s", "probe_s"])
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_durations_are_positive_and_finite(field: str, value: float) -> None:
    with pytest.raises(ValidationError, match=field):
        EndpointSettings.model_validate({"urls": ["http://a"], field: value})
