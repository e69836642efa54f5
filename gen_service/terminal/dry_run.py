"""Shows what a job would do, without a request."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from rich.console import Console

from gen_service.errors import BadPromptRow, SpecError
from gen_service.jobs.job import JobSpec
from gen_service.storage import prompts as prompt_source
from gen_service.storage.seen import Seen


def print_dry_run(console: Console, spec: JobSpec) -> None:
    """Print the resolved spec as JSON, then the first rendered prompt and its gold answer.

    Raises:
        SpecError: the source holds no usable prompt.
    """
    resolved = {"job_id": spec.job_id, **spec.model_dump(mode="json")}
    console.print_json(json.dumps(resolved))
    with tempfile.TemporaryDirectory(prefix="gen-service-") as folder, Seen(Path(folder) / "prompts") as seen:
        for row in prompt_source.read(spec.prompts, seen):
            if isinstance(row, BadPromptRow):
                console.print(f"set aside: {row}", markup=False, highlight=False)
                continue
            console.print(f"first prompt: {row.prompt_id} (row {row.row}), gold {row.answer!r}", markup=False)
            for message in row.messages:
                console.print(f"[{message['role']}] {message['content']}", markup=False, highlight=False)
            return
    raise SpecError("prompts.path", spec.prompts.path, "a source with at least one usable prompt")
