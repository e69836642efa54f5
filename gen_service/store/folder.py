"""Which data folder a database belongs to: jobs' rows without their files could only fail."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select

from gen_service.errors import StorageError
from gen_service.store.tables import FOLDER
from gen_service.store.transactions import Transactions


class Folder:
    """Binds the database to one data folder."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def bind(self, folder_id: str) -> None:
        """Belong to the folder of that id from now on.

        Raises:
            StorageError: the database belongs to another one.
        """

        def bind(connection: Connection) -> str:
            known = connection.execute(select(FOLDER.c.id)).scalar()
            if known is None:
                connection.execute(insert(FOLDER).values(id=folder_id))
            return str(known or folder_id)

        known = await self._transactions.write(bind, tenant="folder")
        if known != folder_id:
            raise StorageError(
                f"data.database: it belongs to the data folder {known}, not to this one, {folder_id} (the file "
                "folder.id in each): the files of its jobs lie there; give each service a database of its own"
            )
