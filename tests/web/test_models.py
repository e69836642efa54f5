"""The models of the fleet under /v1."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from gen_service.endpoints.simulated import SimulationSettings


async def test_models_are_listed_and_shown_by_name_even_with_a_slash(serving: Any) -> None:
    async with serving(SimulationSettings(model="lab/tiny-7b", max_model_len=4096)) as service:
        service.client.headers.update(await service.key("lab", "read"))
        client = openai.AsyncOpenAI(
            base_url=f"{service.client.base_url}/v1",
            api_key=service.client.headers["Authorization"].removeprefix("Bearer "),
            http_client=service.client,
        )
        (model,) = [model async for model in client.models.list()]
        assert (model.id, model.object, model.owned_by) == ("lab/tiny-7b", "model", "gen-service")
        assert model.created > 1_700_000_000
        assert model.model_extra == {"max_model_len": 4096}
        assert (await client.models.retrieve("lab/tiny-7b")).id == "lab/tiny-7b"
        for path in ("lab/tiny-7b", "lab%2Ftiny-7b"):
            assert (await service.client.get(f"/v1/models/{path}")).json()["id"] == "lab/tiny-7b"
        with pytest.raises(openai.NotFoundError, match="no server offers a model 'gpt-4'") as caught:
            await client.models.retrieve("gpt-4")
        assert caught.value.code == "model_not_found"
        assert (await service.client.get("/v1/models", headers={"Authorization": "Bearer x"})).status_code == 401
