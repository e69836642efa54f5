"""README's list of files is made from the files' own first lines: `python tests/test_readme.py` writes it anew."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

from gen_service.jobs.job import load_spec
from gen_service.service_settings import ServiceSettings, load_service_settings
from gen_service.terminal.job_request import load_request
from gen_service.wire.states import FINAL, STATES, TRANSITIONS

ROOT = Path(__file__).resolve().parent.parent
START, END = "<!-- files -->", "<!-- end of files -->"


def listing() -> str:
    """Every module with the first sentence of its docstring, folder by folder."""
    lines = ["```"]
    for folder in ("gen_service", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py"), key=lambda path: (path.parent.parts, path.name)):
            told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            if told:
                sentence = re.split(r"(?<=\.)\s", " ".join(told.split("\n\n")[0].split()))[0].rstrip(".")
                lines.append(f"{path.relative_to(ROOT).as_posix():<52} {sentence}")
    folders = {
        "tests/": "mirrors the folders; tests/trip holds whole journeys",
        "deploy/fleets/": "fleet profiles that plans are made with",
        "deploy/locks/": "pinned, hashed locks",
        "deploy/tools/": "gets the Prometheus that the tests scrape with",
    }
    return "\n".join([*lines, *(f"{folder:<52} {told}" for folder, told in folders.items()), "```"])


def with_listing(readme: str) -> str:
    """The README with the list as it should be."""
    before, _, rest = readme.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n\n{listing()}\n\n{END}{after}"


def test_the_readme_lists_every_file_with_its_own_words() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_listing(readme) == readme, "run `python tests/test_readme.py`"


def test_the_readme_opens_with_the_two_commands() -> None:
    head = (ROOT / "README.md").read_text(encoding="utf-8")[:200]
    assert head.index("make demo") < head.index("make test")


def fenced(language: str) -> list[str]:
    """The README's blocks of code in a language."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE)


def table_under(head: str) -> list[list[str]]:
    """The rows of the table whose first column has this head, as cells."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = readme.partition(f"\n| {head} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [row.strip("| ").split(" | ") for row in rows]


def named(text: str) -> list[str]:
    """The names in a text: lower case, between backticks."""
    return re.findall(r"`([a-z_]+)`", text)


def test_the_examples_are_accepted_by_what_reads_them(tmp_path: Path) -> None:
    read: dict[str, Callable[[Path], object]] = {
        "job.yaml": load_spec,
        "service.yaml": load_service_settings,
        "request.yaml": load_request,
    }
    blocks = {match[1]: block for block in fenced("yaml") if (match := re.match(r"# (\S+)\n", block))}
    assert blocks.keys() == read.keys()
    for name, reader in read.items():
        (tmp_path / name).write_text(blocks[name], encoding="utf-8")
        assert reader(tmp_path / name)
    for number, block in enumerate(fenced("python")):
        compile(block, f"python block {number}", "exec")


def test_the_table_of_settings_names_each_section_and_settings_that_there_are() -> None:
    sections = {named(section)[0]: named(told) for section, told in table_under("section")}
    assert sections.keys() == ServiceSettings.model_fields.keys()
    for section, told in sections.items():
        kind = ServiceSettings.model_fields[section].annotation
        assert kind is not None
        assert told
        assert set(told) <= set(kind.model_fields), section


def test_the_table_of_states_is_the_machine() -> None:
    told = {state: row[-1] for row in table_under("state") for state in named(row[0])}
    assert told.keys() == set(STATES)
    beside = {"cancelling", "expiring", "failed"}
    for state, words in told.items():
        after = {to for (at, _), to in TRANSITIONS.items() if at == state}
        assert set(named(words)) & set(STATES) == after - beside, state
    ways = {event: {at for at, happened in TRANSITIONS if happened == event} for event in ("cancel", "expire", "fail")}
    assert ways["cancel"] == ways["expire"] == set(list(told)[:4])
    assert ways["fail"] == set(STATES) - FINAL - {"paused"}


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(with_listing(path.read_text(encoding="utf-8")), encoding="utf-8")
