"""Prompts in, verified and durable reasoning traces out.

The public API; each name is imported when it is first used, so that importing the package is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gen_service.errors import GenServiceError as GenServiceError
    from gen_service.errors import RequestError as RequestError
    from gen_service.errors import SpecError as SpecError
    from gen_service.generation.pool import Stop as Stop
    from gen_service.jobs.job import JobSpec as JobSpec
    from gen_service.jobs.job import load_spec as load_spec
    from gen_service.jobs.job import make_spec as make_spec
    from gen_service.jobs.reverify import reverify as reverify
    from gen_service.jobs.runner import JobReport as JobReport
    from gen_service.jobs.runner import generate as generate
    from gen_service.jobs.summary import Summary as Summary
    from gen_service.jobs.summary import summarize as summarize
    from gen_service.remote.client import ServiceClient as ServiceClient
    from gen_service.settings import VerificationSettings as VerificationSettings
    from gen_service.storage.answered_files import open_source as open_source
    from gen_service.storage.traces import part_files as part_files
    from gen_service.storage.traces import read_traces as read_traces
    from gen_service.verification.rewards import reward as reward
    from gen_service.verification.verify import Answered as Answered
    from gen_service.verification.verify import Verifier as Verifier
    from gen_service.wire.jobs import JobRequest as JobRequest
    from gen_service.wire.jobs import JobView as JobView

__version__ = "0.1.0"

_HOMES = {
    "Answered": "gen_service.verification.verify",
    "GenServiceError": "gen_service.errors",
    "JobReport": "gen_service.jobs.runner",
    "JobRequest": "gen_service.wire.jobs",
    "JobSpec": "gen_service.jobs.job",
    "JobView": "gen_service.wire.jobs",
    "RequestError": "gen_service.errors",
    "ServiceClient": "gen_service.remote.client",
    "SpecError": "gen_service.errors",
    "Stop": "gen_service.generation.pool",
    "Summary": "gen_service.jobs.summary",
    "VerificationSettings": "gen_service.settings",
    "Verifier": "gen_service.verification.verify",
    "generate": "gen_service.jobs.runner",
    "load_spec": "gen_service.jobs.job",
    "make_spec": "gen_service.jobs.job",
    "open_source": "gen_service.storage.answered_files",
    "part_files": "gen_service.storage.traces",
    "read_traces": "gen_service.storage.traces",
    "reverify": "gen_service.jobs.reverify",
    "reward": "gen_service.verification.rewards",
    "summarize": "gen_service.jobs.summary",
}

__all__ = [
    "Answered",
    "GenServiceError",
    "JobReport",
    "JobRequest",
    "JobSpec",
    "JobView",
    "RequestError",
    "ServiceClient",
    "SpecError",
    "Stop",
    "Summary",
    "VerificationSettings",
    "Verifier",
    "generate",
    "load_spec",
    "make_spec",
    "open_source",
    "part_files",
    "read_traces",
    "reverify",
    "reward",
    "summarize",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
