"""Paths of clients: only under the roots, whatever they are made of."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.controller import paths
from gen_service.controller.paths import allowed_dataset, allowed_output, allowed_prompt_path
from gen_service.errors import InvalidRequest


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two roots with links in and out of them, and things outside."""
    place = tmp_path_factory.mktemp("place").resolve()
    for folder in ("root/inner", "second", "outside/deep", "root-twin", "root/mixed", "root/round", "root/shared"):
        (place / folder).mkdir(parents=True)
    for file in ("root/p.jsonl", "root/inner/q.jsonl", "second/r.jsonl", "outside/secret.jsonl", "root-twin/t.jsonl"):
        (place / file).write_text('{"prompt": "1+1"}\n')
    (place / "root/a::b.jsonl").write_text("{}\n")
    links = {
        "root/out.jsonl": "outside/secret.jsonl",
        "root/out": "outside",
        "root/hop": "root/out",
        "root/to-second": "second",
        "root/mixed/leak.jsonl": "outside/secret.jsonl",
        "root/round/self": "root/round/self",
        "root/missing": "outside/nothing",
        "root/shared/r.jsonl": "second/r.jsonl",
        "root/shared/again": "root/shared",
        "outside/back.jsonl": "root/p.jsonl",
        "alias": "root",
    }
    for link, target in links.items():
        (place / link).symlink_to(place / target)
    os.mkfifo(place / "root/pipe.jsonl")
    return place


def roots_of(place: Path) -> list[Path]:
    return [place / "root", place / "second"]


def refusal_of_prompts(path: str, roots: list[Path]) -> str:
    with pytest.raises(InvalidRequest) as refused:
        allowed_prompt_path(path, roots)
    assert refused.value.field == "prompts.path"
    return str(refused.value)


def refusal_of_output(path: str, roots: list[str]) -> str:
    with pytest.raises(InvalidRequest) as refused:
        allowed_output(path, roots)
    assert refused.value.field == "output.path"
    return str(refused.value)


@pytest.mark.parametrize(
    ("path", "real"),
    [
        ("root/p.jsonl", "root/p.jsonl"),
        ("root", None),
        ("root/inner", "root/inner"),
        ("root/./inner//q.jsonl", "root/inner/q.jsonl"),
        ("root/to-second/r.jsonl", "second/r.jsonl"),
        ("root/shared", "root/shared"),
    ],
)
def test_what_lies_under_a_root_is_given_without_links(place: Path, path: str, real: str | None) -> None:
    given_path = f"{place}/{path}"
    if real is None:  # The root as a whole has links that lead out of it.
        refusal_of_prompts(given_path, roots_of(place))
    else:
        assert allowed_prompt_path(given_path, roots_of(place)) == place / real


@pytest.mark.parametrize(
    "path",
    [
        "{place}/outside/secret.jsonl",
        "{place}/root/../outside/secret.jsonl",
        "{place}/root/inner/../p.jsonl",
        "{place}/root/out.jsonl",
        "{place}/root/out/secret.jsonl",
        "{place}/root/out",
        "{place}/root/hop/secret.jsonl",
        "{place}/root/mixed",
        "{place}/root/round",
        "{place}/root/round/self",
        "{place}/root/missing",
        "{place}/root/pipe.jsonl",
        "{place}/root/none.jsonl",
        "{place}/root-twin/t.jsonl",
        "{place}/outside/back.jsonl",
        "{place}/alias/p.jsonl",
        "{place}/root/a::b.jsonl",
        "{place}/root/p.jsonl\0",
        "{place}/root/p.jsonl\n",
        "{place}/root/\ud800",
        "{place}/root/" + "x" * 300,
        "root/p.jsonl",
        "./root/p.jsonl",
        "../p.jsonl",
        "",
        ".",
        "/",
        "~/p.jsonl",
        "~root/p.jsonl",
        "/{place}/root/p.jsonl",
        "file://{place}/root/p.jsonl",
        "local://{place}/root/p.jsonl",
        "simplecache::{place}/root/p.jsonl",
        "{place}/root/p.jsonl::http://127.0.0.1/x",
        "zip://x.jsonl::{place}/root/p.jsonl",
        "http://127.0.0.1:1/p.jsonl",
        "https://example.org/p.jsonl",
        "s3://bucket/p.jsonl",
        "memory://p.jsonl",
        "hub:owner/name",
        "/etc/passwd",
        "/proc/self/environ",
        "/dev/stdin",
        "\\\\host\\share",
    ],
)
def test_everything_else_is_refused(place: Path, path: str) -> None:
    words = refusal_of_prompts(path.replace("{place}", str(place)), roots_of(place))
    assert words.startswith("prompts.path: got ")
    assert "; expected " in words


