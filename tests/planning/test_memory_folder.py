"""A folder in memory knows what has a row, what was right and what was skipped, and keeps nothing else."""

from __future__ import annotations

import asyncio

import pytest

from gen_service.errors import BadPromptRow
from gen_service.planning.memory_folder import MemoryFolder
from gen_service.records import Message, Outcome, Prompt, Sample, Skipped, Trace, Verdict


@pytest.mark.parametrize("outcome", ["correct", "incorrect", "error"])
def test_what_becomes_of_a_sample_is_known(outcome: Outcome) -> None:
    folder = MemoryFolder()
    asked = Prompt("p", (Message(role="user", content="?"),), None, "sums", 1)
    trace = Trace(Sample("s", "job", asked, 0), None, Verdict(outcome, "by test"))

    async def keep() -> None:
        await folder.publish(await folder.record(trace), trace)
        await folder.keep_up()

    assert not folder.is_done("s")
    asyncio.run(keep())
    assert (folder.is_done("s"), folder.is_correct("s"), folder.is_skipped("s")) == (True, outcome == "correct", False)
    folder.skip(Skipped("t", "p", 1, "solved"))
    assert (folder.is_done("t"), folder.is_correct("t"), folder.is_skipped("t")) == (True, False, True)
    assert folder.reject(BadPromptRow(1, "no prompt"))
    assert list(folder.recovered()) == []
    assert (folder.partial_of("s"), folder.is_ungradable("s")) == (None, False)
