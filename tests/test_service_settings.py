"""Settings of the service: which place wins, what is refused and how, and that no secret is ever shown."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gen_service.errors import SpecError
from gen_service.service_settings import (
    PREFIX,
    DataSettings,
    ServiceSettings,
    load_data_settings,
    load_service_settings,
    printable,
)

SERVERS = {"endpoints": {"urls": ["http://a:1"]}}


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine sets for the service is out of the way."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "service.yaml"
    path.write_text(yaml.safe_dump(SERVERS | {"http": {"port": 1, "host": "::1"}, "fleet": None}))
    return path


def write(tmp_path: Path, document: object) -> Path:
    path = tmp_path / "service.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_flags_go_over_the_environment_over_the_file_over_the_defaults(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_service_settings(config).http.port == 1
    monkeypatch.setenv("GEN_SERVICE_HTTP__PORT", "2")
    settings = load_service_settings(config)
    assert (settings.http.port, settings.http.host, settings.http.heartbeat_s) == (2, "::1", 15.0)
    settings = load_service_settings(config, {"http": {"port": 3}})
    assert (settings.http.port, settings.http.host) == (3, "::1")
    assert (settings.fleet.in_flight, settings.fleet.limit) == (2048, "auto")


def test_the_environment_names_the_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEN_SERVICE_CONFIG", str(config))
    assert load_service_settings(None).http.port == 1
    assert isinstance(load_service_settings(None), ServiceSettings)


@pytest.mark.parametrize(
    "written", ['["http://a:1", "http://b:2"]', "http://a:1,http://b:2", "http://a:1, http://b:2,"]
)
def test_a_list_in_the_environment_is_json_or_has_commas(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEN_SERVICE_ENDPOINTS__URLS", written)
    assert load_service_settings(None).endpoints.urls == ("http://a:1", "http://b:2")


def test_servers_may_be_those_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = load_service_settings(write(tmp_path, {"endpoints": {"file": "servers.txt", "discover_s": 3}})).endpoints
    assert (listed.file, listed.urls, listed.discover_s) == (Path("servers.txt"), (), 3.0)
    monkeypatch.setenv("GEN_SERVICE_ENDPOINTS__FILE", "others.txt")
    settings = load_service_settings(None, {"endpoints": {"urls": ["http://a:1"]}})
    assert (settings.endpoints.file, settings.endpoints.urls) == (Path("others.txt"), ("http://a:1",))
    assert yaml.safe_load(printable(settings))["endpoints"]["file"] == "others.txt"


def test_a_section_in_the_environment_may_be_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEN_SERVICE_FLEET", '{"in_flight": 9}')
    assert load_service_settings(None, SERVERS).fleet.in_flight == 9


def test_the_key_for_the_servers_keeps_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEN_SERVICE_API_KEY", "sk-servers")
    key = load_service_settings(None, SERVERS).endpoints.api_key
    assert key is not None
    assert key.get_secret_value() == "sk-servers"


@pytest.mark.parametrize(
    ("document", "field", "words"),
    [
        ({}, "endpoints", "--server URL"),
        (SERVERS | {"htpp": {"port": 1}}, "htpp", "check its spelling"),
        (SERVERS | {"http": {"prot": 1}}, "http.prot", "check its spelling"),
        (SERVERS | {"http": {"port": 99999}}, "http.port", "got 99999; expected less than or equal to 65535"),
        (SERVERS | {"http": 7}, "http", "got 7"),
        ({"endpoints": {"urls": ["nowhere"]}}, "endpoints.urls", "base URL such as"),
        ({"endpoints": {"urls": []}}, "endpoints.urls", "at least 1 .*--server URL.*ENDPOINTS__FILE"),
        ({"endpoints": {"model": "m"}}, "endpoints.urls", "at least 1 .*--server URL"),
        ({"endpoints": {"urls": ["dns+https://a"]}}, "endpoints.urls", r"TLS.*dns\+http://"),
        (SERVERS | {"data": {"prompt_roots": "x"}}, "data.prompt_roots", "tuple"),
    ],
)
def test_a_wrong_field_of_the_file_is_named(document: dict[str, Any], field: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        load_service_settings(write(tmp_path, document))
    assert caught.value.field == field


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2", "just words", "\x00"])
def test_a_file_that_is_no_mapping_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "service.yaml"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        load_service_settings(path)
    assert (caught.value.field, caught.value.value) == ("config", str(path))


def test_a_file_that_is_not_there_is_an_error_and_an_empty_one_is_not(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="readable YAML file"):
        load_service_settings(tmp_path / "absent.yaml")
    assert load_service_settings(write(tmp_path, None), SERVERS).http.port == 8080


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("GEN_SERVICE_HTTP__PORT", "many", "http.port"),
        ("GEN_SERVICE_HTTP__PROT", "1", "http.prot"),
        ("GEN_SERVICE_HTPP__PORT", "1", "GEN_SERVICE_HTPP__PORT"),
        ("GEN_SERVICE_WEBHOOKS__ALLOW", "10.0.0.0/8,nowhere", "webhooks.allow.1"),
    ],
)
def test_a_wrong_variable_is_named(name: str, value: str, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SpecError) as caught:
        load_service_settings(None, SERVERS)
    assert caught.value.field.startswith(field)


def test_variables_that_a_cluster_sets_for_a_service_of_our_name_are_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GEN_SERVICE_PORT", "tcp://10.0.0.1:8080")
    monkeypatch.setenv("GEN_SERVICE_PORT_8080_TCP_PROTO", "tcp")
    monkeypatch.setenv("GEN_SERVICE_SERVICE_HOST", "10.0.0.1")
    assert load_service_settings(None, SERVERS).http.port == 8080


def test_verbs_without_servers_read_where_the_data_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, {"data": {"folder": "from-file", "min_free_bytes": 5}, "http": {"port": 1}})
    assert load_data_settings(path) == DataSettings(folder=Path("from-file"), min_free_bytes=5)
    monkeypatch.setenv("GEN_SERVICE_DATA__FOLDER", "from-environment")
    assert load_data_settings(path).folder == Path("from-environment")
    assert load_data_settings(path, {"data": {"folder": "flag"}}) == DataSettings(folder=Path("flag"), min_free_bytes=5)
    with pytest.raises(SpecError, match=r"data\.foldr"):
        load_data_settings(write(tmp_path, {"data": {"foldr": "x"}}))


secrets = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=6, max_size=30).map("S3c".__add__)


@given(secret=secrets, noise=st.sampled_from(["", "/", "@", ":", "%40", "?"]))
def test_no_secret_is_printed(secret: str, noise: str) -> None:
    password = f"{secret}{noise}{secret}"
    settings = load_service_settings(
        None,
        {
            "endpoints": {"urls": [f"http://user:{secret}@server:1/x"], "api_key": password},
            "data": {
                "database": f"postgresql://me:{password}@host:5432/name?sslmode=require&password={secret}",
                "output_roots": [f"s3://key:{password}@bucket/x"],
            },
        },
    )
    shown = printable(settings)
    assert secret not in shown
    assert "postgresql://me:***@host:5432/name?sslmode=require&password=***" in shown


@given(secret=secrets, noise=st.sampled_from(["", "/", "@", ":", "%40", "?"]))
def test_no_password_in_a_servers_url_is_shown(secret: str, noise: str) -> None:
    """Printed or refused: an URL that cannot be read may hold one all the same."""
    url = f"http://user:{secret}{noise}{secret}@server:1/x"
    try:
        shown = printable(load_service_settings(None, {"endpoints": {"urls": [url]}}))
    except SpecError as refused:
        shown = str(refused)
    assert secret not in shown
    assert "***@server:1/x" in shown


def test_what_is_printed_can_be_read_again(tmp_path: Path) -> None:
    settings = load_service_settings(
        None,
        SERVERS
        | {"webhooks": {"allow": ["10.0.0.0/8", "fd00::/8"]}, "data": {"prompt_roots": ["/a"]}, "http": {"port": 5}},
    )
    path = tmp_path / "printed.yaml"
    path.write_text(printable(settings))
    assert load_service_settings(path) == settings


def test_a_wrong_secret_is_not_repeated() -> None:
    with pytest.raises(SpecError) as caught:
        load_service_settings(None, {"endpoints": {"urls": ["http://a"], "api_key": ["s3cret-key"]}})
    assert "s3cret-key" not in str(caught.value)
    assert caught.value.field == "endpoints.api_key"
