"""What the service remembers, in one value."""

from __future__ import annotations

from gen_service.store.events import Events
from gen_service.store.files import Files
from gen_service.store.folder import Folder
from gen_service.store.jobs import Jobs
from gen_service.store.keys import Keys
from gen_service.store.outbox import Outbox
from gen_service.store.tenants import Tenants
from gen_service.store.transactions import Transactions


class Store:
    """The tables of one open database; see `database.open_store`."""

    def __init__(self, transactions: Transactions) -> None:
        self.jobs = Jobs(transactions)
        self.files = Files(transactions)
        self.keys = Keys(transactions)
        self.tenants = Tenants(transactions)
        self.events = Events(transactions)
        self.outbox = Outbox(transactions)
        self.folder = Folder(transactions)
