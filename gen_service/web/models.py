"""The models of the fleet, as OpenAI lists them."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Path

from gen_service.errors import NotFound
from gen_service.web.auth import Reader
from gen_service.web.problems import documented
from gen_service.web.route import ServiceRoute
from gen_service.web.state import ControllerDep
from gen_service.wire.openai import Model, ModelList

router = APIRouter(prefix="/v1/models", route_class=ServiceRoute, tags=["models"])


@router.get("", responses=documented(401, 403, 429, openai=True))
async def list_models(caller: Reader, controller: ControllerDep) -> ModelList:
    """What the servers that were heard offer, all together."""
    return ModelList(data=[_model(name, longest) for name, longest in sorted(controller.fleet.models().items())])


@router.get("/{model_id:path}", responses=documented(400, 401, 403, 404, 429, openai=True))
async def show_model(
    model_id: Annotated[str, Path(max_length=512)], caller: Reader, controller: ControllerDep
) -> Model:
    """One model. Its name may have slashes."""
    models = controller.fleet.models()
    if model_id not in models:
        raise NotFound(f"no server offers a model {model_id!r}", field="model", code="model_not_found")
    return _model(model_id, models[model_id])


def _model(name: str, max_model_len: int | None) -> Model:
    """As vLLM has it: a model's own time of making is not known, so `created` is now."""
    return Model(id=name, created=int(time.time()), max_model_len=max_model_len)
