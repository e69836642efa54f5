"""README's list of files is made from the files' own first lines: `python tests/test_readme.py` writes it anew."""

from __future__ import annotations

import ast
import re
from pathlib import Path

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
    lines += [
        "tests/                                               mirrors the folders; tests/trip holds whole journeys"
    ]
    lines += ["deploy/locks/                                        pinned, hashed locks", "```"]
    return "\n".join(lines)


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


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(with_listing(path.read_text(encoding="utf-8")), encoding="utf-8")
