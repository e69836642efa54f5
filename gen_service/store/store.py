"""What the service remembers, in one value."""

from __future__ import annotations

from gen_service.store.events import Events
from gen_service.store.files import Files
from gen_service.store.jobs import Jobs
from gen_service.store.keys import Keys
from gen_service.store.outbox import Outbox
from gen_service.store.sessions import Sessions
from gen_service.store.tenants import Tenants


class Store:
    """The tables of one open database; see `database.open_store`."""

    def __init__(self, sessions: Sessions) -> None:
        self.jobs = Jobs(sessions)
        self.files = Files(sessions)
        self.keys = Keys(sessions)
        self.tenants = Tenants(sessions)
        self.events = Events(sessions)
        self.outbox = Outbox(sessions)
