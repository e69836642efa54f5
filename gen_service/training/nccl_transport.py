"""New weights by NCCL, through vLLM 0.32's weight transfer, for servers that see no common folder.

Not run by anybody yet: it is written against the protocol of the installed vLLM (`vllm.distributed.weight_transfer`,
`entrypoints/rl/online/api_router.py`), and where it was written there was no GPU. What is tested is what happens
without one, and what a checkpoint is read as. Each server needs `--weight-transfer-config` with backend nccl besides
VLLM_SERVER_DEV_MODE=1, and a network that NCCL can use between the trainer's device and its own.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import torch
from safetensors import safe_open

from gen_service.endpoints.weight_control import LOAD_S
from gen_service.errors import ServerFailed, SpecError
from gen_service.settings import EndpointSettings

_NEEDS: Final = "filesystem: nccl needs CUDA on the trainer and the servers"
_WORLD_SIZE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class TensorMeta:
    """Name, type and shape of one weight, as vLLM's ParamMeta has them."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class CheckpointSource:
    """The weights of a saved checkpoint, one tensor at a time, as vLLM's WeightSource has them.

    The checkpoint, not the model that is trained: a server that comes back in the middle of a step gets the version
    that the others have.

    Args:
        folder: with *.safetensors.
        device: where each tensor is put before it is sent.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self._files = sorted(folder.glob("*.safetensors"))
        self._device = device

    def metadata(self) -> list[TensorMeta]:
        """What iteration yields, in its order."""
        return [TensorMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self._tensors("cpu")]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return self._tensors(self._device)

    def _tensors(self, device: str) -> Iterator[tuple[str, torch.Tensor]]:
        for path in self._files:
            with safe_open(path, framework="pt", device=device) as file:
                for name in file.keys():  # noqa: SIM118
                    yield name, file.get_tensor(name)


class NcclTransport:
    """A WeightTransport that broadcasts a checkpoint from the trainer's device to one server after another.

    One group of the trainer and one server's workers each, so that a server that dies takes no other's group with it;
    it gets a new one when it is back. Groups of several servers would send once for all of them, and would all have to
    be made anew for each death. A server that hangs in the middle holds up those that come after it until vLLM's own
    time limits end.

    Args:
        endpoints: for the time limits of connections.
        device: number of the trainer's CUDA device.

    Raises:
        SpecError: there is no CUDA, or no vLLM whose protocol could be spoken.
    """

    def __init__(self, endpoints: EndpointSettings, device: int = 0) -> None:
        if not torch.cuda.is_available():
            raise SpecError("rollouts.weights", "nccl", _NEEDS)
        try:
            self._nccl: Any = import_module("vllm.distributed.weight_transfer.nccl_engine")
            self._clients: Any = import_module("vllm.distributed.weight_transfer.clients")
        except ImportError as error:
            expected = f"filesystem, or vllm in the trainer's environment: nccl speaks its protocol ({error})"
            raise SpecError("rollouts.weights", "nccl", expected) from error
        self._connect_s = endpoints.connect_s
        self._device = device
        self._engines: dict[str, Any] = {}
        # Two broadcasts of one process at a time can wait for each other.
        self._turn = threading.Lock()

    def place(self, folder: Path, version: int) -> Path:
        """See WeightTransport. The folder is read where it is, and has to stay until two later versions were placed."""
        if not any(folder.glob("*.safetensors")):
            raise SpecError("weights", str(folder), "a folder with *.safetensors")
        return folder

    async def bring(self, url: str, folder: Path) -> None:
        """See WeightTransport."""
        workers = await self._world_size(url)
        await asyncio.to_thread(self._send, url, folder, workers)

    async def _world_size(self, url: str) -> int:
        timeout = aiohttp.ClientTimeout(total=_WORLD_SIZE_S, sock_connect=self._connect_s)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"{url}/get_world_size") as answer,
            ):
                return int((await answer.json())["world_size"])
        except (aiohttp.ClientError, TimeoutError, OSError, KeyError, ValueError) as error:
            raise ServerFailed(url, f"does not say how many workers it has: {error}") from error

    def _send(self, url: str, folder: Path, workers: int) -> None:
        source = CheckpointSource(folder, f"cuda:{self._device}")
        with self._turn:
            torch.cuda.set_device(self._device)
            try:
                engine = self._engines.get(url) or self._connected(url, source, workers)
                engine.source = source
                engine.send_weights()
            except Exception as error:
                # Whatever it was, the group is of no use any more; the next attempt makes another.
                broken = self._engines.pop(url, None)
                with suppress(Exception):
                    if broken is not None:
                        broken.shutdown()
                raise ServerFailed(url, f"weights by nccl: {type(error).__name__}: {error}") from error

    def _connected(self, url: str, source: CheckpointSource, workers: int) -> Any:
        client = self._clients.HTTPVLLMWeightSyncClient(url, timeout=LOAD_S)
        with suppress(Exception):
            # A group that an earlier trainer left.
            client.shutdown_weight_transfer_engine()
        address, port = rendezvous(url)
        asked = self._nccl.NCCLTrainerInitInfo(master_address=address, master_port=port, world_size=1 + workers, rank=0)
        engine = self._nccl.NCCLTrainerWeightTransferEngine.trainer_init(asked, client=client, source=source)
        self._engines[url] = engine
        return engine


def rendezvous(url: str) -> tuple[str, int]:
    """An address of this machine that a server's machine reaches it by, and a port that is free there."""
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as towards:
        # Nothing is sent: this only asks which of our addresses the way there begins at.
        towards.connect((parts.hostname, parts.port or 80))
        address = str(towards.getsockname()[0])
    with socket.socket() as probe:
        probe.bind((address, 0))
        return address, int(probe.getsockname()[1])
