"""The dataset card: README.md of a job folder, as the Hugging Face hub shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import orjson
import pyarrow as pa
import yaml

from gen_service.storage import traces
from gen_service.storage.destination import Destination
from gen_service.storage.manifest import Manifest, PublishedCounts, count
from gen_service.storage.schema import SCHEMA

BAR_CHARS = 40


def write_card(destination: Destination, job_id: str, spec: dict[str, Any], manifests: Sequence[Manifest]) -> None:
    """Write README.md for what the manifests publish. Reads one small column of every part."""
    lengths = _lengths(destination, manifests)
    files = [part.file for manifest in manifests for part in manifest.parts]
    destination.put("README.md", card(job_id, spec, count(manifests), lengths, files).encode())


def card(
    job_id: str, spec: dict[str, Any], counts: PublishedCounts, lengths: dict[int, int], files: Sequence[str]
) -> str:
    """The card's text.

    Args:
        lengths: rows by power of two: key k counts completions of 2^(k-1) to 2^k - 1 tokens, key 0 those of none.
        files: the published files, relative to the card.
    """
    sections = [
        _front_matter(job_id, files),
        f"# {job_id}\n\nReasoning traces, one row per sample.",
        f"| | |\n|---|---:|\n{_counts(counts)}",
        *_skipped(counts),
        f"## Verdicts\n\n| verdict | rows | share |\n|---|---:|---:|\n{_verdicts(counts)}",
        f"## Completion lengths, in tokens\n\n```\n{_histogram(lengths)}\n```",
        f"## Settings\n\n```json\n{orjson.dumps(spec, option=orjson.OPT_INDENT_2).decode()}\n```",
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(job_id: str, files: Sequence[str]) -> str:
    text = _yaml({"pretty_name": job_id, "tags": ["reasoning", "synthetic"]})
    if files:
        # Without it `datasets` takes the columns from the first file, and fails on a later file that has more.
        text += _columns()
        text += _yaml(
            {"configs": [{"config_name": "default", "data_files": [{"split": "train", "path": list(files)}]}]}
        )
    return f"---\n{text}---"


@cache
def _columns() -> str:
    """The same for every job, and a hundred lines of YAML cost as much as dozens of samples."""
    return _yaml({"dataset_info": {"features": _features(SCHEMA)}})


def _yaml(tree: dict[str, Any]) -> str:
    return yaml.safe_dump(tree, sort_keys=False)


def _features(fields: Iterable[pa.Field]) -> list[dict[str, Any]]:
    """Columns as `datasets` writes them in a card."""
    return [{"name": field.name, **_feature(field.type)} for field in fields]


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(kind):
        value = kind.value_type
        return {"list": _features(value) if pa.types.is_struct(value) else _feature(value)["dtype"]}
    return {"dtype": {"double": "float64"}.get(str(kind), str(kind))}


def _counts(counts: PublishedCounts) -> str:
    rows = {
        "rows": counts.rows,
        "files": counts.parts,
        "prompt tokens": counts.prompt_tokens,
        "completion tokens": counts.completion_tokens,
        "prompt rows set aside": counts.rejected,
    }
    return "\n".join(f"| {name} | {number:,} |" for name, number in rows.items())


def _skipped(counts: PublishedCounts) -> list[str]:
    if not counts.skipped:
        return []
    by_size = sorted(counts.skipped.items(), key=lambda item: -item[1])
    rows = "\n".join(f"| {reason} | {number:,} |" for reason, number in by_size)
    return [f"## Samples not made, since they were not needed\n\n| reason | samples |\n|---|---:|\n{rows}"]


def _verdicts(counts: PublishedCounts) -> str:
    by_size = sorted(counts.by_verdict.items(), key=lambda item: -item[1])
    return "\n".join(f"| {outcome} | {rows:,} | {rows / counts.rows:.1%} |" for outcome, rows in by_size)


def _histogram(lengths: dict[int, int]) -> str:
    if not lengths:
        return "no completions"
    most = max(lengths.values())
    lines = []
    for power in range(min(lengths), max(lengths) + 1):
        rows = lengths.get(power, 0)
        bar = "#" * -(-rows * BAR_CHARS // most)
        lines.append(f"{1 << power >> 1:>9,} to {max((1 << power) - 1, 0):>9,}  {rows:>10,}  {bar}".rstrip())
    return "\n".join(lines)


def _lengths(destination: Destination, manifests: Iterable[Manifest]) -> dict[int, int]:
    lengths: Counter[int] = Counter()
    for manifest in manifests:
        for part in manifest.parts:
            for batch in traces.part_batches(destination, part, ["completion_tokens"]):
                # Not to_numpy, which imports pandas: a second at the end of every run.
                lengths.update(number.bit_length() for number in batch.column(0).to_pylist() if number is not None)
    return dict(lengths)
