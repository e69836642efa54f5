"""Settings: what they accept, and what they refuse to hold."""

from __future__ import annotations

from pathlib import Path

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
    [
        ("http://a:1", "http://a:1"),
        ("http://a:1/", "http://a:1"),
        ("https://a/x/v1/", "https://a/x"),
        ("http://v1", "http://v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000"),
        ("dns+http://vllm.default.svc:8000/v1", "dns+http://vllm.default.svc:8000"),
    ],
)
def test_urls_are_base_urls(given: str, kept: str) -> None:
    assert EndpointSettings(urls=(given,)).urls == (kept,)
    assert EndpointSettings(urls=(given, kept)).urls == (kept,)


@pytest.mark.parametrize(
    "given",
    ["a:1", "http://", "http://a:x", "http://a:0", "http://a:70000", "http://[::1", "ftp://a", "http://a b", "dns+a:1"],
)
def test_what_is_no_base_url_is_refused_by_its_name(given: str) -> None:
    with pytest.raises(ValidationError, match=r"is not a server's base URL such as http://10") as caught:
        EndpointSettings(urls=("http://well", given))
    assert repr(given) in str(caught.value)


def test_addresses_behind_a_name_are_not_spoken_to_by_tls() -> None:
    with pytest.raises(ValidationError, match=r"'dns\+https://a:1' would speak TLS to addresses.*dns\+http://, or"):
        EndpointSettings(urls=("dns+https://a:1",))


def test_a_wrong_url_is_shown_without_its_password() -> None:
    with pytest.raises(ValidationError) as caught:
        EndpointSettings(urls=("ftp://user:secret@a",))
    assert "'ftp://***@a' is not" in caught.value.errors(include_input=False)[0]["msg"]


@pytest.mark.parametrize("given", [{}, {"urls": []}, {"urls": [], "file": None}])
def test_servers_are_given_by_urls_or_a_file_or_both(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"at least 1 server.*endpoints\.file") as caught:
        EndpointSettings.model_validate(given)
    assert caught.value.errors()[0]["loc"] == ("urls",)
    listed = EndpointSettings(file=Path("servers.txt"))
    assert (listed.urls, listed.file, listed.discover_s) == ((), Path("servers.txt"), 10.0)
    assert EndpointSettings.model_validate(listed.model_dump()) == listed
    assert EndpointSettings(file=Path("x"), urls=("http://a",)).urls == ("http://a",)


def test_the_key_comes_from_the_environment_and_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEN_SERVICE_API_KEY", "sk-secret")
    settings = EndpointSettings(urls=("http://a",))
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "sk-secret"
    assert "sk-secret" not in repr(settings) + settings.model_dump_json()
    monkeypatch.delenv("GEN_SERVICE_API_KEY")
    assert EndpointSettings(urls=("http://a",)).api_key is None


@pytest.mark.parametrize(
    "field", ["connect_s", "first_token_s", "stall_s", "wall_s", "backoff_s", "probe_s", "discover_s"]
)
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_durations_are_positive_and_finite(field: str, value: float) -> None:
    with pytest.raises(ValidationError, match=field):
        EndpointSettings.model_validate({"urls": ["http://a"], field: value})
