"""A transaction is one function in one thread: it happens as a whole or not at all, whatever becomes of its caller."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest
from sqlalchemy import Connection, create_engine, func, insert, select

from gen_service.errors import Unavailable
from gen_service.store.database import open_store
from gen_service.store.rows import TenantRow
from gen_service.store.tables import TENANTS, values
from gen_service.store.transactions import CONNECTIONS, Transactions
from gen_service.store.urls import driver_url


@pytest.fixture
async def transactions(database_url: str) -> AsyncIterator[Transactions]:
    async with open_store(database_url) as store:
        yield store.tenants._transactions


class Held:
    """A function that writes a tenant and then waits until it may end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.began, self.may_end = threading.Event(), threading.Event()

    def __call__(self, connection: Connection) -> str:
        put(self.name)(connection)
        self.began.set()
        assert self.may_end.wait(60)
        return self.name


def put(name: str) -> Callable[[Connection], None]:
    return lambda connection: connection.execute(insert(TENANTS), values(TenantRow(name, 1.0, {}))).close()


def names(connection: Connection) -> list[str]:
    return list(connection.execute(select(TENANTS.c.name).order_by(TENANTS.c.name)).scalars())


async def began(held: Held) -> None:
    assert await asyncio.to_thread(held.began.wait, 60)


async def cancelled(task: asyncio.Task[str]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_no_function_runs_on_the_loops_thread(transactions: Transactions) -> None:
    idents = [await run(lambda _: threading.get_ident()) for run in (transactions.read, transactions.write)]
    assert threading.get_ident() not in idents


async def test_nobody_sees_what_is_not_committed(transactions: Transactions) -> None:
    held = Held("a")
    writing = asyncio.create_task(transactions.write(held))
    await began(held)
    assert await transactions.read(names) == []
    held.may_end.set()
    assert await writing == "a"
    assert await transactions.read(names) == ["a"]


async def test_what_raises_is_undone_and_the_next_can_write(transactions: Transactions) -> None:
    def failing(connection: Connection) -> None:
        put("a")(connection)
        raise RuntimeError("no further")

    for _ in range(2 * CONNECTIONS):
        with pytest.raises(RuntimeError, match="no further"):
            await transactions.write(failing)
    await transactions.write(put("b"))
    assert await transactions.read(names) == ["b"]


async def test_what_runs_is_committed_though_its_caller_was_cancelled(database_url: str) -> None:
    held = Held("a")
    async with open_store(database_url) as store:
        writing = asyncio.create_task(store.tenants._transactions.write(held))
        await began(held)
        await cancelled(writing)
        # Closing waits for it: it is not torn in two.
        asyncio.get_running_loop().call_soon(held.may_end.set)
    async with open_store(database_url) as store:
        assert [row.name for row in await store.tenants.all()] == ["a"]


async def test_what_runs_and_fails_is_undone_though_its_caller_was_cancelled(transactions: Transactions) -> None:
    held = Held("a")

    def failing(connection: Connection) -> str:
        held(connection)
        raise RuntimeError("nobody hears it")

    writing = asyncio.create_task(transactions.write(failing, "a"))
    await began(held)
    await cancelled(writing)
    held.may_end.set()
    # The same tenant: after the other.
    await transactions.write(put("b"), "a")
    assert await transactions.read(names) == ["b"]


async def test_what_still_waits_for_a_thread_is_taken_back_with_its_caller(transactions: Transactions) -> None:
    running = [Held(f"a{number}") for number in range(CONNECTIONS)]
    tasks = [asyncio.create_task(transactions.write(held)) for held in running]
    await began(running[0])
    waiting = Held("b")
    late = asyncio.create_task(transactions.write(waiting))
    await asyncio.sleep(0)
    await cancelled(late)
    for held in running:
        held.may_end.set()
    await asyncio.gather(*tasks)
    await transactions.write(put("c"))
    assert not waiting.began.is_set()
    assert await transactions.read(names) == [*(held.name for held in running), "c"]


async def test_the_writes_of_one_tenant_go_one_after_the_other(transactions: Transactions) -> None:
    def count_and_add(connection: Connection) -> None:
        number = connection.execute(select(func.count()).select_from(TENANTS)).scalar_one()
        put(f"t{number:02}")(connection)

    await asyncio.gather(*(transactions.write(count_and_add, "a") for _ in range(30)))
    assert await transactions.read(names) == [f"t{number:02}" for number in range(30)]


async def test_who_waits_too_long_for_a_connection_is_told_and_nothing_happened(
    postgresql_url: Callable[[], str],
) -> None:
    url = postgresql_url()
    async with open_store(url):
        pass
    engine = create_engine(driver_url(url), pool_size=CONNECTIONS, max_overflow=0)
    transactions = Transactions(engine, patience_s=0.01)
    running = [Held(f"a{number}") for number in range(CONNECTIONS)]
    try:
        tasks = [asyncio.create_task(transactions.write(held)) for held in running]
        for held in running:
            await began(held)
        with pytest.raises(Unavailable, match="the database answers too slowly: come again") as refusal:
            await transactions.write(put("b"))
        assert refusal.value.retry_after_s
        for held in running:
            held.may_end.set()
        # Those that had a connection are not given up, however long they take.
        assert await asyncio.gather(*tasks) == [held.name for held in running]
        assert await transactions.read(names) == [held.name for held in running]
    finally:
        await asyncio.to_thread(transactions.close)
