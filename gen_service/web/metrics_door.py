"""The numbers of the service for Prometheus.

No key is needed, as for the health routes: scrapers rarely have one. So no tenant, prompt, path or key is among the
labels: servers, states, causes, templates of routes, and the ids of the jobs that run.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from gen_service.web.state import MeasurementsDep

router = APIRouter(tags=["health"])

_TEXT = {"schema": {"type": "string"}}


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": _TEXT, "application/openmetrics-text": _TEXT}}},
)
async def metrics(request: Request, measurements: MeasurementsDep) -> Response:
    """All numbers as of now: OpenMetrics for those who accept it, else Prometheus's text format."""
    text, content_type = await measurements.page(request.headers.get("Accept", ""))
    return Response(text, headers={"Content-Type": content_type})
