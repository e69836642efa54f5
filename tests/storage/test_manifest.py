from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from gen_service.errors import PublishConflict, StorageError
from gen_service.storage import manifest
from gen_service.storage.destination import LocalFolder
from gen_service.storage.frames import JournalPosition
from gen_service.storage.manifest import Manifest, Part, PublishedCounts, SkippedPart

FIRST = Manifest(1, "one", (), JournalPosition(1, 20, 3), 2)
PART = Part("data/part-0001-000001.parquet", 5, 900, "ab", {"correct": 3, "error": 2}, 50, 70)
SECOND = Manifest(1, "one", (PART, PART), JournalPosition(1, 40, 0), 4)


def test_manifests_come_back_in_order(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    assert manifest.load(folder) == []
    manifest.commit(folder, 1, FIRST)
    manifest.commit(folder, 2, SECOND)
    assert manifest.load(folder) == [FIRST, SECOND]


def test_counts_are_the_sums(tmp_path: Path) -> None:
    counts = manifest.count([FIRST, SECOND])
    assert counts == PublishedCounts(10, 2, {"correct": 6, "error": 4}, 100, 140, 4)


def skipping(steering: str, **reasons: int) -> Manifest:
    part = SkippedPart(f"skipped/{steering}-{len(reasons)}.parquet", sum(reasons.values()), 9, "cd", reasons)
    return Manifest(1, "one", skipped=(part,) if reasons else (), steering=steering)


def test_skips_count_until_something_else_is_steered_for() -> None:
    history = [
        FIRST,
        skipping("a", solved=3),
        skipping("a", solved=1, given_up=2),
        skipping("b"),
        skipping("a", solved=5),
    ]
    expected = [{}, {"solved": 3}, {"solved": 4, "given_up": 2}, {}, {"solved": 5}]
    for length, skipped in enumerate(expected, 1):
        counts = manifest.count(history[:length])
        assert counts.skipped == skipped
        standing = manifest.standing_skips(history[:length])
        assert sum(part.rows for part in standing) == sum(skipped.values()) == counts.samples


def test_a_manifest_is_of_the_first_version_unless_it_says_more(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    history = [SECOND, skipping("a"), skipping("a", solved=3)]
    for number, one in enumerate(history, 1):
        manifest.commit(folder, number, one)
    trees = [orjson.loads(folder.read(f"manifest/{number:06}.json")) for number in (1, 2, 3)]
    assert [tree["version"] for tree in trees] == [1, 2, 2]
    assert set(trees[0]) == {"version", "epoch", "writer", "parts", "journal_covered", "rejected"}
    assert manifest.load(folder) == history


def test_a_number_is_taken_once(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    manifest.commit(folder, 1, FIRST)
    with pytest.raises(PublishConflict, match=r"000001\.json was written by another run"):
        manifest.commit(folder, 1, SECOND)
    assert manifest.load(folder) == [FIRST]
    assert [path.name for path in (tmp_path / "manifest").iterdir()] == ["000001.json"]


def test_an_upload_repeated_by_the_client_is_no_conflict(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    manifest.commit(folder, 1, FIRST)
    manifest.commit(folder, 1, FIRST)
    assert manifest.load(folder) == [FIRST]


def test_a_missing_manifest_is_an_error_and_not_a_gap(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    manifest.commit(folder, 1, FIRST)
    manifest.commit(folder, 3, SECOND)
    with pytest.raises(StorageError, match=r"000002\.json"):
        manifest.load(folder)


@pytest.mark.parametrize(
    ("content", "message"), [(b"{", "cannot be read"), (b'{"version": 9}', "newer than 2"), (b"[]", "cannot be read")]
)
def test_a_manifest_that_cannot_be_understood_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    folder = LocalFolder(tmp_path)
    folder.put("manifest/000001.json", content)
    with pytest.raises(StorageError, match=message):
        manifest.load(folder)
