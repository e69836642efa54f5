"""How new weights reach a server: through a folder that both see, or by NCCL (`nccl_transport`)."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Final, Protocol

from gen_service.endpoints.weight_control import WeightControl
from gen_service.errors import SpecError

# What a server reads of a checkpoint, or may want to; optimiser states stay behind.
_WANTED: Final = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
_VERSION: Final = re.compile(r"version-(\d+)")


class WeightTransport(Protocol):
    """Brings a checkpoint to single servers, any of them at any time: one may come back while others compute."""

    def place(self, folder: Path, version: int) -> Path:
        """Make a checkpoint ready to be brought; blocks.

        Returns:
            where it is found until two later ones were placed.

        Raises:
            SpecError: it is no checkpoint.
        """
        ...

    async def bring(self, url: str, folder: Path) -> None:
        """Have a server load what was placed. Nothing may be in flight there.

        Raises:
            EndpointError: it did not; it may have any weights now, or parts of two.
        """
        ...


class SharedFolder:
    """Weights through a folder that the trainer and every server see under the same path.

    Each checkpoint becomes `<folder>/version-<n>/`, under another name until it is whole; the newest two stay. One
    that lies in the folder already is used where it is, and left there.

    Args:
        folder: made where it is not there.
    """

    def __init__(self, folder: Path, control: WeightControl) -> None:
        self._folder = folder.absolute()
        self._control = control
        self._folder.mkdir(parents=True, exist_ok=True)

    def place(self, folder: Path, version: int) -> Path:
        """See WeightTransport."""
        files = sorted({file for pattern in _WANTED for file in folder.glob(pattern)})
        if not any(file.suffix == ".safetensors" for file in files):
            raise SpecError("weights", str(folder), "a folder with *.safetensors")
        if folder.absolute().is_relative_to(self._folder):
            return folder.absolute()
        whole, half = self._folder / f"version-{version}", self._folder / f".version-{version}-{os.getpid()}"
        for old in (half, whole):
            shutil.rmtree(old, ignore_errors=True)
        half.mkdir()
        for file in files:
            shutil.copyfile(file, half / file.name)
        half.rename(whole)
        self._remove_but(version)
        return whole

    async def bring(self, url: str, folder: Path) -> None:
        """See WeightTransport."""
        await self._control.reload(url, str(folder))

    def _remove_but(self, newest: int) -> None:
        """Remove all but the newest two: a server that comes back gets the newest, and one may just read the other."""
        found = {int(match[1]): one for one in self._folder.iterdir() if (match := _VERSION.fullmatch(one.name))}
        for version in sorted(found.keys() - {newest})[:-1]:
            shutil.rmtree(found[version], ignore_errors=True)
