"""A parent that is killed while its worker is busy: prints the process ids under it, then waits to die."""

from __future__ import annotations

import asyncio
import sys

import psutil

from gen_service.settings import VerificationSettings
from gen_service.verification.verify import Verifier


async def main() -> None:
    settings = VerificationSettings(workers=1, cpu_s=600, wall_s=600)
    async with Verifier(settings) as verifier:
        assert (await verifier.check("2x", "x+x")).outcome == "correct"
        [worker] = [child for child in psutil.Process().children(recursive=True) if not child.children()]
        idle_s = worker.cpu_times().user
        check = asyncio.create_task(verifier.check("y+3", r"\prod_{k=1}^{19999} (x^2+k)"))
        while worker.cpu_times().user < idle_s + 0.1:  # until it is in the middle of the check
            await asyncio.sleep(0.01)
            assert not check.done(), check
        sys.stdout.write(" ".join(str(child.pid) for child in psutil.Process().children(recursive=True)) + "\n")
        sys.stdout.flush()
        await check


asyncio.run(main())
