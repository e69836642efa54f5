"""What all parts of the controller share, built once by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gen_service.controller.moves import Moves
from gen_service.controller.notices import Notices
from gen_service.controller.tracing import Tracing
from gen_service.controller.verifiers import Verifiers
from gen_service.controller.watch import Changes
from gen_service.endpoints.fleet import Fleet
from gen_service.metrics import Metrics
from gen_service.service_settings import ServiceSettings
from gen_service.store.store import Store


@dataclass(frozen=True, slots=True)
class Shared:
    """The settings, what jobs run on, and where is told what becomes of them.

    Attributes:
        now: seconds since the epoch.
    """

    settings: ServiceSettings
    store: Store
    fleet: Fleet
    verifiers: Verifiers
    changes: Changes
    notices: Notices
    moves: Moves
    metrics: Metrics
    tracing: Tracing
    now: Callable[[], float]
