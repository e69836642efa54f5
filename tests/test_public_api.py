"""The public names are a promise: adding one is a choice, losing one is a break."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import gen_service

PUBLIC = {
    "Answered",
    "GenServiceError",
    "JobReport",
    "JobRequest",
    "JobSpec",
    "JobView",
    "RequestError",
    "ServiceClient",
    "SpecError",
    "Stop",
    "Summary",
    "VerificationSettings",
    "Verifier",
    "generate",
    "load_spec",
    "make_spec",
    "open_source",
    "part_files",
    "read_traces",
    "reverify",
    "reward",
    "summarize",
}


def test_exactly_these_names_are_public() -> None:
    assert set(gen_service.__all__) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_each_name_is_there_and_documented(name: str) -> None:
    public = getattr(gen_service, name)
    assert public.__name__ == name
    assert inspect.getdoc(public)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'generat'"):
        _ = gen_service.generat  # type: ignore[attr-defined]


def test_importing_the_package_imports_none_of_its_parts() -> None:
    code = "import sys, gen_service; print(sorted(name for name in sys.modules if name.startswith('gen_service')))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "['gen_service']"
