"""What a trainer asks of a vLLM server besides completions: other weights, and which it has.

These are vLLM 0.32's development routes, there where it was started with VLLM_SERVER_DEV_MODE=1. Whoever reaches them
can do with the server as they like: their ports belong in a private network.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import orjson

from gen_service.endpoints.client import FOREIGN
from gen_service.endpoints.replies import raise_for_status, translated
from gen_service.endpoints.vllm_worker import EXTENSION
from gen_service.errors import EndpointError, MalformedAnswer, ServerFailed, Stalled
from gen_service.settings import EndpointSettings

# A question that needs no computing.
ASK_S: Final = 10.0
# The description of a server's surroundings is collected once, by other programs.
DESCRIBE_S: Final = 60.0
# Reading a model of some hundred billion parameters from a network's disk takes minutes.
LOAD_S: Final = 900.0
# How a server has to be started to be brought weights; on a CPU with more.
DEV_MODE: Final = "VLLM_SERVER_DEV_MODE=1, and is a vLLM of 0.32 or later"
ON_A_CPU: Final = f"--worker-extension-cls {EXTENSION}, as it computes on a CPU"
# The name of weights that are on their way.
LOADING: Final = "loading"
# A prefix cache is not reset while a request holds blocks, and one whose client has left holds them for a moment.
RESETS: Final = 100
RESET_AGAIN_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class ServerDescription:
    """How a server was started; None where it does not say.

    Attributes:
        logprobs_mode: which log-probabilities it answers with.
        worker: what computes in it, `vllm.v1.worker.cpu_worker.CPUWorker` on a CPU.
        extension: what that was extended by.
    """

    logprobs_mode: str | None
    worker: str | None
    extension: str | None

    @property
    def keeps_old_weights(self) -> bool:
        """Whether it would compute with some of its old weights after it loaded new ones; see `vllm_worker`."""
        return "cpu_worker" in (self.worker or "") and self.extension != EXTENSION


class WeightControl:
    """Tells servers to change their weights. Use as an async context manager: it owns a connection pool.

    Every method raises EndpointError where the server does not do what it was asked.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._described: dict[str, ServerDescription] = {}

    async def __aenter__(self) -> WeightControl:
        key = self._settings.api_key
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_s),
            headers={"Authorization": f"Bearer {key.get_secret_value()}"} if key else None,
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def tag(self, url: str) -> str:
        """The name that its weights were last given; `default` after each start."""
        answer = await self._ask(url, "GET", "/weight_info")
        return str(answer.get("weight_version"))

    async def set_tag(self, url: str, tag: str) -> None:
        """Name its weights."""
        await self._ask(url, "POST", "/update_weight_version", {"new_version": tag})

    async def bring(self, url: str, folder: str, tag: str) -> None:
        """Have the server read weights from a folder that it sees, and name them. Nothing may be in flight there."""
        await self.set_tag(url, LOADING)
        await self.reload(url, folder)
        await self.reset_prefix_cache(url)
        await self.set_tag(url, tag)

    async def reload(self, url: str, folder: str, timeout_s: float = LOAD_S) -> None:
        """Have the server read weights from a folder that it sees."""
        asked = {"method": "reload_weights", "kwargs": {"weights_path": folder}}
        await self._ask(url, "POST", "/collective_rpc", asked, timeout_s)
        if (await self.describe(url)).extension == EXTENSION:
            await self._ask(url, "POST", "/collective_rpc", {"method": "pack_weights_again"}, timeout_s)

    async def reset_prefix_cache(self, url: str) -> None:
        """Forget what the old weights computed. Nothing may be in flight there."""
        for _ in range(RESETS):
            answer = await self._ask(url, "POST", "/reset_prefix_cache")
            # vLLM before 0.32 says nothing.
            if answer.get("success", True):
                return
            await asyncio.sleep(RESET_AGAIN_S)
        raise ServerFailed(url, "its prefix cache is in use and cannot be reset")

    async def describe(self, url: str) -> ServerDescription:
        """How it was started. Asked once of each server: it collects much else for the answer, which takes seconds."""
        if url not in self._described:
            answer = await self._ask(url, "GET", "/server_info?config_format=json", timeout_s=DESCRIBE_S)
            self._described[url] = ServerDescription(
                logprobs_mode=_text(answer, "model_config", "logprobs_mode"),
                worker=_text(answer, "parallel_config", "worker_cls"),
                extension=_text(answer, "parallel_config", "worker_extension_cls"),
            )
        return self._described[url]

    async def _ask(
        self, url: str, method: str, path: str, document: object = None, timeout_s: float = ASK_S
    ) -> dict[str, Any]:
        """The JSON object that it answers; empty where it answers nothing."""
        assert self._session is not None, "use `async with WeightControl(...)`"
        body = None if document is None else orjson.dumps(document)
        headers = {"Content-Type": "application/json"}
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.request(method, url + path, data=body, headers=headers) as response,
            ):
                await raise_for_status(url, response)
                answer = orjson.loads(await response.read() or b"{}")
        except TimeoutError as error:
            if isinstance(error, aiohttp.ConnectionTimeoutError):
                raise translated(url, error) from error
            raise Stalled(url, f"no answer to {path} within {timeout_s:g} s") from error
        except EndpointError:
            raise
        except FOREIGN as error:
            raise translated(url, error) from error
        if not isinstance(answer, dict):
            raise MalformedAnswer(url, f"{path}: {str(answer)[:200]}")
        return answer


def _text(answer: dict[str, Any], section: str, field: str) -> str | None:
    try:
        value = answer["vllm_config"][section][field]
    except (KeyError, TypeError):
        return None
    return value if isinstance(value, str) else None