def test_a_path_outside_is_refused_in_the_same_words_whether_it_exists_or_not(place: Path) -> None:
    words = {
        refusal_of_prompts(str(place / path), roots_of(place)).replace(repr(str(place / path)), "PATH")
        for path in ("outside/secret.jsonl", "outside/none.jsonl", "root/out.jsonl", "root/missing", "root/none.jsonl")
    }
    assert len(words) == 1


def test_what_lies_outside_is_not_even_looked_at(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    real = os.lstat

    def lstat(path: str, **options: int) -> os.stat_result:
        looked.append(os.fspath(path))
        return real(path, **options)

    monkeypatch.setattr(os, "lstat", lstat)
    refusal_of_prompts(str(place / "outside/deep/x.jsonl"), roots_of(place))
    assert looked, "the roots themselves are resolved"
    assert not [path for path in looked if path.startswith(str(place / "outside"))]


def test_without_roots_nothing_is_allowed_and_the_refusal_says_so(place: Path) -> None:
    assert "this service has none" in refusal_of_prompts(str(place / "root/p.jsonl"), [])
    assert "this service has none" in refusal_of_output(str(place / "root"), [])


def test_a_root_may_itself_be_a_link(place: Path) -> None:
    assert allowed_prompt_path(str(place / "alias/p.jsonl"), [place / "alias"]) == place / "root/p.jsonl"
    assert allowed_prompt_path(str(place / "root/p.jsonl"), [place / "alias"]) == place / "root/p.jsonl"


def test_a_relative_root_counts_from_the_working_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place / "second")
    assert allowed_prompt_path(str(place / "root/p.jsonl"), [Path("../root")]) == place / "root/p.jsonl"
    refusal_of_prompts(str(place / "second/r.jsonl"), [Path("../root")])


