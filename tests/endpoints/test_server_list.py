"""Lists of servers: what is read in a file, what a name stands for, and when an address is gone."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from gen_service.endpoints.server_list import (
    LOOKS_UNTIL_GONE,
    Answers,
    difference,
    host_and_port,
    is_name,
    parse_list,
    urls_at,
)
from gen_service.settings import server_url

A, B = "http://10.0.0.1:8000", "http://10.0.0.2:8000"
urls = st.builds("http://{}:{}".format, st.sampled_from(["a", "10.0.0.1", "[::1]"]), st.integers(1, 65535))


@pytest.mark.parametrize(
    "text",
    [
        f"{A}\n{B}\n",
        f"# ours\n\n  {A}/v1  # the first\r\n{B}/\t# the second\n{A}\n#{A}",
        f"- {A}\n- {B} # the second",
        f"# ours\n---\n- {A}\n- {B}\n- {A}",
        f'["{A}", "{B}"]',
    ],
)
def test_a_file_has_a_url_a_line_or_is_a_yaml_list(text: str) -> None:
    assert parse_list(text) == (A, B)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no server"),
        ("# none\n\n", "names no server"),
        ("[]", "names no server"),
        (f"{A}\n10.0.0.2:8000", "'10.0.0.2:8000' is not a server's base URL"),
        (f"{A} {B}", "is not a server's base URL"),
        (f"{A}\ndns+https://b", "TLS"),
        (f"- {A}\n- 7", "^7 is not a server's base URL"),
        (f"- {A}\n{B}", "begins as a YAML list"),
        ("- a: [", "begins as a YAML list"),
        ("--- a", "begins as a YAML list"),
        ("[" * 2_000, "begins as a YAML list"),
        (f"urls: [{A}]", "is not a server's base URL"),
    ],
)
def test_what_is_no_list_of_servers_is_refused_with_words(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_list(text)


@given(listed=st.lists(urls, min_size=1), indent=st.sampled_from(["", "  ", "\t"]), end=st.sampled_from(["\n", "\r\n"]))
def test_what_is_written_is_what_is_read(listed: list[str], indent: str, end: str) -> None:
    each_once = tuple(dict.fromkeys(listed))
    assert parse_list("".join(f"{indent}{url}{end}" for url in listed)) == each_once
    assert parse_list(yaml.safe_dump(listed)) == parse_list(json.dumps(listed)) == each_once


@given(text=st.text() | st.text(alphabet="-[]{}:&*!# \n\thtp/"))
@example("- !!python/object:os.system {}")
@example("- 2024-13-45")
def test_whatever_a_file_holds_it_is_a_list_of_servers_or_an_error_with_words(text: str) -> None:
    try:
        listed = parse_list(text)
    except ValueError as error:
        listed, words = ("http://nowhere",), str(error)
    else:
        words = "-"
    assert words
    assert listed
    assert all(server_url(url) == url for url in listed)


NAME = "dns+http://vllm.default.svc.cluster.local:8000"


def test_a_name_stands_for_a_server_at_each_address() -> None:
    assert (is_name(NAME), is_name(A)) == (True, False)
    assert host_and_port(NAME) == ("vllm.default.svc.cluster.local", 8000)
    assert urls_at(NAME, ["10.0.0.2", "10.0.0.1", "10.0.0.2"]) == [A, B]
    assert urls_at("dns+http://user:pass@[::1]/x", ["::2", "::1"]) == [
        "http://user:pass@[::1]:80/x",
        "http://user:pass@[::2]:80/x",
    ]
    assert urls_at(NAME, []) == []


def test_a_pod_with_two_kinds_of_address_is_one_server() -> None:
    assert urls_at(NAME, ["fd00::1", "10.0.0.1"]) == [A]


@given(
    addresses=st.lists(st.ip_addresses(v=4).map(str), min_size=1) | st.lists(st.ip_addresses(v=6).map(str), min_size=1)
)
def test_every_address_gives_a_base_url_once(addresses: list[str]) -> None:
    servers = urls_at(NAME, addresses)
    assert len(servers) == len(set(servers)) == len(set(addresses))
    assert all(server_url(url) == url for url in servers)
    assert servers == urls_at(NAME, addresses[::-1])


names = st.lists(st.sampled_from("abcdef"), max_size=8)


@given(before=names.map(lambda some: list(dict.fromkeys(some))), after=names)
def test_the_difference_makes_one_list_of_the_other(before: list[str], after: list[str]) -> None:
    new, gone = difference(before, after)
    assert [one for one in before if one not in gone] + new == [one for one in before if one in after] + new
    assert set(before) - set(gone) | set(new) == set(after)
    assert not set(new) & set(before)
    assert len(new) == len(set(new))


@given(answers=st.lists(st.sets(st.sampled_from("abcd"), min_size=1), max_size=12))
def test_an_address_is_gone_after_two_answers_in_a_row_without_it(answers: list[set[str]]) -> None:
    state = Answers()
    for number, answer in enumerate(answers, 1):
        state.take(answer)
        assert set(state.urls) == set().union(*answers[max(0, number - LOOKS_UNTIL_GONE) : number])
        assert state.urls
