"""A database belongs to one data folder."""

from __future__ import annotations

import asyncio

import pytest

from gen_service.errors import StorageError
from gen_service.store.database import open_store


async def test_a_database_keeps_to_the_folder_it_was_first_used_with(database_url: str) -> None:
    async with open_store(database_url) as store:
        await store.folder.bind("first")
        await store.folder.bind("first")
        with pytest.raises(StorageError, match=r"data\.database: it belongs to the data folder first, not to this one"):
            await store.folder.bind("second")
    async with open_store(database_url) as store:
        await store.folder.bind("first")


async def test_of_two_folders_at_once_one_gets_it(database_url: str) -> None:
    async with open_store(database_url) as store:
        ends = await asyncio.gather(*(store.folder.bind(name) for name in "abcdefgh"), return_exceptions=True)
    assert sorted(type(end).__name__ for end in ends) == ["NoneType"] + ["StorageError"] * 7