def test_a_folder_of_too_many_entries_is_refused(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        (tmp_path / f"{number}.jsonl").write_text("{}\n")
    assert allowed_prompt_path(str(tmp_path), [tmp_path]) == tmp_path.resolve()
    monkeypatch.setattr(paths, "MOST_ENTRIES", 3)
    refusal_of_prompts(str(tmp_path), [tmp_path])


segments = st.sampled_from(
    (
        *("..", ".", "", "root", "second", "outside", "inner", "out", "hop", "to-second", "mixed", "shared", "again"),
        *("deep", "alias", "p.jsonl", "secret.jsonl", "r.jsonl", "missing", "self", "~", "::", "file:", "root-twin"),
    )
)


@given(parts=st.lists(segments, max_size=7), is_absolute=st.booleans())
def test_whatever_is_allowed_truly_lies_under_a_root(place: Path, parts: list[str], is_absolute: bool) -> None:
    path = "/".join([str(place)] * is_absolute + parts)
    for allowed in (allowed_prompt_path, lambda path, roots: Path(allowed_output(path, list(map(str, roots))))):
        try:
            found = allowed(path, roots_of(place))
        except InvalidRequest:
            continue
        real = Path(os.path.realpath(path))
        assert found == real
        assert any(real.is_relative_to(root) for root in roots_of(place))
        assert ".." not in found.parts
        assert "::" not in str(found)


@given(path=st.text(max_size=40))
def test_any_text_is_allowed_or_refused_as_a_request(place: Path, path: str) -> None:
    for text in (path, f"{place}/root/{path}", f"s3://bucket/prefix/{path}", f"{place}/root{path}"):
        for allowed in (
            lambda text: str(allowed_prompt_path(text, roots_of(place))),
            lambda text: allowed_output(text, [str(place / "root"), "s3://bucket/prefix"]),
        ):
            try:
                found = allowed(text)
            except InvalidRequest:
                continue
            assert found.startswith((str(place / "root"), str(place / "second"), "s3://bucket/prefix"))
            assert found.isprintable()


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("{place}/root", "{place}/root"),
        ("{place}/root/new/deep", "{place}/root/new/deep"),
        ("{place}/root/to-second/new", "{place}/second/new"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("s3://bucket/prefix/", "s3://bucket/prefix"),
        ("S3://bucket/prefix/job-1/x y", "s3://bucket/prefix/job-1/x y"),
        ("memory://traces/x", "memory://traces/x"),
    ],
)
def test_outputs_lie_under_a_local_root_or_a_url_that_the_operator_wrote(place: Path, path: str, found: str) -> None:
    roots = [str(place / "root"), str(place / "second"), "s3://bucket/prefix/", "memory://traces"]
    assert allowed_output(path.replace("{place}", str(place)), roots) == found.replace("{place}", str(place))


@pytest.mark.parametrize(
    "path",
    [
        "{place}/outside/new",
        "{place}/root/../outside/new",
        "{place}/root/out/new",
        "{place}/root/missing/new",
        "{place}/root/p.jsonl",
        "{place}/root/p.jsonl/new",
        "{place}/root-twin",
        "traces",
        "file://{place}/root/new",
        "local://{place}/root/new",
        "s3://bucket",
        "s3://bucket/prefix-twin",
        "s3://bucket/prefixed/x",
        "s3://bucket/prefix/../x",
        "s3://bucket/prefix/./x",
        "s3://bucket/prefix//x",
        "s3://bucket/prefix/%2e%2e/x",
        "s3://bucket/prefix/..%2fx",
        "s3://bucket/prefix/x?versionId=1",
        "s3://bucket/prefix/x#y",
        "s3://bucket/prefix/a\\..\\b",
        "s3://bucket/prefix/x\n",
        "s3://key:secret@bucket/prefix/x",
        "s3://Bucket/prefix/x",
        "s3a://bucket/prefix/x",
        "gs://bucket/prefix/x",
        "http://bucket/prefix/x",
        "https://127.0.0.1/x",
        "simplecache::s3://bucket/prefix/x",
        "s3://bucket/prefix/x::http://127.0.0.1/",
        "s3:/bucket/prefix/x",
        "memory://other",
        "memory:///traces",
        "://bucket",
        "s3://",
    ],
)
def test_other_outputs_are_refused(place: Path, path: str) -> None:
    roots = [str(place / "root"), str(place / "second"), "s3://bucket/prefix/", "memory://traces"]
    words = refusal_of_output(path.replace("{place}", str(place)), roots)
    assert words.startswith("output.path: got ")
    assert "; expected " in words


def test_a_file_url_as_a_root_is_the_local_folder(place: Path) -> None:
    assert allowed_output(str(place / "root/new"), [f"file://{place}/root"]) == str(place / "root/new")


@pytest.mark.parametrize("name", ["root", "root/inner", "alias", "root/p.jsonl", "../x", "./root", ".", "a/..", ".git"])
def test_a_data_sets_name_is_never_a_local_folder(place: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    with pytest.raises(InvalidRequest) as refused:
        allowed_dataset(name)
    assert refused.value.field == "prompts.dataset"
    assert allowed_dataset("openai/gsm8k") == "openai/gsm8k"
