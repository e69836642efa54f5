"""Where each file of a job lies."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from gen_service.errors import SpecError
from gen_service.settings import OutputSettings
from gen_service.storage.destination import is_url, local_path

_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class JobPlaces:
    """The places of one job.

    Attributes:
        published: path or URL of the job folder: data, manifests, card, job.json.
        journal: local folder of the journal, the lock and other files that only the writer needs.
        dead_letter: local path.
        dead_letter_is_copied: whether the dead letter is copied to `published` at close, because that is a URL.
    """

    published: str
    journal: Path
    dead_letter: Path
    dead_letter_is_copied: bool

    @property
    def lock(self) -> Path:
        """The lock file."""
        return self.journal / "lock"

    @property
    def staging(self) -> Path:
        """Where files wait for their upload."""
        return self.journal / "staging"

    @property
    def partials(self) -> Path:
        """The folder of what has come of unfinished completions."""
        return self.journal / "partials"

    def seen(self, name: str) -> Path:
        """The file of one on-disk set of keys."""
        return self.journal / f"seen-{name}.sqlite"


def places(output: OutputSettings, job_id: str) -> JobPlaces:
    """The places of a job.

    Raises:
        SpecError: the job id is no file name, or the journal would lie behind a URL.
    """
    if not _JOB_ID.fullmatch(job_id):
        raise SpecError(
            "job_id", job_id, "up to 128 letters, digits, dots, dashes and underscores, no dot or dash first"
        )
    remote = is_url(output.path)
    if output.journal is not None and is_url(output.journal):
        raise SpecError("output.journal", output.journal, "a local folder: the journal cannot lie behind a URL")
    if remote and output.journal is None:
        raise SpecError("output.journal", None, f"a local folder for the journal, because {output.path} is a URL")
    root = local_path(output.journal if output.journal is not None else output.path) / job_id
    published = f"{output.path.rstrip('/')}/{job_id}" if remote else str(local_path(output.path) / job_id)
    return JobPlaces(
        published=published,
        journal=root / "journal",
        dead_letter=(root if remote else Path(published)) / "dead_letter.jsonl",
        dead_letter_is_copied=remote,
    )
