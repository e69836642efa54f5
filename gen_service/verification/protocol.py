"""What a worker is asked and what it says. Frames both ways are a 4-byte big-endian length and a body.

Requests are marshalled tuples of texts: the controller's own data, so that long texts cost a copy. Replies are JSON, so
nothing a worker sends can be more than text; `messages` trusts nothing in them.
"""

from __future__ import annotations

import json
import marshal
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

from gen_service.records import How, Outcome, Path, Verdict
from gen_service.settings import VerificationSettings

HEADER = struct.Struct("!I")
LONGEST_REPLY = 16 * 2**20
Phase = Literal["gold", "answer"]
# ("gold", gold) whether it can be graded against; ("check", gold, answer); ("read", reasoning, content, finish reason)
# which answer is there; ("judge", gold, what is known of it, reasoning, content, finish reason) all of it.
Request: TypeAlias = (
    tuple[Literal["gold"], str]
    | tuple[Literal["check"], str, str]
    | tuple[Literal["read"], str | None, str, str]
    | tuple[Literal["judge"], str, str | None, str | None, str, str]
)


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a worker is told when it starts.

    Attributes:
        target: `module:attribute` of a plug-in, None for a built-in kind.
    """

    settings: VerificationSettings
    target: str | None

    def dumped(self) -> str:
        """As JSON."""
        return json.dumps({"settings": self.settings.model_dump(mode="json"), "target": self.target})

    @classmethod
    def read(cls, text: str) -> Configuration:
        """What `dumped` gave."""
        tree = json.loads(text)
        return cls(VerificationSettings.model_validate(tree["settings"]), tree["target"])


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one request.

    Attributes:
        verdict: without the verifier's identity. Of `gold`, outcome `correct` says that nothing is wrong with it; of
            `read`, `unverified` says that there is an answer to grade.
        gold_alone: the gold by itself led to it, so it holds for every answer.
    """

    verdict: Verdict
    gold_alone: bool = False


@dataclass(frozen=True, slots=True)
class Begun:
    """A step of a `judge` begins that may take long; `verdict` holds what is known by then."""

    phase: Phase
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker has its kind. Attributes as of `Kind`; `checks_gold` when it has a `gold_problem`."""

    version: int
    choices: bool
    wants: Literal["answer", "text"]
    checks_gold: bool


@dataclass(frozen=True, slots=True)
class Unusable:
    """A worker could not load its kind, and ends."""

    reason: str


@dataclass(frozen=True, slots=True)
class Leaving:
    """A worker answers nothing more: it ran out of memory."""


Message: TypeAlias = Reply | Begun | Ready | Unusable | Leaving


def asked(requests: Sequence[Request]) -> bytes:
    """The frame that asks these."""
    body = marshal.dumps(list(requests))
    return HEADER.pack(len(body)) + body


def requests(body: bytes) -> list[Request]:
    """What a frame asks; for a worker only, which trusts the controller."""
    return cast("list[Request]", marshal.loads(body))


def said(messages: Sequence[Message]) -> bytes:
    """The frame that says these."""
    body = json.dumps([_tree(message) for message in messages], separators=(",", ":")).encode()
    return HEADER.pack(len(body)) + body


def messages(body: bytes) -> list[Message]:
    """What a frame says.

    Raises:
        ValueError: it is not what a worker says.
    """
    trees = json.loads(body)
    if not isinstance(trees, list):
        raise ValueError("not a list")
    try:
        return [_message(*tree) for tree in trees]
    except TypeError as problem:
        raise ValueError("not a message") from problem


def _tree(message: Message) -> list[object]:
    match message:
        case Reply(verdict, gold_alone):
            return ["reply", gold_alone, *_fields(verdict)]
        case Begun(phase, verdict):
            return ["begun", phase, *_fields(verdict)]
        case Ready(version, choices, wants, checks_gold):
            return ["ready", version, choices, wants, checks_gold]
        case Unusable(reason):
            return ["unusable", reason]
        case Leaving():
            return ["leaving"]


def _fields(verdict: Verdict) -> tuple[object, ...]:
    return (
        verdict.outcome, verdict.reason, verdict.extracted, verdict.normalised, verdict.how, verdict.path, verdict.cpu_s
    )  # fmt: skip


def _message(name: object, *fields: object) -> Message:
    match name, fields:
        case "reply", (bool(gold_alone), *rest):
            return Reply(_verdict(*rest), gold_alone)
        case "begun", ("gold" | "answer" as phase, *rest):
            return Begun(phase, _verdict(*rest))
        case "ready", (int(version), bool(choices), "answer" | "text" as wants, bool(checks_gold)):
            return Ready(version, choices, wants, checks_gold)
        case "unusable", (str(reason),):
            return Unusable(reason)
        case "leaving", ():
            return Leaving()
    raise ValueError(f"not a message: {name!r:.40}")


_OUTCOMES, _HOWS, _PATHS = frozenset(get_args(Outcome)), frozenset(get_args(How)), frozenset(get_args(Path))


def _verdict(
    outcome: object, reason: object, extracted: object, normalised: object, how: object, path: object, cpu_s: object
) -> Verdict:
    if outcome not in _OUTCOMES or how not in _HOWS or path not in _PATHS:
        raise ValueError("an unknown outcome, rule or path")
    if not (isinstance(reason, str) and isinstance(cpu_s, float)):
        raise ValueError("not a verdict")
    if not (isinstance(extracted, str | None) and isinstance(normalised, str | None)):
        raise ValueError("not a verdict")
    return Verdict(
        cast("Outcome", outcome), reason, extracted, normalised, cast("How", how), cast("Path", path), cpu_s=cpu_s
    )
