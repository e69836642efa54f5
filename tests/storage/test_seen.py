from __future__ import annotations

import threading
from pathlib import Path

import psutil
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gen_service.storage.seen import Seen

_KEYS = st.lists(st.text(st.characters(exclude_categories=()), max_size=3))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(one_by_one=_KEYS, together=_KEYS, asked=_KEYS, fresh_keys=st.integers(1, 5))
def test_it_is_a_set(
    quick_disk: Path, one_by_one: list[str], together: list[str], asked: list[str], fresh_keys: int
) -> None:
    model: set[str] = set()
    with Seen(quick_disk / "seen", fresh_keys=fresh_keys) as seen:
        for key in one_by_one:
            assert seen.add(key) == (key not in model)
            model.add(key)
        assert seen.add_many(together) == len(model | set(together)) - len(model)
        model |= set(together)
        assert len(seen) == len(model)
        assert [key in seen for key in asked + together] == [key in model for key in asked + together]
    assert not (quick_disk / "seen").exists()


def test_memory_does_not_grow_with_the_number_of_keys(tmp_path: Path) -> None:
    with Seen(tmp_path / "seen") as seen:
        seen.add_many(f"key {number}" for number in range(100_000))
        before = psutil.Process().memory_info().rss
        assert seen.add_many(f"key {number}" for number in range(300_000)) == 200_000
        assert psutil.Process().memory_info().rss - before < 5_000_000
        assert (tmp_path / "seen").stat().st_size > 5_000_000


def test_a_file_left_by_a_killed_process_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "seen").write_bytes(b"not a database" * 1000)
    with Seen(tmp_path / "seen") as seen:
        assert "key" not in seen


def test_threads_add_each_key_once(tmp_path: Path) -> None:
    with Seen(tmp_path / "seen") as seen:
        added: list[str] = []
        keys = [str(number) for number in range(500)]
        threads = [
            threading.Thread(target=lambda: added.extend(key for key in keys if seen.add(key))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(added) == sorted(keys)


def test_on_a_full_disk_no_key_is_forgotten(small_disk: Path) -> None:
    """Its file grows past the disk's end: keys wait in memory, and go to the file when there is room."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(6 * 1024 * 1024))
    with Seen(small_disk / "seen") as seen:
        keys = [str(number) for number in range(150_000)]
        assert seen.add_many(keys) == len(keys)
        full = (small_disk / "seen").stat().st_size
        assert len(seen._fresh) > 10_000
        assert all(key in seen for key in keys)
        assert not any(f"other {key}" in seen for key in keys[:1000])
        ballast.unlink()
        more = [f"more {key}" for key in keys]
        assert seen.add_many([*keys, *more]) == len(more)
        assert len(seen._fresh) < 10_000
        assert (small_disk / "seen").stat().st_size > full
        assert all(key in seen for key in keys + more)
        assert len(seen) == 300_000
