"""Whether the service lives, and whether it takes jobs. For probes: no key is needed and nothing is told."""

from __future__ import annotations

import asyncio

import structlog
from fastapi import APIRouter, Response
from pydantic import BaseModel

from gen_service.web.state import ControllerDep

# Probes of Kubernetes give up after one second by default.
STORE_S = 0.8
_log = structlog.get_logger(__name__)

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """`reasons` says why not, where `ready` is false."""

    ready: bool
    reasons: list[str]


@router.get("/healthz")
async def healthz() -> Health:
    """200 while the event loop answers."""
    return Health(ready=True, reasons=[])


@router.get("/readyz", responses={503: {"model": Health, "description": "Not now."}})
async def readyz(controller: ControllerDep, response: Response) -> Health:
    """200 when jobs are taken, 503 while the service drains or its store does not answer."""
    reasons = []
    if controller.draining:
        reasons.append("draining: running jobs are being stopped, to go on at the next start")
    try:
        async with asyncio.timeout(STORE_S):
            await controller.store.keys.any()
    except Exception as error:
        _log.warning("the store does not answer", exc_info=error)
        reasons.append("the store does not answer")
    response.status_code = 503 if reasons else 200
    return Health(ready=not reasons, reasons=reasons)
