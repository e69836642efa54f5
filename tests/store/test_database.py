"""Opening the database, and what becomes of it when it is busy, lost or left in the middle."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, event

from gen_service.errors import SpecError, Unavailable
from gen_service.service_settings import DataSettings, QuotaSettings
from gen_service.store.database import open_store
from gen_service.store.rows import JobRow
from gen_service.store.urls import database_url as url_of
from gen_service.store.urls import driver_url

FREE = QuotaSettings(active_jobs=None)
MakeJob = Callable[..., JobRow]


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("sqlite:///a/b.db", "sqlite:///a/b.db"),
        ("sqlite+pysqlite:////a/b.db", "sqlite:////a/b.db"),
        ("postgresql://me:pw@host/name", "postgresql+psycopg://me:***@host/name"),
        ("postgres://me@host:1/name", "postgresql+psycopg://me@host:1/name"),
        ("postgresql+psycopg://host/name?sslmode=require", "postgresql+psycopg://host/name?sslmode=require"),
    ],
)
def test_a_url_gets_the_driver_that_is_installed(given: str, driver: str) -> None:
    assert str(driver_url(given)) == driver


@pytest.mark.parametrize(
    "given",
    [
        "",
        "nonsense",
        "mysql://me:secret@host/name",
        "postgresql+asyncpg://me:secret@host/name",
        "postgresql://me:secret@host:port/name",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:name?mode=memory&uri=true",
        "oracle://host/name?password=secret",
    ],
)
def test_a_wrong_url_names_the_setting_and_hides_the_password(given: str) -> None:
    with pytest.raises(SpecError, match=r"^data\.database: got .*; expected sqlite:///") as error:
        driver_url(given)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "rest",
    ["@127.0.0.1:1/name?application_name=secret", "@/name?host=127.0.0.1:1&host=127.0.0.1:2", "@/?host=/nowhere"],
)
async def test_a_server_that_cannot_be_reached_is_said_without_its_password(rest: str) -> None:
    with pytest.raises(SpecError, match=r"^data\.database: got .*; expected a database that can be opened") as error:
        async with open_store(f"postgresql://me:secret{rest}"):
            pass
    assert "secret" not in str(error.value)


async def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("these are words, and not a database\n" * 100)
    for path in (tmp_path / "text.db", tmp_path, tmp_path / "text.db" / "below"):
        with pytest.raises(SpecError, match=r"^data\.database: got .*; expected a database that can be opened"):
            async with open_store(f"sqlite:///{path}"):
                pass


def test_without_a_setting_the_database_is_a_file_of_the_data_folder(tmp_path: Path) -> None:
    folder = tmp_path / "odd ?#% name"
    url = driver_url(url_of(DataSettings(folder=folder)))
    assert url.database == str(folder / "gen_service.db")
    chosen = DataSettings(folder=folder, database=SecretStr("postgresql://host/name"))
    assert url_of(chosen) == "postgresql://host/name"


def test_a_new_file_is_its_owners_alone_and_durable(tmp_path: Path) -> None:
    path = tmp_path / "not there yet" / "store.db"

    async def modes() -> set[int]:
        async with open_store(f"sqlite:///{path}") as store:
            await store.keys.create("a", ["read"], "", 1.0)
            return {stat.S_IMODE(os.stat(file).st_mode) for file in path.parent.iterdir()}

    assert asyncio.run(modes()) == {0o600}
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


async def test_two_processes_that_write_one_file_wait_for_each_other(tmp_path: Path, job: MakeJob) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    # Each store has its own writer, as two processes have.
    async with open_store(url) as one, open_store(url) as other:
        await asyncio.gather(*(store.jobs.create(job(), FREE) for _ in range(40) for store in (one, other)))
        assert len(await one.jobs.page(None, limit=100)) == 80


async def test_many_that_open_a_new_database_at_once_all_get_it(database_url: str) -> None:
    async def make() -> str:
        async with open_store(database_url) as store:
            return (await store.keys.create("a", ["read"], "", 1.0))[0].id

    ids = await asyncio.gather(*(make() for _ in range(6)))
    async with open_store(database_url) as store:
        assert {row.id for row in await store.keys.list()} == set(ids)


async def test_a_reader_sees_no_half_of_a_move(database_url: str, job: MakeJob) -> None:
    async with open_store(database_url) as store:
        row, _ = await store.jobs.create(job(), FREE)
        moving = asyncio.create_task(move_on(store.jobs.move, row.id))
        while not moving.done():
            seen = (await store.jobs.get(row.id, "a")).state
            told = (await store.events.since(row.id, 0, 100))[-1].data["to"]
            again = (await store.jobs.get(row.id, "a")).state
            assert told in (seen, again) or seen != again
        await moving


async def move_on(move: Callable[..., object], job_id: str) -> None:
    for step in ("start", "pause", "resume") * 8:
        await move(job_id, step, 2.0)  # type: ignore[misc]


async def test_who_is_cancelled_anywhere_leaves_a_whole_job_and_a_usable_store(database_url: str, job: MakeJob) -> None:
    with closing(Canceller()) as canceller:
        async with open_store(database_url) as store:
            rows = [job(idempotency_key=f"k{steps}", created_at=float(steps)) for steps in range(20)]
            was_cancelled = [
                await canceller.cancelled_at(steps, store.jobs.create(row, FREE)) for steps, row in enumerate(rows)
            ]
            assert was_cancelled[0]
            assert not was_cancelled[-1]
            # Whoever was cancelled, what had begun went on to its end; the last, which came after all, has returned.
            assert {row.id for row in await store.jobs.page(None, limit=100)} == {row.id for row in rows}
            for row in rows:
                stored, is_new = await store.jobs.create(row, FREE)
                assert (stored.id, is_new) == (row.id, False)
                assert len(await store.events.since(row.id, 0, 5)) == 1


class Canceller:
    """Cancels callers while their transactions are under way; closed once the store is, since threads call it."""

    def __init__(self) -> None:
        self._heard = {
            "before_cursor_execute": self._step,
            "after_cursor_execute": self._step,
            "commit": self._commit,
        }
        self._loop = asyncio.get_running_loop()
        self._committing = asyncio.Event()
        self._cancel: Callable[[], object] = int
        self._left = -1
        for name, listener in self._heard.items():
            event.listen(Engine, name, listener)

    async def cancelled_at(self, steps: int, work: Coroutine[Any, Any, object]) -> bool:
        """Whether `work` ended by being cancelled while it did its step of that number: a statement, or the commit.

        Returns once the transaction came to its commit, with or without its caller.
        """
        task = asyncio.create_task(work)
        self._cancel, self._left = task.cancel, steps
        self._committing.clear()
        await asyncio.wait([task])
        await self._committing.wait()
        return task.cancelled()

    def close(self) -> None:
        """Hear no more."""
        for name, listener in self._heard.items():
            event.remove(Engine, name, listener)

    def _step(self, *_: object) -> None:
        if self._left == 0:
            self._loop.call_soon_threadsafe(self._cancel)
        self._left -= 1

    def _commit(self, *_: object) -> None:
        self._step()
        self._loop.call_soon_threadsafe(self._committing.set)


async def test_lost_connections_are_replaced(postgresql_url: Callable[[], str], job: MakeJob) -> None:
    url = postgresql_url()
    async with open_store(url) as store:
        await asyncio.gather(*(store.jobs.create(job(), FREE) for _ in range(10)))
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as other:
            ended = await other.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            assert len(await ended.fetchall()) >= 1
        await asyncio.gather(*(store.jobs.create(job(), FREE) for _ in range(10)))
        assert len(await store.jobs.page(None, limit=100)) == 20


async def test_a_database_that_is_gone_is_unavailable_and_not_a_bug(
    postgresql_url: Callable[[], str], job: MakeJob
) -> None:
    url = postgresql_url()
    name = url.rpartition("?")[0].rpartition("/")[2]
    async with open_store(url) as store:
        row, _ = await store.jobs.create(job(), FREE)
        async with await psycopg.AsyncConnection.connect(postgresql_url(), autocommit=True) as other:
            await other.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            await other.execute(
                f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'"
            )
            for call in (store.jobs.get(row.id, "a"), store.jobs.move(row.id, "start", 2.0)):
                with pytest.raises(Unavailable, match="the database cannot do this now") as refusal:
                    await call
                assert refusal.value.retry_after_s
                assert "SELECT" not in str(refusal.value)
            await other.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        assert await store.jobs.get(row.id, "a") == row


async def test_a_disk_that_is_full_is_unavailable_and_heals(small_disk: Path, job: MakeJob) -> None:
    filler = small_disk / "filler"
    async with open_store(f"sqlite:///{small_disk / 'store.db'}") as store:
        row, _ = await store.jobs.create(job(), FREE)
        await asyncio.to_thread(fill, filler)
        large = job(request={"text": "x" * 8_000_000})
        with pytest.raises(Unavailable, match="full"):
            await store.jobs.create(large, FREE)
        assert await store.jobs.get(row.id, "a") == row
        await asyncio.to_thread(filler.unlink)
        await store.jobs.move(row.id, "start", 2.0)
        assert (await store.jobs.get(row.id, "a")).state == "running"


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 65536)
        except OSError:
            return
