"""The REST door: routers, errors and checks around one controller."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI

from gen_service.controller.controller import Controller
from gen_service.controller.measurements import Measurements
from gen_service.service_settings import ServiceSettings
from gen_service.web import batches, events, files, health, jobs, metrics_door, models, results, shards
from gen_service.web.door import Door
from gen_service.web.feeds import Feeds
from gen_service.web.limits import RequestLimits
from gen_service.web.problems import install_problems
from gen_service.web.published import PublishedParts
from gen_service.wire.jobs import Problem
from gen_service.wire.openai import OpenAIError

# Of requests with a body of JSON: each takes some milliseconds of the event loop.
WORKED_ON_AT_ONCE = 4
ROUTERS = (
    health.router,
    metrics_door.router,
    jobs.router,
    events.router,
    results.router,
    shards.router,
    files.router,
    batches.router,
    models.router,
)


def create_app(controller: Controller, settings: ServiceSettings) -> FastAPI:
    """The ASGI app of the service. The controller is opened and closed by the caller."""
    # The pages that come with the framework load scripts from elsewhere; /openapi.json is enough for any tool.
    app = _Documented(title="gen-service", version="1", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.controller = controller
    app.state.settings = settings
    app.state.measurements = Measurements(controller)
    app.state.feeds = Feeds(controller)
    app.state.published = PublishedParts()
    app.state.turns = asyncio.Semaphore(WORKED_ON_AT_ONCE)
    app.state.limits = RequestLimits(settings.quotas, controller.store.tenants, settings.http.wrong_keys_per_minute)
    install_problems(app)
    observe = controller.metrics.observe_request
    app.add_middleware(Door, max_body_bytes=settings.http.max_body_bytes, observe=observe)
    for router in ROUTERS:
        app.include_router(router)
    return app


class _Documented(FastAPI):
    """With the schemas of our errors, which the routes name by reference because of their media types, in place of
    the framework's own, which are never sent."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            schemas = document["components"]["schemas"]
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            for model in (Problem, OpenAIError):
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas |= {**schema.pop("$defs", {}), model.__name__: schema}
            for operation in (one for path in document["paths"].values() for one in path.values()):
                if operation["responses"].get("422", {}).get("description") == "Validation Error":
                    del operation["responses"]["422"]
        return super().openapi()
